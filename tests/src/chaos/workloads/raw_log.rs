//! The raw log: appends, tails and fetches at the log nodes' own HTTP.
//!
//! * An acknowledged record stands at its offset, with its payload, on every log node. A refused one stands nowhere. One
//!   whose outcome stayed unknown stands nowhere or once; so does one that was sent again under its idempotency key.
//! * What a fetch gave is what stands there in the end: nothing that was read is taken back, nothing is left out.
//! * A tail that was asked for after an acknowledgement is past it.

use super::record::{Asked, Record};
use super::{CAUGHT_UP_WITHIN, Field, PATIENCE, WAIT_SECONDS, Workload, after, pause};
use crate::chaos::book::{Slice, hash_of};
use crate::checkers::history::{Counts, Outcome};
use crate::harness::{Http, Rng};
use duramen_common::SessionToken;
use duramen_common::batch::RecordBody;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::task::JoinSet;

const WRITERS: u64 = 3;
const READERS: u64 = 2;
/// How often an append is sent while its outcome is unknown.
const ATTEMPTS_MAX: u32 = 6;

/// What was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Call {
    /// These events in a row.
    Append {
        /// Where.
        partition: u16,
        /// What: nobody else appends the same.
        payloads: Vec<String>,
    },
    /// Records.
    Fetch {
        /// Where.
        partition: u16,
        /// From there.
        from: u64,
    },
    /// The end.
    Tail {
        /// Where.
        partition: u16,
        /// An end that was acknowledged before.
        known_end: u64,
    },
}

/// What was told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Return {
    /// The events stand from this offset on.
    At(u64),
    /// Hashes of the lines from the offset that was asked for.
    Lines(Vec<u64>),
    /// The committed end.
    End(u64),
}

/// The workload.
pub struct RawLog {
    pub(super) record: Record<Call, Return>,
    /// By partition, the greatest end that was acknowledged.
    known_ends: Vec<AtomicU64>,
    unfinished: Mutex<Vec<String>>,
}

impl RawLog {
    /// For a round.
    #[must_use]
    pub fn new(field: &Field) -> RawLog {
        let known_ends = field.begin.iter().map(|&end| AtomicU64::new(end)).collect();
        RawLog { record: Record::default(), known_ends, unfinished: Mutex::default() }
    }
}

impl Workload for RawLog {
    fn spawn(self: Arc<Self>, field: &Arc<Field>, askers: &mut JoinSet<()>, followers: &mut JoinSet<()>) {
        for process in 0..WRITERS {
            askers.spawn(append(Arc::clone(&self), Arc::clone(field), process));
        }
        for process in WRITERS..WRITERS + READERS {
            followers.spawn(read(Arc::clone(&self), Arc::clone(field), process));
        }
    }

    fn counts(&self) -> Counts {
        self.record.counts()
    }

    fn story(&self) -> String {
        self.record.story()
    }

    fn check(&self, field: &Field, slice: &Slice) -> Vec<String> {
        let mut violations = self.record.objections();
        violations.extend(self.unfinished.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned());
        let found = found_events(slice);
        self.record.with_history(|history| {
            for operation in history.operations() {
                let wrong = match (&operation.call, &operation.outcome) {
                    (Call::Append { partition, payloads }, outcome) => {
                        wrong_append(*partition, payloads, outcome, &found)
                    }
                    (Call::Fetch { partition, from }, Outcome::Ok(Return::Lines(lines))) => {
                        wrong_fetch(*partition, *from, lines, slice)
                    }
                    (Call::Tail { known_end, .. }, Outcome::Ok(Return::End(end))) if end < known_end => {
                        Some(format!("the tail {end} is before the acknowledged {known_end}"))
                    }
                    (Call::Fetch { .. } | Call::Tail { .. }, _) => None,
                };
                violations.extend(wrong.map(|wrong| format!("{wrong}: {operation}")));
            }
        });
        violations.extend(strangers(field, &found, &self.record));
        violations
    }
}

/// Where each event of the round stands.
type Found = BTreeMap<String, Vec<(u16, u64)>>;

