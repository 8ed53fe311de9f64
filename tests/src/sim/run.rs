//! One run: from a seed to a report, or to what broke.
//!
//! * A faulty phase with clients at work, then no more faults: probes are written, everything must catch up, and what clients
//!   were told must stand in the log. In the end every disk is full, leaders die, and reads must go on.
//! * Invariant: it ends in bounded virtual time, whatever happens.

use super::cluster::{CLIENT_HOST, Cluster, Death, LOG_HOSTS, TICK_MS};
use super::faults::{FaultPlan, Faults, Kind, newest_leader};
use super::invariants::{EndsSeen, FoldsSeen, OnceSeen, PROGRESS_MS_MAX, Progress, ReplicasSeen, Told};
use super::invariants::{judge_feeds, judge_registers, judge_sessions};
use super::ledger::Ledgers;
use super::network::{Counts, HostId, Network};
use super::panics;
use super::process::log_client;
use super::seams::seams;
use super::settings::Settings;
use super::trace::{Sink, Trace};
use super::violation::{Broken, Violation};
use super::witness::{Tally, Witness};
use super::workload::Stage;
use super::workload::client::Client;
use super::workload::direct::Direct;
use super::workload::follower::Follower;
use super::workload::keys::Keys;
use super::workload::log_user::LogUser;
use super::workload::mix::Mix;
use crate::harness::Rng;
use duramen_client::log_client::LogClient;
use duramen_common::log::Log as _;
use duramen_common::{Offset, PartitionId};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

/// How long the last answers are waited for in the log. Unit: milliseconds of virtual time.
const PUBLISHED_MS_MAX: u64 = 2_000;

/// What a run may do.
#[derive(Clone, Debug)]
pub struct SimOptions {
    /// How long faults happen. Unit: milliseconds of virtual time.
    pub faulty_ms: u64,
    /// What may break.
    pub faults: FaultPlan,
    /// How many clients work at most; each run has half of them or more.
    pub clients: u64,
    /// How many follow the feed.
    pub followers: u64,
    /// How many use the log itself.
    pub log_users: u64,
    /// How many use one log node at a time, and stay with it.
    pub direct_clients: u64,
    /// Longest pause of a client between operations. Unit: milliseconds.
    pub pause_ms_max: u64,
    /// Prints every event.
    pub trace: bool,
    /// What runs a seed again.
    pub command: &'static str,
}

impl Default for SimOptions {
    fn default() -> SimOptions {
        SimOptions {
            faulty_ms: 15_000,
            faults: FaultPlan::any(),
            clients: 34,
            followers: 2,
            log_users: 2,
            direct_clients: 0,
            pause_ms_max: 120,
            trace: false,
            command: "scripts/sim.sh",
        }
    }
}

impl SimOptions {
    /// Leaders are broken, again and again, and clients stay with them.
    #[must_use]
    pub fn of_leaders() -> SimOptions {
        SimOptions {
            faulty_ms: 20_000,
            faults: FaultPlan::of_leaders(),
            clients: 2,
            followers: 0,
            log_users: 0,
            direct_clients: 5,
            pause_ms_max: 60,
            command: "scripts/sim.sh --leaders",
            ..SimOptions::default()
        }
    }
}

/// What a run that broke nothing did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SimReport {
    /// The run.
    pub seed: u64,
    /// How long it was. Unit: milliseconds of virtual time.
    pub virtual_ms: u64,
    /// All events in one number: the same for the same seed.
    pub trace: u64,
    /// How many events that were.
    pub events: u64,
    /// Operations of clients.
    pub operations: Tally,
    /// Packets.
    pub packets: Counts,
    /// Faults by kind.
    pub faults: BTreeMap<Kind, u64>,
    /// Committed records.
    pub records: u64,
    /// Committed records whose id stood in the log before, further back than the window of duplicates.
    pub again: u64,
    /// How often a serving node's whole state was compared with the fold.
    pub folds: u64,
    /// How long the cluster took to recover. Unit: milliseconds of virtual time.
    pub recovery_ms: u64,
}

/// Runs a seed.
pub fn run_seed(seed: u64, options: &SimOptions) -> Result<SimReport, Violation> {
    panics::begin();
    let mut run = Run::new(seed, options);
    let outcome = catch_unwind(AssertUnwindSafe(|| run.go()));
    let caught = panics::take();
    let at_ms = run.cluster.now_ms();
    let violation = |broken| Violation { seed, at_ms, broken, command: options.command };
    let outcome = outcome.unwrap_or_else(|_| Err(Broken::new(0, format!("panic: {}", caught.join("; ")))));
    let outcome = outcome.map(|()| run.report(seed)).map_err(violation);
    drop(run);
    panics::end();
    outcome
}

