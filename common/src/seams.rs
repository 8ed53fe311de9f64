//! Seams for what differs between a real run and a simulated one: the wall clock, randomness, threads.
//!
//! Monotonic time is `tokio::time`, which a simulated runtime steers by itself; disk and transport have their seams in
//! the rooms that use them (`log-service/src/disk`, `transport`). Given at start-up, passed down, never global.

use std::sync::Arc;

/// The time of day. Only ever recorded, never compared to decide anything.
pub trait WallClock: Send + Sync + 'static {
    /// Milliseconds since 1970-01-01 UTC.
    fn now_ms(&self) -> u64;
}

/// Random bits for ids and jitter.
pub trait Entropy: Send + Sync + 'static {
    /// 128 fresh bits.
    fn bits(&self) -> u128;
}

/// Where work is done that may block: reading and writing files, walking an index.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Threads {
    /// On threads: the runtime's pool, and long-lived ones for what never ends.
    #[default]
    System,
    /// On the task that asks for it; what never ends is a task. For many nodes in one thread whose disks and indexes are in
    /// memory: then nothing but the seed decides what comes first.
    None,
}

/// Work on a thread did not come to its end: it panicked, or the runtime is going down.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the work was interrupted: {reason}")]
pub struct Interrupted {
    /// What the runtime says.
    pub reason: String,
}

impl Threads {
    /// Does work that may block.
    pub async fn run<T: Send + 'static>(self, work: impl FnOnce() -> T + Send + 'static) -> Result<T, Interrupted> {
        match self {
            Threads::None => Ok(work()),
            Threads::System => {
                let done = tokio::task::spawn_blocking(work).await;
                done.map_err(|error| Interrupted { reason: error.to_string() })
            }
        }
    }
}

/// All of them, as they are handed down.
#[derive(Clone)]
pub struct Seams {
    /// The time of day.
    pub clock: Arc<dyn WallClock>,
    /// Random bits.
    pub entropy: Arc<dyn Entropy>,
    /// Where blocking work is done.
    pub threads: Threads,
}

impl Seams {
    /// The operating system's clock, randomness and threads.
    #[must_use]
    pub fn system() -> Seams {
        Seams { clock: Arc::new(SystemClock), entropy: Arc::new(SystemEntropy), threads: Threads::System }
    }
}

/// The operating system's clock.
#[derive(Clone, Copy, Debug)]
pub struct SystemClock;

impl WallClock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "this is the seam that others must take the time from")]
    fn now_ms(&self) -> u64 {
        let since_epoch = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        since_epoch.map_or(0, |duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX))
    }
}

/// The operating system's randomness.
#[derive(Clone, Copy, Debug)]
pub struct SystemEntropy;

impl Entropy for SystemEntropy {
    fn bits(&self) -> u128 {
        let mut bits = [0u8; 16];
        getrandom::fill(&mut bits).expect("the operating system has randomness");
        u128::from_le_bytes(bits)
    }
}
