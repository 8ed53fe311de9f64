//! Damage in the index, at rest and while the node runs: whatever was done to it, the node ends up with the fold of the log,
//! by itself, and shows nothing else on the way.

use super::tests::{P0, assert_is_fold, caught_up, disk_kinds, on_disk, soon, start};
use super::*;
use crate::index::{Index, IndexError, Visit, WipeCause, Witness, WriteError, Writes};
use crate::index::{MemoryIndex, layout};
use crate::testing::{FolderIndex, MemoryLog, delete, guard, put};
use crate::view::ReadError;
use bytes::Bytes;
use duramen_common::Offset;
use duramen_common::batch::GuardCondition;
use std::ops::{Bound, ControlFlow};
use std::path::{Path, PathBuf};

const P1: PartitionId = PartitionId::new(1);

/// The history that [`FolderIndex`] opens.
fn log() -> Arc<MemoryLog> {
    Arc::new(MemoryLog::new(HistoryId::from_bits(1), 2))
}

/// Updates, deletes and failed guards: each of `rounds` writes 60 of 240 keys in both partitions.
fn write_some(log: &MemoryLog, rounds: std::ops::Range<u32>) {
    write_values(log, rounds, 90);
}

fn write_values(log: &MemoryLog, rounds: std::ops::Range<u32>, bytes_max: usize) {
    for round in rounds {
        for number in 0..60 {
            let key = format!("key-{}", (number * 4 + round) % 240);
            let value = format!("{round} {}", "x".repeat((number as usize * 7 + 40 * round as usize) % bytes_max));
            for partition in [P0, P1] {
                log.push(partition, [put(&key, &value)]);
            }
            if number % 9 == 0 {
                log.push(P0, [put(&key, "never").when(guard(&key, GuardCondition::Absent))]);
                log.push(P1, [delete(&format!("key-{}", (number + round) % 240))]);
            }
        }
    }
}

/// The node runs until it has everything, which must be right, and stops cleanly; returns its wipes.
async fn run_once(config: &PartitionsConfig, log: &Arc<MemoryLog>) -> u64 {
    let partitions = start(config, log).await;
    caught_up(&partitions, log).await;
    for view in partitions.iter() {
        assert_is_fold(view, log);
    }
    partitions.shutdown().await;
    wipes(&partitions)
}

fn wipes(partitions: &Partitions) -> u64 {
    WipeCause::ALL.iter().map(|&cause| partitions.inner.health.wipes(cause)).sum()
}

