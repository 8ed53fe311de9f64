//! Where records come from: a file, which can be read again, or standard input, which cannot.

use crate::failure::Failure;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

/// Bytes read at a time.
const BUFFER_BYTES: usize = 256 * 1024;

/// A reader that can go to a thread.
pub type Reader = Box<dyn BufRead + Send>;

/// What is loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// `-`.
    Stdin,
    /// A regular file.
    File {
        /// Where it is, without links and relative parts.
        path: PathBuf,
        /// Its length when it was first looked at.
        bytes: u64,
    },
}

impl Input {
    /// What an argument means: `-` or a file's name.
    pub fn of(argument: &Path) -> Result<Input, Failure> {
        if argument == Path::new("-") {
            return Ok(Input::Stdin);
        }
        let path = std::fs::canonicalize(argument).map_err(|error| unreadable(argument, &error))?;
        let metadata = std::fs::metadata(&path).map_err(|error| unreadable(argument, &error))?;
        if !metadata.is_file() {
            let shown = argument.display();
            return Err(Failure::failed(format!("{shown} is not a file; a pipe is read as: duramen load - <{shown}")));
        }
        Ok(Input::File { path, bytes: metadata.len() })
    }

    /// Its name, for messages and for the state.
    #[must_use]
    pub fn path(&self) -> &Path {
        match self {
            Input::Stdin => Path::new("standard input"),
            Input::File { path, .. } => path,
        }
    }

    /// Its length; 0 where it is not known.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        match self {
            Input::Stdin => 0,
            Input::File { bytes, .. } => *bytes,
        }
    }

    /// A reader from the start; of standard input from wherever it is.
    pub fn open(&self) -> Result<Reader, Failure> {
        match self {
            Input::Stdin => Ok(Box::new(BufReader::with_capacity(BUFFER_BYTES, io::stdin()))),
            Input::File { path, .. } => open(path),
        }
    }
}

/// A reader of a file from its start.
pub fn open(path: &Path) -> Result<Reader, Failure> {
    let file = File::open(path).map_err(|error| unreadable(path, &error))?;
    Ok(Box::new(BufReader::with_capacity(BUFFER_BYTES, WholeFile { file, read: 0 })))
}

/// A file that must not become shorter while it is read: what was read of its last record would pass for the whole of it.
struct WholeFile {
    file: File,
    /// Unit: bytes.
    read: u64,
}

impl Read for WholeFile {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read(buffer)?;
        self.read += read as u64;
        if read == 0 && !buffer.is_empty() && self.file.metadata()?.len() < self.read {
            return Err(io::Error::other("it became shorter while it was read"));
        }
        Ok(read)
    }
}

fn unreadable(path: &Path, error: &io::Error) -> Failure {
    Failure::failed(format!("cannot read {}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: a file that is cut off under a load is no shorter file. Method: cut off after its first part was read.
    #[test]
    fn a_file_that_becomes_shorter_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rows");
        let bytes = vec![b'x'; BUFFER_BYTES * 2];
        std::fs::write(&path, &bytes).unwrap();
        let mut reader = open(&path).unwrap();
        let mut part = vec![0; 10];
        reader.read_exact(&mut part).unwrap();
        File::options().write(true).open(&path).unwrap().set_len(1000).unwrap();
        let error = reader.read_to_end(&mut Vec::new()).unwrap_err();
        assert!(error.to_string().contains("became shorter"), "{error}");
        std::fs::write(&path, &bytes).unwrap();
        let mut all = Vec::new();
        open(&path).unwrap().read_to_end(&mut all).unwrap();
        assert_eq!(all, bytes);
    }
}
