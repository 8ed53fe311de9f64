//! A serving node that cannot reach the log says so, and never answers from the past unless asked to.

use crate::e2e;
use duramen_tests::harness::cluster::PATIENCE;
use duramen_tests::harness::http::kv;
use duramen_tests::harness::{Cluster, until};

e2e! {
    /// Goal: linearizable reads at a cut-off node are 503, token reads past its state are 503 `behind`, `stale` goes on,
    /// and nothing old is ever shown for something new. Method: the links from one serving node to every log node are
    /// cut; the other node writes; then the links heal.
    async fn a_serving_node_cut_off_from_the_log_never_answers_from_the_past(places: 1, seconds: 120) {
        let cluster = Cluster::five().await;
        let (whole, cut) = (cluster.http(0), cluster.http(1));
        let old = whole.put(kv("k"), "old").expect(204).await;
        assert_eq!(cut.get(kv("k")).after(old.timestamp()).wait(30).expect(200).await.text(), "old");

        cluster.network.cut("serving-2", &["log-1", "log-2", "log-3"]);
        let new = whole.put(kv("k"), "new").expect(204).await;
        for round in 0..3 {
            let answer = cut.get(kv("k")).wait(1).ok().await;
            assert_eq!(answer.status, 503, "round {round}: a cut-off node cannot know: {answer}");
            assert!(["no-leader", "behind"].contains(&answer.problem().as_str()), "{answer}");
            assert!(answer.header("retry-after").is_some(), "{answer}");
            let _ = cut.get(kv("k")).after(new.timestamp()).wait(1).ok().await.expect_problem(503, "behind");
            let both = cut.get(kv("k") + "?consistency=linearizable").after(old.timestamp()).wait(1).ok().await;
            assert_eq!(both.status, 503, "{both}");
            let stale = cut.get(kv("k") + "?consistency=stale").expect(200).await;
            assert_eq!(stale.text(), "old");
            assert_eq!(stale.version(), old.version());
            // What it has seen, it may serve.
            assert_eq!(cut.get(kv("k")).after(old.timestamp()).expect(200).await.text(), "old");
            let scan = cut.get("/v1/kv?prefix=k").wait(1).ok().await;
            assert_eq!(scan.status, 503, "a linearizable scan: {scan}");
        }
        let write = cut.put(kv("k2"), "x").wait(1).ok().await;
        assert!(
            write.status == 503 && ["no-leader", "outcome-unknown"].contains(&write.problem().as_str()),
            "a write that cannot reach the log: {write}"
        );
        let guarded = cut.put(kv("k"), "x").header("if-match", "\"ffffff.0:1\"").wait(1).ok().await;
        assert_ne!(guarded.status, 204, "{guarded}");

        cluster.network.heal();
        until("linearizable reads to come back by themselves", PATIENCE, || async {
            let answer = cut.get(kv("k")).wait(2).send().await.map_err(|error| error.to_string())?;
            if answer.status == 200 { Ok(answer) } else { Err(answer.to_string()) }
        })
        .await;
        assert_eq!(cut.get(kv("k")).after(new.timestamp()).expect(200).await.text(), "new");
        cluster.wait_same_digests().await;
        cluster.check_same_logs().await;
    }
}

e2e! {
    /// Goal: a leader cut off from its peers, but not from a serving node, confirms nothing. Method: the links between
    /// one partition's leader and the other log nodes are cut; reads and writes go on through the others, and the old
    /// leader's committed state never shows an old value as a linearizable one.
    async fn a_leader_cut_off_from_its_peers_confirms_nothing(places: 1, seconds: 120) {
        let cluster = Cluster::five().await;
        let http = cluster.http(0);
        let leader = cluster.leader_of(0).await;
        let name = format!("log-{}", leader + 1);
        let others: Vec<String> = (1..=3).filter(|&n| n != leader + 1).map(|n| format!("log-{n}")).collect();
        let others: Vec<&str> = others.iter().map(String::as_str).collect();
        for key in 0..16 {
            http.put(kv(format!("k{key}")), "old").expect(204).await;
        }
        cluster.network.cut(&name, &others);
        for key in 0..16 {
            let key = kv(format!("k{key}"));
            let version = until("a write past the cut", PATIENCE, || async {
                let answer = http.put(&*key, "new").wait(2).send().await.map_err(|error| error.to_string())?;
                if answer.status == 204 { Ok(answer.version()) } else { Err(answer.to_string()) }
            })
            .await;
            let read = cluster.http(1).get(&*key).wait(10).expect(200).await;
            assert_eq!((read.text(), read.version()), ("new".to_owned(), version), "{read}");
        }
        // The cut-off node's own tail must refuse, not answer its old end.
        let tail = cluster.log_http(leader).get("/v1/log/0/tail").limit(PATIENCE).send().await;
        assert!(!tail.is_ok_and(|answer| answer.status == 200), "a cut-off leader confirmed its end");
        cluster.network.heal();
        cluster.wait_same_digests().await;
        cluster.check_same_logs().await;
    }
}

e2e! {
    /// Goal: broken connections are no events. Method: 40 times, every connection from a serving node to a log node is
    /// closed while it writes; nothing is lost, nothing is lied about.
    async fn severed_connections_lose_nothing(places: 1, seconds: 90) {
        use duramen_tests::harness::writers::{Writers, check, everything};
        let cluster = Cluster::five().await;
        let writers = Writers::start(8, &[cluster.http(0), cluster.http(1)]);
        for round in 0..40 {
            let log = format!("log-{}", round % 3 + 1);
            cluster.network.sever("serving-1", &log);
            cluster.network.sever("serving-2", &log);
            writers.wait_for_more(20, PATIENCE).await;
        }
        let told = writers.finish().await;
        for number in 0..2 {
            check(&told, &everything(&cluster.http(number), "w").await, "a node");
        }
        cluster.wait_same_digests().await;
        cluster.check_same_logs().await;
    }
}
