//! The Rust client against real nodes: what it hides must still be true.

use crate::e2e;
use duramen_client::kv::{Client, ClientConfig, Session};
use duramen_tests::harness::Cluster;
use duramen_tests::harness::cluster::PATIENCE;
use std::collections::BTreeMap;

fn client(cluster: &Cluster) -> Client {
    Client::new(ClientConfig::new(cluster.urls())).expect("the addresses are right")
}

/// 400 increments by value from 8 tasks over both nodes.
pub async fn increments(cluster: &Cluster) {
    let mut tasks = tokio::task::JoinSet::new();
    for task in 0..8usize {
        let client = client(cluster).starting_at(task % 2);
        tasks.spawn(async move {
            for _ in 0..50 {
                loop {
                    let got = client.get("counter").await.expect("a read");
                    let value: u64 = got
                        .value()
                        .map_or(0, |value| std::str::from_utf8(value).expect("text").parse().expect("a number"));
                    let swapped = client.compare_and_set("counter", got.version(), (value + 1).to_string()).await;
                    match swapped {
                        Ok(_) => break,
                        Err(duramen_client::kv::Error::VersionMismatch { .. }) => {}
                        Err(error) => panic!("{error}"),
                    }
                }
            }
        });
    }
    while let Some(task) = tasks.join_next().await {
        task.expect("a task panicked");
    }
    let got = client(cluster).get("counter").await.expect("a read");
    assert_eq!(got.value().map(AsRef::as_ref), Some(b"400".as_slice()));
}

e2e! {
    /// Goal: the client goes to another node when one is dead, and its session keeps its promises there. Method: writes
    /// and reads through a session while each serving node in turn is killed and restarted.
    async fn the_rust_client_survives_a_dead_serving_node(places: 1, seconds: 90) {
        let mut cluster = Cluster::five().await;
        let session = Session::new(client(&cluster));
        let mut wrote = BTreeMap::new();
        for round in 0..4usize {
            cluster.serving[round % 2].kill();
            for number in 0..10 {
                let (key, value) = (format!("s/{number}"), format!("{round}-{number}"));
                session.put(&key, value.clone()).await.unwrap_or_else(|error| panic!("round {round}: {error}"));
                let got = session.get(&key).await.unwrap_or_else(|error| panic!("round {round}: {error}"));
                assert_eq!(got.value().map(|value| value.to_vec()), Some(value.clone().into_bytes()));
                wrote.insert(key, value);
            }
            cluster.start_serving(round % 2);
            cluster.wait_serving_ready(round % 2).await;
        }
        for process in &mut cluster.serving {
            process.stop(PATIENCE).await;
        }
        cluster.start_all();
        cluster.wait_ready().await;
        for (key, value) in wrote {
            let got = session.get(&key).await.expect("a read after a restart");
            assert_eq!(got.value().map(|value| value.to_vec()), Some(value.into_bytes()));
        }
    }
}
