//! The fuzz targets in CI: hand-made inputs, seeds, and a fixed number of inputs made from them, always the same.
//! `scripts/fuzz.sh` lets libFuzzer look further.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "tests and their programs speak to whoever runs them")]

use duramen_common::planted::{self, Plant};
use duramen_tests::fuzz::{TARGETS, Target};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::Path;

/// Runs one input; a panic, or more heap than it may take, is an error.
fn is_withstood(target: &Target, input: &[u8]) -> std::thread::Result<()> {
    catch_unwind(AssertUnwindSafe(|| {
        let heap = allocation_counter::measure(|| (target.run)(input));
        let limit = target.heap_limit_bytes(input.len());
        assert!(heap.bytes_max <= limit, "{} bytes of heap, {limit} are the limit", heap.bytes_max);
    }))
}

/// Runs one input; one that is not withstood is kept.
fn attack(target: &Target, what: &str, input: &[u8]) {
    if let Err(panic) = is_withstood(target, input) {
        let (name, path) = (target.name, Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{}-crash", target.name)));
        std::fs::write(&path, input).expect("the folder for tests can be written");
        let path = path.display();
        eprintln!("{name}, {what}: to run it again: cargo run -p duramen-tests --bin duramen-fuzz -- {name} {path}");
        resume_unwind(panic);
    }
}

/// Goal: nothing that a target forbids happens for any of its inputs. Method: all inputs made by hand, then those by chance.
fn attack_all(name: &str) {
    let target = Target::named(name).expect("each test is named after its target");
    for (what, input) in (target.nasty)() {
        attack(target, what, &input);
    }
    for (number, input) in target.inputs(target.inputs).enumerate() {
        attack(target, &format!("input {number}"), &input);
    }
}

#[test]
fn record_batch() {
    attack_all("record_batch");
}

#[test]
fn session_token() {
    attack_all("session_token");
}

#[test]
fn frames() {
    attack_all("frames");
}

#[test]
fn http_keys() {
    attack_all("http_keys");
}

#[test]
fn segment_recovery() {
    attack_all("segment_recovery");
}

#[test]
fn consensus_messages() {
    attack_all("consensus_messages");
}

/// Goal: a failure can be found again. Method: the first inputs of each target, made twice.
#[test]
fn inputs_are_the_same_in_every_run() {
    for target in TARGETS {
        assert!(target.inputs(2_000).eq(target.inputs(2_000)), "{}", target.name);
    }
}

/// Goal: the targets notice what they are there for. Method: bugs that are planted on demand, and the first inputs.
#[test]
fn planted_bugs_are_caught() {
    for (plant, target) in [
        (Plant::TornAcknowledgedFrame, "segment_recovery"),
        (Plant::TornTailAccepted, "segment_recovery"),
        (Plant::StaleSegmentBytes, "segment_recovery"),
        (Plant::GuardIgnored, "http_keys"),
    ] {
        let target = Target::named(target).expect("it is one of them");
        // Made before the bug is planted, and with them the logs that they damage.
        let inputs: Vec<Vec<u8>> = target.inputs(500).collect();
        let is_caught = planted::with(plant, || inputs.iter().any(|input| is_withstood(target, input).is_err()));
        assert!(is_caught, "{plant:?} in {} inputs of {}", inputs.len(), target.name);
    }
}
