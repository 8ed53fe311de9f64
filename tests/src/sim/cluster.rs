//! Cluster: three log nodes, two serving nodes and a host of clients, stepped together through virtual time.
//!
//! * In: one tick after the other; faults, from outside. Out: packets delivered, processes run, the dead buried, those that
//!   gave up started again after a while, as a supervisor would.
//! * Hosts run one after the other, in seeded order, each up to the same moment; packets are delivered between ticks.
//! * Invariant: nothing but the seed decides: one thread, no real time, no sockets.

use super::disk::{Pace, SimDisk};
use super::host::Host;
use super::network::{HostId, Network};
use super::packet::{Load, Packet};
use super::panics;
use super::process::{Front, Process, start_log_node, start_serving_node};
use super::seams::seams;
use super::settings::Settings;
use crate::harness::Rng;
use duramen_common::PartitionId;
use duramen_log_service::disk::MemDisk;
use duramen_log_service::node::LogNode;
use duramen_log_service::store::PartitionLog;
use duramen_serving_node::ServingNode;
use parking_lot::Mutex;
use std::sync::Arc;

/// Log nodes are the first hosts.
pub const LOG_HOSTS: usize = 3;
/// Serving nodes come behind them.
pub const SERVING_HOSTS: usize = 2;
/// Clients run on the last one.
pub const CLIENT_HOST: usize = LOG_HOSTS + SERVING_HOSTS;
/// Length of a tick. Unit: milliseconds.
pub const TICK_MS: u64 = 1;

/// A log node's machine.
#[derive(Default)]
struct LogSlot {
    medium: MemDisk,
    pace: Arc<Mutex<Option<Pace>>>,
    process: Process<LogNode>,
    logs: Vec<PartitionLog>,
}

/// A serving node's machine.
#[derive(Default)]
struct ServingSlot {
    process: Process<ServingNode>,
    front: Front,
}

/// What becomes of a log node's disk when its host dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Death {
    /// The machine loses power: what was not synced is lost, but for what the seed keeps.
    Power {
        /// Chooses.
        seed: u64,
    },
    /// The process is killed: the machine keeps what it wrote.
    Kill,
}

/// The cluster.
pub struct Cluster {
    /// Between the hosts.
    pub network: Network,
    hosts: Vec<Host>,
    logs: Vec<LogSlot>,
    serving: Vec<ServingSlot>,
    /// When a host that is down is started again.
    starts_ms: Vec<Option<u64>>,
    /// For how long a host that is about to die stays down.
    down_ms: Vec<Option<u64>>,
    settings: Settings,
    rng: Rng,
    now_ms: u64,
    /// Lives that ended since this was asked last.
    buried: Vec<usize>,
    /// Panics of processes that were alive, since this was asked last.
    panics: Vec<String>,
}

impl Cluster {
    /// A cluster whose hosts start at once.
    #[must_use]
    pub fn new(settings: Settings, network: Network, names: &[String], mut rng: Rng) -> Cluster {
        let hosts = names.iter().enumerate().map(|(number, name)| Host::new(HostId(number as u8), name.clone()));
        let mut cluster = Cluster {
            network,
            hosts: hosts.collect(),
            logs: (0..LOG_HOSTS).map(|_| LogSlot::default()).collect(),
            serving: (0..SERVING_HOSTS).map(|_| ServingSlot::default()).collect(),
            starts_ms: vec![None; LOG_HOSTS + SERVING_HOSTS],
            down_ms: vec![None; LOG_HOSTS + SERVING_HOSTS],
            settings,
            rng: rng.branch(),
            now_ms: 0,
            buried: Vec::new(),
            panics: Vec::new(),
        };
        for host in 0..LOG_HOSTS + SERVING_HOSTS {
            cluster.starts_ms[host] = Some(rng.within(1, 200));
            cluster.hosts[host].drift = cluster.settings.drifts[host];
        }
        let Cluster { hosts, network, rng, .. } = &mut cluster;
        hosts[CLIENT_HOST].begin(network, rng);
        cluster
    }

    /// Virtual time. Unit: milliseconds.
    #[must_use]
    pub fn now_ms(&self) -> u64 {
        self.now_ms
    }

    /// A host.
    #[must_use]
    pub fn host(&self, host: usize) -> &Host {
        &self.hosts[host]
    }

