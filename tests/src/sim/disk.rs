//! A host's disk in one of its lives: a `MemDisk` behind the host's gate, with the time that syncs take.
//!
//! * A change that the gate does not let pass fails, and the medium is as the crash left it.
//! * Everything else passes through.

use super::gate::Gate;
use crate::harness::Rng;
use duramen_log_service::disk::{Claim, Disk, DiskFile, MemDisk};
use parking_lot::Mutex;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// How long a round of writing and syncing takes. Unit: milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// Shortest.
    pub ms_min: u64,
    /// Longest.
    pub ms_max: u64,
}

impl Pace {
    /// A solid-state disk.
    pub const QUICK: Pace = Pace { ms_min: 0, ms_max: 2 };
    /// One that is breaking, or shared with others.
    pub const SLOW: Pace = Pace { ms_min: 20, ms_max: 400 };
}

/// The disk.
pub struct SimDisk {
    medium: MemDisk,
    gate: Gate,
    pace: Arc<Mutex<Option<Pace>>>,
    rng: Mutex<Rng>,
}

impl SimDisk {
    /// Over what the host's medium holds. `pace` can be changed while it is in use.
    #[must_use]
    pub fn new(medium: MemDisk, gate: Gate, pace: Arc<Mutex<Option<Pace>>>, rng: Rng) -> SimDisk {
        SimDisk { medium, gate, pace, rng: Mutex::new(rng) }
    }

    fn lives(&self) -> io::Result<()> {
        if self.gate.lives() { Ok(()) } else { Err(power_cut()) }
    }

    fn passes(&self) -> io::Result<()> {
        if self.gate.passes() { Ok(()) } else { Err(power_cut()) }
    }
}

fn power_cut() -> io::Error {
    io::Error::other("power cut")
}

impl Disk for SimDisk {
    fn create_dir_all(&self, folder: &Path) -> io::Result<()> {
        self.passes()?;
        self.medium.create_dir_all(folder)
    }
    fn open(&self, path: &Path, create: bool) -> io::Result<Arc<dyn DiskFile>> {
        if create {
            self.passes()?;
        }
        self.lives()?;
        let file = self.medium.open(path, create)?;
        Ok(Arc::new(SimFile { file, gate: self.gate.clone() }))
    }
    fn list(&self, folder: &Path) -> io::Result<Vec<String>> {
        self.lives()?;
        self.medium.list(folder)
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.passes()?;
        self.medium.rename(from, to)
    }
    fn rename_new(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.passes()?;
        self.medium.rename_new(from, to)
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        self.passes()?;
        self.medium.remove(path)
    }
    fn sync_dir(&self, folder: &Path) -> io::Result<()> {
        self.passes()?;
        self.medium.sync_dir(folder)
    }
    fn lock(&self, folder: &Path) -> io::Result<Claim> {
        self.lives()?;
        self.medium.lock(folder)
    }
    fn free_bytes(&self, folder: &Path) -> io::Result<u64> {
        self.medium.free_bytes(folder)
    }
    fn delay(&self) -> Duration {
        let Pace { ms_min, ms_max } = self.pace.lock().unwrap_or(Pace::QUICK);
        Duration::from_millis(self.rng.lock().within(ms_min, ms_max))
    }
}

struct SimFile {
    file: Arc<dyn DiskFile>,
    gate: Gate,
}

impl SimFile {
    fn passes(&self) -> io::Result<()> {
        if self.gate.passes() { Ok(()) } else { Err(power_cut()) }
    }
}

impl DiskFile for SimFile {
    fn read_at(&self, buffer: &mut [u8], position: u64) -> io::Result<usize> {
        self.file.read_at(buffer, position)
    }
    fn write_at(&self, slices: &[&[u8]], position: u64) -> io::Result<()> {
        self.passes()?;
        self.file.write_at(slices, position)
    }
    fn sync_data(&self) -> io::Result<()> {
        self.passes()?;
        self.file.sync_data()
    }
    fn allocate(&self, length: u64) -> io::Result<()> {
        self.passes()?;
        self.file.allocate(length)
    }
    fn set_len(&self, length: u64) -> io::Result<()> {
        self.passes()?;
        self.file.set_len(length)
    }
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }
    fn is_named(&self, path: &Path) -> io::Result<bool> {
        self.file.is_named(path)
    }
}
