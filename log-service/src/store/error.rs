//! What the store can answer instead of doing it.

use crate::store::types::EntryId;
use duramen_common::ids::PartitionId;
use std::path::PathBuf;
use std::sync::Arc;

/// Why the store did not do it. Cloned to every waiting caller, hence the shared source.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StoreError {
    /// The operating system refused; for a write, the store is poisoned by it.
    #[error("{what} {}: {source}", file.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// On which file.
        file: PathBuf,
        /// What came back.
        source: Arc<std::io::Error>,
    },
    /// Another process has the folder.
    #[error(
        "{} is in use by another process{}: stop it, or give this one another --data-dir. Removing the lock file does not \
         help: the folder itself is locked", folder.display(), duramen_common::folder_lock::named(*holder)
    )]
    InUse {
        /// The data folder.
        folder: PathBuf,
        /// The process that has it, where it has said so.
        holder: Option<u32>,
    },
    /// What this store writes is not what is under its name any more.
    #[error(
        "{} was moved, removed or replaced while this node writes it: nothing is acknowledged any more. Put back what was \
         there and start this node again; if it is lost, the node must join as a new one", file.display()
    )]
    Taken {
        /// The file or folder.
        file: PathBuf,
    },
    /// Bytes that were durable are not what was written.
    #[error(
        "{} is damaged at byte {position}: {what}. It will not be served and this node will not vote. Let it fetch \
         entry {index} from a peer, or wipe this node's data folder and let it join as a new node",
        file.display()
    )]
    Corrupt {
        /// The file.
        file: PathBuf,
        /// Where in it. Unit: bytes.
        position: u64,
        /// What is wrong there.
        what: String,
        /// The Raft index to be repaired.
        index: u64,
    },
    /// Written by another version.
    #[error("{} is of segment format {found}, this program reads format {known}: use the program that wrote it", file.display())]
    Format {
        /// The file.
        file: PathBuf,
        /// Its format.
        found: u8,
        /// Ours.
        known: u8,
    },
    /// A file of another cluster, store or partition.
    #[error("{} is {found}, and should be {wanted}: it was copied, moved or renamed; put back what was here", file.display())]
    Foreign {
        /// The file.
        file: PathBuf,
        /// Whose it is.
        found: String,
        /// Whose it should be.
        wanted: String,
    },
    /// A write or sync failed before: nothing is acknowledged until the process is restarted.
    #[error("the store stopped writing after a failure ({cause}): restart this node; reads go on")]
    Poisoned {
        /// What failed.
        cause: Arc<str>,
    },
    /// Entries must follow one another.
    #[error("entry {found:?} does not follow index {next_index} - 1")]
    Gap {
        /// The entry offered.
        found: EntryId,
        /// The index that comes next.
        next_index: u64,
    },
    /// One log, one owner.
    #[error("partition {partition} is open already")]
    AlreadyOpen {
        /// Which.
        partition: PartitionId,
    },
    /// A configuration that cannot work.
    #[error("store configuration: {what}")]
    Config {
        /// What is wrong.
        what: &'static str,
    },
    /// What a peer sent does not fit the damaged place.
    #[error("entry {index} from the peer does not restore {}: {what}", file.display())]
    NotRepaired {
        /// The damaged file.
        file: PathBuf,
        /// The entry.
        index: u64,
        /// Why not.
        what: &'static str,
    },
    /// The store is closed.
    #[error("the store is closed")]
    Closed,
}

impl StoreError {
    pub(crate) fn io(what: &'static str, file: &std::path::Path, source: std::io::Error) -> StoreError {
        StoreError::Io { what, file: file.to_path_buf(), source: Arc::new(source) }
    }

    /// Whether only space was missing: nothing is damaged, and the same can be tried again.
    pub(crate) fn is_no_space(&self) -> bool {
        matches!(self, StoreError::Io { source, .. } if duramen_common::shortage::is_no_space(source))
    }
}

impl From<StoreError> for std::io::Error {
    fn from(error: StoreError) -> std::io::Error {
        std::io::Error::other(error)
    }
}
