//! Hunts planted bugs and prints the table: `duramen-planted [--list] [--control-seeds N] [BUG…]`.
//!
//! * Each bug is looked for by its suite (`duramen_tests::planted::TABLE`); each suite also runs without a bug, and must then
//!   say nothing.
//! * Exit code 1 when a bug is missed or a control is not clean, 2 for wrong arguments.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "tests and their programs speak to whoever runs them")]

use duramen_common::planted::Plant;
use duramen_tests::harness::process::set_binary_beside;
use duramen_tests::planted::{Catch, Hunted, Row, Suite, TABLE, control, hunt};
use std::process::ExitCode;

/// How much of what a suite said is shown. Unit: characters.
const SAID_CHARS_MAX: usize = 110;

struct Wanted {
    rows: Vec<Row>,
    control_seeds: Option<u64>,
}

fn main() -> ExitCode {
    // What a suite catches is printed in the table, and not where it happened.
    std::panic::set_hook(Box::new(|_| {}));
    let wanted = match parse(std::env::args().skip(1)) {
        Ok(Some(wanted)) => wanted,
        Ok(None) => return ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::from(2);
        }
    };
    if let Err(why) = set_binary_beside() {
        eprintln!("{why}");
        return ExitCode::from(2);
    }
    let are_controls_clean = run_controls(&wanted);
    println!("| {:<26} | {:<9} | {:>5} | {:>8} | caught by saying", "planted bug", "suite", "seeds", "ms");
    println!("| {0:-<26} | {0:-<9} | {0:->5} | {0:->8} | ----------------", "");
    let missed = wanted.rows.iter().filter(|row| !show(&hunt(**row))).count();
    println!("{} bugs planted, {missed} missed", wanted.rows.len());
    if missed == 0 && are_controls_clean { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn parse(mut args: impl Iterator<Item = String>) -> Result<Option<Wanted>, String> {
    let mut wanted = Wanted { rows: Vec::new(), control_seeds: None };
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--list" => {
                TABLE.iter().for_each(|row| println!("{:<26} {:<9} {}", row.plant, row.suite, row.plant.about()));
                return Ok(None);
            }
            "--control-seeds" => {
                let seeds = args.next().and_then(|text| text.parse().ok());
                wanted.control_seeds = Some(seeds.ok_or("--control-seeds takes a number")?);
            }
            name => {
                let plant: Plant = name.parse().map_err(|error| format!("{error}"))?;
                wanted.rows.push(Row::of(plant).ok_or_else(|| format!("no suite is known to catch {plant}"))?);
            }
        }
    }
    if wanted.rows.is_empty() {
        wanted.rows = TABLE.to_vec();
    }
    Ok(Some(wanted))
}

/// Every suite that is needed, without a bug.
fn run_controls(wanted: &Wanted) -> bool {
    let mut are_clean = true;
    for suite in Suite::ALL {
        let Some(seeds) = wanted.rows.iter().filter(|row| row.suite == suite).map(|row| row.seeds_max).max() else {
            continue;
        };
        let seeds = wanted.control_seeds.unwrap_or(seeds);
        match control(suite, 0..seeds) {
            Ok(took) => println!("{suite}, no bug planted: {seeds} seeds in {} ms, silent", took.as_millis()),
            Err(said) => {
                println!("{suite}, no bug planted: NOT SILENT: {said}");
                are_clean = false;
            }
        }
    }
    are_clean
}

/// One line of the table; whether the bug was caught.
fn show(hunted: &Hunted) -> bool {
    let Hunted { row, catch, seeds, took } = hunted;
    let first_line = |said: &str| -> String {
        let line = said.lines().next().unwrap_or_default();
        line.chars().take(SAID_CHARS_MAX).collect()
    };
    let (is_caught, said) = match catch {
        Catch::Caught { said } => (true, first_line(said)),
        Catch::Otherwise { said } => (false, format!("OTHERWISE THAN EXPECTED: {said}")),
        Catch::Missed => (false, "MISSED".to_owned()),
    };
    println!("| {:<26} | {:<9} | {seeds:>5} | {:>8} | {said}", row.plant, row.suite, took.as_millis());
    is_caught
}
