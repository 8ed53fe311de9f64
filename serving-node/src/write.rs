//! Writes: one record to the log, and for a guarded one the outcome that its place in the log decides.
//!
//! * In: a record under a request id. Out: its offset and what it did, or what the caller may conclude.
//! * Invariant: an outcome comes from the log's order alone (this node's fold at that offset), never from a local look
//!   before it; an acknowledged record whose outcome is not known here in time is `OutcomeUnknown`, never a failure.
//! * Source: DESIGN D5, D6, D14.

use crate::view::{Outcome, PartitionView};
use duramen_common::RequestId;
use duramen_common::batch::{BatchError, Record, RecordSet};
use duramen_common::ids::Offset;
use duramen_common::log::{AppendError, Log};
use duramen_common::protocol::AppendedRun;
use tokio::time::Instant;

/// An acknowledged record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Written {
    /// Where it stands; of a repeat, where it stood the first time.
    pub(crate) offset: Offset,
    /// What it did.
    pub(crate) outcome: Outcome,
}

/// Why a write has no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WriteError {
    /// Refused, or not acknowledged.
    #[error(transparent)]
    Append(#[from] AppendError),
    /// It does not fit into a record.
    #[error(transparent)]
    Record(#[from] BatchError),
    /// The id was used for another record.
    #[error("this Idempotency-Key was used for another write: take a new one")]
    KeyReused,
    /// It is in the log, and what it did is not known here.
    #[error("{reason}")]
    OutcomeUnknown {
        /// Why.
        reason: String,
    },
}

/// Appends one record. A guarded one is answered after this node has applied it; an unguarded one always takes effect.
pub(crate) async fn write(
    log: &dyn Log,
    view: &PartitionView,
    id: RequestId,
    record: &Record,
    is_guarded: bool,
    deadline: Instant,
) -> Result<Written, WriteError> {
    let set = RecordSet::of(id, record)?;
    let timeout = deadline.saturating_duration_since(Instant::now());
    let runs = log.append(view.partition(), set, timeout).await?;
    let offset = match runs.first() {
        Some(AppendedRun::At { first_offset, .. }) => *first_offset,
        Some(AppendedRun::KeyReused { .. }) => return Err(WriteError::KeyReused),
        None => return Err(WriteError::OutcomeUnknown { reason: "the log's answer names no offset".to_owned() }),
    };
    if !is_guarded {
        return Ok(Written { offset, outcome: Outcome::Effective });
    }
    view.wait_applied(offset.next(), deadline).await.map_err(|error| WriteError::OutcomeUnknown {
        reason: format!("the write is in the log at {}:{offset}, but {error}", view.partition()),
    })?;
    match view.outcome(offset) {
        Ok(Some(outcome)) => Ok(Written { offset, outcome }),
        Ok(None) => Err(WriteError::OutcomeUnknown {
            reason: format!("the write is in the log at {}:{offset}, and not applied here", view.partition()),
        }),
        Err(error) => Err(WriteError::OutcomeUnknown { reason: error.to_string() }),
    }
}
