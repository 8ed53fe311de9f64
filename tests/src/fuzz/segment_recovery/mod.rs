//! Recovery of a log: whatever its files have become, it is refused by the name of a file, or holds what was synced.
//!
//! * Input: which log was written (`written`), then what happened to its files (`damage`).
//! * An opened log is a prefix of what was written, and goes at least as far as any frame says that is still where it was written.
//!   Files that are whole up to the log's end lose nothing. It can be appended to, and is then the same each time it is opened.
//! * Damage that a reader meets is refused at the next start. A repair, with all entries at hand, ends in such a log or in a refusal.
//! * Source: DESIGN D2; docs/formats.md "Recovery". Deliberately absent: checksums that are forged, a last segment that vanishes whole.

mod damage;
mod written;

use super::Target;
use damage::{CHANGE_BYTES, Files, KINDS};
use duramen_log_service::disk::{Disk as _, MemDisk};
use duramen_log_service::store::{EntryId, LogEntry, PartitionLog, Repair, Store, StoreError, StoredVote};
use std::path::{Path, PathBuf};
use written::{PARTITION, SCRIPTS, Written, entry, folder};

/// The target.
pub const TARGET: Target =
    Target { name: "segment_recovery", run, seeds, nasty, words: &[], inputs: 6_000, heap_bytes_max: 4 * 1024 * 1024 };

fn run(data: &[u8]) {
    let Some((&script, changes)) = data.split_first() else { return };
    let written = Written::of(script.into());
    let case = Case::new(written, damage::damaged(written, changes));
    let mut disk = case.disk();
    let (store, log) = open(&mut disk);
    match log {
        Ok(log) => case.opened(disk, store, log),
        Err(error) => {
            case.refused(&error);
            case.repair(disk, store);
        }
    }
}

/// A log and what became of it.
struct Case {
    written: &'static Written,
    files: Files,
    /// Files that are not what they were, or gone.
    changed: Vec<PathBuf>,
    /// How many entries there must be, if it opens.
    entries_min: usize,
    /// The vote that there must be, or a later one.
    vote_min: Option<StoredVote>,
}

/// A disk, and how often its log was opened.
struct Machine {
    disk: MemDisk,
    life: u64,
}

fn open(machine: &mut Machine) -> (Store, Result<PartitionLog, StoreError>) {
    machine.life += 1;
    written::open(&machine.disk, 1_000_000 + machine.life).expect("nobody else has the folder")
}

/// All entries that there are.
fn all(log: &PartitionLog) -> Result<Vec<LogEntry>, StoreError> {
    log.read_entries(0, u64::MAX, usize::MAX)
}

impl Case {
    fn new(written: &'static Written, files: Files) -> Case {
        let is_changed = |path: &Path, bytes: &[u8]| files.get(path).is_none_or(|now| now != bytes);
        let changed = written.files.iter().filter(|file| is_changed(&file.path, &file.bytes));
        let changed = changed.map(|file| file.path.clone()).collect();
        let (last, first) = (written.last(), written.entries.first().map_or(0, |entry| entry.id.index));
        let now = files.get(&last.path).map_or(&[][..], Vec::as_slice);
        let is_intact = |range: std::ops::Range<usize>| now.get(range.clone()) == last.bytes.get(range);
        // What is still where it was written, and says how far the segment was durable.
        let is_headed = is_intact(0..duramen_log_service::store::frame::SEGMENT_HEADER_BYTES);
        let telling = written.marks.iter().filter(|mark| is_headed && is_intact(mark.frame.clone()));
        let durable_end = telling.map(|mark| mark.durable_end).max().unwrap_or(0);
        let kept = written.marks.iter().rfind(|mark| mark.frame.end <= durable_end);
        let kept = kept.or(written.marks.first()).expect("a segment begins with its state");
        let is_whole = is_intact(0..written.end());
        let kept = if is_whole { written.marks.last().unwrap_or(kept) } else { kept };
        let entries_min = kept.next_index.saturating_sub(first) as usize;
        let vote_min = kept.vote;
        Case { written, files, changed, entries_min, vote_min }
    }

    fn disk(&self) -> Machine {
        let disk = MemDisk::new();
        disk.create_dir_all(&folder()).expect("memory takes it");
        for (path, bytes) in &self.files {
            disk.open(path, true).expect("memory takes it");
            disk.put(path, bytes);
        }
        disk.sync_dir(&folder()).expect("memory takes it");
        Machine { disk, life: 0 }
    }

    /// The log was refused: by the name of a file that changed.
    fn refused(&self, error: &StoreError) {
        let (StoreError::Corrupt { file, .. } | StoreError::Format { file, .. } | StoreError::Foreign { file, .. }) =
            error
        else {
            panic!("damage is told as something else: {error}");
        };
        assert!(self.changed.contains(file), "{} was named, and is what was written: {error}", file.display());
        let name = file.file_name().and_then(|name| name.to_str()).expect("segments have names");
        assert!(error.to_string().contains(name), "{error}");
    }

