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
mod operator;
mod process;

use super::stage::{Missing, Stage};
use crate::harness::Rng;
use operator::output::Collector;
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
    /// A node has no descriptors left, or few.
    FilesExhausted,
    /// Thousands of connections on which nothing happens.
    IdleConnections,
    /// What reads a node's log is gone.
    StderrGone,
    /// A node's log goes to a full disk.
    StderrFull,
    /// What reads a node's log does not read.
    SlowCollector,
    /// Clients ask for much and do not read it.
    UnreadAnswers,
    /// A log node has another address, in its own configuration only.
    MovedAddress,
    /// A serving node's index is damaged while the node is down.
    IndexDamaged,
    /// A serving node's index is damaged while the node runs.
    IndexRot,
    /// A node's lock files are gone, and a second process starts on its folder.
    LocksRemoved,
    /// One node's clock is a day off.
    WrongClock,
    /// A serving node is configured with log nodes of another cluster.
    WrongCluster,
    /// A log node of another cluster is where a member should be.
    StrangeMember,
    /// A second serving node is started under the name of one that runs.
    SameName,
}

impl Fault {
    /// All of them.
    pub const ALL: [Fault; 26] = [
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
        Fault::FilesExhausted,
        Fault::IdleConnections,
        Fault::StderrGone,
        Fault::StderrFull,
        Fault::SlowCollector,
        Fault::UnreadAnswers,
        Fault::MovedAddress,
        Fault::IndexDamaged,
        Fault::IndexRot,
        Fault::LocksRemoved,
        Fault::WrongClock,
        Fault::WrongCluster,
        Fault::StrangeMember,
        Fault::SameName,
    ];

    /// Faults of the operator's world, by what they are about. One of each group is enough for a short run.
    pub const OPERATOR: [&[Fault]; 8] = [
        &[Fault::FilesExhausted, Fault::IdleConnections],
        &[Fault::StderrGone, Fault::StderrFull, Fault::SlowCollector],
        &[Fault::UnreadAnswers],
        &[Fault::MovedAddress],
        &[Fault::IndexDamaged, Fault::IndexRot],
        &[Fault::LocksRemoved],
        &[Fault::WrongClock],
        &[Fault::WrongCluster, Fault::StrangeMember, Fault::SameName],
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
            Fault::FilesExhausted => "files-exhausted",
            Fault::IdleConnections => "idle-connections",
            Fault::StderrGone => "stderr-gone",
            Fault::StderrFull => "stderr-full",
            Fault::SlowCollector => "slow-collector",
            Fault::UnreadAnswers => "unread-answers",
            Fault::MovedAddress => "moved-address",
            Fault::IndexDamaged => "index-damaged",
            Fault::IndexRot => "index-rot",
            Fault::LocksRemoved => "locks-removed",
            Fault::WrongClock => "wrong-clock",
            Fault::WrongCluster => "wrong-cluster",
            Fault::StrangeMember => "strange-member",
            Fault::SameName => "same-name",
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

    /// Whether an index of a serving node is damaged.
    #[must_use]
    pub fn damages_index(self) -> bool {
        matches!(self, Fault::IndexDamaged | Fault::IndexRot)
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
            Fault::FilesExhausted => operator::files::exhausted(stage, rng, hold).await,
            Fault::IdleConnections => operator::connections::idle(stage, rng, hold).await,
            Fault::StderrGone => operator::output::broken(stage, rng, hold, Collector::Gone).await,
            Fault::StderrFull => operator::output::broken(stage, rng, hold, Collector::Full).await,
            Fault::SlowCollector => operator::output::broken(stage, rng, hold, Collector::Asleep).await,
            Fault::UnreadAnswers => operator::readers::unread(stage, rng, hold).await,
            Fault::MovedAddress => operator::address::moved(stage, rng, hold).await,
            Fault::IndexDamaged => operator::index::damaged(stage, rng, hold).await,
            Fault::IndexRot => operator::index::rot(stage, rng, hold).await,
            Fault::LocksRemoved => operator::locks::removed(stage, rng, hold).await,
            Fault::WrongClock => operator::clock::wrong(stage, rng, hold).await,
            Fault::WrongCluster => operator::strangers::wrong_cluster(stage, rng, hold).await,
            Fault::StrangeMember => operator::strangers::strange_member(stage, rng, hold).await,
            Fault::SameName => operator::strangers::same_name(stage, rng, hold).await,
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
