//! `duramen load`: a file of keys and values into a running cluster, several batches at a time, resumable.
//!
//! * Reader thread ([`source`], [`batch`]) → bounded channel → [`engine`] → [`sink`] (`POST /v1/batch`); what is acknowledged goes
//!   into the [`state`] file.
//! * Invariant: memory does not grow with the file.
//! * Exit: 0 everything acknowledged; 1 stopped or failed, with the state kept and a line that says how to go on.
//! * Deliberately absent: deletes, conditions.

pub mod batch;
pub mod engine;
pub mod progress;
pub mod shape;
pub mod sink;
pub mod source;
pub mod state;
pub mod verify;

use crate::args::ServingUrls;
use crate::failure::Failure;
use crate::output;
use crate::signals::Stop;
use batch::{BATCH_RECORDS_DEFAULT, Batches};
use clap::Args;
use duramen_common::limits::OPS_MAX;
use duramen_common::seams::Seams;
use duramen_common::{RequestId, SessionToken};
use engine::{Ended, Engine, FromFile, Progress};
use progress::{Bar, rate};
use serde::Serialize;
use shape::{Shape, ShapeArgs};
use sink::HttpSink;
use source::{Place, Source};
use state::{STATE_FORMAT_VERSION, State};
use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::Instant;

/// How often the state is written while loading.
const STATE_EVERY: Duration = Duration::from_millis(500);

/// Arguments of `duramen load`.
#[derive(Debug, Args)]
pub struct LoadArgs {
    /// The file.
    pub file: PathBuf,
    #[command(flatten)]
    shape: ShapeArgs,
    #[command(flatten)]
    serving: ServingUrls,
    /// Go on where an interrupted load of this file stopped.
    #[arg(long)]
    resume: bool,
    /// Where to record how far the load is. Default: FILE's name with .duramen-load, in the current folder.
    #[arg(long, value_name = "PATH", conflicts_with = "no_state")]
    state: Option<PathBuf>,
    /// Record nothing: an interrupted load starts over.
    #[arg(long, conflicts_with = "resume")]
    no_state: bool,
    /// Records a request.
    #[arg(long, value_name = "N", default_value_t = BATCH_RECORDS_DEFAULT as u16,
          value_parser = clap::value_parser!(u16).range(1..=OPS_MAX as i64))]
    batch_records: u16,
    /// Requests under way at the same time.
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=256))]
    in_flight: u16,
    /// How long to try a request again before giving up. Unit: milliseconds.
    #[arg(long, value_name = "MS", default_value_t = 60_000)]
    retry_ms: u64,
    /// Then read every key back at this address with the load's token, and compare.
    #[arg(long, value_name = "URL", value_parser = crate::http::parse_base_url)]
    verify: Option<String>,
    /// Print the result as JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Report<'a> {
    records: u64,
    records_this_run: u64,
    seconds: f64,
    records_per_second: u64,
    token: Option<&'a SessionToken>,
    #[serde(skip_serializing_if = "Option::is_none")]
    verified: Option<&'a verify::Verified>,
}

/// Runs `duramen load`.
pub async fn run(args: LoadArgs) -> Result<(), Failure> {
    let shape = args.shape.resolve(&args.file)?;
    let path = std::fs::canonicalize(&args.file).map_err(|error| unreadable(&args.file, &error))?;
    let mut state = fresh_state(&path, shape, usize::from(args.batch_records))?;
    let state_path = (!args.no_state).then(|| args.state.clone().unwrap_or_else(|| default_state_path(&path)));
    if args.resume {
        let state_path = state_path.as_deref().unwrap_or(Path::new(""));
        let earlier = State::read(state_path)?.ok_or_else(|| {
            Failure::failed(format!("there is no {}: nothing to resume, start without --resume", state_path.display()))
        })?;
        earlier.check_same(&state)?;
        state = earlier;
    }
    if let Some(state_path) = &state_path {
        state.write(state_path)?;
    }
    let records_before = state.records;
    let (ended, elapsed) = load(&args, &path, &mut state, state_path.as_deref()).await?;
    if let Some(state_path) = &state_path {
        match ended {
            Ended::Whole => remove(state_path)?,
            Ended::Stopped | Ended::Failed(_) => state.write(state_path)?,
        }
    }
    let go_on = match &state_path {
        Some(_) => "; run the same command with --resume to go on",
        None => "",
    };
    let so_far = format!("{} records are loaded (up to line {})", state.records, state.place.line);
    match ended {
        Ended::Stopped => return Err(Failure::failed(format!("stopped: {so_far}{go_on}"))),
        Ended::Failed(Failure::UnknownLoad { what }) => {
            return Err(Failure::UnknownLoad { what: format!("{what}: {so_far}{go_on}") });
        }
        Ended::Failed(failure) => return Err(Failure::failed(format!("{failure}: {so_far}{go_on}"))),
        Ended::Whole => {}
    }
    report(&args, &path, &state, records_before, elapsed).await
}

