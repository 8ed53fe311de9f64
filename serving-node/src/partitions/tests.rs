//! A node's partitions against a log in memory: what is read equals the plain fold of the prefix, whatever happened to the
//! index in between.

use super::damage_tests::files_below;
use super::*;
use crate::testing::{Draft, MemoryLog, Model, delete, event, guard, put};
use crate::view::{PartitionView, ReadError};
use bytes::Bytes;
use duramen_common::Offset;
use duramen_common::batch::{GuardCondition, Record};
use proptest::prelude::*;
use std::ops::Bound;
use std::path::Path;

const HISTORY: u32 = 0x00c7_f3a1;
pub(super) const P0: PartitionId = PartitionId::new(0);

fn history() -> HistoryId {
    HistoryId::from_bits(HISTORY)
}

fn memory() -> PartitionsConfig {
    PartitionsConfig { index: IndexKind::Memory, ..PartitionsConfig::default() }
}

pub(super) fn on_disk(folder: &Path, index: IndexKind) -> PartitionsConfig {
    PartitionsConfig {
        data_dir: Some(folder.to_path_buf()),
        index,
        cache_bytes: 8 << 20,
        flush_interval_ms: 5,
        ..PartitionsConfig::default()
    }
}

pub(super) fn disk_kinds() -> Vec<IndexKind> {
    if cfg!(feature = "fjall") { vec![IndexKind::Sled, IndexKind::Fjall] } else { vec![IndexKind::Sled] }
}

pub(super) async fn start(config: &PartitionsConfig, log: &Arc<MemoryLog>) -> Partitions {
    let shared = Arc::clone(log) as Arc<dyn Log>;
    Partitions::start(config.clone(), &log.cluster_info(), shared, Seams::system()).await.unwrap()
}

pub(super) fn soon() -> Instant {
    Instant::now() + Duration::from_secs(10)
}

pub(super) async fn caught_up(partitions: &Partitions, log: &MemoryLog) {
    for view in partitions.iter() {
        view.wait_applied(log.committed_end(view.partition()), soon()).await.unwrap();
    }
}

/// Keys with version and value.
type Live = Vec<(Vec<u8>, (Offset, Vec<u8>))>;

/// Everything live, through pages of `limit`.
fn scan_all(view: &PartitionView, limit: usize) -> Live {
    let mut found = Vec::new();
    let mut start: Bound<Bytes> = Bound::Unbounded;
    loop {
        let page = view.scan(start.as_ref().map(|key| &key[..]), Bound::Unbounded, limit).unwrap().value;
        let Some((last, _)) = page.last() else { return found };
        start = Bound::Excluded(last.clone());
        found.extend(page.into_iter().map(|(key, item)| (key.to_vec(), (item.version, item.value.to_vec()))));
    }
}

/// What is read here is the fold of the log's prefix.
pub(super) fn assert_is_fold(view: &PartitionView, log: &MemoryLog) {
    let end = view.status().applied_end.expect("it is shown");
    let model = Model::of(&log.batches(view.partition()), end);
    assert_eq!(scan_all(view, 7), model.live.clone().into_iter().collect::<Live>());
    for (key, (version, value)) in &model.live {
        let item = view.get(key).unwrap().value.expect("it is live");
        assert_eq!((item.version, &item.value[..]), (*version, &value[..]));
    }
    let settled_end = view.status().settled_end;
    for (&offset, &outcome) in model.outcomes.range(settled_end..) {
        assert_eq!(view.outcome(offset), Ok(Some(outcome)), "outcome of {offset}");
    }
    assert_eq!(view.outcome(end), Ok(None));
}

