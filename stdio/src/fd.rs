//! `Descriptor`: one of the process's standard descriptors, written to directly.
//!
//! * A write waits until the other end takes bytes, also where somebody made the descriptor non-blocking: that is a
//!   property of the open file, which other processes share and may set at any time.
//! * Errors are returned. SIGPIPE is ignored by Rust's runtime, so that a pipe without a reader is an error like others.
//! * Deliberately absent: buffers and locks, which `std::io` has; a thread that is stuck here must not hold a lock.

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use std::io;
use std::os::fd::BorrowedFd;

/// A standard descriptor.
pub(crate) struct Descriptor(BorrowedFd<'static>);

impl Descriptor {
    pub(crate) fn stdout() -> Descriptor {
        Descriptor(rustix::stdio::stdout())
    }

    pub(crate) fn stderr() -> Descriptor {
        Descriptor(rustix::stdio::stderr())
    }
}

impl io::Write for Descriptor {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            match rustix::io::write(self.0, bytes) {
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => match poll(&mut [PollFd::new(&self.0, PollFlags::OUT)], None) {
                    Ok(_) | Err(Errno::INTR) => {}
                    Err(error) => return Err(error.into()),
                },
                Err(error) => return Err(error.into()),
                Ok(written) => return Ok(written),
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read as _, Write as _};
    use std::os::fd::AsFd as _;

    /// Goal: a descriptor that another process made non-blocking loses nothing. Method: a non-blocking pipe that holds 64 KiB,
    /// 1 MiB through it, a reader of small pieces.
    #[test]
    fn a_non_blocking_pipe_is_waited_for() {
        let (mut reader, writer) = io::pipe().unwrap();
        rustix::io::ioctl_fionbio(&writer, true).unwrap();
        // Descriptors of the process live for ever; this one as long as the tests.
        let writer: &'static _ = Box::leak(Box::new(writer));
        let text: Vec<u8> = (0..1 << 20).map(|number: u32| number as u8).collect();
        let sent = text.clone();
        let sending = std::thread::spawn(move || Descriptor(writer.as_fd()).write_all(&sent));
        let mut read = vec![0; text.len()];
        for piece in read.chunks_mut(1000) {
            reader.read_exact(piece).unwrap();
        }
        assert!(sending.join().unwrap().is_ok() && read == text);
    }

    #[test]
    fn a_pipe_without_a_reader_is_an_error_like_others() {
        let (reader, writer) = io::pipe().unwrap();
        drop(reader);
        let writer: &'static _ = Box::leak(Box::new(writer));
        assert_eq!(Descriptor(writer.as_fd()).write(b"x").unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    }
}
