//! `duramen verify`: reads back every key of a file at one node, with a token, and compares.
//!
//! * The file is read in two ways at once (`second_reading`), which must give the same: otherwise a fault of the
//!   reader would be in what was loaded and in what it is compared with.
//! * A key that comes several times in the file must have its last value: what differs in the first pass is judged in a
//!   second one, against the last value in the file.
//! * Memory: at most 100,000 keys that differ; with more, the verification has failed anyway and stops.
//! * Deliberately absent: keys that are in the cluster and not in the file.

use super::input::{self, Input};
use super::malformed;
use super::progress::{Bar, rate};
use super::second_reading::SecondReading;
use super::shape::{Shape, ShapeArgs};
use super::source::{FileRecord, Source};
use crate::failure::Failure;
use crate::http::Http;
use crate::output;
use bytes::Bytes;
use clap::Args;
use duramen_common::SessionToken;
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use hyper::Method;
use hyper::header::{HeaderName, HeaderValue};
use percent_encoding::{NON_ALPHANUMERIC, percent_encode};
use serde::Serialize;
use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Reads under way at the same time.
const IN_FLIGHT: usize = 64;
/// Keys that may differ in the first pass.
const SUSPECTS_MAX: usize = 100_000;
/// Keys that are named in the report.
const NAMED_MAX: usize = 5;

/// Arguments of `duramen verify`.
#[derive(Debug, Args)]
pub struct VerifyArgs {
    /// The file that was loaded.
    file: PathBuf,
    #[command(flatten)]
    shape: ShapeArgs,
    /// The serving node to read at.
    #[arg(long, env = "DURAMEN_URL", value_name = "URL", default_value = "http://127.0.0.1:7002",
          value_parser = crate::http::parse_base_url)]
    url: String,
    /// The token that the load printed; without it, each read is linearizable.
    #[arg(long, value_name = "TOKEN")]
    after: Option<SessionToken>,
    /// Print the result as JSON.
    #[arg(long)]
    json: bool,
}

/// What was found.
#[derive(Debug, Serialize)]
pub struct Verified {
    records: u64,
    seconds: f64,
    mismatches: usize,
    /// Some of the keys that differ.
    mismatching: Vec<String>,
}

/// Runs `duramen verify`.
pub async fn run(args: VerifyArgs) -> Result<(), Failure> {
    let shape = args.shape.resolve(&args.file)?;
    if Input::of(&args.file)? == Input::Stdin {
        let why = "verify reads more than once, which standard input cannot: write it to a file first";
        return Err(Failure::usage(why));
    }
    let verified = verify(&args.file, &shape, &args.url, args.after.as_ref()).await?;
    if args.json {
        output::json(&verified)?;
    } else {
        output::line(&verified.to_string())?;
    }
    verified.judge(None)
}

impl fmt::Display for Verified {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Verified { records, seconds, mismatches, .. } = self;
        let rate = rate(*records, Duration::from_secs_f64(*seconds));
        write!(f, "verified {records} records in {seconds:.1} s, {rate}/s: {mismatches} keys differ")
    }
}

impl Verified {
    /// A failure when anything differs, or when the file had another number of records when it was loaded.
    pub fn judge(&self, loaded: Option<u64>) -> Result<(), Failure> {
        if let Some(loaded) = loaded.filter(|&loaded| loaded != self.records) {
            let records = self.records;
            return Err(Failure::failed(format!("{loaded} records were loaded, and now the file has {records}")));
        }
        if self.mismatches == 0 {
            return Ok(());
        }
        Err(Failure::failed(format!(
            "{} keys do not have the file's value, among them {}",
            self.mismatches,
            self.mismatching.join(", ")
        )))
    }
}

struct Reader {
    http: Http,
    url: String,
    headers: Vec<(HeaderName, HeaderValue)>,
}

