//! A disk that waits where the operating system is short of descriptors or memory, around any other.
//!
//! * Being short is not being damaged: the same call succeeds once others have closed what they hold. Who calls here waits
//!   for that, up to a limit; after the limit the error goes on as any other does.
//! * In: calls that open something, or write. Out: the inner disk's results.
//! * Deliberately absent: syncs, after whose failure nothing is known about what was written.
//! * Source: docs/adr/0015-files-are-a-budget.md.

use super::{Claim, Disk, DiskFile};
use duramen_common::seldom::Seldom;
use duramen_common::shortage::is_shortage;
use parking_lot::{Condvar, Mutex};
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// Between two tries.
const PAUSE: Duration = Duration::from_millis(50);

/// How long a call waits unless told otherwise.
pub const SHORTAGE_WAIT_MAX: Duration = Duration::from_secs(60);

/// Waits where the inner disk is short of something.
pub struct PatientDisk {
    inner: Arc<dyn Disk>,
    patience: Arc<Patience>,
}

struct PatientFile {
    inner: Arc<dyn DiskFile>,
    patience: Arc<Patience>,
}

struct Patience {
    wait_max: Duration,
    waiting: Mutex<Waiting>,
    pause: Condvar,
    said: Seldom,
}

#[derive(Default)]
struct Waiting {
    /// Since when somebody has been waiting without a break.
    since: Option<Instant>,
    count: usize,
    waits: u64,
}

impl PatientDisk {
    /// Around this disk.
    #[must_use]
    pub fn new(inner: Arc<dyn Disk>, wait_max: Duration) -> PatientDisk {
        let (waiting, pause, said) = (Mutex::default(), Condvar::new(), Seldom::default());
        PatientDisk { inner, patience: Arc::new(Patience { wait_max, waiting, pause, said }) }
    }
}

impl Patience {
    fn call<T>(&self, what: &str, path: &Path, call: impl Fn() -> io::Result<T>) -> io::Result<T> {
        match call() {
            Err(error) if is_shortage(&error) => self.wait(what, path, error, call),
            result => result,
        }
    }

    fn wait<T>(
        &self,
        what: &str,
        path: &Path,
        mut error: io::Error,
        call: impl Fn() -> io::Result<T>,
    ) -> io::Result<T> {
        let began = Instant::now();
        let mut waiting = self.waiting.lock();
        waiting.since.get_or_insert(began);
        waiting.count += 1;
        waiting.waits += 1;
        let result = loop {
            if let Some(unsaid) = self.said.is_due(Instant::now()) {
                tracing::warn!(
                    %error, path = %path.display(), unsaid,
                    "{what} waits until the system is less short; raise the limit of open files (ulimit -n, LimitNOFILE=)"
                );
            }
            self.pause.wait_for(&mut waiting, PAUSE);
            drop(waiting);
            let tried = call();
            waiting = self.waiting.lock();
            match tried {
                Err(again) if is_shortage(&again) && began.elapsed() < self.wait_max => error = again,
                result => break result,
            }
        };
        waiting.count -= 1;
        if waiting.count == 0 {
            waiting.since = None;
            tracing::info!(waited_ms = began.elapsed().as_millis() as u64, "{what} goes on");
        }
        result
    }
}

impl Disk for PatientDisk {
    fn create_dir_all(&self, folder: &Path) -> io::Result<()> {
        self.patience.call("making a folder", folder, || self.inner.create_dir_all(folder))
    }
    fn open(&self, path: &Path, create: bool) -> io::Result<Arc<dyn DiskFile>> {
        let inner = self.patience.call("opening a file", path, || self.inner.open(path, create))?;
        Ok(Arc::new(PatientFile { inner, patience: Arc::clone(&self.patience) }))
    }
    fn list(&self, folder: &Path) -> io::Result<Vec<String>> {
        self.patience.call("listing a folder", folder, || self.inner.list(folder))
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.patience.call("renaming a file", from, || self.inner.rename(from, to))
    }
    fn rename_new(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.patience.call("renaming a file", from, || self.inner.rename_new(from, to))
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        self.patience.call("removing a file", path, || self.inner.remove(path))
    }
    fn sync_dir(&self, folder: &Path) -> io::Result<()> {
        // The folder is opened first: what was short was a descriptor, and nothing was synced.
        self.patience.call("syncing a folder", folder, || self.inner.sync_dir(folder))
    }
    fn lock(&self, folder: &Path) -> io::Result<Claim> {
        self.patience.call("locking a folder", folder, || self.inner.lock(folder))
    }
    fn free_bytes(&self, folder: &Path) -> io::Result<u64> {
        self.inner.free_bytes(folder)
    }
    fn delay(&self) -> Duration {
        self.inner.delay()
    }
    fn short_since(&self) -> Option<Instant> {
        self.patience.waiting.lock().since
    }
    fn shortages(&self) -> u64 {
        self.patience.waiting.lock().waits
    }
}

