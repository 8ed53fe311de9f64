//! What end-to-end tests stand on: clusters of processes, proxies, an HTTP client, waiting, randomness.
//!
//! * Invariant: a test waits for conditions, never for time; every wait has a limit and says what it waited for.
//! * Invariant: what a test starts ends with it, whether it passes, panics or is killed.
//! * Deliberately absent: knowledge of file formats and of consensus; tests look from outside.

pub mod clock;
pub mod cluster;
pub mod config;
pub mod disk;
pub mod feed;
pub mod files;
pub mod http;
pub mod log_lines;
pub mod ports;
pub mod process;
pub mod proxy;
pub mod registers;
pub mod rng;
pub mod wait;
pub mod writers;

pub use cluster::{Cluster, Host, Plan};
pub use http::{Answer, Http, HttpError};
pub use rng::Rng;
pub use wait::{bounded, poll, until};

#[cfg(test)]
mod tests;
