//! `duramen-chaos`: real processes on hosts of their own, under one fault after the other, and the table of what was found.
//!
//! * `--minutes N` or `--rounds N`, `--seed N`, `--faults a,b`, `--workloads a,b`, `--loopback`, `--evidence FOLDER`.
//! * Ctrl-C ends it after the round that is under way. Exit code: 0 without violations, 1 with any, 2 when it could not run.
//! * Every thread lives on the clients' host: nothing that is sent here can leave the machine.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "tests and their programs speak to whoever runs them")]

use duramen_tests::chaos::faults::Fault;
use duramen_tests::chaos::options::{Options, Until, disk_mebibytes};
use duramen_tests::chaos::run::run;
use duramen_tests::chaos::stage::Ground;
use duramen_tests::chaos::workloads::Kind;
use duramen_tests::harness::process::set_binary_beside;
use duramen_tests::harness::rng::run_seed;
use std::path::PathBuf;
use std::process::ExitCode;
use std::str::FromStr;
use std::time::Duration;
use tokio::sync::watch;

const USAGE: &str = "duramen-chaos [--minutes N | --rounds N] [--seed N] [--faults a,b] [--workloads a,b] [--loopback] \
                     [--evidence FOLDER]";

fn main() -> ExitCode {
    match options(std::env::args().skip(1)).and_then(|options| chaos(&options)) {
        Ok(violations) => ExitCode::from(u8::from(violations > 0)),
        Err(why) => {
            eprintln!("{why}");
            ExitCode::from(2)
        }
    }
}

fn chaos(options: &Options) -> Result<usize, String> {
    set_binary_beside()?;
    eprintln!("{options}");
    let ground = Ground::prepare(options.loopback, disk_mebibytes(options.until)).map_err(|error| error.to_string())?;
    let runtime = ground.runtime()?;
    let report = runtime.block_on(async {
        let (cancel, cancelled) = watch::channel(false);
        tokio::spawn(async move {
            if tokio::signal::ctrl_c().await.is_ok() {
                eprintln!("ending after this round");
                cancel.send_replace(true);
                // Whoever asks twice is not kept waiting.
                if tokio::signal::ctrl_c().await.is_ok() {
                    std::process::exit(130);
                }
            }
        });
        run(options, ground, cancelled).await
    })?;
    println!("\n{report}");
    Ok(report.violations.len())
}

fn options(mut args: impl Iterator<Item = String>) -> Result<Options, String> {
    let mut options = Options {
        until: Until::Passed(Duration::from_secs(600)),
        seed: run_seed(),
        faults: Fault::ALL.to_vec(),
        workloads: Kind::ALL.to_vec(),
        loopback: false,
        hold_ms: 1_000..8_000,
        evidence: PathBuf::from("target/chaos"),
    };
    while let Some(name) = args.next() {
        if name == "--loopback" {
            options.loopback = true;
            continue;
        }
        let value = args.next().ok_or_else(|| format!("{name}: {USAGE}"))?;
        match name.as_str() {
            "--minutes" => options.until = Until::Passed(Duration::from_secs(60 * number(&value)?)),
            "--rounds" => options.until = Until::Rounds(number(&value)?),
            "--seed" => options.seed = number(&value)?,
            "--faults" => options.faults = list(&value)?,
            "--workloads" => options.workloads = list(&value)?,
            "--evidence" => options.evidence = PathBuf::from(value),
            _ => return Err(format!("{name}: {USAGE}")),
        }
    }
    Ok(options)
}

fn number(text: &str) -> Result<u64, String> {
    text.parse().map_err(|_| format!("{text:?} is no number: {USAGE}"))
}

fn list<T: FromStr<Err = String>>(text: &str) -> Result<Vec<T>, String> {
    text.split(',').map(str::parse).collect()
}
