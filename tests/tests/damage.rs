//! Damage to a log node's files: never served, repaired from a peer, or refused with file and position.
//!
//! The tests know no file format: they find a value's bytes in the folder and change them there.

use crate::e2e;
use duramen_tests::harness::cluster::{PATIENCE, Plan};
use duramen_tests::harness::files::{end_of_bytes, find, flip, open};
use duramen_tests::harness::http::kv;
use duramen_tests::harness::{Cluster, Rng, until};
use std::os::unix::fs::FileExt as _;
use std::time::Duration;

/// What the value reads like after [`flip`] hit its first byte.
fn flipped(value: &str) -> String {
    let mut bytes = value.as_bytes().to_vec();
    bytes[0] ^= 1;
    String::from_utf8(bytes).expect("it stays ASCII")
}

async fn log_text(cluster: &Cluster, number: usize) -> String {
    let mut text = String::new();
    for partition in 0..cluster.partitions {
        let call = cluster.log_http(number).get(format!("/v1/log/{partition}?from=0&limit=1000&wait=0"));
        if let Ok(answer) = call.limit(Duration::from_secs(5)).send().await {
            text.push_str(&answer.text());
        }
    }
    text
}

/// Three log nodes, one partition, some values; the last of them was the last thing acknowledged.
async fn with_values(rng: &mut Rng, count: usize) -> (Cluster, Vec<String>) {
    let cluster = Cluster::start(Plan { partitions: 1, ..Plan::default() }).await;
    let mut values = Vec::new();
    for number in 0..count {
        let value = format!("a-{:016x}{:016x}-{number}", rng.bits(), rng.bits());
        cluster.http(0).put(kv(format!("k{number}")), value.clone()).expect(204).await;
        values.push(value);
    }
    // Every log node has them: it serves what is committed and durable there.
    for number in 0..cluster.log.len() {
        let last = values.last().expect("at least one").clone();
        until("every log node to have every value", PATIENCE, || async {
            if log_text(&cluster, number).await.contains(&last) { Ok(()) } else { Err(format!("log-{number}")) }
        })
        .await;
    }
    (cluster, values)
}

/// Damages one value in a stopped node's folder, starts the node among its peers: it must repair itself.
async fn damaged_among_peers(which: impl Fn(usize) -> usize, clean_stop: bool) {
    let mut rng = Rng::of_run(if clean_stop { 1 } else { 2 });
    let (mut cluster, values) = with_values(&mut rng, 40).await;
    let value = values[which(values.len())].clone();
    match clean_stop {
        true => assert!(cluster.log[1].stop(PATIENCE).await.success(), "SIGTERM is a clean end"),
        false => cluster.log[1].kill(),
    }
    let places = find(&cluster.log_data(1), value.as_bytes());
    assert_eq!(places.len(), 1, "the log has one copy of a value: {places:?}");
    let (file, at) = &places[0];
    flip(file, *at);
    let said_before = cluster.log[1].output().len();
    cluster.start_log(1);
    cluster.wait_log_ready(1).await;
    until("the damaged node to serve the value whole", PATIENCE, || async {
        let text = log_text(&cluster, 1).await;
        assert!(!text.contains(&flipped(&value)), "a flipped bit was served");
        if text.contains(&value) { Ok(()) } else { Err("not yet".to_owned()) }
    })
    .await;
    let said = cluster.log[1].output().split_off(said_before);
    let name = file.file_name().expect("a file").to_string_lossy().into_owned();
    assert!(said.contains("damaged") && said.contains(&name), "it does not say what it repaired ({name}): {said}");
    until("the file to be whole again", PATIENCE, || async {
        match find(&cluster.log_data(1), value.as_bytes()).len() {
            0 => Err("not yet".to_owned()),
            _ => Ok(()),
        }
    })
    .await;
    // It carries its share: with another node gone, writes go on.
    cluster.log[2].kill();
    cluster.http(0).put(kv("after"), "repaired").wait(20).expect(204).await;
    assert_eq!(cluster.http(1).get(kv("k0")).wait(20).expect(200).await.text(), values[0]);
}

e2e! {
    /// Goal: a flipped bit in the middle of the log is repaired from a peer. Method: SIGKILL, flip, start.
    async fn a_flipped_bit_in_the_middle_is_repaired_from_a_peer(places: 1, seconds: 90) {
        damaged_among_peers(|count| count / 2, false).await;
    }
}

e2e! {
    /// Goal: the last acknowledged frame is covered too. Method: clean stop, flip in the last value, start.
    async fn a_flipped_bit_in_the_last_acknowledged_frame_is_repaired(places: 1, seconds: 90) {
        damaged_among_peers(|count| count - 1, true).await;
    }
}