fn drafts() -> impl Strategy<Value = Record> {
    let key = || (0u8..12).prop_map(|number| format!("key-{number}"));
    let condition = prop_oneof![
        Just(GuardCondition::Absent),
        Just(GuardCondition::Exists),
        (0u64..120).prop_map(|version| GuardCondition::Version(Offset::new(version))),
    ];
    let update = prop_oneof![
        3 => (key(), 0u32..1000).prop_map(|(key, value)| put(&key, &value.to_string())),
        1 => key().prop_map(|key| delete(&key)),
    ];
    let updates = proptest::collection::vec(update, 0..3);
    let guards = proptest::collection::vec((key(), condition), 0..2);
    let record = (updates, guards).prop_map(|(updates, guards)| {
        let all = updates.into_iter().fold(Draft::default(), Draft::and);
        Record::from(guards.into_iter().fold(all, |draft, (key, condition)| draft.when(guard(&key, condition))))
    });
    prop_oneof![9 => record, 1 => Just(event("something else"))]
}

#[derive(Clone, Debug)]
enum Step {
    Append(Vec<Record>),
    Check,
    Restart,
    Compact(u64, u64),
    Replace,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        12 => proptest::collection::vec(drafts(), 1..12).prop_map(Step::Append),
        3 => Just(Step::Check),
        2 => Just(Step::Restart),
        1 => (0u64..150, 0u64..150).prop_map(|(settled_end, horizon)| Step::Compact(settled_end, horizon)),
        1 => Just(Step::Replace),
    ];
    proptest::collection::vec(step, 1..20)
}

async fn run_steps(config: &PartitionsConfig, steps: Vec<Step>) {
    let log = Arc::new(MemoryLog::new(history(), 1));
    let mut partitions = start(config, &log).await;
    for step in steps {
        match step {
            Step::Append(records) => {
                log.push(P0, records);
            }
            Step::Check => {}
            Step::Restart => {
                partitions.shutdown().await;
                drop(partitions);
                partitions = start(config, &log).await;
            }
            Step::Compact(settled_end, horizon) => {
                log.compact(P0, Offset::new(settled_end), Offset::new(horizon));
            }
            Step::Replace => {
                // Seen only by what follows: the node must have applied something of the old log, and the new one must
                // reach as far.
                let end = log.committed_end(P0);
                log.replace(P0);
                while log.committed_end(P0) < end {
                    log.push(P0, [put("replaced", "yes")]);
                }
                continue;
            }
        }
        settle(&partitions, &log).await;
        assert_is_fold(partitions.get(P0).unwrap(), &log);
    }
    partitions.shutdown().await;
}

