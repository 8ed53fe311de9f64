//! `duramen get`: a value to stdout, as it is.

use super::keys::KeyFormArgs;
use super::{ReadArgs, client, failure};
use crate::args::ServingUrls;
use crate::failure::Failure;
use crate::output;
use clap::Args;
use duramen_client::kv::Version;
use duramen_common::{Blob, SessionToken};
use serde::Serialize;

/// Arguments of `duramen get`.
#[derive(Debug, Args)]
pub struct GetArgs {
    /// The key.
    key: String,
    #[command(flatten)]
    key_form: KeyFormArgs,
    #[command(flatten)]
    read: ReadArgs,
    /// Print key, value, version and the position that was read as JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    serving: ServingUrls,
}

#[derive(Serialize)]
struct GotJson {
    key: Blob,
    value: Option<Blob>,
    version: Option<Version>,
    timestamp: SessionToken,
}

/// Runs `duramen get`.
pub async fn get(args: GetArgs) -> Result<(), Failure> {
    let key = args.key_form.bytes(&args.key)?;
    let got = client(args.serving)?.get_with(&key, &args.read.options()).await.map_err(failure)?;
    let missing = got.entry.is_none();
    if args.json {
        let (value, version) = (got.value().cloned().map(Blob), got.version());
        output::json(&GotJson { key: Blob(key.clone()), value, version, timestamp: got.seen.clone() })?;
    } else if let Some(value) = got.value() {
        output::bytes(value)?;
        if duramen_stdio::stdout_is_terminal() && !value.ends_with(b"\n") {
            output::bytes(b"\n")?;
        }
    }
    if missing {
        return Err(Failure::failed(format!("no such key: {} (as of {})", output::readable(&key), got.seen)));
    }
    Ok(())
}
