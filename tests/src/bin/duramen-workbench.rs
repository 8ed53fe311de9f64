//! `duramen-workbench`: one run of the workbench, from the command line.
//!
//! * In: a workload and settings, by Maelstrom's names. Out: a summary; exit code 1 when what was heard is not right, 2
//!   when there was no run.
//! * Everything else is `duramen_tests::workbench`.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "tests and their programs speak to whoever runs them")]

use clap::Parser;
use duramen_tests::workbench::{Fault, LatencyShape, Settings, Workload, run};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

/// Plays Maelstrom's part against duramen-maelstrom.
#[derive(Parser)]
#[command(name = "duramen-workbench", version)]
struct Args {
    /// What is asked and checked: lin-kv, txn-list-append, txn-rw-register, kafka, echo, unique-ids, broadcast, g-set,
    /// g-counter, pn-counter.
    workload: Workload,
    /// How many nodes.
    #[arg(long, default_value_t = 5, value_name = "N")]
    nodes: usize,
    /// How long clients ask.
    #[arg(long, default_value_t = 60.0, value_name = "SECONDS")]
    time_limit: f64,
    /// Most operations a second.
    #[arg(long, default_value_t = 100.0, value_name = "HZ")]
    rate: f64,
    /// How many clients ask at the same time.
    #[arg(long, default_value_t = 10, value_name = "N")]
    concurrency: usize,
    /// none, or of partition and kill, with a comma between.
    #[arg(long, default_value = "none", value_name = "FAULTS")]
    nemesis: String,
    /// How long a fault lasts, and the time without it.
    #[arg(long, default_value_t = 5.0, value_name = "SECONDS")]
    nemesis_interval: f64,
    /// Mean delay of messages between nodes.
    #[arg(long, default_value_t = 0.0, value_name = "MS")]
    latency_ms: f64,
    /// constant, uniform or exponential.
    #[arg(long, default_value = "constant", value_name = "SHAPE")]
    latency_dist: LatencyShape,
    /// The share of messages between nodes that are lost.
    #[arg(long, default_value_t = 0.0, value_name = "0.0..1.0")]
    loss: f64,
    /// For all choices.
    #[arg(long, default_value_t = 1, value_name = "N")]
    seed: u64,
    /// A bug that the nodes have, by its name; their binary must be built for it.
    #[arg(long, value_name = "NAME")]
    planted: Option<String>,
    /// What runs as a node; otherwise duramen-maelstrom beside this program.
    #[arg(long, value_name = "PATH")]
    bin: Option<PathBuf>,
}

fn settings(args: Args) -> Result<Settings, String> {
    let beside = || Ok::<PathBuf, std::io::Error>(std::env::current_exe()?.with_file_name("duramen-maelstrom"));
    let binary = args.bin.map_or_else(beside, Ok).map_err(|error| format!("where is this program? {error}"))?;
    let faults = match args.nemesis.as_str() {
        "none" => Vec::new(),
        faults => faults.split(',').map(str::parse::<Fault>).collect::<Result<_, _>>().map_err(|e| e.to_string())?,
    };
    if args.nodes == 0 || args.concurrency == 0 || args.rate.is_nan() || args.rate <= 0.0 {
        return Err("a run needs a node, a client and a rate".to_owned());
    }
    let seconds = |seconds| Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string());
    Ok(Settings {
        nodes: args.nodes,
        time_limit: seconds(args.time_limit)?,
        rate: args.rate,
        concurrency: args.concurrency,
        faults,
        fault_interval: seconds(args.nemesis_interval)?,
        latency: seconds(args.latency_ms / 1_000.0)?,
        latency_shape: args.latency_dist,
        loss: args.loss,
        seed: args.seed,
        planted: args.planted,
        ..Settings::new(args.workload, binary)
    })
}

#[tokio::main]
async fn main() -> ExitCode {
    let settings = match settings(Args::parse()) {
        Ok(settings) => settings,
        Err(reason) => {
            eprintln!("duramen-workbench: {reason}");
            return ExitCode::from(2);
        }
    };
    match run(&settings).await {
        Ok(summary) => {
            println!("{summary}");
            if summary.verdict.is_valid() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => {
            eprintln!("duramen-workbench: {error}");
            ExitCode::from(2)
        }
    }
}
