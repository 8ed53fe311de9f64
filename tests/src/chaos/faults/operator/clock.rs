//! A clock that is a day off, at one node: ahead or behind, from one moment to the next while the node runs, or at its start.
//!
//! * The clock is that of `harness::clock`.
//! * Expected: nothing but the times of records differs; the node is ready, and the cluster serves.

use super::{BOTH, SERVED_WITHIN};
use crate::chaos::faults::Hold;
use crate::chaos::stage::{Node, QUESTION, Stage};
use crate::harness::{Http, Rng};
use duramen_common::seams::{SystemClock, WallClock as _};

const DAY_MS: i64 = 24 * 60 * 60 * 1000;

pub(in crate::chaos::faults) async fn wrong(stage: &mut Stage, rng: &mut Rng, hold: &Hold) -> Result<String, String> {
    let victim = stage.some_leader(rng).await;
    let off_ms = if rng.below(2) == 0 { DAY_MS } else { -DAY_MS };
    let file = stage.clock_file(victim);
    std::fs::write(&file, off_ms.to_string()).map_err(|error| format!("{}: {error}", file.display()))?;
    let at_start = rng.below(3) == 0;
    if at_start {
        stage.restart(victim).await?;
        stage.ready(victim).await?;
    }
    hold.wait().await;
    stage.serves(&BOTH, SERVED_WITHIN).await?;
    stage.ready(victim).await?;
    let furthest_ms = furthest_time(&stage.http(victim)).await;
    // It jumps back, too.
    stage.put_back(victim);
    if off_ms > 0 && !at_start && matches!(victim, Node::Log(_)) && furthest_ms < DAY_MS / 2 {
        return Ok(format!("{victim} a day ahead; it leads nothing any more"));
    }
    let when = if at_start { "at its start" } else { "while it runs" };
    Ok(format!("{victim} {} h off {when}; a record is {} h ahead", off_ms / 3_600_000, furthest_ms / 3_600_000))
}

/// How far ahead of the machine's clock the newest record of any partition is.
async fn furthest_time(http: &Http) -> i64 {
    let mut furthest_ms = 0;
    for partition in 0..4 {
        let tail = http.get(format!("/v1/log/{partition}/tail")).limit(QUESTION).send().await;
        let Some(end) =
            tail.ok().filter(|tail| tail.status == 200).and_then(|tail| tail.json()["committed_end"].as_u64())
        else {
            continue;
        };
        let target = format!("/v1/log/{partition}?from={}&limit=1", end.saturating_sub(1));
        let Ok(answer) = http.get(target).limit(QUESTION).send().await else { continue };
        let times = answer.text().lines().filter_map(time_of).max().unwrap_or(0);
        furthest_ms = furthest_ms.max(times as i64 - SystemClock.now_ms() as i64);
    }
    furthest_ms
}

fn time_of(line: &str) -> Option<u64> {
    let record: serde_json::Value = serde_json::from_str(line).ok()?;
    record["time_ms"].as_u64()
}
