//! `duramen-maelstrom`: the log service and the serving node, unchanged, as a node under Maelstrom.
//!
//! * In: lines of JSON on stdin. Out: lines of JSON on stdout; logs on stderr, errors only unless `DURAMEN_LOG` says
//!   otherwise. The end of the input, SIGTERM or SIGINT ends it.
//! * Every process is a log replica and a serving replica; the transport between them is `network`, what clients ask
//!   for is in `workloads`.
//! * [`run`] is all there is to call: the program itself, and the tests' own build of it.
//! * Deliberately absent: a second implementation of anything: logs, votes, indexes, conditions are the product's own.
//! * Source: ARCHITECTURE "Under Maelstrom"; maelstrom/README.md.

mod events;
mod failure;
mod fold;
mod folding_log;
mod id_blocks;
mod kv;
mod lines;
mod message;
mod network;
mod node;
mod process;
mod settings;
mod temporary;
mod workloads;

use clap::Parser;
use duramen_common::seams::Seams;
use std::ffi::OsString;
use std::io::{self, BufReader};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::timeout;

/// The variables that this program reads.
const VARIABLES: [&str; 1] = ["DURAMEN_LOG"];
/// How long the last lines may take to be written.
const LAST_LINES_WITHIN: Duration = Duration::from_millis(500);

/// Runs Duramen's log service and serving node as one node of a Maelstrom test.
#[derive(Parser)]
#[command(name = "duramen-maelstrom", version)]
struct Args {
    /// Keeps this node's log in a folder of its own under DIR, so that it survives a restart. Otherwise the log is in a
    /// temporary folder, which is removed at the end, or by the next node that starts when this one is killed.
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
}

/// Runs the program with these arguments, the first of which is its name.
#[must_use]
pub fn run(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let args = match Args::try_parse_from(args) {
        Ok(args) => args,
        // Help and version go to stdout with 0, usage errors to stderr with 2: clap knows which is which.
        Err(error) => {
            if error.use_stderr() {
                duramen_stdio::stderr().push(error.render().to_string().as_bytes());
            } else {
                // Help for somebody who has gone.
                let _ = duramen_stdio::write_all(error.render().to_string().as_bytes());
            }
            duramen_stdio::flush();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    duramen_stdio::install_panic_hook();
    // After it: it builds on the hook that is there.
    duramen_serving_node::index::abort_on_panic();
    let text = |text: OsString| text.to_string_lossy().into_owned();
    let variables = std::env::vars_os().map(|(name, value)| (text(name), text(value)));
    if let Err(error) = duramen_common::variables::check(variables, &VARIABLES.map(str::to_owned)) {
        return end(&error.to_string(), 2);
    }
    if let Err(why) = install_logging() {
        return end(&format!("DURAMEN_LOG is not a filter: {why}"), 2);
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let ended = runtime.and_then(|runtime| {
        let ended = runtime.block_on(serve(args));
        runtime.shutdown_background();
        ended
    });
    match ended {
        Ok(()) => {
            duramen_stdio::flush();
            ExitCode::SUCCESS
        }
        Err(error) => end(&error.to_string(), 1),
    }
}

fn end(why: &str, code: u8) -> ExitCode {
    duramen_stdio::stderr().push_line(&format!("duramen-maelstrom: {why}"));
    duramen_stdio::flush();
    ExitCode::from(code)
}

async fn serve(args: Args) -> io::Result<()> {
    let (out, writer) = lines::Outbox::start(duramen_stdio::blocking_stdout())?;
    let input = lines::read(BufReader::with_capacity(64 * 1024, io::stdin()))?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let process = process::Process::new(out, Seams::system(), args.data_dir);
    let end = async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    };
    let ended = process.run(input, end).await;
    if ended.is_ok() {
        // What was answered goes out: the writer ends with the last of those that can send, if it is soon.
        let _ = timeout(LAST_LINES_WITHIN, tokio::task::spawn_blocking(move || writer.join())).await;
    }
    ended
}

fn install_logging() -> Result<(), String> {
    let filter = std::env::var("DURAMEN_LOG").unwrap_or_default();
    duramen_stdio::logging::install(duramen_stdio::logging::filter(&filter, "error")?, true);
    Ok(())
}
