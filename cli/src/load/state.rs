//! How far a load got, in a small JSON file: what an interrupted load goes on from.
//!
//! * Invariant: everything before `place` is acknowledged. What lies behind it may be too: sending it again under the same
//!   `load` id is harmless.
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
    /// Its length when the load began.
    pub file_bytes: u64,
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
pub const STATE_FORMAT_VERSION: u32 = 1;

impl State {
    /// The idempotency key of the batch that begins at `place`.
    #[must_use]
    pub fn idempotency_key(&self, place: Place) -> String {
        format!("{}-{}", self.load, place.byte)
    }

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
        std::fs::write(&temporary, text).map_err(|error| failed(&error))?;
        std::fs::rename(&temporary, path).map_err(|error| failed(&error))
    }

    /// Whether a load of this file, read this way, may go on from here.
    pub fn check_same(&self, fresh: &State) -> Result<(), Failure> {
        let other =
            |what: &str| Err(Failure::failed(format!("the interrupted load was {what}: start over without --resume")));
        if self.file != fresh.file {
            return other(&format!("of {}", self.file.display()));
        }
        if self.file_bytes != fresh.file_bytes {
            return other(&format!("of a file of {} bytes, now it has {}", self.file_bytes, fresh.file_bytes));
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
            file_bytes: 100,
            shape: ShapeArgs::default().resolve(Path::new("a.csv")).unwrap(),
            batch_records: 500,
            load: "load-1".into(),
            place: Place { byte: 17, line: 3 },
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
        assert!(one.check_same(&State { file_bytes: 101, ..one.clone() }).is_err());
        assert!(one.check_same(&State { batch_records: 1, ..one.clone() }).is_err());
    }
}
