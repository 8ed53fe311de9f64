//! The processes: a log node, a serving node, or a whole cluster for development.
//!
//! * In: settings. Out: a process that runs until it is told to stop or cannot go on.
//! * Exit: 0 after a clean stop; 1 with one line when it could not start or cannot go on.
//! * Deliberately absent: what the nodes do.

pub mod config;
pub mod dev;
pub mod files;
pub mod log_node;
pub mod preflight;
pub mod roles;
pub mod running;
pub mod serving_node;

/// Threads of a process unless said otherwise.
pub const THREADS_DEFAULT: usize = 2;
