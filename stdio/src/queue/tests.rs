//! Goal: whatever is on the other end, who pushes goes on at once; what was lost is counted and told.

use super::*;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

const SOON: Duration = Duration::from_secs(20);

/// The other end: takes what it is told to take, one answer for each write.
struct Scripted {
    answers: Receiver<io::Result<usize>>,
    taken: Arc<Mutex<Vec<u8>>>,
}

impl io::Write for Scripted {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // Without a script any more, everything is taken.
        let count = self.answers.recv().unwrap_or(Ok(usize::MAX))?.min(bytes.len());
        self.taken.lock().extend_from_slice(&bytes[..count]);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct Rig {
    queue: Queue,
    script: Option<SyncSender<io::Result<usize>>>,
    taken: Arc<Mutex<Vec<u8>>>,
}

impl Rig {
    fn new() -> Rig {
        let (script, answers) = sync_channel(100);
        let taken = Arc::<Mutex<Vec<u8>>>::default();
        let queue = Queue::new("test", Scripted { answers, taken: Arc::clone(&taken) });
        Rig { queue, script: Some(script), taken }
    }

    fn answer(&self, answer: io::Result<usize>) {
        self.script.as_ref().expect("the script goes on").send(answer).expect("somebody asks");
    }

    fn text(&self) -> String {
        String::from_utf8(self.taken.lock().clone()).unwrap()
    }

    fn dropped(&self) -> u64 {
        self.queue.dropped_lines().load(Ordering::Relaxed)
    }
}

/// Goal: a reader that does not read stops nobody, and learns how much it missed. Method: the thread is stuck in its first
/// write while far more than the queue holds is pushed; then the reader takes everything.
#[test]
fn a_stuck_reader_costs_lines_and_not_time() {
    let mut rig = Rig::new();
    let line = format!("{}\n", "x".repeat(1023));
    for _ in 0..4096 {
        rig.queue.push(line.as_bytes());
    }
    assert!(rig.text().is_empty() && !rig.queue.flush(Duration::from_millis(1)));
    // One batch is with the thread, which may have taken any number of lines; a full queue waits.
    let dropped = rig.dropped();
    assert!((2048..4096).contains(&dropped), "{dropped} of 4096 lines of 1 KiB were dropped");
    rig.script = None;
    assert!(rig.queue.flush(SOON));
    let text = rig.text();
    let notices: u64 = text
        .lines()
        .filter_map(|line| line.strip_suffix(" log lines dropped: test did not take them")?.parse::<u64>().ok())
        .sum();
    let whole = text.lines().filter(|&got| got == line.trim_end()).count() as u64;
    assert_eq!((notices, whole), (dropped, 4096 - dropped));
}

/// Goal: an error is not the end: what it met is dropped, the next line is tried, and no line is glued to half of another.
#[test]
fn what_is_refused_is_dropped_and_the_next_line_is_tried() {
    let mut rig = Rig::new();
    let refused = |kind: io::ErrorKind| Err(io::Error::from(kind));
    for kind in [io::ErrorKind::BrokenPipe, io::ErrorKind::StorageFull, io::ErrorKind::FileTooLarge] {
        rig.answer(refused(kind));
        rig.queue.push_line("nobody reads this");
        assert!(rig.queue.flush(SOON));
    }
    rig.answer(Ok(0));
    rig.queue.push(b"nor\nthis\n");
    assert!(rig.queue.flush(SOON));
    assert_eq!((rig.text().as_str(), rig.dropped()), ("", 5));
    // A line is cut in the middle: three bytes go out, the rest does not.
    rig.answer(Ok(3));
    rig.answer(refused(io::ErrorKind::StorageFull));
    rig.queue.push_line("cut off");
    assert!(rig.queue.flush(SOON));
    rig.script = None;
    rig.queue.push_line("whole again");
    assert!(rig.queue.flush(SOON));
    assert_eq!(rig.text(), "cut\nwhole again\n6 log lines dropped: test did not take them\n");
    rig.queue.push_line("and told once");
    assert!(rig.queue.flush(SOON));
    assert!(rig.text().ends_with("take them\nand told once\n"), "{}", rig.text());
}

/// Goal: a piece goes out whole and once, however few bytes each write takes and however many threads push.
#[test]
fn short_writes_and_many_threads_keep_pieces_whole() {
    let mut rig = Rig::new();
    for _ in 0..50 {
        rig.answer(Ok(3));
    }
    rig.script = None;
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let queue = &rig.queue;
            scope.spawn(move || (0..250).for_each(|number| queue.push_line(&format!("{thread}:{number}"))));
        }
    });
    assert!(rig.queue.flush(SOON));
    let text = rig.text();
    for thread in 0..4 {
        let prefix = format!("{thread}:");
        let own: Vec<usize> = text.lines().filter_map(|line| line.strip_prefix(&prefix)?.parse().ok()).collect();
        assert_eq!(own, (0..250).collect::<Vec<_>>());
    }
    assert_eq!((text.lines().count(), rig.dropped()), (1000, 0));
}

/// Goal: frames of a progress bar never crowd out lines. Method: with the thread stuck, a frame is left out, uncounted.
#[test]
fn a_frame_is_left_out_while_much_waits() {
    let mut rig = Rig::new();
    let much = "x".repeat(FRAME_BEHIND_MAX);
    rig.queue.push_line(&much);
    // What the thread holds does not wait any more; a second line does.
    rig.queue.push_line(&much);
    rig.queue.push_frame(b"left out");
    rig.script = None;
    assert!(rig.queue.flush(SOON));
    rig.queue.push_frame(b"seen");
    assert!(rig.queue.flush(SOON));
    assert_eq!((rig.text(), rig.dropped()), (format!("{much}\n{much}\nseen"), 0));
}
