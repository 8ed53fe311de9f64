//! Tests of what sled alone has: pieces, damage to them, copies, and the size of the folder.

use super::pieces::{PIECE_BYTES, Stored, Stub, TALLY_KEY, decode, piece_key};
use super::space::{FREE_BYTES, MULTIPLE};
use super::*;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::time::Instant;

const MIB: usize = 1 << 20;

struct Opened {
    index: SledIndex,
    _folder: tempfile::TempDir,
}

fn open_in(folder: &Path) -> SledIndex {
    let lock = Arc::new(FolderLock::take(folder, "lock").unwrap());
    SledIndex::open(&folder.join("sled"), 32 << 20, 20, lock).unwrap()
}

fn open() -> Opened {
    let folder = tempfile::tempdir().unwrap();
    Opened { index: open_in(folder.path()), _folder: folder }
}

fn value(number: u64, bytes: usize) -> Vec<u8> {
    let mut random = number;
    let words = (0..bytes.div_ceil(8)).flat_map(|_| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        random.to_be_bytes()
    });
    words.take(bytes).collect()
}

fn put(index: &SledIndex, key: &str, value: Vec<u8>) {
    index.write(vec![(key.as_bytes().to_vec(), Some(value))]).unwrap();
}

fn all(index: &SledIndex) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut found = Vec::new();
    let mut visit = |key: &[u8], value: &[u8]| {
        found.push((key.to_vec(), value.to_vec()));
        ControlFlow::Continue(())
    };
    index.range(Bound::Unbounded, Bound::Unbounded, &mut visit).unwrap();
    found
}

fn stub(index: &SledIndex, key: &str) -> Stub {
    let stored = index.inner.map().raw().get(key).unwrap().unwrap();
    match decode(&stored).unwrap() {
        Stored::Cut(stub) => stub,
        Stored::Whole(_) => panic!("{key} is not cut"),
    }
}

/// Everything below a folder. Unit: bytes.
fn disk_used(folder: &Path) -> u64 {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let used = entries.map(|entry| match entry.file_type() {
        Ok(kind) if kind.is_dir() => disk_used(&entry.path()),
        _ => entry.metadata().map_or(0, |metadata| metadata.len()),
    });
    used.sum()
}

#[test]
fn a_value_is_cut_above_the_length_of_a_piece() {
    let Opened { index, _folder } = open();
    put(&index, "whole", value(1, PIECE_BYTES));
    put(&index, "cut", value(2, 2 * PIECE_BYTES + 1));
    assert_eq!(
        decode(&index.inner.map().raw().get("whole").unwrap().unwrap()),
        Some(Stored::Whole(&value(1, PIECE_BYTES)))
    );
    let stub = stub(&index, "cut");
    assert_eq!((stub.count(), stub.length as usize), (3, 2 * PIECE_BYTES + 1));
    let last = index.inner.map().raw().get(piece_key(stub.generation, 2)).unwrap().unwrap();
    assert_eq!(last, value(2, 2 * PIECE_BYTES + 1).split_off(2 * PIECE_BYTES));
    assert_eq!(
        all(&index),
        [(b"cut".to_vec(), value(2, 2 * PIECE_BYTES + 1)), (b"whole".to_vec(), value(1, PIECE_BYTES))]
    );
}

/// Goal: nothing of a value stays once it is overwritten or removed, and the tally is what is there. Method: the raw tree
/// holds the tally alone in the end.
#[test]
fn old_pieces_go_with_their_value() {
    let Opened { index, _folder } = open();
    for bytes in [3 * MIB, 10, 20_000, MIB, 0, 40_000] {
        put(&index, "key", value(bytes as u64, bytes));
        assert_eq!(index.get(b"key").unwrap().unwrap(), value(bytes as u64, bytes));
        let pieces = if bytes > PIECE_BYTES { bytes.div_ceil(PIECE_BYTES) } else { 0 };
        assert_eq!(index.inner.map().raw().len(), 2 + pieces, "{bytes} bytes");
        assert_eq!(index.inner.writer.lock().tally.live_bytes, Tally::weight(b"key", bytes));
    }
    index.write(vec![(b"key".to_vec(), None), (b"never there".to_vec(), None)]).unwrap();
    let left: Vec<_> = index.inner.map().raw().iter().keys().map(Result::unwrap).collect();
    assert_eq!(left, [TALLY_KEY]);
    assert_eq!(index.inner.writer.lock().tally.live_bytes, 0);
}

