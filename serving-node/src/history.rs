//! History: to which cluster a serving node belongs, decided before it takes anything over.
//!
//! * In: the history of what is in its data folder, and what every configured log node said. Out: the history to join, or a
//!   sentence that says why none.
//! * Invariant: it does not depend on who answers first. All log nodes that answer must be of one history.
//! * Invariant: a known history is never left by itself: a person deletes the folder.
//! * Deliberately absent: asking, wiping.
//! * Source: docs/adr/0018-identity-and-addresses.md.

use duramen_common::HistoryId;
use duramen_common::log::Surveyed;
use std::collections::BTreeMap;

/// What a node does about its history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Choice {
    /// It joins this one, or goes on in it.
    Join(HistoryId),
    /// Nobody has answered yet.
    Wait(String),
    /// A person must act: why, and what to do.
    Refuse(String),
}

/// Decides from what is known and what was said.
pub(crate) fn choose(known: Option<HistoryId>, said: &[Surveyed]) -> Choice {
    let mut addrs: BTreeMap<HistoryId, Vec<&str>> = BTreeMap::new();
    for Surveyed { addr, history } in said {
        if let Ok(history) = history {
            addrs.entry(*history).or_default().push(addr);
        }
    }
    let folder = known.map_or_else(String::new, |known| format!("; this node's data folder is of {known}"));
    let mut histories = addrs.iter();
    match (histories.next(), histories.next()) {
        (None, _) => {
            let why = said.iter().find_map(|said| said.history.as_ref().err()).cloned().unwrap_or_default();
            Choice::Wait(why)
        }
        (Some((&found, addrs)), None) => match known {
            Some(known) if known != found => Choice::Refuse(format!(
                "this node's data folder is of history {known}, the log nodes that answer ({}) are of {found}: correct \
                 --log-nodes, or, to join {found}, delete the folder `index` in this node's data folder",
                addrs.join(", ")
            )),
            _ => Choice::Join(found),
        },
        (Some(_), Some(_)) => {
            let each: Vec<String> =
                addrs.iter().map(|(history, addrs)| format!("{} of history {history}", addrs.join(", "))).collect();
            Choice::Refuse(format!(
                "--log-nodes names log nodes of different clusters: {}{folder}; name those of one cluster only",
                each.join("; ")
            ))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(histories: &[Option<u32>]) -> Vec<Surveyed> {
        let one = |(number, history): (usize, &Option<u32>)| Surveyed {
            addr: format!("n:{number}"),
            history: history.map(HistoryId::from_bits).ok_or_else(|| "connection refused".to_owned()),
        };
        histories.iter().enumerate().map(one).collect()
    }

    fn chosen(known: Option<u32>, histories: &[Option<u32>]) -> Choice {
        choose(known.map(HistoryId::from_bits), &said(histories))
    }

    #[test]
    fn one_history_of_all_that_answer_is_joined() {
        let one = Choice::Join(HistoryId::from_bits(1));
        assert_eq!(chosen(None, &[Some(1), Some(1), Some(1)]), one);
        assert_eq!(chosen(None, &[None, Some(1), None]), one);
        assert_eq!(chosen(Some(1), &[None, Some(1), None]), one);
        assert!(matches!(chosen(None, &[None, None]), Choice::Wait(why) if why == "connection refused"));
        assert!(matches!(chosen(Some(1), &[None]), Choice::Wait(_)));
    }

    /// Goal: whichever node answers first, a mixture is refused, and both histories are named.
    #[test]
    fn log_nodes_of_two_histories_are_refused_in_any_order() {
        for known in [None, Some(1), Some(2), Some(3)] {
            for histories in [[Some(1), Some(2), None], [Some(2), Some(1), Some(1)], [None, Some(2), Some(1)]] {
                let Choice::Refuse(why) = chosen(known, &histories) else { panic!("{known:?} {histories:?}") };
                assert!(why.contains("000001") && why.contains("000002"), "{why}");
            }
        }
    }

    /// Goal: a known history is not left, also when all log nodes are of another one.
    #[test]
    fn a_known_history_is_not_left() {
        for histories in [[Some(2), Some(2), Some(2)], [Some(2), None, Some(2)]] {
            let Choice::Refuse(why) = chosen(Some(1), &histories) else { panic!("{histories:?}: left") };
            assert!(why.contains("000001") && why.contains("000002") && why.contains("delete the folder"), "{why}");
        }
    }
}