async fn becomes(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = soon();
    while !holds() {
        assert!(Instant::now() < deadline, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

pub(super) fn files_below(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap().map(Result::unwrap) {
        match entry.file_type().unwrap().is_dir() {
            true => found.extend(files_below(&entry.path())),
            false => found.push(entry.path()),
        }
    }
    found.sort();
    found
}

/// Copies a folder's index, whole.
fn copy(from: &Path, to: &Path) {
    let _ = std::fs::remove_dir_all(to);
    for file in files_below(from) {
        let target = to.join(file.strip_prefix(from).unwrap());
        std::fs::create_dir_all(target.parent().unwrap()).unwrap();
        std::fs::copy(&file, target).unwrap();
    }
}

/// A node that is written to slowly, so that each round is a flush of its own, and then stops cleanly.
async fn run_slowly(config: &PartitionsConfig, log: &Arc<MemoryLog>, rounds: std::ops::Range<u32>, bytes_max: usize) {
    let partitions = start(config, log).await;
    for round in rounds {
        write_values(log, round..round + 1, bytes_max);
        for view in partitions.iter() {
            let end = log.committed_end(view.partition());
            becomes("flushed", || view.status().persisted_end == end).await;
        }
    }
    partitions.shutdown().await;
    assert_eq!(wipes(&partitions), 0);
}

/// Goal: whatever a bit or a block of a file at rest becomes, nothing wrong is served. Method: many places of every file of
/// a cleanly closed index, one at a time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damaged_files_are_wiped_or_right() {
    for kind in disk_kinds() {
        let folder = tempfile::tempdir().unwrap();
        let (good, node) = (folder.path().join("good"), folder.path().join("node"));
        let log = log();
        let config = on_disk(&node, kind);
        run_slowly(&config, &log, 0..20, 1000).await;
        assert_eq!(run_once(&config, &log).await, 0, "a clean stop leaves what stands its check");
        copy(&node, &good);
        let mut wiped = 0;
        for file in &files_below(&good.join("index")) {
            let bytes = std::fs::read(file).unwrap();
            let used = bytes.iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1);
            let places = if used > 4096 { 12 } else { 3 };
            for place in 0..places.min(used) {
                copy(&good, &node);
                let mut damaged = bytes.clone();
                let at = (used * place / places + place % 7).min(used - 1);
                match place % 2 {
                    0 => damaged[at] ^= 1 << (place % 8),
                    _ => damaged[at..(at + 512).min(bytes.len())].fill(0),
                }
                std::fs::write(node.join(file.strip_prefix(&good).unwrap()), damaged).unwrap();
                wiped += run_once(&config, &log).await;
            }
        }
        assert!(wiped > 0, "{kind:?}: no damage was noticed");
    }
}

/// Goal: an index that is partly of an earlier time is not served. Method: every block of a sled file that changed between
/// two stops is put back, in turn; then each file whole; then all of them, which is a good index again and only behind.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn older_blocks_are_wiped_or_right() {
    const BLOCK: usize = 4096;
    for kind in disk_kinds() {
        let folder = tempfile::tempdir().unwrap();
        let [old, new, node] = ["old", "new", "node"].map(|name| folder.path().join(name));
        let log = log();
        let config = on_disk(&node, kind);
        run_slowly(&config, &log, 0..8, 600).await;
        copy(&node, &old);
        run_slowly(&config, &log, 8..14, 600).await;
        copy(&node, &new);
        for file in files_below(&old.join("index")) {
            let name = file.strip_prefix(&old).unwrap();
            let before = std::fs::read(&file).unwrap();
            let Ok(after) = std::fs::read(new.join(name)) else { continue };
            let blocks = before.chunks(BLOCK).zip(after.chunks(BLOCK)).enumerate();
            let changed: Vec<_> =
                blocks.filter(|(_, (before, after))| before != after).map(|(block, _)| block).collect();
            for &block in changed.iter().step_by(changed.len().div_ceil(8).max(1)) {
                copy(&new, &node);
                let mut mixed = after.clone();
                let range = block * BLOCK..((block + 1) * BLOCK).min(before.len()).min(after.len());
                mixed[range.clone()].copy_from_slice(&before[range]);
                std::fs::write(node.join(name), mixed).unwrap();
                run_once(&config, &log).await;
            }
            copy(&new, &node);
            std::fs::copy(&file, node.join(name)).unwrap();
            run_once(&config, &log).await;
        }
        copy(&old, &node);
        assert_eq!(run_once(&config, &log).await, 0, "an older index is whole, and goes on from its own end");
    }
}

type Change = fn(&dyn Index, &Older);

/// What an index held at an earlier stop.
struct Older(Vec<(Vec<u8>, Vec<u8>)>);

impl Older {
    fn of(index: &dyn Index) -> Older {
        let mut entries = Vec::new();
        let mut visit = |key: &[u8], value: &[u8]| {
            entries.push((key.to_vec(), value.to_vec()));
            ControlFlow::Continue(())
        };
        index.range(Bound::Unbounded, Bound::Unbounded, &mut visit).unwrap();
        Older(entries)
    }

    /// Entries of partition 0, that are not as they were: they changed, or they are gone.
    fn changed(&self, index: &dyn Index) -> Vec<(Vec<u8>, Vec<u8>)> {
        let is_changed = |key: &[u8], value: &[u8]| index.get(key).unwrap().as_deref() != Some(value);
        let of_p0 = self.0.iter().filter(|(key, value)| key.starts_with(&[0, 0]) && is_changed(key, value));
        of_p0.cloned().collect()
    }
}

fn write_one(index: &dyn Index, key: Vec<u8>, value: Option<Vec<u8>>) {
    index.write(vec![(key, value)]).unwrap();
}

