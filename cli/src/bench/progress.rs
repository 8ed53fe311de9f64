//! Shows how far a measurement is: a bar on a terminal, else a line every few seconds.

use super::generator::Window;
use crate::screen;
use indicatif::{HumanCount, ProgressBar, ProgressStyle};
use std::time::Duration;
use tokio::time::Instant;

/// How often a line is printed where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(5);

pub(super) struct Bar {
    bar: ProgressBar,
    on_terminal: bool,
    started: Instant,
    begin: Instant,
    last: (Instant, u64),
    next_line: Instant,
}

impl Bar {
    pub(super) fn new(window: Window) -> Bar {
        let on_terminal = screen::has_bars();
        let started = Instant::now();
        let total_ms = window.end.saturating_duration_since(started).as_millis() as u64;
        let bar = ProgressBar::with_draw_target(Some(total_ms), screen::draw_target());
        let style = ProgressStyle::with_template("{prefix:>10} {bar:30} {percent:>3}%  {msg}");
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        let next_line = started + LINE_EVERY;
        Bar { bar, on_terminal, started, begin: window.begin, last: (started, 0), next_line }
    }

    /// Shows where we are; `answered` requests were answered so far.
    pub(super) fn show(&mut self, answered: u64) {
        let now = Instant::now();
        if !self.on_terminal && now < self.next_line {
            return;
        }
        let what = if now < self.begin { "warming up" } else { "measuring" };
        let (then, before) = std::mem::replace(&mut self.last, (now, answered));
        let rate = ((answered - before) as f64 / (now - then).as_secs_f64().max(0.001)) as u64;
        if self.on_terminal {
            self.bar.set_prefix(what);
            self.bar.set_message(format!("{} ops/s", HumanCount(rate)));
            self.bar.set_position((now - self.started).as_millis() as u64);
        } else {
            self.next_line = now + LINE_EVERY;
            let line = format!("{what}: {} s, {rate} ops/s", (now - self.started).as_secs());
            duramen_stdio::stderr().push_line(&line);
        }
    }

    /// Takes the bar off the screen.
    pub(super) fn finish(self) {
        self.bar.finish_and_clear();
    }
}
