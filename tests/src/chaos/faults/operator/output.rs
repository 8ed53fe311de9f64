//! Logs that go nowhere: a collector that is gone, one that does not read, a disk that is full.
//!
//! * Standard output and standard error go there, and the node is told to log much.
//! * Expected: the node starts, serves and ends at SIGTERM as if nothing were wrong. What it could not log may be lost.

use super::{BOTH, SERVED_WITHIN};
use crate::chaos::faults::Hold;
use crate::chaos::stage::Stage;
use crate::harness::Rng;
use crate::harness::process::Manner;
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use std::fs::File;
use std::io::{PipeReader, PipeWriter, Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// More lines than a node has by default, so that a pipe fills soon.
const MUCH: &str = "debug";

/// What a pipe still takes when a collector falls asleep. Unit: bytes.
const ROOM: usize = 4096;

/// What reads a node's log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::chaos::faults) enum Collector {
    /// A pipe whose reader goes away while the node runs, or before it starts.
    Gone,
    /// A full disk.
    Full,
    /// A pipe whose reader does not read; then it does.
    Asleep,
}

pub(in crate::chaos::faults) async fn broken(
    stage: &mut Stage,
    rng: &mut Rng,
    hold: &Hold,
    collector: Collector,
) -> Result<String, String> {
    let victim = stage.some_victim(rng).await;
    let (sink, mut reader) = sink(collector).map_err(|error| format!("a broken collector: {error}"))?;
    let (is_gone_before, wakes_up) = (rng.below(2) == 0, rng.below(2) == 0);
    let leaves = Arc::new(AtomicBool::new(is_gone_before));
    if collector == Collector::Gone
        && let Some(reader) = reader.take()
    {
        read_until(reader, Arc::clone(&leaves));
    }
    let variables = vec![("DURAMEN_LOG".into(), MUCH.into())];
    stage.set_manner(victim, Manner { sink: Some(sink), variables, ..Manner::default() });
    stage.restart(victim).await?;
    if collector != Collector::Asleep {
        stage.ready(victim).await?;
    }
    leaves.store(true, Ordering::Relaxed);
    hold.wait().await;
    stage.check_alive(&[victim])?;
    stage.serves(&BOTH, SERVED_WITHIN).await?;
    stage.ready(victim).await?;
    let reading = reader.filter(|_| wakes_up).map(|mut reader| {
        // Ends when the last process that writes there is gone.
        std::thread::spawn(move || reader.read_to_end(&mut Vec::new()))
    });
    if reading.is_some() {
        stage.serves(&BOTH, SERVED_WITHIN).await?;
    }
    // It must also end like this.
    let stopped = stage.stop(victim).await;
    stage.put_back(victim);
    if stopped.is_ok() {
        stage.start_node(victim);
    }
    stopped?;
    let read = reading.map(|thread| thread.join().map_or(0, |read| read.unwrap_or(0)));
    let how = match (collector, read) {
        (Collector::Gone, _) if is_gone_before => "gone before the start".to_owned(),
        (Collector::Gone, _) => "gone while it runs".to_owned(),
        (Collector::Full, _) => "a full disk".to_owned(),
        (Collector::Asleep, None) => "never reads".to_owned(),
        (Collector::Asleep, Some(read)) => format!("reads {read} bytes late"),
    };
    Ok(format!("{victim}, {how}"))
}

/// Reads on a thread until it is to leave, which it notices at the next line. Then the pipe has no reader.
fn read_until(mut reader: PipeReader, leaves: Arc<AtomicBool>) {
    std::thread::spawn(move || {
        while !leaves.load(Ordering::Relaxed) && reader.read(&mut [0; ROOM]).is_ok_and(|count| count > 0) {}
    });
}

/// Where the node writes, and what could read it.
fn sink(collector: Collector) -> std::io::Result<(File, Option<PipeReader>)> {
    if collector == Collector::Full {
        return Ok((File::options().write(true).open("/dev/full")?, None));
    }
    let (mut reader, mut writer) = std::io::pipe()?;
    if collector == Collector::Asleep {
        fill(&mut writer)?;
        reader.read_exact(&mut [0; ROOM])?;
    }
    Ok((File::from(OwnedFd::from(writer)), Some(reader)))
}

/// Writes until the pipe takes no more, however large it is here.
fn fill(writer: &mut PipeWriter) -> std::io::Result<()> {
    let flags = fcntl_getfl(&*writer)?;
    fcntl_setfl(&*writer, flags | OFlags::NONBLOCK)?;
    let filled = loop {
        match writer.write(&[b'\n'; ROOM]) {
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => break Ok(()),
            Err(error) => break Err(error),
        }
    };
    // The flag belongs to the pipe's end, which the node gets.
    fcntl_setfl(&*writer, flags)?;
    filled
}
