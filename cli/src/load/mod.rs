//! `duramen load`: a file of keys and values, or standard input, into a running cluster, several batches at a time, resumable.
//!
//! * Reader thread ([`source`], [`batch`]) → bounded channel → [`engine`] → [`sink`] (`POST /v1/batch`); what is acknowledged goes
//!   into the [`state`] file.
//! * Invariant: memory does not grow with the file.
//! * The state is written once the first batch is cut, and goes when everything is in, or nothing. A line says how to go on
//!   where that helps.
//! * Exit: 0 everything acknowledged; 1 stopped or failed; 2 wrong arguments; 3 batches may or may not be in.
//! * Deliberately absent: deletes, conditions.

pub mod batch;
pub mod engine;
mod fields;
pub mod input;
pub mod progress;
mod second_reading;
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
use input::Input;
use progress::{Bar, rate};
use serde::Serialize;
use shape::{Shape, ShapeArgs};
use sink::HttpSink;
use source::{Place, Source};
use state::{STATE_FORMAT_VERSION, State};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::Instant;

/// How often the state is written while loading.
const STATE_EVERY: Duration = Duration::from_millis(500);

/// Arguments of `duramen load`.
#[derive(Debug, Args)]
pub struct LoadArgs {
    /// The file; - reads standard input.
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
    // What is wrong with the arguments comes before what is wrong with the file.
    let shape = args.shape.resolve(&args.file)?;
    let input = Input::of(&args.file)?;
    if input == Input::Stdin {
        refuse_for_stdin(&args)?;
    }
    let mut state = fresh_state(&input, shape, usize::from(args.batch_records));
    let state_path = match &input {
        Input::File { path, .. } if !args.no_state => {
            Some(args.state.clone().unwrap_or_else(|| default_state_path(path)))
        }
        _ => None,
    };
    if args.resume {
        let state_path = state_path.as_deref().unwrap_or(Path::new(""));
        let earlier = State::read(state_path)?.ok_or_else(|| {
            Failure::failed(format!("there is no {}: nothing to resume, start without --resume", state_path.display()))
        })?;
        earlier.check_same(&state)?;
        state = earlier;
    } else if let Some(state_path) = &state_path {
        State::check_free(state_path, &state.file)?;
    }
    let records_before = state.records;
    // Up to here, and until the first batch is cut, nothing is sent, and nothing is recorded.
    let batches = read_on_a_thread(&input, &state)?;
    if let Some(state_path) = &state_path {
        state.write(state_path)?;
    }
    let (ended, elapsed) = load(&args, &input, batches, &mut state, state_path.as_deref()).await?;
    settle(ended, &state, state_path.as_deref())?;
    report(&args, &input, &state, records_before, elapsed).await
}

/// What needs the input a second time is not for a stream.
fn refuse_for_stdin(args: &LoadArgs) -> Result<(), Failure> {
    let refused = [
        ("--resume", args.resume, "standard input cannot be read again from where it stopped"),
        ("--state", args.state.is_some(), "a load from standard input cannot be resumed"),
        ("--verify", args.verify.is_some(), "standard input cannot be read a second time"),
    ];
    match refused.iter().find(|(_, given, _)| *given) {
        Some((option, _, why)) => {
            Err(Failure::usage(format!("{option} is not for -: {why}; write it to a file first")))
        }
        None => Ok(()),
    }
}

/// What is recorded at the end, and what is said about going on: only where that would help.
fn settle(ended: Ended, state: &State, state_path: Option<&Path>) -> Result<(), Failure> {
    let is_unknown = matches!(ended, Ended::Failed(Failure::UnknownLoad { .. }));
    // A load of which nothing is in begins the same way again, unless something of it may be in after all.
    let can_go_on = !matches!(ended, Ended::Whole | Ended::TwoClusters(_)) && (state.records > 0 || is_unknown);
    if let Some(state_path) = state_path {
        match (can_go_on, state.is_at(state_path)) {
            (true, true) => state.write(state_path)?,
            (false, true) => remove(state_path)?,
            (_, false) => {
                tracing::warn!(state = %state_path.display(), "another load has taken this file: it is left as it is");
            }
        }
    }
    let go_on = match state_path {
        Some(_) if can_go_on => "; run the same command with --resume to go on",
        _ => "",
    };
    let so_far = format!("{} records are loaded (up to line {})", state.records, state.place.line);
    match ended {
        Ended::Whole => Ok(()),
        Ended::Stopped => Err(Failure::failed(format!("stopped: {so_far}{go_on}"))),
        Ended::Failed(Failure::UnknownLoad { what }) => {
            Err(Failure::UnknownLoad { what: format!("{what}: {so_far}{go_on}") })
        }
        Ended::Failed(failure) | Ended::TwoClusters(failure) => {
            Err(Failure::failed(format!("{failure}: {so_far}{go_on}")))
        }
    }
}

