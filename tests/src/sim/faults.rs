//! Faults: what breaks, when, and when it is mended, from the seed.
//!
//! * Each run switches on some kinds and leaves others out (swarm testing): some bugs show only where something else does
//!   not happen.
//! * Some kinds look for the node that leads a partition, and often come back to the same one: what breaks a promise is seldom
//!   one fault, and hardly ever one of a follower.
//! * Invariant: bits rot on one log node a run, and such that somebody can mend it (`rot`).
//! * Invariant: after [`Faults::stop`] nothing is broken any more, but for what only a restart finds.
//! * Source: Groce and others 2012, "Swarm testing".

use super::cluster::{CLIENT_HOST, Cluster, Death, LOG_HOSTS};
use super::disk::Pace;
use super::network::{Cut, HostId, Weather};
use super::rot::{Rot, Spot};
use crate::harness::Rng;
use duramen_common::PartitionId;
use duramen_log_service::store::{PartitionLog, StoredVote};
use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

/// A kind of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// A log node dies: power or process, at once or at one of its next effects.
    Crash,
    /// All log nodes lose power.
    CrashAll,
    /// A log node is stopped cleanly, and started again.
    Restart,
    /// A serving node dies.
    CrashServing,
    /// A log node is cut off, in both directions.
    Isolate,
    /// A log node is cut off in one direction.
    OneWay,
    /// A serving node is cut off from some log nodes, or in one direction.
    CutServing,
    /// Packets are late, lost, doubled, or overtake each other.
    Storm,
    /// A process is stopped for a while, as by SIGSTOP.
    Pause,
    /// A wall clock jumps.
    ClockJump,
    /// A log node's syncs take long.
    SlowDisk,
    /// A sync fails.
    FailedSync,
    /// A log node's disk is full.
    FullDisk,
    /// A bit flips on a log node's medium.
    BitRot,
    /// A leader is cut off from the other log nodes, in both directions or in one, but not from clients.
    CutLeader,
    /// Large requests from a leader to the other log nodes are lost: it keeps its place, and can replicate nothing.
    NarrowLeader,
    /// A leader dies, and is back soon: it may win the next election.
    CrashLeader,
    /// A leader is stopped for a while.
    PauseLeader,
    /// A leader that can replicate nothing dies, is back at once, may be elected again, and is cut off before it can
    /// replicate what it has: three faults in a row that chance seldom puts together.
    LeaderComesBack,
    /// A leader that can replicate nothing dies, and some of what it wrote last rots while its peers go on without it: they may
    /// commit other entries in the place of the one that is damaged.
    LeaderRots,
}

impl Kind {
    /// All that happen to anybody.
    pub const ANY: [Kind; 14] = [
        Kind::Crash,
        Kind::CrashAll,
        Kind::Restart,
        Kind::CrashServing,
        Kind::Isolate,
        Kind::OneWay,
        Kind::CutServing,
        Kind::Storm,
        Kind::Pause,
        Kind::ClockJump,
        Kind::SlowDisk,
        Kind::FailedSync,
        Kind::FullDisk,
        Kind::BitRot,
    ];

    /// Those that look for a leader, and what makes its messages late.
    pub const OF_LEADERS: [Kind; 7] = [
        Kind::CutLeader,
        Kind::NarrowLeader,
        Kind::CrashLeader,
        Kind::PauseLeader,
        Kind::LeaderComesBack,
        Kind::LeaderRots,
        Kind::Storm,
    ];
}

/// What may break in a run, and how often.
#[derive(Clone, Debug)]
pub struct FaultPlan {
    /// Which kinds may happen; each run takes some of them.
    pub kinds: Vec<Kind>,
    /// In how many of a thousand runs a kind happens.
    pub kind_in_thousand: u64,
    /// The longest pause between two faults; each run takes one of these. Unit: milliseconds.
    pub gaps_ms_max: [u64; 3],
}

