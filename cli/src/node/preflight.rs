//! What is checked before a node starts, so that each common mistake ends in one line that says what to do: a data folder
//! that cannot be written or is in use, a port that is taken.

use crate::failure::Failure;
use duramen_common::folder_lock::{FolderLock, FolderLockError, named};
use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;

/// Makes the folder when it is missing, and takes it for as long as what is returned lives.
pub fn take_folder(folder: &Path) -> Result<FolderLock, Failure> {
    take_noted(folder, "duramen.lock")
}

/// As [`take_folder`], of a serving node.
pub fn take_serving_folder(folder: &Path) -> Result<FolderLock, Failure> {
    refuse_other(folder, "identity", "a log node")?;
    take_folder(folder)
}

/// Makes the folder of a log node when it is missing, and sees that it is free. The node then takes it itself.
pub fn check_folder(folder: &Path) -> Result<(), Failure> {
    refuse_other(folder, "index", "a serving node")?;
    take_noted(folder, "LOCK").map(drop)
}

/// Refuses a folder of another kind of node: nothing of one is of use to the other, and an index may be deleted, a log not.
fn refuse_other(folder: &Path, holds: &str, whose: &str) -> Result<(), Failure> {
    if folder.join(holds).exists() {
        let shown = folder.display();
        return Err(Failure::failed(format!(
            "{shown} is the data folder of {whose}, because it holds {holds:?}: choose another with --data-dir"
        )));
    }
    Ok(())
}

fn take_noted(folder: &Path, note: &str) -> Result<FolderLock, Failure> {
    let shown = folder.display();
    let unusable = |error: &std::io::Error| {
        Failure::failed(format!("cannot use {shown} as data folder: {error}; choose another with --data-dir"))
    };
    std::fs::create_dir_all(folder).map_err(|error| unusable(&error))?;
    match FolderLock::take(folder, note) {
        Ok(lock) => Ok(lock),
        Err(FolderLockError::Held { holder, .. }) => Err(Failure::failed(format!(
            "another duramen{} uses {shown}: stop it, or choose another folder with --data-dir. Removing the lock file does \
             not help: the folder itself is locked",
            named(holder)
        ))),
        Err(FolderLockError::Io(error)) => Err(unusable(&error)),
    }
}

/// Checks that an address can be listened on; `option` chooses another.
pub fn check_port(addr: SocketAddr, option: &str) -> Result<(), Failure> {
    match TcpListener::bind(addr) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == ErrorKind::AddrInUse => Err(Failure::failed(format!(
            "{addr} is taken (perhaps another duramen runs): stop that program, or choose another with {option}"
        ))),
        Err(error) => Err(Failure::failed(format!("cannot listen on {addr}: {error}; choose another with {option}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_has_one_owner_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let inside = folder.path().join("a/b");
        let lock = take_folder(&inside).unwrap();
        let refused = take_folder(&inside).unwrap_err().to_string();
        assert!(refused.contains(&format!("process {}", std::process::id())), "{refused}");
        std::fs::remove_file(inside.join("duramen.lock")).unwrap();
        assert!(take_folder(&inside).is_err());
        drop(lock);
        assert!(take_folder(&inside).is_ok());
    }

    #[test]
    fn a_folder_that_cannot_be_made_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        std::fs::write(&file, "").unwrap();
        let refused = take_folder(&file.join("inside")).unwrap_err().to_string();
        assert!(refused.contains("--data-dir"), "{refused}");
    }

    #[test]
    fn a_taken_port_is_told() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let refused = check_port(addr, "--http-port").unwrap_err().to_string();
        assert!(refused.contains(&addr.to_string()) && refused.contains("--http-port"), "{refused}");
        drop(listener);
        assert_eq!(check_port(addr, "--http-port"), Ok(()));
    }
}
