//! Failing syncs, full disks, second instances.

use super::*;
use crate::disk::Disk as _;
use std::sync::atomic::AtomicBool;

/// Goal: after a failed sync nothing more is acknowledged or written, in order, while reads go on; a restart recovers.
#[test]
fn a_failed_sync_stops_acknowledgements() {
    let disk = MemDisk::new();
    let (store, log) = open(&disk).unwrap();
    let answers = Answers::default();
    log.append(vec![entry(1, 0, 1)], answers.callback(0)).unwrap();
    store.step();
    log.append(vec![entry(1, 1, 1)], answers.callback(1)).unwrap();
    log.append(vec![entry(1, 2, 1)], answers.callback(2)).unwrap();
    disk.fail_next_sync();
    store.step();
    assert!(log.append(vec![entry(1, 3, 1)], answers.callback(3)).is_err());
    let writes = disk.calls().len();
    store.step();
    store.step_idle();
    assert_eq!(disk.calls().len(), writes, "a poisoned store does not write");
    assert_eq!(*answers.0.lock(), [(0, true), (1, false), (2, false), (3, false)]);
    assert_eq!(log.ends().durable_end.get(), 1);
    assert_eq!(all(&log).len(), 3, "reads go on");
    assert!(store.poisoned().unwrap().contains("sync failed"));
    assert!(matches!(
        block(&store, log.save_vote(crate::store::StoredVote { term: 2, node: 1, committed: false })),
        Err(StoreError::Poisoned { .. })
    ));
    drop((store, log));
    disk.crash(0);
    let (_store, log) = open(&disk).unwrap();
    assert!(!all(&log).is_empty());
}

/// Goal: one failing partition stops the others too, and a callback behind a failure never says yes.
/// Method: two partitions in one round; the first's sync fails.
#[test]
fn nothing_is_acknowledged_past_a_failure_in_the_same_round() {
    let disk = MemDisk::new();
    let (store, log) = open(&disk).unwrap();
    let other = store.open_partition(PartitionId::new(1)).unwrap();
    let answers = Answers::default();
    log.append(vec![entry(1, 0, 1)], answers.callback(0)).unwrap();
    other.append(vec![entry(1, 0, 1)], answers.callback(1)).unwrap();
    disk.fail_next_sync();
    store.step();
    assert_eq!(*answers.0.lock(), [(0, false), (1, false)]);
}

/// Goal: nothing is acknowledged before a sync returned. Method: look at the calls between append and answer.
#[test]
fn an_answer_comes_after_the_sync_of_its_bytes() {
    let disk = MemDisk::new();
    let (store, log) = open(&disk).unwrap();
    let answers = Answers::default();
    let before = disk.calls().len();
    log.append(vec![entry(1, 0, 3)], answers.callback(0)).unwrap();
    assert!(answers.0.lock().is_empty());
    assert_eq!((log.ends().durable_end.get(), log.ends().append_end.get()), (0, 3));
    store.step();
    let calls = disk.calls()[before..].to_vec();
    assert!(
        matches!(calls[..], [crate::disk::DiskCall::Write { .. }, crate::disk::DiskCall::Sync { .. }]),
        "{calls:?}"
    );
    assert_eq!(log.ends().durable_end.get(), 3);
    assert_eq!(*answers.0.lock(), [(0, true)]);
}

/// Goal: a full disk is refused before it happens, and votes still go through. When space returns, so do appends.
#[test]
fn a_full_disk_is_seen_before_it_happens() {
    let disk = MemDisk::new();
    disk.set_quota(Some(40_000));
    let config = StoreConfig { reserve_bytes: 16_384, ..config() };
    let (store, log) = open_with(&disk, config, 0).unwrap();
    let mut index = 0;
    while store.has_room(Need::New) {
        append(&log, vec![entry(1, index, 4)]);
        store.step();
        index += 1;
        assert!(index < 10_000, "the disk never fills up");
    }
    assert!(index > 10);
    for term in 2..12 {
        let vote = crate::store::StoredVote { term, node: 1, committed: false };
        block(&store, log.save_vote(vote)).unwrap();
    }
    assert!(store.poisoned().is_none());
    disk.set_quota(Some(400_000));
    assert!(store.has_room(Need::New));
    append(&log, vec![entry(20, index, 4)]);
    store.step();
    assert_eq!(log.ends().durable_end, log.ends().append_end);
}

