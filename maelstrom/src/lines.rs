//! Lines: Maelstrom's network as this process has it, stdin and stdout, each on a thread of its own.
//!
//! * In: lines as they come. Out: lines, whole, many to a write.
//! * Limits: a line over [`LINE_BYTES_MAX`] is thrown away as it comes; [`LINES_MAX`] wait in either direction. Beyond,
//!   nothing more is read, and what asks to be sent is refused or waits.
//! * Deliberately absent: what lines mean.

use bytes::Bytes;
use std::io::{self, BufRead, Write};
use std::thread::JoinHandle;
use tokio::sync::mpsc;

/// Longest line: the largest frame between nodes as base64, with room for what stands around it. Unit: bytes.
pub const LINE_BYTES_MAX: usize = 24 * 1024 * 1024;
/// Most lines that wait to be handled, or to be written.
const LINES_MAX: usize = 4096;
/// Most lines in one write.
const LINES_A_WRITE: usize = 256;

/// Begins to read lines; the channel closes at the end of the input.
pub fn read(input: impl BufRead + Send + 'static) -> io::Result<mpsc::Receiver<Vec<u8>>> {
    let (sender, lines) = mpsc::channel(LINES_MAX);
    std::thread::Builder::new().name("stdin".to_owned()).spawn(move || {
        let mut input = input;
        loop {
            match read_line(&mut input, LINE_BYTES_MAX) {
                Ok(Some(line)) if line.is_empty() => {}
                Ok(Some(line)) => {
                    if sender.blocking_send(line).is_err() {
                        return;
                    }
                }
                Ok(None) => return,
                Err(error) => {
                    tracing::error!(%error, "cannot read: ending");
                    return;
                }
            }
        }
    })?;
    Ok(lines)
}

/// The next line without its end; empty where it was too long. `None` at the end of the input.
fn read_line(input: &mut impl BufRead, bytes_max: usize) -> io::Result<Option<Vec<u8>>> {
    let (mut line, mut too_long, mut begun) = (Vec::new(), false, false);
    loop {
        let piece = match input.fill_buf() {
            Ok(piece) => piece,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        if piece.is_empty() {
            return Ok(begun.then_some(line));
        }
        begun = true;
        let (text, used, is_whole) = match piece.iter().position(|&byte| byte == b'\n') {
            Some(end) => (piece.get(..end).unwrap_or_default(), end + 1, true),
            None => (piece, piece.len(), false),
        };
        if line.len() + text.len() > bytes_max {
            too_long = true;
            line = Vec::new();
        }
        if !too_long {
            line.extend_from_slice(text);
        }
        input.consume(used);
        if is_whole {
            if too_long {
                tracing::warn!(limit = bytes_max, "a line over the limit was thrown away");
            }
            return Ok(Some(line));
        }
    }
}

/// Where lines go out. Cloning shares it; the writer ends with the last clone.
#[derive(Clone)]
pub struct Outbox {
    lines: mpsc::Sender<Bytes>,
}

/// A line was not taken: too many wait, or nobody reads any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("too many lines wait to be written")]
pub struct NotTaken;

impl Outbox {
    /// Begins to write; the thread ends when nobody can send any more.
    pub fn start(output: impl Write + Send + 'static) -> io::Result<(Outbox, JoinHandle<()>)> {
        let (lines, waiting) = mpsc::channel(LINES_MAX);
        let writer = std::thread::Builder::new().name("stdout".to_owned()).spawn(move || {
            if let Err(error) = write(output, waiting) {
                tracing::error!(%error, "cannot write: nobody hears this node any more");
            }
        })?;
        Ok((Outbox { lines }, writer))
    }

    /// One whose lines a test takes itself.
    #[cfg(test)]
    pub fn unwritten() -> (Outbox, mpsc::Receiver<Bytes>) {
        let (lines, waiting) = mpsc::channel(LINES_MAX);
        (Outbox { lines }, waiting)
    }

    /// Sends now or not at all.
    pub fn try_send(&self, line: Vec<u8>) -> Result<(), NotTaken> {
        self.lines.try_send(Bytes::from(line)).map_err(|_| NotTaken)
    }

    /// Sends when there is room. A line that nobody reads any more is lost, as on any network.
    pub async fn send(&self, line: Vec<u8>) {
        let _ = self.lines.send(Bytes::from(line)).await;
    }
}

fn write(output: impl Write, mut waiting: mpsc::Receiver<Bytes>) -> io::Result<()> {
    let mut output = io::BufWriter::new(output);
    while let Some(line) = waiting.blocking_recv() {
        output.write_all(&line)?;
        for _ in 1..LINES_A_WRITE {
            match waiting.try_recv() {
                Ok(line) => output.write_all(&line)?,
                Err(_) => break,
            }
        }
        output.flush()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_come_whole_and_those_over_the_limit_do_not() {
        let text = b"one\n\nabcdefghij\ntwo\nunfinished";
        for capacity in 1..text.len() {
            let mut input = io::BufReader::with_capacity(capacity, &text[..]);
            let mut lines = Vec::new();
            while let Some(line) = read_line(&mut input, 9).unwrap() {
                lines.push(String::from_utf8(line).unwrap());
            }
            assert_eq!(lines, ["one", "", "", "two", ""], "read by {capacity}");
        }
    }

    #[tokio::test]
    async fn what_is_not_taken_is_said_to_be() {
        let (lines, waiting) = mpsc::channel(1);
        let outbox = Outbox { lines };
        assert_eq!(outbox.try_send(vec![b'1']), Ok(()));
        assert_eq!(outbox.try_send(vec![b'2']), Err(NotTaken));
        drop(waiting);
        assert_eq!(outbox.try_send(vec![b'3']), Err(NotTaken));
    }
}
