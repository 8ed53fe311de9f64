//! The workloads of a round: clients that ask all nodes while a fault is there, and what is concluded from what they were
//! told.
//!
//! * All workloads run at once. Each round has keys of its own, so that what one round left unknown cannot spoil another.
//! * Clients ask for one thing after the other, with pauses: the machine is shared, and checking has its limits.
//! * A round ends for askers when it says so; followers of feeds and logs then go on until they have seen everything.

mod compare_and_set;
mod feed;
mod raw_log;
mod record;
mod register;
mod session;
mod slots;
#[cfg(test)]
pub(super) mod tampered;

use super::book::Slice;
use crate::checkers::history::{Counts, Outcome};
use crate::harness::{Http, Rng};
use duramen_common::{HistoryId, Offset, PartitionId, SessionToken, Timestamp};
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::sleep;

/// How long a client waits for an answer.
const PATIENCE: Duration = Duration::from_secs(3);
/// What a node is asked to wait at most. Unit: seconds.
const WAIT_SECONDS: u32 = 2;
/// How long a follower may take to have seen everything, once nothing more is asked for.
const CAUGHT_UP_WITHIN: Duration = Duration::from_secs(60);
/// The longest pause between two operations of a client. Unit: milliseconds.
const PAUSE_MS_MAX: usize = 24;

/// A kind of workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Linearizable reads, writes, deletes.
    Register,
    /// Compare-and-set, counters.
    CompareAndSet,
    /// Reads with tokens.
    Session,
    /// Followers of the feed.
    Feed,
    /// Appends and fetches at the log nodes.
    RawLog,
}

impl Kind {
    /// All of them.
    pub const ALL: [Kind; 5] = [Kind::Register, Kind::CompareAndSet, Kind::Session, Kind::Feed, Kind::RawLog];

    /// What it is called.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Kind::Register => "register",
            Kind::CompareAndSet => "cas",
            Kind::Session => "session",
            Kind::Feed => "feed",
            Kind::RawLog => "raw-log",
        }
    }

    /// One of this kind, for a round.
    #[must_use]
    pub fn prepare(self, field: &Field) -> Arc<dyn Workload> {
        match self {
            Kind::Register => Arc::new(register::Register::new(field)),
            Kind::CompareAndSet => Arc::new(compare_and_set::CompareAndSet::new(field)),
            Kind::Session => Arc::new(session::Session::new(field)),
            Kind::Feed => Arc::new(feed::Follow::default()),
            Kind::RawLog => Arc::new(raw_log::RawLog::new(field)),
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Kind {
    type Err = String;

    fn from_str(name: &str) -> Result<Kind, String> {
        let found = Kind::ALL.into_iter().find(|kind| kind.name() == name);
        found.ok_or_else(|| format!("{name:?} is no workload: {}", Kind::ALL.map(Kind::name).join(", ")))
    }
}

/// A workload under way in one round.
pub trait Workload: Send + Sync {
    /// Starts its clients: askers, which end when the round is stopped, and followers, which end when they have seen
    /// all there is.
    fn spawn(self: Arc<Self>, field: &Arc<Field>, askers: &mut JoinSet<()>, followers: &mut JoinSet<()>);

    /// How many operations ended how.
    fn counts(&self) -> Counts;

    /// Every operation, a line each, for people to read.
    fn story(&self) -> String;

    /// What may not be, judged from what its clients were told and from the log of the round.
    fn check(&self, field: &Field, slice: &Slice) -> Vec<String>;
}

/// A round, as its clients see it.
pub struct Field {
    /// The serving nodes.
    pub serving: Vec<Http>,
    /// The log nodes.
    pub log: Vec<Http>,
    /// Data partitions.
    pub partitions: u16,
    /// Its number, which stands in its keys.
    pub round: u64,
    /// Of the run.
    pub seed: u64,
    /// The cluster's history.
    pub history: HistoryId,
    /// Where each partition's log ended before the round.
    pub begin: Vec<u64>,
    stop: watch::Sender<bool>,
    ends: watch::Sender<Option<Vec<u64>>>,
}

impl Field {
    /// A round that goes on.
    #[must_use]
    pub fn new(nodes: (Vec<Http>, Vec<Http>), round: u64, seed: u64, history: HistoryId, begin: Vec<u64>) -> Field {
        let (serving, log) = nodes;
        let partitions = u16::try_from(begin.len()).expect("a cluster has few partitions");
        let (stop, ends) = (watch::Sender::new(false), watch::Sender::new(None));
        Field { serving, log, partitions, round, seed, history, begin, stop, ends }
    }

    /// Tells the askers to end.
    pub fn stop(&self) {
        self.stop.send_replace(true);
    }

    /// Tells the followers where each partition's log ends.
    pub fn tell_ends(&self, ends: Vec<u64>) {
        self.ends.send_replace(Some(ends));
    }

    fn goes_on(&self) -> bool {
        !*self.stop.borrow()
    }

    /// Where each partition's log ends, once that is known.
    fn ends(&self) -> Option<Vec<u64>> {
        self.ends.borrow().clone()
    }

    fn rng(&self, workload: &str, client: u64) -> Rng {
        let workload = workload.bytes().fold(0u64, |sum, byte| sum.wrapping_mul(31).wrapping_add(u64::from(byte)));
        Rng::of_stream(self.seed, self.round << 32 ^ workload << 8 ^ client)
    }

    /// Any serving node.
    fn serving<'a>(&'a self, rng: &mut Rng) -> &'a Http {
        rng.pick(&self.serving)
    }

    /// The token of everything below these ends.
    fn token_of(&self, ends: &[u64]) -> SessionToken {
        let mut token = SessionToken::new(self.history);
        for (partition, &end) in (0..).zip(ends) {
            if let Some(offset) = Offset::new(end).previous() {
                token.see(Timestamp { partition: PartitionId::new(partition), offset });
            }
        }
        token
    }
}

/// A client that was not served gives the node a moment.
async fn after<R>(outcome: &Outcome<R>) {
    if !matches!(outcome, Outcome::Ok(_)) {
        sleep(Duration::from_millis(30)).await;
    }
}

async fn pause(rng: &mut Rng) {
    sleep(Duration::from_millis(rng.below(PAUSE_MS_MAX) as u64)).await;
}
