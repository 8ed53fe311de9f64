//! A budget of bytes: what answers may hold in memory until their callers have taken them.
//!
//! * In: sizes, taken before or as soon as they are known. Out: [`Held`], which goes with the bytes and gives its share back
//!   when the last of them is dropped.
//! * Small answers pass outside the budget ([`SMALL_BYTES`]), so that large ones that nobody reads do not stop them.
//! * Nobody waits for more while it holds some: two who did so would wait for each other.
//! * Invariant: what is held outside never exceeds the limit, except that one answer over the limit may stand alone.
//! * Source: docs/adr/0016-what-a-reader-may-hold.md.

use bytes::Bytes;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout, timeout_at};

/// An answer up to this size is not counted; its number is bounded by the number of connections. Unit: bytes.
pub const SMALL_BYTES: usize = 16 * 1024;
/// What is counted at a time. Unit: bytes.
const UNIT_BYTES: usize = 1024;
/// Whoever waits longer than this shows that the budget is too small for what is stalled.
const PRESSED_AFTER: Duration = Duration::from_millis(250);

/// The budget was not free in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "answers that their callers do not take hold {limit} bytes, the limit of this node: try again, or ask another node"
)]
pub struct Exhausted {
    /// The budget. Unit: bytes.
    pub limit: usize,
}

/// The budget. Clones share it.
#[derive(Clone, Debug)]
pub struct Budget {
    free: Arc<Semaphore>,
    units_max: u32,
    /// How many have waited for long.
    pressed: Arc<AtomicU64>,
}

/// A share of a budget.
#[derive(Debug)]
pub struct Held {
    permit: OwnedSemaphorePermit,
}

/// Counts one who has waited for long.
struct Pressing<'b>(&'b AtomicU64);

impl Drop for Pressing<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Budget {
    /// A budget of so many bytes.
    #[must_use]
    pub fn new(bytes_max: usize) -> Budget {
        let units_max = u32::try_from(bytes_max / UNIT_BYTES).unwrap_or(u32::MAX).clamp(1, u32::MAX / 8);
        Budget { free: Arc::new(Semaphore::new(units_max as usize)), units_max, pressed: Arc::default() }
    }

    fn units(&self, bytes: usize) -> u32 {
        u32::try_from(bytes.div_ceil(UNIT_BYTES)).unwrap_or(u32::MAX).min(self.units_max)
    }

    /// A share, if it is free now.
    #[must_use]
    pub fn try_take(&self, bytes: usize) -> Option<Held> {
        let permit = Arc::clone(&self.free).try_acquire_many_owned(self.units(bytes)).ok()?;
        Some(Held { permit })
    }

    /// A share, as soon as it is free; those who wait are served in order.
    pub async fn take(&self, bytes: usize, deadline: Instant) -> Result<Held, Exhausted> {
        let taking = Arc::clone(&self.free).acquire_many_owned(self.units(bytes));
        tokio::pin!(taking);
        let taken =
            match timeout(PRESSED_AFTER.min(deadline.saturating_duration_since(Instant::now())), &mut taking).await {
                Ok(taken) => Some(taken),
                Err(_) => {
                    self.pressed.fetch_add(1, Ordering::Relaxed);
                    let _pressing = Pressing(&self.pressed);
                    timeout_at(deadline, taking).await.ok()
                }
            };
        let permit = taken.ok_or(Exhausted { limit: self.bytes_max() })?.expect("the semaphore is never closed");
        Ok(Held { permit })
    }

    /// Whether somebody waits for long: who takes nothing may then be dropped sooner.
    #[must_use]
    pub fn is_pressed(&self) -> bool {
        self.pressed.load(Ordering::Relaxed) > 0
    }

    /// What is taken now. Unit: bytes.
    #[must_use]
    pub fn held_bytes(&self) -> usize {
        (self.units_max as usize).saturating_sub(self.free.available_permits()) * UNIT_BYTES
    }

    /// What can be taken. Unit: bytes.
    #[must_use]
    pub fn bytes_max(&self) -> usize {
        self.units_max as usize * UNIT_BYTES
    }
}

/// What one answer has of a budget while it is made.
#[derive(Debug, Default)]
pub struct Room {
    held: Option<Held>,
}