impl FaultPlan {
    /// Everything, now and then.
    #[must_use]
    pub fn any() -> FaultPlan {
        FaultPlan { kinds: Kind::ANY.to_vec(), kind_in_thousand: 450, gaps_ms_max: [500, 1_500, 4_000] }
    }

    /// Leaders, again and again.
    #[must_use]
    pub fn of_leaders() -> FaultPlan {
        FaultPlan { kinds: Kind::OF_LEADERS.to_vec(), kind_in_thousand: 600, gaps_ms_max: [1_000, 2_000, 4_000] }
    }
}

#[derive(Clone, Copy, Debug)]
enum Mend {
    Links,
    /// A log node reaches its peers again.
    Peers(usize),
    /// The way from a host is no longer narrow.
    Narrow(usize),
    Weather,
    Pace(usize),
    Quota(usize),
    /// A host that was to die at one of its effects dies at the latest now.
    Death(usize, Death),
}

/// What is part of a longer story.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// A log node dies, and is back soon.
    Crash(usize),
    /// A log node is cut off from its peers.
    Cut(usize),
    /// A log node dies, one of its last batches rots, and it is not back soon.
    Rot(usize),
}

/// The faults of a run.
pub struct Faults {
    rng: Rng,
    kinds: Vec<Kind>,
    next_ms: u64,
    gap_ms_max: u64,
    mends: Vec<(u64, Mend)>,
    /// The only log node whose bits rot, and what has.
    rotting: usize,
    rot: Rot,
    /// The leader that was broken last, and what is still to happen to one, and when.
    leader: Option<usize>,
    to_come: Vec<(u64, Step)>,
    counts: BTreeMap<Kind, u64>,
}

impl Faults {
    /// Some of the plan's kinds, from the seed; nothing before `begin_ms`.
    #[must_use]
    pub fn new(mut rng: Rng, plan: &FaultPlan, begin_ms: u64) -> Faults {
        let among = &plan.kinds;
        let mut kinds: Vec<Kind> = among.iter().copied().filter(|_| rng.in_thousand(plan.kind_in_thousand)).collect();
        if kinds.is_empty() && !among.is_empty() {
            kinds.push(*rng.pick(among));
        }
        let (gap_ms_max, rotting) = (*rng.pick(&plan.gaps_ms_max), rng.below(LOG_HOSTS));
        Faults {
            rng,
            kinds,
            next_ms: begin_ms,
            gap_ms_max,
            mends: Vec::new(),
            rotting,
            rot: Rot::default(),
            leader: None,
            to_come: Vec::new(),
            counts: BTreeMap::new(),
        }
    }

    /// How often each kind happened.
    #[must_use]
    pub fn counts(&self) -> &BTreeMap<Kind, u64> {
        &self.counts
    }

    /// The kinds that are switched on.
    #[must_use]
    pub fn kinds(&self) -> &[Kind] {
        &self.kinds
    }

    /// The log node whose bits may have rotted.
    #[must_use]
    pub fn rotting(&self) -> usize {
        self.rotting
    }

    /// Breaks and mends what is due.
    pub fn act(&mut self, cluster: &mut Cluster) {
        self.mend_who_is_due(cluster);
        self.go_on(cluster);
        if cluster.now_ms() >= self.next_ms && !self.kinds.is_empty() {
            self.next_ms = cluster.now_ms() + self.rng.within(20, self.gap_ms_max);
            let kind = *self.rng.pick(&self.kinds);
            if self.break_something(kind, cluster) {
                *self.counts.entry(kind).or_default() += 1;
            }
        }
    }

    /// Mends everything and breaks nothing more.
    pub fn stop(&mut self, cluster: &mut Cluster) {
        self.kinds.clear();
        self.to_come.clear();
        for (_, mend) in std::mem::take(&mut self.mends) {
            self.mend(mend, cluster);
        }
        cluster.network.heal();
        cluster.network.clear_weather();
        for host in 0..LOG_HOSTS {
            narrow(host, false, cluster);
            cluster.set_pace(host, None);
            cluster.medium(host).set_quota(None);
        }
    }

