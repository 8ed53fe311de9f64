//! Session token: a history id and at most one timestamp a partition, as text: `c7f3a1.0:17_3:1042`.
//!
//! * Means: "I have seen these offsets". A reader of a partition that the token names must be past that offset.
//! * Merging is the pointwise maximum: commutative, associative, idempotent; `c7f3a1.` is its neutral element.
//! * Invariant: one canonical text a token (partitions ascending, no repeats), so that texts may be compared.
//! * Source: DESIGN words and §4; docs/formats.md "Session token".

use crate::ids::{HistoryId, Offset, PartitionId, Timestamp};
use crate::limits::TOKEN_BYTES_MAX;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

/// What a client has seen. Offsets are of records seen, not ends.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SessionToken {
    history: HistoryId,
    positions: BTreeMap<PartitionId, Offset>,
}

impl SessionToken {
    /// A token that has seen nothing.
    #[must_use]
    pub fn new(history: HistoryId) -> SessionToken {
        SessionToken { history, positions: BTreeMap::new() }
    }

    /// The token that names one write.
    #[must_use]
    pub fn of(history: HistoryId, timestamp: Timestamp) -> SessionToken {
        let mut token = SessionToken::new(history);
        token.see(timestamp);
        token
    }

    /// The history whose offsets these are.
    #[must_use]
    pub fn history(&self) -> HistoryId {
        self.history
    }

    /// The greatest offset seen of a partition; `None` when none was.
    #[must_use]
    pub fn position(&self, partition: PartitionId) -> Option<Offset> {
        self.positions.get(&partition).copied()
    }

    /// The timestamps, partitions ascending.
    pub fn timestamps(&self) -> impl Iterator<Item = Timestamp> + '_ {
        self.positions.iter().map(|(&partition, &offset)| Timestamp { partition, offset })
    }

    /// The only timestamp, when there is exactly one.
    #[must_use]
    pub fn single(&self) -> Option<Timestamp> {
        let mut timestamps = self.timestamps();
        let first = timestamps.next()?;
        timestamps.next().is_none().then_some(first)
    }

    /// Notes that this record was seen.
    pub fn see(&mut self, timestamp: Timestamp) {
        let seen = self.positions.entry(timestamp.partition).or_insert(timestamp.offset);
        *seen = (*seen).max(timestamp.offset);
    }

    /// Takes over what `other` has seen. Tokens of two histories cannot be merged.
    pub fn merge(&mut self, other: &SessionToken) -> Result<(), OtherHistory> {
        if other.history != self.history {
            return Err(OtherHistory { ours: self.history, theirs: other.history });
        }
        other.timestamps().for_each(|timestamp| self.see(timestamp));
        Ok(())
    }
}

impl fmt::Display for SessionToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.", self.history)?;
        for (number, timestamp) in self.timestamps().enumerate() {
            if number > 0 {
                f.write_str("_")?;
            }
            write!(f, "{timestamp}")?;
        }
        Ok(())
    }
}

impl FromStr for SessionToken {
    type Err = TokenParseError;

    fn from_str(text: &str) -> Result<SessionToken, TokenParseError> {
        if text.len() > TOKEN_BYTES_MAX {
            return Err(TokenParseError::TooLong { length: text.len() });
        }
        let (history, rest) = text.split_once('.').ok_or(TokenParseError::Form)?;
        let history = history.parse().map_err(|_| TokenParseError::Form)?;
        let mut positions = BTreeMap::new();
        if !rest.is_empty() {
            let mut last: Option<PartitionId> = None;
            for part in rest.split('_') {
                let timestamp: Timestamp = part.parse().map_err(|_| TokenParseError::Form)?;
                if last.is_some_and(|last| last >= timestamp.partition) {
                    return Err(TokenParseError::Order);
                }
                last = Some(timestamp.partition);
                positions.insert(timestamp.partition, timestamp.offset);
            }
        }
        Ok(SessionToken { history, positions })
    }
}

