//! Network: every message between hosts, under way for a seeded time, or lost.
//!
//! * In: packets from hosts that live. Out: packets that are due, in order of time and then of sending.
//! * Messages of one pair of hosts keep their order unless the weather says otherwise (one connection a pair); those of
//!   different pairs overtake each other. A cut direction loses packets, or holds them until it is healed, as TCP does; a
//!   narrow one loses large requests only.
//! * A stream of pieces (a feed) never has a gap: a lost piece breaks the stream.
//! * Invariant: a host that has died sends nothing, and gets nothing that was sent to its former life.

use super::packet::{Load, Packet, Place};
use super::trace::Trace;
use crate::harness::Rng;
use duramen_common::protocol::service;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;

/// A host's number, from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct HostId(pub u8);

impl HostId {
    fn index(self) -> usize {
        usize::from(self.0)
    }
}

/// How packets fare while no direction is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Weather {
    /// Shortest time under way. Unit: milliseconds, at least 1.
    pub delay_ms_min: u64,
    /// Longest, but for what is late. Unit: milliseconds.
    pub delay_ms_max: u64,
    /// In a thousand packets, how many are late by up to a second.
    pub late: u64,
    /// In a thousand packets, how many are lost.
    pub lost: u64,
    /// In a thousand requests to log nodes, how many arrive twice. The second is handled and not answered: what a node says
    /// to it would not be true of the first. Appends come once, as a connection delivers them: what was refused by
    /// name is in no log only if it does not come again by itself. (Clients repeat theirs.)
    pub twice: u64,
    /// Whether packets of one pair overtake each other.
    pub reorders: bool,
}

impl Weather {
    /// What a machine room has on a good day.
    pub const FAIR: Weather = Weather { delay_ms_min: 1, delay_ms_max: 3, late: 0, lost: 0, twice: 0, reorders: false };
}

/// What became of packets so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Handed to the network.
    pub sent: u64,
    /// Handed to a host.
    pub delivered: u64,
    /// Lost by the weather, by a cut, or because the host had died.
    pub dropped: u64,
    /// Delivered a second time.
    pub doubled: u64,
}

/// What still passes a narrow direction: heartbeats and votes do, records do not. Unit: bytes of a request.
const NARROW_BYTES: usize = 64;

/// A direction between two hosts.
#[derive(Clone, Copy, Debug, Default)]
struct Link {
    cut: Option<Cut>,
    narrow: bool,
    last_due_ms: u64,
}

/// What a cut direction does with packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// They are lost.
    Loses,
    /// They arrive once it is healed.
    Holds,
}

struct State {
    now_ms: u64,
    rng: Rng,
    queue: BTreeMap<(u64, u64), Packet>,
    next_number: u64,
    next_call: u64,
    names: Vec<String>,
    /// The present life of each host; none while it is down.
    lives: Vec<Option<u32>>,
    links: Vec<Vec<Link>>,
    held: Vec<Packet>,
    /// Streams under way: when the last piece is due, or that it broke.
    streams: BTreeMap<u64, Option<u64>>,
    /// While nothing is wrong.
    usual: Weather,
    weather: Weather,
    trace: Trace,
    counts: Counts,
}

/// The network. Cloning shares it.
#[derive(Clone)]
pub struct Network {
    state: Arc<Mutex<State>>,
}

impl Network {
    /// A network between hosts of these names, all of them down, and its usual weather.
    #[must_use]
    pub fn new(rng: Rng, names: Vec<String>, usual: Weather, trace: Trace) -> Network {
        let hosts = names.len();
        let state = State {
            now_ms: 0,
            rng,
            queue: BTreeMap::new(),
            next_number: 0,
            next_call: 0,
            lives: vec![None; hosts],
            links: vec![vec![Link::default(); hosts]; hosts],
            names,
            held: Vec::new(),
            streams: BTreeMap::new(),
            usual,
            weather: usual,
            trace,
            counts: Counts::default(),
        };
        Network { state: Arc::new(Mutex::new(state)) }
    }

    /// The host that is called so.
    #[must_use]
    pub fn host(&self, name: &str) -> Option<HostId> {
        let state = self.state.lock();
        state.names.iter().position(|other| other == name).map(|index| HostId(index as u8))
    }

    /// Notes an event in the trace of the run.
    pub fn note(&self, tag: &'static str, numbers: &[u64], words: impl FnOnce() -> String) {
        self.state.lock().trace.note(tag, numbers, words);
    }

    /// The run so far in one number, and of how many events.
    #[must_use]
    pub fn digest(&self) -> (u64, u64) {
        self.state.lock().trace.digest()
    }