/// Until what is shown is the whole log: after a replaced log, its end alone does not tell.
async fn settle(partitions: &Partitions, log: &MemoryLog) {
    let wanted = Model::of(&log.batches(P0), log.committed_end(P0));
    let view = partitions.get(P0).unwrap();
    let deadline = soon();
    loop {
        let shown = view.status().applied_end == Some(wanted.end);
        if shown && view.position().and_then(|position| position.last).is_none_or(|last| log.knows(P0, last)) {
            return;
        }
        assert!(Instant::now() < deadline, "not at {} but at {:?}", wanted.end, view.status());
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// Goal: a record that has a key twice leaves only its last update, also once that is a tombstone below the horizon.
#[tokio::test]
async fn a_record_that_puts_and_deletes_a_key_leaves_nothing_when_compacted() {
    let both = Record::from(put("key", "0").and(delete("key")));
    run_steps(&memory(), vec![Step::Append(vec![both]), Step::Compact(1, 1), Step::Restart]).await;
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]
    /// Goal: invariant 4. Method: random records with guards, restarts, compaction, another log; after each step every key,
    /// every page and every outcome against the plain fold.
    #[test]
    fn what_is_read_is_the_fold_of_the_prefix_in_memory(steps in steps()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(run_steps(&memory(), steps));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn what_is_read_is_the_fold_of_the_prefix_on_disk(steps in steps(), flush_bytes in 1usize..4096) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        for kind in disk_kinds() {
            let folder = tempfile::tempdir().unwrap();
            let config = PartitionsConfig { flush_bytes, ..on_disk(folder.path(), kind) };
            runtime.block_on(run_steps(&config, steps.clone()));
        }
    }
}

/// Goal: the digest depends on the state alone. Method: one log, every kind of index, flushed at different times.
#[tokio::test]
async fn digests_are_equal_whatever_the_index() {
    let log = Arc::new(MemoryLog::new(history(), 2));
    for number in 0..300u32 {
        let key = format!("key-{}", number % 70);
        let draft = if number % 9 == 0 { delete(&key) } else { put(&key, &"v".repeat(number as usize)) };
        log.push(PartitionId::new((number % 2) as u16), [draft]);
    }
    let mut digests = Vec::new();
    let folders: Vec<_> = disk_kinds().into_iter().map(|kind| (kind, tempfile::tempdir().unwrap())).collect();
    let mut configs = vec![memory()];
    configs.extend(folders.iter().map(|(kind, folder)| on_disk(folder.path(), *kind)));
    for config in configs {
        let partitions = start(&config, &log).await;
        caught_up(&partitions, &log).await;
        let before: Vec<_> = partitions.iter().map(|view| view.digest().unwrap()).collect();
        partitions.shutdown().await;
        assert_eq!(before, partitions.iter().map(|view| view.digest().unwrap()).collect::<Vec<_>>(), "after a flush");
        digests.push(before);
    }
    assert!(digests.windows(2).all(|pair| pair[0] == pair[1]), "{digests:?}");
    assert_ne!(digests[0][0].value, digests[0][1].value);
}

/// Goal: a page is the state at the applied end that it names. Method: a writer keeps all keys at one version by one record
/// each, so that a mixed page shows; flushes run all the time; threads scan meanwhile.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_read_while_batches_are_applied_is_of_one_position() {
    let folder = tempfile::tempdir().unwrap();
    let config = PartitionsConfig { flush_bytes: 1, flush_interval_ms: 1, ..on_disk(folder.path(), IndexKind::Sled) };
    let log = Arc::new(MemoryLog::new(history(), 1));
    let all = |value: u32| {
        let puts = (0..40).map(|key| put(&format!("key-{key:02}"), &value.to_string()));
        puts.fold(Draft::default(), Draft::and)
    };
    log.push(P0, [all(0)]);
    let partitions = start(&config, &log).await;
    caught_up(&partitions, &log).await;
    let (stop, stopped) = watch::channel(false);
    let readers: Vec<_> = (0..2)
        .map(|_| {
            let (view, stopped) = (Arc::clone(partitions.get(P0).unwrap()), stopped.clone());
            std::thread::spawn(move || {
                let mut pages = 0u32;
                while !*stopped.borrow() {
                    let page = view.scan(Bound::Unbounded, Bound::Unbounded, 1000).unwrap();
                    assert_eq!(page.value.len(), 40);
                    let wanted = page.applied_end.previous().unwrap();
                    assert!(page.value.iter().all(|(_, item)| item.version == wanted), "a page of several positions");
                    let read = view.get(b"key-07").unwrap();
                    assert_eq!(read.value.unwrap().version, read.applied_end.previous().unwrap());
                    pages += 1;
                }
                pages
            })
        })
        .collect();
    for value in 1..400 {
        log.push(P0, [all(value)]);
        if value % 20 == 0 {
            caught_up(&partitions, &log).await;
        }
    }
    stop.send_replace(true);
    for reader in readers {
        assert!(reader.join().unwrap() > 0);
    }
    partitions.shutdown().await;
}

/// Goal: invariant 5. Method: writes are appended while readers wait for exactly their ends; each must then see the write.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_waits_for_a_write_sees_it() {
    let log = Arc::new(MemoryLog::new(history(), 1));
    let partitions = start(&PartitionsConfig { lag: Duration::from_millis(1), ..memory() }, &log).await;
    let mut readers = Vec::new();
    for number in 0..500u32 {
        let (key, value) = (format!("key-{}", number % 50), number.to_string());
        let offset = log.push(P0, [put(&key, &value)]);
        let view = Arc::clone(partitions.get(P0).unwrap());
        readers.push(tokio::spawn(async move {
            view.wait_applied(offset.next(), soon()).await.unwrap();
            let read = view.get(key.as_bytes()).unwrap();
            assert!(read.applied_end > offset);
            assert!(read.value.unwrap().version >= offset, "an older value of {key}");
        }));
    }
    for reader in readers {
        reader.await.unwrap();
    }
    partitions.shutdown().await;
}

