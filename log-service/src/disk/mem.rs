//! A disk in memory that forgets: live and durable bytes apart, faults on demand. For tests and simulation.
//!
//! * `crash(seed)` keeps what was synced and, of the rest, what the seed says: each write whole, torn at sectors of 512
//!   bytes, or not at all; renames and removals since the last `sync_dir` up to some point, in order.
//! * `kill` ends a process: nothing is lost, and what was not synced may still be lost by a crash later.
//! * Faults: a quota (writes beyond it answer "no space", announced or not; an allocation takes what there is first, as ext4 does), one failing sync (what it should have made durable never will
//!   be, unless it is written again), a power cut after so many calls, flipped bits.
//! * Handles from before a crash answer errors for ever.
//! * Deliberately absent: latency, reordering of metadata (journaling file systems keep its order).

use super::{Claim, Disk, DiskFile, DiskLock, HeldFolder};
use parking_lot::Mutex;
use std::collections::{BTreeMap, HashSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Bytes that a torn write keeps or loses together.
const SECTOR_BYTES: usize = 512;

/// A call that changed something, as the log of calls keeps it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DiskCall {
    /// Bytes were written.
    Write {
        /// To which file.
        path: PathBuf,
        /// Where.
        position: u64,
        /// How many.
        length: u64,
    },
    /// A file was synced.
    Sync {
        /// Which.
        path: PathBuf,
    },
    /// A folder was synced.
    SyncDir {
        /// Which.
        path: PathBuf,
    },
    /// A file was created, renamed, removed, cut or extended.
    Change {
        /// Which (the new name).
        path: PathBuf,
    },
}

/// The disk. Cloning shares it.
#[derive(Clone, Default)]
pub struct MemDisk {
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    names: BTreeMap<PathBuf, u64>,
    durable_names: BTreeMap<PathBuf, u64>,
    name_ops: Vec<NameOp>,
    files: BTreeMap<u64, FileData>,
    folders: HashSet<PathBuf>,
    locks: HashSet<PathBuf>,
    next_file: u64,
    life: u64,
    quota_bytes: Option<u64>,
    hides_quota: bool,
    fail_sync: Option<io::ErrorKind>,
    calls_left: Option<u64>,
    calls: Vec<DiskCall>,
    call_count: u64,
}

#[derive(Clone)]
enum NameOp {
    Set(PathBuf, u64),
    Remove(PathBuf),
}

#[derive(Default)]
struct FileData {
    live: Vec<u8>,
    durable: Vec<u8>,
    unsynced: Vec<DataOp>,
}

enum DataOp {
    Write(u64, Vec<u8>),
    Length(u64),
}

fn apply_name(names: &mut BTreeMap<PathBuf, u64>, op: &NameOp) {
    match op {
        NameOp::Set(path, file) => {
            names.retain(|_, other| other != file);
            names.insert(path.clone(), *file);
        }
        NameOp::Remove(path) => {
            names.remove(path);
        }
    }
}

fn apply_write(data: &mut Vec<u8>, position: u64, bytes: &[u8]) {
    let end = position as usize + bytes.len();
    if data.len() < end {
        data.resize(end, 0);
    }
    if let Some(place) = data.get_mut(position as usize..end) {
        place.copy_from_slice(bytes);
    }
}