    /// The log was opened.
    fn opened(&self, mut machine: Machine, store: Store, log: PartitionLog) {
        log.ends().check();
        let found = match all(&log) {
            Ok(found) => found,
            Err(error) => {
                self.refused(&error);
                drop((store, log));
                machine.disk.kill();
                let (_store, log) = open(&mut machine);
                let again = log.err().expect("damage that a reader met is refused at the next start");
                return self.refused(&again);
            }
        };
        self.check(&found, &log);
        let mut found = found;
        let (next, term) = log.state().last.map_or((0, 0), |last| (last.index + 1, last.term));
        let more = (next..next + 2).map(|index| entry(EntryId { term: term + 1, index }, 3, 20)).collect();
        log.append(more, Box::new(|result| result.expect("nothing fails here"))).expect("it follows");
        store.step();
        found = self.with_appended(found, &all(&log).expect("what was opened reads"));
        drop((store, log));
        for stops in [false, true] {
            machine.disk.kill();
            let (store, log) = open(&mut machine);
            let log = log.unwrap_or_else(|error| panic!("a log that was open does not open again: {error}"));
            log.ends().check();
            assert!(all(&log).expect("it reads") == found, "a log that was open is another when it is opened again");
            if stops {
                store.close();
            }
        }
    }

    /// What was opened is what was written, as far as it must be.
    fn check(&self, found: &[LogEntry], log: &PartitionLog) {
        let whole = &self.written.entries;
        assert!(found.len() <= whole.len(), "{} entries of {}", found.len(), whole.len());
        assert!(found == &whole[..found.len()], "entries that were never written");
        assert!(found.len() >= self.entries_min, "{} entries, and {} were durable", found.len(), self.entries_min);
        let state = log.state();
        assert_eq!(state.last, found.last().map(|entry| entry.id));
        let vote = state.small.vote;
        assert!(vote.is_none_or(|vote| self.written.votes.contains(&vote)), "a vote that was never given: {vote:?}");
        let term = |vote: Option<StoredVote>| vote.map_or(0, |vote| vote.term);
        assert!(term(vote) >= term(self.vote_min), "{vote:?}, and {:?} was durable", self.vote_min);
        let committed = state.small.committed;
        assert!(committed.is_none_or(|id| found.iter().any(|entry| entry.id == id)), "{committed:?} is not there");
    }

    /// What was found, with the two entries that were appended.
    fn with_appended(&self, mut found: Vec<LogEntry>, now: &[LogEntry]) -> Vec<LogEntry> {
        assert!(now.len() == found.len() + 2 && now[..found.len()] == found[..], "an append changed what was there");
        found.extend_from_slice(&now[found.len()..]);
        found
    }

    /// A repair with every entry at hand: a log as it must be, or a refusal.
    fn repair(&self, mut machine: Machine, store: Store) {
        let repaired = store.repair(PARTITION, &self.written.entries);
        drop(store);
        machine.disk.kill();
        match repaired {
            Ok(Repair::Whole) => {
                let (store, log) = open(&mut machine);
                let log = log.unwrap_or_else(|error| panic!("a repaired log does not open: {error}"));
                self.opened(machine, store, log);
            }
            Ok(Repair::More(damage)) => assert!(self.changed.contains(&damage.file), "{damage:?}"),
            Err(StoreError::NotRepaired { file, .. }) => assert!(self.changed.contains(&file), "{}", file.display()),
            Err(error) => self.refused(&error),
        }
    }
}

/// Every kind of change to the first and the last file of every log, near their ends and in their middle.
fn seeds() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for script in 0..SCRIPTS as u8 {
        let written = Written::of(script.into());
        seeds.push(vec![script]);
        for kind in 0..KINDS {
            let file = if kind % 2 == 0 { written.files.len() - 1 } else { 0 };
            let end = written.files[file].frames.last().map_or(0, |frame| frame.end) as u16;
            let [one, other] = if kind < 9 { [end / 2, end - 20] } else { [1, 3] };
            let mut seed = vec![script, kind, file as u8];
            seed.extend_from_slice(&one.to_le_bytes());
            seed.extend_from_slice(&other.to_le_bytes());
            seed.extend_from_slice(&[script, 0x55]);
            assert_eq!(seed.len(), 1 + CHANGE_BYTES);
            seeds.push(seed);
        }
    }
    seeds
}

fn nasty() -> Vec<(&'static str, Vec<u8>)> {
    let change = |kind: u8, file: u8, one: u16, other: u16, length: u8, value: u8| {
        let mut bytes = vec![kind, file];
        bytes.extend_from_slice(&one.to_le_bytes());
        bytes.extend_from_slice(&other.to_le_bytes());
        bytes.extend_from_slice(&[length, value]);
        bytes
    };
    let of = |script: u8, changes: &[Vec<u8>]| [vec![script], changes.concat()].concat();
    vec![
        ("an empty last file", of(0, &[change(1, 0, 0, 0, 0, 0)])),
        ("a last file that ends with its header", of(0, &[change(1, 0, 128, 0, 0, 0)])),
        ("every file empty", of(5, &(0..6).map(|file| change(1, file, 0, 0, 0, 0)).collect::<Vec<_>>())),
        ("two segments under each other's name", of(5, &[change(12, 0, 0, 1, 0, 0)])),
        ("the first file gone", of(5, &[change(13, 0, 0, 0, 0, 0)])),
        ("a file for reuse full of this log's frames", of(5, &[change(14, 0, 0, 1, 0, 1)])),
        ("a segment that never got its name", of(5, &[change(14, 0, 0, 1, 0, 0)])),
        ("the last frame twice", of(2, &[change(11, 255, 6, 6, 0, 0)])),
        ("the first state gone", of(2, &[change(10, 0, 0, 0, 0, 0)])),
        ("a flipped bit in each of two frames", of(4, &[change(0, 0, 300, 0, 0, 3), change(0, 0, 700, 0, 0, 5)])),
    ]
}