/// Goal: D11. Method: a log settled up to where a guard-free history ends, a commit that stays out, and a node that starts at 0:
/// what it shows is nothing until it is through.
#[tokio::test]
async fn nothing_shows_inside_a_settled_stretch() {
    let log = Arc::new(MemoryLog::new(history(), 1));
    log.push(P0, [put("a", "1")]);
    let folder = tempfile::tempdir().unwrap();
    let config = PartitionsConfig { fetch_bytes_max: 1, ..on_disk(folder.path(), IndexKind::Sled) };
    let partitions = start(&config, &log).await;
    caught_up(&partitions, &log).await;
    partitions.shutdown().await;
    drop(partitions);
    for value in 2..50 {
        log.push(P0, [put("a", &value.to_string())]);
        log.push(P0, [put("b", &value.to_string())]);
    }
    let settled_end = log.compact(P0, Offset::new(60), Offset::ZERO);
    let slow = PartitionsConfig { lag: Duration::from_millis(1), ..config };
    let partitions = start(&slow, &log).await;
    let view = partitions.get(P0).unwrap();
    assert_eq!(view.status().applied_end, Some(Offset::new(1)), "what was shown before the stop is a state");
    let mut changes = view.applied_changes();
    let mut seen_behind = false;
    while view.status().applied_end != Some(log.committed_end(P0)) {
        changes.changed().await.unwrap();
        match *changes.borrow_and_update() {
            None => {
                seen_behind = true;
                assert!(matches!(view.get(b"a"), Err(ReadError::Behind { .. })) || view.status().applied_end.is_some());
            }
            Some(end) => assert!(end == Offset::new(1) || end >= settled_end, "{end} lies inside"),
        }
    }
    assert!(seen_behind);
    assert_is_fold(view, &log);
    partitions.shutdown().await;
}

#[tokio::test]
async fn another_history_stops_the_node_with_a_sentence() {
    let log = Arc::new(MemoryLog::new(history(), 1));
    let partitions = start(&memory(), &log).await;
    log.become_other_history(HistoryId::from_bits(7));
    let sentence = partitions.failed().await;
    assert!(sentence.contains("000007") && sentence.contains("start it again"), "{sentence}");
    partitions.shutdown().await;
}