struct Run {
    options: SimOptions,
    settings: Settings,
    cluster: Cluster,
    faults: Faults,
    stage: Stage,
    keys: Keys,
    mix: Mix,
    rng: Rng,
    ledgers: Ledgers,
    told: Told,
    replicas: ReplicasSeen,
    ends: EndsSeen,
    folds: FoldsSeen,
    once: OnceSeen,
    clients_at_work: Arc<AtomicUsize>,
    recovery_ms: u64,
}

impl Run {
    fn new(seed: u64, options: &SimOptions) -> Run {
        let mut rng = Rng::seeded(seed);
        let settings = Settings::of(&mut rng);
        let names = Settings::names();
        let sink = if options.trace { Sink::Stdout } else { Sink::None };
        let network = Network::new(rng.branch(), names.clone(), settings.weather, Trace::new(sink));
        let cluster = Cluster::new(settings.clone(), network, &names, rng.branch());
        let begin_ms = rng.within(0, 4_000);
        let faults = Faults::new(rng.branch(), &options.faults, begin_ms);
        let life = cluster.host(CLIENT_HOST).life.as_ref().expect("clients live as long as the run");
        let serving = (LOG_HOSTS..CLIENT_HOST).map(|host| (HostId(host as u8), names[host].clone()));
        let stage = Stage {
            wire: life.wire.clone(),
            serving: serving.collect(),
            witness: Arc::new(Mutex::new(Witness::default())),
            partitions: settings.partitions,
            ends: Arc::new(AtomicBool::new(false)),
        };
        let keys = Keys::new(settings.partitions, 1 + rng.below(8));
        let mix = Mix::of(&mut rng);
        let once = OnceSeen::new(settings.dedup_window);
        Run {
            options: options.clone(),
            settings,
            cluster,
            faults,
            stage,
            keys,
            mix,
            rng,
            ledgers: Ledgers::default(),
            told: Told::default(),
            replicas: ReplicasSeen::default(),
            ends: EndsSeen::default(),
            folds: FoldsSeen::default(),
            once,
            clients_at_work: Arc::default(),
            recovery_ms: 0,
        }
    }

    fn report(&self, seed: u64) -> SimReport {
        let (trace, events) = self.cluster.network.digest();
        SimReport {
            seed,
            virtual_ms: self.cluster.now_ms(),
            trace,
            events,
            operations: self.stage.witness.lock().tally(),
            packets: self.cluster.network.counts(),
            faults: self.faults.counts().clone(),
            records: self.ledgers.iter().map(|(_, ledger)| ledger.end().get()).sum(),
            again: self.ledgers.iter().map(|(_, ledger)| ledger.again()).sum(),
            folds: self.folds.comparisons(),
            recovery_ms: self.recovery_ms,
        }
    }

    fn go(&mut self) -> Result<(), Broken> {
        self.start_clients();
        while self.cluster.now_ms() < self.options.faulty_ms {
            self.faults.act(&mut self.cluster);
            self.tick()?;
        }
        self.faults.stop(&mut self.cluster);
        self.recover()?;
        self.hear_out()?;
        self.read_without_room()?;
        self.told.judge_rest(&self.ledgers)?;
        self.compare_media()?;
        let witness = self.stage.witness.lock();
        judge_feeds(witness.connections(), &self.ledgers)?;
        judge_sessions(&witness.sessions(), &self.ledgers)?;
        judge_registers(witness.registers(), &self.ledgers)
    }

    fn start_clients(&mut self) {
        let clients = self.rng.within(self.options.clients.div_ceil(2), self.options.clients);
        for number in 0..clients {
            let (stage, keys, mix) = (self.stage.clone(), self.keys.clone(), self.mix.clone());
            let client = Client::new(number, stage, keys, mix, self.rng.branch(), self.options.pause_ms_max);
            self.spawn(client.run());
        }
        for number in 0..self.options.followers {
            let follower = Follower::new(2_000 + number, self.stage.clone(), self.rng.branch());
            self.spawn(follower.run());
        }
        for number in 0..self.options.log_users {
            let log = self.log_client(&format!("log user {number}"));
            let (stage, rng, pause_ms_max) = (self.stage.clone(), self.rng.branch(), self.options.pause_ms_max);
            self.spawn(LogUser::new(3_000 + number, stage, log, rng, pause_ms_max).run());
        }
        for number in 0..self.options.direct_clients {
            let (stage, rng) = (self.stage.clone(), self.rng.branch());
            self.spawn(Direct::new(4_000 + number, stage, rng, self.options.pause_ms_max).run());
        }
    }