impl Room {
    /// Whether an answer of this size may be kept; takes what it needs, if it is free now.
    #[must_use]
    pub fn try_cover(&mut self, budget: &Budget, bytes: usize) -> bool {
        let wanted = budget.units(bytes) as usize;
        let has = self.held.as_ref().map_or(0, |held| held.permit.num_permits());
        if bytes <= SMALL_BYTES || has >= wanted {
            return true;
        }
        let Some(more) = budget.try_take((wanted - has) * UNIT_BYTES) else { return false };
        match &mut self.held {
            Some(held) => held.permit.merge(more.permit),
            None => self.held = Some(more),
        }
        true
    }

    /// Waits for what an answer of this size needs. The caller holds nothing of the answer meanwhile.
    pub async fn cover(&mut self, budget: &Budget, bytes: usize, deadline: Instant) -> Result<(), Exhausted> {
        self.held = None;
        if bytes > SMALL_BYTES {
            self.held = Some(budget.take(bytes, deadline).await?);
        }
        Ok(())
    }

    /// The bytes of the answer, which hold their share until the last of them is dropped.
    #[must_use]
    pub fn keep(self, bytes: Bytes) -> Bytes {
        match self.into_held(bytes.len()) {
            Some(held) => Bytes::from_owner(Kept { bytes, _held: held }),
            None => bytes,
        }
    }

    /// The share that an answer of this size needs; none for a small one.
    #[must_use]
    pub fn into_held(self, bytes: usize) -> Option<Held> {
        let mut held = self.held.filter(|_| bytes > SMALL_BYTES)?;
        let spare = held.permit.num_permits().saturating_sub(bytes.div_ceil(UNIT_BYTES));
        drop(held.permit.split(spare));
        Some(held)
    }
}

/// Bytes with their share.
struct Kept {
    bytes: Bytes,
    _held: Held,
}

impl AsRef<[u8]> for Kept {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIB: usize = 1024;

    fn soon() -> Instant {
        Instant::now() + Duration::from_millis(20)
    }

    #[tokio::test]
    async fn bytes_hold_their_share_until_the_last_of_them_is_dropped() {
        let budget = Budget::new(100 * KIB);
        let mut room = Room::default();
        assert!(room.try_cover(&budget, 80 * KIB));
        assert_eq!(budget.held_bytes(), 80 * KIB);
        let bytes = room.keep(Bytes::from(vec![7; 60 * KIB]));
        assert_eq!(budget.held_bytes(), 60 * KIB, "what is not needed is given back");
        let part = bytes.slice(10..20);
        drop(bytes);
        assert_eq!(budget.held_bytes(), 60 * KIB);
        drop(part);
        assert_eq!(budget.held_bytes(), 0);
    }

    #[tokio::test]
    async fn small_answers_pass_while_large_ones_hold_everything() {
        let budget = Budget::new(100 * KIB);
        let all = budget.take(100 * KIB, soon()).await.unwrap();
        assert!(Room::default().try_cover(&budget, SMALL_BYTES));
        let mut room = Room::default();
        assert!(!room.try_cover(&budget, SMALL_BYTES + 1));
        assert_eq!(room.cover(&budget, SMALL_BYTES + 1, soon()).await, Err(Exhausted { limit: 100 * KIB }));
        drop(all);
        assert_eq!(room.cover(&budget, SMALL_BYTES + 1, soon()).await, Ok(()));
    }

    #[tokio::test]
    async fn more_than_everything_stands_alone() {
        let budget = Budget::new(100 * KIB);
        let mut room = Room::default();
        assert!(room.try_cover(&budget, 1000 * KIB));
        assert!(!Room::default().try_cover(&budget, SMALL_BYTES + 1));
        drop(room.keep(Bytes::from(vec![0; 1000 * KIB])));
        assert_eq!(budget.held_bytes(), 0);
    }

    /// Goal: whoever must wait is seen to wait, and is served when others let go; nobody who gave up counts.
    #[tokio::test]
    async fn waiting_for_long_is_pressure() {
        let budget = Budget::new(100 * KIB);
        let all = budget.take(100 * KIB, soon()).await.unwrap();
        let waiting = tokio::spawn({
            let budget = budget.clone();
            async move { budget.take(50 * KIB, Instant::now() + Duration::from_secs(60)).await }
        });
        while !budget.is_pressed() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        drop(all);
        let held = waiting.await.unwrap().unwrap();
        assert!(!budget.is_pressed());
        assert!(budget.take(60 * KIB, soon()).await.is_err());
        assert!(!budget.is_pressed());
        assert_eq!(budget.held_bytes(), 50 * KIB);
        drop(held);
    }
}