#[test]
fn a_second_instance_on_the_folder_is_refused() {
    let disk = MemDisk::new();
    let (store, log) = open(&disk).unwrap();
    let error = open(&disk).map(|_| ()).unwrap_err();
    assert!(matches!(error, StoreError::InUse { .. }));
    assert!(error.to_string().contains("/data is in use by another process"), "{error}");
    assert!(matches!(store.open_partition(PARTITION), Err(StoreError::AlreadyOpen { .. })));
    store.close();
    drop((store, log));
    open(&disk).unwrap();
}

#[test]
fn a_second_instance_on_a_real_folder_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let disk: Arc<dyn crate::disk::Disk> = Arc::new(crate::disk::RealDisk);
    let first = DataFolder::lock(Arc::clone(&disk), folder.path()).unwrap();
    assert!(matches!(DataFolder::lock(Arc::clone(&disk), folder.path()), Err(StoreError::InUse { .. })));
    std::fs::remove_file(folder.path().join("LOCK")).unwrap();
    let refused = DataFolder::lock(Arc::clone(&disk), folder.path()).err().unwrap();
    assert!(matches!(refused, StoreError::InUse { .. }), "the lock is not on the file: {refused}");
    drop(first);
    DataFolder::lock(disk, folder.path()).unwrap();
}

/// Goal: appends wait while too much is not durable yet, and go on when it is.
#[test]
fn appends_wait_for_the_queue() {
    let disk = MemDisk::new();
    let (store, log) = open_with(&disk, StoreConfig { queue_bytes_max: 100, ..config() }, 0).unwrap();
    append(&log, vec![entry(1, 0, 4)]);
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let waiting = log.wait_writable();
        tokio::pin!(waiting);
        assert!(futures_util::poll!(&mut waiting).is_pending());
        store.step();
        waiting.await.unwrap();
    });
}

/// Goal: the real disk and the thread do what the stepped one does: append, stop, open again, read.
#[test]
fn a_real_folder_keeps_everything_over_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let entropy = Arc::new(duramen_common::seams::SystemEntropy);
    for life in 0..3u64 {
        let lock = DataFolder::lock(Arc::new(crate::disk::RealDisk), folder.path()).unwrap();
        let store = Store::open(lock, identity(), config(), Arc::clone(&entropy) as _, SyncMode::Thread).unwrap();
        let log = store.open_partition(PARTITION).unwrap();
        assert_eq!(all(&log).len() as u64, life * 50);
        let (sender, receiver) = std::sync::mpsc::sync_channel(50);
        for index in life * 50..(life + 1) * 50 {
            let sender = sender.clone();
            log.append(vec![entry(1, index, 2)], Box::new(move |result| sender.send(result).unwrap())).unwrap();
        }
        for _ in 0..50 {
            receiver.recv().unwrap().unwrap();
        }
        store.close();
    }
}

/// Keeps the sync thread busy: each append is followed by the next before the thread looks for work.
fn keep_busy(log: &PartitionLog, index: u64, stop: &Arc<AtomicBool>) {
    if stop.load(Ordering::Acquire) {
        return;
    }
    let (next, stop) = (log.clone(), Arc::clone(stop));
    log.append(vec![entry(1, index, 1)], Box::new(move |_| keep_busy(&next, index + 1, &stop))).unwrap();
}

