//! The `duramen-maelstrom` program: everything is in the library, which the tests build too.

use std::process::ExitCode;

fn main() -> ExitCode {
    duramen_maelstrom::run(std::env::args_os())
}
