//! Loads the keys that a workload reads, over `POST /v1/batch`, and sees that every node has them.
//!
//! * Out: a token that has seen the load.

use super::workload::{key_name, random_text};
use super::{BenchArgs, Workload};
use crate::failure::Failure;
use crate::screen;
use duramen_client::kv::{Client, ClientConfig, Op, ReadOptions, ScanQuery};
use duramen_common::SessionToken;
use duramen_common::limits::{BODY_BYTES_MAX, OPS_MAX};
use futures_util::{StreamExt as _, TryStreamExt as _};
use std::time::Duration;

/// Batches under way.
const BATCHES_IN_FLIGHT: usize = 8;
/// How long one call may take, retries included.
const CALL_DEADLINE: Duration = Duration::from_secs(30);
/// What an op's JSON takes besides its value, at most. Unit: bytes.
const OP_BYTES: usize = 64;

/// Loads what the workload needs; `None` where it needs nothing.
pub(super) async fn prepare(args: &BenchArgs) -> Result<Option<SessionToken>, Failure> {
    if !args.workload.reads() {
        return Ok(None);
    }
    let mut config = ClientConfig::new(args.serving.urls.iter().cloned());
    config.deadline = CALL_DEADLINE;
    let client = Client::new(config).map_err(|error| Failure::usage(error.to_string()))?;
    let failed = |error: duramen_client::kv::Error| Failure::failed(format!("cannot load the keys: {error}"));
    let token = if args.skip_load { client.now().await.map_err(failed)? } else { load(args, &client).await? };
    let query = ScanQuery { limit: Some(1), read: ReadOptions::after(token.clone()), ..ScanQuery::default() };
    if matches!(args.workload, Workload::GetStale | Workload::GetSession) {
        for number in 0..args.serving.urls.len() {
            client.starting_at(number).scan_page(&query, None).await.map_err(failed)?;
        }
    }
    Ok(Some(token))
}

async fn load(args: &BenchArgs, client: &Client) -> Result<SessionToken, Failure> {
    let failed = |error: duramen_client::kv::Error| Failure::failed(format!("cannot load the keys: {error}"));
    let per_batch = (BODY_BYTES_MAX / (args.value_size as usize + OP_BYTES)).clamp(1, OPS_MAX) as u32;
    let value = random_text(args.value_size as usize, u64::from(args.keys));
    let batches = (0..args.keys).step_by(per_batch as usize).map(|first| {
        let end = first.saturating_add(per_batch).min(args.keys);
        let ops: Vec<Op> = (first..end).map(|number| Op::put(key_name(number), value.clone())).collect();
        async move {
            let results = client.batch(&ops).await?;
            let token = results.token();
            results.all().map(|written| (token, written.len()))
        }
    });
    let loaded = futures_util::stream::iter(batches).buffer_unordered(BATCHES_IN_FLIGHT);
    let bar = indicatif::ProgressBar::with_draw_target(Some(u64::from(args.keys)), screen::draw_target());
    if !screen::has_bars() {
        duramen_stdio::stderr().push_line(&format!("loading {} keys", args.keys));
    }
    let token = loaded
        .try_fold(None, async |all: Option<SessionToken>, (token, count)| {
            bar.inc(count as u64);
            Ok(match (all, token) {
                (Some(mut all), Some(token)) => {
                    token.timestamps().for_each(|timestamp| all.see(timestamp));
                    Some(all)
                }
                (all, token) => all.or(token),
            })
        })
        .await
        .map_err(failed)?;
    bar.finish_and_clear();
    token.ok_or_else(|| Failure::failed("no key was loaded"))
}
