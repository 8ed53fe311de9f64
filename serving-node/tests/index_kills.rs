//! A kill in the middle of an index's writes. A binary of its own: a folder's lock is inherited by a process that is just
//! being started, so that no other test may open one again meanwhile.

#![expect(clippy::unwrap_used, reason = "these are tests; the lint does not see that of helpers")]

use duramen_serving_node::IndexKind;
use duramen_serving_node::testing::FolderIndex;
use std::io::{BufRead as _, BufReader};
use std::ops::ControlFlow;
use std::path::Path;
use std::process::{Command, Stdio};

/// Tells the child process what to be. Unset in a plain test run: then the child has nothing to do.
const CHILD: &str = "DURAMEN_TEST_INDEX_CHILD";
/// Keys of a batch.
const KEYS: u32 = 500;

/// Goal: rule 1 of `Index` across SIGKILL. Method: a child process writes batches that set all keys to one number, says how
/// far it is, and is killed; whatever is found must be one batch, and none that had been announced may be missing by more
/// than what the index had not yet handed to the kernel.
#[test]
fn a_killed_process_leaves_whole_batches() {
    let kinds = [IndexKind::Sled, IndexKind::Fjall];
    for kind in kinds.into_iter().filter(|&kind| kind != IndexKind::Fjall || cfg!(feature = "fjall")) {
        let folder = tempfile::tempdir().unwrap();
        for _round in 0..4 {
            kill_a_writer(folder.path(), kind);
            let found = values(&FolderIndex::open(folder.path(), kind));
            assert!(found.is_empty() || found.len() == KEYS as usize, "{kind:?}: {} keys of {KEYS}", found.len());
            let number = |value: &Vec<u8>| value.first_chunk::<4>().copied();
            assert!(
                found.windows(2).all(|pair| number(&pair[0]) == number(&pair[1])),
                "{kind:?}: parts of two batches"
            );
            assert!(
                found
                    .iter()
                    .enumerate()
                    .all(|(key, value)| value.len() == if key.is_multiple_of(50) { 20_004 } else { 204 })
            );
        }
    }
}

fn values(store: &FolderIndex) -> Vec<Vec<u8>> {
    let mut found = Vec::new();
    let mut visit = |_: &[u8], value: &[u8]| {
        found.push(value.to_vec());
        ControlFlow::Continue(())
    };
    store.index().range(std::ops::Bound::Unbounded, std::ops::Bound::Unbounded, &mut visit).unwrap();
    found
}

fn kill_a_writer(folder: &Path, kind: IndexKind) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "the_child_that_writes_until_it_is_killed", "--nocapture", "--ignored"])
        .env(CHILD, format!("{}|{}", u8::from(kind == IndexKind::Fjall), folder.display()))
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let written = lines.map_while(Result::ok).filter(|line| line.contains("written")).take(12).count();
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(written, 12, "the child did not come to write");
}

#[test]
#[ignore = "started by the test above, as a process of its own"]
fn the_child_that_writes_until_it_is_killed() {
    let Ok(what) = std::env::var(CHILD) else { return };
    let (kind, folder) = what.split_once('|').unwrap();
    let kind = if kind == "1" { IndexKind::Fjall } else { IndexKind::Sled };
    let store = FolderIndex::open(Path::new(folder), kind);
    for number in 0..1_000_000u32 {
        // Some are long, for an index that cuts them.
        let value = |key: u32| {
            [number.to_be_bytes().as_slice(), &[1; 200].repeat(if key.is_multiple_of(50) { 100 } else { 1 })].concat()
        };
        let writes = (0..KEYS).map(|key| (key.to_be_bytes().to_vec(), Some(value(key)))).collect();
        store.index().write(writes).unwrap();
        println!("written {number}");
    }
}
