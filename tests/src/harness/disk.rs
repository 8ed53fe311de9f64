//! A small file system of its own (tmpfs), that can be filled; unmounted with this value.
//!
//! * Deliberately absent: a medium. What is synced there is as lost as the rest when the machine stops.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A mounted small disk.
pub struct SmallDisk {
    /// Where it is mounted.
    pub at: PathBuf,
}

impl SmallDisk {
    /// Mounts one of so many MiB. `Err` says why this machine cannot.
    pub fn mount(at: &Path, mebibytes: usize) -> Result<SmallDisk, String> {
        std::fs::create_dir_all(at).map_err(|error| error.to_string())?;
        let size = format!("size={mebibytes}m");
        let mount = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "duramen-tests"]).arg(at).output();
        let mount = mount.map_err(|error| format!("mount: {error}"))?;
        match mount.status.success() {
            true => Ok(SmallDisk { at: at.to_owned() }),
            false => Err(String::from_utf8_lossy(&mount.stderr).trim().to_owned()),
        }
    }

    /// Takes all space but so many bytes, with a file of nothing.
    pub fn fill_but(&self, bytes_left: u64) -> std::io::Result<()> {
        let stat = rustix::fs::statvfs(&self.at)?;
        let free = stat.f_bavail * stat.f_frsize;
        let ballast = File::create(self.ballast())?;
        let length = free.saturating_sub(bytes_left);
        if length > 0 {
            rustix::fs::fallocate(&ballast, rustix::fs::FallocateFlags::empty(), 0, length)?;
        }
        Ok(())
    }

    /// Takes what is left, too.
    pub fn fill_more(&self) -> std::io::Result<()> {
        let stat = rustix::fs::statvfs(&self.at)?;
        let ballast = File::options().write(true).open(self.ballast())?;
        let length = ballast.metadata()?.len() + stat.f_bavail * stat.f_frsize;
        Ok(rustix::fs::fallocate(&ballast, rustix::fs::FallocateFlags::empty(), 0, length)?)
    }

    /// Gives the space back.
    pub fn free(&self) -> std::io::Result<()> {
        std::fs::remove_file(self.ballast())
    }

    fn ballast(&self) -> PathBuf {
        self.at.join("ballast")
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.at).output();
    }
}