fn next_random(state: &mut u64) -> u64 {
    // splitmix64
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut mixed = *state;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

impl FileData {
    /// Everything written so far is durable from now on.
    fn sync(&mut self) {
        for op in std::mem::take(&mut self.unsynced) {
            match op {
                DataOp::Length(length) => self.durable.resize(length as usize, 0),
                DataOp::Write(position, bytes) => apply_write(&mut self.durable, position, &bytes),
            }
        }
    }

    /// A sync that failed: the pages count as clean, and no later sync brings them to the medium.
    fn lose_writes(&mut self) {
        self.unsynced.retain(|op| matches!(op, DataOp::Length(_)));
    }

    /// What a crash leaves of it.
    fn after_crash(&mut self, random: &mut u64) {
        for op in std::mem::take(&mut self.unsynced) {
            let choice = next_random(random) % 3;
            match op {
                DataOp::Length(length) if choice > 0 => self.durable.resize(length as usize, 0),
                DataOp::Write(position, bytes) if choice == 1 => apply_write(&mut self.durable, position, &bytes),
                DataOp::Write(position, bytes) if choice == 2 => {
                    let mut at = position;
                    let mut rest = &bytes[..];
                    while !rest.is_empty() {
                        let length = (SECTOR_BYTES - at as usize % SECTOR_BYTES).min(rest.len());
                        let (sector, tail) = rest.split_at(length);
                        if next_random(random).is_multiple_of(2) {
                            apply_write(&mut self.durable, at, sector);
                        }
                        at += length as u64;
                        rest = tail;
                    }
                }
                DataOp::Length(_) | DataOp::Write(..) => {}
            }
        }
        self.live = self.durable.clone();
    }
}

impl State {
    /// Counts a call that changes something; fails when the power is gone.
    fn call(&mut self, call: DiskCall) -> io::Result<()> {
        if let Some(left) = &mut self.calls_left {
            match left.checked_sub(1) {
                None => return Err(io::Error::other("power cut")),
                Some(rest) => *left = rest,
            }
        }
        self.calls.push(call);
        self.call_count += 1;
        Ok(())
    }

    fn used_bytes(&self) -> u64 {
        self.names.values().filter_map(|file| self.files.get(file)).map(|data| data.live.len() as u64).sum()
    }

    fn grow(&mut self, file: u64, length: u64) -> io::Result<()> {
        let have = self.files.get(&file).map_or(0, |data| data.live.len() as u64);
        let more = length.saturating_sub(have);
        if more > 0 && self.quota_bytes.is_some_and(|quota| self.used_bytes() + more > quota) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        Ok(())
    }
}

impl MemDisk {
    /// An empty disk without a quota.
    #[must_use]
    pub fn new() -> MemDisk {
        MemDisk::default()
    }

    /// Loses what was not synced, but for what the seed keeps. Locks are free again, faults are over.
    pub fn crash(&self, seed: u64) {
        let mut state = self.state.lock();
        let mut random = seed;
        let ops = std::mem::take(&mut state.name_ops);
        let kept = next_random(&mut random) as usize % (ops.len() + 1);
        for op in ops.iter().take(kept) {
            apply_name(&mut state.durable_names, op);
        }
        state.names = state.durable_names.clone();
        let named: HashSet<u64> = state.names.values().copied().collect();
        state.files.retain(|file, _| named.contains(file));
        state.calls.clear();
        for data in state.files.values_mut() {
            data.after_crash(&mut random);
        }
        state.locks.clear();
        state.life += 1;
        state.fail_sync = None;
        state.calls_left = None;
    }

    /// Ends the process that has files open: what it wrote stays live, durable or not. Locks are free again.
    pub fn kill(&self) {
        let mut state = self.state.lock();
        state.locks.clear();
        state.life += 1;
        state.fail_sync = None;
        state.calls_left = None;
    }

    /// Lets writes fail beyond so many bytes in all files.
    pub fn set_quota(&self, quota_bytes: Option<u64>) {
        self.state.lock().quota_bytes = quota_bytes;
    }

    /// Whether the disk says that there is room although its quota is used up.
    pub fn hide_quota(&self, hides: bool) {
        self.state.lock().hides_quota = hides;
    }

    /// Makes the next file sync fail.
    pub fn fail_next_sync(&self) {
        self.state.lock().fail_sync = Some(io::ErrorKind::Other);
    }

    /// Makes the next file sync find no space, as where blocks are chosen late.
    pub fn fail_next_sync_for_space(&self) {
        self.state.lock().fail_sync = Some(io::ErrorKind::StorageFull);
    }

    /// Cuts the power after so many calls that change something: they fail from then on.
    pub fn cut_power_after(&self, calls: u64) {
        self.state.lock().calls_left = Some(calls);
    }

    /// Changes bits of a byte on the medium.
    pub fn flip(&self, path: &Path, position: u64, mask: u8) {
        let mut state = self.state.lock();
        let Some(file) = state.names.get(path).copied() else { return };
        if let Some(data) = state.files.get_mut(&file) {
            for bytes in [&mut data.live, &mut data.durable] {
                if let Some(byte) = bytes.get_mut(position as usize) {
                    *byte ^= mask;
                }
            }
        }
    }

    /// A file's live bytes; empty when it is not there.
    #[must_use]
    pub fn bytes(&self, path: &Path) -> Vec<u8> {
        let state = self.state.lock();
        let data = state.names.get(path).and_then(|file| state.files.get(file));
        data.map(|data| data.live.clone()).unwrap_or_default()
    }

    /// Replaces a file's bytes, durably.
    pub fn put(&self, path: &Path, bytes: &[u8]) {
        let mut state = self.state.lock();
        let Some(file) = state.names.get(path).copied() else { return };
        let data = FileData { live: bytes.to_vec(), durable: bytes.to_vec(), unsynced: Vec::new() };
        state.files.insert(file, data);
    }

    /// Puts bytes into a file as a process leaves them that wrote and never synced: live, not durable.
    pub fn overlay_unsynced(&self, path: &Path, bytes: &[u8]) {
        let mut state = self.state.lock();
        let Some(file) = state.names.get(path).copied() else { return };
        if let Some(data) = state.files.get_mut(&file) {
            if bytes.len() < data.live.len() {
                data.unsynced.push(DataOp::Length(bytes.len() as u64));
            }
            data.live = bytes.to_vec();
            data.unsynced.push(DataOp::Write(0, bytes.to_vec()));
        }
    }

    /// Bytes in all files.
    #[must_use]
    pub fn used_bytes(&self) -> u64 {
        self.state.lock().used_bytes()
    }

    /// How many calls changed something since the disk was made.
    #[must_use]
    pub fn call_count(&self) -> u64 {
        self.state.lock().call_count
    }

    /// Calls that changed something since the last crash, in order.
    #[must_use]
    pub fn calls(&self) -> Vec<DiskCall> {
        self.state.lock().calls.clone()
    }
}

impl Disk for MemDisk {
    fn create_dir_all(&self, folder: &Path) -> io::Result<()> {
        self.state.lock().folders.insert(folder.to_path_buf());
        Ok(())
    }

    fn open(&self, path: &Path, create: bool) -> io::Result<Arc<dyn DiskFile>> {
        let mut state = self.state.lock();
        let file = match state.names.get(path) {
            Some(&file) => file,
            None if !create => return Err(io::ErrorKind::NotFound.into()),
            None => {
                state.call(DiskCall::Change { path: path.to_path_buf() })?;
                let file = state.next_file;
                state.next_file += 1;
                state.files.insert(file, FileData::default());
                let op = NameOp::Set(path.to_path_buf(), file);
                apply_name(&mut state.names, &op);
                state.name_ops.push(op);
                file
            }
        };
        let life = state.life;
        Ok(Arc::new(MemFile { disk: self.clone(), file, life, path: path.to_path_buf() }))
    }

    fn list(&self, folder: &Path) -> io::Result<Vec<String>> {
        let state = self.state.lock();
        let here = state.names.keys().filter(|path| path.parent() == Some(folder));
        Ok(here.filter_map(|path| path.file_name()?.to_str().map(str::to_owned)).collect())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.state.lock();
        let file = *state.names.get(from).ok_or(io::ErrorKind::NotFound)?;
        state.call(DiskCall::Change { path: to.to_path_buf() })?;
        let op = NameOp::Set(to.to_path_buf(), file);
        apply_name(&mut state.names, &op);
        state.name_ops.push(op);
        Ok(())
    }

    fn rename_new(&self, from: &Path, to: &Path) -> io::Result<()> {
        if self.state.lock().names.contains_key(to) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        self.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state.lock();
        if !state.names.contains_key(path) {
            return Err(io::ErrorKind::NotFound.into());
        }
        state.call(DiskCall::Change { path: path.to_path_buf() })?;
        let op = NameOp::Remove(path.to_path_buf());
        apply_name(&mut state.names, &op);
        state.name_ops.push(op);
        Ok(())
    }

    fn sync_dir(&self, folder: &Path) -> io::Result<()> {
        let mut state = self.state.lock();
        state.call(DiskCall::SyncDir { path: folder.to_path_buf() })?;
        let ops = std::mem::take(&mut state.name_ops);
        ops.iter().for_each(|op| apply_name(&mut state.durable_names, op));
        Ok(())
    }

    fn lock(&self, folder: &Path) -> io::Result<Claim> {
        let mut state = self.state.lock();
        if !state.locks.insert(folder.to_path_buf()) {
            return Ok(Claim::Held { holder: None });
        }
        let life = state.life;
        Ok(Claim::Taken(DiskLock(Box::new(MemLock { disk: self.clone(), path: folder.to_path_buf(), life }))))
    }

    fn free_bytes(&self, _folder: &Path) -> io::Result<u64> {
        let state = self.state.lock();
        let quota = state.quota_bytes.filter(|_| !state.hides_quota);
        Ok(quota.map_or(u64::MAX, |quota| quota.saturating_sub(state.used_bytes())))
    }
}

struct MemLock {
    disk: MemDisk,
    path: PathBuf,
    life: u64,
}

impl HeldFolder for MemLock {
    fn check(&self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for MemLock {
    fn drop(&mut self) {
        let mut state = self.disk.state.lock();
        if state.life == self.life {
            state.locks.remove(&self.path);
        }
    }
}

struct MemFile {
    disk: MemDisk,
    file: u64,
    life: u64,
    path: PathBuf,
}

impl MemFile {
    fn with<T>(&self, act: impl FnOnce(&mut State) -> io::Result<T>) -> io::Result<T> {
        let mut state = self.disk.state.lock();
        if state.life != self.life {
            return Err(io::Error::other("this handle is from before the crash"));
        }
        act(&mut state)
    }
}

impl DiskFile for MemFile {
    fn read_at(&self, buffer: &mut [u8], position: u64) -> io::Result<usize> {
        self.with(|state| {
            let data = state.files.get(&self.file).ok_or(io::ErrorKind::NotFound)?;
            let rest = data.live.get(position as usize..).unwrap_or_default();
            let count = rest.len().min(buffer.len());
            buffer.iter_mut().zip(rest).for_each(|(to, from)| *to = *from);
            Ok(count)
        })
    }

    fn write_at(&self, slices: &[&[u8]], position: u64) -> io::Result<()> {
        self.with(|state| {
            let bytes = slices.concat();
            let length = bytes.len() as u64;
            state.call(DiskCall::Write { path: self.path.clone(), position, length })?;
            state.grow(self.file, position + length)?;
            let data = state.files.get_mut(&self.file).ok_or(io::ErrorKind::NotFound)?;
            apply_write(&mut data.live, position, &bytes);
            data.unsynced.push(DataOp::Write(position, bytes));
            Ok(())
        })
    }

    fn sync_data(&self) -> io::Result<()> {
        self.with(|state| {
            state.call(DiskCall::Sync { path: self.path.clone() })?;
            let fails = std::mem::take(&mut state.fail_sync);
            let data = state.files.get_mut(&self.file).ok_or(io::ErrorKind::NotFound)?;
            if let Some(kind) = fails {
                data.lose_writes();
                return Err(io::Error::new(kind, "sync failed"));
            }
            data.sync();
            Ok(())
        })
    }

    fn allocate(&self, length: u64) -> io::Result<()> {
        self.with(|state| {
            let have = state.files.get(&self.file).map_or(0, |data| data.live.len() as u64);
            if length <= have {
                return Ok(());
            }
            state.call(DiskCall::Change { path: self.path.clone() })?;
            let free = state.quota_bytes.map_or(u64::MAX, |quota| quota.saturating_sub(state.used_bytes()));
            let taken = length.min(have.saturating_add(free));
            let data = state.files.get_mut(&self.file).ok_or(io::ErrorKind::NotFound)?;
            data.live.resize(taken as usize, 0);
            data.unsynced.push(DataOp::Length(taken));
            if taken < length { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
        })
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        self.with(|state| {
            state.call(DiskCall::Change { path: self.path.clone() })?;
            state.grow(self.file, length)?;
            let data = state.files.get_mut(&self.file).ok_or(io::ErrorKind::NotFound)?;
            data.live.resize(length as usize, 0);
            data.unsynced.push(DataOp::Length(length));
            Ok(())
        })
    }

    fn len(&self) -> io::Result<u64> {
        self.with(|state| Ok(state.files.get(&self.file).map_or(0, |data| data.live.len() as u64)))
    }

    fn is_named(&self, path: &Path) -> io::Result<bool> {
        self.with(|state| Ok(state.names.get(path) == Some(&self.file)))
    }
}
