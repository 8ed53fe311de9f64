//! The `duramen` program: a dev cluster, the node roles, key-value commands, loading, operations.
//!
//! * In: arguments, `DURAMEN_…` variables, a TOML file for the node roles. Out: answers on stdout, logs and progress on
//!   stderr, an exit code: 0, 1 (failed), 2 (usage), 3 (the outcome of a write is unknown).
//! * Invariant: whatever fails ends in one clear line on stderr that says what to do ([`failure::Failure`]).
//! * Deliberately absent: everything that a library user would need; that is in the rooms below.

pub mod args;
pub mod bench;
pub mod failure;
pub mod http;
pub mod kv;
pub mod load;
pub mod log_commands;
pub mod logging;
pub mod node;
pub mod output;
pub mod screen;
pub mod signals;
pub mod status;

use args::{Command, Duramen};
use clap::{CommandFactory as _, Parser as _};
use duramen_common::seams::Seams;
use failure::Failure;
use std::ffi::OsString;
use std::process::ExitCode;

/// Runs the program with these arguments (the first is the program's name) and says how it ended.
pub fn run(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    run_with(args, Seams::system())
}

/// The same. Nodes take the time of day, and their randomness, from these seams.
pub fn run_with(args: impl IntoIterator<Item = OsString>, seams: Seams) -> ExitCode {
    duramen_stdio::install_panic_hook();
    // After it: it builds on the hook that is there.
    duramen_serving_node::index::abort_on_panic();
    let ended = match Duramen::try_parse_from(args) {
        Ok(parsed) => start(parsed, seams),
        Err(error) => return say_usage(&error),
    };
    let code = match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    };
    // The last line may be the one that says why. Who does not read it cannot hold up the end for long.
    duramen_stdio::flush();
    code
}

/// Help and version go to stdout with 0, usage errors to stderr with 2: clap knows which is which.
fn say_usage(error: &clap::Error) -> ExitCode {
    let text = |is_terminal: bool| match is_terminal {
        true => error.render().ansi().to_string(),
        false => error.render().to_string(),
    };
    let mut code = ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
    if error.use_stderr() {
        duramen_stdio::stderr().push(text(duramen_stdio::stderr_is_terminal()).as_bytes());
    } else if let Err(failure) = output::bytes(text(duramen_stdio::stdout_is_terminal()).as_bytes()) {
        code = failure.report();
    }
    duramen_stdio::flush();
    code
}

/// Every variable that some command reads: the parser has the list.
fn known_variables() -> Vec<String> {
    fn collect(command: &clap::Command, names: &mut Vec<String>) {
        names.extend(command.get_arguments().filter_map(|arg| Some(arg.get_env()?.to_string_lossy().into_owned())));
        command.get_subcommands().for_each(|command| collect(command, names));
    }
    let mut names = Vec::new();
    collect(&Duramen::command(), &mut names);
    names
}

fn start(parsed: Duramen, seams: Seams) -> Result<(), Failure> {
    let text = |text: OsString| text.to_string_lossy().into_owned();
    let variables = std::env::vars_os().map(|(name, value)| (text(name), text(value)));
    duramen_common::variables::check(variables, &known_variables())
        .map_err(|error| Failure::usage(error.to_string()))?;
    logging::install(parsed.log.as_deref(), parsed.command.log_default())?;
    match parsed.command {
        Command::Dev(args) => on_threads(args.threads(), node::dev::run(args, seams)),
        Command::LogNode(args) => {
            let plan = args.plan()?;
            on_threads(plan.threads, node::roles::run_log_node(plan, seams))
        }
        Command::ServingNode(args) => {
            let plan = args.plan()?;
            on_threads(plan.threads, node::roles::run_serving_node(plan, seams))
        }
        Command::Put(args) => on_threads(1, kv::put(args)),
        Command::Get(args) => on_threads(1, kv::get(args)),
        Command::Delete(args) => on_threads(1, kv::delete(args)),
        Command::Scan(args) => on_threads(1, kv::scan(args)),
        Command::Watch(args) => on_threads(1, kv::watch(args)),
        Command::Log(args) => on_threads(1, log_commands::run(args)),
        Command::Status(args) => on_threads(1, status::run(args)),
        Command::Load(args) => on_threads(1, load::run(args)),
        Command::Verify(args) => on_threads(1, load::verify::run(args)),
        Command::Bench(args) => on_threads(1, bench::run(args)),
    }
}

fn on_threads(worker_threads: usize, command: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(worker_threads)
        .enable_all()
        .build()
        .map_err(|error| Failure::failed(format!("cannot start {worker_threads} threads: {error}")))?;
    let ended = runtime.block_on(command);
    // A blocking read of the terminal or of a file must not hold up the end.
    runtime.shutdown_background();
    ended
}
