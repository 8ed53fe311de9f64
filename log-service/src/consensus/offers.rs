//! Offers: a leader's place that was offered to other members, and what follows if nobody takes it.
//!
//! * openraft's leader that has made an offer sends no heartbeats, proposes nothing, answers no reads and calls no election, for good:
//!   only a vote in a later term ends that. If the heir cannot win, or died, and nobody else can call this node, nobody leads.
//! * So this node votes for the heir, in the next term, by itself, if it still leads in the same term after a while. It then follows,
//!   and stands for election like any other. This is a vote like any other: durable before it counts, given once in its term, and
//!   only an answer that nobody hears is missing.
//! * An heir that did not take over is passed over for a while.
//! * Source: docs/adr/0018-identity-and-addresses.md, docs/adr/0019-a-full-disk.md.

use super::types::{Raft, TypeConfig, log_id, raft_vote};
use crate::store::{PartitionLog, StoredVote};
use duramen_common::{NodeId, PartitionId};
use openraft::raft::VoteRequest;
use openraft::{RaftState, ServerState};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep};

/// How long an heir has to be elected. An election takes less than a second where nodes call each other.
const TAKE_OVER_WITHIN: Duration = Duration::from_secs(3);
/// For how long an heir that did not take over gets no offer.
const NO_OFFER_FOR: Duration = Duration::from_secs(30);

/// The offers of one group.
#[derive(Clone, Default)]
pub(super) struct Offers(Arc<Mutex<Offered>>);

#[derive(Default)]
struct Offered {
    /// The term in which offers were made last.
    term: u64,
    /// To whom, in that term.
    heirs: Vec<NodeId>,
    /// Who did not take over, and when that was noticed.
    failed: BTreeMap<NodeId, Instant>,
    /// Watches the first offer of the term.
    watch: Option<AbortHandle>,
}

impl Offers {
    /// Whether an offer to this member makes sense.
    pub(super) fn may_go_to(&self, heir: NodeId) -> bool {
        self.0.lock().failed.get(&heir).is_none_or(|at| at.elapsed() >= NO_OFFER_FOR)
    }

    /// An offer was made in this term. The first one of a term is watched.
    pub(super) fn made(&self, raft: &Raft, log: &PartitionLog, partition: PartitionId, term: u64, heir: NodeId) {
        let mut offered = self.0.lock();
        if offered.term == term {
            if !offered.heirs.contains(&heir) {
                offered.heirs.push(heir);
            }
            return;
        }
        (offered.term, offered.heirs) = (term, vec![heir]);
        let (offers, raft, log) = (self.clone(), raft.clone(), log.clone());
        let watch = tokio::spawn(async move {
            sleep(TAKE_OVER_WITHIN).await;
            while leads_still(&raft, term).await {
                offers.take_back(&raft, &log, partition, term, heir).await;
                sleep(TAKE_OVER_WITHIN).await;
            }
        });
        offered.watch = Some(watch.abort_handle());
    }

    /// Ends the leadership that was offered in vain.
    async fn take_back(&self, raft: &Raft, log: &PartitionLog, partition: PartitionId, term: u64, heir: NodeId) {
        self.note_failure();
        tracing::warn!(%partition, %heir, term, "nobody took over the leadership that was offered: this node follows now");
        let vote = raft_vote(StoredVote { term: term + 1, node: heir.get(), committed: false });
        let mut request = VoteRequest::new(vote, log.state().last.map(log_id));
        request.leadership_transfer = true;
        match raft.vote(request).await {
            Ok(answer) if answer.vote_granted => {}
            answer => tracing::warn!(%partition, ?answer, "this node did not step down"),
        }
    }

    fn note_failure(&self) {
        let mut offered = self.0.lock();
        let (now, heirs) = (Instant::now(), std::mem::take(&mut offered.heirs));
        offered.failed.extend(heirs.into_iter().map(|heir| (heir, now)));
    }

    /// The group stops: nothing is taken back any more.
    pub(super) fn stop(&self) {
        if let Some(watch) = self.0.lock().watch.take() {
            watch.abort();
        }
    }
}

/// Whether this node leads in this term and no other one, so far.
async fn leads_still(raft: &Raft, term: u64) -> bool {
    let leads = move |state: &RaftState<TypeConfig>| {
        state.server_state == ServerState::Leader && state.vote_ref().leader_id.term == term
    };
    matches!(raft.with_raft_state(leads).await, Ok(true))
}
