//! The identity file: whose folder this is, and which cluster it belongs to once that is formed.
//!
//! * Written whole beside the old one, synced, renamed, the folder synced: there is always one that is whole.
//! * Invariant: a store id is minted with the folder and never changes; a formed identity never becomes another's.
//! * A running node looks whether the file is still its own: one that was removed is written again, another's stops the node.
//! * `groups_made` is set once every group has its first entry on disk: from then on a group without one has lost its
//!   files and must not vote.
//! * Source: DESIGN D2, D12; docs/formats.md "Identity file".

use super::error::StartError;
use crate::disk::{Disk, DiskFile};
use duramen_common::protocol::LogNodeInfo;
use duramen_common::seams::Entropy;
use duramen_common::shortage::is_no_space;
use duramen_common::{HistoryId, NodeId, StoreId, codec};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::sync::Arc;

const FILE: &str = "identity";
const FILE_NEXT: &str = "identity.next";
const MAGIC: &[u8; 4] = b"DRID";
const FORMAT: u8 = 1;
const HEADER_BYTES: usize = 16;
const PAYLOAD_BYTES_MAX: usize = 1024 * 1024;

/// Whose folder it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// The node.
    pub node: NodeId,
    /// Minted with the folder.
    pub store: StoreId,
    /// The cluster, once it is formed.
    pub cluster: Option<Cluster>,
    /// Whether every group has had its first entry on disk.
    pub groups_made: bool,
}

/// What the cluster is; the same on every node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cluster {
    /// Which one.
    pub history: HistoryId,
    /// Data partitions.
    pub partitions: u16,
    /// Over how many offsets request ids are remembered.
    pub dedup_window: u64,
    /// Its log nodes, with the folders that they had when it was formed.
    pub members: Vec<LogNodeInfo>,
}

impl Cluster {
    /// The member with this number.
    #[must_use]
    pub fn member(&self, node: NodeId) -> Option<&LogNodeInfo> {
        self.members.iter().find(|member| member.node == node)
    }
}

impl Identity {
    /// Its history, once it has one.
    #[must_use]
    pub fn history(&self) -> Option<HistoryId> {
        self.cluster.as_ref().map(|cluster| cluster.history)
    }

    fn encode(&self) -> Vec<u8> {
        let payload = codec::encode(self);
        let mut bytes = Vec::with_capacity(HEADER_BYTES + payload.len());
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&[FORMAT, 0, 0, 0]);
        bytes.extend_from_slice(&u32::try_from(payload.len()).expect("bounded by the codec").to_le_bytes());
        bytes.extend_from_slice(&crc32c::crc32c(&payload).to_le_bytes());
        bytes.extend_from_slice(&payload);
        bytes
    }

    fn decode(bytes: &[u8]) -> Result<Identity, String> {
        let (header, payload) = bytes.split_at_checked(HEADER_BYTES).ok_or("the identity file is cut off")?;
        let (magic, rest) = header.split_at(4);
        if magic != MAGIC {
            return Err("not an identity file".to_owned());
        }
        let number = |at: usize| rest.get(at..).and_then(<[u8]>::first_chunk).copied().map(u32::from_le_bytes);
        let format = rest.first().copied().unwrap_or_default();
        if format != FORMAT {
            return Err(format!("identity file of format {format}, this program reads format {FORMAT}"));
        }
        if number(4) != u32::try_from(payload.len()).ok() || number(8) != Some(crc32c::crc32c(payload)) {
            return Err("the identity file is damaged".to_owned());
        }
        codec::decode(payload).map_err(|error| error.to_string())
    }
}

/// The identity of a folder, kept on disk. The folder is locked by the caller.
pub struct IdentityFile {
    disk: Arc<dyn Disk>,
    folder: PathBuf,
    /// The file that was read or written last; open, so that it can be told from another of its name.
    own: Mutex<Option<Arc<dyn DiskFile>>>,
}

impl IdentityFile {
    /// The identity file of this folder.
    pub fn new(disk: Arc<dyn Disk>, folder: &Path) -> IdentityFile {
        IdentityFile { disk, folder: folder.to_path_buf(), own: Mutex::default() }
    }

