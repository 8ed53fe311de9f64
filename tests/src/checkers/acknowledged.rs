//! Writes of keys that nobody else writes, held against what a node shows in the end.
//!
//! * An acknowledged one must be there, with that value at that version (another version: it took effect twice); one refused
//!   with certainty must not be there; of an unknown one, either is right, but never another value.
//! * The cheapest of the checkers: linear, for hundreds of thousands of keys.
//! * Source: DESIGN §6, invariants 1 and 7; D14.

use super::Verdict;
use std::collections::HashMap;
use std::fmt;

/// What a writer was told about one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Told {
    /// Written, at this version.
    Acknowledged(String),
    /// Certainly not written.
    Refused(String),
    /// It may or may not be.
    Unknown(String),
}

/// Keys with what was written and told.
pub type Ledger = HashMap<String, (String, Told)>;
/// Keys with the value and the version that a node shows.
pub type Shown = HashMap<String, (String, String)>;

/// A key that is not as its writer was told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lie {
    /// The key.
    pub key: String,
    /// What was told, and what is there.
    pub detail: String,
}

impl fmt::Display for Lie {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.key, self.detail)
    }
}

/// Whether all writers were told the truth, and nobody else wrote.
pub fn check(told: &Ledger, shown: &Shown) -> Verdict<Lie> {
    let mut lies = Vec::new();
    for (key, (value, outcome)) in told {
        let detail = match (outcome, shown.get(key)) {
            (Told::Acknowledged(version), Some((there, at))) if there == value && at == version => continue,
            (Told::Acknowledged(version), other) => format!("acknowledged {value} at {version}, found {other:?}"),
            (Told::Refused(why), Some(other)) => format!("refused ({why}), found {other:?}"),
            (Told::Unknown(_), Some((there, _))) if there != value => format!("wrote {value}, found {there}"),
            (Told::Refused(_) | Told::Unknown(_), _) => continue,
        };
        lies.push(Lie { key: key.clone(), detail });
    }
    let strangers = shown.keys().filter(|key| !told.contains_key(*key));
    lies.extend(strangers.map(|key| Lie { key: key.clone(), detail: "nobody wrote it".to_owned() }));
    lies.sort_by(|one, other| one.key.cmp(&other.key));
    Verdict::of(lies)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn believes(told: Told, found: Option<(&str, &str)>) -> bool {
        let ledger = Ledger::from([("k".to_owned(), ("v".to_owned(), told))]);
        let found = found.map(|(value, version)| ("k".to_owned(), (value.to_owned(), version.to_owned())));
        check(&ledger, &found.into_iter().collect()).is_valid()
    }

    /// Planted lies: each must be found.
    #[test]
    fn every_kind_of_lie_is_found() {
        let acknowledged = || Told::Acknowledged("1".to_owned());
        let refused = || Told::Refused(String::new());
        let unknown = || Told::Unknown(String::new());
        assert!(believes(acknowledged(), Some(("v", "1"))));
        assert!(!believes(acknowledged(), None), "a lost write");
        assert!(!believes(acknowledged(), Some(("v", "2"))), "a write at another version: it took effect twice");
        assert!(!believes(acknowledged(), Some(("w", "1"))), "another value");
        assert!(believes(refused(), None));
        assert!(!believes(refused(), Some(("v", "1"))), "a refused write that took effect");
        assert!(believes(unknown(), None) && believes(unknown(), Some(("v", "7"))));
        assert!(!believes(unknown(), Some(("w", "7"))), "another value than the unknown one");
        let stranger = Shown::from([("s".to_owned(), ("v".to_owned(), "1".to_owned()))]);
        assert!(!check(&Ledger::new(), &stranger).is_valid(), "a key from nowhere");
    }
}