impl Serialize for SessionToken {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for SessionToken {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<SessionToken, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// Two tokens of different clusters, or of before and after a restore.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("token of history {theirs}, but this is history {ours}: start over without the token")]
pub struct OtherHistory {
    /// The history at hand.
    pub ours: HistoryId,
    /// The token's history.
    pub theirs: HistoryId,
}

/// A text that is no session token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenParseError {
    /// Over the limit.
    #[error("token of {length} bytes, the limit is {TOKEN_BYTES_MAX}")]
    TooLong {
        /// Its length in bytes.
        length: usize,
    },
    /// Not of the form.
    #[error("not a token: expected HISTORY.PARTITION:OFFSET_PARTITION:OFFSET…, for instance c7f3a1.0:17_3:1042")]
    Form,
    /// A partition twice, or out of order.
    #[error("not a token: partitions must ascend, each named once")]
    Order,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn tokens() -> impl Strategy<Value = SessionToken> {
        proptest::collection::btree_map(0u16..40, 0u64..1_000_000, 0..10).prop_map(|positions| SessionToken {
            history: HistoryId::from_bits(0x00c7_f3a1),
            positions: positions
                .into_iter()
                .map(|(partition, offset)| (PartitionId::new(partition), Offset::new(offset)))
                .collect(),
        })
    }

    fn merged(one: &SessionToken, other: &SessionToken) -> SessionToken {
        let mut token = one.clone();
        token.merge(other).unwrap();
        token
    }

    proptest! {
        #[test]
        fn a_token_prints_as_it_parses(token in tokens()) {
            prop_assert_eq!(token.to_string().parse::<SessionToken>().unwrap(), token);
        }

        #[test]
        fn merging_is_a_semilattice(a in tokens(), b in tokens(), c in tokens()) {
            prop_assert_eq!(merged(&a, &b), merged(&b, &a));
            prop_assert_eq!(merged(&merged(&a, &b), &c), merged(&a, &merged(&b, &c)));
            prop_assert_eq!(merged(&a, &a), a.clone());
            prop_assert_eq!(merged(&a, &SessionToken::new(a.history())), a);
        }

        #[test]
        fn a_merged_token_has_seen_what_both_have(a in tokens(), b in tokens()) {
            let both = merged(&a, &b);
            for timestamp in a.timestamps().chain(b.timestamps()) {
                prop_assert!(both.position(timestamp.partition) >= Some(timestamp.offset));
            }
        }

        /// One text a token: what parses prints as the same text.
        #[test]
        fn what_parses_is_canonical(text in "[0-9a-f]{6}\\.([0-9]{1,2}:[0-9]{1,3}(_[0-9]{1,2}:[0-9]{1,3}){0,3})?") {
            if let Ok(token) = text.parse::<SessionToken>() {
                prop_assert_eq!(token.to_string(), text);
            }
        }

        #[test]
        fn any_text_is_refused_or_parsed(text: String) {
            let _ = text.parse::<SessionToken>();
        }
    }

    #[test]
    fn the_forms_of_the_contract_parse() {
        let token: SessionToken = "c7f3a1.0:17_3:1042".parse().unwrap();
        assert_eq!(token.position(PartitionId::new(3)), Some(Offset::new(1042)));
        assert_eq!(token.position(PartitionId::new(1)), None);
        assert_eq!("c7f3a1.".parse::<SessionToken>().unwrap().timestamps().count(), 0);
        for text in [
            "",
            ".",
            "c7f3a1",
            "c7f3a1.3",
            "c7f3a1._",
            "c7f3a1.0:1_",
            "c7f3a1.3:1_0:1",
            "c7f3a1.0:1_0:2",
            "c7f3a1.meta:1",
        ] {
            assert!(text.parse::<SessionToken>().is_err(), "{text:?} was taken");
        }
        assert!(matches!(
            "x".repeat(TOKEN_BYTES_MAX + 1).parse::<SessionToken>(),
            Err(TokenParseError::TooLong { .. })
        ));
    }

    #[test]
    fn tokens_of_two_histories_do_not_merge() {
        let mut one: SessionToken = "c7f3a1.0:1".parse().unwrap();
        let other: SessionToken = "c7f3a2.0:2".parse().unwrap();
        assert!(one.merge(&other).is_err());
        assert_eq!(one.to_string(), "c7f3a1.0:1");
    }
}
