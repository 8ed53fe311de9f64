//! A serving node's index that is damaged: at rest, between a clean stop and the next start, and while the node runs.
//!
//! * At rest: a bit is flipped, a page zeroed, a file cut off, removed, or replaced by an older copy; several times a round.
//!   While it runs: bits flipped in the largest file, with a cache so small that pages are read again.
//! * Expected: every read shows what was written, or is refused for a while. The node is not ready before it has wiped what
//!   it cannot believe and replayed it. Afterwards all keys are read at all nodes, and held against the log (`chaos::run`).
//! * The keys that are looked at here were written once, for this, and overwritten; nobody writes them again.

use super::{SERVED_WITHIN, end_of};
use crate::chaos::faults::Hold;
use crate::chaos::stage::{Node, QUESTION, Stage};
use crate::harness::files::{end_of_bytes, files, flip, open};
use crate::harness::http::{kv, path_of};
use crate::harness::{Http, Rng, poll};
use serde_json::json;
use std::collections::BTreeMap;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::time::sleep;

/// So many keys, each written twice, in an order that leaves every page of an index with several parts.
const KEYS: usize = 4_000;
const OPS: usize = 80;
/// Damages of a round at rest; each needs a restart.
const TRIES: usize = 3;
/// Flipped bits of a round while the node runs.
const ROTTEN_BITS: usize = 12;
/// A page of the index's file.
const PAGE_BYTES: usize = 4096;
/// How long a node may refuse a key after it met damage.
const REPAIRED_WITHIN: Duration = Duration::from_secs(60);

/// What is done to an index at rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Damage {
    Bit,
    Page,
    CutOff,
    Removed,
    Older,
}

/// Most of it is a single bit, which is the hardest to see.
const DAMAGES: [Damage; 8] =
    [Damage::Bit, Damage::Bit, Damage::Bit, Damage::Page, Damage::Page, Damage::CutOff, Damage::Removed, Damage::Older];

pub(in crate::chaos::faults) async fn damaged(stage: &mut Stage, rng: &mut Rng, hold: &Hold) -> Result<String, String> {
    write_keys(stage).await?;
    let number = rng.below(stage.cluster.serving.len());
    let victim = Node::Serving(number);
    let folder = stage.cluster.serving_data(number);
    let older = stage.aside("older-index");
    let mut told = Vec::new();
    for time in 0..TRIES {
        stage.stop(victim).await?;
        let damage = *rng.pick(&DAMAGES);
        let done = damage_index(&folder, &older, damage, rng);
        if time == 0 {
            hold.wait().await;
        }
        let said_before = stage.process(victim).output().len();
        stage.start_node(victim);
        let done = done?;
        stage.ready(victim).await?;
        let read = shows_keys(&stage.http(victim), &stage.settled_keys, rng).await;
        let said = stage.process(victim).output().split_off(said_before);
        let wiped = if said.contains("wiped") { "wiped" } else { "kept" };
        read.map_err(|why| format!("{victim}, {done}, is ready and {wiped}: {why} ({})", end_of(&said)))?;
        told.push(format!("{done}: {wiped}"));
    }
    Ok(format!("{victim}, {}", told.join("; ")))
}

pub(in crate::chaos::faults) async fn rot(stage: &mut Stage, rng: &mut Rng, hold: &Hold) -> Result<String, String> {
    write_keys(stage).await?;
    let number = rng.below(stage.cluster.serving.len());
    let victim = Node::Serving(number);
    let text = stage.config(victim).replace("cache-mib = 32", "cache-mib = 1");
    stage.change_config(victim, &text);
    stage.restart(victim).await?;
    stage.ready(victim).await?;
    let file = largest(&stage.cluster.serving_data(number)).ok_or("the index has no file")?;
    let end = end_of_bytes(&file);
    let places: Vec<usize> = (0..ROTTEN_BITS).map(|_| rng.below(end)).collect();
    places.iter().for_each(|&at| flip(&file, at));
    hold.wait().await;
    let http = stage.http(victim);
    let mut refused = 0;
    let keys = stage.settled_keys.clone();
    let read = poll(&format!("every key at {victim}, whose index rots while it runs"), REPAIRED_WITHIN, || {
        let mut rng = rng.branch();
        let (http, keys) = (http.clone(), &keys);
        refused += 1;
        async move {
            match shows_keys(&http, keys, &mut rng).await {
                Ok(()) => Ok(Ok(())),
                // A refusal may pass. What is wrong does not become right by waiting.
                Err(why) if why.starts_with("refused") => Err(why),
                Err(why) => Ok(Err(why)),
            }
        }
    })
    .await;
    let shown = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
    stage.check_alive(&[victim])?;
    let wrong = read.and_then(|read| read);
    stage.put_back(victim);
    stage.restart(victim).await?;
    wrong.map_err(|why| format!("{victim}, {ROTTEN_BITS} bits of {shown} of {end} bytes: {why}"))?;
    Ok(format!("{victim}, {ROTTEN_BITS} bits of {shown} of {end} bytes; all read at try {refused}"))
}

