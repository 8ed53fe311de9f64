//! Everything at once: random faults under writers, linearizable readers and sessions.

use crate::e2e;
use duramen_tests::harness::cluster::PATIENCE;
use duramen_tests::harness::registers::Registers;
use duramen_tests::harness::writers::{Writers, check, everything};
use duramen_tests::harness::{Cluster, Rng, until};

const FAULTS: usize = 30;

/// A fault that is there now, to be undone.
enum Fault {
    Killed(usize),
    Paused(usize),
    ServingKilled(usize),
    Cut,
    Nothing,
}

/// Breaks something. At most one log node is out at a time, so that a majority can always go on.
fn break_something(cluster: &mut Cluster, rng: &mut Rng) -> Fault {
    let log = rng.below(3);
    let name = format!("log-{}", log + 1);
    let others: Vec<String> = (1..=3).filter(|&n| n != log + 1).map(|n| format!("log-{n}")).collect();
    let others: Vec<&str> = others.iter().map(String::as_str).collect();
    match rng.below(8) {
        0 | 1 => {
            cluster.log[log].kill();
            Fault::Killed(log)
        }
        2 => {
            cluster.log[log].pause();
            Fault::Paused(log)
        }
        3 => {
            let serving = rng.below(2);
            cluster.serving[serving].kill();
            Fault::ServingKilled(serving)
        }
        4 => {
            cluster.network.cut(&name, &others);
            Fault::Cut
        }
        5 => {
            // Only one link: each of the two still hears the third.
            cluster.network.cut(&name, &others[..1]);
            Fault::Cut
        }
        6 => {
            let serving = format!("serving-{}", rng.below(2) + 1);
            cluster.network.cut(&serving, &[&name]);
            Fault::Cut
        }
        _ => {
            for from in ["serving-1", "serving-2", "log-1", "log-2", "log-3"] {
                cluster.network.sever(from, &name);
            }
            Fault::Nothing
        }
    }
}

fn mend(cluster: &mut Cluster, fault: Fault) {
    match fault {
        Fault::Killed(log) => cluster.start_log(log),
        Fault::Paused(log) => cluster.log[log].resume(),
        Fault::ServingKilled(serving) => cluster.start_serving(serving),
        Fault::Cut => cluster.network.heal(),
        Fault::Nothing => {}
    }
}

e2e! {
    /// Goal: DESIGN's invariants 1, 2, 4, 5, 6, 9 from outside: under any faults that leave a majority, linearizable reads
    /// are linearizable, sessions never go back, nothing acknowledged is lost, and the cluster goes on by itself.
    /// Method: 30 random faults (kills, stand-stills, cut links, closed connections) one after the other; during each,
    /// registers and writers work at both nodes; in the end the judges look at everything, and replicas must be equal.
    async fn random_faults_break_no_promise(places: 2, seconds: 200) {
        let mut cluster = Cluster::five().await;
        let nodes = [cluster.http(0), cluster.http(1)];
        let writers = Writers::start(6, &nodes);
        let registers = Registers::start(4, &cluster);
        let mut rng = Rng::of_run(2000);
        for _ in 0..FAULTS {
            let fault = break_something(&mut cluster, &mut rng);
            // Long enough for an election in some cases, too short in others.
            let more = rng.below(300) as u64;
            writers.wait_for_more(more, PATIENCE).await;
            mend(&mut cluster, fault);
            writers.wait_for_more(20, PATIENCE).await;
        }
        cluster.wait_ready().await;
        let (_, reads_before, _) = registers.counts();
        until("linearizable reads to go on", PATIENCE, || async {
            let (_, reads, _) = registers.counts();
            if reads > reads_before + 100 { Ok(()) } else { Err(format!("{} reads", reads - reads_before)) }
        })
        .await;
        let (writes, reads, session_reads) = registers.finish(&cluster).await;
        let told = writers.finish().await;
        eprintln!("{} writes, {writes} register writes, {reads} reads, {session_reads} session reads", told.len());
        for http in &nodes {
            check(&told, &everything(http, "w").await, &http.addr().to_string());
        }
        cluster.wait_same_digests().await;
        cluster.check_same_logs().await;
        assert!(writes > 100 && reads > 100 && session_reads > 100, "too little happened to prove anything");
    }
}
