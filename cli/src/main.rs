//! The `duramen` binary. Everything is in the library, so that tests can run the same program.
fn main() -> std::process::ExitCode {
    duramen_cli::run(std::env::args_os())
}
