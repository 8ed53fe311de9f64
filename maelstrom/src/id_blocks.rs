//! `IdBlocks`: unique numbers from leased blocks, so that they are given out without asking anybody.
//!
//! * A block is an event in the log: its offset, which no other event has, is the block's number. Block `o` holds the
//!   numbers from `o · 2^32` on.
//! * A node takes a block when it starts and another when half of one is left: until that is used up, too, it needs nobody,
//!   however the network is cut. A restarted process takes new ones.
//! * Invariant: a number is given out once, by one process.

use crate::events::Event;
use crate::failure::Failure;
use crate::folding_log::FoldingLog;
use crate::kv::Kv;
use duramen_common::Offset;
use duramen_common::seams::Seams;
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout_at};

/// Numbers in a block.
const BLOCK: u64 = 1 << 32;
/// With less at hand, another block is taken.
const LEFT_MIN: u64 = BLOCK / 2;
/// How long one attempt to take a block lasts, and the pause after one that failed.
const TAKE_WITHIN: Duration = Duration::from_secs(5);
const TAKE_AGAIN: Duration = Duration::from_millis(50);

/// The numbers of one process.
pub struct IdBlocks {
    stock: Arc<Stock>,
    taking: JoinHandle<()>,
}

struct Stock {
    blocks: Mutex<VecDeque<Range<u64>>>,
    /// Whether there is a number, and whether there are enough.
    level: watch::Sender<Level>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Level {
    Empty,
    Low,
    Enough,
}

impl IdBlocks {
    /// Begins to take blocks.
    #[must_use]
    pub fn start(kv: Arc<Kv>, log: Arc<FoldingLog>, seams: Seams) -> IdBlocks {
        let stock = Arc::new(Stock::new());
        let keeping = Arc::clone(&stock);
        let taking = tokio::spawn(async move {
            // Until then there is no log to ask.
            kv.ready().await;
            drop(kv);
            keep_stocked(keeping, log, seams).await;
        });
        IdBlocks { stock, taking }
    }

    /// Takes no more.
    pub async fn stop(self) {
        self.taking.abort();
        let _ = self.taking.await;
    }

    /// Returns when there is a block.
    pub async fn ready(&self) {
        let _ = self.stock.level.subscribe().wait_for(|&level| level != Level::Empty).await;
    }

    /// A number that nobody else gets.
    pub async fn next(&self, deadline: Instant) -> Result<u64, Failure> {
        loop {
            if let Some(number) = self.stock.next() {
                return Ok(number);
            }
            if timeout_at(deadline, self.ready()).await.is_err() {
                return Err(Failure::unavailable("this node has no block of ids yet"));
            }
        }
    }
}

impl Stock {
    fn new() -> Stock {
        Stock { blocks: Mutex::default(), level: watch::Sender::new(Level::Empty) }
    }

    fn add(&self, number: Offset) {
        let mut blocks = self.blocks.lock();
        // Past 2^32 records there are no more blocks; a test appends some millions.
        if let Some(first) = number.get().checked_mul(BLOCK) {
            blocks.push_back(first..first.saturating_add(BLOCK));
        }
        self.measure(&blocks);
    }

    fn next(&self) -> Option<u64> {
        let mut blocks = self.blocks.lock();
        let block = blocks.front_mut()?;
        let number = block.next();
        if block.is_empty() {
            blocks.pop_front();
        }
        self.measure(&blocks);
        number
    }

    fn measure(&self, blocks: &VecDeque<Range<u64>>) {
        let level = match blocks.iter().map(|block| block.end - block.start).sum() {
            0 => Level::Empty,
            1..LEFT_MIN => Level::Low,
            _ => Level::Enough,
        };
        self.level.send_if_modified(|before| std::mem::replace(before, level) != level);
    }
}

async fn keep_stocked(stock: Arc<Stock>, log: Arc<FoldingLog>, seams: Seams) {
    let mut level = stock.level.subscribe();
    while level.wait_for(|&level| level != Level::Enough).await.is_ok() {
        // A block whose event was perhaps appended is left to nobody: there are enough.
        match log.append_event(&Event::Block, &*seams.entropy, Instant::now() + TAKE_WITHIN).await {
            Ok(offset) => stock.add(offset),
            Err(error) => {
                tracing::debug!(%error, "no block of ids yet");
                sleep(TAKE_AGAIN).await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_go_on_in_the_next_block_and_none_comes_twice() {
        let stock = Stock::new();
        assert_eq!((stock.next(), *stock.level.borrow()), (None, Level::Empty));
        stock.add(Offset::new(3));
        assert_eq!((stock.next(), stock.next()), (Some(3 * BLOCK), Some(3 * BLOCK + 1)));
        assert_eq!(*stock.level.borrow(), Level::Enough);
        stock.blocks.lock().front_mut().unwrap().start = 4 * BLOCK - 2;
        assert_eq!((stock.next(), *stock.level.borrow()), (Some(4 * BLOCK - 2), Level::Low));
        stock.add(Offset::new(9));
        assert_eq!(*stock.level.borrow(), Level::Enough);
        assert_eq!((stock.next(), stock.next()), (Some(4 * BLOCK - 1), Some(9 * BLOCK)));
    }
}
