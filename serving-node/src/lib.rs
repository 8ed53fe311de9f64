//! The serving node: a disposable index of the log, and the HTTP key-value API in front of it.
//!
//! * In: committed batches, through `common::log::Log`. Out: answers that name the logical time they were read at.
//! * Rooms inside: `apply` (pure), `index` (behind a trait), `view` (overlay, applied end, waiters), `tail` (the shared
//!   question to a leader), `subscriber`, `keeper` (wipes what is damaged), `scrubber` (looks for damage), `partitions` (all of it together), `http` (the
//!   contract of DESIGN §4).
//! * Deliberately absent: openraft, how the log is kept.

pub mod apply;
mod history;
pub mod http;
pub mod index;
mod keeper;
pub mod node;
pub mod partitions;
mod registration;
mod scrubber;
mod stoppable_log;
mod subscriber;
mod tail;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod view;
mod write;

pub use node::{NodeError, ServingNode, ServingNodeConfig};
pub use partitions::{IndexKind, Partitions, PartitionsConfig, StartError};
pub use view::{Item, Outcome, PartitionStatus, PartitionView, ReadAt, ReadError, WaitError};
