//! Sends batches, several at a time, and knows how far everything is acknowledged.
//!
//! * In: batches in the file's order, a [`Sink`]. Out: [`Progress`] as the acknowledged beginning grows, a final report.
//! * Invariant: `Progress::place` never passes a batch that is not acknowledged.
//! * Invariant: two batches with a key in common are never under way together, so that the file's last value of a key stays.
//! * Memory: at most `in_flight_max` batches here, and what the channel holds.
//! * Deliberately absent: HTTP, files, the terminal.

use super::batch::Batch;
use super::source::Place;
use crate::failure::Failure;
use duramen_common::SessionToken;
use futures_util::future::BoxFuture;
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use std::collections::{HashSet, VecDeque};
use tokio::sync::mpsc;

/// Takes batches.
pub trait Sink: Sync {
    /// Sends a batch until every op of it is acknowledged, and gives a token that covers them.
    fn send<'a>(&'a self, batch: &'a Batch) -> BoxFuture<'a, Result<SessionToken, Failure>>;
}

/// How far a load is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Everything before it is acknowledged.
    pub place: Place,
    /// Records before it.
    pub records: u64,
    /// Covers everything that is acknowledged.
    pub token: Option<SessionToken>,
}

/// How a load ended.
#[derive(Debug)]
pub enum Ended {
    /// At the end of the file.
    Whole,
    /// Somebody asked it to stop.
    Stopped,
    /// A batch could not be sent, or the file could not be read on.
    Failed(Failure),
    /// Batches were acknowledged by two clusters: going on would not help.
    TwoClusters(Failure),
}

/// What comes from the file.
pub type FromFile = Result<Batch, Failure>;

struct Slot {
    end: Place,
    records: u64,
    acknowledged: bool,
}

/// A load under way.
pub struct Engine<'a, S> {
    sink: &'a S,
    in_flight_max: usize,
    progress: Progress,
    /// Batches from `progress.place` on, in order; the acknowledged ones at the front are taken off.
    window: VecDeque<Slot>,
    /// Number of the window's first batch.
    window_first: u64,
    keys_in_flight: HashSet<u64>,
}

impl<'a, S: Sink> Engine<'a, S> {
    /// A load that goes on from `progress`.
    pub fn new(sink: &'a S, in_flight_max: usize, progress: Progress) -> Engine<'a, S> {
        Engine {
            sink,
            in_flight_max: in_flight_max.max(1),
            progress,
            window: VecDeque::new(),
            window_first: 0,
            keys_in_flight: HashSet::new(),
        }
    }

    /// Sends everything, telling `observe` each time the acknowledged beginning grows. Once `stop` is ready nothing new is
    /// sent; what is under way is waited for, however it ends.
    pub async fn run(
        mut self,
        mut batches: mpsc::Receiver<FromFile>,
        stop: impl Future<Output = ()>,
        mut observe: impl FnMut(&Progress) -> Result<(), Failure>,
    ) -> (Progress, Ended) {
        let sink = self.sink;
        let mut stop = std::pin::pin!(stop);
        let mut under_way = FuturesUnordered::new();
        let mut held: Option<Batch> = None;
        let mut ended: Option<Ended> = None;
        loop {
            if ended.is_none()
                && let Some(batch) = held.take_if(|batch| self.may_send(batch))
            {
                let number = self.admit(&batch);
                under_way.push(async move {
                    let answered = sink.send(&batch).await;
                    (number, batch.key_hashes, answered)
                });
                continue;
            }
            let wants_batch = ended.is_none() && held.is_none() && self.window.len() < self.in_flight_max;
            if !wants_batch && under_way.is_empty() {
                return (self.progress, ended.unwrap_or(Ended::Whole));
            }
            tokio::select! {
                biased;
                () = &mut stop, if ended.is_none() => ended = Some(Ended::Stopped),
                Some((number, keys, answered)) = under_way.next(), if !under_way.is_empty() => {
                    for key in &keys {
                        self.keys_in_flight.remove(key);
                    }
                    let noted = match answered {
                        Ok(token) => self.acknowledge(number, &token).map_err(Ended::TwoClusters).and_then(|grown| {
                            if grown { observe(&self.progress).map_err(Ended::Failed) } else { Ok(()) }
                        }),
                        Err(failure) => Err(Ended::Failed(failure)),
                    };
                    if let Err(failure) = noted {
                        ended = Some(worse(ended, failure));
                    }
                }
                received = batches.recv(), if wants_batch => match received {
                    Some(Ok(batch)) => held = Some(batch),
                    Some(Err(failure)) => ended = Some(Ended::Failed(failure)),
                    None => ended = Some(Ended::Whole),
                },
            }
        }
    }

    fn may_send(&self, batch: &Batch) -> bool {
        self.window.len() < self.in_flight_max && !batch.key_hashes.iter().any(|key| self.keys_in_flight.contains(key))
    }

    fn admit(&mut self, batch: &Batch) -> u64 {
        self.keys_in_flight.extend(&batch.key_hashes);
        self.window.push_back(Slot { end: batch.end, records: batch.records, acknowledged: false });
        self.window_first + self.window.len() as u64 - 1
    }

    /// Notes an acknowledgement; says whether the acknowledged beginning grew.
    fn acknowledge(&mut self, number: u64, token: &SessionToken) -> Result<bool, Failure> {
        match &mut self.progress.token {
            None => self.progress.token = Some(token.clone()),
            Some(seen) => seen
                .merge(token)
                .map_err(|other| Failure::failed(format!("the cluster changed while loading: {other}")))?,
        }
        let index = usize::try_from(number - self.window_first).expect("the window is small");
        if let Some(slot) = self.window.get_mut(index) {
            slot.acknowledged = true;
        }
        let mut grown = false;
        while let Some(slot) = self.window.pop_front_if(|slot| slot.acknowledged) {
            self.window_first += 1;
            self.progress.place = slot.end;
            self.progress.records += slot.records;
            grown = true;
        }
        Ok(grown)
    }
}

/// The first failure counts, except that an unknown outcome is not hidden by one that is certain.
fn worse(before: Option<Ended>, after: Ended) -> Ended {
    match (before, after) {
        (Some(failed @ (Ended::Failed(Failure::UnknownLoad { .. }) | Ended::TwoClusters(_))), _) => failed,
        (_, unknown @ (Ended::Failed(Failure::UnknownLoad { .. }) | Ended::TwoClusters(_))) => unknown,
        (Some(failed @ Ended::Failed(_)), _) => failed,
        (None | Some(Ended::Whole | Ended::Stopped), after) => after,
    }
}

#[cfg(test)]
mod tests;