/// Goal: a damaged value is an error, never a short or wrong value. Method: remove, change, shorten, exchange pieces; change
/// what leads to them.
#[test]
fn damaged_pieces_are_an_error() {
    let Opened { index, _folder } = open();
    put(&index, "other", value(1, 3 * PIECE_BYTES));
    let other = stub(&index, "other");
    type Damage = Box<dyn Fn(&sled::Db, Stub)>;
    fn boxed(damage: impl Fn(&sled::Db, Stub) + 'static) -> Damage {
        Box::new(damage)
    }
    let damages: Vec<(&str, Damage)> = vec![
        ("the first is missing", boxed(|db, stub| drop(db.remove(piece_key(stub.generation, 0)).unwrap()))),
        ("the last is missing", boxed(|db, stub| drop(db.remove(piece_key(stub.generation, 2)).unwrap()))),
        ("one is short", boxed(|db, stub| drop(db.insert(piece_key(stub.generation, 1), b"short").unwrap()))),
        ("one is another's", {
            let piece = index.inner.map().raw().get(piece_key(other.generation, 1)).unwrap().unwrap();
            boxed(move |db, stub| drop(db.insert(piece_key(stub.generation, 1), piece.clone()).unwrap()))
        }),
        ("the stub leads to another's", {
            let stub = Stub { generation: other.generation, ..other };
            boxed(move |db, own| {
                drop(db.insert("key", Stub { checksum: own.checksum, ..stub }.encode()).unwrap());
            })
        }),
        ("the entry means nothing", boxed(|db, _| drop(db.insert("key", b"\x07").unwrap()))),
        ("the entry is empty", boxed(|db, _| drop(db.insert("key", b"").unwrap()))),
    ];
    for (what, damage) in damages {
        put(&index, "key", value(2, 3 * PIECE_BYTES));
        damage(index.inner.map().raw(), stub(&index, "key"));
        let error = index.get(b"key").expect_err(what);
        assert!(error.to_string().contains("damaged"), "{what}: {error}");
        let ranged = index.range(Bound::Unbounded, Bound::Unbounded, &mut |_, _| ControlFlow::Continue(()));
        assert!(ranged.is_err(), "{what}");
        index.inner.map().raw().remove("key").unwrap();
    }
}

#[test]
fn keys_of_the_index_itself_are_refused() {
    let Opened { index, _folder } = open();
    put(&index, "key", value(1, MIB));
    assert!(index.write(vec![(TALLY_KEY.to_vec(), Some(Vec::new()))]).is_err());
    assert_eq!(index.get(TALLY_KEY).unwrap(), None);
    let range = |start, end| {
        let mut count = 0;
        index
            .range(start, end, &mut |_, _| {
                count += 1;
                ControlFlow::Continue(())
            })
            .unwrap();
        count
    };
    assert_eq!(range(Bound::Excluded(&b"key"[..]), Bound::Unbounded), 0);
    assert_eq!(range(Bound::Included(TALLY_KEY), Bound::Unbounded), 0);
    assert_eq!(range(Bound::Unbounded, Bound::Included(TALLY_KEY)), 1);
}

/// Goal: a read beside writes finds one whole value. Method: a thread overwrites a value of many pieces, others read it.
#[test]
fn a_read_that_is_overtaken_by_a_write_finds_one_of_both() {
    let Opened { index, _folder } = open();
    put(&index, "key", vec![0; 40 * PIECE_BYTES]);
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for number in 1..300u32 {
                put(&index, "key", vec![number as u8; 40 * PIECE_BYTES]);
            }
            done.store(true, Ordering::Release);
        });
        for ranged in [false, true] {
            let (index, done) = (&index, &done);
            scope.spawn(move || {
                while !done.load(Ordering::Acquire) {
                    let found =
                        if ranged { all(index).remove(0).1 } else { index.get(b"key").unwrap().unwrap().to_vec() };
                    assert_eq!(found.len(), 40 * PIECE_BYTES);
                    assert!(found.iter().all(|byte| *byte == found[0]));
                }
            });
        }
    });
}

