//! Threads of clients in a closed loop: each sends, waits, counts, sends again, until the window ends.
//!
//! * One single-threaded runtime a thread: no locks, no work stealing, wake-ups in batches.
//! * Counted is what was answered within the window; what is under way at its end is dropped, and nothing is sent after it.

use super::append::AppendCaller;
use super::http::HttpCaller;
use super::tally::{OpKind, Reason, Tally};
use super::workload::{Target, Workload};
use crate::failure::Failure;
use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::LocalSet;
use tokio::time::Instant;

/// When to count.
#[derive(Clone, Copy, Debug)]
pub(super) struct Window {
    pub begin: Instant,
    pub end: Instant,
}

/// What one thread does.
pub(super) struct Plan {
    pub target: Arc<Target>,
    /// Numbers of its clients.
    pub clients: Vec<usize>,
    pub window: Window,
    pub stopped: watch::Receiver<bool>,
    /// Answers of all threads so far, for show.
    pub answered: Arc<AtomicU64>,
}

/// One client: makes one request after the other.
pub(super) trait Caller {
    /// Makes the next request and waits for its answer.
    async fn call(&mut self) -> (OpKind, Result<(), Reason>);
    /// Rests after a request that did not succeed.
    async fn pause(&mut self);
}

/// Runs a thread's clients to the window's end.
pub(super) fn run(mut plan: Plan) -> Result<Tally, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::failed(format!("cannot start a generator thread: {error}")))?;
    let tally = Rc::new(RefCell::new(Tally::new()));
    let clients = LocalSet::new();
    let cpu = clients.block_on(&runtime, async {
        if plan.target.workload == Workload::Append {
            let log = AppendCaller::connect(&plan.target).await?;
            for &number in &plan.clients {
                let caller = AppendCaller::new(&log, Arc::clone(&plan.target), number);
                clients.spawn_local(client(caller, plan.window, Rc::clone(&tally), Arc::clone(&plan.answered)));
            }
        } else {
            for &number in &plan.clients {
                let caller = HttpCaller::new(Arc::clone(&plan.target), number);
                clients.spawn_local(client(caller, plan.window, Rc::clone(&tally), Arc::clone(&plan.answered)));
            }
        }
        Ok(cpu_within(&mut plan).await)
    })?;
    // Ends the clients; what they have under way is not counted.
    drop(clients);
    runtime.shutdown_background();
    let mut tally = Rc::try_unwrap(tally).map_err(|_| Failure::failed("a client outlived its thread"))?.into_inner();
    tally.cpu = cpu;
    Ok(tally)
}

async fn client(mut caller: impl Caller, window: Window, tally: Rc<RefCell<Tally>>, answered: Arc<AtomicU64>) {
    let mut begun = Instant::now();
    while begun < window.end {
        let (kind, result) = caller.call().await;
        let ended = Instant::now();
        let has_failed = result.is_err();
        if window.begin <= ended && ended < window.end {
            tally.borrow_mut().record(kind, ended - begun, result);
        }
        if has_failed {
            caller.pause().await;
        } else {
            answered.fetch_add(1, Ordering::Relaxed);
        }
        begun = Instant::now();
    }
}

/// Waits for the window's end, or for being stopped; gives this thread's CPU time within the window.
async fn cpu_within(plan: &mut Plan) -> Duration {
    let wait = async |stopped: &mut watch::Receiver<bool>, until: Instant| {
        tokio::select! {
            () = tokio::time::sleep_until(until) => {}
            _ = stopped.wait_for(|&stopped| stopped) => {}
        }
    };
    wait(&mut plan.stopped, plan.window.begin).await;
    let before = thread_cpu();
    wait(&mut plan.stopped, plan.window.end).await;
    thread_cpu().saturating_sub(before)
}

/// CPU time of this thread so far, as Linux tells it; zero where it does not.
fn thread_cpu() -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let first = text.split_ascii_whitespace().next().and_then(|first| first.parse().ok());
    Duration::from_nanos(first.unwrap_or(0))
}
