//! Names: which process a serving node's name belongs to, as the leader of the meta group remembers it.
//!
//! * In: registrations, which each serving node repeats every few seconds. Out: taken, or refused by the other one's address.
//! * A name is kept for a process until it has been silent for a lease. A process that restarts at its address takes its name
//!   at once: two processes cannot listen there.
//! * Two that claim one address (on two machines) take the name from each other: the one that comes back is refused.
//! * Invariant: what is remembered is bounded. A new leader remembers nobody: then the first that comes has the name.

use duramen_common::protocol::{LogRefusal, RegisterRequest};
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::time::Instant;

/// Most names that are remembered; further ones are not protected.
const NAMES_MAX: usize = 1_024;

#[derive(Debug)]
struct Holder {
    incarnation: u64,
    http_addr: String,
    seen: Instant,
    /// The process that held the name before.
    former: Option<u64>,
}

/// Who holds which name.
#[derive(Debug, Default)]
pub(super) struct Names(BTreeMap<String, Holder>);

impl Names {
    /// Takes a name, or keeps it.
    pub(super) fn take(&mut self, request: &RegisterRequest, lease: Duration, now: Instant) -> Result<(), LogRefusal> {
        let (name, http_addr) = (&request.serving_node.name, &request.serving_node.http_addr);
        let mut former = None;
        if let Some(holder) = self.0.get_mut(name) {
            let is_alive = now.duration_since(holder.seen) < lease;
            let is_same = holder.incarnation == request.incarnation;
            let comes_back = holder.former == Some(request.incarnation);
            if is_alive && !is_same && (comes_back || holder.http_addr != *http_addr) {
                return Err(LogRefusal::NameTaken { name: name.clone(), http_addr: holder.http_addr.clone() });
            }
            former = if is_same { holder.former } else { Some(holder.incarnation) };
        } else if self.0.len() >= NAMES_MAX {
            self.0.retain(|_, holder| now.duration_since(holder.seen) < lease);
            if self.0.len() >= NAMES_MAX {
                return Ok(());
            }
        }
        let holder = Holder { incarnation: request.incarnation, http_addr: http_addr.clone(), seen: now, former };
        self.0.insert(name.clone(), holder);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use duramen_common::protocol::ServingNodeInfo;

    const LEASE: Duration = Duration::from_secs(6);

    fn request(incarnation: u64, http_addr: &str) -> RegisterRequest {
        let serving_node = ServingNodeInfo { name: "a".to_owned(), http_addr: http_addr.to_owned() };
        RegisterRequest { serving_node, incarnation }
    }

    #[tokio::test(start_paused = true)]
    async fn a_name_is_one_process_s_while_that_repeats_its_registration() {
        let (mut names, start) = (Names::default(), Instant::now());
        assert_eq!(names.take(&request(1, "x:1"), LEASE, start), Ok(()));
        assert_eq!(names.take(&request(1, "x:1"), LEASE, start + LEASE / 2), Ok(()));
        let refused = names.take(&request(2, "x:2"), LEASE, start + LEASE).unwrap_err();
        assert!(refused.to_string().contains("x:1"), "{refused}");
        // Silent for a lease: it is gone.
        assert_eq!(names.take(&request(2, "x:2"), LEASE, start + LEASE * 2), Ok(()));
        assert!(names.take(&request(1, "x:1"), LEASE, start + LEASE * 2).is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn a_restart_at_the_same_address_takes_its_name_at_once() {
        let (mut names, start) = (Names::default(), Instant::now());
        for incarnation in 1..5 {
            assert_eq!(names.take(&request(incarnation, "x:1"), LEASE, start), Ok(()));
        }
        // Two that claim one address: the former one lives.
        assert!(names.take(&request(3, "x:1"), LEASE, start).is_err());
        assert_eq!(names.take(&request(4, "x:1"), LEASE, start), Ok(()));
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_remembered_is_bounded() {
        let (mut names, start) = (Names::default(), Instant::now());
        for number in 0..NAMES_MAX as u64 + 9 {
            let serving_node = ServingNodeInfo { name: format!("n{number}"), http_addr: "x:1".to_owned() };
            assert_eq!(names.take(&RegisterRequest { serving_node, incarnation: number }, LEASE, start), Ok(()));
        }
        assert_eq!(names.0.len(), NAMES_MAX);
    }
}
