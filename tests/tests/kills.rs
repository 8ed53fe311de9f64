//! Log nodes are killed while writers write: what was acknowledged stays, what was refused never happened.

use crate::e2e;
use duramen_tests::checkers::acknowledged::Told;
use duramen_tests::harness::cluster::PATIENCE;
use duramen_tests::harness::http::{Http, kv};
use duramen_tests::harness::process::Process;
use duramen_tests::harness::writers::{Writers, check, everything, judge};
use duramen_tests::harness::{Cluster, Rng};
use std::time::Duration;

const ROUNDS: usize = 10;

e2e! {
    /// Goal: no acknowledged write is lost, none refused takes effect, whichever log node dies, leaders included.
    /// Method: 20 writers at both serving nodes; ten times, each log node in turn gets SIGKILL and is started again,
    /// writes must go on meanwhile; then everything found at each serving node is held against what clients were told.
    async fn acknowledged_writes_survive_the_kill_of_every_log_node_in_turn(places: 2, seconds: 240) {
        let mut cluster = Cluster::five().await;
        let nodes = [cluster.http(0), cluster.http(1)];
        let writers = Writers::start(20, &nodes);
        writers.wait_for_more(200, PATIENCE).await;
        let mut rng = Rng::of_run(1000);
        for round in 0..ROUNDS {
            let first = rng.below(3);
            for step in 0..3 {
                let victim = (first + step) % 3;
                cluster.log[victim].kill();
                writers.wait_for_more(50, PATIENCE).await;
                cluster.start_log(victim);
                cluster.wait_log_ready(victim).await;
            }
            eprintln!("round {round}: {} acknowledged", writers.count());
        }
        let told = writers.finish().await;
        let unknown = told.values().filter(|(_, told)| matches!(told, Told::Unknown(_))).count();
        let refused = told.values().filter(|(_, told)| matches!(told, Told::Refused(_))).count();
        eprintln!("{} writes: {unknown} unknown, {refused} refused", told.len());
        for (number, http) in nodes.iter().enumerate() {
            check(&told, &everything(http, "w").await, &format!("serving-{}", number + 1));
        }
        cluster.wait_same_digests().await;
        cluster.check_same_logs().await;
    }
}

e2e! {
    /// Goal: a minority of the log nodes never says anything false: without a majority a write is answered `no-leader` or
    /// `outcome-unknown`, and the cluster goes on by itself when the majority is back.
    /// Method: with two of three killed, in each combination, writes at both nodes; after the restart, what was called
    /// refused must be absent, and new writes and reads work without any help.
    async fn writes_stop_without_a_majority_and_resume_by_themselves(places: 1, seconds: 120) {
        let mut cluster = Cluster::five().await;
        let nodes = [cluster.http(0), cluster.http(1)];
        for alive in 0..3 {
            let dead = [(alive + 1) % 3, (alive + 2) % 3];
            nodes[0].put(kv(format!("before/{alive}")), "there").expect(204).await;
            dead.iter().for_each(|&number| cluster.log[number].kill());
            // The one that is left may not have noticed yet, and takes some of these into its log.
            let mut burst = tokio::task::JoinSet::new();
            for number in 0..64usize {
                let key = format!("burst/{alive}/{number}");
                let call = nodes[number % 2].put(kv(&key), "x").wait(2);
                burst.spawn(async move { (key, judge(call.send().await)) });
            }
            let mut told = burst.join_all().await;
            for (key, outcome) in &told {
                assert!(!matches!(outcome, Told::Acknowledged(_)), "{key} was acknowledged by a minority");
            }
            for number in 0..4 {
                let key = format!("minority/{alive}/{number}");
                let answer = nodes[number % 2].put(kv(&key), "x").wait(1).send().await;
                let outcome = judge(answer);
                assert!(!matches!(outcome, Told::Acknowledged(_)), "{key} was acknowledged by a minority");
                told.push((key, outcome));
            }
            let read = nodes[0].get(kv(format!("before/{alive}"))).wait(1).ok().await;
            assert!(
                read.status == 503 && ["no-leader", "behind"].contains(&read.problem().as_str()),
                "a linearizable read needs a majority: {read}"
            );
            let stale = nodes[0].get(kv(format!("before/{alive}")) + "?consistency=stale").expect(200).await;
            assert_eq!(stale.text(), "there");
            dead.iter().for_each(|&number| cluster.start_log(number));
            resumes(&nodes).await;
            cluster.wait_ready().await;
            let unknown = told.iter().filter(|(_, outcome)| matches!(outcome, Told::Unknown(_))).count();
            eprintln!("log-{} alone: {unknown} of {} outcomes unknown", alive + 1, told.len());
            for (key, outcome) in told {
                let found = nodes[1].get(kv(&key)).ok().await;
                match outcome {
                    Told::Refused(why) => assert_eq!(found.status, 404, "{key} was refused ({why}), but: {found}"),
                    _ => assert!([200, 404].contains(&found.status), "{found}"),
                }
            }
        }
        cluster.wait_same_digests().await;
        cluster.check_same_logs().await;
    }
}