/// Goal: a partition that fell idle is marked although another keeps the thread busy for ever; otherwise damage to its last
/// acknowledged bytes looked like a torn tail for as long. Method: one append, then only the other partition's work; the
/// durable end that is recorded must come to cover the entry.
#[tokio::test]
async fn an_idle_partition_is_marked_while_another_is_busy() {
    let disk = MemDisk::new();
    let folder = DataFolder::lock(Arc::new(disk.clone()), Path::new("/data")).unwrap();
    let config = StoreConfig { segment_bytes: 64 * 1024, idle_ms: 20, ..config() };
    let entropy = Arc::new(CountingEntropy(AtomicU64::new(1)));
    let store = Store::open(folder, identity(), config, entropy, SyncMode::Thread).unwrap();
    let (idle, busy) = (store.open_partition(PARTITION).unwrap(), store.open_partition(PartitionId::new(1)).unwrap());
    let stop = Arc::new(AtomicBool::new(false));
    keep_busy(&busy, 0, &stop);
    append(&idle, vec![entry(1, 0, 1)]);
    let path = segments(&disk)[0].clone();
    let is_marked = || {
        let bytes = disk.bytes(&path);
        let scan = crate::store::recover::scan(&bytes, crate::store::recover::Successors::None).unwrap();
        let entry = scan.frames.iter().find(|frame| frame.head.kind.is_entry());
        entry.is_some_and(|frame| scan.durable_end >= frame.position + frame.head.frame_bytes() as u64)
    };
    let marked = tokio::time::timeout(std::time::Duration::from_secs(10), async {
        while !is_marked() {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    });
    let marked = marked.await.is_ok();
    stop.store(true, Ordering::Release);
    assert!(marked, "not marked within ten seconds");
    store.close();
}

/// Goal: nothing is acknowledged that went into a file without its name. Method: the segment that grows is removed, or
/// another file is put in its place.
#[test]
fn a_segment_that_was_removed_or_replaced_acknowledges_nothing() {
    for replace in [false, true] {
        let disk = MemDisk::new();
        let (store, log) = open(&disk).unwrap();
        let answers = Answers::default();
        log.append(vec![entry(1, 0, 1)], answers.callback(0)).unwrap();
        store.step();
        let path = segments(&disk).pop().unwrap();
        disk.remove(&path).unwrap();
        if replace {
            disk.open(&path, true).unwrap();
        }
        log.append(vec![entry(1, 1, 1)], answers.callback(1)).unwrap();
        store.step();
        assert_eq!(*answers.0.lock(), [(0, true), (1, false)]);
        let told = store.poisoned().unwrap();
        assert!(told.contains("moved, removed or replaced"), "{told}");
    }
}

/// Goal: a new segment never takes the place of a file that somebody else made. Method: the name of the next one is taken.
#[test]
fn a_new_segment_is_not_put_over_another_file() {
    let disk = MemDisk::new();
    let (store, log) = open(&disk).unwrap();
    let taken = Path::new("/data/partitions/0/00000000000000000001.segment");
    disk.open(taken, true).unwrap().write_at(&[b"somebody else's"], 0).unwrap();
    for index in 0..100 {
        if log.append(vec![entry(1, index, 4)], Box::new(|_| {})).is_err() {
            break;
        }
        store.step();
    }
    assert!(store.poisoned().is_some());
    assert_eq!(disk.bytes(taken), b"somebody else's");
}

/// Goal: what is said about a file in the wrong place names two different things. Method: a segment under another's name.
#[test]
fn a_segment_under_another_name_is_told_from_its_own() {
    let disk = MemDisk::new();
    let (store, log) = open(&disk).unwrap();
    append(&log, vec![entry(1, 0, 1)]);
    store.step();
    store.close();
    drop((store, log));
    let path = segments(&disk).pop().unwrap();
    disk.rename(&path, &path.with_file_name("00000000000000000007.segment")).unwrap();
    let Err(StoreError::Foreign { found, wanted, .. }) = open(&disk).map(drop) else { panic!("it opened") };
    assert!(found.starts_with("00000000000000000000.segment of"), "{found}");
    assert!(wanted.starts_with("00000000000000000007.segment of"), "{wanted}");
}
