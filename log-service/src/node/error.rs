//! Why a log node does not start, or stopped: one clear line each, with what to do.

use crate::consensus::GroupFailure;
use crate::store::StoreError;
use duramen_common::NodeId;
use duramen_common::files::TooFewFiles;
use duramen_common::shortage::is_no_space;
use std::path::PathBuf;

/// Why a log node did not start or could not go on.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StartError {
    /// The configuration cannot work.
    #[error("configuration: {clause}")]
    Config {
        /// What is wrong.
        clause: String,
    },
    /// The address cannot be listened on.
    #[error("cannot listen on {addr} for {purpose}: {reason}; stop what uses it, or choose another address")]
    Listen {
        /// The address.
        addr: String,
        /// What for.
        purpose: &'static str,
        /// What the system said.
        reason: String,
    },
    /// The process may open too few files.
    #[error(transparent)]
    Files(#[from] TooFewFiles),
    /// The folder belongs to another node.
    #[error("{} is the folder of node {found}, not of node {wanted}: give each node its own --data-dir", folder.display())]
    OtherNode {
        /// The data folder.
        folder: PathBuf,
        /// Whose it is.
        found: NodeId,
        /// Who wanted it.
        wanted: NodeId,
    },
    /// The identity file cannot be read.
    #[error("{}: {reason}; restore the file, or wipe the folder and let the node join as a new one", file.display())]
    Identity {
        /// The file.
        file: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// Files that were there are gone.
    #[error(
        "{}: the log of partition {partition} was there and is gone; restore the folder, or wipe it and let the node \
         join as a new one", folder.display()
    )]
    LogGone {
        /// The data folder.
        folder: PathBuf,
        /// Whose log.
        partition: String,
    },
    /// The disk is full, or a quota on it is used up.
    #[error(
        "{what} {}: there is no space ({reason}); free some on this file system or raise the quota, and start this node again. \
         Nothing in its data folder is damaged: leave the folder as it is", file.display()
    )]
    NoSpace {
        /// What was tried.
        what: &'static str,
        /// On which file.
        file: PathBuf,
        /// What the system said.
        reason: String,
    },
    /// The store does not open.
    #[error(transparent)]
    Store(StoreError),
    /// A group does not run.
    #[error(transparent)]
    Group(#[from] GroupFailure),
    /// A damaged log, and no peer could help.
    #[error(
        "{}: damaged at byte {position} ({what}), and no peer could restore entry {index} ({reason}); start a peer that \
         has it, or wipe this node's folder and let it join as a new one", file.display()
    )]
    NotRepaired {
        /// The damaged file.
        file: PathBuf,
        /// Where in it. Unit: bytes.
        position: u64,
        /// What is wrong there.
        what: String,
        /// The entry that is needed.
        index: u64,
        /// Why the peers did not help.
        reason: String,
    },
}

impl From<StoreError> for StartError {
    fn from(error: StoreError) -> StartError {
        match error {
            StoreError::Io { what, file, source } if is_no_space(&source) => {
                StartError::NoSpace { what, file, reason: source.to_string() }
            }
            error => StartError::Store(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::ErrorKind;

    /// Goal: who starts a node on a full disk is told so, and not to wipe anything. Method: what the store says when it finds no
    /// space, and when it meets another error.
    #[test]
    fn a_store_without_space_is_no_reason_to_wipe_a_folder() {
        let failed = |kind: ErrorKind| StartError::from(StoreError::io("writing", "a.segment".as_ref(), kind.into()));
        for kind in [ErrorKind::StorageFull, ErrorKind::QuotaExceeded] {
            let text = failed(kind).to_string();
            assert!(text.contains("there is no space") && text.contains("leave the folder as it is"), "{text}");
        }
        assert!(matches!(failed(ErrorKind::PermissionDenied), StartError::Store(_)));
    }
}
