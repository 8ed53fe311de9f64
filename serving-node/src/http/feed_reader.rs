//! A feed's reader of one partition: batches that this node has applied, as pieces of the event stream.
//!
//! * In: a position. Out: pieces of events, in order, each record whole.
//! * Invariant: a record is given only after this node has applied it, and only if it took effect.
//! * Invariant: nothing is read before the line's turn has come; what was read is dropped when a piece is made of it.
//! * Recent batches come from the view's memory, older ones from the log.
//! * Source: DESIGN §4; D8 (outcomes); docs/adr/0016-what-a-reader-may-hold.md.

use super::feed_line::{FeedLine, Turn};
use super::feeding::{Feeding, Fetched};
use super::reads::see;
use crate::view::{Outcome, PartitionView, ReadError, Recent};
use bytes::Bytes;
use duramen_common::batch::{RecordBatch, RecordView};
use duramen_common::budget::Room;
use duramen_common::log::{FetchError, Log};
use duramen_common::protocol::BatchId;
use duramen_common::{Blob, HistoryId, Offset, SessionToken, Timestamp};
use serde::Serialize;
use std::io::Write as _;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{SemaphorePermit, watch};
use tokio::time::Instant;

/// How much one fetch of older batches asks for. Unit: bytes.
const FETCH_BYTES_MAX: u32 = 256 * 1024;
/// A piece is given on when it holds this much, or one record. Unit: bytes.
const PIECE_BYTES: usize = 512 * 1024;
/// Room that a piece may leave unused. Unit: bytes.
const SLACK_BYTES: usize = 32 * 1024;
/// How long one fetch may park; there is always something to fetch, so it does not.
const FETCH_WAIT: Duration = Duration::from_secs(1);
/// How long to wait before a log that did not answer is asked again.
const RETRY_AFTER: Duration = Duration::from_millis(200);
/// A feed waits for room for as long as it takes; its consumer may go meanwhile.
const ROOM_WAIT: Duration = Duration::from_secs(3600);

#[derive(Serialize)]
struct EventData {
    key: Blob,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<Blob>,
    version: SessionToken,
}

/// The reader.
pub(crate) struct Reader {
    log: Arc<dyn Log>,
    view: Arc<PartitionView>,
    feeding: Arc<Feeding>,
    history: HistoryId,
    prefix: Bytes,
    from: Offset,
    last: Option<BatchId>,
    /// What memory holds here was settled in the log meanwhile: only the log knows what took effect.
    is_recent_outdated: bool,
}

/// Why a reader does not go on with what it has.
enum Stop {
    /// Outcomes in it are forgotten: the log has the settled records.
    Outdated,
    /// The log does not answer now, or there is nothing to see.
    NotNow,
    /// This node has yet to apply the record at this offset.
    NotApplied(Offset),
    /// Nobody takes the pieces, or it cannot be told what to give.
    Ended,
}

/// Batches to make a piece of.
struct Source<'f> {
    batches: Vec<(RecordBatch, Option<BatchId>)>,
    /// Where to go on after all of them.
    next_offset: Offset,
    /// Held while the batches are, where they came from the log.
    _turn: Option<SemaphorePermit<'f>>,
}

/// A piece, and where the reader stands after it.
struct Made {
    text: Vec<u8>,
    token: SessionToken,
    from: Offset,
    last: Option<BatchId>,
    /// A fetched batch of which only a part was given.
    cut: Option<Fetched>,
}

impl Reader {
    /// A reader that begins with the record at `from`.
    pub(crate) fn new(
        log: Arc<dyn Log>,
        view: Arc<PartitionView>,
        feeding: Arc<Feeding>,
        history: HistoryId,
        prefix: Bytes,
        from: Offset,
    ) -> Reader {
        Reader { log, view, feeding, history, prefix, from, last: None, is_recent_outdated: false }
    }

    /// Reads on until nobody takes the pieces, or it cannot go on (compacted, another log, a failed index): the stream
    /// ends then, and the answer to the reconnect says why.
    pub(crate) async fn run(mut self, line: FeedLine) {
        let mut applied = self.view.applied_changes();
        while wait_past(&mut applied, self.from).await {
            let turn = line.turn().await;
            let applied_end = applied.borrow().unwrap_or(Offset::ZERO);
            // The turn is given up wherever there is something to wait for.
            match self.give(&line, turn, applied_end).await {
                Ok(()) => self.is_recent_outdated = false,
                Err(Stop::Ended) => return,
                Err(Stop::NotNow) => tokio::time::sleep(RETRY_AFTER).await,
                Err(Stop::NotApplied(offset)) => {
                    if !wait_past(&mut applied, offset).await {
                        return;
                    }
                }
                Err(Stop::Outdated) if self.is_recent_outdated => tokio::time::sleep(RETRY_AFTER).await,
                Err(Stop::Outdated) => self.is_recent_outdated = true,
            }
        }
    }

    /// Gives one piece.
    async fn give(&mut self, line: &FeedLine, mut turn: Turn, applied_end: Offset) -> Result<(), Stop> {
        let feeding = Arc::clone(&self.feeding);
        let mut room = Room::default();
        loop {
            let source = self.source(&feeding).await?;
            if source.batches.is_empty() && source.next_offset <= self.from {
                // Compacted away up to the applied end, or wiped just now.
                return Err(Stop::NotNow);
            }
            let made = self.piece(&source, &turn.token, applied_end)?;
            drop(source);
            let needed = made.text.len();
            if !room.try_cover(feeding.budget(), needed) {
                // What was read is let go while others hold everything.
                drop(made);
                let deadline = Instant::now() + ROOM_WAIT;
                room.cover(feeding.budget(), needed, deadline).await.map_err(|_| Stop::NotNow)?;
                continue;
            }
            (self.from, self.last) = (made.from, made.last);
            if let Some(cut) = made.cut {
                feeding.keep_cut(self.view.partition(), cut);
            }
            if made.text.is_empty() {
                turn.token = made.token;
                return Ok(());
            }
            let is_taken = line.say(turn, made.text, made.token, room.into_held(needed)).await;
            return if is_taken { Ok(()) } else { Err(Stop::Ended) };
        }
    }