/// Waits until both nodes take writes to every partition again.
async fn resumes(nodes: &[Http]) {
    for (number, http) in nodes.iter().enumerate() {
        for key in 0..16 {
            let key = kv(format!("resume/{number}/{key}"));
            duramen_tests::harness::until("writes to resume by themselves", PATIENCE, || async {
                let answer = http.put(&*key, "again").wait(2).send().await.map_err(|error| error.to_string())?;
                if answer.status == 204 { Ok(()) } else { Err(answer.to_string()) }
            })
            .await;
        }
    }
}

e2e! {
    /// Goal: a log node that only stands still (SIGSTOP: its connections stay open) does not stop the others.
    /// Method: the leader of a partition is paused; writes to that partition go on within the patience; it is resumed and
    /// must not have kept anything of its own.
    async fn a_leader_that_stands_still_is_replaced(places: 1, seconds: 120) {
        let cluster = Cluster::five().await;
        let nodes = [cluster.http(0), cluster.http(1)];
        let leader = cluster.leader_of(0).await;
        let writers = Writers::start(8, &nodes);
        writers.wait_for_more(50, PATIENCE).await;
        cluster.log[leader].pause();
        resumes(&nodes).await;
        writers.wait_for_more(100, PATIENCE).await;
        cluster.log[leader].resume();
        writers.wait_for_more(100, PATIENCE).await;
        let told = writers.finish().await;
        for http in &nodes {
            check(&told, &everything(http, "w").await, &http.addr().to_string());
        }
        cluster.wait_same_digests().await;
        cluster.check_same_logs().await;
    }
}

e2e! {
    /// Goal: what was acknowledged is on disk. Method: all five processes get SIGKILL at once under writes, five times;
    /// after each restart everything that was ever acknowledged is there.
    async fn acknowledged_writes_survive_the_kill_of_everything_at_once(places: 2, seconds: 180) {
        let mut cluster = Cluster::five().await;
        let nodes = [cluster.http(0), cluster.http(1)];
        let mut all = std::collections::HashMap::new();
        for round in 0..5 {
            let writers = Writers::start_named(&format!("w{round}-"), 10, &nodes);
            writers.wait_for_more(300, PATIENCE).await;
            cluster.log.iter_mut().chain(&mut cluster.serving).for_each(Process::kill);
            let told = writers.finish().await;
            all.extend(told);
            cluster.start_all();
            cluster.wait_ready().await;
            for http in &nodes {
                check(&all, &everything(http, "w").await, &http.addr().to_string());
            }
        }
        cluster.wait_same_digests().await;
        cluster.check_same_logs().await;
    }
}

e2e! {
    /// Goal: a wiped log node does not vote under its old id as if it had what it had. Method: a log node is stopped, its
    /// folder deleted, and started: the others refuse it by name, it says so, and never becomes ready; they go on.
    async fn a_wiped_log_node_under_its_old_id_is_refused_by_name(places: 1, seconds: 90) {
        let mut cluster = Cluster::five().await;
        let http = cluster.http(0);
        http.put(kv("before"), "1").expect(204).await;
        cluster.log[1].stop(PATIENCE).await;
        std::fs::remove_dir_all(cluster.log_data(1)).expect("its folder can be deleted");
        let said_before = cluster.log[1].output().len();
        cluster.start_log(1);
        let log = std::cell::RefCell::new(&mut cluster.log[1]);
        duramen_tests::harness::until("the wiped node to be refused by name", PATIENCE, || async {
            let said = log.borrow().output().split_off(said_before);
            let refused = said.lines().any(|line| line.contains("folder") && line.contains("node 2"));
            if refused { Ok(()) } else { Err(said) }
        })
        .await;
        http.put(kv("after"), "2").expect(204).await;
        let ready = cluster.log_http(1).get("/readyz").limit(Duration::from_secs(2)).send().await;
        assert!(!ready.is_ok_and(|answer| answer.status == 200), "a refused node is not ready");
    }
}
