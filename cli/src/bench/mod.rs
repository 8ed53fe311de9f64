//! `duramen bench`: a closed-loop load generator. Each client sends, waits for the answer, sends again.
//!
//! ```text
//! load keys ([prepare]) ──► warm up ──► measure ──► report
//!                           └── [generator]: threads of clients, each over its own connection ([http], [append])
//! ```
//!
//! * It shares the machine with what it measures, so it is made cheap: one thread, requests written by hand, no
//!   allocation a request. The report says what it cost.
//! * Closed loop: when the servers slow down, so do the clients; the percentiles are what a client saw, not what an
//!   open-loop caller would have.
//! * Exit: 0, also when Ctrl-C ended it early; 1 when no request succeeded.
//! * Deliberately absent: retries; other systems (the bench room compares).

mod append;
mod generator;
mod http;
mod prepare;
mod progress;
mod report;
mod tally;
mod workload;

use crate::args::ServingUrls;
use crate::failure::Failure;
use crate::output;
use crate::signals::Stop;
use clap::Args;
use duramen_common::limits::VALUE_BYTES_MAX;
use duramen_common::seams::{Entropy as _, SystemEntropy};
use generator::{Plan, Window};
use progress::Bar;
use report::Report;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tally::Tally;
use tokio::sync::watch;
use tokio::time::Instant;
use workload::Target;
pub use workload::Workload;

/// How often progress is shown.
const SHOW_EVERY: Duration = Duration::from_millis(200);

/// Arguments of `duramen bench`.
#[derive(Clone, Debug, Args)]
pub struct BenchArgs {
    #[command(flatten)]
    serving: ServingUrls,
    /// Log nodes' framed TCP addresses, for the append workload.
    #[arg(
        long = "log-addr",
        value_name = "HOST:PORT",
        value_delimiter = ',',
        default_value = "127.0.0.1:7201,127.0.0.1:7202,127.0.0.1:7203"
    )]
    log_addrs: Vec<String>,
    /// What to do.
    #[arg(long, value_enum, default_value_t = Workload::Mixed)]
    workload: Workload,
    /// Clients, each with one request under way, in turn over the addresses.
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..=8192))]
    clients: u16,
    /// Length of values. Unit: bytes.
    #[arg(long, value_name = "BYTES", default_value_t = 256,
          value_parser = clap::value_parser!(u32).range(0..=VALUE_BYTES_MAX as i64))]
    value_size: u32,
    /// Different keys, chosen uniformly.
    #[arg(long, value_name = "N", default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(1..=100_000_000))]
    keys: u32,
    /// How many in a hundred requests of the mixed workload are gets.
    #[arg(long, value_name = "PERCENT", default_value_t = 90, value_parser = clap::value_parser!(u8).range(0..=100))]
    gets_percent: u8,
    /// How long to measure. Unit: seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=86_400))]
    seconds: u32,
    /// How long to run before. Unit: seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 2, value_parser = clap::value_parser!(u32).range(0..=3_600))]
    warmup: u32,
    /// Do not load the keys first: they are there from an earlier run.
    #[arg(long)]
    skip_load: bool,
    /// Threads of the generator.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=64))]
    threads: u8,
    /// Print the result as JSON.
    #[arg(long)]
    json: bool,
}

/// Runs `duramen bench`.
pub async fn run(args: BenchArgs) -> Result<(), Failure> {
    let mut signals = Stop::listen()?;
    let token = tokio::select! {
        token = prepare::prepare(&args) => token?,
        () = signals.asked() => return Err(Failure::failed("stopped while loading: nothing was measured")),
    };
    let target = Arc::new(Target::new(&args, token, SystemEntropy.bits()));
    let begin = Instant::now() + Duration::from_secs(u64::from(args.warmup));
    let window = Window { begin, end: begin + Duration::from_secs(u64::from(args.seconds)) };
    let answered = Arc::new(AtomicU64::new(0));
    let (stop, stopped) = watch::channel(false);
    let threads: Vec<_> = (0..usize::from(args.threads))
        .map(|number| {
            let plan = Plan {
                target: Arc::clone(&target),
                clients: (number..usize::from(args.clients)).step_by(usize::from(args.threads)).collect(),
                window,
                stopped: stopped.clone(),
                answered: Arc::clone(&answered),
            };
            tokio::task::spawn_blocking(move || generator::run(plan))
        })
        .collect();
    let end = watch_over(window, &answered, &mut signals, stop).await;
    let mut tally = Tally::new();
    for thread in threads {
        let part = thread.await.map_err(|error| Failure::failed(format!("a generator thread broke: {error}")))?;
        tally.merge(&part?);
    }
    if end <= window.begin {
        return Err(Failure::failed("stopped before measuring began"));
    }
    let report = Report::new(&args, &tally, end - window.begin);
    if args.json {
        output::json(&report)?;
    } else {
        output::bytes(report.for_people().as_bytes())?;
    }
    match report.most_common_error() {
        Some(error) if report.ops == 0 => Err(Failure::failed(format!("no request succeeded; mostly: {error}"))),
        _ => Ok(()),
    }
}

/// Shows progress until the window ends or somebody asks to stop; answers when that was.
async fn watch_over(window: Window, answered: &AtomicU64, signals: &mut Stop, stop: watch::Sender<bool>) -> Instant {
    let mut bar = Bar::new(window);
    let mut ticks = tokio::time::interval(SHOW_EVERY);
    let end = loop {
        tokio::select! {
            () = tokio::time::sleep_until(window.end) => break window.end,
            () = signals.asked() => break Instant::now(),
            _ = ticks.tick() => bar.show(answered.load(Ordering::Relaxed)),
        }
    };
    // Nobody listens when every thread has ended by itself.
    let _ = stop.send(true);
    bar.finish();
    end
}

#[cfg(test)]
mod tests;
