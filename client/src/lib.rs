//! Clients of Duramen: `LogClient` speaks to log nodes over the framed transport and implements `common::log::Log`;
//! `Client` and `Session` speak the HTTP key-value API.
//!
//! * Invariant: what is unknown is said to be unknown; a retry always carries the same request id.
//! * Deliberately absent: indexes, openraft.

pub mod kv;
pub mod log_client;