impl Reader {
    /// The value of a key; `None` when there is none.
    async fn get(&self, key: &[u8]) -> Result<Option<Bytes>, Failure> {
        let url = format!("{}/v1/kv/{}", self.url, percent_encode(key, NON_ALPHANUMERIC));
        let answer = self
            .http
            .send(Method::GET, &url, &self.headers, Bytes::new())
            .await
            .map_err(|error| Failure::failed(error.to_string()))?;
        match answer.status {
            200 => Ok(Some(answer.body)),
            404 => Ok(None),
            _ => Err(Failure::failed(format!("reading {}: {}", output::readable(key), answer.problem()))),
        }
    }
}

/// Reads every key of the file at `url` and compares.
pub async fn verify(path: &Path, shape: &Shape, url: &str, token: Option<&SessionToken>) -> Result<Verified, Failure> {
    let mut headers = vec![(HeaderName::from_static("prefer"), HeaderValue::from_static("wait=30"))];
    if let Some(token) = token {
        let token = HeaderValue::from_str(&token.to_string()).map_err(|_| Failure::usage("the token is no text"))?;
        headers.push((HeaderName::from_static("read-after"), token));
    }
    let reader = Reader { http: Http::new(Duration::from_secs(40)), url: url.to_owned(), headers };
    let bytes = Input::of(path)?.bytes();
    let mut source = Source::open(input::open(path)?, shape).map_err(|error| malformed(path, &error))?;
    let told = |error: &dyn fmt::Display| Failure::failed(format!("{}: {error}", path.display()));
    let mut second = SecondReading::new(input::open(path)?, input::open(path)?, shape).map_err(|error| told(&error))?;
    let mut bar = Bar::new("reading back", bytes, 0, 0);
    let mut suspects: HashMap<Bytes, Option<Bytes>> = HashMap::new();
    let mut records = 0;
    let mut under_way = FuturesUnordered::new();
    let mut at_end = false;
    loop {
        while !at_end && under_way.len() < IN_FLIGHT {
            let record = source.next_record().map_err(|error| malformed(path, &error))?;
            second.check(record.as_ref(), source.place().line).map_err(|error| told(&error))?;
            match record {
                Some(record) => under_way.push(compare(&reader, record)),
                None => at_end = true,
            }
        }
        let Some(compared) = under_way.next().await else { break };
        records += 1;
        if let Some((key, found)) = compared? {
            suspects.insert(key, found);
            if suspects.len() > SUSPECTS_MAX {
                return Err(Failure::failed(format!("more than {SUSPECTS_MAX} keys do not have the file's value")));
            }
        }
        bar.show(source.place().byte, records);
    }
    drop(under_way);
    let seconds = bar.finish().as_secs_f64();
    let mismatching = judge_suspects(path, shape, suspects)?;
    let named = mismatching.iter().take(NAMED_MAX).map(|key| output::readable(key)).collect();
    Ok(Verified { records, seconds, mismatches: mismatching.len(), mismatching: named })
}

/// The key and what was found, when that differs from the record.
async fn compare(reader: &Reader, record: FileRecord) -> Result<Option<(Bytes, Option<Bytes>)>, Failure> {
    let found = reader.get(&record.key).await?;
    let is_same = found.as_ref() == Some(&record.value);
    Ok((!is_same).then_some((record.key, found)))
}

/// Which suspects do not have their last value in the file either.
fn judge_suspects(path: &Path, shape: &Shape, suspects: HashMap<Bytes, Option<Bytes>>) -> Result<Vec<Bytes>, Failure> {
    if suspects.is_empty() {
        return Ok(Vec::new());
    }
    let mut is_same: HashMap<&Bytes, bool> = HashMap::new();
    let mut source = Source::open(input::open(path)?, shape).map_err(|error| malformed(path, &error))?;
    while let Some(record) = source.next_record().map_err(|error| malformed(path, &error))? {
        if let Some((key, found)) = suspects.get_key_value(&record.key) {
            is_same.insert(key, found.as_ref() == Some(&record.value));
        }
    }
    let mut mismatching: Vec<Bytes> =
        suspects.keys().filter(|key| !is_same.get(key).copied().unwrap_or(false)).cloned().collect();
    mismatching.sort();
    Ok(mismatching)
}
