//! Simulator: the whole cluster, the real code, in one thread and virtual time, from a seed.
//!
//! ```text
//! seed ─▶ settings, faults, clients ─▶ ticks: deliver, step every host, bury the dead ─▶ invariants, each tick
//!                                        └─ then faults stop: it must converge, and everything told must be in the log
//! ```
//!
//! * In: a seed. Out: a report, or the first thing that broke, with the command that shows it again.
//! * Invariant: the same seed gives the same run, event by event (`trace`), in any process of the same build.
//! * Under the seams (DESIGN D13): network (`network`, `wire`), disks (`disk`, `MemDisk`), clocks and chance (`seams`), no
//!   threads. Each host has a tokio runtime of its own, with paused time, so that its death drops everything of it.
//! * Deliberately absent: sockets, sled and fjall, processes: those are the business of the process matrix.
//! * Source: docs/adr/0011-simulator.md.

pub mod cluster;
pub mod command;
pub mod disk;
pub mod faults;
pub mod gate;
pub mod host;
pub mod invariants;
pub mod ledger;
pub mod network;
pub mod packet;
pub mod panics;
pub mod process;
pub mod regressions;
mod rot;
pub mod run;
pub mod seams;
pub mod seen;
pub mod settings;
pub mod trace;
pub mod violation;
pub mod wire;
pub mod witness;
pub mod workload;

pub use run::{SimOptions, SimReport, run_seed};
pub use violation::{Broken, Violation};
