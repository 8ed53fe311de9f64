//! The key-value commands, over [`duramen_client::kv::Client`]: put, get, delete, scan, watch.
//!
//! * In: keys as text, percent-encoded or base64; values as arguments or from stdin. Out: values raw, timestamps as text, or
//!   JSON lines.
//! * Exit: 1 for a missing key and a failed condition, 3 for a write whose outcome is unknown.
//! * Deliberately absent: retries and deadlines, which are the client's.

mod keys;
mod read;
mod scan;
mod watch;
mod write;

pub use read::{GetArgs, get};
pub use scan::{ScanArgs, scan};
pub use watch::{WatchArgs, watch};
pub use write::{DeleteArgs, PutArgs, delete, put};

use crate::args::ServingUrls;
use crate::failure::Failure;
use clap::{Args, ValueEnum};
use duramen_client::kv::{Client, ClientConfig, Consistency, Error, ReadOptions};
use duramen_common::SessionToken;
use std::time::Duration;

/// How to read.
#[derive(Debug, Args)]
struct ReadArgs {
    /// A timestamp or session token: the answer is from after everything that it names.
    #[arg(long, value_name = "TOKEN")]
    after: Option<SessionToken>,
    /// Which state to read. Default: linearizable, or session with --after.
    #[arg(long, value_name = "LEVEL")]
    consistency: Option<Level>,
    #[command(flatten)]
    wait: WaitArgs,
}

/// How long to try.
#[derive(Debug, Args)]
struct WaitArgs {
    /// How long the command may take in all. Unit: seconds.
    #[arg(long, value_name = "SECONDS", default_value = "10", value_parser = parse_seconds)]
    wait: Duration,
}

/// What a read may be answered from.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Level {
    /// Every write acknowledged before the command shows.
    Linearizable,
    /// Everything that --after names shows.
    Session,
    /// Whatever the node has.
    Stale,
}

impl ReadArgs {
    fn options(&self) -> ReadOptions {
        let consistency = self.consistency.map(|level| match level {
            Level::Linearizable => Consistency::Linearizable,
            Level::Session => Consistency::Session,
            Level::Stale => Consistency::Stale,
        });
        ReadOptions { consistency, after: self.after.clone(), deadline: Some(self.wait.wait) }
    }
}

fn parse_seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "expected a number of seconds".to_owned())?;
    match Duration::try_from_secs_f64(seconds) {
        Ok(wait) if !wait.is_zero() && wait <= Duration::from_secs(3600) => Ok(wait),
        _ => Err("expected more than 0 and at most 3600 seconds".to_owned()),
    }
}

fn client(serving: ServingUrls) -> Result<Client, Failure> {
    Client::new(ClientConfig::new(serving.urls)).map_err(|error| Failure::usage(error.to_string()))
}

/// How a client's error ends the command.
fn failure(error: Error) -> Failure {
    match error {
        Error::OutcomeUnknown(unknown) => {
            Failure::UnknownOutcome { what: unknown.last.to_string(), idempotency_key: unknown.idempotency_key }
        }
        Error::Invalid { what, reason } => Failure::usage(format!("{what}: {reason}")),
        Error::Refused(problem) => Failure::from_problem(&problem),
        Error::VersionMismatch { .. } | Error::Unavailable { .. } | Error::Unexpected(_) => {
            Failure::failed(error.to_string())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_are_positive_seconds() {
        assert_eq!(parse_seconds("0.5"), Ok(Duration::from_millis(500)));
        for text in ["0", "-1", "nan", "inf", "1e9", "soon", ""] {
            assert!(parse_seconds(text).is_err(), "{text:?} was taken");
        }
    }
}
