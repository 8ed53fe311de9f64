//! Goal: a load cut at any batch and resumed leaves what a whole one leaves. Method: a fake sink, cuts at every batch.

use super::*;
use crate::load::batch::Batches;
use crate::load::shape::{Format, Shape, ShapeArgs};
use crate::load::source::Source;
use proptest::prelude::*;
use std::collections::{BTreeMap, HashMap};
use std::io::Cursor;
use std::path::Path;
use std::sync::Mutex;

/// A store that takes batches late, out of order, and breaks off after some. What it did take twice under one idempotency
/// key it takes once, as the log does.
#[derive(Default)]
struct Store {
    state: Mutex<Stored>,
    /// Sends left before everything fails; what fails may have been taken all the same.
    sends_left: Mutex<Option<usize>>,
}

#[derive(Default)]
struct Stored {
    values: BTreeMap<String, String>,
    taken: HashMap<u64, bytes::Bytes>,
    under_way: Vec<String>,
}

fn ops(body: &[u8]) -> Vec<(String, String)> {
    let body: serde_json::Value = serde_json::from_slice(body).unwrap();
    let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
    body["ops"].as_array().unwrap().iter().map(|op| (text(&op["put"]["key"]), text(&op["put"]["value"]))).collect()
}

impl Sink for Store {
    fn send<'a>(&'a self, batch: &'a Batch) -> BoxFuture<'a, Result<SessionToken, Failure>> {
        Box::pin(async move {
            let ops = ops(&batch.body);
            {
                let mut stored = self.state.lock().unwrap();
                for (key, _) in &ops {
                    assert!(!stored.under_way.contains(key), "{key} is under way twice");
                }
                stored.under_way.extend(ops.iter().map(|(key, _)| key.clone()));
            }
            let failing = {
                let mut left = self.sends_left.lock().unwrap();
                let failing = *left == Some(0);
                *left = left.map(|left| left.saturating_sub(1));
                failing
            };
            // Answers come in an order of their own.
            for _ in 0..(batch.start.byte * 7 % 5) {
                tokio::task::yield_now().await;
            }
            let mut stored = self.state.lock().unwrap();
            for (key, _) in &ops {
                stored.under_way.retain(|other| other != key);
            }
            let is_lost = failing && batch.start.byte.is_multiple_of(2);
            if !is_lost {
                match stored.taken.get(&batch.start.byte) {
                    Some(before) => assert_eq!(before, &batch.body, "one idempotency key for two batches"),
                    None => {
                        stored.taken.insert(batch.start.byte, batch.body.clone());
                        stored.values.extend(ops);
                    }
                }
            }
            if failing {
                return Err(Failure::failed("cut"));
            }
            Ok(format!("c7f3a1.0:{}", batch.end.byte).parse().unwrap())
        })
    }
}

fn shape() -> Shape {
    ShapeArgs { format: Some(Format::Csv), ..ShapeArgs::default() }.resolve(Path::new("a.csv")).unwrap()
}

/// Runs a load of `text` from `progress` on; gives back how far it got.
fn load(
    text: &[u8],
    store: &Store,
    progress: Progress,
    batch_records: usize,
    in_flight_max: usize,
) -> (Progress, Ended) {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let mut source = Source::open(Cursor::new(text.to_vec()), &shape()).unwrap();
        source.skip_to(progress.place).unwrap();
        let mut batches = Batches::new(source, batch_records);
        let (give, take) = mpsc::channel(1000);
        while let Some(batch) = batches.next_batch().unwrap() {
            give.send(Ok(batch)).await.unwrap();
        }
        drop(give);
        let mut last = progress.place.byte;
        let observe = |progress: &Progress| {
            assert!(progress.place.byte > last);
            last = progress.place.byte;
            Ok(())
        };
        Engine::new(store, in_flight_max, progress).run(take, std::future::pending(), observe).await
    })
}

const START: Progress = Progress { place: Place { byte: 0, line: 0, fingerprint: 0 }, records: 0, token: None };

proptest! {
    /// Goal: a load that is cut at any batch, any number of times, and goes on each time ends with the state of a load in one
    /// go; keys that come several times keep the file's last value. Method: a store that fails after some sends, half of
    /// what fails being taken all the same.
    #[test]
    fn a_load_that_was_cut_ends_like_one_that_was_not(
        records in proptest::collection::vec(("[a-f]{1,2}", "[a-z]{0,3}"), 1..80),
        cuts in proptest::collection::vec(0usize..6, 0..6),
        batch_records in 1usize..6,
        in_flight_max in 1usize..5,
    ) {
        let text: String = records.iter().map(|(key, value)| format!("{key},{value}\n")).collect();
        let wanted: BTreeMap<String, String> = records.iter().cloned().collect();
        let store = Store::default();
        let mut progress = START;
        for cut in cuts {
            *store.sends_left.lock().unwrap() = Some(cut);
            let (reached, ended) = load(text.as_bytes(), &store, progress, batch_records, in_flight_max);
            prop_assert!(!matches!(ended, Ended::Stopped));
            progress = reached;
            if matches!(ended, Ended::Whole) {
                break;
            }
        }
        *store.sends_left.lock().unwrap() = None;
        let (reached, ended) = load(text.as_bytes(), &store, progress, batch_records, in_flight_max);
        prop_assert!(matches!(ended, Ended::Whole), "{:?}", ended);
        prop_assert_eq!(reached.records, records.len() as u64);
        prop_assert_eq!(reached.place.byte, text.len() as u64);
        prop_assert_eq!(&store.state.lock().unwrap().values, &wanted);
    }
}

/// Goal: asked to stop, a load waits for what is under way and counts it, and sends nothing more.
#[tokio::test]
async fn a_load_that_is_asked_to_stop_counts_what_was_under_way() {
    struct Gate(tokio::sync::Semaphore, Mutex<u64>);
    impl Sink for Gate {
        fn send<'a>(&'a self, _: &'a Batch) -> BoxFuture<'a, Result<SessionToken, Failure>> {
            Box::pin(async move {
                *self.1.lock().unwrap() += 1;
                let _ = self.0.acquire().await;
                Ok("c7f3a1.0:1".parse().unwrap())
            })
        }
    }
    let gate = Gate(tokio::sync::Semaphore::new(0), Mutex::new(0));
    let text = "a,1\nb,2\nc,3\nd,4\n";
    let mut batches = Batches::new(Source::open(Cursor::new(text), &shape()).unwrap(), 1);
    let (give, take) = mpsc::channel(10);
    while let Some(batch) = batches.next_batch().unwrap() {
        give.send(Ok(batch)).await.unwrap();
    }
    let stop = async {
        while *gate.1.lock().unwrap() < 2 {
            tokio::task::yield_now().await;
        }
        gate.0.add_permits(10);
    };
    let (progress, ended) = Engine::new(&gate, 2, START).run(take, stop, |_| Ok(())).await;
    assert!(matches!(ended, Ended::Stopped), "{ended:?}");
    assert_eq!((progress.records, progress.place.byte, progress.place.line), (2, 8, 2));
    assert_eq!(*gate.1.lock().unwrap(), 2);
}