impl DiskFile for PatientFile {
    fn read_at(&self, buffer: &mut [u8], position: u64) -> io::Result<usize> {
        // Tried once in the usual case, so that nothing is copied for a second try.
        match self.inner.read_at(buffer, position) {
            Err(error) if is_shortage(&error) => {
                let buffer = Mutex::new(buffer);
                let again = || self.inner.read_at(&mut buffer.lock(), position);
                self.patience.wait("reading", Path::new("a segment"), error, again)
            }
            result => result,
        }
    }
    fn write_at(&self, slices: &[&[u8]], position: u64) -> io::Result<()> {
        // The same bytes at the same place: what a first try has written is written again.
        self.patience.call("writing", Path::new("a segment"), || self.inner.write_at(slices, position))
    }
    fn sync_data(&self) -> io::Result<()> {
        self.inner.sync_data()
    }
    fn allocate(&self, length: u64) -> io::Result<()> {
        self.patience.call("reserving", Path::new("a segment"), || self.inner.allocate(length))
    }
    fn set_len(&self, length: u64) -> io::Result<()> {
        self.patience.call("cutting", Path::new("a segment"), || self.inner.set_len(length))
    }
    fn len(&self) -> io::Result<u64> {
        self.patience.call("measuring", Path::new("a segment"), || self.inner.len())
    }
    fn is_named(&self, path: &Path) -> io::Result<bool> {
        self.patience.call("looking for a file", path, || self.inner.is_named(path))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::MemDisk;
    use std::sync::atomic::{AtomicUsize, Ordering};

    /// A disk that is short of descriptors for so many calls.
    struct Short {
        inner: MemDisk,
        calls: AtomicUsize,
        code: i32,
    }

    impl Short {
        fn check(&self) -> io::Result<()> {
            let take = |left: usize| left.checked_sub(1);
            match self.calls.fetch_update(Ordering::SeqCst, Ordering::SeqCst, take) {
                Ok(_) => Err(io::Error::from_raw_os_error(self.code)),
                Err(_) => Ok(()),
            }
        }
    }

    impl Disk for Short {
        fn create_dir_all(&self, folder: &Path) -> io::Result<()> {
            self.inner.create_dir_all(folder)
        }
        fn open(&self, path: &Path, create: bool) -> io::Result<Arc<dyn DiskFile>> {
            self.check()?;
            self.inner.open(path, create)
        }
        fn list(&self, folder: &Path) -> io::Result<Vec<String>> {
            self.check()?;
            self.inner.list(folder)
        }
        fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
            self.inner.rename(from, to)
        }
        fn rename_new(&self, from: &Path, to: &Path) -> io::Result<()> {
            self.inner.rename_new(from, to)
        }
        fn remove(&self, path: &Path) -> io::Result<()> {
            self.inner.remove(path)
        }
        fn sync_dir(&self, folder: &Path) -> io::Result<()> {
            self.check()?;
            self.inner.sync_dir(folder)
        }
        fn lock(&self, folder: &Path) -> io::Result<Claim> {
            self.inner.lock(folder)
        }
        fn free_bytes(&self, folder: &Path) -> io::Result<u64> {
            self.inner.free_bytes(folder)
        }
    }

    fn short(calls: usize, code: i32) -> Arc<Short> {
        let disk = Short { inner: MemDisk::default(), calls: AtomicUsize::new(calls), code };
        disk.create_dir_all(Path::new("/log")).unwrap();
        Arc::new(disk)
    }

    /// Goal: a shortage that passes is waited for; nobody above hears of it.
    #[test]
    fn a_shortage_that_passes_is_not_an_error() {
        let disk = PatientDisk::new(short(2, 24), SHORTAGE_WAIT_MAX);
        assert!(disk.open(Path::new("/log/a"), true).is_ok());
        assert_eq!(disk.list(Path::new("/log")).unwrap(), ["a"]);
        assert_eq!((disk.shortages(), disk.short_since()), (1, None));
    }

    /// Goal: a shortage that stays is an error after a while, and other errors are errors at once.
    #[test]
    fn what_does_not_pass_is_an_error() {
        let disk = PatientDisk::new(short(usize::MAX, 24), Duration::from_millis(120));
        assert_eq!(disk.list(Path::new("/log")).unwrap_err().raw_os_error(), Some(24));
        let disk = PatientDisk::new(short(1, 5), SHORTAGE_WAIT_MAX);
        assert_eq!(disk.list(Path::new("/log")).unwrap_err().raw_os_error(), Some(5));
        assert_eq!(disk.shortages(), 0);
    }
}
