//! `SeededRuntime`: tokio for openraft, with chance that comes from the node's seams.
//!
//! * openraft draws its election timeouts and the phase of its ticks from `AsyncRuntime::thread_rng`. A group is started
//!   within [`seeded`]; every task that openraft spawns from there on draws from that seed, each from a branch of its own.
//! * Invariant: the same seed and the same order of events give the same draws.
//! * openraft's own `DeterministicRng` panics where no seed was given, and a group's handle is called from any task.
//! * Source: DESIGN D13; docs/adr/0011-simulator.md.

use duramen_common::seams::{Entropy as _, SystemEntropy};
use openraft::async_runtime::{AsyncRuntime, Select2, Select3, Select4};
use openraft::{OptionalSend, TokioRuntime};
use rand::SeedableRng as _;
use rand::rngs::SmallRng;
use std::cell::Cell;
use std::future::Future;
use std::io;
use std::time::Duration;

tokio::task_local! {
    static SEED: Cell<u64>;
}

/// Runs a future, and what openraft spawns in it, with this seed.
pub(super) async fn seeded<T>(seed: u64, future: impl Future<Output = T>) -> T {
    SEED.scope(Cell::new(seed), future).await
}

/// The seed for whoever asks next: from the task's own, or, for a task that has none, from the operating system.
fn next_seed() -> u64 {
    let of_task = SEED.try_with(|seed| {
        seed.set(seed.get().wrapping_add(0x9e37_79b9_7f4a_7c15));
        mixed(seed.get())
    });
    of_task.unwrap_or_else(|_| SystemEntropy.bits() as u64)
}

/// splitmix64's output function.
fn mixed(state: u64) -> u64 {
    let state = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let state = (state ^ (state >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    state ^ (state >> 31)
}

/// Tokio, with seeded chance.
#[derive(Debug)]
pub struct SeededRuntime(TokioRuntime);

impl AsyncRuntime for SeededRuntime {
    type JoinError = <TokioRuntime as AsyncRuntime>::JoinError;
    type JoinHandle<T: OptionalSend + 'static> = <TokioRuntime as AsyncRuntime>::JoinHandle<T>;
    type Sleep = <TokioRuntime as AsyncRuntime>::Sleep;
    type Instant = <TokioRuntime as AsyncRuntime>::Instant;
    type TimeoutError = <TokioRuntime as AsyncRuntime>::TimeoutError;
    type Timeout<R, T: Future<Output = R> + OptionalSend> = <TokioRuntime as AsyncRuntime>::Timeout<R, T>;
    type ThreadLocalRng = SmallRng;
    type Mpsc = <TokioRuntime as AsyncRuntime>::Mpsc;
    type Watch = <TokioRuntime as AsyncRuntime>::Watch;
    type Oneshot = <TokioRuntime as AsyncRuntime>::Oneshot;
    type Mutex<T: OptionalSend + 'static> = <TokioRuntime as AsyncRuntime>::Mutex<T>;

    fn spawn<T>(future: T) -> Self::JoinHandle<T::Output>
    where
        T: Future + OptionalSend + 'static,
        T::Output: OptionalSend + 'static,
    {
        TokioRuntime::spawn(SEED.scope(Cell::new(next_seed()), future))
    }

    fn thread_rng() -> SmallRng {
        SmallRng::seed_from_u64(next_seed())
    }

    fn sleep(duration: Duration) -> Self::Sleep {
        TokioRuntime::sleep(duration)
    }

    fn sleep_until(deadline: Self::Instant) -> Self::Sleep {
        TokioRuntime::sleep_until(deadline)
    }

    fn timeout<R, F: Future<Output = R> + OptionalSend>(duration: Duration, future: F) -> Self::Timeout<R, F> {
        TokioRuntime::timeout(duration, future)
    }

    fn timeout_at<R, F: Future<Output = R> + OptionalSend>(deadline: Self::Instant, future: F) -> Self::Timeout<R, F> {
        TokioRuntime::timeout_at(deadline, future)
    }

    fn select2<A, B>(a: A, b: B) -> impl Future<Output = Select2<A::Output, B::Output>> + OptionalSend
    where
        A: Future + OptionalSend,
        B: Future + OptionalSend,
    {
        TokioRuntime::select2(a, b)
    }

    fn select3<A, B, C>(
        a: A,
        b: B,
        c: C,
    ) -> impl Future<Output = Select3<A::Output, B::Output, C::Output>> + OptionalSend
    where
        A: Future + OptionalSend,
        B: Future + OptionalSend,
        C: Future + OptionalSend,
    {
        TokioRuntime::select3(a, b, c)
    }

    fn select4<A, B, C, D>(
        a: A,
        b: B,
        c: C,
        d: D,
    ) -> impl Future<Output = Select4<A::Output, B::Output, C::Output, D::Output>> + OptionalSend
    where
        A: Future + OptionalSend,
        B: Future + OptionalSend,
        C: Future + OptionalSend,
        D: Future + OptionalSend,
    {
        TokioRuntime::select4(a, b, c, d)
    }

    fn is_panic(join_error: &Self::JoinError) -> bool {
        TokioRuntime::is_panic(join_error)
    }

    fn new(threads: usize) -> SeededRuntime {
        SeededRuntime(TokioRuntime::new(threads))
    }

    fn block_on<F, T>(&mut self, future: F) -> T
    where
        F: Future<Output = T>,
    {
        self.0.block_on(future)
    }

    fn spawn_blocking<F, T>(work: F) -> impl Future<Output = Result<T, io::Error>> + Send
    where
        F: FnOnce() -> T + Send + 'static,
        T: Send + 'static,
    {
        TokioRuntime::spawn_blocking(work)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::RngExt as _;

    async fn draws(seed: u64) -> Vec<u32> {
        let task = async {
            let mut draws: Vec<u32> = (0..3).map(|_| SeededRuntime::thread_rng().random()).collect();
            let child = SeededRuntime::spawn(async { SeededRuntime::thread_rng().random() });
            draws.push(child.await.unwrap());
            draws
        };
        seeded(seed, task).await
    }

    /// Goal: the seed decides, in tasks that were spawned too. Without one there is chance, and no panic.
    #[tokio::test]
    async fn the_same_seed_draws_the_same() {
        assert_eq!(draws(7).await, draws(7).await);
        assert_ne!(draws(7).await, draws(8).await);
        let free: u64 = SeededRuntime::thread_rng().random();
        assert_ne!(free, SeededRuntime::thread_rng().random::<u64>());
    }
}
