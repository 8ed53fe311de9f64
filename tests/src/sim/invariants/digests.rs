//! Invariant 4: digests of two serving nodes are the same at the same applied end, and a digest with a token covers it.
//!
//! What a node's state is at an applied end is held to the fold elsewhere (`fold`); here, that its digest speaks of it.

use super::super::seen::Digest;
use super::super::violation::Broken;
use duramen_common::{Offset, PartitionId};
use std::collections::BTreeMap;

/// The digests seen, by partition and applied end.
#[derive(Default)]
pub(super) struct DigestsSeen {
    digests: BTreeMap<(PartitionId, Offset), Digest>,
}

impl DigestsSeen {
    /// Holds a digest to those before; always decides.
    pub(super) fn check(&mut self, digest: &Digest) -> Result<bool, Broken> {
        let wanted = digest.token.as_ref().and_then(|token| token.position(digest.partition));
        if wanted.is_some_and(|wanted| digest.applied_end <= wanted) {
            return Err(Broken::new(5, format!("asked for what covers its token: {digest:?}")));
        }
        let first = self.digests.entry((digest.partition, digest.applied_end)).or_insert_with(|| digest.clone());
        if first.digest == digest.digest {
            return Ok(true);
        }
        Err(Broken::new(4, format!("two digests at one applied end: {first:?}, {digest:?}")))
    }
}