/// Ways to be wrong with every checksum right, in partition 0.
const CHANGES: &[(&str, Change)] = &[
    ("an entry is missing", |index, older| write_one(index, older.changed(index)[0].0.clone(), None)),
    ("an entry is older", |index, older| {
        let (key, value) = older.changed(index).into_iter().find(|(key, _)| index.get(key).unwrap().is_some()).unwrap();
        write_one(index, key, Some(value));
    }),
    ("two entries are swapped", |index, older| {
        let keys: Vec<_> = older.0.iter().map(|(key, _)| key).filter(|key| key.starts_with(&[0, 0])).take(2).collect();
        let values: Vec<_> = keys.iter().map(|key| index.get(key).unwrap().unwrap().to_vec()).collect();
        write_one(index, keys[0].clone(), Some(values[1].clone()));
        write_one(index, keys[1].clone(), Some(values[0].clone()));
    }),
    ("an outcome is missing", |index, _| {
        let chunks = Older::of(index).0.into_iter().find(|(key, _)| key.starts_with(&[0xff, 0xff, 2, 0, 0]));
        write_one(index, chunks.unwrap().0, None);
    }),
    ("the meta is older", |index, older| {
        let (key, value) = older.0.iter().find(|(key, _)| *key == layout::meta_key(P0)).unwrap();
        write_one(index, key.clone(), Some(value.clone()));
    }),
    ("the meta is missing", |index, _| write_one(index, layout::meta_key(P0), None)),
    ("the meta is another partition's", |index, _| {
        let other = index.get(&layout::meta_key(P1)).unwrap().unwrap().to_vec();
        write_one(index, layout::meta_key(P0), Some(other));
    }),
    ("an entry is of another version of the format", |index, older| {
        write_one(index, older.changed(index)[0].0.clone(), Some(vec![0; 9]));
    }),
];

/// Goal: what is wrong with good checksums is noticed, and costs one partition where an index can be emptied of it. Method:
/// each way, through the index itself.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_what_was_flushed_is_wiped() {
    for kind in disk_kinds() {
        for (what, change) in CHANGES {
            let folder = tempfile::tempdir().unwrap();
            let config = on_disk(folder.path(), kind);
            let log = log();
            write_some(&log, 0..3);
            run_once(&config, &log).await;
            let older = Older::of(&**FolderIndex::open(folder.path(), kind).index());
            write_some(&log, 3..5);
            run_once(&config, &log).await;
            {
                let store = FolderIndex::open(folder.path(), kind);
                change(&**store.index(), &older);
                store.close_clean();
            }
            let partitions = start(&config, &log).await;
            becomes("wiped", || wipes(&partitions) == 1).await;
            if partitions.inner.store.index().can_be_emptied() {
                let persisted_end = partitions.get(P1).unwrap().status().persisted_end;
                assert!(persisted_end > Offset::ZERO, "{kind:?}: the other one stays");
            }
            caught_up(&partitions, &log).await;
            partitions.iter().for_each(|view| assert_is_fold(view, &log));
            partitions.shutdown().await;
            drop(partitions);
            assert_eq!(run_once(&config, &log).await, 0, "{kind:?}: {what}: once is enough");
        }
    }
}

/// A node that has everything in its index, and nothing in its overlay.
async fn running(folder: &Path, kind: IndexKind, log: &Arc<MemoryLog>) -> Partitions {
    let config = on_disk(folder, kind);
    write_some(log, 0..3);
    run_once(&config, log).await;
    let partitions = start(&config, log).await;
    caught_up(&partitions, log).await;
    becomes("ready", || partitions.is_ready()).await;
    partitions
}

/// The node comes back by itself, right and ready.
async fn recovers(partitions: &Partitions, log: &MemoryLog, cause: WipeCause, wanted: u64) {
    becomes("a wipe", || partitions.inner.health.wipes(cause) >= wanted).await;
    becomes("ready", || partitions.is_ready()).await;
    caught_up(partitions, log).await;
    partitions.iter().for_each(|view| assert_is_fold(view, log));
}

/// Goal: an entry that is not what was written is never served while the node runs: the read is refused, the node is not
/// ready, and the partition comes back by itself. Method: garbage under a key; met by a point read, a page, a flush, a guard.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damage_met_while_running_is_wiped_and_replayed() {
    type Meet = fn(&Partitions, &MemoryLog);
    let meets: [(&str, Meet); 4] = [
        ("a read", |partitions, log| {
            // So that it does not come back before it was looked at.
            log.stall(true);
            let error = partitions.get(P0).unwrap().get(b"key-7").unwrap_err();
            assert!(matches!(error, ReadError::Index { .. }), "{error}");
            assert!(!partitions.is_ready(), "nobody is sent here");
            assert!(matches!(partitions.get(P0).unwrap().get(b"key-8"), Err(ReadError::Behind { .. })));
            log.stall(false);
        }),
        ("a page", |partitions, _| {
            let page = partitions.get(P0).unwrap().scan(Bound::Unbounded, Bound::Unbounded, 1000);
            assert!(matches!(page, Err(ReadError::Index { .. })), "{page:?}");
        }),
        ("a flush", |_, log| {
            log.push(P0, [put("key-7", "newer")]);
        }),
        ("a guard", |_, log| {
            let absent = guard("key-7", GuardCondition::Absent);
            log.push(P0, [put("key-7", "wrong").when(absent)]);
        }),
    ];
    for kind in disk_kinds() {
        for (what, meet) in meets {
            let folder = tempfile::tempdir().unwrap();
            let log = log();
            let partitions = running(folder.path(), kind, &log).await;
            write_one(&**partitions.inner.store.index(), layout::data_key(P0, b"key-7"), Some(b"garbage".to_vec()));
            meet(&partitions, &log);
            recovers(&partitions, &log, WipeCause::Checksum, 1).await;
            assert_eq!(wipes(&partitions), 1, "{kind:?}: {what}: one partition, once");
            partitions.shutdown().await;
        }
    }
}

