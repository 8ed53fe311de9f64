//! Nemesis: what is done to the cluster while clients ask, and its end.
//!
//! * Partitions and kills alternate with times of health, each on its own, half an interval apart. A kill takes at most a
//!   minority; the killed start again with what is on their disks.
//! * In the end all links are healed and all nodes run.
//! * Deliberately absent: aim. What a seed draws does not depend on who leads.

use super::cluster::{Cluster, ClusterError};
use super::network::{Cuts, unit};
use super::partition::{Shape, shuffled};
use super::settings::{Fault, Settings};
use crate::harness::rng::Rng;
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep, sleep_until};

/// What was done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Deeds {
    /// Partitions, by shape.
    pub partitions: BTreeMap<Shape, u64>,
    /// Processes killed.
    pub kills: u64,
}

/// The faults of a run.
pub struct Nemesis<'c> {
    cluster: &'c Cluster,
    nodes: usize,
    interval: Duration,
    partitions: Option<Rng>,
    kills: Option<Rng>,
    deeds: Mutex<Deeds>,
}

impl<'c> Nemesis<'c> {
    /// As the settings say, each kind of fault with a seed of its own.
    #[must_use]
    pub fn new(cluster: &'c Cluster, settings: &Settings) -> Nemesis<'c> {
        let rng = |fault: Fault, stream| settings.has(fault).then(|| Rng::of_stream(settings.seed, stream));
        Nemesis {
            cluster,
            nodes: settings.nodes,
            interval: settings.fault_interval,
            partitions: rng(Fault::Partition, 2),
            kills: rng(Fault::Kill, 3),
            deeds: Mutex::default(),
        }
    }

    /// Does it until the end, then heals.
    pub async fn run(mut self, end: Instant) -> Result<Deeds, ClusterError> {
        let (partitions, kills) = (self.partitions.take(), self.kills.take());
        let faults = async {
            tokio::try_join!(self.partition_now_and_then(partitions), self.kill_now_and_then(kills))?;
            Ok::<(), ClusterError>(())
        };
        tokio::select! {
            failed = faults => failed?,
            () = sleep_until(end) => {}
        }
        sleep_until(end).await;
        self.cluster.router().set_cuts(Cuts::new());
        self.cluster.start_all().await?;
        Ok(self.deeds.into_inner())
    }

    async fn partition_now_and_then(&self, rng: Option<Rng>) -> Result<(), ClusterError> {
        let Some(mut rng) = rng else { return Ok(()) };
        loop {
            sleep(self.interval).await;
            let Some((shape, cuts)) = Shape::random(self.nodes, &mut rng) else { return Ok(()) };
            self.cluster.router().set_cuts(cuts);
            *self.deeds.lock().await.partitions.entry(shape).or_default() += 1;
            sleep(self.interval).await;
            self.cluster.router().set_cuts(Cuts::new());
        }
    }

    async fn kill_now_and_then(&self, rng: Option<Rng>) -> Result<(), ClusterError> {
        let Some(mut rng) = rng else { return Ok(()) };
        let minority = self.nodes.saturating_sub(1) / 2;
        sleep(self.interval / 2).await;
        loop {
            let victims = shuffled(self.nodes, &mut rng);
            let victims = &victims[..1 + rng.below(minority)];
            for &victim in victims {
                self.cluster.kill(victim).await;
                self.deeds.lock().await.kills += 1;
            }
            let down = self.interval.mul_f64(unit(&mut rng));
            sleep(down).await;
            self.cluster.start_all().await?;
            sleep(self.interval.saturating_mul(2).saturating_sub(down)).await;
        }
    }
}
