//! Operator suite: five real processes that have the bug, and one fault of the operator's world (`crate::chaos`).
//!
//! * In: a seed; the bug that is planted on this thread, if any. It goes to the processes as `DURAMEN_PLANTED`.
//! * Out: the first violation of a round with each of the suite's faults, in turn by seed.
//! * Deliberately absent: faults that no planted bug is for; the matrix runs those.

use crate::chaos::faults::Fault;
use crate::chaos::options::{Options, Until, disk_mebibytes};
use crate::chaos::run::run;
use crate::chaos::stage::Ground;
use crate::chaos::workloads::Kind;
use crate::harness::wait::room;
use duramen_common::planted::{Plant, is_planted};
use tokio::sync::watch;

/// The faults that find the planted bugs.
const FAULTS: [Fault; 2] = [Fault::LocksRemoved, Fault::MovedAddress];

/// One round under one fault.
pub fn run_seed(seed: u64) -> Result<(), String> {
    let planted = Plant::ALL.iter().copied().find(|&plant| is_planted(plant));
    let fault = FAULTS[seed as usize % FAULTS.len()];
    // A thread of its own: it goes to the clients' host and stays there.
    let round = std::thread::spawn(move || round(seed, fault, planted));
    let violations = round.join().map_err(|_| "the round itself failed".to_owned())??;
    violations.into_iter().next().map_or(Ok(()), Err)
}

fn round(seed: u64, fault: Fault, planted: Option<Plant>) -> Result<Vec<String>, String> {
    let until = Until::Rounds(1);
    let options = Options {
        until,
        seed,
        faults: vec![fault],
        workloads: vec![Kind::Register, Kind::RawLog],
        loopback: false,
        hold_ms: 100..200,
        evidence: std::env::temp_dir().join(format!("duramen-operator-{}", std::process::id())),
    };
    let mut ground = Ground::prepare(options.loopback, disk_mebibytes(until)).map_err(|error| error.to_string())?;
    ground.planted = planted;
    let runtime = ground.runtime()?;
    runtime.block_on(async {
        let _room = room(1).await;
        let (_cancel, cancelled) = watch::channel(false);
        Ok(run(&options, ground, cancelled).await?.violations)
    })
}
