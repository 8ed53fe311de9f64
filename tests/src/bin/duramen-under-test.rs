//! The `duramen` binary as the tests run it: built with them, so always fresh.
//!
//! * With `DURAMEN_TEST_LIFELINE` set, standard input is a pipe that the test holds: when it closes, because the test
//!   ended however it ended, the process ends too. No test leaves a server behind.
//! * With `DURAMEN_PLANTED=NAME` set, it has that bug: `duramen_common::planted`.
//! * With `DURAMEN_TEST_CLOCK=FILE` set, its nodes' clock is off by what the file says: `harness::clock`.
//! * Everything else is `duramen_cli`.

use duramen_tests::harness::clock;
use std::io::Read as _;
use std::process::ExitCode;

fn main() -> ExitCode {
    if std::env::var_os("DURAMEN_TEST_LIFELINE").is_some() {
        std::thread::spawn(|| {
            let mut nothing = [0u8; 64];
            while std::io::stdin().read(&mut nothing).is_ok_and(|count| count > 0) {}
            std::process::exit(101);
        });
    }
    duramen_cli::run_with(std::env::args_os(), clock::seams())
}
