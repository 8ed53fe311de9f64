//! Goal: whatever the network and the nodes do, what the client says about an append is true.
//! Method: seeded faults while forty callers append; then the log itself is the judge. The clock is paused, so that a
//! seed gives the same run each time.

use super::fake::{Cluster, Do, addr};
use super::*;
use duramen_common::log::Effect;
use duramen_common::protocol::LogRefusal;

/// Small, seeded, good enough to pick faults.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }

    fn fault(&mut self) -> Do {
        let unknown = LogRefusal::OutcomeUnknown { reason: "scripted".to_owned() };
        match self.below(12) {
            0 => Do::AppendAndHang,
            1 => Do::Hang,
            2 => Do::AppendAndGarble,
            3 => Do::AppendAndRefuse(unknown),
            4 => Do::Refuse(unknown),
            5 => Do::Refuse(LogRefusal::Overloaded),
            6 => Do::Refuse(LogRefusal::Unavailable { reason: "scripted".to_owned() }),
            _ => Do::Right,
        }
    }
}

async fn trouble(cluster: Cluster, mut dice: Dice) {
    loop {
        tokio::time::sleep(Duration::from_millis(dice.below(150))).await;
        let node = 1 + dice.below(3);
        match dice.below(6) {
            0 => cluster.set_leader(Some(node)),
            1 => cluster.set_leader(None),
            2 => cluster.network.cut(&addr(node), "client"),
            3 => cluster.network.cut("client", &addr(node)),
            4 => cluster.restart(node),
            _ => {
                cluster.network.heal();
                cluster.set_leader(Some(node));
            }
        }
    }
}

async fn run(seed: u64) -> (usize, usize, usize) {
    let cluster = Cluster::start(3, Some(1));
    let mut dice = Dice(seed);
    cluster.script((0..100_000).map(|_| dice.fault()));
    let client = client_with(&cluster, |config| config.attempt_timeout_ms = 300);
    let faults = tokio::spawn(trouble(cluster.clone(), Dice(seed ^ 0xffff)));
    let callers: Vec<_> = (0..40u64)
        .map(|caller| {
            let client = client.clone();
            let mut dice = Dice(seed.wrapping_mul(97).wrapping_add(caller));
            tokio::spawn(async move {
                let mut outcomes = Vec::new();
                for number in 0..25 {
                    let (number, count) = (caller * 1_000 + number, 1 + dice.below(4));
                    let timeout = Duration::from_millis(50 + dice.below(3_000));
                    outcomes.push((number, count, client.append(P0, set_of(number, count), timeout).await));
                    tokio::time::sleep(Duration::from_millis(dice.below(60))).await;
                }
                outcomes
            })
        })
        .collect();
    let mut outcomes = Vec::new();
    for caller in callers {
        outcomes.extend(caller.await.unwrap());
    }
    faults.abort();
    judge(seed, &cluster, outcomes)
}

fn judge(
    seed: u64,
    cluster: &Cluster,
    outcomes: Vec<(u64, u64, Result<Vec<AppendedRun>, AppendError>)>,
) -> (usize, usize, usize) {
    let log = cluster.log.lock();
    let (mut acknowledged, mut unknown, mut failed) = (0, 0, 0);
    for (number, count, outcome) in outcomes {
        match outcome {
            Ok(runs) => {
                acknowledged += 1;
                let mut ids = Vec::new();
                for run in runs {
                    let AppendedRun::At { first_offset, count } = run else { panic!("seed {seed}: {run:?}") };
                    let first = first_offset.get() as usize;
                    ids.extend_from_slice(&log.ids[first..first + count as usize]);
                }
                let wanted: Vec<RequestId> = (0..count).map(|at| id(number).plus(at)).collect();
                assert_eq!(ids, wanted, "seed {seed}: acknowledged at another place");
            }
            Err(error) if error.effect() == Effect::Unknown => unknown += 1,
            Err(error) => {
                failed += 1;
                let there = (0..count).any(|at| log.ids.contains(&id(number).plus(at)));
                assert!(!there, "seed {seed}: {error} was reported, and the log has it");
            }
        }
    }
    // The fake drops repeats by id, as the log does; other ids than the callers' would stand out here.
    assert!(log.ids.iter().all(|id| id.bits() & 0xffff_ffff < 4 && (id.bits() >> 32) < 40_000), "seed {seed}");
    (acknowledged, unknown, failed)
}

#[tokio::test(start_paused = true)]
async fn what_is_said_about_an_append_is_true() {
    let (mut acknowledged, mut unknown, mut failed) = (0, 0, 0);
    for seed in 0..20 {
        let counts = run(seed).await;
        acknowledged += counts.0;
        unknown += counts.1;
        failed += counts.2;
    }
    // A run in which nothing goes wrong, or nothing right, tests nothing.
    assert!(acknowledged > 1_000 && unknown > 100 && failed > 100, "{acknowledged} {unknown} {failed}");
}
