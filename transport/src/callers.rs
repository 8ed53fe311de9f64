//! Who is connected to a [`crate::TcpServer`], and who has to go when all places are taken.
//!
//! * In: callers that come, greet, ask and are answered. Out: places; a sign to the caller whose place another one needs.
//! * Those go first who have not greeted, then clients that have asked nothing for a while; the longest silent first.
//! * Invariant: a log node, or a caller with a request under way, is never sent away for another.

use crate::Role;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;

/// A welcomed client that has asked nothing for this long may be sent away for a new caller.
const QUIET: Duration = Duration::from_secs(5);

/// All callers of a server.
pub(crate) struct Callers {
    places_max: usize,
    callers: Mutex<ByNumber>,
    /// Bytes of requests under way and of answers that wait to be written, of clients. Unit: bytes.
    held: AtomicUsize,
    held_max: usize,
}

#[derive(Default)]
struct ByNumber {
    next: u64,
    present: HashMap<u64, Arc<State>>,
}

struct State {
    known: Mutex<Known>,
    leave: Notify,
}

struct Known {
    /// `None` before the hello.
    is_log_node: Option<bool>,
    is_asking: bool,
    since: Instant,
}

/// One caller's place; given back when dropped.
pub(crate) struct Caller {
    callers: Arc<Callers>,
    number: u64,
    state: Arc<State>,
    held: AtomicUsize,
}

impl Callers {
    pub(crate) fn new(places_max: usize, held_max: usize) -> Arc<Callers> {
        Arc::new(Callers { places_max, callers: Mutex::default(), held: AtomicUsize::new(0), held_max })
    }

    /// A place, if need be that of a caller who is sent away for it; `None` when nobody can be.
    pub(crate) fn enter(self: &Arc<Callers>, now: Instant) -> Option<Caller> {
        let mut callers = self.callers.lock();
        if callers.present.len() >= self.places_max {
            let spared = callers.present.iter().filter_map(|(&number, state)| Some((state.rank(now)?, number)));
            let (_, number) = spared.min()?;
            // The sign stays until it is waited for.
            if let Some(state) = callers.present.remove(&number) {
                state.leave.notify_one();
            }
        }
        let known = Mutex::new(Known { is_log_node: None, is_asking: false, since: now });
        let state = Arc::new(State { known, leave: Notify::new() });
        let number = callers.next;
        callers.next += 1;
        callers.present.insert(number, Arc::clone(&state));
        drop(callers);
        Some(Caller { callers: Arc::clone(self), number, state, held: AtomicUsize::new(0) })
    }

    /// Whether clients hold more than they may together.
    pub(crate) fn is_pressed(&self) -> bool {
        self.held.load(Ordering::Relaxed) > self.held_max
    }
}

impl State {
    /// How much this caller can be spared: the smallest goes first; `None` when it cannot.
    fn rank(&self, now: Instant) -> Option<(bool, Instant)> {
        let known = self.known.lock();
        match known.is_log_node {
            None => Some((false, known.since)),
            Some(false) if !known.is_asking && now.saturating_duration_since(known.since) >= QUIET => {
                Some((true, known.since))
            }
            Some(_) => None,
        }
    }
}

impl Caller {
    /// It has said who it is.
    pub(crate) fn greeted(&self, role: &Role, now: Instant) {
        let mut known = self.state.known.lock();
        known.is_log_node = Some(matches!(role, Role::LogNode { .. }));
        known.since = now;
    }

    /// Whether requests of it are under way, or answers on their way to it, and how many bytes they hold.
    pub(crate) fn note(&self, is_asking: bool, held: usize, now: Instant) {
        let is_log_node = {
            let mut known = self.state.known.lock();
            if known.is_asking != is_asking {
                known.is_asking = is_asking;
                known.since = now;
            }
            known.is_log_node == Some(true)
        };
        let held = if is_log_node { 0 } else { held };
        let before = self.held.swap(held, Ordering::Relaxed);
        if held > before {
            self.callers.held.fetch_add(held - before, Ordering::Relaxed);
        } else if held < before {
            self.callers.held.fetch_sub(before - held, Ordering::Relaxed);
        }
    }

    /// Resolves when another caller needs this place.
    pub(crate) async fn leave(&self) {
        self.state.leave.notified().await;
    }
}

impl Drop for Caller {
    fn drop(&mut self) {
        self.callers.held.fetch_sub(*self.held.get_mut(), Ordering::Relaxed);
        self.callers.callers.lock().present.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use duramen_common::{NodeId, StoreId};
    use futures_util::FutureExt as _;

    fn client() -> Role {
        Role::Client { name: "c".to_owned() }
    }

    fn log_node() -> Role {
        Role::LogNode { node: NodeId::new(1), store: StoreId::from_bits(1) }
    }

    /// Goal: the silent make room, first those who never greeted; log nodes and those who ask stay.
    #[test]
    fn the_silent_make_room_for_new_callers() {
        let callers = Callers::new(3, 1000);
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let peer = callers.enter(start).unwrap();
        peer.greeted(&log_node(), start);
        let quiet = callers.enter(start).unwrap();
        quiet.greeted(&client(), start);
        let silent = callers.enter(at(1)).unwrap();
        let asking = callers.enter(at(2)).unwrap();
        assert!(silent.leave().now_or_never().is_some());
        asking.greeted(&client(), at(2));
        asking.note(true, 10, at(2));
        assert!(callers.enter(at(4)).is_none(), "the client may ask soon");
        let late = callers.enter(at(6)).unwrap();
        assert!(quiet.leave().now_or_never().is_some());
        late.greeted(&client(), at(6));
        assert!(callers.enter(at(7)).is_none());
        drop(asking);
        assert!(callers.enter(at(7)).is_some());
        assert!(peer.leave().now_or_never().is_none() && late.leave().now_or_never().is_none());
    }

    #[test]
    fn what_clients_hold_is_counted_together_and_given_back() {
        let callers = Callers::new(3, 1000);
        let now = Instant::now();
        let [one, other, peer] = [(); 3].map(|()| callers.enter(now).unwrap());
        peer.greeted(&log_node(), now);
        peer.note(true, 5000, now);
        one.note(true, 900, now);
        assert!(!callers.is_pressed());
        other.note(true, 101, now);
        assert!(callers.is_pressed());
        one.note(true, 100, now);
        assert!(!callers.is_pressed());
        drop((one, other, peer));
        assert_eq!(callers.held.load(Ordering::Relaxed), 0);
    }
}
