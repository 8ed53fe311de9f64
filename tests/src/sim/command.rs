//! The `duramen-sim` program: `[--leaders] --seed N [--trace]`, or `[--leaders] --seeds N [--from S] [--jobs J]`.
//!
//! * With `--leaders`, faults are for leaders, and clients stay with them.
//! * One seed: its report; with `--trace` every event before it, and what the nodes log.
//! * Many seeds: each on a thread of its own, progress every few seconds, each violation as it is found with the command that
//!   shows it again; Ctrl-C ends after the seeds under way. Exit codes: 0 all held, 1 something broke, 2 usage.

use super::run::{SimOptions, SimReport, run_seed};
use super::violation::Violation;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use tokio::time::Instant;

const USAGE: &str = "usage: duramen-sim [--leaders] (--seed N [--trace] | --seeds N [--from S] [--jobs J])";
/// How often progress is told.
const TELL_EVERY: Duration = Duration::from_secs(10);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Task {
    One { seed: u64, trace: bool },
    Many { from: u64, count: u64, jobs: u64 },
}

/// The program; its exit code.
pub fn main(arguments: impl Iterator<Item = String>) -> i32 {
    match parse(arguments) {
        Some((options, Task::One { seed, trace })) => one(seed, &SimOptions { trace, ..options }),
        Some((options, Task::Many { from, count, jobs })) => many(from, count, jobs, &options),
        None => {
            eprintln!("{USAGE}");
            2
        }
    }
}

fn parse(mut arguments: impl Iterator<Item = String>) -> Option<(SimOptions, Task)> {
    let mut options = SimOptions::default();
    let (mut seed, mut seeds, mut from, mut jobs, mut trace) = (None, None, 0, 1, false);
    while let Some(argument) = arguments.next() {
        let mut number = || arguments.next()?.parse::<u64>().ok();
        match argument.as_str() {
            "--seed" => seed = Some(number()?),
            "--seeds" => seeds = Some(number()?),
            "--from" => from = number()?,
            "--jobs" => jobs = number()?.max(1),
            "--trace" => trace = true,
            "--leaders" => options = SimOptions::of_leaders(),
            _ => return None,
        }
    }
    match (seed, seeds) {
        (Some(seed), None) => Some((options, Task::One { seed, trace })),
        (None, Some(count)) if !trace => Some((options, Task::Many { from, count, jobs })),
        _ => None,
    }
}

#[expect(clippy::disallowed_methods, reason = "a program of the tests; no node runs in it")]
fn one(seed: u64, options: &SimOptions) -> i32 {
    if options.trace {
        // What the nodes say, between the events; RUST_LOG chooses.
        let filter = tracing_subscriber::EnvFilter::try_from_default_env();
        let filter = filter.unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("duramen=info,openraft=off"));
        tracing_subscriber::fmt()
            .with_env_filter(filter)
            .without_time()
            .with_ansi(false)
            .with_writer(std::io::stdout)
            .init();
    }
    let began = Instant::now();
    match run_seed(seed, options) {
        Ok(report) => {
            println!("{report:#?}");
            println!(
                "{:.1} simulated seconds a second",
                report.virtual_ms as f64 / 1e3 / began.elapsed().as_secs_f64()
            );
            0
        }
        Err(violation) => {
            println!("{violation}");
            1
        }
    }
}

/// What all runs add up to.
#[derive(Default)]
pub struct Sum {
    seeds: u64,
    virtual_ms: u64,
    operations: u64,
    unknown: u64,
    records: u64,
    again: u64,
    packets: u64,
    recovery_ms_max: u64,
    faults: BTreeMap<String, u64>,
    violations: Vec<Violation>,
}

impl Sum {
    /// Adds a run.
    pub fn add(&mut self, outcome: Result<SimReport, Violation>) {
        self.seeds += 1;
        match outcome {
            Ok(report) => {
                self.virtual_ms += report.virtual_ms;
                let tally = report.operations;
                self.operations += tally.ok + tally.failed + tally.unknown;
                self.unknown += tally.unknown;
                self.records += report.records;
                self.again += report.again;
                self.packets += report.packets.delivered;
                self.recovery_ms_max = self.recovery_ms_max.max(report.recovery_ms);
                for (kind, count) in report.faults {
                    *self.faults.entry(format!("{kind:?}")).or_default() += count;
                }
            }
            Err(violation) => self.violations.push(violation),
        }
    }

    /// Runs that broke something.
    #[must_use]
    pub fn violations(&self) -> &[Violation] {
        &self.violations
    }

    /// One line.
    #[must_use]
    pub fn line(&self) -> String {
        let faults: u64 = self.faults.values().sum();
        format!(
            "{} seeds, {:.2} simulated hours, {} operations ({} unknown), {} records ({} past the window again), {} packets, \
             {faults} faults, {} violations",
            self.seeds,
            self.virtual_ms as f64 / 3_600_000.0,
            self.operations,
            self.unknown,
            self.records,
            self.again,
            self.packets,
            self.violations.len()
        )
    }
}

fn many(from: u64, count: u64, jobs: u64, options: &SimOptions) -> i32 {
    let (next, sum) = (Arc::new(AtomicU64::new(from)), Arc::new(Mutex::new(Sum::default())));
    let stops = Arc::new(AtomicBool::new(false));
    let began = Instant::now();
    let workers: Vec<_> = (0..jobs)
        .map(|_| {
            let (next, sum, stops) = (Arc::clone(&next), Arc::clone(&sum), Arc::clone(&stops));
            let options = options.clone();
            std::thread::spawn(move || work(&next, from + count, &options, &sum, &stops))
        })
        .collect();
    tell(&workers, &sum, &stops, began);
    for worker in workers {
        if worker.join().is_err() {
            eprintln!("a thread panicked outside of a run");
            return 1;
        }
    }
    let sum = sum.lock();
    println!("{}", sum.line());
    println!("longest recovery: {} ms; faults: {:?}", sum.recovery_ms_max, sum.faults);
    let rate = sum.virtual_ms as f64 / 1e3 / began.elapsed().as_secs_f64();
    println!("{:.0} s, {rate:.1} simulated seconds a second", began.elapsed().as_secs_f64());
    i32::from(!sum.violations.is_empty())
}

fn work(next: &AtomicU64, end: u64, options: &SimOptions, sum: &Mutex<Sum>, stops: &AtomicBool) {
    while !stops.load(Ordering::Relaxed) {
        let seed = next.fetch_add(1, Ordering::Relaxed);
        if seed >= end {
            return;
        }
        let outcome = run_seed(seed, options);
        if let Err(violation) = &outcome {
            println!("{violation}");
        }
        sum.lock().add(outcome);
    }
}

/// Tells progress until the workers are done; a Ctrl-C lets them finish the seeds under way.
fn tell(workers: &[std::thread::JoinHandle<()>], sum: &Mutex<Sum>, stops: &AtomicBool, began: Instant) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime for the clock");
    runtime.block_on(async {
        let mut told = Instant::now();
        while workers.iter().any(|worker| !worker.is_finished()) {
            tokio::select! {
                _ = tokio::signal::ctrl_c() => {
                    stops.store(true, Ordering::Relaxed);
                    eprintln!("stopping after the seeds under way");
                }
                () = tokio::time::sleep(Duration::from_millis(50)) => {}
            }
            if told.elapsed() >= TELL_EVERY {
                told = Instant::now();
                println!("{:>6.0} s: {}", began.elapsed().as_secs_f64(), sum.lock().line());
            }
        }
    });
}