    /// What became of packets so far.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.state.lock().counts
    }

    /// Virtual time. Unit: milliseconds.
    #[must_use]
    pub fn now_ms(&self) -> u64 {
        self.state.lock().now_ms
    }

    /// Lets time go on.
    pub fn set_now(&self, now_ms: u64) {
        let mut state = self.state.lock();
        state.now_ms = now_ms;
        state.trace.set_now(now_ms);
    }

    /// Sets the weather.
    pub fn set_weather(&self, weather: Weather) {
        self.state.lock().weather = weather;
    }

    /// The usual weather again.
    pub fn clear_weather(&self) {
        let mut state = self.state.lock();
        state.weather = state.usual;
    }

    /// A host lives (again), or is down.
    pub fn set_life(&self, host: HostId, life: Option<u32>) {
        self.state.lock().lives[host.index()] = life;
    }

    /// A fresh number for a call.
    #[must_use]
    pub fn next_call(&self) -> u64 {
        let mut state = self.state.lock();
        state.next_call += 1;
        state.next_call
    }

    /// Cuts a direction.
    pub fn cut(&self, from: HostId, to: HostId, cut: Cut) {
        self.state.lock().links[from.index()][to.index()].cut = Some(cut);
    }

    /// Makes a direction lose large requests, as a path does whose routers drop what does not fit and do not say so; or
    /// mends that.
    pub fn narrow(&self, from: HostId, to: HostId, narrow: bool) {
        self.state.lock().links[from.index()][to.index()].narrow = narrow;
    }

    /// Heals every direction that is cut; what was held arrives.
    pub fn heal(&self) {
        self.heal_where(|_, _| true);
    }

    /// Heals both directions between two hosts; what was held there arrives.
    pub fn heal_between(&self, one: HostId, other: HostId) {
        self.heal_where(|from, to| (from, to) == (one, other) || (from, to) == (other, one));
    }

    fn heal_where(&self, heals: impl Fn(HostId, HostId) -> bool) {
        let mut state = self.state.lock();
        for (from, links) in state.links.iter_mut().enumerate() {
            for (to, link) in links.iter_mut().enumerate() {
                if heals(HostId(from as u8), HostId(to as u8)) {
                    link.cut = None;
                }
            }
        }
        // What is still held goes back to where it was.
        for packet in std::mem::take(&mut state.held) {
            state.send(packet);
        }
    }

    /// Sends a packet from a host that lives.
    pub fn send(&self, packet: Packet) {
        let mut state = self.state.lock();
        state.counts.sent += 1;
        let numbers = [packet.from.host.0.into(), packet.to.0.into(), packet.load.call(), packet.load.digest()];
        let State { trace, names, .. } = &mut *state;
        trace.note("send", &numbers, || packet.describe(names));
        state.send(packet);
    }

    /// The packets that have arrived by now, each with the host it goes to, which lives.
    #[must_use]
    pub fn arrivals(&self) -> Vec<Packet> {
        let mut state = self.state.lock();
        let later = (state.now_ms + 1, 0);
        let rest = state.queue.split_off(&later);
        let due = std::mem::replace(&mut state.queue, rest);
        due.into_values().filter_map(|packet| state.arrive(packet)).collect()
    }
}

impl State {
    fn send(&mut self, mut packet: Packet) {
        if packet.to_life.is_none() {
            packet.to_life = self.lives[packet.to.index()];
        }
        let link = self.links[packet.from.host.index()][packet.to.index()];
        match link.cut {
            Some(Cut::Loses) => return self.drop(&packet, "cut"),
            Some(Cut::Holds) => {
                self.held.push(packet);
                return;
            }
            None => {}
        }
        if link.narrow && packet.load.request_bytes() > NARROW_BYTES {
            return self.drop(&packet, "narrow");
        }
        if self.rng.in_thousand(self.weather.lost) {
            return self.drop(&packet, "lost");
        }
        let mut due_ms = self.now_ms + self.rng.within(self.weather.delay_ms_min, self.weather.delay_ms_max);
        if self.rng.in_thousand(self.weather.late) {
            due_ms += self.rng.within(20, 1_000);
        }
        if !self.weather.reorders {
            due_ms = due_ms.max(link.last_due_ms);
            self.links[packet.from.host.index()][packet.to.index()].last_due_ms = due_ms;
        }
        if let Some(stream) = packet.load.stream() {
            match self.streams.get(&stream).copied().unwrap_or(Some(0)) {
                Some(last_due_ms) => due_ms = due_ms.max(last_due_ms),
                None => return self.drop(&packet, "broken"),
            }
            self.streams.insert(stream, Some(due_ms));
        }
        self.enqueue(due_ms, packet);
    }

    fn enqueue(&mut self, due_ms: u64, packet: Packet) {
        self.next_number += 1;
        self.queue.insert((due_ms, self.next_number), packet);
    }

    fn drop(&mut self, packet: &Packet, why: &'static str) {
        self.counts.dropped += 1;
        if let Some(stream) = packet.load.stream() {
            self.streams.insert(stream, None);
        }
        let State { trace, names, .. } = self;
        trace.note(why, &[packet.load.call()], || packet.describe(names));
    }

    fn arrive(&mut self, mut packet: Packet) -> Option<Packet> {
        let life = self.lives[packet.to.index()];
        if life.is_none() || packet.to_life.is_some_and(|meant| Some(meant) != life) {
            self.refuse(&packet);
            self.drop(&packet, "dead");
            return None;
        }
        packet.to_life = life;
        let may_come_twice = matches!(packet.load, Load::Request { service, .. } if service != service::APPEND);
        if may_come_twice && self.rng.in_thousand(self.weather.twice) {
            self.counts.doubled += 1;
            let due_ms = self.now_ms + self.rng.within(1, 300);
            self.enqueue(due_ms, packet.unanswered());
        }
        self.counts.delivered += 1;
        let State { trace, names, .. } = self;
        trace.note("recv", &[packet.load.call()], || packet.describe(names));
        Some(packet)
    }

    /// A host that is down but whose machine runs refuses what was not meant for an earlier life of it.
    fn refuse(&mut self, packet: &Packet) {
        let from = Place { host: packet.to, life: 0 };
        let Some(load) = packet.load.refusal(packet.to_life.is_some()) else { return };
        if self.rng.in_thousand(500) {
            self.send(Packet { from, to: packet.from.host, to_life: Some(packet.from.life), load });
        }
    }
}
