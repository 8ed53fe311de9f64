//! `duramen scan`: keys and values in the order of the keys' bytes.

use super::keys::KeyFormArgs;
use super::{ReadArgs, client, failure};
use crate::args::ServingUrls;
use crate::failure::Failure;
use crate::output;
use clap::Args;
use duramen_client::kv::{ScanItem, ScanQuery, Version};
use duramen_common::Blob;
use serde::Serialize;

/// Keys a page when all are wanted: the server's limit.
const PAGE_MAX: u32 = 1000;

/// Arguments of `duramen scan`.
#[derive(Debug, Args)]
pub struct ScanArgs {
    /// Only keys that begin so.
    #[arg(long, value_name = "KEY", default_value = "")]
    prefix: String,
    /// From this key on, included.
    #[arg(long, value_name = "KEY", default_value = "")]
    start: String,
    /// Up to this key, excluded.
    #[arg(long, value_name = "KEY", default_value = "")]
    end: String,
    /// Most keys to print.
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..))]
    limit: u64,
    /// Print all keys.
    #[arg(long, conflicts_with = "limit")]
    all: bool,
    #[command(flatten)]
    key_form: KeyFormArgs,
    #[command(flatten)]
    read: ReadArgs,
    /// Print each key as a line of JSON, as `duramen load` takes them.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    serving: ServingUrls,
}

#[derive(Serialize)]
struct ItemJson {
    key: Blob,
    value: Blob,
    version: Version,
}

/// Runs `duramen scan`.
pub async fn scan(args: ScanArgs) -> Result<(), Failure> {
    let key = |text: &str| args.key_form.bytes(text);
    let mut left = if args.all { u64::MAX } else { args.limit };
    let query = ScanQuery {
        prefix: key(&args.prefix)?,
        start: key(&args.start)?,
        end: key(&args.end)?,
        limit: Some(u32::try_from(left).unwrap_or(PAGE_MAX).min(PAGE_MAX)),
        read: args.read.options(),
    };
    let mut pages = client(args.serving)?.scan(query);
    while let Some(page) = pages.next_page().await.map_err(failure)? {
        let more_here = page.items.len() as u64 > left;
        let mut lines = Vec::new();
        for item in page.items.into_iter().take(usize::try_from(left).unwrap_or(usize::MAX)) {
            left -= 1;
            write_item(&mut lines, item, args.json)?;
        }
        output::bytes(&lines)?;
        if left == 0 {
            if more_here || page.cursor.is_some() {
                // A hint for people.
                duramen_stdio::stderr().push_line("there may be more: give --all, a greater --limit, or --start");
            }
            return Ok(());
        }
    }
    Ok(())
}

fn write_item(lines: &mut Vec<u8>, item: ScanItem, json: bool) -> Result<(), Failure> {
    let ScanItem { key, value, version } = item;
    if json {
        serde_json::to_writer(&mut *lines, &ItemJson { key: Blob(key), value: Blob(value), version })
            .map_err(|error| Failure::failed(format!("cannot print JSON: {error}")))?;
    } else {
        lines.extend_from_slice(output::readable(&key).as_bytes());
        lines.push(b'\t');
        lines.extend_from_slice(output::readable(&value).as_bytes());
    }
    lines.push(b'\n');
    Ok(())
}
