//! The end-to-end tests: one binary, a module a subject. Each test says its goal and method.
//!
//! `cargo test -p duramen-tests --test end_to_end [NAME]`; `DURAMEN_TEST_SEED=…` repeats a run's choices.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "tests and their programs speak to whoever runs them")]

mod chaos;
mod client;
mod commands;
mod contract;
mod damage;
mod dev;
mod feed;
mod few_files;
mod full_disk;
mod hostile;
mod idempotency;
mod identity;
mod kills;
mod load;
mod nemesis;
mod output;
mod partitioned;
mod planted;
mod read_after_write;
mod serving_kills;
mod sim;
mod stop;
mod values;
mod workbench;

use duramen_tests::harness::process::set_binary;

/// Every test starts here: the binary that cargo built with it.
fn setup() {
    set_binary(env!("CARGO_BIN_EXE_duramen-under-test"));
}

/// A test in this binary: bounded, with its share of the machine.
macro_rules! e2e {
    ($(#[$meta:meta])* async fn $name:ident(places: $places:literal, seconds: $seconds:literal) $body:block) => {
        $(#[$meta])*
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $name() {
            crate::setup();
            let _room = duramen_tests::harness::wait::room($places).await;
            let limit = std::time::Duration::from_secs($seconds);
            duramen_tests::harness::bounded(limit, async move { $body }).await;
        }
    };
}
use e2e;
