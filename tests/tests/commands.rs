//! The commands of `duramen` against a cluster: what they print and how they exit.

use crate::e2e;
use duramen_tests::harness::cluster::PATIENCE;
use duramen_tests::harness::process::{Process, Ran, run};
use duramen_tests::harness::{Cluster, until};
use rustix::process::Signal;
use serde_json::Value;

fn lines_of_json(ran: &Ran) -> Vec<Value> {
    ran.stdout
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")))
        .collect()
}

e2e! {
    /// Goal: every command's happy path and its exit codes. Method: each command as a process, with and without --json.
    async fn the_commands_print_and_exit_as_documented(places: 1, seconds: 120) {
        let cluster = Cluster::five().await;
        let urls = cluster.urls();
        let (one, two) = (urls[0].as_str(), urls[1].as_str());
        let put = run(&["put", "k", "v1", "--url", one], b"").await.expect_code(0);
        let token = put.stdout.trim().to_owned();
        let got = run(&["get", "k", "--after", &token, "--url", two], b"").await.expect_code(0);
        assert_eq!(got.stdout.trim_end(), "v1");
        let stale = run(&["get", "k", "--consistency", "stale", "--url", two], b"").await.expect_code(0);
        assert_eq!(stale.stdout.trim_end(), "v1");
        let stdin = run(&["put", "bin", "-", "--url", one], &[b'a', 0, b'b']).await.expect_code(0);
        assert!(stdin.stderr.is_empty(), "{}", stdin.stderr);
        assert_eq!(run(&["get", "bin", "--url", two], b"").await.expect_code(0).stdout, "a\0b");
        let json = run(&["get", "k", "--json", "--url", two], b"").await.expect_code(0);
        let json = &lines_of_json(&json)[0];
        assert_eq!((json["key"].as_str(), json["value"].as_str()), (Some("k"), Some("v1")), "{json}");
        assert_eq!(json["version"].as_str(), Some(token.as_str()), "{json}");

        let missing = run(&["get", "nothing", "--url", one], b"").await.expect_code(1);
        missing.expect_one_line();
        let lost = run(&["put", "k", "v", "--if-match", &token, "--url", one], b"").await.expect_code(0);
        let refused = run(&["put", "k", "v", "--if-match", &token, "--url", one], b"").await.expect_code(1);
        refused.expect_one_line();
        let _ = run(&["put", "k", "v", "--if-absent", "--url", one], b"").await.expect_code(1);
        let newer = lost.stdout.trim().to_owned();
        let _ = run(&["delete", "k", "--if-match", &newer, "--url", two], b"").await.expect_code(0);
        let _ = run(&["get", "k", "--url", one], b"").await.expect_code(1);
        let _ = run(&["fly"], b"").await.expect_code(2);
        let _ = run(&["put"], b"").await.expect_code(2);
        let _ = run(&["get", "k", "--after", "nonsense", "--url", one], b"").await.expect_code(2);
        let _ = run(&["--help"], b"").await.expect_code(0);
        let _ = run(&["--version"], b"").await.expect_code(0);
        let dead = run(&["get", "k", "--wait", "2", "--url", "http://127.0.0.1:1"], b"").await.expect_code(1);
        dead.expect_one_line();
        scans_and_watches(&cluster, one, two).await;
        log_and_status(&cluster, one).await;
        bench(one).await;
    }
}

