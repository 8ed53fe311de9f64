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
use tracing_subscriber::EnvFilter;

/// How long the last lines may take to be written.
const LAST_LINES_WITHIN: Duration = Duration::from_millis(500);

/// Runs Duramen's log service and serving node as one node of a Maelstrom test.
#[derive(Parser)]
#[command(name = "duramen-maelstrom", version)]
struct Args {
    /// Keeps this node's log in a folder of its own under DIR, so that it survives a restart. Otherwise the log is in a
    /// temporary folder, which is removed at the end.
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
}

/// Runs the program with these arguments, the first of which is its name.
#[must_use]
pub fn run(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    duramen_serving_node::index::abort_on_panic();
    let args = match Args::try_parse_from(args) {
        Ok(args) => args,
        // Help and version go to stdout with 0, usage errors to stderr with 2: clap knows which is which.
        Err(error) => {
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    install_logging();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let ended = runtime.and_then(|runtime| {
        let ended = runtime.block_on(serve(args));
        runtime.shutdown_background();
        ended
    });
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("duramen-maelstrom: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn serve(args: Args) -> io::Result<()> {
    let (out, writer) = lines::Outbox::start(io::stdout())?;
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

fn install_logging() {
    let filter = std::env::var("DURAMEN_LOG").ok().and_then(|text| EnvFilter::try_new(text).ok());
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter.unwrap_or_else(|| EnvFilter::new("error")))
        .with_writer(io::stderr)
        .with_ansi(false)
        .finish();
    // Refused only when this process has one already.
    let _ = tracing::subscriber::set_global_default(subscriber);
}
