//! One way to serve HTTP/1.1: every HTTP listener of every node accepts, bounds, times and ends its connections here.
//!
//! * In: a listener, limits, a handler. Out: answered requests; when [`serve`] returns, no connection is left.
//! * `accept` is the loop, `activity` says what each connection is doing and which of them has to go, `body` counts and
//!   times request bodies, `wire` is the bytes, `stop` the two moments of a stop.
//! * Invariant: a connection costs at most its buffers (128 KiB each way) and its share of [`HttpLimits::bodies_bytes_max`];
//!   what an answer's body holds is its handler's business.
//! * Invariant: at the limit of connections, idle ones are closed for new callers.
//! * Deliberately absent: paths, what a request means, HTTP/2 (refused by name), TLS.
//! * Source: docs/adr/0015-files-are-a-budget.md.

mod accept;
mod activity;
mod body;
mod metrics;
mod stop;
mod wire;

#[cfg(test)]
mod tests;

pub use accept::{Handler, serve};
pub use activity::{HttpCounts, HttpStats, Overtime};
pub use body::{BodyError, RequestBody};
pub use metrics::HttpCollector;
pub use stop::{Stop, Stopper};

use duramen_common::budget::Budget;
use std::time::Duration;

/// No request's head is longer than this. Unit: bytes.
const HEAD_BYTES_MAX: usize = 128 * 1024;
/// As above, in number.
const HEADERS_PARSED_MAX: usize = 256;

/// Limits of one HTTP listener.
#[derive(Clone, Debug)]
pub struct HttpLimits {
    /// Most open connections. At the limit the connections that are idle for longest are closed for new callers; while
    /// none is idle, new callers wait in the kernel's queue.
    pub connections_max: usize,
    /// A connection on which nothing happens for this long between two requests, or before the first, is closed.
    pub idle_timeout: Duration,
    /// How long a request's head may take from its first byte to its last.
    pub head_timeout: Duration,
    /// How long a request's body may take.
    pub body_timeout: Duration,
    /// A caller that takes no byte of its answer for this long is cut off.
    pub write_timeout: Duration,
    /// The same while somebody waits for room in one of the `budgets`.
    pub write_timeout_pressed: Duration,
    /// What answers of this listener hold until they are taken. The listener only looks whether they are pressed.
    pub budgets: Vec<Budget>,
    /// Most bytes of request bodies that are held at once, over all connections. Unit: bytes.
    pub bodies_bytes_max: usize,
    /// After a stop was asked for: how long requests under way may take before they are answered that the node stops.
    pub stop_grace: Duration,
    /// After a stop was asked for: connections that are still open then are cut off.
    pub stop_time_max: Duration,
}

impl Default for HttpLimits {
    fn default() -> HttpLimits {
        HttpLimits {
            connections_max: 4_096,
            idle_timeout: Duration::from_secs(75),
            head_timeout: Duration::from_secs(10),
            body_timeout: Duration::from_secs(75),
            write_timeout: Duration::from_secs(30),
            write_timeout_pressed: Duration::from_secs(3),
            budgets: Vec::new(),
            bodies_bytes_max: 256 * 1024 * 1024,
            stop_grace: Duration::from_secs(1),
            stop_time_max: Duration::from_secs(3),
        }
    }
}

impl HttpLimits {
    /// What cannot work, as a setting's name and a clause.
    pub fn check(&self) -> Result<(), (&'static str, &'static str)> {
        if self.connections_max == 0 {
            return Err(("connections_max", "must be at least 1"));
        }
        if self.bodies_bytes_max < duramen_common::limits::BODY_BYTES_MAX {
            return Err(("bodies_bytes_max", "must not be below the largest body, 4 MiB"));
        }
        if self.stop_grace > self.stop_time_max {
            return Err(("stop_grace", "must not be over stop_time_max"));
        }
        Ok(())
    }
}