/// Loads from the state's place on, keeping the state up to date. Gives how it ended and how long it took.
async fn load(
    args: &LoadArgs,
    input: &Input,
    batches: mpsc::Receiver<FromFile>,
    state: &mut State,
    state_path: Option<&Path>,
) -> Result<(Ended, Duration), Failure> {
    let sink = HttpSink::new(args.serving.urls.clone(), state.load.clone(), Duration::from_millis(args.retry_ms));
    let mut signals = Stop::listen()?;
    let (stopped, stop) = tokio::sync::oneshot::channel();
    let listening = tokio::spawn(async move {
        signals.asked().await;
        // Refused only when the load has just ended.
        let _ = stopped.send(());
        signals.exit_at_next();
    });
    let stop = async {
        // The sender goes only after it has sent.
        let _ = stop.await;
    };
    let mut bar = Bar::new("loading", input.bytes(), state.place.byte, state.records);
    let mut next_write = Instant::now() + STATE_EVERY;
    let start = Progress { place: state.place, records: state.records, token: state.token.clone() };
    let observe = |progress: &Progress| {
        bar.show(progress.place.byte, progress.records);
        note(state, progress);
        match state_path {
            Some(path) if Instant::now() >= next_write => {
                next_write = Instant::now() + STATE_EVERY;
                if state.is_at(path) { state.write(path) } else { Ok(()) }
            }
            _ => Ok(()),
        }
    };
    let (progress, ended) = Engine::new(&sink, usize::from(args.in_flight), start).run(batches, stop, observe).await;
    listening.abort();
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
    input: &Input,
    state: &State,
    records_before: u64,
    elapsed: Duration,
) -> Result<(), Failure> {
    let verified = match &args.verify {
        Some(url) => {
            let mut signals = Stop::listen()?;
            tokio::select! {
                verified = verify::verify(input.path(), &state.shape, url, state.token.as_ref()) => Some(verified?),
                () = signals.asked() => {
                    let what = format!("{} records are loaded; verifying was stopped", state.records);
                    return Err(Failure::failed(what));
                }
            }
        }
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
    verified.map_or(Ok(()), |verified| verified.judge(Some(state.records)))
}

fn fresh_state(input: &Input, shape: Shape, batch_records: usize) -> State {
    let load = RequestId::from_bits(Seams::system().entropy.bits());
    State {
        format_version: STATE_FORMAT_VERSION,
        file: input.path().to_owned(),
        shape,
        batch_records,
        load: format!("load-{load}"),
        place: Place::default(),
        records: 0,
        token: None,
    }
}

/// Reads and cuts on a thread of its own; the channel bounds how far it is ahead. The first batch is cut before the thread
/// starts, so that what is wrong from the beginning is told before anything is sent.
fn read_on_a_thread(input: &Input, state: &State) -> Result<mpsc::Receiver<FromFile>, Failure> {
    let told = input.clone();
    let malformed = move |error: &source::SourceError| malformed(told.path(), error);
    let mut source = Source::open(input.open()?, &state.shape).map_err(|error| malformed(&error))?;
    if state.place != Place::default() {
        source.skip_to(state.place).map_err(|error| malformed(&error))?;
    }
    let mut batches = Batches::new(source, state.batch_records);
    let first = batches.next_batch();
    if let Err(error) = &first
        && state.records == 0
    {
        return Err(malformed(error));
    }
    let (give, take) = mpsc::channel(4);
    let read = move || {
        let mut next = first;
        loop {
            let batch = match next {
                Ok(None) => return,
                Ok(Some(batch)) => Ok(batch),
                Err(error) => Err(malformed(&error)),
            };
            let is_last = batch.is_err();
            if give.blocking_send(batch).is_err() || is_last {
                return;
            }
            next = batches.next_batch();
        }
    };
    std::thread::Builder::new()
        .name("load-reader".to_owned())
        .spawn(read)
        .map_err(|error| Failure::failed(format!("cannot start a thread: {error}")))?;
    Ok(take)
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
    match std::fs::remove_file(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
    .map_err(|error| Failure::failed(format!("everything is loaded, but {} stays: {error}", path.display())))
}
