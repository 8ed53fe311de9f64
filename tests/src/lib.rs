//! Tests of Duramen as a whole: real processes, real disks and sockets; and the same code in a simulator.
//!
//! * In: the binary, built with the tests. Out: panics that say what broke, how to run it again, and what the nodes
//!   said last.
//! * `harness` owns processes, ports, proxies and an HTTP client of its own, so that no bug of `duramen-client` can hide
//!   one of the server. The tests themselves are in `tests/tests`.
//! * `sim` runs a whole cluster in one thread and virtual time, from a seed.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "tests and their programs speak to whoever runs them")]

pub mod chaos;
pub mod checkers;
pub mod fuzz;
pub mod harness;
pub mod planted;
pub mod sim;
pub mod workbench;
