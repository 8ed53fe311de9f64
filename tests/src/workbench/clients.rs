//! Clients: each asks one thing after the other, all together at a given rate, and notes what it hears.
//!
//! * Client `i` asks node `i mod N`. After an unknown outcome its process is never heard of again, and another one goes on
//!   in its place.
//! * An answer is waited for as long as Maelstrom's clients wait: 5 s, and 1 s or ten mean latencies for `lin-kv`.
//! * The rate is a limit: what could not be asked in its time, because everybody waited, is not asked later.
//! * Source: Maelstrom's client; Jepsen's `stagger`.

use super::cluster::Cluster;
use super::network::{NodeIndex, unit};
use super::record::{Ending, Record, Records};
use super::settings::{Settings, Workload};
use super::workloads::{Asker, Load};
use crate::harness::rng::Rng;
use futures_util::future::join_all;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::{Instant, sleep_until};

/// How long an answer is waited for.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// And one of `lin-kv`, or ten mean latencies if that is longer.
const LIN_KV_ANSWER_WITHIN: Duration = Duration::from_secs(1);
/// Choices of client `i` have the stream `i` behind this one.
const CLIENT_STREAMS: u64 = 1_000;
/// Processes that ask in the end have numbers from here on.
const FINAL_PROCESSES: u64 = 1_000_000;

/// All clients of a run.
pub struct Clients<'c> {
    cluster: &'c Cluster,
    nodes: usize,
    concurrency: usize,
    seed: u64,
    mean_gap: Duration,
    answer_within: Duration,
    shared: Mutex<Shared>,
}

struct Shared {
    load: Box<dyn Load>,
    records: Records,
    /// When the next operation may be asked for.
    next_at: Instant,
    rng: Rng,
    next_final_process: u64,
}

impl<'c> Clients<'c> {
    /// Those of the settings, with this load. Times count from now.
    #[must_use]
    pub fn new(cluster: &'c Cluster, settings: &Settings, load: Box<dyn Load>) -> Clients<'c> {
        let now = Instant::now();
        let shared = Shared {
            load,
            records: Records::new(now),
            next_at: now,
            rng: Rng::of_stream(settings.seed, 4),
            next_final_process: FINAL_PROCESSES,
        };
        Clients {
            cluster,
            nodes: settings.nodes,
            concurrency: settings.concurrency,
            seed: settings.seed,
            mean_gap: Duration::from_secs_f64(1.0 / settings.rate),
            answer_within: match settings.workload {
                Workload::LinKv => LIN_KV_ANSWER_WITHIN.max(settings.latency * 10),
                _ => ANSWER_WITHIN,
            },
            shared: Mutex::new(shared),
        }
    }

    fn shared(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks until the end; what is under way then is waited for.
    pub async fn run(&self, end: Instant) {
        join_all((0..self.concurrency).map(|thread| self.work(thread, end))).await;
    }

    async fn work(&self, thread: usize, end: Instant) {
        let mut rng = Rng::of_stream(self.seed, CLIENT_STREAMS + thread as u64);
        let mut asker = Asker { thread, process: thread as u64, node: thread % self.nodes };
        loop {
            let at = self.shared().take_turn(self.mean_gap);
            if at >= end {
                return;
            }
            sleep_until(at).await;
            let call = self.shared().load.next(asker, &mut rng);
            let record = self.ask(asker.process, asker.node, call, None).await;
            self.shared().load.heard(asker, &record);
            if record.ending() == Ending::Info {
                asker.process += self.concurrency as u64;
            }
        }
    }

    async fn ask(&self, process: u64, node: NodeIndex, call: super::record::Body, round: Option<u32>) -> Record {
        let operation = {
            let mut shared = self.shared();
            let is_read = shared.load.is_read(&call);
            shared.records.invoke(process, node, call.clone(), is_read, round)
        };
        let client = format!("c{}", process + 1);
        let reply = self.cluster.router().ask(&client, node, call, self.answer_within).await;
        self.shared().records.complete(operation, reply)
    }

    /// Asks every node what the load wants to know in the end, until the answers are right or the time is over.
    pub async fn ask_in_the_end(&self, limit: Duration, pause: Duration) {
        let deadline = Instant::now() + limit;
        for round in 0.. {
            let Some(call) = self.shared().load.final_call() else { return };
            let ask = |node| {
                let process = self.shared().next_final();
                self.ask(process, node, call.clone(), Some(round))
            };
            join_all((0..self.nodes).map(ask)).await;
            let now = Instant::now();
            if now >= deadline || self.shared().is_right() {
                return;
            }
            sleep_until(now + pause).await;
        }
    }

    /// The load and all operations.
    #[must_use]
    pub fn finish(self) -> (Box<dyn Load>, Records) {
        let shared = self.shared.into_inner().unwrap_or_else(PoisonError::into_inner);
        (shared.load, shared.records)
    }
}

impl Shared {
    fn take_turn(&mut self, mean_gap: Duration) -> Instant {
        let at = self.next_at.max(Instant::now());
        self.next_at = at + mean_gap.mul_f64(2.0 * unit(&mut self.rng));
        at
    }

    fn next_final(&mut self) -> u64 {
        self.next_final_process += 1;
        self.next_final_process
    }

    fn is_right(&self) -> bool {
        self.load.judge(self.records.all()).is_valid()
    }
}
