//! The log service: partitioned, replicated logs on disk, one openraft group a partition.
//!
//! * In: appends of record sets, fetches, tail questions, over the framed transport and HTTP. Out: committed batches.
//! * Rooms inside: `disk` (the seam), `store` (segments, sync thread, duplicate table), `consensus` (all of openraft),
//!   `node` (formation, batcher, services).
//! * Invariant: acknowledged means on disk on a majority (DESIGN D4).
//! * Deliberately absent: what values mean; the serving layer.

pub mod consensus;
pub mod disk;
pub mod node;
pub mod store;