async fn scans_and_watches(cluster: &Cluster, one: &str, two: &str) {
    let args = ["watch", "--prefix", "w/", "--json", "--url", two];
    let mut watch = Process::new("watch", &cluster.folder(), args.iter().map(Into::into).collect());
    watch.start();
    // It watches from now, so write until it has seen something.
    let seen = std::cell::RefCell::new(&mut watch);
    let first = until("the watch to see a put", PATIENCE, || async {
        let _ = run(&["put", "w/a", "1", "--url", one], b"").await.expect_code(0);
        seen.borrow().output().lines().find(|line| line.contains("w/a")).map(str::to_owned).ok_or_else(String::new)
    })
    .await;
    let first: Value = serde_json::from_str(&first).unwrap_or_else(|error| panic!("{error}: {first}"));
    assert_eq!((first["event"].as_str(), first["value"].as_str()), (Some("put"), Some("1")), "{first}");
    let _ = run(&["delete", "w/a", "--url", one], b"").await.expect_code(0);
    until("the watch to see a delete", PATIENCE, || async {
        let output = seen.borrow().output();
        if output.contains("\"delete\"") { Ok(()) } else { Err(output) }
    })
    .await;
    watch.signal(Signal::INT);
    assert_eq!(watch.wait_end(PATIENCE).await.code(), Some(0), "Ctrl-C ends a watch cleanly");
    for key in ["z/1", "z/2", "z/3"] {
        let _ = run(&["put", key, key, "--url", one], b"").await.expect_code(0);
    }
    let scan = run(&["scan", "--prefix", "z/", "--url", two], b"").await.expect_code(0);
    assert_eq!(scan.stdout, "z/1\tz/1\nz/2\tz/2\nz/3\tz/3\n");
    let scan = run(&["scan", "--prefix", "z/", "--limit", "2", "--json", "--url", two], b"").await.expect_code(0);
    assert_eq!(lines_of_json(&scan).len(), 2);
}

async fn log_and_status(cluster: &Cluster, one: &str) {
    let log_urls = cluster.log_urls().join(",");
    let appended = run(&["log", "append", "1", "an event", "--log-url", &log_urls], b"").await.expect_code(0);
    assert!(appended.stdout.contains("1:"), "{}", appended.stdout);
    let tail = run(&["log", "tail", "1", "--log-url", &log_urls], b"").await.expect_code(0);
    assert!(tail.stdout.contains("an event"), "{}", tail.stdout);
    let tail = run(&["log", "tail", "1", "--json", "--from", "0", "--log-url", &log_urls], b"").await.expect_code(0);
    assert!(lines_of_json(&tail).iter().any(|record| record["event"] == "an event"), "{}", tail.stdout);
    let status = run(&["status", "--digest", "--url", one, "--log-url", &log_urls], b"").await.expect_code(0);
    assert!(status.stdout.contains("serving-1") && status.stdout.contains("serving-2"), "{}", status.stdout);
    let status = run(&["status", "--digest", "--json", "--url", one, "--log-url", &log_urls], b"").await.expect_code(0);
    let status: Value =
        serde_json::from_str(&status.stdout).unwrap_or_else(|error| panic!("{error}: {}", status.stdout));
    assert_eq!(status["nodes"].as_array().map(Vec::len), Some(2), "{status}");
}

async fn bench(one: &str) {
    let bench = run(&["bench", "--help"], b"").await.expect_code(0);
    assert!(bench.stdout.contains("clients"), "{}", bench.stdout);
    let _ = one;
}

e2e! {
    /// Goal: exit code 3 and the idempotency key for an unknown outcome. Method: a put while only one of three log nodes
    /// lives; whichever of "failed" and "unknown" it is, the key tells the truth afterwards.
    async fn a_put_without_a_majority_exits_with_failed_or_unknown(places: 1, seconds: 90) {
        let mut cluster = Cluster::five().await;
        let url = cluster.urls()[0].clone();
        cluster.log[0].kill();
        cluster.log[1].kill();
        let args = ["put", "k", "v", "--wait", "3", "--idempotency-key", "try", "--url", &url];
        let ran = run(&args, b"").await;
        assert!([1, 3].contains(&ran.code), "{ran:?}");
        ran.expect_one_line();
        assert!(ran.code != 3 || ran.stderr.contains("try"), "{}", ran.stderr);
        cluster.start_all();
        cluster.wait_ready().await;
        let again = run(&["put", "k", "v", "--wait", "20", "--idempotency-key", "try", "--url", &url], b"").await;
        let first = again.expect_code(0).stdout;
        let same = run(&args, b"").await.expect_code(0).stdout;
        assert_eq!(first, same, "the same write");
    }
}
