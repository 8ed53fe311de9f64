//! Marker: a small file beside the index that says whose it is and how it was left.
//!
//! * Decides ([`Marker::judge`], pure): may what is found be used, and if not, why.
//! * The file is replaced whole (written aside, synced, renamed, folder synced).
//! * Source: DESIGN D8; docs/formats.md "Index".

use super::layout::INDEX_FORMAT;
use crate::partitions::IndexKind;
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{self, Write as _};
use std::path::Path;
use xxhash_rust::xxh3::xxh3_64;

/// How the index was left.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Left {
    /// Somebody began to open or to check it and did not come through.
    Opening,
    /// In use: a killed process leaves it so, and its writes are with the kernel.
    Open,
    /// It failed, and is being replaced.
    Broken,
    /// Everything is on the medium.
    Clean,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Marker {
    pub format: u32,
    pub history: String,
    pub index: IndexKind,
    pub boot_id: String,
    pub left: Left,
    /// The folder of the index's own files, beside the marker.
    pub files: String,
}

/// The file: a marker, and a checksum over what it says. Without it a flipped bit could name another history.
#[derive(Serialize, Deserialize)]
struct MarkerFile {
    #[serde(flatten)]
    marker: Marker,
    /// xxh3-64, 16 hexadecimal digits.
    checksum: String,
}

/// Why an index was wiped, to be replayed from the log.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WipeReason {
    /// There is data without a readable marker.
    #[error("its marker is missing or unreadable")]
    NoMarker,
    /// Another version wrote it.
    #[error("it has format {found}, this program writes {INDEX_FORMAT}")]
    Format {
        /// What was found.
        found: u32,
    },
    /// It belongs to another cluster.
    #[error("it belongs to history {found}, the log's is {wanted}")]
    OtherHistory {
        /// What was found.
        found: String,
        /// The log's.
        wanted: String,
    },
    /// The configuration asks for another kind.
    #[error("it was kept by {found:?}, and {wanted:?} is asked for")]
    OtherKind {
        /// What was found.
        found: IndexKind,
        /// What is asked for.
        wanted: IndexKind,
    },
    /// The machine restarted without a clean stop: pages that never reached the medium are lost.
    #[error("the machine restarted without a clean stop of this node")]
    MachineRestarted,
    /// The last start died while opening it.
    #[error("the last start did not survive opening and checking it")]
    DiedOpening,
    /// It failed, and was to be replaced.
    #[error("it failed before the last stop")]
    Broken,
    /// It does not open.
    #[error("it does not open: {reason}")]
    DoesNotOpen {
        /// What was said.
        reason: String,
    },
}

impl Marker {
    /// What a node that opens it now writes: whose it is, `Opening`.
    pub(super) fn opening(history: &str, index: IndexKind, boot_id: &str, files: &str) -> Marker {
        Marker {
            format: INDEX_FORMAT,
            history: history.to_owned(),
            index,
            boot_id: boot_id.to_owned(),
            left: Left::Opening,
            files: files.to_owned(),
        }
    }

    /// Whether what `found` describes may be used by who would write `self`.
    pub(super) fn judge(&self, found: &Marker) -> Result<(), WipeReason> {
        if found.format != self.format {
            return Err(WipeReason::Format { found: found.format });
        }
        if found.history != self.history {
            return Err(WipeReason::OtherHistory { found: found.history.clone(), wanted: self.history.clone() });
        }
        if found.index != self.index {
            return Err(WipeReason::OtherKind { found: found.index, wanted: self.index });
        }
        match found.left {
            Left::Clean => Ok(()),
            Left::Opening => Err(WipeReason::DiedOpening),
            Left::Broken => Err(WipeReason::Broken),
            // An unknown boot id (empty) is never the same start of the machine.
            Left::Open if found.boot_id == self.boot_id && !found.boot_id.is_empty() => Ok(()),
            Left::Open => Err(WipeReason::MachineRestarted),
        }
    }

    /// The marker in a folder: `None` when there is no file, `Some(None)` when it cannot be understood.
    pub(super) fn read(path: &Path) -> io::Result<Option<Option<Marker>>> {
        match std::fs::read(path) {
            Ok(bytes) => Ok(Some(Marker::decode(&bytes))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// `None` when it cannot be understood, or is not what was written.
    fn decode(bytes: &[u8]) -> Option<Marker> {
        let file: MarkerFile = serde_json::from_slice(bytes).ok()?;
        (file.checksum == file.marker.checksum()).then_some(file.marker)
    }

    /// Changes the marker at `path`, as one who knows the format.
    #[cfg(test)]
    pub(crate) fn say_open_for_test(path: &Path) {
        let marker = Marker::read(path).unwrap().unwrap().unwrap();
        Marker { left: Left::Open, ..marker }.write(path).unwrap();
    }

    fn encode(&self) -> io::Result<Vec<u8>> {
        let file = MarkerFile { marker: self.clone(), checksum: self.checksum() };
        serde_json::to_vec_pretty(&file).map_err(io::Error::other)
    }

    fn checksum(&self) -> String {
        let Marker { format, history, index, boot_id, left, files } = self;
        let said = format!("{format}\n{history}\n{index:?}\n{boot_id}\n{left:?}\n{files}");
        format!("{:016x}", xxh3_64(said.as_bytes()))
    }

    pub(super) fn write(&self, path: &Path) -> io::Result<()> {
        let aside = path.with_extension("new");
        let mut file = File::create(&aside)?;
        file.write_all(&self.encode()?)?;
        file.sync_all()?;
        std::fs::rename(&aside, path)?;
        match path.parent() {
            Some(folder) => File::open(folder)?.sync_all(),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn marker(left: Left) -> Marker {
        Marker { left, ..Marker::opening("c7f3a1", IndexKind::Sled, "boot-1", "sled") }
    }

    #[test]
    fn an_index_is_used_only_when_nothing_speaks_against_it() {
        let ours = marker(Left::Opening);
        assert_eq!(ours.judge(&marker(Left::Clean)), Ok(()));
        assert_eq!(ours.judge(&marker(Left::Open)), Ok(()));
        assert_eq!(ours.judge(&marker(Left::Opening)), Err(WipeReason::DiedOpening));
        assert_eq!(ours.judge(&marker(Left::Broken)), Err(WipeReason::Broken));
        let other_boot = |left| Marker { boot_id: "boot-0".to_owned(), ..marker(left) };
        assert_eq!(ours.judge(&other_boot(Left::Clean)), Ok(()));
        assert_eq!(ours.judge(&other_boot(Left::Open)), Err(WipeReason::MachineRestarted));
        let unknown = |left| Marker { boot_id: String::new(), ..marker(left) };
        assert_eq!(unknown(Left::Opening).judge(&unknown(Left::Open)), Err(WipeReason::MachineRestarted));
        assert!(ours.judge(&Marker { format: INDEX_FORMAT + 1, ..marker(Left::Clean) }).is_err());
        assert!(ours.judge(&Marker { history: "000001".to_owned(), ..marker(Left::Clean) }).is_err());
        assert!(ours.judge(&Marker { index: IndexKind::Fjall, ..marker(Left::Clean) }).is_err());
    }

    /// Goal: a damaged marker counts as unreadable, whatever it says then. Method: every bit flipped.
    #[test]
    fn a_marker_is_what_was_written_or_none() {
        let marker = marker(Left::Clean);
        let bytes = marker.encode().unwrap();
        assert_eq!(Marker::decode(&bytes), Some(marker.clone()));
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            let read = Marker::decode(&damaged);
            assert!(read.is_none() || read == Some(marker.clone()), "bit {bit}: {read:?}");
        }
    }
}
