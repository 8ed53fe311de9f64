//! How far a load got, in a small JSON file: what an interrupted load goes on from.
//!
//! * Invariant: everything before `place` is acknowledged. What comes after it may be too: sending it again under the same
//!   `load` id is harmless.
//! * The place carries a fingerprint of what is before it. A file that has changed there is refused; what has changed after
//!   it is read as it is now.
//! * Written to a temporary file and renamed. Not synced: after a crash an older state only means more repeats.

use super::shape::Shape;
use super::source::Place;
use crate::failure::Failure;
use duramen_common::SessionToken;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// What is recorded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct State {
    /// The form of this file.
    pub format_version: u32,
    /// The file that is loaded.
    pub file: PathBuf,
    /// How its bytes are read.
    pub shape: Shape,
    /// How batches are cut.
    pub batch_records: usize,
    /// Begins every idempotency key of this load.
    pub load: String,
    /// Everything before it is acknowledged.
    pub place: Place,
    /// Records before it.
    pub records: u64,
    /// Covers everything that was acknowledged; nothing yet without.
    pub token: Option<SessionToken>,
}

/// The only form that is known.
pub const STATE_FORMAT_VERSION: u32 = 2;

impl State {
    /// Reads a state; `None` when there is no such file.
    pub fn read(path: &Path) -> Result<Option<State>, Failure> {
        let unreadable = |why: String| {
            Failure::failed(format!("{} is no state of a load ({why}): remove it and start over", path.display()))
        };
        let text = match std::fs::read(path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Failure::failed(format!("cannot read {}: {error}", path.display()))),
        };
        let state: State = serde_json::from_slice(&text).map_err(|error| unreadable(error.to_string()))?;
        if state.format_version != STATE_FORMAT_VERSION {
            return Err(unreadable(format!("format version {}", state.format_version)));
        }
        Ok(Some(state))
    }

    /// Refuses a path where something else is than what an interrupted load of the same file has left.
    pub fn check_free(path: &Path, file: &Path) -> Result<(), Failure> {
        let elsewhere = "name another file with --state";
        match std::fs::metadata(path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(Failure::failed(format!("cannot look at {}: {error}", path.display()))),
            Ok(metadata) if !metadata.is_file() => {
                return Err(Failure::usage(format!("{} is not a file: {elsewhere}", path.display())));
            }
            Ok(_) => {}
        }
        match State::read(path) {
            Ok(Some(state)) if state.file != file => Err(Failure::failed(format!(
                "{} is of an interrupted load of {}: go on with that one, remove it, or {elsewhere}",
                path.display(),
                state.file.display()
            ))),
            Ok(_) => Ok(()),
            Err(_) => Err(Failure::failed(format!(
                "{} is there and is no state of a load: {elsewhere}, or remove it",
                path.display()
            ))),
        }
    }

    /// Whether what stands at the path is of this load; true where nothing does.
    pub fn is_at(&self, path: &Path) -> bool {
        match State::read(path) {
            Ok(found) => found.is_none_or(|found| found.load == self.load),
            Err(_) => false,
        }
    }

    /// Writes it in place of the one before.
    pub fn write(&self, path: &Path) -> Result<(), Failure> {
        let failed = |error: &dyn std::fmt::Display| {
            Failure::failed(format!(
                "cannot write {}: {error}; say where with --state, or give --no-state",
                path.display()
            ))
        };
        let text = serde_json::to_vec_pretty(self).map_err(|error| failed(&error))?;
        let mut temporary = path.as_os_str().to_owned();
        temporary.push(".new");
        let written = std::fs::write(&temporary, text).and_then(|()| std::fs::rename(&temporary, path));
        written.map_err(|error| {
            // A part of it must not stay behind. When it cannot be removed either, the error says enough.
            let _ = std::fs::remove_file(&temporary);
            failed(&error)
        })
    }

    /// Whether a load of this file, read this way, may go on from here. Whether its bytes are the same is seen when it is read.
    pub fn check_same(&self, fresh: &State) -> Result<(), Failure> {
        let other =
            |what: &str| Err(Failure::failed(format!("the interrupted load was {what}: start over without --resume")));
        if self.file != fresh.file {
            return other(&format!("of {}", self.file.display()));
        }
        if self.shape != fresh.shape || self.batch_records != fresh.batch_records {
            return other("with other options");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::shape::ShapeArgs;

    fn state(path: &str) -> State {
        State {
            format_version: STATE_FORMAT_VERSION,
            file: path.into(),
            shape: ShapeArgs::default().resolve(Path::new("a.csv")).unwrap(),
            batch_records: 500,
            load: "load-1".into(),
            place: Place { byte: 17, line: 3, fingerprint: 5 },
            records: 3,
            token: Some("c7f3a1.0:17".parse().unwrap()),
        }
    }

    #[test]
    fn a_state_is_read_as_it_was_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state");
        assert_eq!(State::read(&path).unwrap(), None);
        state("a.csv").write(&path).unwrap();
        assert_eq!(State::read(&path).unwrap(), Some(state("a.csv")));
        std::fs::write(&path, "{}").unwrap();
        assert!(State::read(&path).is_err());
    }

    #[test]
    fn a_load_does_not_go_on_with_another_file_or_other_options() {
        let one = state("a.csv");
        assert!(one.check_same(&one).is_ok());
        assert!(one.check_same(&state("b.csv")).is_err());
        assert!(one.check_same(&State { batch_records: 1, ..one.clone() }).is_err());
    }

    /// Goal: nothing that is not a state of this very file is written over. Method: each thing that may stand there.
    #[test]
    fn what_is_no_state_of_this_file_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state");
        let check = || State::check_free(&path, Path::new("a.csv"));
        assert!(check().is_ok(), "nothing is there");
        state("a.csv").write(&path).unwrap();
        assert!(check().is_ok());
        assert!(state("a.csv").is_at(&path));
        assert!(!State { load: "load-2".into(), ..state("a.csv") }.is_at(&path));
        state("b.csv").write(&path).unwrap();
        assert!(check().unwrap_err().to_string().contains("b.csv"));
        std::fs::write(&path, "key,value\n").unwrap();
        assert!(check().unwrap_err().to_string().contains("no state of a load"));
        std::fs::remove_file(&path).unwrap();
        std::fs::create_dir(&path).unwrap();
        assert!(check().unwrap_err().to_string().contains("not a file"));
    }
}
