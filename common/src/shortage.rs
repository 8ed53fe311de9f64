//! What is short for a while and is not damage: file descriptors, memory.
//!
//! * In: any error with its causes. Out: whether the operating system was short of something at that moment, so that the
//!   same call may succeed later. A disk or an index that answers so is not damaged, and nothing is to be wiped for it.
//! * Deliberately absent: a full disk (`ENOSPC`, `EDQUOT`), which waiting does not cure.

use std::error::Error;
use std::io;

/// `ENFILE`, `EMFILE`, `ENOMEM`, `EAGAIN` of Linux.
const SHORT: [i32; 4] = [23, 24, 12, 11];

/// Whether this error is a shortage.
#[must_use]
pub fn is_shortage(error: &io::Error) -> bool {
    error.raw_os_error().is_some_and(|code| SHORT.contains(&code)) || error.kind() == io::ErrorKind::OutOfMemory
}

/// Whether the disk, or a quota on it, has no room for a write.
#[must_use]
pub fn is_no_space(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// Whether this error, or one that caused it, is a shortage.
#[must_use]
pub fn is_caused_by_shortage(error: &(dyn Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(error) = error.downcast_ref::<io::Error>() {
            let inner = error.get_ref().is_some_and(|inner| is_caused_by_shortage(inner));
            if inner || is_shortage(error) {
                return true;
            }
        }
        next = error.source();
    }
    false
}

/// What to do about an error of the operating system while something is opened or written: one clause.
#[must_use]
pub fn advice(error: &io::Error) -> &'static str {
    if is_shortage(error) {
        return "this process has too few file descriptors or too little memory: raise the limit (ulimit -n, \
                LimitNOFILE=) or stop what uses them";
    }
    if is_no_space(error) {
        return "the disk is full: free some space";
    }
    match error.kind() {
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => "check that it is writable",
        _ => "check that it is readable and writable",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("outer")]
    struct Outer(#[source] io::Error);

    #[test]
    fn a_shortage_is_told_from_damage_wherever_it_is_wrapped() {
        for code in SHORT {
            assert!(is_shortage(&io::Error::from_raw_os_error(code)));
            assert!(is_caused_by_shortage(&Outer(io::Error::from_raw_os_error(code))));
            assert!(is_caused_by_shortage(&io::Error::other(Outer(io::Error::from_raw_os_error(code)))));
        }
        for code in [5, 28, 2, 30] {
            assert!(!is_caused_by_shortage(&Outer(io::Error::from_raw_os_error(code))));
        }
        assert!(advice(&io::Error::from_raw_os_error(24)).contains("ulimit -n"));
        assert!(!advice(&io::Error::from_raw_os_error(24)).contains("space"));
        assert!(advice(&io::Error::from_raw_os_error(28)).contains("full"));
    }
}
