//! Shows how far a load or a verification is: a bar on a terminal, else a line every few seconds.
//!
//! Deliberately absent: the final report, which goes to stdout.

use crate::screen;
use indicatif::{HumanCount, ProgressBar, ProgressState, ProgressStyle};
use std::time::Duration;
use tokio::time::Instant;

/// How often a line is printed where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(5);

/// A bar over a file's bytes that also counts records.
pub struct Bar {
    bar: ProgressBar,
    on_terminal: bool,
    what: &'static str,
    bytes: u64,
    started: Instant,
    records_before: u64,
    next_line: Instant,
}

impl Bar {
    /// A bar for `bytes` bytes (0: unknown); `records_before` were done by an earlier run.
    #[must_use]
    pub fn new(what: &'static str, bytes: u64, place_byte: u64, records_before: u64) -> Bar {
        let on_terminal = screen::has_bars();
        let bar = ProgressBar::with_draw_target((bytes > 0).then_some(bytes), screen::draw_target());
        let style = ProgressStyle::with_template("{what} {bar:30} {percent:>3}%  {msg}  {left}")
            .unwrap_or_else(|_| ProgressStyle::default_bar())
            .with_key("what", move |_: &ProgressState, out: &mut dyn std::fmt::Write| {
                let _ = out.write_str(what);
            })
            .with_key("left", |state: &ProgressState, out: &mut dyn std::fmt::Write| {
                if state.len().is_some() {
                    let _ = write!(out, "{} s left", state.eta().as_secs());
                }
            });
        bar.set_style(style);
        // A resumed load's speed is that of this run.
        bar.set_position(place_byte);
        bar.reset_eta();
        let started = Instant::now();
        Bar { bar, on_terminal, what, bytes, started, records_before, next_line: started + LINE_EVERY }
    }

    /// Shows a position.
    pub fn show(&mut self, place_byte: u64, records: u64) {
        let rate = rate(records - self.records_before, self.started.elapsed());
        if self.on_terminal {
            self.bar.set_message(format!("{} records, {}/s", HumanCount(records), HumanCount(rate)));
            self.bar.set_position(place_byte);
        } else if Instant::now() >= self.next_line {
            self.next_line = Instant::now() + LINE_EVERY;
            let percent = (place_byte * 100).checked_div(self.bytes).unwrap_or(0);
            let line = format!("{}: {percent}%, {records} records, {rate}/s", self.what);
            duramen_stdio::stderr().push_line(&line);
        }
    }

    /// Takes the bar off the screen.
    pub fn finish(self) -> Duration {
        self.bar.finish_and_clear();
        self.started.elapsed()
    }
}

/// Records a second, rounded.
#[must_use]
pub fn rate(records: u64, elapsed: Duration) -> u64 {
    (records as f64 / elapsed.as_secs_f64().max(0.001)) as u64
}