fn found_events(slice: &Slice) -> Found {
    let mut found = Found::new();
    for partition in slice.log.partitions() {
        for logged in slice.log.records(partition) {
            let RecordBody::Event(event) = &logged.record.body else { continue };
            let text = String::from_utf8_lossy(&event.payload).into_owned();
            found.entry(text).or_default().push((partition.get(), logged.offset.get()));
        }
    }
    found
}

fn wrong_append(partition: u16, payloads: &[String], outcome: &Outcome<Return>, found: &Found) -> Option<String> {
    let places: Vec<&[(u16, u64)]> =
        payloads.iter().map(|text| found.get(text).map_or(&[][..], Vec::as_slice)).collect();
    if let Some(twice) = places.iter().find(|places| places.len() > 1) {
        return Some(format!("stands more than once, at {twice:?}"));
    }
    let stand: Vec<Option<(u16, u64)>> = places.iter().map(|places| places.first().copied()).collect();
    let row = |first: u64| (first..).take(payloads.len()).map(|offset| Some((partition, offset))).collect::<Vec<_>>();
    match outcome {
        Outcome::Ok(Return::At(first)) if stand != row(*first) => {
            Some(format!("acknowledged, but stands at {stand:?}"))
        }
        Outcome::Failed if stand.iter().any(Option::is_some) => Some(format!("refused, but stands at {stand:?}")),
        Outcome::Unknown => match stand.first().copied().flatten() {
            // All of it or nothing.
            Some((_, first)) if stand != row(first) => Some(format!("torn: stands at {stand:?}")),
            None if stand.iter().any(Option::is_some) => Some(format!("torn: stands at {stand:?}")),
            _ => None,
        },
        Outcome::Ok(_) | Outcome::Failed => None,
    }
}

fn wrong_fetch(partition: u16, from: u64, lines: &[u64], slice: &Slice) -> Option<String> {
    let (begin, known) = (slice.begins[usize::from(partition)], &slice.hashes[usize::from(partition)]);
    let skipped = usize::try_from(from.saturating_sub(begin)).unwrap_or(usize::MAX);
    let place = known.iter().skip(skipped).zip(lines).position(|(known, line)| known != line)?;
    Some(format!("gave another record at {} than stands there", from + place as u64))
}

/// Events of this round that nobody appended.
fn strangers(field: &Field, found: &Found, record: &Record<Call, Return>) -> Vec<String> {
    let prefix = payload_prefix(field.round);
    record.with_history(|history| {
        let appended = history.operations().iter().filter_map(|operation| match &operation.call {
            Call::Append { payloads, .. } => Some(payloads),
            Call::Fetch { .. } | Call::Tail { .. } => None,
        });
        let appended: std::collections::BTreeSet<&String> = appended.flatten().collect();
        let strange = found.keys().filter(|text| text.starts_with(&prefix) && !appended.contains(text));
        strange.map(|text| format!("nobody appended {text}")).collect()
    })
}

fn payload_prefix(round: u64) -> String {
    format!("raw/{round}/")
}

async fn append(own: Arc<RawLog>, field: Arc<Field>, process: u64) {
    let mut rng = field.rng("append", process);
    let mut number = 0u64;
    while field.goes_on() {
        number += 1;
        let partition = rng.below(usize::from(field.partitions)) as u16;
        if rng.below(4) == 0 {
            ask_tail(&own, &field, process, partition, &mut rng).await;
        }
        let payload = |part: usize| format!("{}{process}-{number}-{part}", payload_prefix(field.round));
        // Some bytes that stand nowhere else, so that this very record can be found on a disk.
        let salt = rng.bits();
        let payloads: Vec<String> = (0..=rng.below(3)).map(|part| format!("{}-{salt:016x}", payload(part))).collect();
        let asking = insist(&own, &field, partition, &payloads, &mut rng);
        let call = Call::Append { partition, payloads: payloads.clone() };
        let outcome = own.record.note(process, call, asking).await;
        if let Outcome::Ok(Return::At(first)) = outcome {
            own.known_ends[usize::from(partition)].fetch_max(first + payloads.len() as u64, Ordering::SeqCst);
        }
        after(&outcome).await;
        pause(&mut rng).await;
    }
}

