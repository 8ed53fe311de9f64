//! What is checked before a node starts, so that each common mistake ends in one line that says what to do: a data folder
//! that cannot be written or is in use, a port that is taken.

use crate::failure::Failure;
use rustix::fs::{FlockOperation, flock};
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read as _, Seek as _, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::path::Path;

/// A data folder that belongs to this process for as long as this lives, and no longer: the kernel gives it up with the
/// process, however that ends.
#[derive(Debug)]
pub struct FolderLock {
    _file: File,
}

/// Makes the folder when it is missing, and takes it.
pub fn take_folder(folder: &Path) -> Result<FolderLock, Failure> {
    let shown = folder.display();
    let unusable = |error: &std::io::Error| {
        Failure::failed(format!("cannot use {shown} as data folder: {error}; choose another with --data-dir"))
    };
    std::fs::create_dir_all(folder).map_err(|error| unusable(&error))?;
    let path = folder.join("duramen.lock");
    let mut file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .open(&path)
        .map_err(|error| unusable(&error))?;
    if let Err(error) = flock(&file, FlockOperation::NonBlockingLockExclusive) {
        let error = std::io::Error::from(error);
        if error.kind() != ErrorKind::WouldBlock {
            return Err(unusable(&error));
        }
        let mut holder = String::new();
        // Only for the message: a holder that has not written yet is not named.
        let _ = file.read_to_string(&mut holder);
        let holder = if holder.trim().is_empty() { String::new() } else { format!(" (process {})", holder.trim()) };
        return Err(Failure::failed(format!(
            "another duramen{holder} uses {shown}: stop it, or choose another folder with --data-dir"
        )));
    }
    let noted = file
        .set_len(0)
        .and_then(|()| file.rewind())
        .and_then(|()| file.write_all(format!("{}\n", std::process::id()).as_bytes()));
    noted.map_err(|error| unusable(&error))?;
    Ok(FolderLock { _file: file })
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
