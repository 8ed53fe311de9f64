//! A key's version: history id and timestamp of its last effective write, printed `c7f3a1.3:1042`; quoted, its ETag.
//!
//! * Invariant: one text a version; it is a session token with exactly one timestamp.

use duramen_common::{HistoryId, SessionToken, Timestamp};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::str::FromStr;

/// The timestamp of a write, with the history that it counts in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Version {
    /// Whose offsets these are.
    pub history: HistoryId,
    /// Partition and offset of the write.
    pub timestamp: Timestamp,
}

impl Version {
    /// The token of somebody who has seen this write.
    #[must_use]
    pub fn token(&self) -> SessionToken {
        SessionToken::of(self.history, self.timestamp)
    }

    /// The version that an entity tag names; `None` for a weak tag or anything else.
    pub(super) fn from_etag(tag: &str) -> Option<Version> {
        tag.strip_prefix('"')?.strip_suffix('"')?.parse().ok()
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.history, self.timestamp)
    }
}

/// A text that is no version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a version: expected HISTORY.PARTITION:OFFSET, for instance c7f3a1.3:1042")]
pub struct VersionParseError;

impl FromStr for Version {
    type Err = VersionParseError;

    fn from_str(text: &str) -> Result<Version, VersionParseError> {
        let (history, timestamp) = text.split_once('.').ok_or(VersionParseError)?;
        Ok(Version {
            history: history.parse().map_err(|_| VersionParseError)?,
            timestamp: timestamp.parse().map_err(|_| VersionParseError)?,
        })
    }
}

impl Serialize for Version {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Version {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Version, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_prints_as_it_parses_and_only_strong_tags_name_one() {
        let version: Version = "c7f3a1.3:1042".parse().unwrap();
        assert_eq!(version.to_string(), "c7f3a1.3:1042");
        assert_eq!(version.token().to_string(), "c7f3a1.3:1042");
        assert_eq!(Version::from_etag("\"c7f3a1.3:1042\""), Some(version));
        for tag in ["c7f3a1.3:1042", "W/\"c7f3a1.3:1042\"", "\"\"", "\"c7f3a1.\"", "\"", "\"c7f3a1.0:1_1:2\""] {
            assert_eq!(Version::from_etag(tag), None, "{tag:?}");
        }
    }
}
