//! Scrubber: reads the whole index now and then, so that damage is met before somebody asks for what it hit.
//!
//! * In: the partitions, a period. Out: condemned partitions (`view`), which the keeper wipes; counts.
//! * Slow on purpose: after each page it rests [`REST`] times as long as the page took, so that it takes at most a tenth of
//!   one processor and of the disk's time.
//! * Source: ADR 0012.

use crate::index::IndexHealth;
use crate::view::PartitionView;
use crate::view::scrub::ScrubStep;
use duramen_common::seams::Threads;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};

/// How much longer than its work it rests.
const REST: u32 = 9;
/// And at least this long.
const REST_MIN: Duration = Duration::from_millis(1);

/// Scrubs one partition after the other, and begins again once a period has passed.
pub(crate) struct Scrubber {
    pub views: Vec<Arc<PartitionView>>,
    pub health: Arc<IndexHealth>,
    pub period: Duration,
    pub threads: Threads,
    pub stop: watch::Receiver<bool>,
}

impl Scrubber {
    /// Runs until told to stop.
    pub(crate) async fn run(self) {
        let mut stop = self.stop.clone();
        tokio::select! {
            () = self.scrub_on() => {}
            _ = stop.wait_for(|stop| *stop) => {}
        }
    }

    async fn scrub_on(&self) {
        loop {
            // The check at the start has just read everything.
            sleep_until(Instant::now() + self.period).await;
            let mut is_whole = true;
            for view in &self.views {
                is_whole &= self.scrub(view).await;
            }
            if is_whole {
                self.health.count_scrub();
            }
        }
    }

    /// Says whether the partition was read to its end, and is whole.
    async fn scrub(&self, view: &Arc<PartitionView>) -> bool {
        view.begin_scrub();
        loop {
            let page = Arc::clone(view);
            let began = Instant::now();
            match self.threads.run(move || page.scrub_page()).await {
                Ok(ScrubStep::More { entries }) => self.health.count_scrubbed(entries as u64),
                Ok(ScrubStep::Done) => return true,
                Ok(ScrubStep::Over) | Err(_) => return false,
            }
            sleep((began.elapsed() * REST).max(REST_MIN)).await;
        }
    }
}
