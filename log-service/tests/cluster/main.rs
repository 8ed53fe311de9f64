//! Log nodes together, over real TCP on loopback, in one process. One binary, so that it is linked once.

#![expect(clippy::unwrap_used, reason = "these are tests; the lint does not see that of helpers")]

mod formation;
mod full_disk;
mod http;
mod leaders;
mod log;
mod storage;
mod support;