    /// The folder's identity; a fresh one, written, for an empty folder.
    pub fn load_or_mint(&self, node: NodeId, entropy: &dyn Entropy) -> Result<Identity, StartError> {
        let names = self.disk.list(&self.folder).map_err(|error| self.failed(&error))?;
        if !names.iter().any(|name| name == FILE) {
            if names.iter().any(|name| name == "partitions") {
                return Err(self.unreadable("partitions are here, the identity file is gone".to_owned()));
            }
            let store = StoreId::from_bits(entropy.bits());
            let identity = Identity { node, store, cluster: None, groups_made: false };
            self.save(&identity)?;
            return Ok(identity);
        }
        let bytes = self.read().map_err(|error| self.failed(&error))?;
        // Whoever wrote it may have been killed before its name was durable; what follows relies on it.
        self.disk.sync_dir(&self.folder).map_err(|error| self.failed(&error))?;
        let identity = Identity::decode(&bytes).map_err(|reason| self.unreadable(reason))?;
        if identity.node != node {
            return Err(StartError::OtherNode { folder: self.folder.clone(), found: identity.node, wanted: node });
        }
        Ok(identity)
    }

    fn read(&self) -> std::io::Result<Vec<u8>> {
        let file = self.disk.open(&self.folder.join(FILE), false)?;
        *self.own.lock() = Some(Arc::clone(&file));
        let length = usize::try_from(file.len()?).unwrap_or(usize::MAX).min(PAYLOAD_BYTES_MAX + HEADER_BYTES);
        let mut bytes = vec![0; length];
        let read = file.read_at(&mut bytes, 0)?;
        bytes.truncate(read);
        Ok(bytes)
    }

    /// Writes it, durably, in place of the one before.
    pub fn save(&self, identity: &Identity) -> Result<(), StartError> {
        self.write(&identity.encode()).map_err(|error| self.failed(&error))
    }

    fn write(&self, bytes: &[u8]) -> std::io::Result<()> {
        let next = self.folder.join(FILE_NEXT);
        let file = self.disk.open(&next, true)?;
        file.set_len(0)?;
        file.write_at(&[bytes], 0)?;
        file.sync_data()?;
        self.disk.rename(&next, &self.folder.join(FILE))?;
        *self.own.lock() = Some(file);
        self.disk.sync_dir(&self.folder)
    }

