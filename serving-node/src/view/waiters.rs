//! Readers that wait for an applied end: a bounded queue by offset, and the task-facing side of it.
//!
//! * [`WaitQueue`] is pure: wakes in the order of ends, and within one end in the order of arrival; a reader who goes away
//!   is removed at once, so that the count is right.
//! * [`Waiters`] publishes the applied end: first the number, then the wake-ups, so that nobody sleeps through it.
//! * Source: DESIGN D9.

use super::types::WaitError;
use duramen_common::Offset;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use tokio::sync::oneshot;
use tokio::time::Instant;

/// Who waits for which end.
#[derive(Debug)]
pub(super) struct WaitQueue<T> {
    waiting: BTreeMap<(Offset, u64), T>,
    next: u64,
}

/// Names one waiter.
pub(super) type Ticket = (Offset, u64);

impl<T> WaitQueue<T> {
    pub(super) fn new() -> WaitQueue<T> {
        WaitQueue { waiting: BTreeMap::new(), next: 0 }
    }

    pub(super) fn push(&mut self, end: Offset, waiter: T) -> Ticket {
        let ticket = (end, self.next);
        self.next += 1;
        self.waiting.insert(ticket, waiter);
        ticket
    }

    /// Takes a waiter out who gave up; `None` when it was woken before.
    pub(super) fn cancel(&mut self, ticket: Ticket) -> Option<T> {
        self.waiting.remove(&ticket)
    }

    /// The next waiter whom this applied end satisfies.
    pub(super) fn pop_ready(&mut self, applied_end: Offset) -> Option<T> {
        let first = self.waiting.first_entry()?;
        (first.key().0 <= applied_end).then(|| first.remove())
    }
}

/// How many may wait at this node; shared by its partitions.
#[derive(Debug)]
pub(crate) struct WaitersLimit {
    waiting: AtomicUsize,
    max: usize,
}

impl WaitersLimit {
    pub(crate) fn new(max: usize) -> WaitersLimit {
        WaitersLimit { waiting: AtomicUsize::new(0), max }
    }

    fn enter(self: &Arc<WaitersLimit>) -> Result<Place, WaitError> {
        let entered = self
            .waiting
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |waiting| (waiting < self.max).then_some(waiting + 1));
        match entered {
            Ok(_) => Ok(Place(Arc::clone(self))),
            Err(_) => Err(WaitError::TooManyWaiters { limit: self.max }),
        }
    }

    /// How many wait now.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }
}

/// One of the places; given back when dropped.
struct Place(Arc<WaitersLimit>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Stands for "nothing that may be shown".
const NOTHING: u64 = u64::MAX;

/// The published applied end of a partition, and who waits for it.
pub(super) struct Waiters {
    published: AtomicU64,
    queue: Mutex<WaitQueue<oneshot::Sender<()>>>,
    limit: Arc<WaitersLimit>,
    /// Set under the queue's lock: from then on nobody waits.
    is_ended: AtomicBool,
}

impl Waiters {
    pub(super) fn new(published: Option<Offset>, limit: Arc<WaitersLimit>) -> Waiters {
        let published = AtomicU64::new(published.map_or(NOTHING, Offset::get));
        Waiters { published, queue: Mutex::new(WaitQueue::new()), limit, is_ended: AtomicBool::new(false) }
    }

    pub(super) fn limit(&self) -> &WaitersLimit {
        &self.limit
    }

    pub(super) fn published(&self) -> Option<Offset> {
        match self.published.load(Ordering::Acquire) {
            NOTHING => None,
            end => Some(Offset::new(end)),
        }
    }

    /// Publishes what reads can see from now on, and wakes who waited for it. The data must be there already.
    pub(super) fn publish(&self, applied_end: Option<Offset>) {
        self.published.store(applied_end.map_or(NOTHING, Offset::get), Ordering::Release);
        let Some(applied_end) = applied_end else { return };
        let mut queue = self.queue.lock();
        while let Some(waiter) = queue.pop_ready(applied_end) {
            let _ = waiter.send(());
        }
    }

    /// Ends all waits, now and from now on.
    pub(super) fn end(&self) {
        let mut queue = self.queue.lock();
        self.is_ended.store(true, Ordering::Release);
        // A waiter whose waker is gone knows why.
        *queue = WaitQueue::new();
    }

    fn covers(&self, end: Offset) -> bool {
        self.published().is_some_and(|applied_end| applied_end >= end)
    }

    pub(super) async fn wait(&self, end: Offset, deadline: Instant) -> Result<(), WaitError> {
        if self.covers(end) {
            return Ok(());
        }
        let _place = self.limit.enter()?;
        let (waker, woken) = oneshot::channel();
        let waiting = {
            let mut queue = self.queue.lock();
            // Published before the lock was taken: nobody would wake us any more.
            if self.covers(end) {
                return Ok(());
            }
            if self.is_ended.load(Ordering::Acquire) {
                return Err(WaitError::Stopping { wanted: end, applied: self.published() });
            }
            Waiting { waiters: self, ticket: queue.push(end, waker) }
        };
        let woken = tokio::time::timeout_at(deadline, woken).await;
        drop(waiting);
        match woken {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) | Err(_) if self.covers(end) => Ok(()),
            Ok(Err(_)) => Err(WaitError::Stopping { wanted: end, applied: self.published() }),
            Err(_) => Err(WaitError::Deadline { wanted: end, applied: self.published() }),
        }
    }
}