#[tokio::test]
async fn a_node_is_ready_when_it_has_caught_up_with_a_confirmed_end() {
    let log = Arc::new(MemoryLog::new(history(), 2));
    log.push(P0, [put("a", "1")]);
    log.stall(true);
    let config = PartitionsConfig { tail_timeout_ms: 20, fetch_wait_ms: 20, ..memory() };
    let partitions = start(&config, &log).await;
    while log.tails_asked() < 4 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert!(!partitions.is_ready(), "no leader has answered yet");
    assert!(matches!(partitions.get(P0).unwrap().get(b"a"), Err(ReadError::Behind { .. })));
    log.stall(false);
    let deadline = soon();
    while !partitions.is_ready() {
        assert!(Instant::now() < deadline);
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert!(partitions.get(P0).unwrap().get(b"a").unwrap().value.is_some());
    partitions.shutdown().await;
}

/// Goal: an index that must not be used is wiped and replayed. Method: each reason in turn, then the fold.
#[tokio::test]
async fn an_index_that_speaks_against_itself_is_wiped_and_replayed() {
    let folder = tempfile::tempdir().unwrap();
    let boot_id_path = folder.path().join("boot-id");
    std::fs::write(&boot_id_path, "first\n").unwrap();
    let config = PartitionsConfig { boot_id_path: boot_id_path.clone(), ..on_disk(folder.path(), IndexKind::Sled) };
    let files = folder.path().join("index").join("sled");
    let log = Arc::new(MemoryLog::new(history(), 1));
    for number in 0..50 {
        log.push(P0, [put(&format!("key-{number}"), "value")]);
    }
    let other = Arc::new(MemoryLog::new(HistoryId::from_bits(5), 1));
    for number in 0..80 {
        other.push(P0, [put(&format!("other-{number}"), "value")]);
    }

    let run = async |log: &Arc<MemoryLog>, clean: bool, resumes: bool| {
        let partitions = start(&config, log).await;
        let begun_at = partitions.get(P0).unwrap().status().persisted_end;
        assert_eq!(begun_at > Offset::ZERO, resumes, "it began at {begun_at}");
        caught_up(&partitions, log).await;
        assert_is_fold(partitions.get(P0).unwrap(), log);
        partitions.shutdown().await;
        drop(partitions);
        if !clean {
            let marker = folder.path().join("index").join("marker.json");
            crate::index::Marker::say_open_for_test(&marker);
        }
    };
    run(&log, true, false).await;
    run(&log, false, true).await;
    run(&log, false, true).await;
    std::fs::write(&boot_id_path, "second\n").unwrap();
    run(&log, true, false).await;
    std::fs::write(&boot_id_path, "third\n").unwrap();
    run(&log, true, true).await;
    run(&other, true, false).await;
    run(&log, true, false).await;
    for file in files_below(&files) {
        let length = std::fs::metadata(&file).unwrap().len();
        std::fs::write(file, vec![0xa5; length.min(4096) as usize]).unwrap();
    }
    run(&log, true, false).await;
}

#[tokio::test]
async fn a_folder_in_use_is_refused_and_not_wiped() {
    let folder = tempfile::tempdir().unwrap();
    let config = on_disk(folder.path(), IndexKind::Sled);
    let log = Arc::new(MemoryLog::new(history(), 1));
    log.push(P0, [put("a", "1")]);
    let partitions = start(&config, &log).await;
    caught_up(&partitions, &log).await;
    let shared = Arc::clone(&log) as Arc<dyn Log>;
    let second = Partitions::start(config.clone(), &log.cluster_info(), shared, Seams::system()).await;
    let Err(error) = second else { panic!("two nodes on one folder") };
    assert!(error.to_string().contains("in use"), "{error}");
    partitions.shutdown().await;
    drop(partitions);
    let partitions = start(&config, &log).await;
    assert_eq!(partitions.get(P0).unwrap().status().persisted_end, Offset::new(1));
    partitions.shutdown().await;
}

/// Goal: the overlay is bounded, and apply goes on as it drains. Method: far more data than the overlay may hold.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_than_the_overlay_holds_goes_through_it() {
    let folder = tempfile::tempdir().unwrap();
    let config = PartitionsConfig {
        overlay_bytes_max: 1 << 16,
        flush_bytes: 1 << 14,
        fetch_bytes_max: 1 << 14,
        ..on_disk(folder.path(), IndexKind::Sled)
    };
    let log = Arc::new(MemoryLog::new(history(), 1));
    for number in 0..300u32 {
        log.push(P0, [put(&format!("key-{}", number % 90), &"x".repeat(2000))]);
    }
    log.push(P0, [put("large", &"y".repeat(1 << 20))]);
    let partitions = start(&config, &log).await;
    caught_up(&partitions, &log).await;
    assert_is_fold(partitions.get(P0).unwrap(), &log);
    partitions.shutdown().await;
    assert_is_fold(partitions.get(P0).unwrap(), &log);
}

/// Goal: a new cluster serves at once. Method: an empty log, whose fetches park for longer than the reader waits.
#[tokio::test]
async fn an_empty_log_is_caught_up_with_at_once() {
    let log = Arc::new(MemoryLog::new(history(), 1));
    let partitions = start(&PartitionsConfig { fetch_wait_ms: 30_000, ..memory() }, &log).await;
    partitions.get(P0).unwrap().wait_applied(Offset::ZERO, soon()).await.unwrap();
    assert_eq!(partitions.get(P0).unwrap().get(b"a").unwrap().value, None);
    partitions.shutdown().await;
}
