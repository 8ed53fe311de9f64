//! The faults: each breaks something, holds it broken for a while, and mends it. Whether the cluster is then well again is
//! asked by who runs it.
//!
//! * Victims, variants and times are chosen by a seed. Leaders are preferred.
//! * A fault says what it did; `Err` says what it saw that may not be.
//! * At any time a majority could go on, but for `halves` (a serving node may be on the wrong side), `disk-full` (two
//!   disks may be full) and `all-at-once`.

mod damage;
mod disk;
mod network;
mod process;

use super::stage::{Missing, Stage};
use crate::harness::Rng;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::timeout;

/// A kind of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// SIGKILL of one node.
    Kill,
    /// SIGSTOP of one node, then SIGCONT.
    Pause,
    /// One node, mostly a leader, is cut off from the others.
    Isolate,
    /// The nodes are cut into two groups.
    Halves,
    /// One node is heard and hears nobody, or the other way round.
    OneWay,
    /// One node's cable is slow.
    SlowLink,
    /// One or two log nodes' disks are full.
    DiskFull,
    /// One bit of a log file is another one, not in its last frame.
    BitFlip,
    /// A log file that is not the last one has lost its end.
    TruncatedFile,
    /// A log node comes back with nothing, under its old number.
    BlankDisk,
    /// SIGTERM and start, one node after the other.
    RollingRestart,
    /// SIGKILL of all nodes.
    AllAtOnce,
}

impl Fault {
    /// All of them.
    pub const ALL: [Fault; 12] = [
        Fault::Kill,
        Fault::Pause,
        Fault::Isolate,
        Fault::Halves,
        Fault::OneWay,
        Fault::SlowLink,
        Fault::DiskFull,
        Fault::BitFlip,
        Fault::TruncatedFile,
        Fault::BlankDisk,
        Fault::RollingRestart,
        Fault::AllAtOnce,
    ];

    /// What it is called.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Fault::Kill => "kill",
            Fault::Pause => "pause",
            Fault::Isolate => "isolate",
            Fault::Halves => "halves",
            Fault::OneWay => "one-way",
            Fault::SlowLink => "slow-link",
            Fault::DiskFull => "disk-full",
            Fault::BitFlip => "bit-flip",
            Fault::TruncatedFile => "truncated-file",
            Fault::BlankDisk => "blank-disk",
            Fault::RollingRestart => "rolling-restart",
            Fault::AllAtOnce => "all-at-once",
        }
    }

    /// Why it is not possible here, if it is not.
    #[must_use]
    pub fn skipped(self, missing: &Missing) -> Option<String> {
        match self {
            Fault::OneWay | Fault::SlowLink => {
                missing.hosts.as_ref().map(|why| format!("needs hosts of their own for the nodes: {why}"))
            }
            Fault::DiskFull => missing.disks.as_ref().map(|why| format!("needs small disks: {why}")),
            _ => None,
        }
    }

    /// Whether files of a log node are damaged.
    #[must_use]
    pub fn damages_files(self) -> bool {
        matches!(self, Fault::BitFlip | Fault::TruncatedFile)
    }

    /// Breaks, holds, mends.
    pub async fn run(self, stage: &mut Stage, rng: &mut Rng, hold: &Hold) -> Result<String, String> {
        match self {
            Fault::Kill => process::kill(stage, rng, hold).await,
            Fault::Pause => process::pause(stage, rng, hold).await,
            Fault::RollingRestart => process::rolling_restart(stage, rng).await,
            Fault::AllAtOnce => process::all_at_once(stage, hold).await,
            Fault::Isolate => network::isolate(stage, rng, hold).await,
            Fault::Halves => network::halves(stage, rng, hold).await,
            Fault::OneWay => network::one_way(stage, rng, hold).await,
            Fault::SlowLink => network::slow_link(stage, rng, hold).await,
            Fault::DiskFull => disk::full(stage, rng, hold).await,
            Fault::BlankDisk => disk::blank(stage, rng, hold).await,
            Fault::BitFlip => damage::bit_flip(stage, rng, hold).await,
            Fault::TruncatedFile => damage::truncated_file(stage, rng, hold).await,
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Fault {
    type Err = String;

    fn from_str(name: &str) -> Result<Fault, String> {
        let found = Fault::ALL.into_iter().find(|fault| fault.name() == name);
        found.ok_or_else(|| format!("{name:?} is no fault: {}", Fault::ALL.map(Fault::name).join(", ")))
    }
}

/// How long a fault is held.
pub struct Hold {
    /// Unless it is cut short.
    pub length: Duration,
    /// Becomes true when the run is to end.
    pub cancelled: watch::Receiver<bool>,
}

impl Hold {
    /// Waits.
    pub async fn wait(&self) {
        let mut cancelled = self.cancelled.clone();
        // Over when the time is, or at once.
        let _ = timeout(self.length, cancelled.wait_for(|&cancelled| cancelled)).await;
    }
}