/// Takes the waiter out of the queue however the wait ends.
struct Waiting<'a> {
    waiters: &'a Waiters,
    ticket: Ticket,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.waiters.queue.lock().cancel(self.ticket);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt as _;
    use proptest::prelude::*;
    use std::time::Duration;

    proptest! {
        /// Goal: exactly those are woken whose end is covered, in order. Method: random ends and cancellations against a sort.
        #[test]
        fn those_are_woken_whose_end_is_covered_in_order(
            ends in proptest::collection::vec((0u64..50, any::<bool>()), 0..60),
            applied_end in 0u64..50,
        ) {
            let mut queue = WaitQueue::new();
            let tickets: Vec<_> =
                ends.iter().enumerate().map(|(who, &(end, _))| queue.push(Offset::new(end), who)).collect();
            for (who, &(_, gives_up)) in ends.iter().enumerate() {
                if gives_up {
                    prop_assert_eq!(queue.cancel(tickets[who]), Some(who));
                }
            }
            let mut wanted: Vec<_> = (0..ends.len()).filter(|&who| !ends[who].1 && ends[who].0 <= applied_end).collect();
            wanted.sort_by_key(|&who| (ends[who].0, who));
            let woken: Vec<_> = std::iter::from_fn(|| queue.pop_ready(Offset::new(applied_end))).collect();
            prop_assert_eq!(woken, wanted);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_waiter_is_woken_by_its_end_and_not_before() {
        let limit = Arc::new(WaitersLimit::new(2));
        let waiters = Arc::new(Waiters::new(None, Arc::clone(&limit)));
        let deadline = Instant::now() + Duration::from_secs(5);
        let waiting = tokio::spawn({
            let waiters = Arc::clone(&waiters);
            async move { waiters.wait(Offset::new(5), deadline).await }
        });
        tokio::task::yield_now().await;
        waiters.publish(Some(Offset::new(4)));
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished(), "woken at 4, it waits for 5");
        waiters.publish(Some(Offset::new(5)));
        assert_eq!(waiting.await.unwrap(), Ok(()));
        assert_eq!(limit.waiting(), 0);
    }

    /// Goal: who waits when the node stops is told so at once, and nobody waits after that.
    #[tokio::test(start_paused = true)]
    async fn a_stop_ends_all_waits() {
        let limit = Arc::new(WaitersLimit::new(2));
        let waiters = Waiters::new(Some(Offset::new(1)), Arc::clone(&limit));
        let deadline = Instant::now() + Duration::from_secs(5);
        let stopping = Err(WaitError::Stopping { wanted: Offset::new(2), applied: Some(Offset::new(1)) });
        let waiting = waiters.wait(Offset::new(2), deadline);
        tokio::pin!(waiting);
        assert!((&mut waiting).now_or_never().is_none());
        waiters.end();
        assert_eq!(waiting.now_or_never(), Some(stopping));
        assert_eq!(waiters.wait(Offset::new(2), deadline).now_or_never(), Some(stopping));
        assert_eq!(waiters.wait(Offset::new(1), deadline).now_or_never(), Some(Ok(())), "what is here can be read");
        assert_eq!(limit.waiting(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn places_are_limited_and_given_back() {
        let limit = Arc::new(WaitersLimit::new(1));
        let waiters = Waiters::new(Some(Offset::new(1)), Arc::clone(&limit));
        let soon = Instant::now() + Duration::from_millis(10);
        {
            let first = waiters.wait(Offset::new(2), soon);
            tokio::pin!(first);
            assert!((&mut first).now_or_never().is_none());
            let refused = waiters.wait(Offset::new(2), soon).await;
            assert_eq!(refused, Err(WaitError::TooManyWaiters { limit: 1 }));
        }
        assert_eq!(limit.waiting(), 0, "a reader who goes away gives its place back");
        let late = waiters.wait(Offset::new(2), soon).await;
        assert_eq!(late, Err(WaitError::Deadline { wanted: Offset::new(2), applied: Some(Offset::new(1)) }));
        assert!(waiters.queue.lock().waiting.is_empty());
    }
}