    /// What follows the position.
    async fn source<'f>(&self, feeding: &'f Feeding) -> Result<Source<'f>, Stop> {
        let partition = self.view.partition();
        if !self.is_recent_outdated {
            if let Recent::Batches(batches) = self.view.recent(self.from) {
                let batches = batches.into_iter().map(|batch| (batch, None)).collect();
                return Ok(Source { batches, next_offset: self.from, _turn: None });
            }
            if let Some(Fetched { batch, id }) = feeding.cut_batch(partition, self.from) {
                return Ok(Source { batches: vec![(batch, Some(id))], next_offset: self.from, _turn: None });
            }
        }
        let turn = feeding.fetch_turn().await;
        match self.log.fetch(partition, self.from, self.last, FETCH_BYTES_MAX, FETCH_WAIT).await {
            Ok(fetched) => {
                let batches = fetched.batches.into_iter().map(|fetched| (fetched.batch, Some(fetched.id))).collect();
                Ok(Source { batches, next_offset: fetched.next_offset, _turn: Some(turn) })
            }
            Err(error @ FetchError::Unavailable { .. }) => {
                tracing::debug!(%error, "a feed cannot read the log now");
                Err(Stop::NotNow)
            }
            Err(error) => {
                tracing::info!(%error, "a feed ends");
                Err(Stop::Ended)
            }
        }
    }

    /// Makes a piece of the records from the position on, of those that this node has applied.
    fn piece(&self, source: &Source<'_>, token: &SessionToken, applied_end: Offset) -> Result<Made, Stop> {
        let partition = self.view.partition();
        let (text, token) = (Vec::new(), token.clone());
        let mut made = Made { text, token, from: self.from, last: self.last, cut: None };
        for (batch, id) in &source.batches {
            let end = batch.header().end();
            if end <= made.from {
                continue;
            }
            if end > applied_end {
                let is_at_start = made.from == self.from && made.text.is_empty();
                return if is_at_start { Err(Stop::NotApplied(end.previous().unwrap_or_default())) } else { Ok(made) };
            }
            made.last = None;
            for (offset, record) in batch.records() {
                if offset < made.from || !self.took_effect(offset, &record)? {
                    continue;
                }
                if made.text.len() >= PIECE_BYTES {
                    made.cut = id.map(|id| Fetched { batch: batch.clone(), id });
                    trim(&mut made.text);
                    return Ok(made);
                }
                self.write_events(&mut made, batch, offset, &record);
                made.from = offset.next();
            }
            (made.from, made.last) = (end, *id);
            see(&mut made.token, partition, end);
        }
        if source.next_offset > made.from {
            // Compaction left nothing up to here.
            (made.from, made.last) = (source.next_offset, None);
            see(&mut made.token, partition, made.from);
        }
        trim(&mut made.text);
        Ok(made)
    }

    /// Whether the record changed anything.
    fn took_effect(&self, offset: Offset, record: &RecordView<'_>) -> Result<bool, Stop> {
        if record.is_settled() || record.guards().next().is_none() {
            return Ok(true);
        }
        match self.view.outcome(offset) {
            Ok(Some(outcome)) => Ok(outcome == Outcome::Effective),
            // Wiped meanwhile: it will be applied again.
            Ok(None) | Err(ReadError::OutcomeForgotten { .. }) => Err(Stop::Outdated),
            Err(error) => {
                tracing::info!(%error, "a feed ends");
                Err(Stop::Ended)
            }
        }
    }

    /// Writes the record's events; only the last one carries an id.
    fn write_events(&self, made: &mut Made, batch: &RecordBatch, offset: Offset, record: &RecordView<'_>) {
        let at = Timestamp { partition: self.view.partition(), offset };
        made.token.see(at);
        let version = SessionToken::of(self.history, at);
        // Records of other namespaces write no keys: see `apply`.
        let is_ours = record.namespace() == 0;
        let updates = record.updates().filter(|update| is_ours && update.key.starts_with(&self.prefix));
        let mut updates = updates.peekable();
        let blob = |bytes: &[u8]| Blob(batch.share(bytes));
        while let Some(update) = updates.next() {
            let kind = if update.value.is_some() { "put" } else { "delete" };
            let data = EventData { key: blob(update.key), value: update.value.map(blob), version: version.clone() };
            let text = &mut made.text;
            let written = match updates.peek() {
                Some(_) => write!(text, "event: {kind}\ndata: "),
                None => write!(text, "event: {kind}\nid: {}\ndata: ", made.token),
            };
            written.expect("memory takes every write");
            serde_json::to_writer(&mut *text, &data).expect("an event is plain JSON");
            text.extend_from_slice(b"\n\n");
        }
    }
}

/// Lets go of what a piece does not need.
fn trim(text: &mut Vec<u8>) {
    if text.capacity() - text.len() > SLACK_BYTES {
        text.shrink_to_fit();
    }
}

/// Waits until the record at `offset` is applied; false when the view is gone.
async fn wait_past(applied: &mut watch::Receiver<Option<Offset>>, offset: Offset) -> bool {
    applied.wait_for(|applied| applied.is_some_and(|end| end > offset)).await.is_ok()
}