e2e! {
    /// Goal: damage that nobody can repair is refused with file and position, and never served. Method: all nodes are
    /// stopped, a bit is flipped at one, and it is started alone; then its peers come and it is repaired.
    async fn damage_without_a_peer_is_refused_with_file_and_position(places: 1, seconds: 120) {
        let mut rng = Rng::of_run(3);
        let (mut cluster, values) = with_values(&mut rng, 20).await;
        for process in cluster.serving.iter_mut().chain(&mut cluster.log) {
            process.stop(PATIENCE).await;
        }
        let value = values[10].clone();
        let (file, at) = find(&cluster.log_data(0), value.as_bytes()).remove(0);
        flip(&file, at);
        let said_before = cluster.log[0].output().len();
        cluster.start_log(0);
        let name = file.file_name().expect("a file").to_string_lossy().into_owned();
        let cell = std::cell::RefCell::new(&mut cluster.log[0]);
        until("the damage to be told", PATIENCE, || async {
            let said = cell.borrow().output().split_off(said_before);
            let told = said.lines().any(|line| line.contains(&name) && line.chars().any(|c| c.is_ascii_digit()));
            if told { Ok(()) } else { Err(said) }
        })
        .await;
        assert!(!log_text(&cluster, 0).await.contains(&flipped(&value)), "a flipped bit was served");
        if cluster.log[0].check_alive().is_err() {
            cluster.log[0].kill();
        }
        cluster.start_all();
        cluster.wait_ready().await;
        assert_eq!(cluster.http(0).get(kv("k10")).wait(20).expect(200).await.text(), value);
        assert!(log_text(&cluster, 0).await.contains(&value));
    }
}

e2e! {
    /// Goal: nodes that are damaged in different partitions repair each other, with nobody else there. Method: one value of each of
    /// two partitions is overwritten, at another node each; the third node stays away.
    async fn two_damaged_nodes_repair_each_other(places: 1, seconds: 120) {
        let mut cluster = Cluster::start(Plan { partitions: 2, ..Plan::default() }).await;
        let value = |number: usize| format!("a-value-that-is-not-guessed-from-one-bit-{number}");
        for number in 0..16 {
            cluster.http(0).put(kv(format!("k{number}")), value(number)).expect(204).await;
        }
        for number in 0..3 {
            until("every log node to have every value", PATIENCE, || async {
                let text = log_text(&cluster, number).await;
                let missing = (0..16).find(|&other| !text.contains(&value(other)));
                missing.map_or(Ok(()), |missing| Err(format!("log-{number}: {missing}")))
            })
            .await;
        }
        // A clean stop marks what is durable: after a kill, the last group might pass for a torn tail.
        for process in &mut cluster.log {
            assert!(process.stop(PATIENCE).await.success(), "SIGTERM is a clean end");
        }
        for (number, partition) in [(0, "0"), (1, "1")] {
            let folder = cluster.log_data(number).join("partitions").join(partition);
            let (file, at) = (0..16).find_map(|other| find(&folder, value(other).as_bytes()).pop()).expect("a value");
            open(&file).write_all_at(b"something else", at as u64).expect("a writable file");
        }
        let said_before: Vec<usize> = cluster.log.iter().map(|process| process.output().len()).collect();
        for number in [0, 1] {
            cluster.start_log(number);
        }
        for number in [0, 1] {
            cluster.wait_log_ready(number).await;
            let said = cluster.log[number].output().split_off(said_before[number]);
            assert!(said.contains("the log is whole again"), "log-{number} was not damaged: {said}");
        }
        for number in 0..16 {
            let read = cluster.http(0).get(kv(format!("k{number}"))).wait(20).expect(200).await.text();
            assert_eq!(read, value(number));
        }
    }
}

e2e! {
    /// Goal: a torn tail is cut, and the node catches up. Method: when the idle node has written what it writes behind the
    /// last entry, it gets SIGKILL; then noise is written behind the last bytes of its file, as a crash leaves a write that
    /// was under way; or the file ends within that last frame.
    async fn a_torn_tail_is_cut_and_caught_up(places: 1, seconds: 120) {
        let mut rng = Rng::of_run(4);
        let (mut cluster, values) = with_values(&mut rng, 20).await;
        let mut last = values.last().expect("some").clone();
        for tear in ["noise", "cut"] {
            let (file, _) = find(&cluster.log_data(1), last.as_bytes()).remove(0);
            until("the idle node to have written its mark", PATIENCE, || async {
                let (_, at) = find(&cluster.log_data(1), last.as_bytes()).remove(0);
                let behind = end_of_bytes(&file) - at - last.len();
                if behind > 16 { Ok(()) } else { Err(format!("{behind} bytes behind the last entry")) }
            })
            .await;
            cluster.log[1].kill();
            let end = end_of_bytes(&file);
            match tear {
                "noise" => {
                    let noise: Vec<u8> = rng.bytes(100).into_iter().map(|byte| byte | 1).collect();
                    let at = end.next_multiple_of(8) + 32;
                    open(&file).write_all_at(&noise, at as u64).expect("a writable file");
                }
                _ => open(&file).set_len(end as u64 - 2).expect("a file that can be cut"),
            }
            let meanwhile = format!("meanwhile-{:016x}", rng.bits());
            cluster.http(0).put(kv("meanwhile"), meanwhile.clone()).wait(20).expect(204).await;
            cluster.start_log(1);
            cluster.wait_log_ready(1).await;
            until("the node to catch up", PATIENCE, || async {
                let text = log_text(&cluster, 1).await;
                let whole = values.iter().chain([&meanwhile]).all(|value| text.contains(value));
                if whole { Ok(()) } else { Err(text.lines().last().unwrap_or_default().to_owned()) }
            })
            .await;
            last = meanwhile;
        }
        cluster.log[2].kill();
        cluster.http(0).put(kv("after"), "cut").wait(20).expect(204).await;
        cluster.wait_same_digests().await;
    }
}