    /// A host, to change it.
    pub fn host_mut(&mut self, host: usize) -> &mut Host {
        &mut self.hosts[host]
    }

    /// A log node's medium.
    #[must_use]
    pub fn medium(&self, host: usize) -> &MemDisk {
        &self.logs[host].medium
    }

    /// Sets how long syncs of a log node take; its usual pace with none.
    pub fn set_pace(&self, host: usize, pace: Option<Pace>) {
        *self.logs[host].pace.lock() = pace;
    }

    /// The logs of a log node that runs.
    pub fn logs(&mut self, host: usize) -> &[PartitionLog] {
        let slot = &mut self.logs[host];
        if slot.logs.is_empty()
            && self.hosts[host].life.is_some()
            && let Some(node) = slot.process.node()
        {
            let partitions = (0..self.settings.partitions).map(PartitionId::new);
            slot.logs = std::iter::once(PartitionId::META).chain(partitions).filter_map(|id| node.log(id)).collect();
        }
        &slot.logs
    }

    /// The serving node on a host, if it runs.
    #[must_use]
    pub fn serving_node(&self, host: usize) -> Option<Arc<ServingNode>> {
        self.serving[host - LOG_HOSTS].process.node()
    }

    /// The log node on a host, if it runs.
    #[must_use]
    pub fn log_node(&self, host: usize) -> Option<Arc<LogNode>> {
        self.logs[host].process.node()
    }

    /// Hosts whose lives ended since this was asked last.
    pub fn take_buried(&mut self) -> Vec<usize> {
        std::mem::take(&mut self.buried)
    }

    /// Panics of living processes since this was asked last.
    pub fn take_panics(&mut self) -> Vec<String> {
        std::mem::take(&mut self.panics)
    }

    /// One tick.
    pub fn tick(&mut self) {
        self.now_ms += TICK_MS;
        self.network.set_now(self.now_ms);
        self.start_who_is_due();
        for packet in self.network.arrivals() {
            self.deliver(packet);
        }
        self.wake_who_is_due();
        let mut order: [usize; CLIENT_HOST + 1] = std::array::from_fn(|host| host);
        for last in (1..order.len()).rev() {
            order.swap(last, self.rng.below(last + 1));
        }
        for host in order {
            if self.hosts[host].is_awake() {
                self.hosts[host].step(self.now_ms);
                self.note_panics(host);
            }
        }
        self.bury();
    }

    /// What a process does that has died does not count.
    fn note_panics(&mut self, host: usize) {
        let lives = self.hosts[host].life.as_ref().is_some_and(|life| life.gate.lives());
        let name = &self.hosts[host].name;
        let panics = panics::take().into_iter().filter(|_| lives).map(|panic| format!("{name}: {panic}"));
        self.panics.extend(panics);
    }

    fn deliver(&mut self, packet: Packet) {
        let host = usize::from(packet.to.0);
        if self.hosts[host].stopped.is_some() {
            self.hosts[host].put_aside(packet);
            return;
        }
        let Some(life) = &self.hosts[host].life else { return };
        match packet.load {
            load @ Load::Request { .. } => {
                let _within = life.runtime.enter();
                life.wire.serve(packet.from, load);
            }
            Load::Http { call, request } if (LOG_HOSTS..CLIENT_HOST).contains(&host) => {
                let _within = life.runtime.enter();
                let slot = &self.serving[host - LOG_HOSTS];
                slot.front.answer(&life.wire, slot.process.node(), packet.from, call, *request);
            }
            Load::Gone { call } if (LOG_HOSTS..CLIENT_HOST).contains(&host) => {
                self.serving[host - LOG_HOSTS].front.gone(packet.from.host, call);
            }
            load => life.wire.take(packet.from.host, load),
        }
    }

    fn wake_who_is_due(&mut self) {
        for host in 0..self.hosts.len() {
            if self.hosts[host].stopped.is_some_and(|(until_ms, _)| until_ms <= self.now_ms) {
                self.network.note("resume", &[host as u64], || self.hosts[host].name.clone());
                for packet in self.hosts[host].resume(self.now_ms) {
                    self.deliver(packet);
                }
            }
        }
    }

    fn start_who_is_due(&mut self) {
        for host in 0..self.starts_ms.len() {
            if self.starts_ms[host].is_some_and(|at_ms| at_ms <= self.now_ms) {
                self.starts_ms[host] = None;
                self.start(host);
            }
        }
    }

