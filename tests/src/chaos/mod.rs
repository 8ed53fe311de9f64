//! Real processes under real faults: every fault of a list, one after the other, under every workload of another, at once.
//!
//! * `hosts` owns machines and cables, `links` cuts them, `stage` has the five processes, `changes` is what a fault may change
//!   in how they are run; `faults` break and mend; what
//!   `workloads` were told and what `book` found in the log is judged, and `report` is the table; `run` is the order of it
//!   all.
//! * Judges know only what clients were told and what nodes serve.
//! * Deliberately absent: a second checker of linearizability (`checkers` has it), and virtual time (the simulator).

pub mod book;
pub mod changes;
pub mod faults;
pub mod hosts;
pub mod links;
pub mod options;
pub mod report;
pub mod run;
pub mod stage;
pub mod workloads;

#[cfg(test)]
mod tests;
