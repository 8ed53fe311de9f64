//! Any node honours any write's timestamp.

use crate::e2e;
use duramen_tests::harness::cluster::Plan;
use duramen_tests::harness::http::{Http, kv};
use duramen_tests::harness::{Answer, Cluster, Rng};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::task::JoinSet;

const PAIRS: usize = 100_000;
const WORKERS: usize = 192;
const SHARED_KEYS: usize = 64;

e2e! {
    /// Goal: a read that carries a write's timestamp is never older than that write, at any node, however far it lags.
    /// Method: 100,000 times, put at one node and read at the other with the token, half in each direction, under
    /// load, the second node applying late; many workers overwrite the same keys. The read must be at a version at or
    /// past the write's, with the write's own value when it is the same version.
    async fn a_read_with_a_token_is_never_older_than_its_write(places: 2, seconds: 240) {
        let serving_extra = vec![String::new(), "lag-ms = 10".to_owned()];
        let cluster = Cluster::start(Plan { serving_extra, proxied: false, ..Plan::default() }).await;
        let taken = Arc::new(AtomicUsize::new(0));
        let mut workers = JoinSet::new();
        for worker in 0..WORKERS {
            let (nodes, taken) = ([cluster.http(0), cluster.http(1)], Arc::clone(&taken));
            workers.spawn(async move {
                let mut rng = Rng::of_run(worker as u64);
                loop {
                    let number = taken.fetch_add(1, Ordering::Relaxed);
                    if number >= PAIRS {
                        break;
                    }
                    let key = kv(format!("shared/{}", rng.below(SHARED_KEYS)));
                    // One in eight is written at the lagging node and read at the other.
                    let (at, other) = if number % 8 == 0 { (&nodes[1], &nodes[0]) } else { (&nodes[0], &nodes[1]) };
                    pair(at, other, &key, &format!("{worker}:{number}")).await;
                }
            });
        }
        while let Some(worker) = workers.join_next().await {
            worker.expect("a worker panicked");
        }
        cluster.wait_same_digests().await;
    }
}

async fn pair(at: &Http, other: &Http, key: &str, value: &str) {
    let written = at.put(key, value.to_owned()).expect(204).await;
    let read: Answer = other.get(key).after(written.timestamp()).wait(30).expect(200).await;
    let (wrote, found) = (single(&written), single(&read));
    assert!(found >= wrote, "older than its write:\n{written}\n{read}");
    assert!(found != wrote || read.text() == value, "another value at the write's version:\n{written}\n{read}");
    let served = read.timestamp();
    let position = served.timestamps().next().expect("a read names its position").offset.get();
    assert!(position >= found, "a read served at {position} shows version {found}: {read}");
}

/// The offset of an answer's version.
fn single(answer: &Answer) -> u64 {
    answer.version().single().expect("a version is one timestamp").offset.get()
}

e2e! {
    /// Goal: compare-and-set from many clients at both nodes loses nothing. Method: 2,000 increments of one key, each a
    /// read and a guarded put that is tried again after 412; the sum must be exact, and every version acknowledged once.
    async fn two_thousand_concurrent_increments_add_up(places: 2, seconds: 150) {
        let cluster = Cluster::start(Plan { proxied: false, ..Plan::default() }).await;
        let nodes = [cluster.http(0), cluster.http(1)];
        let mut workers = JoinSet::new();
        for worker in 0..8usize {
            let http = nodes[worker % 2].clone();
            workers.spawn(async move {
                let mut versions = Vec::new();
                for _ in 0..250 {
                    versions.push(increment(&http).await);
                }
                versions
            });
        }
        let mut versions = Vec::new();
        while let Some(worker) = workers.join_next().await {
            versions.extend(worker.expect("a worker panicked"));
        }
        versions.sort_unstable();
        versions.dedup();
        assert_eq!(versions.len(), 2000, "two increments were acknowledged at one version");
        for http in &nodes {
            assert_eq!(http.get(kv("counter")).expect(200).await.text(), "2000");
        }
    }
}

async fn increment(http: &Http) -> u64 {
    loop {
        let read = http.get(kv("counter")).ok().await;
        let put = match read.status {
            404 => http.put(kv("counter"), "1").header("if-none-match", "*"),
            200 => {
                let next = read.text().parse::<u64>().expect("a number") + 1;
                let etag = read.header("etag").expect("a value has an ETag").to_owned();
                http.put(kv("counter"), next.to_string()).header("if-match", etag)
            }
            _ => panic!("{read}"),
        };
        let answer = put.ok().await;
        match answer.status {
            204 => return single(&answer),
            412 => assert_eq!(answer.problem(), "version-mismatch"),
            _ => panic!("{answer}"),
        }
    }
}

e2e! {
    /// Goal: the same with the Rust client, whose compare-and-set hides the retries. Method: 400 increments by value from
    /// 8 tasks over both nodes, then a session read elsewhere.
    async fn the_rust_client_counts_exactly_too(places: 1, seconds: 90) {
        let cluster = Cluster::five().await;
        crate::client::increments(&cluster).await;
    }
}
