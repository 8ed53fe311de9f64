//! Serving suite: one serving node over a log in memory, its clients, its kills; what clients saw against the plain fold.
//!
//! * A seed is some lives of a node with its index on disk (sled). Within a life: writers with guards and sessions, readers of
//!   every consistency, pages, a feed that is cut off; the log is slow, and now and then stops committing. Lives end like
//!   a killed process, nothing flushed; between them, entries vanish from the index now and then.
//! * In virtual time and one thread. Judged at the end: `judge`.
//! * Source: DESIGN D6, D8, D9, D14, invariants 4 to 8. Deliberately absent: consensus, sockets, more than one node.

mod caller;
mod clients;
mod feed;
mod judge;
mod slow_log;

use super::chance::Chance;
use clients::{Clients, Known, PATIENCE};
use duramen_common::{HistoryId, PartitionId};
use duramen_serving_node::testing::{FolderIndex, MemoryLog};
use duramen_serving_node::{IndexKind, PartitionsConfig, ServingNode, ServingNodeConfig};
use feed::Followed;
use slow_log::SlowLog;
use std::ops::{Bound, ControlFlow};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::runtime::RngSeed;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

const HISTORY: u32 = 0x00c7_f3a1;
const PARTITIONS: u16 = 2;
/// Lives of the node in one seed, and how long the clients work in each. Unit: milliseconds of virtual time.
const LIVES: usize = 3;
const LIFE_MS: usize = 2_500;

/// Runs a seed; says what is broken.
pub fn run_seed(seed: u64) -> Result<(), String> {
    let folder = tempfile::TempDir::with_prefix("duramen-serving-suite-").map_err(|error| error.to_string())?;
    let history = HistoryId::from_bits(HISTORY);
    let world = World {
        log: Arc::new(MemoryLog::new(history, PARTITIONS)),
        known: Arc::new(Mutex::new(Known::new(PARTITIONS))),
        followed: Arc::new(Mutex::new(Followed::new(history, PARTITIONS))),
        chance: Chance::new(seed, 0),
    };
    for life in 0..LIVES {
        // Everything that a process has goes down with its runtime.
        let order = RngSeed::from_bytes(&seed.to_le_bytes());
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = runtime.enable_time().start_paused(true).rng_seed(order).build();
        let runtime = runtime.map_err(|error| error.to_string())?;
        runtime.block_on(world.live(folder.path(), life)).map_err(|broken| format!("life {life}: {broken}"))?;
        drop(runtime);
        world.damage(folder.path());
    }
    let known = world.known.lock().map_err(|error| error.to_string())?;
    let followed = world.followed.lock().map_err(|error| error.to_string())?.clone();
    judge::judge(&world.log, PARTITIONS, &[followed.seen()])?;
    judge::judge(&world.log, PARTITIONS, &known.seen)
}

/// What outlives the node.
struct World {
    log: Arc<MemoryLog>,
    known: Arc<Mutex<Known>>,
    followed: Arc<Mutex<Followed>>,
    chance: Chance,
}

impl World {
    fn config(&self, folder: &Path) -> ServingNodeConfig {
        let pick = |choices: [u64; 3]| choices[self.chance.below(3)];
        ServingNodeConfig {
            partitions: PartitionsConfig {
                data_dir: Some(folder.to_owned()),
                index: IndexKind::Sled,
                cache_bytes: 1 << 20,
                flush_bytes: pick([256, 4096, 65_536]) as usize,
                flush_interval_ms: pick([20, 100, 500]),
                fetch_bytes_max: pick([512, 4096, 1 << 20]) as u32,
                recent_bytes_max: pick([0, 2_000, 1 << 20]) as usize,
                lag: Duration::from_millis(pick([0, 5, 40])),
                ..PartitionsConfig::default()
            },
            ..ServingNodeConfig::default()
        }
    }

    async fn live(&self, folder: &Path, life: usize) -> Result<(), String> {
        let log = Arc::new(SlowLog { log: Arc::clone(&self.log), chance: self.chance.clone() });
        let node = ServingNode::start_without_port(self.config(folder), log, self.chance.seams()).await;
        let node = Arc::new(node.map_err(|error| format!("the node does not start: {error}"))?);
        timeout(PATIENCE, node.ready()).await.map_err(|_| "the node is not ready in time".to_owned())?;
        let clients = Clients {
            node: Arc::clone(&node),
            chance: self.chance.clone(),
            history: HistoryId::from_bits(HISTORY),
            partitions: PARTITIONS,
            known: Arc::clone(&self.known),
        };
        let mut tasks = JoinSet::new();
        for _ in 0..3 {
            tasks.spawn(clients.clone().write());
            tasks.spawn(clients.clone().read_on());
        }
        tasks.spawn(clients.clone().scan_on());
        tasks.spawn(clients.clone().follow(Arc::clone(&self.followed)));
        tokio::select! {
            () = self.disturb() => {}
            ended = tasks.join_next() => return Err(format!("a client ended: {ended:?}")),
            reason = node.failed() => return Err(format!("the node failed: {reason}")),
        }
        if life + 1 < LIVES {
            return Ok(());
        }
        let scanned = async {
            while !clients.scan(false).await {
                sleep(Duration::from_millis(50)).await;
            }
        };
        timeout(PATIENCE, scanned).await.map_err(|_| "no page in time after the faults".to_owned())
    }

    /// Takes entries out of the index at rest, now and then: what is left has every checksum right.
    fn damage(&self, folder: &Path) {
        if self.chance.below(2) == 0 {
            return;
        }
        let store = FolderIndex::open_of(folder, IndexKind::Sled, HistoryId::from_bits(HISTORY));
        let store = store.expect("a killed node leaves an index that opens");
        let mut keys = Vec::new();
        let mut visit = |key: &[u8], _: &[u8]| {
            keys.push(key.to_vec());
            ControlFlow::Continue(())
        };
        let data_end = PARTITIONS.to_be_bytes();
        let read = store.index().range(Bound::Unbounded, Bound::Excluded(&data_end), &mut visit);
        read.expect("a killed node leaves an index that can be read");
        keys.retain(|_| self.chance.below(4) == 0);
        let writes = keys.into_iter().map(|key| (key, None)).collect();
        store.index().write(writes).expect("an index can be written");
    }

    /// Lets the clients work, and now and then stops the log from committing; in the end it commits.
    async fn disturb(&self) {
        let mut left_ms = LIFE_MS / 2 + self.chance.below(LIFE_MS / 2);
        while left_ms > 0 {
            let step_ms = (1 + self.chance.below(600)).min(left_ms);
            left_ms -= step_ms;
            sleep(Duration::from_millis(step_ms as u64)).await;
            if self.chance.below(3) == 0 {
                let partition = PartitionId::new(self.chance.below(PARTITIONS.into()) as u16);
                self.log.hold_commits(partition, true);
                sleep(self.chance.ms(1_600)).await;
                self.log.hold_commits(partition, false);
            }
        }
    }
}
