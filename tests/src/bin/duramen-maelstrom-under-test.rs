//! The `duramen-maelstrom` binary as the tests run it: built with them, so always fresh.
//!
//! * Its input is a pipe that the workbench holds: it ends with it.
//! * With `DURAMEN_PLANTED=NAME` set, it has that bug: `duramen_common::planted`.
//! * Everything else is `duramen_maelstrom`.

use std::process::ExitCode;

fn main() -> ExitCode {
    duramen_maelstrom::run(std::env::args_os())
}
