//! A feed's reader of one partition: batches that this node has applied, as events.
//!
//! * In: a position. Out: chunks of events, in order, each record whole.
//! * Invariant: a record is given only after this node has applied it, and only if it took effect.
//! * Recent batches come from the view's memory, older ones from the log.
//! * Source: DESIGN §4; D8 (outcomes).

use crate::view::{Outcome, PartitionView, ReadError, Recent};
use bytes::Bytes;
use duramen_common::batch::{RecordBatch, RecordView};
use duramen_common::log::Log;
use duramen_common::protocol::BatchId;
use duramen_common::{Blob, HistoryId, Offset, PartitionId, SessionToken, Timestamp};
use serde::Serialize;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};

/// How much one fetch of older batches asks for. Unit: bytes.
const FETCH_BYTES_MAX: u32 = 512 * 1024;
/// A chunk is given on when its events hold this much. Unit: bytes.
const CHUNK_BYTES: usize = 256 * 1024;
/// How long one fetch may park; there is always something to fetch, so it does not.
const FETCH_WAIT: Duration = Duration::from_secs(1);
/// How long to wait before a log that did not answer is asked again.
const RETRY_AFTER: Duration = Duration::from_millis(200);

/// One event of a record.
pub(crate) struct Event {
    /// `put` or `delete`.
    pub(crate) kind: &'static str,
    /// JSON on one line.
    pub(crate) data: String,
}

/// A record's events, at least one.
pub(crate) struct RecordEvents {
    pub(crate) offset: Offset,
    pub(crate) events: Vec<Event>,
}

/// What a stretch of the log holds for a feed.
pub(crate) struct Chunk {
    pub(crate) partition: PartitionId,
    pub(crate) records: Vec<RecordEvents>,
    /// Everything below this has been given.
    pub(crate) end: Offset,
}

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
    /// Nobody takes the chunks, or it cannot be told what to give.
    Ended,
}

impl Reader {
    /// A reader that begins with the record at `from`.
    pub(crate) fn new(
        log: Arc<dyn Log>,
        view: Arc<PartitionView>,
        history: HistoryId,
        prefix: Bytes,
        from: Offset,
    ) -> Reader {
        Reader { log, view, history, prefix, from, last: None, is_recent_outdated: false }
    }

    /// Reads on until nobody takes the chunks, or it cannot go on (compacted, another log, a failed index): the stream
    /// ends then, and the answer to the reconnect says why.
    pub(crate) async fn run(mut self, chunks: mpsc::Sender<Chunk>) {
        let mut applied = self.view.applied_changes();
        while wait_past(&mut applied, self.from).await {
            let recent = if self.is_recent_outdated { Recent::TooOld } else { self.view.recent(self.from) };
            let given = match recent {
                Recent::Batches(batches) => self.give_all(batches, &chunks).await,
                Recent::TooOld => self.fetch(&mut applied, &chunks).await,
            };
            match given {
                Ok(()) => self.is_recent_outdated = false,
                Err(Stop::Ended) => return,
                Err(Stop::Outdated) if self.is_recent_outdated => tokio::time::sleep(RETRY_AFTER).await,
                Err(Stop::Outdated) => self.is_recent_outdated = true,
            }
        }
    }

    async fn give_all(&mut self, batches: Vec<RecordBatch>, chunks: &mpsc::Sender<Chunk>) -> Result<(), Stop> {
        for batch in batches {
            self.last = None;
            self.give(&batch, chunks).await?;
        }
        Ok(())
    }

    async fn fetch(
        &mut self,
        applied: &mut watch::Receiver<Option<Offset>>,
        chunks: &mpsc::Sender<Chunk>,
    ) -> Result<(), Stop> {
        use duramen_common::log::FetchError;
        let partition = self.view.partition();
        let fetched = match self.log.fetch(partition, self.from, self.last, FETCH_BYTES_MAX, FETCH_WAIT).await {
            Ok(fetched) => fetched,
            Err(error @ FetchError::Unavailable { .. }) => {
                tracing::debug!(%error, "a feed cannot read the log now");
                tokio::time::sleep(RETRY_AFTER).await;
                return Ok(());
            }
            Err(error) => {
                tracing::info!(%error, "a feed ends");
                return Err(Stop::Ended);
            }
        };
        let next_offset = fetched.next_offset;
        for batch in fetched.batches {
            let end = batch.batch.header().end();
            if end <= self.from {
                continue;
            }
            if let Some(last) = end.previous()
                && !wait_past(applied, last).await
            {
                return Err(Stop::Ended);
            }
            self.last = None;
            self.give(&batch.batch, chunks).await?;
            self.last = Some(batch.id);
        }
        if next_offset > self.from {
            // Compaction left nothing up to here.
            self.last = None;
            let chunk = Chunk { partition, records: Vec::new(), end: next_offset };
            chunks.send(chunk).await.map_err(|_| Stop::Ended)?;
            self.from = next_offset;
        }
        Ok(())
    }

    /// Gives the batch's records from the position on, as one chunk or several.
    async fn give(&mut self, batch: &RecordBatch, chunks: &mpsc::Sender<Chunk>) -> Result<(), Stop> {
        let partition = self.view.partition();
        let mut records = Vec::new();
        let mut bytes = 0;
        for (offset, record) in batch.records() {
            if offset < self.from || !self.took_effect(offset, &record)? {
                continue;
            }
            let events = self.events(batch, offset, &record);
            if events.is_empty() {
                continue;
            }
            bytes += events.iter().map(|event| event.data.len() + 64).sum::<usize>();
            records.push(RecordEvents { offset, events });
            if bytes >= CHUNK_BYTES {
                let chunk = Chunk { partition, records: std::mem::take(&mut records), end: offset.next() };
                chunks.send(chunk).await.map_err(|_| Stop::Ended)?;
                self.from = offset.next();
                bytes = 0;
            }
        }
        let end = batch.header().end();
        if end > self.from {
            chunks.send(Chunk { partition, records, end }).await.map_err(|_| Stop::Ended)?;
            self.from = end;
        }
        Ok(())
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

    fn events(&self, batch: &RecordBatch, offset: Offset, record: &RecordView<'_>) -> Vec<Event> {
        let version = SessionToken::of(self.history, Timestamp { partition: self.view.partition(), offset });
        // Records of other namespaces write no keys: see `apply`.
        let is_ours = record.namespace() == 0;
        let updates = record.updates().filter(|update| is_ours && update.key.starts_with(&self.prefix));
        let event = |update: duramen_common::batch::UpdateRef<'_>| {
            let blob = |bytes: &[u8]| Blob(batch.share(bytes));
            let data = EventData { key: blob(update.key), value: update.value.map(blob), version: version.clone() };
            Event {
                kind: if update.value.is_some() { "put" } else { "delete" },
                data: serde_json::to_string(&data).expect("an event is plain JSON"),
            }
        };
        updates.map(event).collect()
    }
}

/// Waits until the record at `offset` is applied; false when the view is gone.
async fn wait_past(applied: &mut watch::Receiver<Option<Offset>>, offset: Offset) -> bool {
    applied.wait_for(|applied| applied.is_some_and(|end| end > offset)).await.is_ok()
}
