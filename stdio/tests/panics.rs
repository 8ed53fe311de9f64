//! A panic is said where somebody reads, and holds up nobody where nobody does.
//!
//! Method: the test starts itself again as a child that panics in a thread and then ends with a code of its own. What is on
//! the other end of the child's stderr differs.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::io::{Read as _, Write as _};
use std::process::{Child, Command, Stdio};

/// Makes the process the child.
const CHILD: &str = "DURAMEN_TEST_PANICS";
const CODE: i32 = 7;

#[test]
fn child_that_panics() {
    if std::env::var_os(CHILD).is_none() {
        return;
    }
    duramen_stdio::install_panic_hook();
    let panicked =
        std::thread::Builder::new().name("brittle".to_owned()).spawn(|| panic!("as it must")).unwrap().join();
    assert!(panicked.is_err());
    std::process::exit(CODE);
}

fn child(stderr: impl Into<Stdio>) -> Child {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "child_that_panics", "--nocapture"]).env(CHILD, "1");
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(stderr).spawn().unwrap()
}

/// Goal: release builds abort once the hook is done; one that waits for a reader, or panics itself, is the end either way.
#[test]
fn a_panic_ends_nobody_by_being_said() {
    let (mut reader, writer) = std::io::pipe().unwrap();
    let mut heard = child(writer);
    let mut said = String::new();
    reader.read_to_string(&mut said).unwrap();
    assert_eq!(heard.wait().unwrap().code(), Some(CODE), "{said}");
    assert!(said.contains("thread 'brittle' panicked at ") && said.contains("as it must"), "{said}");

    let (gone, writer) = std::io::pipe().unwrap();
    drop(gone);
    assert_eq!(child(writer).wait().unwrap().code(), Some(CODE), "without a reader");

    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    assert_eq!(child(full).wait().unwrap().code(), Some(CODE), "on a full disk");

    // The pipe is full before the child starts, and is read only once the child has ended.
    let (sleeping, mut writer) = std::io::pipe().unwrap();
    rustix::io::ioctl_fionbio(&writer, true).unwrap();
    while writer.write(&[b'x'; 4096]).is_ok() {}
    rustix::io::ioctl_fionbio(&writer, false).unwrap();
    assert_eq!(child(writer).wait().unwrap().code(), Some(CODE), "with a reader that does not read");
    drop(sleeping);
}
