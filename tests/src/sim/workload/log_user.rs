//! One who uses the log itself, without a serving node: appends events under ids of its own, asks for the tail, fetches.
//!
//! * Every call has a deadline of its own, and goes to whom the log client chooses.

use super::super::seen::{Appended, Fetched, Seen};
use super::Stage;
use crate::checkers::Outcome;
use crate::harness::Rng;
use bytes::Bytes;
use duramen_client::log_client::LogClient;
use duramen_common::batch::{Record, RecordSet, RecordSetBuilder};
use duramen_common::log::{AppendError, Effect, FetchError, Log as _};
use duramen_common::protocol::{AppendedRun, BatchId};
use duramen_common::{Offset, PartitionId, RequestId};
use std::collections::BTreeMap;
use std::time::Duration;

/// Most events of one append, mostly.
const EVENTS_MAX: usize = 4;
/// Most events of one append, now and then: so many that ids leave a small window of duplicates within a run.
const MANY_EVENTS_MAX: usize = 120;

/// Where a reader of a partition has come to, and the batch before that.
type Place = (Offset, Option<BatchId>);

/// A user of the log.
pub struct LogUser {
    /// Its number.
    pub number: u64,
    stage: Stage,
    rng: Rng,
    log: LogClient,
    next: BTreeMap<PartitionId, Place>,
    events: u64,
    /// In a thousand appends, how many are of many events.
    many: u64,
    pause_ms_max: u64,
}

impl LogUser {
    /// A user that has done nothing.
    #[must_use]
    pub fn new(number: u64, stage: Stage, log: LogClient, mut rng: Rng, pause_ms_max: u64) -> LogUser {
        let (pause_ms_max, many) = (rng.within(1, pause_ms_max), *rng.pick(&[0, 50, 300]));
        LogUser { number, stage, rng, log, next: BTreeMap::new(), events: 0, many, pause_ms_max }
    }

    /// Works until the stage ends.
    pub async fn run(mut self) {
        while !self.stage.has_ended() {
            let pause = Duration::from_millis(self.rng.within(0, self.pause_ms_max));
            tokio::time::sleep(pause).await;
            let partition = PartitionId::new(self.rng.below(usize::from(self.stage.partitions)) as u16);
            match self.rng.below(10) {
                0..=3 => self.append(partition).await,
                4..=6 => self.ask_tail(partition).await,
                _ => self.fetch(partition).await,
            }
        }
    }

    fn timeout(&mut self) -> Duration {
        Duration::from_millis(self.rng.within(300, 4_000))
    }

    /// Appends some events, and insists on it for a while; tells the witness.
    async fn append(&mut self, partition: PartitionId) {
        let (set, ids) = self.fresh_events();
        let fingerprints = set.check().expect("the workload's events are well-formed");
        let known = self.stage.witness.lock().known();
        let mut outcome = Outcome::Failed;
        for _ in 0..1 + self.rng.below(3) {
            let timeout = self.timeout();
            match self.log.append(partition, set.clone(), timeout).await {
                Ok(runs) => {
                    outcome = Outcome::Ok(offsets(&runs));
                    break;
                }
                Err(AppendError::Invalid { reason }) => {
                    return self.wrong(0, format!("an append was refused: {reason}"));
                }
                Err(error) if error.effect() == Effect::Unknown => outcome = Outcome::Unknown,
                // Says nothing of the attempts before it.
                Err(_) => {}
            }
        }
        let mut witness = self.stage.witness.lock();
        witness.count(&outcome);
        match outcome {
            Outcome::Failed => return witness.see(Seen::Refused { ids }),
            Outcome::Unknown => {}
            Outcome::Ok(offsets) => {
                if offsets.len() != ids.len() {
                    let what = format!("{} events were appended at {offsets:?}", ids.len());
                    return witness.see(Seen::Wrong { invariant: 7, what });
                }
                let records = ids.iter().zip(fingerprints).zip(offsets);
                let records = records.map(|((id, fingerprint), offset)| (*id, fingerprint, offset)).collect();
                witness.see(Seen::Appended(Appended { client: self.number, partition, records, known }));
            }
        }
        witness.see(Seen::OneAppend { ids });
    }

