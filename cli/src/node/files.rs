//! How many files this process may open, asked for and raised before anything is opened.
//!
//! * The soft limit is raised to the hard one: 1024, the usual soft limit, is meant for programs that use `select`.
//! * Out: what is there and what is taken, for each node to divide (`duramen_common::files`).

use duramen_common::files::FilesShare;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// What the operating system calls unlimited is this many.
const UNLIMITED: u64 = 1 << 20;
/// Opened by the process itself later: signals, names that are looked up, `/proc`, what is always kept spare.
const PROCESS_RESERVE: u64 = 16;
/// Taken when it cannot be counted.
const TAKEN_UNKNOWN: u64 = 32;

/// Raises the soft limit to the hard one, and counts what is open.
#[must_use]
pub fn share(nodes: u64) -> FilesShare {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let raised = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
    let limit = match raised {
        Ok(()) => maximum,
        Err(error) => {
            tracing::warn!(%error, ?current, ?maximum, "the limit of open files cannot be raised");
            current
        }
    };
    let open = std::fs::read_dir("/proc/self/fd").map(|listed| listed.count() as u64);
    let taken = open.unwrap_or(TAKEN_UNKNOWN) + PROCESS_RESERVE;
    FilesShare { limit: limit.unwrap_or(UNLIMITED), taken, nodes }
}
