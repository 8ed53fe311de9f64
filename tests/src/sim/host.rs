//! Host: a machine with one process on it: a runtime of its own, virtual time, a life that can end at any effect.
//!
//! * In: packets, and how far time has come. Out: whatever its process sends or writes.
//! * Time on a host goes by its own clock: it may be a little fast or slow, it may stand still (the process is stopped) and
//!   then jump. Wall clocks are another matter (`seams`).
//! * Invariant: dropping the runtime drops everything of the process; what it still tries does not pass its gate.

use super::gate::Gate;
use super::network::{HostId, Network};
use super::packet::{Packet, Place};
use super::wire::Wire;
use crate::harness::Rng;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::AtomicI64;
use std::time::Duration;
use tokio::runtime::{Builder, Runtime};
use tokio::time::{Instant, advance, sleep_until};

/// A process's life on a host.
pub struct Life {
    /// Its runtime.
    pub runtime: Runtime,
    /// Its connections.
    pub wire: Wire,
    /// What it does passes here.
    pub gate: Gate,
    epoch: Instant,
    /// How long it has lived by its own clock. Unit: milliseconds.
    age_ms: u64,
    began_ms: u64,
}

impl Drop for Life {
    fn drop(&mut self) {
        self.wire.shut();
    }
}

/// A host.
pub struct Host {
    /// Its number.
    pub id: HostId,
    /// Its name and address.
    pub name: String,
    /// Its process, while it runs.
    pub life: Option<Life>,
    /// How far its wall clock is off.
    pub skew_ms: Arc<AtomicI64>,
    /// By how many parts in a thousand its monotonic clock is fast.
    pub drift: i64,
    /// Until when its process is stopped, and since when.
    pub stopped: Option<(u64, u64)>,
    lives: u32,
    waiting: VecDeque<Packet>,
}

impl Host {
    /// A host on which nothing runs.
    #[must_use]
    pub fn new(id: HostId, name: String) -> Host {
        Host {
            id,
            name,
            life: None,
            skew_ms: Arc::default(),
            drift: 0,
            stopped: None,
            lives: 0,
            waiting: VecDeque::new(),
        }
    }

    /// Begins a life; what runs in it is started by the caller.
    pub fn begin(&mut self, network: &Network, rng: &mut Rng) -> &Life {
        self.lives += 1;
        let place = Place { host: self.id, life: self.lives };
        let gate = Gate::default();
        let wire = Wire::new(network.clone(), place, gate.clone());
        let runtime = build_runtime(rng);
        let epoch = runtime.block_on(async { Instant::now() });
        network.set_life(self.id, Some(self.lives));
        self.life.insert(Life { runtime, wire, gate, epoch, age_ms: 0, began_ms: network.now_ms() })
    }

    /// Ends the life: its gate is closed, and everything of it is dropped.
    pub fn end(&mut self, network: &Network) {
        network.set_life(self.id, None);
        self.stopped = None;
        self.waiting.clear();
        if let Some(life) = self.life.take() {
            life.gate.close(|| {});
            drop(life);
        }
    }

    /// Whether the process runs and is not stopped.
    #[must_use]
    pub fn is_awake(&self) -> bool {
        self.life.is_some() && self.stopped.is_none()
    }

    /// Keeps a packet for a process that is stopped.
    pub fn put_aside(&mut self, packet: Packet) {
        self.waiting.push_back(packet);
    }

    /// Lets a stopped process go on: its clock jumps, and what came meanwhile is there.
    pub fn resume(&mut self, now_ms: u64) -> Vec<Packet> {
        let Some((_, since_ms)) = self.stopped.take() else { return Vec::new() };
        if let Some(life) = &mut self.life {
            let missed_ms = now_ms - since_ms;
            life.runtime.block_on(async { advance(Duration::from_millis(missed_ms)).await });
            life.age_ms += missed_ms;
        }
        self.waiting.drain(..).collect()
    }

    /// Lets the process run until its clock has come to where it should be.
    pub fn step(&mut self, now_ms: u64) {
        let drift = self.drift;
        let Some(life) = &mut self.life else { return };
        let by_network = (now_ms - life.began_ms) as i64;
        let age_ms = (by_network + by_network * drift / 1_000).max(0) as u64;
        if age_ms <= life.age_ms {
            return;
        }
        life.age_ms = age_ms;
        let until = life.epoch + Duration::from_millis(age_ms);
        // Timers are made within the runtime.
        life.runtime.block_on(async { sleep_until(until).await });
    }
}

#[cfg(tokio_unstable)]
fn build_runtime(rng: &mut Rng) -> Runtime {
    use tokio::runtime::RngSeed;
    let seed = RngSeed::from_bytes(&rng.bits().to_le_bytes());
    Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .rng_seed(seed)
        .build()
        .expect("no threads, no sockets")
}

/// Runs, but no two runs are the same.
#[cfg(not(tokio_unstable))]
fn build_runtime(_rng: &mut Rng) -> Runtime {
    Builder::new_current_thread().enable_time().start_paused(true).build().expect("no threads, no sockets")
}
