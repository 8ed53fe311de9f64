//! Damage to files, by somebody who knows no file format: a value's bytes are found in a folder and changed there.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

/// Where `needle` stands in the files under `folder`.
#[must_use]
pub fn find(folder: &Path, needle: &[u8]) -> Vec<(PathBuf, usize)> {
    let mut found = Vec::new();
    for path in files(folder) {
        let bytes = std::fs::read(&path).expect("a readable file");
        let mut from = 0;
        while let Some(at) = bytes[from..].iter().position(|byte| *byte == needle[0]) {
            let at = from + at;
            if bytes[at..].starts_with(needle) {
                found.push((path.clone(), at));
            }
            from = at + 1;
        }
    }
    found
}

/// Every file under `folder`, by path.
#[must_use]
pub fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).expect("a folder").flatten() {
        let path = entry.path();
        match path.is_dir() {
            true => found.extend(files(&path)),
            false => found.push(path),
        }
    }
    found.sort();
    found
}

/// Opens a file for reading and writing.
#[must_use]
pub fn open(file: &Path) -> File {
    File::options().read(true).write(true).open(file).expect("a file that can be written")
}

/// Flips the lowest bit of the byte at `at`.
pub fn flip(file: &Path, at: usize) {
    let file = open(file);
    let mut byte = [0u8; 1];
    file.read_exact_at(&mut byte, at as u64).expect("a byte there");
    file.write_all_at(&[byte[0] ^ 1], at as u64).expect("a writable file");
}

/// Where the bytes of a file end that is zeros from there on.
#[must_use]
pub fn end_of_bytes(file: &Path) -> usize {
    let bytes = std::fs::read(file).expect("a readable file");
    bytes.iter().rposition(|&byte| byte != 0).expect("not empty") + 1
}
