//! Nouns of Duramen and what travels between its rooms: ids, timestamps, session tokens, record batches, placement,
//! the codec, problems, the log's contract, and the seams. No I/O, no tasks, no globals; the one exception is
//! `folder_lock`, which every process with a data folder needs in the same way.
//!
//! * In and out: values and byte slices.
//! * Architecture invariant: depends on no other room; every format here is described byte by byte in docs/formats.md.
//! * Deliberately absent: openraft, HTTP servers, files, sockets.

pub mod batch;
pub mod blob;
pub mod budget;
pub mod codec;
pub mod files;
pub mod folder_lock;
pub mod guard;
pub mod header_list;
pub mod ids;
pub mod json;
pub mod limits;
pub mod log;
pub mod placement;
pub mod planted;
pub mod prefer;
pub mod problem;
pub mod protocol;
pub mod seams;
pub mod seldom;
pub mod shortage;
pub mod token;
pub mod understood;
pub mod variables;

pub use blob::Blob;
pub use ids::{HistoryId, NodeId, Offset, PartitionId, RequestId, StoreId, Timestamp};
pub use problem::{Problem, ProblemKind};
pub use token::SessionToken;
