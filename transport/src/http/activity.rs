//! What each connection of a listener is doing, and which of them has to go.
//!
//! * In: what the wire and the handler report. Out: a sign to a connection that its time is over, or that its place is needed.
//! * Times are taken from one coarse clock of the listener, which [`Places::sweep`] moves: a request costs a few stores,
//!   no clock and no timer.
//! * Invariant: only a connection without a request under way is given up for a new caller.

use super::HttpLimits;
use duramen_common::budget::Budget;
use futures_util::task::AtomicWaker;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::task::{Poll, Waker};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;

/// A head that has taken this long may be given up for a new caller.
const HEAD_SLOW_MS: u64 = 1_000;
/// One in so many connections is given up at once, so that looking for them is rare.
const EVICTED_SHARE: usize = 64;
/// Sweeps are at least and at most this far apart.
const SWEEP_MIN: Duration = Duration::from_millis(10);
const SWEEP_MAX: Duration = Duration::from_secs(1);

/// Stands for "not blocked".
const NOT_BLOCKED: u64 = u64::MAX;

/// Why a connection is closed from here. Its number stands in [`Signs`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cut {
    /// Nothing came for too long, or its place is needed.
    Idle = 1,
    /// The head took too long.
    SlowHead = 2,
    /// The caller does not take its answer.
    NotRead = 3,
}

/// What a connection is told by its listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sign {
    /// It has to go.
    Cut(Cut),
    /// The listener stops: the request under way is its last.
    Stop,
}

/// All signs that a connection was given, in one byte: a look at it costs no lock.
#[derive(Debug, Default)]
struct Signs(AtomicU8);

impl Signs {
    const CUT: u8 = 3;
    const STOP: u8 = 4;
    const OVERTIME: u8 = 8;

    fn cut(&self) -> Option<Cut> {
        match self.0.load(Ordering::Acquire) & Signs::CUT {
            0 => None,
            1 => Some(Cut::Idle),
            2 => Some(Cut::SlowHead),
            _ => Some(Cut::NotRead),
        }
    }

    /// Gives a cut; says whether it is the first one, which stands.
    fn give_cut(&self, cut: Cut) -> bool {
        let first = |signs: u8| (signs & Signs::CUT == 0).then_some(signs | cut as u8);
        self.0.fetch_update(Ordering::AcqRel, Ordering::Acquire, first).is_ok()
    }

    fn give(&self, sign: u8) {
        self.0.fetch_or(sign, Ordering::AcqRel);
    }

    fn has(&self, sign: u8) -> bool {
        self.0.load(Ordering::Acquire) & sign != 0
    }
}

/// What a connection is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Idle,
    Head,
    Busy,
}

impl Phase {
    const BITS: u64 = 2;

    fn at(self, now_ms: u64) -> u64 {
        now_ms << Phase::BITS | self as u64
    }

    fn of(packed: u64) -> (Phase, u64) {
        let phase = match packed & 3 {
            0 => Phase::Idle,
            1 => Phase::Head,
            _ => Phase::Busy,
        };
        (phase, packed >> Phase::BITS)
    }
}

/// What a listener has seen since it started.
#[derive(Debug, Default)]
pub struct HttpStats {
    open: AtomicU64,
    accepted: AtomicU64,
    evicted: AtomicU64,
    timed_out: AtomicU64,
    not_read: AtomicU64,
    accept_failures: AtomicU64,
    body_bytes: AtomicU64,
}

/// The numbers of [`HttpStats`] at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HttpCounts {
    /// Open connections.
    pub open: u64,
    /// Connections accepted.
    pub accepted: u64,
    /// Idle connections closed because a new caller needed their place.
    pub evicted: u64,
    /// Connections closed because nothing came, or a head did not come whole in time.
    pub timed_out: u64,
    /// Connections closed because their caller did not take its answer.
    pub not_read: u64,
    /// Times that the operating system gave no connection.
    pub accept_failures: u64,
    /// Bytes of request bodies held.
    pub body_bytes: u64,
}

