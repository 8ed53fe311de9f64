//! Whom to ask next, when, and for how long: the pure part of a call.
//!
//! * In: times, failures, what servers ask for (`Retry-After`), random bits. Out: the next attempt.
//! * A node that failed rests: backoff doubles with each failure, with jitter, and never less than the server asked for.
//!   A node that has not failed in this call is asked at once.
//! * An attempt gets a fair share of the time that is left, so that a node that hangs leaves time for the others.
//! * Deliberately absent: state beyond one call or watch.

use std::time::Duration;
use tokio::time::Instant;

/// Time beyond the wait that a server was granted, for the way there and back.
const GRACE: Duration = Duration::from_millis(500);

/// The nodes of one call, or of one watch.
#[derive(Debug)]
pub(super) struct Rotation {
    nodes: Vec<Node>,
    at: usize,
    backoff: Duration,
    backoff_max: Duration,
}

#[derive(Clone, Copy, Debug)]
struct Node {
    failures: u32,
    not_before: Instant,
}

impl Rotation {
    /// `count` nodes (at least one), beginning with `first`.
    pub(super) fn new(count: usize, first: usize, now: Instant, backoff: Duration, backoff_max: Duration) -> Rotation {
        let count = count.max(1);
        let nodes = vec![Node { failures: 0, not_before: now }; count];
        Rotation { nodes, at: first % count, backoff, backoff_max }
    }

    /// The node that may be asked soonest, and when; of several, the first in turn.
    pub(super) fn next(&self) -> (usize, Instant) {
        let count = self.nodes.len();
        (0..count)
            .map(|step| (self.at + step) % count)
            .map(|number| (number, self.nodes[number].not_before))
            .min_by_key(|&(_, not_before)| not_before)
            .expect("a rotation has at least one node")
    }

    /// Notes that `node` failed and asked for a pause of `retry_after`; `bits` are random.
    pub(super) fn failed(&mut self, node: usize, now: Instant, retry_after: Option<Duration>, bits: u128) {
        let entry = &mut self.nodes[node];
        let doubled = self.backoff.saturating_mul(1 << entry.failures.min(20)).min(self.backoff_max);
        entry.failures = entry.failures.saturating_add(1);
        // From half to all of it; on top of what the server asked for, so that its callers do not come back at once.
        let jittered = doubled / 2 + (doubled / 2).mul_f64((bits % 1024) as f64 / 1024.0);
        entry.not_before = now + retry_after.map_or(jittered, |asked| asked + jittered / 4);
        self.at = (node + 1) % self.nodes.len();
    }

    /// Notes that `node` did what was asked.
    pub(super) fn worked(&mut self, node: usize, now: Instant) {
        self.nodes[node] = Node { failures: 0, not_before: now };
    }

    /// How many nodes have not failed in this call.
    pub(super) fn fresh(&self) -> usize {
        self.nodes.iter().filter(|node| node.failures == 0).count()
    }
}

/// How long one attempt may take, and the whole seconds that the server is granted of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Share {
    pub timeout: Duration,
    pub wait_seconds: u64,
}

/// The share of an attempt of `left`, with `fresh` nodes not yet asked (this one included, when it is fresh).
pub(super) fn share(left: Duration, fresh: usize) -> Share {
    let parts = u32::try_from(fresh.max(1)).unwrap_or(u32::MAX);
    // The server counts in whole seconds; less than one would mean not to wait at all.
    let wait_seconds = ((left / parts).as_secs()).clamp(1, 30);
    let timeout = if parts == 1 { left } else { left.min(Duration::from_secs(wait_seconds) + GRACE) };
    Share { timeout, wait_seconds }
}

/// The pause that a `Retry-After` header asks for; dates are not of the contract.
pub(super) fn retry_after(header: Option<&str>) -> Option<Duration> {
    header.and_then(|text| text.trim().parse::<u32>().ok()).map(|seconds| Duration::from_secs(u64::from(seconds)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rotation(count: usize, first: usize, now: Instant) -> Rotation {
        Rotation::new(count, first, now, Duration::from_millis(20), Duration::from_millis(100))
    }

    #[tokio::test(start_paused = true)]
    async fn each_node_is_asked_at_once_before_any_is_asked_again() {
        let now = Instant::now();
        let mut rotation = rotation(3, 1, now);
        for wanted in [1, 2, 0] {
            assert_eq!(rotation.next(), (wanted, now));
            rotation.failed(wanted, now, None, 0);
        }
        let (node, when) = rotation.next();
        assert_eq!(node, 1, "all rest equally long: in turn");
        assert_eq!(when - now, Duration::from_millis(10));
        assert_eq!(rotation.fresh(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_pause_doubles_up_to_its_limit_and_heeds_the_server() {
        let now = Instant::now();
        let mut rotation = rotation(1, 0, now);
        for wanted_ms in [10, 20, 40, 50, 50] {
            rotation.failed(0, now, None, 0);
            assert_eq!(rotation.next().1 - now, Duration::from_millis(wanted_ms));
        }
        for bits in [0, 511, 1023, u128::MAX] {
            rotation.failed(0, now, Some(Duration::from_secs(2)), bits);
            assert!(rotation.next().1 - now > Duration::from_secs(2));
            rotation.failed(0, now, None, bits);
            assert!(rotation.next().1 - now <= Duration::from_millis(100));
        }
    }

    #[test]
    fn a_node_that_hangs_leaves_time_for_the_others() {
        let second = Duration::from_secs;
        assert_eq!(share(second(10), 2), Share { timeout: Duration::from_millis(5500), wait_seconds: 5 });
        assert_eq!(share(second(10), 1), Share { timeout: second(10), wait_seconds: 10 });
        assert_eq!(share(second(10), 0), Share { timeout: second(10), wait_seconds: 10 });
        assert_eq!(share(Duration::from_millis(300), 3).timeout, Duration::from_millis(300));
        assert_eq!(share(Duration::from_millis(300), 3).wait_seconds, 1);
        assert_eq!(share(second(90), 1).wait_seconds, 30);
    }

    #[test]
    fn only_seconds_are_a_pause() {
        assert_eq!(retry_after(Some(" 2 ")), Some(Duration::from_secs(2)));
        for text in [None, Some("-1"), Some("soon"), Some("Fri, 31 Dec 1999 23:59:59 GMT")] {
            assert_eq!(retry_after(text), None);
        }
    }
}