    fn start(&mut self, host: usize) {
        let Cluster { hosts, network, rng, settings, .. } = self;
        let name = hosts[host].name.clone();
        network.note("start", &[host as u64], || name.clone());
        let seams = seams(network, rng.branch(), Arc::clone(&hosts[host].skew_ms));
        let disk_rng = rng.branch();
        let life = hosts[host].begin(network, rng);
        if host < LOG_HOSTS {
            let slot = &mut self.logs[host];
            let disk = SimDisk::new(slot.medium.clone(), life.gate.clone(), Arc::clone(&slot.pace), disk_rng);
            slot.process = start_log_node(life, &name, settings.log_node(host), seams, disk);
        } else {
            let slot = &mut self.serving[host - LOG_HOSTS];
            slot.front = Front::default();
            let log_config = settings.log_client();
            slot.process = start_serving_node(life, settings.serving_node(host - LOG_HOSTS), log_config, seams);
        }
    }

    /// Ends a host's life now, and starts it again after a while.
    pub fn crash(&mut self, host: usize, death: Death, down_ms: u64) {
        let Some(life) = &self.hosts[host].life else { return };
        self.network.note("crash", &[host as u64], || format!("{} {death:?}", self.hosts[host].name));
        life.gate.close(|| self.forget_disk(host, death));
        self.down_ms[host] = Some(down_ms);
        self.bury();
    }

    /// Stops a log node cleanly, and starts it again after a while. False where it does not run, or is about to die.
    pub fn restart(&mut self, host: usize, down_ms: u64) -> bool {
        if self.hosts[host].life.is_none() || self.down_ms[host].is_some() {
            return false;
        }
        self.network.note("restart", &[host as u64], || self.hosts[host].name.clone());
        self.logs[host].process.stop();
        self.down_ms[host] = Some(down_ms);
        true
    }

    /// Lets a host die at one of its next effects, and starts it again after a while.
    pub fn crash_soon(&mut self, host: usize, effects: u64, death: Death, down_ms: u64) {
        let Some(life) = &self.hosts[host].life else { return };
        let medium = self.logs.get(host).map(|slot| slot.medium.clone());
        life.gate.light(effects, move || die(medium.as_ref(), death));
        self.down_ms[host] = Some(down_ms);
        self.network.note("fuse", &[host as u64, effects], || format!("{} {effects} {death:?}", self.hosts[host].name));
    }

    /// Ends a host that was to die at one of its effects and has not.
    pub fn die_if_doomed(&mut self, host: usize, death: Death) {
        if let Some(down_ms) = self.down_ms[host] {
            self.crash(host, death, down_ms);
        }
    }

    fn forget_disk(&self, host: usize, death: Death) {
        die(self.logs.get(host).map(|slot| &slot.medium), death);
    }

    /// Drops what has died, and what cannot go on by itself.
    fn bury(&mut self) {
        for host in 0..LOG_HOSTS + SERVING_HOSTS {
            let Some(life) = &self.hosts[host].life else { continue };
            let ended = match host {
                0..LOG_HOSTS => self.logs[host].process.ended(),
                _ => self.serving[host - LOG_HOSTS].process.ended(),
            };
            if life.gate.lives() && ended.is_none() {
                continue;
            }
            let why = ended.unwrap_or_else(|| "died".to_owned());
            self.network.note("buried", &[host as u64], || format!("{}: {why}", self.hosts[host].name));
            if life.gate.lives() {
                life.gate.close(|| self.forget_disk(host, Death::Kill));
            }
            match host {
                0..LOG_HOSTS => {
                    self.logs[host].logs.clear();
                    drop(self.logs[host].process.take());
                }
                _ => drop(self.serving[host - LOG_HOSTS].process.take()),
            }
            self.hosts[host].end(&self.network);
            drop(panics::take());
            let down_ms = self.down_ms[host].take().unwrap_or_else(|| self.rng.within(100, 1_500));
            self.starts_ms[host] = Some(self.now_ms + down_ms);
            self.buried.push(host);
        }
    }
}

fn die(medium: Option<&MemDisk>, death: Death) {
    match (medium, death) {
        (Some(medium), Death::Power { seed }) => medium.crash(seed),
        (Some(medium), Death::Kill) => medium.kill(),
        (None, _) => {}
    }
}