    fn mend_who_is_due(&mut self, cluster: &mut Cluster) {
        let now_ms = cluster.now_ms();
        let (due, later) = self.mends.drain(..).partition(|(at_ms, _)| *at_ms <= now_ms);
        self.mends = later;
        let due: Vec<(u64, Mend)> = due;
        for (_, mend) in due {
            self.mend(mend, cluster);
        }
    }

    /// Goes on with what has been begun.
    fn go_on(&mut self, cluster: &mut Cluster) {
        let now_ms = cluster.now_ms();
        let (due, later) = self.to_come.drain(..).partition(|(at_ms, _)| *at_ms <= now_ms);
        self.to_come = later;
        let due: Vec<(u64, Step)> = due;
        for (_, step) in due {
            cluster.network.note("step", &[], || format!("{step:?}"));
            match step {
                Step::Crash(host) => self.crash(host, 150, cluster),
                Step::Cut(host) => self.cut_from_peers(host, (2_000, 4_000), cluster),
                Step::Rot(host) => {
                    let death = self.death();
                    cluster.crash(host, death, self.rng.within(1_500, 4_000));
                    if self.may_rot(host) {
                        self.rotting = host;
                        let spot = self.rot.last_batch(cluster.medium(host), &mut self.rng);
                        self.flip(spot, cluster);
                    }
                }
            }
        }
    }

    fn mend(&mut self, mend: Mend, cluster: &mut Cluster) {
        cluster.network.note("mend", &[], || format!("{mend:?}"));
        match mend {
            Mend::Links => cluster.network.heal(),
            Mend::Peers(host) => peers(host).for_each(|other| cluster.network.heal_between(id(host), id(other))),
            Mend::Narrow(host) => narrow(host, false, cluster),
            Mend::Weather => cluster.network.clear_weather(),
            Mend::Pace(host) => cluster.set_pace(host, None),
            Mend::Quota(host) => cluster.medium(host).set_quota(None),
            Mend::Death(host, death) => cluster.die_if_doomed(host, death),
        }
    }

    fn mend_after(&mut self, cluster: &Cluster, low_ms: u64, high_ms: u64, mend: Mend) {
        let at_ms = cluster.now_ms() + self.rng.within(low_ms, high_ms);
        self.mends.push((at_ms, mend));
    }

    /// Whether anything was broken.
    fn break_something(&mut self, kind: Kind, cluster: &mut Cluster) -> bool {
        let log = self.rng.below(LOG_HOSTS);
        let serving = LOG_HOSTS + self.rng.below(CLIENT_HOST - LOG_HOSTS);
        cluster.network.note("fault", &[kind as u64], || format!("{kind:?}"));
        match kind {
            Kind::Crash => self.crash(log, 2_500, cluster),
            Kind::CrashAll => {
                for host in 0..LOG_HOSTS {
                    let (seed, down_ms) = (self.rng.bits(), self.rng.within(20, 1_500));
                    cluster.crash(host, Death::Power { seed }, down_ms);
                }
            }
            Kind::Restart => {
                let down_ms = self.rng.within(20, 1_500);
                return cluster.restart(log, down_ms);
            }
            Kind::CrashServing => {
                let down_ms = self.rng.within(20, 2_000);
                cluster.crash(serving, Death::Kill, down_ms);
            }
            Kind::Isolate => self.cut(log, true, true, cluster),
            Kind::OneWay => {
                let outwards = self.rng.in_thousand(500);
                self.cut(log, outwards, !outwards, cluster);
            }
            Kind::CutServing => {
                let (from, to) = (self.rng.in_thousand(600), self.rng.in_thousand(600));
                self.cut(serving, from, to || !from, cluster);
            }
            Kind::Storm => {
                cluster.network.set_weather(self.storm());
                self.mend_after(cluster, 300, 4_000, Mend::Weather);
            }
            Kind::Pause => {
                let host = if self.rng.in_thousand(700) { log } else { serving };
                return self.pause(host, cluster);
            }
            Kind::ClockJump => {
                let jump_ms = self.rng.within(0, 7_200_000) as i64 - 3_600_000;
                cluster.host(log).skew_ms.store(jump_ms, Ordering::Relaxed);
            }
            Kind::SlowDisk => {
                cluster.set_pace(log, Some(Pace::SLOW));
                self.mend_after(cluster, 300, 4_000, Mend::Pace(log));
            }
            Kind::FailedSync => cluster.medium(log).fail_next_sync(),
            Kind::FullDisk => {
                let medium = cluster.medium(log);
                let left_bytes = self.rng.within(0, 192 * 1024);
                medium.set_quota(Some(medium.used_bytes() + left_bytes));
                self.mend_after(cluster, 300, 4_000, Mend::Quota(log));
            }
            Kind::BitRot => {
                let spot = self.rot.anywhere(cluster.medium(self.rotting), &mut self.rng);
                return self.flip(spot, cluster);
            }
            Kind::CutLeader
            | Kind::NarrowLeader
            | Kind::CrashLeader
            | Kind::PauseLeader
            | Kind::LeaderComesBack
            | Kind::LeaderRots => return self.break_leader(kind, cluster),
        }
        true
    }