    /// Looks whether the file is still the one that this process read or wrote. One that was removed is written again;
    /// one that says something else fails: the folder is being used by somebody else, or is about to be.
    pub fn check(&self, identity: &Identity) -> Result<(), StartError> {
        let path = self.folder.join(FILE);
        let own = self.own.lock().clone();
        // What cannot be looked at now is looked at again.
        if !own.is_some_and(|own| matches!(own.is_named(&path), Ok(false))) {
            return Ok(());
        }
        match self.read() {
            Ok(bytes) if Identity::decode(&bytes).as_ref() == Ok(identity) => Ok(()),
            Ok(_) => Err(self.unreadable("another file has taken its place while this node runs".to_owned())),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                tracing::warn!(file = %path.display(), "the identity file was removed while this node runs: written again");
                match self.save(identity) {
                    // It is looked at again, and written once there is space.
                    Err(StartError::NoSpace { .. }) => Ok(()),
                    saved => saved,
                }
            }
            Err(_) => Ok(()),
        }
    }

    fn failed(&self, error: &std::io::Error) -> StartError {
        if is_no_space(error) {
            return StartError::NoSpace { what: "writing", file: self.folder.join(FILE), reason: error.to_string() };
        }
        self.unreadable(error.to_string())
    }

    fn unreadable(&self, reason: String) -> StartError {
        StartError::Identity { file: self.folder.join(FILE), reason }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::{MemDisk, RealDisk};
    use duramen_common::seams::SystemEntropy;

    fn formed(identity: &Identity) -> Identity {
        let member = LogNodeInfo {
            node: identity.node,
            store: identity.store,
            rpc_addr: "127.0.0.1:1".to_owned(),
            http_addr: "127.0.0.1:2".to_owned(),
        };
        let cluster = Cluster {
            history: HistoryId::from_bits(0x00c7_f3a1),
            partitions: 4,
            dedup_window: 4096,
            members: vec![member],
        };
        Identity { cluster: Some(cluster), ..identity.clone() }
    }

    #[test]
    fn a_folder_keeps_its_identity() {
        let folder = tempfile::tempdir().unwrap();
        let file = IdentityFile::new(Arc::new(RealDisk), folder.path());
        let blank = file.load_or_mint(NodeId::new(1), &SystemEntropy).unwrap();
        assert_eq!(file.load_or_mint(NodeId::new(1), &SystemEntropy).unwrap(), blank);
        file.save(&formed(&blank)).unwrap();
        assert_eq!(file.load_or_mint(NodeId::new(1), &SystemEntropy).unwrap(), formed(&blank));
        let error = file.load_or_mint(NodeId::new(2), &SystemEntropy).unwrap_err();
        assert!(matches!(error, StartError::OtherNode { .. }), "{error}");
    }

    /// Goal: removing the file of a running node loses nothing, and another's is noticed. Method: remove it, put it back by
    /// hand, put another node's there.
    #[test]
    fn a_running_node_looks_after_its_identity() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(FILE);
        let file = IdentityFile::new(Arc::new(RealDisk), folder.path());
        let identity = file.load_or_mint(NodeId::new(1), &SystemEntropy).unwrap();
        file.check(&identity).unwrap();
        let bytes = std::fs::read(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        file.check(&identity).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), bytes, "written again");
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, &bytes).unwrap();
        file.check(&identity).unwrap();
        let other = Identity { store: StoreId::from_bits(7), ..identity.clone() };
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, other.encode()).unwrap();
        let error = file.check(&identity).unwrap_err().to_string();
        assert!(error.contains("taken its place"), "{error}");
    }

    /// Goal: an identity that was acted upon is not taken back by a later power cut. Method: the process ends between the
    /// rename and its sync; the next one reads the identity; then what was not synced is lost.
    #[test]
    fn an_identity_that_was_read_stays() {
        for seed in 0..8 {
            let disk = MemDisk::new();
            let file = IdentityFile::new(Arc::new(disk.clone()), Path::new("/data"));
            let blank = file.load_or_mint(NodeId::new(1), &SystemEntropy).unwrap();
            // Create, cut, write, sync, rename; not the folder.
            disk.cut_power_after(5);
            file.save(&formed(&blank)).unwrap_err();
            disk.cut_power_after(u64::MAX);
            assert_eq!(file.load_or_mint(NodeId::new(1), &SystemEntropy).unwrap(), formed(&blank));
            disk.crash(seed);
            assert_eq!(file.load_or_mint(NodeId::new(1), &SystemEntropy).unwrap(), formed(&blank), "seed {seed}");
        }
    }

    /// Goal: a full disk is called that, and nobody is told to wipe the folder. Method: no space when the file is written first, when
    /// it is written again, and when a running node writes it again; then there is some.
    #[test]
    fn a_full_disk_does_not_pass_for_a_damaged_identity() {
        let disk = MemDisk::new();
        let file = IdentityFile::new(Arc::new(disk.clone()), Path::new("/data"));
        disk.set_quota(Some(0));
        let is_no_space = |error: StartError| {
            let text = error.to_string();
            assert!(matches!(error, StartError::NoSpace { .. }) && !text.contains("wipe"), "{text}");
        };
        is_no_space(file.load_or_mint(NodeId::new(1), &SystemEntropy).unwrap_err());
        disk.set_quota(None);
        let blank = file.load_or_mint(NodeId::new(1), &SystemEntropy).unwrap();
        disk.set_quota(Some(0));
        is_no_space(file.save(&formed(&blank)).unwrap_err());
        disk.remove(&Path::new("/data").join(FILE)).unwrap();
        file.check(&blank).unwrap();
        disk.set_quota(None);
        file.check(&blank).unwrap();
        assert_eq!(file.load_or_mint(NodeId::new(1), &SystemEntropy).unwrap(), blank);
    }

    /// Goal: no bit of the file may change unseen. Method: flip each.
    #[test]
    fn a_damaged_identity_is_refused() {
        let identity =
            Identity { node: NodeId::new(1), store: StoreId::from_bits(7), cluster: None, groups_made: true };
        let bytes = formed(&identity).encode();
        assert_eq!(Identity::decode(&bytes).unwrap(), formed(&identity));
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 0x10;
            // Bytes 5 to 7 are reserved.
            assert!(Identity::decode(&damaged).is_err() || (5..8).contains(&at), "byte {at}");
            assert!(Identity::decode(&bytes[..at]).is_err(), "cut at {at}");
        }
    }
}