impl HttpStats {
    /// The numbers now.
    #[must_use]
    pub fn counts(&self) -> HttpCounts {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        HttpCounts {
            open: read(&self.open),
            accepted: read(&self.accepted),
            evicted: read(&self.evicted),
            timed_out: read(&self.timed_out),
            not_read: read(&self.not_read),
            accept_failures: read(&self.accept_failures),
            body_bytes: read(&self.body_bytes),
        }
    }

    pub(super) fn count_accept_failure(&self) {
        self.accept_failures.fetch_add(1, Ordering::Relaxed);
    }

    /// Takes room for a request body's bytes; false when `max` would be passed.
    pub(super) fn take_body_bytes(&self, bytes: u64, max: u64) -> bool {
        let within = |held: u64| held.checked_add(bytes).filter(|&held| held <= max);
        self.body_bytes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, within).is_ok()
    }

    pub(super) fn give_body_bytes(&self, bytes: u64) {
        self.body_bytes.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// One connection's activity. Shared by its task, its wire and the listener.
#[derive(Debug)]
pub(super) struct Activity {
    /// [`Phase`] and the millisecond in which it began.
    phase: AtomicU64,
    /// Since when the socket takes nothing, [`NOT_BLOCKED`] while it does. Unit: milliseconds.
    blocked: AtomicU64,
    signs: Signs,
    /// The connection's task, which waits for a sign.
    told: AtomicWaker,
    /// The request under way, which waits for the end of a stop's grace.
    late: AtomicWaker,
    /// The answer under way has no end that is known: a caller that is gone is noticed at once.
    streams: AtomicBool,
    /// The caller has said that it sends nothing more.
    has_ended: AtomicBool,
    /// The connection, which has not been told yet.
    untold: AtomicWaker,
    clock_ms: Arc<AtomicU64>,
}

impl Activity {
    fn now_ms(&self) -> u64 {
        self.clock_ms.load(Ordering::Relaxed)
    }

    /// Bytes came: the first of them begin a head.
    pub(super) fn bytes_came(&self) {
        if Phase::of(self.phase.load(Ordering::Relaxed)).0 == Phase::Idle {
            self.phase.store(Phase::Head.at(self.now_ms()), Ordering::Relaxed);
        }
    }

    /// A request is handled from now on.
    pub(super) fn request_began(&self) {
        self.streams.store(false, Ordering::Relaxed);
        self.phase.store(Phase::Busy.at(self.now_ms()), Ordering::Relaxed);
    }

    /// The last byte of an answer is on its way to the socket.
    pub(super) fn request_ended(&self) {
        self.phase.store(Phase::Idle.at(self.now_ms()), Ordering::Relaxed);
        self.untold.wake();
    }

    /// The answer under way goes on until one of both ends it.
    pub(super) fn stream_began(&self) {
        self.streams.store(true, Ordering::Relaxed);
        self.untold.wake();
    }

    /// The caller sends nothing more, which may mean that it is gone, or only that it has said everything. Says whether that is
    /// kept from the connection, because a request is under way that the caller may wait for: then `waker` is woken once it is not.
    pub(super) fn keeps_end(&self, waker: &Waker) -> bool {
        let is_busy = Phase::of(self.phase.load(Ordering::Relaxed)).0 == Phase::Busy;
        let is_kept = is_busy && !self.streams.load(Ordering::Relaxed);
        if is_kept {
            self.has_ended.store(true, Ordering::Relaxed);
            self.untold.register(waker);
        }
        is_kept
    }

    /// Whether the caller was heard to end while a request was under way.
    pub(super) fn has_ended(&self) -> bool {
        self.has_ended.load(Ordering::Relaxed)
    }

    /// Whether the socket took bytes when it was offered some.
    pub(super) fn wrote(&self, is_blocked: bool) {
        let before = self.blocked.load(Ordering::Relaxed);
        if is_blocked && before == NOT_BLOCKED {
            self.blocked.store(self.now_ms(), Ordering::Relaxed);
        } else if !is_blocked && before != NOT_BLOCKED {
            self.blocked.store(NOT_BLOCKED, Ordering::Relaxed);
        }
    }

    /// Resolves when the connection is told something. One task at a time may wait.
    pub(super) async fn sign(&self, knows_of_stop: bool) -> Sign {
        poll_fn(|context| {
            self.told.register(context.waker());
            match self.signs.cut() {
                Some(cut) => Poll::Ready(Sign::Cut(cut)),
                None if !knows_of_stop && self.is_stopping() => Poll::Ready(Sign::Stop),
                None => Poll::Pending,
            }
        })
        .await
    }

    /// Resolves when the listener stops and its grace is over. Who waits is polled by the connection's task: the request under
    /// way and its body are.
    pub(super) async fn overtime(&self) {
        poll_fn(|context| {
            self.late.register(context.waker());
            if self.signs.has(Signs::OVERTIME) { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }

    /// Whether the listener stops.
    pub(super) fn is_stopping(&self) -> bool {
        self.signs.has(Signs::STOP)
    }

    fn give_up(&self, cut: Cut) -> bool {
        let first = self.signs.give_cut(cut);
        self.told.wake();
        first
    }

    fn is_given_up(&self) -> bool {
        self.signs.cut().is_some()
    }

    /// Why its time is over, if it is.
    fn overdue(&self, limits: &HttpLimits, write_timeout: Duration) -> Option<Cut> {
        let now_ms = self.now_ms();
        let is_over = |since_ms: u64, limit: Duration| u128::from(now_ms.saturating_sub(since_ms)) >= limit.as_millis();
        let blocked = self.blocked.load(Ordering::Relaxed);
        if blocked != NOT_BLOCKED {
            return is_over(blocked, write_timeout).then_some(Cut::NotRead);
        }
        match Phase::of(self.phase.load(Ordering::Relaxed)) {
            (Phase::Idle, since_ms) => is_over(since_ms, limits.idle_timeout).then_some(Cut::Idle),
            (Phase::Head, since_ms) => is_over(since_ms, limits.head_timeout).then_some(Cut::SlowHead),
            (Phase::Busy, _) => None,
        }
    }

    /// How much this connection can be spared: the smallest goes first; `None` when it cannot.
    fn rank(&self) -> Option<(bool, u64)> {
        if self.blocked.load(Ordering::Relaxed) != NOT_BLOCKED || self.is_given_up() {
            return None;
        }
        match Phase::of(self.phase.load(Ordering::Relaxed)) {
            (Phase::Idle, since_ms) => Some((false, since_ms)),
            (Phase::Head, since_ms) if self.now_ms() >= since_ms + HEAD_SLOW_MS => Some((true, since_ms)),
            (Phase::Head | Phase::Busy, _) => None,
        }
    }
}

/// Tells a request under way that its listener stops and the grace is over. Waiting takes no lock that requests share.
#[derive(Debug)]
pub struct Overtime(Arc<Activity>);

impl Overtime {
    pub(super) fn of(activity: &Arc<Activity>) -> Overtime {
        Overtime(Arc::clone(activity))
    }

    /// Resolves when the grace is over. To be awaited where the request is answered, not in a task of its own.
    pub async fn passed(self) {
        self.0.overtime().await;
    }
}

/// The places of a listener.
pub(super) struct Places {
    limits: HttpLimits,
    stats: Arc<HttpStats>,
    started: Instant,
    clock_ms: Arc<AtomicU64>,
    taken: Mutex<Taken>,
    freed: Notify,
}

#[derive(Default)]
struct Taken {
    next: u64,
    by_number: HashMap<u64, Arc<Activity>>,
}

/// One connection's place; given back when dropped.
pub(super) struct Place {
    places: Arc<Places>,
    number: u64,
    pub(super) activity: Arc<Activity>,
}

impl Places {
    pub(super) fn new(limits: HttpLimits, stats: Arc<HttpStats>) -> Arc<Places> {
        Arc::new(Places {
            limits,
            stats,
            started: Instant::now(),
            clock_ms: Arc::default(),
            taken: Mutex::default(),
            freed: Notify::new(),
        })
    }

    /// How often [`Places::sweep`] must be called: a quarter of the shortest time, within reason.
    pub(super) fn sweep_interval(&self) -> Duration {
        let limits = &self.limits;
        let writes = limits.write_timeout.min(limits.write_timeout_pressed);
        let shortest = limits.idle_timeout.min(limits.head_timeout).min(writes);
        (shortest / 4).clamp(SWEEP_MIN, SWEEP_MAX)
    }

    /// A place, unless all are taken.
    pub(super) fn take(self: &Arc<Places>) -> Option<Place> {
        let mut taken = self.taken.lock();
        if taken.by_number.len() >= self.limits.connections_max {
            return None;
        }
        let activity = Arc::new(Activity {
            phase: AtomicU64::new(Phase::Idle.at(self.clock_ms.load(Ordering::Relaxed))),
            blocked: AtomicU64::new(NOT_BLOCKED),
            signs: Signs::default(),
            told: AtomicWaker::new(),
            late: AtomicWaker::new(),
            streams: AtomicBool::new(false),
            has_ended: AtomicBool::new(false),
            untold: AtomicWaker::new(),
            clock_ms: Arc::clone(&self.clock_ms),
        });
        let number = taken.next;
        taken.next += 1;
        taken.by_number.insert(number, Arc::clone(&activity));
        self.stats.open.store(taken.by_number.len() as u64, Ordering::Relaxed);
        self.stats.accepted.fetch_add(1, Ordering::Relaxed);
        Some(Place { places: Arc::clone(self), number, activity })
    }

    /// A place, as soon as one can be had: idle connections are closed for it.
    pub(super) async fn wait(self: &Arc<Places>) -> Place {
        loop {
            let freed = self.freed.notified();
            if let Some(place) = self.take() {
                return place;
            }
            self.evict();
            // Nobody may have been idle yet: look again, however quiet it is.
            let _ = tokio::time::timeout(self.sweep_interval(), freed).await;
            self.sweep();
        }
    }

    /// Closes some of the connections that have been idle for longest; says how many.
    pub(super) fn evict(&self) -> usize {
        let mut spared: Vec<((bool, u64), Arc<Activity>)> = {
            let taken = self.taken.lock();
            taken.by_number.values().filter_map(|activity| Some((activity.rank()?, Arc::clone(activity)))).collect()
        };
        let count = (self.limits.connections_max / EVICTED_SHARE).max(1).min(spared.len());
        spared.sort_unstable_by_key(|(rank, _)| *rank);
        for (_, activity) in spared.iter().take(count) {
            activity.give_up(Cut::Idle);
        }
        self.stats.evicted.fetch_add(count as u64, Ordering::Relaxed);
        count
    }

    /// The listener stops: connections end after the request under way.
    pub(super) fn stop(&self) {
        for activity in self.taken.lock().by_number.values() {
            activity.signs.give(Signs::STOP);
            activity.told.wake();
        }
    }

    /// The stop's grace is over: requests that still wait are told.
    pub(super) fn end_grace(&self) {
        for activity in self.taken.lock().by_number.values() {
            activity.signs.give(Signs::OVERTIME);
            activity.late.wake();
        }
    }

    /// Moves the clock, and closes what is overdue.
    pub(super) fn sweep(&self) {
        let now_ms = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX >> Phase::BITS);
        self.clock_ms.store(now_ms, Ordering::Relaxed);
        let is_pressed = self.limits.budgets.iter().any(Budget::is_pressed);
        let write_timeout = match is_pressed {
            true => self.limits.write_timeout.min(self.limits.write_timeout_pressed),
            false => self.limits.write_timeout,
        };
        for activity in self.taken.lock().by_number.values() {
            let Some(cut) = activity.overdue(&self.limits, write_timeout) else { continue };
            if activity.give_up(cut) {
                let counter = if cut == Cut::NotRead { &self.stats.not_read } else { &self.stats.timed_out };
                counter.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.taken.lock();
        taken.by_number.remove(&self.number);
        self.places.stats.open.store(taken.by_number.len() as u64, Ordering::Relaxed);
        drop(taken);
        self.places.freed.notify_waiters();
    }
}
