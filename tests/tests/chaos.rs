//! The process matrix, a short round of it: `scripts/chaos.sh` runs it for as long as one likes.

use duramen_tests::chaos::faults::Fault;
use duramen_tests::chaos::options::{Options, Until, disk_mebibytes};
use duramen_tests::chaos::report::{Column, Report, Row};
use duramen_tests::chaos::run::run;
use duramen_tests::chaos::stage::Ground;
use duramen_tests::chaos::workloads::Kind;
use duramen_tests::harness::rng::{Rng, run_seed};
use duramen_tests::harness::wait::{bounded, room};
use std::io::Write as _;
use std::time::Duration;
use tokio::sync::watch;

/// Goal: no fault makes any workload see what may not be: DESIGN's invariants 1, 2, 4, 5, 6, 7, 9, from outside. Method:
/// every fault once, of the operator's world one of each group, in an order of its own, on hosts of their own, under all
/// workloads at once; then the table.
#[test]
fn every_fault_once_under_every_workload() {
    crate::setup();
    // A thread of its own: it goes to the clients' host and stays there.
    let report = std::thread::spawn(short_round).join().expect("the round's own failure was told");
    // Not captured: what was skipped, and how much was done, belongs into every log.
    #[expect(clippy::disallowed_methods, reason = "a test; no node runs in it")]
    let _ = writeln!(std::io::stderr(), "{report}");
    assert!(report.violations.is_empty(), "{}\n{}", report.violations.join("\n"), report.reproduce);
    for fault in chosen() {
        assert!(report.rounds.contains_key(&fault) != report.skipped.contains_key(&fault), "{fault} is forgotten");
        for kind in Kind::ALL {
            let cell = report.cell(Row::Fault(fault), Column::Workload(kind));
            assert!(cell.counts.ok > 0 || report.skipped.contains_key(&fault), "{fault}: {kind} did nothing");
        }
    }
}

/// All faults, but of each group of the operator's world one. The seed chooses.
fn chosen() -> Vec<Fault> {
    let of_operators: Vec<Fault> = Fault::OPERATOR.concat();
    let mut rng = Rng::of_run(1);
    let mut chosen: Vec<Fault> = Fault::ALL.into_iter().filter(|fault| !of_operators.contains(fault)).collect();
    for group in Fault::OPERATOR {
        chosen.push(*rng.pick(group));
    }
    chosen
}

fn short_round() -> Report {
    let faults = chosen();
    let until = Until::Rounds(faults.len() as u64);
    let evidence = std::env::temp_dir().join(format!("duramen-matrix-{}", std::process::id()));
    let options = Options {
        until,
        seed: run_seed(),
        faults,
        workloads: Kind::ALL.to_vec(),
        loopback: false,
        hold_ms: 800..1_600,
        evidence,
    };
    let ground = Ground::prepare(options.loopback, disk_mebibytes(until)).expect("a temporary folder can be made");
    let runtime = ground.runtime().expect("threads on the clients' host");
    runtime.block_on(async {
        let _room = room(1).await;
        let (_cancel, cancelled) = watch::channel(false);
        let running = bounded(Duration::from_secs(700), run(&options, ground, cancelled)).await;
        running.unwrap_or_else(|why| panic!("the matrix cannot run: {why}"))
    })
}