    /// A client of the log, on the clients' host.
    fn log_client(&mut self, name: &str) -> LogClient {
        let seams = seams(&self.cluster.network, self.rng.branch(), Arc::default());
        let life = self.cluster.host(CLIENT_HOST).life.as_ref().expect("clients live as long as the run");
        log_client(&life.wire, self.settings.log_client(), name, seams, &life.runtime)
    }

    fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        let at_work = Arc::clone(&self.clients_at_work);
        at_work.fetch_add(1, Ordering::Relaxed);
        let life = self.cluster.host(CLIENT_HOST).life.as_ref().expect("clients live as long as the run");
        life.runtime.spawn(async move {
            work.await;
            at_work.fetch_sub(1, Ordering::Relaxed);
        });
    }

    fn tick(&mut self) -> Result<(), Broken> {
        self.cluster.tick();
        if let Some(panic) = self.cluster.take_panics().into_iter().next() {
            return Err(Broken::new(0, panic));
        }
        for host in self.cluster.take_buried() {
            self.replicas.forget(host);
            self.ends.forget(host);
            self.folds.forget(host);
        }
        self.check_logs()?;
        self.once.check(&self.ledgers)?;
        self.check_views()?;
        let seen = self.stage.witness.lock().take();
        self.told.judge(seen, &self.ledgers)
    }

    fn check_logs(&mut self) -> Result<(), Broken> {
        for host in 0..LOG_HOSTS {
            let name = self.cluster.host(host).name.clone();
            for log in self.cluster.logs(host) {
                self.ends.check(host, &name, log.partition(), log.ends())?;
                // What cannot be read is not compared; it must be repaired in the end.
                let _unreadable = self.replicas.check(host, &name, log, &mut self.ledgers)?;
            }
        }
        Ok(())
    }

    fn check_views(&mut self) -> Result<(), Broken> {
        for host in LOG_HOSTS..CLIENT_HOST {
            let Some(node) = self.cluster.serving_node(host) else { continue };
            let Some(partitions) = node.partitions() else { continue };
            for view in partitions.iter() {
                self.folds.check(host, &self.cluster.host(host).name, view, &self.ledgers)?;
            }
        }
        Ok(())
    }

    /// Faults are over: everybody comes back, probes are written, everything catches up.
    fn recover(&mut self) -> Result<(), Broken> {
        let progress = Progress::begin(self.cluster.now_ms());
        let probes: Vec<Arc<AtomicBool>> = (0..self.settings.partitions).map(|_| Arc::default()).collect();
        for (number, done) in probes.iter().enumerate() {
            let (stage, keys, mix) = (self.stage.clone(), self.keys.clone(), self.mix.clone());
            let client = Client::new(1_000 + number as u64, stage, keys, mix, self.rng.branch(), 1);
            let (partition, done) = (PartitionId::new(number as u16), Arc::clone(done));
            self.spawn(async move { client.probe(partition, &done).await });
        }
        let mut goal = None;
        loop {
            self.tick()?;
            let are_probed = probes.iter().all(|done| done.load(Ordering::Relaxed));
            // Clients still write: there may be no moment at which every replica has everything.
            if are_probed && goal.is_none() && progress.took_ms(self.cluster.now_ms()) > PROGRESS_MS_MAX / 2 {
                goal = Some(self.ledger_ends());
            }
            let lacks = match &goal {
                _ if !are_probed => Some("a write has no certain answer".to_owned()),
                Some(goal) if !self.stage.has_ended() => self.lacks_up_to(goal),
                _ => self.lacks(),
            };
            match lacks {
                None if self.stage.has_ended() => {
                    self.recovery_ms = progress.took_ms(self.cluster.now_ms());
                    return Ok(());
                }
                None => self.stage.ends.store(true, Ordering::Relaxed),
                Some(lacks) => progress.check(self.cluster.now_ms(), &lacks)?,
            }
        }
    }

    /// A leader answers once a majority has it on disk, and publishes it when it has it itself: what was told last may stand
    /// in the log a moment later.
    fn hear_out(&mut self) -> Result<(), Broken> {
        let until_ms = self.cluster.now_ms() + PUBLISHED_MS_MAX;
        while self.told.waits() && self.cluster.now_ms() < until_ms {
            self.tick()?;
        }
        Ok(())
    }

    /// Every disk is full to the last byte, each partition's leader dies, and nobody frees anything: whoever leads next must be
    /// confirmed, and answer.
    fn read_without_room(&mut self) -> Result<(), Broken> {
        for host in 0..LOG_HOSTS {
            let medium = self.cluster.medium(host);
            medium.set_quota(Some(medium.used_bytes()));
        }
        for number in 0..self.settings.partitions {
            let partition = PartitionId::new(number);
            if let Some(leader) = newest_leader(&mut self.cluster, partition) {
                self.cluster.crash(leader, Death::Kill, 200);
            }
            let (log, answered) = (self.log_client(&format!("reader {number}")), Arc::new(AtomicBool::new(false)));
            let done = Arc::clone(&answered);
            self.spawn(async move {
                while log.tail(partition, Duration::from_secs(2)).await.is_err() {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                done.store(true, Ordering::Relaxed);
            });
            let progress = Progress::begin(self.cluster.now_ms());
            while !answered.load(Ordering::Relaxed) {
                self.tick()?;
                progress.check(self.cluster.now_ms(), "on full disks a tail question has no answer")?;
            }
        }
        (0..LOG_HOSTS).for_each(|host| self.cluster.medium(host).set_quota(None));
        let progress = Progress::begin(self.cluster.now_ms());
        while let Some(lacks) = self.lacks() {
            progress.check(self.cluster.now_ms(), &lacks)?;
            self.tick()?;
        }
        Ok(())
    }

    /// The ends of all partitions that any log node has published.
    fn ledger_ends(&mut self) -> BTreeMap<PartitionId, Offset> {
        let data = (0..self.settings.partitions).map(PartitionId::new);
        data.chain([PartitionId::META]).map(|partition| (partition, self.ledgers.of(partition).end())).collect()
    }

    /// What is missing until the cluster has recovered.
    fn lacks(&mut self) -> Option<String> {
        let ends = self.ledger_ends();
        self.lacks_up_to(&ends)
    }

    /// What is missing until everybody runs, and has at least this much of each partition.
    fn lacks_up_to(&mut self, ends: &BTreeMap<PartitionId, Offset>) -> Option<String> {
        for host in 0..LOG_HOSTS {
            let name = self.cluster.host(host).name.clone();
            let stage = self.cluster.log_node(host).map(|node| node.stage());
            let published: Vec<_> =
                self.cluster.logs(host).iter().map(|log| (log.partition(), log.ends().committed_end)).collect();
            if published.len() < usize::from(self.settings.partitions) + 1 {
                return Some(format!(
                    "{name} does not run: {}",
                    stage.unwrap_or_else(|| "it did not start".to_owned())
                ));
            }
            for (partition, committed_end) in published {
                let end = ends[&partition];
                if committed_end < end {
                    return Some(format!("{name}, partition {partition}: committed up to {committed_end} of {end}"));
                }
            }
        }
        for host in LOG_HOSTS..CLIENT_HOST {
            let name = &self.cluster.host(host).name;
            let node = self.cluster.serving_node(host);
            let Some(partitions) = node.as_ref().and_then(|node| node.partitions()) else {
                return Some(format!("{name} does not serve"));
            };
            for view in partitions.iter() {
                let (partition, applied_end) = (view.partition(), view.status().applied_end);
                let end = ends[&partition];
                if !view.is_ready() || applied_end < Some(end) {
                    return Some(format!("{name}, partition {partition}: applied {applied_end:?} of {end}"));
                }
            }
        }
        let at_work = self.clients_at_work.load(Ordering::Relaxed);
        (self.stage.has_ended() && at_work > 0).then(|| format!("{at_work} clients have not ended"))
    }

    /// Every replica is read once more from its medium. Where bits rotted, one restart may be needed to find and repair it.
    fn compare_media(&mut self) -> Result<(), Broken> {
        for host in 0..LOG_HOSTS {
            let name = self.cluster.host(host).name.clone();
            let mut is_mended = false;
            loop {
                self.replicas.forget(host);
                let mut damage = None;
                for log in self.cluster.logs(host) {
                    if let Err(error) = self.replicas.check(host, &name, log, &mut self.ledgers)? {
                        damage = Some(error.to_string());
                    }
                }
                let Some(damage) = damage else { break };
                if is_mended || host != self.faults.rotting() {
                    return Err(Broken::new(2, format!("{name} cannot be read: {damage}")));
                }
                is_mended = true;
                self.cluster.crash(host, Death::Kill, TICK_MS);
                let progress = Progress::begin(self.cluster.now_ms());
                loop {
                    self.tick()?;
                    match self.lacks() {
                        None => break,
                        Some(lacks) => progress.check(self.cluster.now_ms(), &lacks)?,
                    }
                }
            }
        }
        Ok(())
    }
}
