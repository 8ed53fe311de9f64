//! Where records come from: a file, which can be read again, or standard input, which cannot.

use crate::failure::Failure;
use std::fs::File;
use std::io::{BufRead, BufReader};
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
            Input::Stdin => Ok(Box::new(BufReader::with_capacity(BUFFER_BYTES, std::io::stdin()))),
            Input::File { path, .. } => open(path),
        }
    }
}

/// A reader of a file from its start.
pub fn open(path: &Path) -> Result<Reader, Failure> {
    let file = File::open(path).map_err(|error| unreadable(path, &error))?;
    Ok(Box::new(BufReader::with_capacity(BUFFER_BYTES, file)))
}

fn unreadable(path: &Path, error: &std::io::Error) -> Failure {
    Failure::failed(format!("cannot read {}: {error}", path.display()))
}
