//! `duramen watch`: every change of keys as it comes, from now or from a token, until Ctrl-C.

use super::keys::KeyFormArgs;
use super::{client, failure};
use crate::args::ServingUrls;
use crate::failure::Failure;
use crate::output;
use crate::signals::Stop;
use clap::Args;
use duramen_client::kv::{Change, Error, Version, WatchOptions};
use duramen_common::{Blob, SessionToken};
use serde::Serialize;

/// Arguments of `duramen watch`.
#[derive(Debug, Args)]
pub struct WatchArgs {
    /// Only keys that begin so.
    #[arg(long, value_name = "KEY", default_value = "")]
    prefix: String,
    /// Changes after this token; HISTORY. alone means from the beginning. Default: from now.
    #[arg(long, visible_alias = "after", value_name = "TOKEN")]
    from: Option<SessionToken>,
    #[command(flatten)]
    key_form: KeyFormArgs,
    /// Print each change as a line of JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    serving: ServingUrls,
}

#[derive(Serialize)]
struct ChangeJson<'a> {
    event: &'a str,
    key: Blob,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<Blob>,
    version: Version,
}

/// Runs `duramen watch`.
pub async fn watch(args: WatchArgs) -> Result<(), Failure> {
    let mut stop = Stop::listen()?;
    let options = WatchOptions { prefix: args.key_form.bytes(&args.prefix)?, from: args.from };
    let client = client(args.serving)?;
    let mut watch = tokio::select! {
        watch = client.watch(options) => watch.map_err(failure)?,
        () = stop.asked() => return Ok(()),
    };
    loop {
        tokio::select! {
            change = watch.next() => match change {
                Ok(change) => print(change, args.json)?,
                // It passes: the watch goes on where it was.
                Err(error @ Error::Unavailable { .. }) => tracing::warn!("{error}; trying again"),
                Err(error) => return Err(failure(error)),
            },
            () = stop.asked() => break,
        }
    }
    // A hint for people.
    duramen_stdio::stderr().push_line(&format!("to go on from here: duramen watch --from {}", watch.position()));
    Ok(())
}

fn print(change: Change, json: bool) -> Result<(), Failure> {
    let Change { key, value, version } = change;
    if json {
        let event = if value.is_some() { "put" } else { "delete" };
        return output::json(&ChangeJson { event, key: Blob(key), value: value.map(Blob), version });
    }
    let key = output::readable(&key);
    match value {
        Some(value) => output::line(&format!("{version}  put {key} = {}", output::readable(&value))),
        None => output::line(&format!("{version}  delete {key}")),
    }
}