/// Appends; half of the unknown outcomes are made sure of, under the same idempotency key, at any node.
async fn insist(own: &RawLog, field: &Field, partition: u16, payloads: &[String], rng: &mut Rng) -> Outcome<Return> {
    let idempotency_key = format!("{}#{:x}", payloads[0], rng.bits());
    let attempts = if rng.below(2) == 0 { 1 } else { ATTEMPTS_MAX };
    let lines: Vec<String> = payloads.iter().map(|text| serde_json::json!({"event": text}).to_string()).collect();
    let mut first = None;
    for _ in 0..attempts {
        let http: &Http = rng.pick(&field.log);
        let call = http.call("POST", format!("/v1/log/{partition}")).header("idempotency-key", &idempotency_key);
        let call = match payloads {
            [event] => call.header("content-type", "application/octet-stream").body(event.clone()),
            _ => call.header("content-type", "application/x-ndjson").body(lines.join("\n")),
        };
        let answer = call.wait(WAIT_SECONDS).limit(PATIENCE).send().await;
        let outcome = own.record.judge(Asked::Write, &[200], answer, |answer| {
            let first: Option<SessionToken> = answer.json()["first"].as_str().and_then(|text| text.parse().ok());
            let first = first.and_then(|token| token.single());
            Return::At(first.map_or(u64::MAX, |timestamp| timestamp.offset.get()))
        });
        match (&outcome, &first) {
            (Outcome::Ok(_), _) | (Outcome::Failed, None) => return outcome,
            // A refusal of a repeat says nothing of the attempt before it.
            (Outcome::Unknown | Outcome::Failed, _) => first = Some(Outcome::Unknown),
        }
        after(&outcome).await;
    }
    first.unwrap_or(Outcome::Unknown)
}

async fn ask_tail(own: &RawLog, field: &Field, process: u64, partition: u16, rng: &mut Rng) {
    let known_end = own.known_ends[usize::from(partition)].load(Ordering::SeqCst);
    let http: &Http = rng.pick(&field.log);
    let asking = async {
        let answer = http.get(format!("/v1/log/{partition}/tail")).limit(PATIENCE).send().await;
        own.record.judge(Asked::Read, &[200], answer, |answer| {
            Return::End(answer.json()["committed_end"].as_u64().unwrap_or(0))
        })
    };
    let outcome = own.record.note(process, Call::Tail { partition, known_end }, asking).await;
    after(&outcome).await;
}

/// Follows every partition, at whichever node, to the round's end.
async fn read(own: Arc<RawLog>, field: Arc<Field>, process: u64) {
    let mut rng = field.rng("fetch", process);
    let mut next = field.begin.clone();
    let mut deadline = None;
    loop {
        let behind = field.ends().map(|ends| next.iter().zip(&ends).any(|(next, end)| next < end));
        match behind {
            Some(false) => return,
            Some(true) => {
                let now = tokio::time::Instant::now();
                if now > *deadline.get_or_insert(now + CAUGHT_UP_WITHIN) {
                    let what = format!("reader {process} came to {next:?} only within {CAUGHT_UP_WITHIN:?}");
                    own.unfinished.lock().unwrap_or_else(PoisonError::into_inner).push(what);
                    return;
                }
            }
            None => {}
        }
        let partition = rng.below(usize::from(field.partitions));
        let (http, from): (&Http, u64) = (rng.pick(&field.log), next[partition]);
        let asking = async {
            let target = format!("/v1/log/{partition}?from={from}&limit=200");
            own.record.judge(Asked::Read, &[200], http.get(target).limit(PATIENCE).send().await, |answer| {
                Return::Lines(answer.text().lines().map(hash_of).collect())
            })
        };
        let outcome = own.record.note(process, Call::Fetch { partition: partition as u16, from }, asking).await;
        if let Outcome::Ok(Return::Lines(lines)) = &outcome {
            next[partition] += lines.len() as u64;
        }
        after(&outcome).await;
        pause(&mut rng).await;
    }
}
