//! Reads of one view while its index moves under them, at the worst moment: an index whose iterators are no snapshots, and
//! that lets a test step in between two of its steps.

use super::*;
use crate::index::{IndexError, Visit, Witness, WriteError, Writes};
use crate::testing::{Draft, MemoryLog, at, put, records};
use bytes::Bytes;
use duramen_common::HistoryId;
use duramen_common::log::FetchedBatch;
use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::mpsc;
use std::time::Duration;

const P0: PartitionId = PartitionId::new(0);
const KEYS: u32 = 8;

/// How long an intruder may be held off before the read goes on: what is kept out never gets further than that.
const HELD_OFF: Duration = Duration::from_millis(200);

type Intruder = Box<dyn FnOnce() + Send>;

/// As weak as the contract of [`Index`] allows: each step of a range sees what is there by then.
#[derive(Default)]
struct SteppingIndex {
    map: Mutex<BTreeMap<Vec<u8>, Vec<u8>>>,
    /// Runs once: before a `get` looks, or after a `range` has visited one key.
    intruder: Mutex<Option<Intruder>>,
}

impl SteppingIndex {
    fn let_in(&self) {
        let intruder = self.intruder.lock().take();
        let Some(intruder) = intruder else { return };
        let (done, is_done) = mpsc::sync_channel(1);
        std::thread::spawn(move || {
            intruder();
            let _ = done.send(());
        });
        let _ = is_done.recv_timeout(HELD_OFF);
    }
}

impl Index for SteppingIndex {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, IndexError> {
        self.let_in();
        Ok(self.map.lock().get(key).map(|value| Bytes::copy_from_slice(value)))
    }

    fn range(&self, start: Bound<&[u8]>, end: Bound<&[u8]>, visit: Visit<'_>) -> Result<(), IndexError> {
        let mut start = start.map(<[u8]>::to_vec);
        loop {
            let bounds = (start.as_ref().map(Vec::as_slice), end);
            let next = self.map.lock().range::<[u8], _>(bounds).next().map(|(key, value)| (key.clone(), value.clone()));
            let Some((key, value)) = next else { return Ok(()) };
            if visit(&key, &value).is_break() {
                return Ok(());
            }
            self.let_in();
            start = Bound::Excluded(key);
        }
    }

    fn write_seen(&self, mut writes: Writes, witness: Option<&mut dyn Witness>) -> Result<(), WriteError> {
        let mut map = self.map.lock();
        if let Some(witness) = witness {
            for (number, (key, _)) in writes.iter().enumerate() {
                witness.replaces(number, key, map.get(key).map(|old| &old[..])).unwrap();
            }
            let (key, value) = witness.closing();
            writes.push((key, Some(value)));
        }
        for (key, value) in writes {
            match value {
                Some(value) => map.insert(key, value),
                None => map.remove(&key),
            };
        }
        Ok(())
    }

    fn sync(&self) -> Result<(), IndexError> {
        Ok(())
    }

    fn blocks(&self) -> bool {
        false
    }
}

struct Rig {
    index: Arc<SteppingIndex>,
    view: Arc<PartitionView>,
}

impl Rig {
    fn new() -> Rig {
        let index = Arc::new(SteppingIndex::default());
        let log = Arc::new(MemoryLog::new(HistoryId::from_bits(1), 1));
        let shared = Shared {
            index: Arc::clone(&index) as Arc<dyn Index>,
            limit: Arc::new(WaitersLimit::new(10)),
            budget: Arc::new(Budget::new(1 << 20, 1 << 20)),
            recent_bytes_max: 1 << 20,
            alarm: Arc::default(),
        };
        let tail = TailQuestion::new(log, P0, Duration::from_secs(1));
        let view = Arc::new(PartitionView::open(P0, Ok(None), &shared, tail));
        Rig { index, view }
    }

    /// Every key written by the one record at `offset`.
    fn apply_all(view: &PartitionView, offset: u64) {
        let puts =
            (0..KEYS).map(|key| put(&format!("key-{key}"), &offset.to_string())).fold(Draft::default(), Draft::and);
        let batch = at(records(vec![puts]), offset);
        view.apply(&FetchedBatch { id: BatchId { term: 1, index: offset + 1 }, batch }, view.epoch()).unwrap();
    }

    /// Everything applied so far goes to the index.
    fn flush(view: &PartitionView) {
        view.state.write().close();
        while view.flush_oldest() {}
    }

    /// At the index's next step, a newer record is applied and flushed.
    fn intrude_with(&self, offset: u64) {
        let view = Arc::clone(&self.view);
        *self.index.intruder.lock() = Some(Box::new(move || {
            Rig::apply_all(&view, offset);
            Rig::flush(&view);
        }));
    }
}

/// Goal: a page is the state at the applied end that it names. Method: in the middle of a page a record that writes every key
/// is applied and flushed; half of the page would be of it.
#[test]
fn a_flush_in_the_middle_of_a_page_does_not_show_in_it() {
    let rig = Rig::new();
    Rig::apply_all(&rig.view, 0);
    Rig::flush(&rig.view);
    rig.intrude_with(1);
    let page = rig.view.scan(Bound::Unbounded, Bound::Unbounded, 100).unwrap();
    assert_eq!(page.value.len(), KEYS as usize);
    let wanted = page.applied_end.previous().unwrap();
    assert!(page.value.iter().all(|(_, item)| item.version == wanted), "a page of several positions: {page:?}");
}

/// Goal: a point read never shows more than the position it names, or a session would go back in time at the next node.
/// Method: between taking the position and looking into the index a newer record is applied and flushed.
#[test]
fn a_flush_in_the_middle_of_a_point_read_does_not_show_in_it() {
    let rig = Rig::new();
    Rig::apply_all(&rig.view, 0);
    Rig::flush(&rig.view);
    rig.intrude_with(1);
    let read = rig.view.get(b"key-3").unwrap();
    assert_eq!(read.value.unwrap().version, read.applied_end.previous().unwrap());
}

/// Goal: generations that queue up are read the newest first, flushed the oldest first, and their bytes are given back whether
/// they are flushed or wiped. Method: three closed generations of the same keys.
#[test]
fn generations_that_queue_up_are_read_newest_first() {
    let rig = Rig::new();
    for offset in 0..3 {
        Rig::apply_all(&rig.view, offset);
        rig.view.state.write().close();
    }
    for left in (0..3).rev() {
        assert_eq!(rig.view.get(b"key-0").unwrap().value.unwrap().version, Offset::new(2));
        let page = rig.view.scan(Bound::Unbounded, Bound::Unbounded, 3).unwrap();
        assert!(page.value.iter().all(|(_, item)| item.version == Offset::new(2)), "{left} left: {page:?}");
        assert_eq!(rig.view.flush_oldest(), left > 0);
        assert_eq!(rig.view.status().persisted_end, Offset::new(3 - left));
    }
    assert_eq!(rig.view.budget.used(), 0);
    for offset in 3..6 {
        Rig::apply_all(&rig.view, offset);
        rig.view.state.write().close();
    }
    rig.view.wipe().unwrap();
    assert_eq!(rig.view.budget.used(), 0, "a wipe gives back what was waiting");
}