/// Fails at everything, or panics.
struct BrokenIndex {
    panics: bool,
}

impl BrokenIndex {
    fn fail<T>(&self) -> Result<T, IndexError> {
        assert!(!self.panics, "as damaged files make an index do");
        Err(IndexError { kind: "broken", action: "trying", reason: "it is broken".to_owned() })
    }
}

impl Index for BrokenIndex {
    fn get(&self, _key: &[u8]) -> Result<Option<Bytes>, IndexError> {
        self.fail()
    }

    fn range(&self, _start: Bound<&[u8]>, _end: Bound<&[u8]>, _visit: Visit<'_>) -> Result<(), IndexError> {
        self.fail()
    }

    fn write_seen(&self, _writes: Writes, _witness: Option<&mut dyn Witness>) -> Result<(), WriteError> {
        Ok(self.fail()?)
    }

    fn sync(&self) -> Result<(), IndexError> {
        self.fail()
    }

    fn blocks(&self) -> bool {
        true
    }
}

/// Goal: an index that fails as a whole is replaced in the running node. Method: one that fails or panics at every call, met
/// by a read or by a flush; afterwards the node is right, also after a restart.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_index_that_fails_is_replaced_while_the_node_runs() {
    for kind in disk_kinds() {
        for (panics, by_read) in [(false, true), (false, false), (true, true), (true, false)] {
            let folder = tempfile::tempdir().unwrap();
            let log = log();
            let partitions = running(folder.path(), kind, &log).await;
            partitions.inner.store.replace_for_test(Arc::new(BrokenIndex { panics }));
            if by_read {
                assert!(matches!(partitions.get(P1).unwrap().get(b"key-7"), Err(ReadError::Index { .. })));
            } else {
                log.push(P0, [put("key-7", "newer")]);
            }
            recovers(&partitions, &log, WipeCause::Engine, 1).await;
            partitions.shutdown().await;
            drop(partitions);
            assert_eq!(run_once(&on_disk(folder.path(), kind), &log).await, 0, "what replaced it is used again");
        }
    }
}

/// Takes the first half of each write, and says that the disk is full.
#[derive(Default)]
struct FullIndex(MemoryIndex);

impl Index for FullIndex {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, IndexError> {
        self.0.get(key)
    }

    fn range(&self, start: Bound<&[u8]>, end: Bound<&[u8]>, visit: Visit<'_>) -> Result<(), IndexError> {
        self.0.range(start, end, visit)
    }

    fn write_seen(&self, mut writes: Writes, _witness: Option<&mut dyn Witness>) -> Result<(), WriteError> {
        writes.truncate(writes.len().div_ceil(2));
        self.0.write(writes)?;
        let reason = "No space left on device (os error 28)".to_owned();
        Err(IndexError { kind: "full", action: "writing", reason }.into())
    }

    fn sync(&self) -> Result<(), IndexError> {
        Ok(())
    }

    fn blocks(&self) -> bool {
        true
    }
}

/// Goal: an index that a full disk stopped in the middle of a write shows nothing wrong, and is replaced once there is room.
/// Method: one that holds everything and takes half of a write, on a disk that has room.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_index_that_met_a_full_disk_is_replaced() {
    for kind in disk_kinds() {
        let folder = tempfile::tempdir().unwrap();
        let log = log();
        let partitions = running(folder.path(), kind, &log).await;
        let full = FullIndex::default();
        let mut all = Writes::new();
        let range = partitions.inner.store.index().range(Bound::Unbounded, Bound::Unbounded, &mut |key, value| {
            all.push((key.to_vec(), Some(value.to_vec())));
            ControlFlow::Continue(())
        });
        range.unwrap();
        full.0.write(all).unwrap();
        partitions.inner.store.replace_for_test(Arc::new(full));
        write_some(&log, 100..101);
        recovers(&partitions, &log, WipeCause::Engine, 1).await;
        partitions.shutdown().await;
        drop(partitions);
        assert_eq!(run_once(&on_disk(folder.path(), kind), &log).await, 0, "what replaced it is used again");
    }
}