    fn break_leader(&mut self, kind: Kind, cluster: &mut Cluster) -> bool {
        let Some(leader) = self.leader(cluster) else { return false };
        match kind {
            Kind::NarrowLeader => {
                narrow(leader, true, cluster);
                self.mend_after(cluster, 500, 4_000, Mend::Narrow(leader));
            }
            Kind::CrashLeader => self.crash(leader, 300, cluster),
            Kind::PauseLeader => return self.pause(leader, cluster),
            Kind::LeaderComesBack => {
                narrow(leader, true, cluster);
                let crash_ms = cluster.now_ms() + self.rng.within(50, 500);
                let cut_ms = crash_ms + self.rng.within(1_200, 2_500);
                self.to_come.extend([(crash_ms, Step::Crash(leader)), (cut_ms, Step::Cut(leader))]);
                self.mends.push((cut_ms + self.rng.within(0, 3_000), Mend::Narrow(leader)));
            }
            Kind::LeaderRots => {
                if !self.may_rot(leader) {
                    return false;
                }
                narrow(leader, true, cluster);
                let rot_ms = cluster.now_ms() + self.rng.within(200, 1_200);
                self.to_come.push((rot_ms, Step::Rot(leader)));
                self.mends.push((rot_ms, Mend::Narrow(leader)));
            }
            _ => {
                let high_ms = *self.rng.pick(&[1_000, 5_000]);
                self.cut_from_peers(leader, (300, high_ms), cluster);
            }
        }
        true
    }

    /// The leader of any partition; rather the one that was broken last, even if another has been elected since.
    fn leader(&mut self, cluster: &mut Cluster) -> Option<usize> {
        let (again, partition) = (self.rng.in_thousand(500), PartitionId::new(self.rng.below(2) as u16));
        if !again || self.leader.is_none() {
            self.leader = newest_leader(cluster, partition).or(self.leader);
        }
        self.leader
    }

    fn pause(&mut self, host: usize, cluster: &mut Cluster) -> bool {
        let now_ms = cluster.now_ms();
        let until_ms = now_ms + self.rng.within(20, 3_000);
        let host = cluster.host_mut(host);
        if host.life.is_none() || host.stopped.is_some() {
            return false;
        }
        host.stopped = Some((until_ms, now_ms));
        true
    }

    fn crash(&mut self, host: usize, down_ms_max: u64, cluster: &mut Cluster) {
        let death = self.death();
        let down_ms = self.rng.within(20, down_ms_max);
        if self.rng.in_thousand(400) {
            cluster.crash(host, death, down_ms);
        } else {
            let effects = self.rng.within(0, 40);
            cluster.crash_soon(host, effects, death, down_ms);
            self.mend_after(cluster, 500, 500, Mend::Death(host, death));
        }
    }