/// Goal: a copy holds what the index holds, whatever is written while it grows. Method: copy while a thread overwrites,
/// removes and adds; compare with a map, at once and after a reopening.
#[test]
fn a_copy_holds_what_was_written_beside_it() {
    let folder = tempfile::tempdir().unwrap();
    let index = open_in(folder.path());
    let mut model = std::collections::BTreeMap::new();
    let key = |number: u64| format!("key-{:03}", number % 150);
    for number in 0..150 {
        let bytes = if number % 10 == 0 { 30_000 } else { 2_000 };
        put(&index, &key(number), value(number, bytes));
        model.insert(key(number).into_bytes(), value(number, bytes));
    }
    let copied = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let mut number = 0;
            while !copied.load(Ordering::Acquire) {
                number += 7;
                let new = (number % 3 != 0).then(|| value(number + 1_000, if number % 5 == 0 { 20_000 } else { 100 }));
                index.write(vec![(key(number).into_bytes(), new.clone())]).unwrap();
                match new {
                    Some(new) => drop(model.insert(key(number).into_bytes(), new)),
                    None => drop(model.remove(key(number).as_bytes())),
                }
            }
        });
        assert!(index.inner.copy().unwrap());
        copied.store(true, Ordering::Release);
        writer.join().unwrap();
    });
    let model: Vec<_> = model.into_iter().collect();
    assert_eq!(all(&index), model);
    let folders = || {
        let entries = std::fs::read_dir(folder.path().join("sled")).unwrap().map(Result::unwrap);
        let folders = entries.filter(|entry| entry.file_type().unwrap().is_dir());
        folders.map(|entry| entry.file_name().into_string().unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(folders(), ["2"], "the folder before is gone");
    let live_bytes = index.inner.writer.lock().tally.live_bytes;
    drop(index);
    // What a copy leaves that is killed.
    std::fs::create_dir(folder.path().join("sled/3")).unwrap();
    let index = open_in(folder.path());
    assert_eq!(all(&index), model);
    assert_eq!(index.inner.writer.lock().tally.live_bytes, live_bytes);
    assert_eq!(folders(), ["2"]);
}

/// Waits until the folder is as small as it is promised to be.
fn expect_small(index: &SledIndex, folder: &Path, when: &str) {
    let live = index.inner.writer.lock().tally.live_bytes;
    let most = MULTIPLE * live + FREE_BYTES;
    let patience = Instant::now() + Duration::from_secs(60);
    let mut used = disk_used(folder);
    while used > most {
        assert!(Instant::now() < patience, "{when}: {used} bytes for {live}, at most {most} are promised");
        std::thread::park_timeout(Duration::from_millis(20));
        used = disk_used(folder);
    }
}

/// Goal: the folder is at most [`MULTIPLE`] times what is stored and [`FREE_BYTES`], once writes are calm. Method: put,
/// overwrite, write a small value beside them again and again, remove most, open again.
fn the_folder_stays_small(value_bytes: usize, count: u64) {
    let folder = tempfile::tempdir().unwrap();
    let index = open_in(folder.path());
    let key = |number: u64| format!("key-{number:06}").into_bytes();
    let mut batch = Writes::new();
    for round in 0..3 {
        for number in 0..count {
            batch.push((key(number), Some(value(number * 3 + round, value_bytes))));
            if batch.len() * value_bytes >= 128 << 10 {
                index.write(std::mem::take(&mut batch)).unwrap();
            }
        }
    }
    index.write(batch).unwrap();
    expect_small(&index, folder.path(), "after overwrites");
    for number in 0..200 {
        put(&index, "key-000003-beside", value(number, 16));
    }
    expect_small(&index, folder.path(), "after small writes beside them");
    let mut removed = (0..count).filter(|number| number % 8 != 0).peekable();
    while removed.peek().is_some() {
        index.write(removed.by_ref().take(100).map(|number| (key(number), None)).collect()).unwrap();
    }
    expect_small(&index, folder.path(), "after most was removed");
    index.sync().unwrap();
    drop(index);
    let index = open_in(folder.path());
    expect_small(&index, folder.path(), "after a reopening");
    assert_eq!(all(&index).len() as u64, count.div_ceil(8) + 1);
    for number in (0..count).step_by(8) {
        assert_eq!(index.get(&key(number)).unwrap().unwrap(), value(number * 3 + 2, value_bytes));
    }
    let map = index.inner.map();
    let files = std::fs::read_dir(map.folder().join("blobs")).unwrap().count();
    assert_eq!(files, 0, "sled made a value a file of its own");
}

#[test]
fn the_folder_stays_small_with_values_of_100_bytes() {
    the_folder_stays_small(100, 30_000);
}

#[test]
fn the_folder_stays_small_with_values_of_4_kib() {
    the_folder_stays_small(4 << 10, 3_000);
}

#[test]
fn the_folder_stays_small_with_values_of_128_kib() {
    the_folder_stays_small(128 << 10, 96);
}

#[test]
fn the_folder_stays_small_with_values_of_1_mib() {
    the_folder_stays_small(MIB, 12);
}

#[test]
fn an_open_waits_until_the_file_is_unlocked() {
    let folder = tempfile::tempdir().unwrap();
    let index = open_in(folder.path());
    put(&index, "k", value(1, 100));
    drop(index);
    // As a child process that was started before the index was closed has it.
    let file = File::open(folder.path().join("sled/1/db")).unwrap();
    while rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive).is_err() {
        std::thread::yield_now();
    }
    std::thread::scope(|scope| {
        let opener = scope.spawn(|| open_in(folder.path()));
        for _ in 0..200 {
            assert!(!opener.is_finished(), "it was locked");
            #[expect(clippy::disallowed_methods, reason = "an open that does not wait has this long to show it")]
            std::thread::sleep(Duration::from_millis(1));
        }
        drop(file);
        assert_eq!(all(&opener.join().unwrap()).len(), 1);
    });
}
