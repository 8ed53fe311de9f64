//! Maelstrom's workloads against `duramen-maelstrom`, on the workbench: processes, a faulty network between them, kills.
//!
//! `cargo run -p duramen-tests --bin duramen-workbench -- WORKLOAD --seed N …` is the same for longer.

use crate::e2e;
use duramen_tests::harness::rng::run_seed;
use duramen_tests::workbench::{Fault, LatencyShape, Settings, Summary, Workload, run};
use futures_util::{StreamExt as _, stream};
use std::time::Duration;

/// Runs at the same time.
const AT_ONCE: usize = 3;
/// A planted bug is caught within so many runs, each with a seed of its own.
const PLANTED_RUNS_MAX: u64 = 5;

fn settings(workload: Workload, nodes: usize, seconds: u64) -> Settings {
    Settings {
        nodes,
        time_limit: Duration::from_secs(seconds),
        fault_interval: Duration::from_secs(2),
        latency: Duration::from_millis(5),
        latency_shape: LatencyShape::Exponential,
        seed: run_seed().wrapping_add(workload as u64),
        ..Settings::new(workload, env!("CARGO_BIN_EXE_duramen-maelstrom-under-test").into())
    }
}

async fn run_well(settings: &Settings) -> Summary {
    let summary = run(settings).await.unwrap_or_else(|error| panic!("{}: {error}", settings.workload));
    println!("{summary}");
    assert!(summary.verdict.is_valid(), "{summary}\nchoices of this run: DURAMEN_TEST_SEED={}", run_seed());
    summary
}

e2e! {
    /// Goal: every workload is answered rightly while links are cut and healed, and in the end. Method: three nodes, a
    /// partition in the midst, some at a time.
    async fn every_workload_is_right_through_a_partition(places: 1, seconds: 120) {
        let others = Workload::ALL.iter().copied().filter(|&workload| workload != Workload::LinKv);
        let runs = others.map(|workload| async move {
            let faults = vec![Fault::Partition];
            let summary = run_well(&Settings { faults, ..settings(workload, 3, 5) }).await;
            assert!(summary.total.availability() > 0.0, "nothing went well: {summary}");
        });
        stream::iter(runs).buffer_unordered(AT_ONCE).collect::<Vec<()>>().await;
    }
}

e2e! {
    /// Goal: registers stay linearizable, and stay of use, while nodes are cut off and killed. Method: five nodes,
    /// partitions and kills in turn; more than half of the operations must be answered. How many compare-and-sets find
    /// the right value, and how many reads come before a key's first write, is a matter of luck.
    async fn registers_are_linearizable_through_partitions_and_kills(places: 1, seconds: 120) {
        let faults = vec![Fault::Partition, Fault::Kill];
        let summary = run_well(&Settings { faults, ..settings(Workload::LinKv, 5, 12) }).await;
        assert!(summary.answered() > 0.5, "{summary}");
    }
}

e2e! {
    /// Goal: the workbench can fail. Method: nodes that write whether or not the guard holds.
    async fn a_planted_bug_is_caught(places: 1, seconds: 120) {
        for number in 0..PLANTED_RUNS_MAX {
            let planted = Settings {
                planted: Some("guard-ignored".to_owned()),
                seed: run_seed().wrapping_add(number),
                ..settings(Workload::LinKv, 3, 3)
            };
            let summary = run(&planted).await.unwrap_or_else(|error| panic!("{error}"));
            if !summary.verdict.violations().is_empty() {
                if let Some(folder) = summary.history_path.as_deref().and_then(std::path::Path::parent) {
                    let _ = std::fs::remove_dir_all(folder);
                }
                return;
            }
        }
        panic!("not caught in {PLANTED_RUNS_MAX} runs");
    }
}