    fn death(&mut self) -> Death {
        if self.rng.in_thousand(600) { Death::Power { seed: self.rng.bits() } } else { Death::Kill }
    }

    /// Cuts a host off from all others, or from some.
    fn cut(&mut self, host: usize, outwards: bool, inwards: bool, cluster: &Cluster) {
        let cut = if self.rng.in_thousand(500) { Cut::Loses } else { Cut::Holds };
        let all = self.rng.in_thousand(500);
        for other in (0..=CLIENT_HOST).filter(|&other| other != host) {
            if !all && self.rng.in_thousand(500) {
                continue;
            }
            if outwards {
                cluster.network.cut(id(host), id(other), cut);
            }
            if inwards {
                cluster.network.cut(id(other), id(host), cut);
            }
        }
        let high_ms = *self.rng.pick(&[300, 1_500, 6_000]);
        self.mend_after(cluster, 100, high_ms, Mend::Links);
    }

    /// Cuts a log node off from the other log nodes; everybody else still reaches it.
    fn cut_from_peers(&mut self, host: usize, (low_ms, high_ms): (u64, u64), cluster: &Cluster) {
        let cut = if self.rng.in_thousand(500) { Cut::Loses } else { Cut::Holds };
        let (outwards, inwards) = *self.rng.pick(&[(true, true), (true, true), (true, false), (false, true)]);
        for other in peers(host) {
            if outwards {
                cluster.network.cut(id(host), id(other), cut);
            }
            if inwards {
                cluster.network.cut(id(other), id(host), cut);
            }
        }
        self.mend_after(cluster, low_ms, high_ms, Mend::Peers(host));
    }

    fn storm(&mut self) -> Weather {
        let high_ms = *self.rng.pick(&[5, 30, 120]);
        Weather {
            delay_ms_min: 1,
            delay_ms_max: self.rng.within(2, high_ms),
            late: *self.rng.pick(&[0, 10, 100]),
            lost: *self.rng.pick(&[0, 10, 150]),
            twice: *self.rng.pick(&[0, 20, 200]),
            reorders: self.rng.in_thousand(500),
        }
    }

    /// Whether a log node is the only one that rots.
    fn may_rot(&self, host: usize) -> bool {
        !self.rot.has_begun() || self.rotting == host
    }

    /// Lets a place of the rotting node's medium rot; whether there is one.
    fn flip(&self, spot: Option<Spot>, cluster: &Cluster) -> bool {
        let Some(Spot { file, position, masks }) = spot else { return false };
        for (at, &mask) in (position..).zip(&masks) {
            cluster.medium(self.rotting).flip(&file, at, mask);
        }
        cluster.network.note("rot", &[position, masks.len() as u64], || {
            format!("{} {} at {position}, {} bytes", cluster.host(self.rotting).name, file.display(), masks.len())
        });
        true
    }
}

fn id(host: usize) -> HostId {
    HostId(host as u8)
}

/// The other log nodes.
fn peers(host: usize) -> impl Iterator<Item = usize> {
    (0..LOG_HOSTS).filter(move |&other| other != host)
}

fn narrow(host: usize, is_narrow: bool, cluster: &Cluster) {
    for other in peers(host) {
        cluster.network.narrow(id(host), id(other), is_narrow);
    }
}

/// Who was elected in a partition's newest term, as far as any log node that runs knows; it may be down by now.
pub(super) fn newest_leader(cluster: &mut Cluster, partition: PartitionId) -> Option<usize> {
    let mut newest: Option<StoredVote> = None;
    for host in 0..LOG_HOSTS {
        let vote = cluster.logs(host).iter().find(|log| log.partition() == partition).and_then(PartitionLog::vote);
        newest = vote.filter(|vote| vote.committed && newest.is_none_or(|newest| vote.term > newest.term)).or(newest);
    }
    Some(newest?.node as usize - 1)
}