/// Loads from the state's place on, keeping the state up to date. Gives how it ended and how long it took.
async fn load(
    args: &LoadArgs,
    path: &Path,
    state: &mut State,
    state_path: Option<&Path>,
) -> Result<(Ended, Duration), Failure> {
    let batches = read_on_a_thread(path, state)?;
    let sink = HttpSink::new(args.serving.urls.clone(), state.load.clone(), Duration::from_millis(args.retry_ms));
    let mut signals = Stop::listen()?;
    let (stopped, stop) = tokio::sync::oneshot::channel();
    tokio::spawn(async move {
        signals.asked().await;
        // Refused only when the load has just ended.
        let _ = stopped.send(());
        signals.exit_at_next();
    });
    let stop = async {
        // The sender goes only after it has sent.
        let _ = stop.await;
    };
    let mut bar = Bar::new("loading", state.file_bytes, state.place.byte, state.records);
    let mut next_write = Instant::now() + STATE_EVERY;
    let start = Progress { place: state.place, records: state.records, token: state.token.clone() };
    let observe = |progress: &Progress| {
        bar.show(progress.place.byte, progress.records);
        note(state, progress);
        match state_path {
            Some(path) if Instant::now() >= next_write => {
                next_write = Instant::now() + STATE_EVERY;
                state.write(path)
            }
            _ => Ok(()),
        }
    };
    let (progress, ended) = Engine::new(&sink, usize::from(args.in_flight), start).run(batches, stop, observe).await;
    note(state, &progress);
    Ok((ended, bar.finish()))
}

fn note(state: &mut State, progress: &Progress) {
    state.place = progress.place;
    state.records = progress.records;
    state.token.clone_from(&progress.token);
}

async fn report(
    args: &LoadArgs,
    path: &Path,
    state: &State,
    records_before: u64,
    elapsed: Duration,
) -> Result<(), Failure> {
    let verified = match &args.verify {
        Some(url) => Some(verify::verify(path, &state.shape, url, state.token.as_ref()).await?),
        None => None,
    };
    let records_this_run = state.records - records_before;
    let records_per_second = rate(records_this_run, elapsed);
    if args.json {
        output::json(&Report {
            records: state.records,
            records_this_run,
            seconds: elapsed.as_secs_f64(),
            records_per_second,
            token: state.token.as_ref(),
            verified: verified.as_ref(),
        })?;
    } else {
        let seconds = elapsed.as_secs_f64();
        output::line(&format!("{records_this_run} records in {seconds:.1} s, {records_per_second}/s"))?;
        if let Some(token) = &state.token {
            output::line(&format!("token {token}"))?;
        }
        if let Some(verified) = &verified {
            output::line(&verified.to_string())?;
        }
    }
    verified.map_or(Ok(()), |verified| verified.judge())
}

fn fresh_state(path: &Path, shape: Shape, batch_records: usize) -> Result<State, Failure> {
    let metadata = std::fs::metadata(path).map_err(|error| unreadable(path, &error))?;
    if !metadata.is_file() {
        return Err(Failure::failed(format!("{} is not a file", path.display())));
    }
    let load = RequestId::from_bits(Seams::system().entropy.bits());
    Ok(State {
        format_version: STATE_FORMAT_VERSION,
        file: path.to_owned(),
        file_bytes: metadata.len(),
        shape,
        batch_records,
        load: format!("load-{load}"),
        place: Place::default(),
        records: 0,
        token: None,
    })
}

/// Reads and cuts on a thread of its own; the channel bounds how far it is ahead.
fn read_on_a_thread(path: &Path, state: &State) -> Result<mpsc::Receiver<FromFile>, Failure> {
    let mut source = open(path, &state.shape)?;
    if state.place != Place::default() {
        source.go_to(state.place).map_err(|error| malformed(path, &error))?;
    }
    let mut batches = Batches::new(source, state.batch_records);
    let (give, take) = mpsc::channel(4);
    let path = path.to_owned();
    let read = move || {
        loop {
            let next = match batches.next_batch() {
                Ok(None) => return,
                Ok(Some(batch)) => Ok(batch),
                Err(error) => Err(malformed(&path, &error)),
            };
            let is_last = next.is_err();
            if give.blocking_send(next).is_err() || is_last {
                return;
            }
        }
    };
    std::thread::Builder::new()
        .name("load-reader".to_owned())
        .spawn(read)
        .map_err(|error| Failure::failed(format!("cannot start a thread: {error}")))?;
    Ok(take)
}

fn open(path: &Path, shape: &Shape) -> Result<Source<BufReader<File>>, Failure> {
    let file = File::open(path).map_err(|error| unreadable(path, &error))?;
    Source::open(BufReader::with_capacity(256 * 1024, file), shape).map_err(|error| malformed(path, &error))
}

fn unreadable(path: &Path, error: &std::io::Error) -> Failure {
    Failure::failed(format!("cannot read {}: {error}", path.display()))
}

fn malformed(path: &Path, error: &source::SourceError) -> Failure {
    Failure::failed(format!("{}: {error}", path.display()))
}

fn default_state_path(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".duramen-load");
    PathBuf::from(name)
}

fn remove(path: &Path) -> Result<(), Failure> {
    std::fs::remove_file(path)
        .map_err(|error| Failure::failed(format!("everything is loaded, but {} stays: {error}", path.display())))
}
