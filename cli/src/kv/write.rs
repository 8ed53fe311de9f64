//! `duramen put` and `duramen delete`: one write, its timestamp to stdout.

use super::keys::KeyFormArgs;
use super::{WaitArgs, client, failure};
use crate::args::ServingUrls;
use crate::failure::Failure;
use crate::output;
use bytes::Bytes;
use clap::Args;
use duramen_client::kv::{Condition, Version, WriteOptions, Written};
use duramen_common::Blob;
use serde::Serialize;
use std::io::Read as _;

/// Arguments of `duramen put`.
#[derive(Debug, Args)]
pub struct PutArgs {
    /// The key.
    key: String,
    /// The value; - or nothing reads it from stdin, as it is.
    #[arg(default_value = "-", allow_negative_numbers = true)]
    value: String,
    /// Write only if the key is absent.
    #[arg(long, conflicts_with = "if_match")]
    if_absent: bool,
    #[command(flatten)]
    write: WriteArgs,
}

/// Arguments of `duramen delete`.
#[derive(Debug, Args)]
pub struct DeleteArgs {
    /// The key.
    key: String,
    #[command(flatten)]
    write: WriteArgs,
}

#[derive(Debug, Args)]
struct WriteArgs {
    #[command(flatten)]
    key_form: KeyFormArgs,
    /// Write only if the key is at this version; * means that it exists.
    #[arg(long, value_name = "VERSION", value_parser = parse_if_match)]
    if_match: Option<Condition>,
    /// Makes a repeat of the same write harmless; made up when not given.
    #[arg(long, value_name = "KEY")]
    idempotency_key: Option<String>,
    #[command(flatten)]
    wait: WaitArgs,
    /// Print as JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    serving: ServingUrls,
}

#[derive(Serialize)]
struct WrittenJson {
    key: Blob,
    timestamp: Version,
}

/// Runs `duramen put`.
pub async fn put(args: PutArgs) -> Result<(), Failure> {
    let value = match args.value.as_str() {
        "-" => read_stdin()?,
        text => Bytes::copy_from_slice(text.as_bytes()),
    };
    let key = args.write.key_form.bytes(&args.key)?;
    let options = args.write.options(args.if_absent.then_some(Condition::Absent));
    let written = client(args.write.serving)?.put_with(&key, value, &options).await.map_err(failure)?;
    print(key, written, args.write.json)
}

/// Runs `duramen delete`.
pub async fn delete(args: DeleteArgs) -> Result<(), Failure> {
    let key = args.write.key_form.bytes(&args.key)?;
    let options = args.write.options(None);
    let written = client(args.write.serving)?.delete_with(&key, &options).await.map_err(failure)?;
    print(key, written, args.write.json)
}

impl WriteArgs {
    fn options(&self, absent: Option<Condition>) -> WriteOptions {
        WriteOptions {
            condition: absent.or(self.if_match),
            idempotency_key: self.idempotency_key.clone(),
            deadline: Some(self.wait.wait),
        }
    }
}

fn print(key: Bytes, written: Written, json: bool) -> Result<(), Failure> {
    match json {
        true => output::json(&WrittenJson { key: Blob(key), timestamp: written.version }),
        false => output::line(&written.version.to_string()),
    }
}

fn read_stdin() -> Result<Bytes, Failure> {
    let mut value = Vec::new();
    std::io::stdin()
        .read_to_end(&mut value)
        .map_err(|error| Failure::failed(format!("cannot read the value from stdin: {error}")))?;
    Ok(Bytes::from(value))
}

/// A version as it was printed, or as an ETag with its quotes.
fn parse_if_match(text: &str) -> Result<Condition, String> {
    if text == "*" {
        return Ok(Condition::Exists);
    }
    let bare = text.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or(text);
    bare.parse().map(Condition::Version).map_err(|error: duramen_client::kv::VersionParseError| error.to_string())
}