/// Damages an index that is not in use; says what it did.
fn damage_index(folder: &Path, older: &Path, damage: Damage, rng: &mut Rng) -> Result<String, String> {
    let wrong = |error: std::io::Error| format!("damaging the index in {}: {error}", folder.display());
    let file = match rng.below(3) {
        // Any file that has something in it.
        0 => {
            let all: Vec<PathBuf> = index_files(folder).into_iter().filter(|file| length(file) > 0).collect();
            if all.is_empty() {
                return Err("the index has no file".to_owned());
            }
            rng.pick(&all).clone()
        }
        _ => largest(folder).ok_or("the index has no file")?,
    };
    let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let end = end_of_bytes(&file).max(1);
    let at = rng.below(end);
    let done = match damage {
        Damage::Bit => {
            flip(&file, at);
            format!("a bit at {at} of {end} in {name}")
        }
        Damage::Page => {
            let at = at / PAGE_BYTES * PAGE_BYTES;
            let count = PAGE_BYTES.min(usize::try_from(length(&file)).unwrap_or(usize::MAX) - at);
            open(&file).write_all_at(&vec![0; count], at as u64).map_err(wrong)?;
            format!("zeros at {at} of {end} in {name}")
        }
        Damage::CutOff => {
            open(&file).set_len(at as u64).map_err(wrong)?;
            format!("{name} cut to {at} of {end}")
        }
        Damage::Removed => {
            std::fs::remove_file(&file).map_err(wrong)?;
            format!("{name} removed")
        }
        Damage::Older if older.exists() => {
            let index = folder.join("index");
            std::fs::remove_dir_all(&index).and_then(|()| copy_folder(older, &index)).map_err(wrong)?;
            "an older copy".to_owned()
        }
        Damage::Older => {
            copy_folder(&folder.join("index"), older).map_err(wrong)?;
            "a copy was made".to_owned()
        }
    };
    Ok(done)
}

fn copy_folder(from: &Path, to: &Path) -> std::io::Result<()> {
    for file in files(from) {
        let target = to.join(file.strip_prefix(from).expect("it is in there"));
        std::fs::create_dir_all(target.parent().expect("it has a folder"))?;
        std::fs::copy(&file, &target)?;
    }
    Ok(())
}

fn index_files(folder: &Path) -> Vec<PathBuf> {
    files(&folder.join("index"))
}

fn length(file: &Path) -> u64 {
    std::fs::metadata(file).map_or(0, |data| data.len())
}

fn largest(folder: &Path) -> Option<PathBuf> {
    index_files(folder).into_iter().filter(|file| length(file) > 0).max_by_key(|file| length(file))
}

/// Writes the keys, once for all rounds.
async fn write_keys(stage: &mut Stage) -> Result<(), String> {
    if !stage.settled_keys.is_empty() {
        return Ok(());
    }
    let mut written = BTreeMap::new();
    let http = stage.cluster.http(0);
    let all: Vec<(String, String)> = (0..2 * KEYS)
        .map(|write| (format!("settled/{}", write * 7919 % KEYS), format!("v{write}{}", "x".repeat(write % 300))))
        .collect();
    for (number, part) in all.chunks(OPS).enumerate() {
        let ops: Vec<_> = part.iter().map(|(key, value)| json!({"put": {"key": key, "value": value}})).collect();
        let body = json!({ "ops": ops });
        poll(&format!("batch {number} of keys for the index"), SERVED_WITHIN, || async {
            let call = http.post("/v1/batch", &body).wait(5).limit(Duration::from_secs(10));
            let answer = call.send().await.map_err(|error| error.to_string())?;
            let all_ok = answer.status == 200
                && answer.json()["results"].as_array().is_some_and(|all| all.iter().all(|one| one["status"] == 204));
            if all_ok { Ok(()) } else { Err(answer.to_string()) }
        })
        .await?;
        written.extend(part.iter().cloned());
        // A slow client: every flush of the index has a little of everything.
        sleep(Duration::from_millis(60)).await;
    }
    stage.settled_keys = written;
    Ok(())
}

/// Reads the keys by scans, and some one by one. `Err` begins with "refused" where nothing wrong was shown.
async fn shows_keys(http: &Http, keys: &BTreeMap<String, String>, rng: &mut Rng) -> Result<(), String> {
    let mut shown = BTreeMap::new();
    let mut cursor = String::new();
    loop {
        let target = format!("/v1/kv?prefix={}&limit=1000{cursor}", path_of(b"settled/"));
        let answer = http.get(target).wait(5).limit(QUESTION * 5).send().await;
        let answer = answer.map_err(|error| format!("refused: {error}"))?;
        if answer.status != 200 {
            return Err(format!("refused: {answer}"));
        }
        let page = answer.json();
        for item in page["items"].as_array().into_iter().flatten() {
            let text = |name: &str| item[name].as_str().unwrap_or_default().to_owned();
            shown.insert(text("key"), text("value"));
        }
        match page["cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={}", path_of(next.as_bytes())),
            None => break,
        }
    }
    let differing: Vec<&String> =
        keys.iter().filter(|(key, value)| shown.get(*key) != Some(value)).map(|(key, _)| key).collect();
    if let Some(&key) = differing.first() {
        let (there, missing) = (shown.get(key), differing.iter().filter(|key| !shown.contains_key(**key)).count());
        let (count, wanted) = (differing.len(), &keys[key]);
        return Err(format!("a scan misses {missing} keys and has {count} wrong: {key} is {there:?}, not {wanted:?}"));
    }
    let names: Vec<&String> = keys.keys().collect();
    for _ in 0..200 {
        let key = *rng.pick(&names);
        let answer = http.get(kv(key)).wait(5).limit(QUESTION * 5).send().await;
        let answer = answer.map_err(|error| format!("refused: {error}"))?;
        match answer.status {
            200 if answer.text() == keys[key] => {}
            200 | 404 => return Err(format!("a read of {key} gives {answer}, not {:?}", keys[key])),
            _ => return Err(format!("refused: {answer}")),
        }
    }
    Ok(())
}