/// Goal: on a full disk nothing goes into the index, and what was applied is read. Method: a disk that must have more free than
/// any disk has; writes until memory is full, a stop, and a start with less to ask for.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_is_not_written_and_reads_go_on() {
    for kind in disk_kinds() {
        let folder = tempfile::tempdir().unwrap();
        let log = log();
        write_some(&log, 0..2);
        let roomy = on_disk(folder.path(), kind);
        let full = PartitionsConfig {
            index_room_bytes: u64::MAX,
            overlay_bytes_max: 1 << 16,
            flush_bytes: 512,
            fetch_bytes_max: 4096,
            ..roomy.clone()
        };
        let partitions = start(&full, &log).await;
        becomes("the node says that it waits", || partitions.inner.health.waits_for_space()).await;
        write_some(&log, 2..30);
        becomes("memory is full", || partitions.get(P1).unwrap().memory_is_full()).await;
        for view in partitions.iter() {
            assert_eq!(view.status().persisted_end, Offset::ZERO, "nothing was flushed");
            assert_is_fold(view, &log);
        }
        // Not by the lag that a view knows: who applies nothing hears of nothing.
        let is_behind =
            |view: &Arc<PartitionView>| view.status().applied_end < Some(log.committed_end(view.partition()));
        assert!(partitions.iter().any(is_behind), "more is applied than memory may take");
        partitions.shutdown().await;
        assert_eq!(wipes(&partitions), 0);
        drop(partitions);
        assert_eq!(run_once(&roomy, &log).await, 0, "what a full disk left is used again");
    }
}

/// Goal: the scrub finds what no read has met, and cries wolf never. Method: scrubs one after the other, while the log grows;
/// then an entry vanishes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_scrub_finds_a_missing_entry_and_nothing_else() {
    for kind in disk_kinds() {
        let folder = tempfile::tempdir().unwrap();
        let config = PartitionsConfig {
            scrub_period: Duration::from_millis(1),
            flush_bytes: 2048,
            ..on_disk(folder.path(), kind)
        };
        let log = log();
        let partitions = start(&config, &log).await;
        for round in 0..12 {
            write_some(&log, round..round + 1);
            let (scrubs, _) = partitions.inner.health.scrubbed();
            becomes("a scrub", || partitions.inner.health.scrubbed().0 > scrubs).await;
        }
        caught_up(&partitions, &log).await;
        let end = log.committed_end(P0);
        becomes("flushed", || partitions.get(P0).unwrap().status().persisted_end == end).await;
        assert_eq!(wipes(&partitions), 0, "{kind:?}: nothing was wrong");
        write_one(&**partitions.inner.store.index(), layout::data_key(P0, b"key-7"), None);
        recovers(&partitions, &log, WipeCause::Incomplete, 1).await;
        partitions.shutdown().await;
    }
}

/// Goal: a stop in the middle of a check leaves an index that the next start uses. Method: a check that is told to stop before
/// it begins.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_check_that_was_stopped_wipes_nothing() {
    for kind in disk_kinds() {
        let folder = tempfile::tempdir().unwrap();
        let config = on_disk(folder.path(), kind);
        let log = log();
        write_some(&log, 0..3);
        run_once(&config, &log).await;
        let health = Arc::new(IndexHealth::default());
        health.check.stop();
        let shared = Arc::clone(&log) as Arc<dyn Log>;
        let stopped =
            Partitions::start_watched(config.clone(), &log.cluster_info(), shared, Seams::system(), health).await;
        assert!(matches!(stopped.err(), Some(StartError::Store(StoreError::Stopped))));
        assert_eq!(run_once(&config, &log).await, 0);
    }
}

/// Goal: what is under the name of the index's folder is not wiped when it is somebody else's; the node ends with a sentence.
/// Method: the folder is moved away, and another one put there, while the node runs.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_folder_that_was_replaced_ends_the_node_and_is_not_wiped() {
    let folder = tempfile::tempdir().unwrap();
    let log = log();
    let partitions = running(folder.path(), IndexKind::Sled, &log).await;
    let (index, theirs) = (folder.path().join("index"), folder.path().join("index/sled"));
    std::fs::rename(&index, folder.path().join("aside")).unwrap();
    std::fs::create_dir_all(&theirs).unwrap();
    log.push(P0, [put("key-7", "newer")]);
    let sentence = partitions.failed().await;
    assert!(sentence.contains("moved, removed or replaced"), "{sentence}");
    assert!(theirs.exists(), "it is not ours");
    partitions.shutdown().await;
}
