//! Waiting for conditions, bounded; and how many tests may run at once.

use std::future::Future;
use std::time::Duration;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::{Instant, sleep, timeout};

/// Polls `probe` until it gives something. Panics after `limit` with what was waited for and what was seen last.
pub async fn until<T, F, Fut>(what: &str, limit: Duration, probe: F) -> T
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<T, String>>,
{
    poll(what, limit, probe).await.unwrap_or_else(|waited| panic!("{waited}"))
}

/// The same, but says it instead of panicking.
pub async fn poll<T, F, Fut>(what: &str, limit: Duration, mut probe: F) -> Result<T, String>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<T, String>>,
{
    let deadline = Instant::now() + limit;
    loop {
        let seen = match probe().await {
            Ok(found) => return Ok(found),
            Err(seen) => seen,
        };
        if Instant::now() >= deadline {
            return Err(format!("waited {limit:?} for: {what}; last seen: {seen}"));
        }
        sleep(Duration::from_millis(20)).await;
    }
}

/// Runs a test's body with a limit. The body is still alive when this panics, so that clusters report.
pub async fn bounded<F: Future>(limit: Duration, body: F) -> F::Output {
    tokio::pin!(body);
    match timeout(limit, &mut body).await {
        Ok(output) => output,
        Err(_) => panic!("the test was not done within {limit:?}"),
    }
}

static ROOM: Semaphore = Semaphore::const_new(2);

/// Room on this machine: a test with one cluster takes 1 of 2 places, one that measures or loads heavily takes both.
pub async fn room(places: u32) -> SemaphorePermit<'static> {
    ROOM.acquire_many(places).await.expect("never closed")
}