    fn fresh_events(&mut self) -> (RecordSet, Vec<RequestId>) {
        let most = if self.rng.in_thousand(self.many) { MANY_EVENTS_MAX } else { EVENTS_MAX };
        let base = RequestId::from_bits((u128::from(self.rng.bits()) << 64) | u128::from(self.rng.bits()));
        let (mut builder, mut ids) = (RecordSetBuilder::default(), Vec::new());
        for number in 0..=self.rng.below(most) as u64 {
            self.events += 1;
            let key = self.rng.in_thousand(500).then(|| Bytes::from("k0"));
            let padding = ".".repeat(self.rng.below(60));
            let event = Record::event(key, Bytes::from(format!("l{}e{}{padding}", self.number, self.events)));
            builder.push(base.plus(number), &event).expect("the workload's events are within the limits");
            ids.push(base.plus(number));
        }
        (builder.finish(), ids)
    }

    /// Asks where the log ends: behind everything that was known before.
    async fn ask_tail(&mut self, partition: PartitionId) {
        let known = self.stage.witness.lock().known().get(&partition).copied().unwrap_or_default();
        let timeout = self.timeout();
        let answer = self.log.tail(partition, timeout).await;
        let mut witness = self.stage.witness.lock();
        match answer {
            Ok(answer) => {
                witness.count(&Outcome::Ok(()));
                let end = answer.committed_end;
                if end < known {
                    let what = format!("the tail of {partition} is {end}, and {known} was known before the question");
                    return witness.see(Seen::Wrong { invariant: 6, what });
                }
                witness.know(partition, end);
            }
            Err(_) => witness.count(&Outcome::<()>::Failed),
        }
    }

    /// Reads on, or anew from somewhere.
    async fn fetch(&mut self, partition: PartitionId) {
        let (mut from, mut last) = self.next.get(&partition).copied().unwrap_or_default();
        if self.rng.in_thousand(200) {
            (from, last) = (Offset::new(self.rng.below(from.get() as usize + 1) as u64), None);
        }
        let (bytes_max, wait) = (*self.rng.pick(&[1, 600, 64 * 1024]), Duration::from_millis(self.rng.within(0, 800)));
        let answer = self.log.fetch(partition, from, last, bytes_max, wait).await;
        let outcome = if answer.is_ok() { Outcome::Ok(()) } else { Outcome::Failed };
        self.stage.witness.lock().count(&outcome);
        match answer {
            Ok(fetched) => {
                let batches: Vec<(BatchId, Bytes)> =
                    fetched.batches.iter().map(|fetched| (fetched.id, fetched.batch.bytes().clone())).collect();
                let last = batches.last().map(|(id, _)| *id).or(last);
                let next_offset = fetched.next_offset;
                self.next.insert(partition, (next_offset, last));
                let client = self.number;
                let fetched = Fetched { client, partition, from, batches, next_offset };
                self.stage.witness.lock().see(Seen::Fetched(fetched));
            }
            // Nobody answers, or one node's bits have rotted.
            Err(FetchError::Unavailable { .. } | FetchError::Damaged { .. }) => {}
            Err(error) => self.wrong(2, format!("a fetch of {partition} from {from} behind {last:?}: {error}")),
        }
    }

    fn wrong(&self, invariant: u8, what: String) {
        self.stage.witness.lock().see(Seen::Wrong { invariant, what });
    }
}

/// The offset of each record, in order; nothing for those whose id is said to be another record's.
fn offsets(runs: &[AppendedRun]) -> Vec<Offset> {
    let of_run = |run: &AppendedRun| match *run {
        AppendedRun::At { first_offset, count } => {
            (0..u64::from(count)).map(|number| first_offset.plus(number)).collect::<Vec<_>>()
        }
        AppendedRun::KeyReused { .. } => Vec::new(),
    };
    runs.iter().flat_map(of_run).collect()
}
