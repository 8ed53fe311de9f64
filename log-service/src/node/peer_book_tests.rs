//! Who counts as unreachable, and what follows from it.

use super::*;

const AFTER: Duration = Duration::from_secs(5);

fn node(number: u64) -> NodeId {
    NodeId::new(number)
}

fn book(others: &[u64]) -> PeerBook {
    PeerBook::new(others.iter().copied().map(NodeId::new), AFTER)
}

fn cannot_call(nodes: &[u64]) -> PeerReport {
    PeerReport { cannot_call: nodes.iter().copied().map(NodeId::new).collect(), ..PeerReport::default() }
}

fn fail(book: &mut PeerBook, number: u64, now: Instant) {
    book.failed(node(number), "connection refused".to_owned(), false, now);
}

#[test]
fn a_majority_is_more_than_half_of_all_members() {
    for (others, majority) in [(0, 1), (1, 2), (2, 2), (3, 3), (4, 3), (5, 4), (6, 4)] {
        let numbers: Vec<u64> = (0..others).map(|number| number + 2).collect();
        assert_eq!(book(&numbers).majority(), majority, "{} members", others + 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_peer_is_unreachable_only_after_calls_have_failed_for_a_while() {
    let start = Instant::now();
    let mut book = book(&[2, 3]);
    fail(&mut book, 3, start);
    fail(&mut book, 3, start + AFTER / 2);
    assert_eq!(book.cannot_call(start + AFTER / 2), []);
    assert_eq!(book.cannot_call(start + AFTER), [node(3)]);
    // That it calls here changes nothing; that it answers does.
    book.told(node(3), PeerReport::default(), start + AFTER);
    assert_eq!(book.cannot_call(start + AFTER), [node(3)]);
    book.answered(node(3), PeerReport::default(), start + AFTER);
    assert_eq!(book.cannot_call(start + AFTER * 2), []);
}

/// Goal: a node that cannot be called is kept from leading only where the others can lead without it.
#[tokio::test(start_paused = true)]
async fn a_vote_is_refused_only_where_a_majority_remains() {
    let (start, now) = (Instant::now(), Instant::now() + AFTER);
    let mut alone = book(&[2, 3]);
    fail(&mut alone, 2, start);
    fail(&mut alone, 3, start);
    assert!(!alone.refuses_vote(node(3), now), "nobody else could lead");
    let mut with_two = book(&[2, 3]);
    fail(&mut with_two, 3, start);
    with_two.answered(node(2), PeerReport::default(), now);
    assert!(with_two.refuses_vote(node(3), now));
    assert!(!with_two.refuses_vote(node(2), now));
    assert!(!with_two.refuses_vote(node(3), start), "it has only just failed");
    let mut of_five = book(&[2, 3, 4, 5]);
    fail(&mut of_five, 5, start);
    of_five.answered(node(2), PeerReport::default(), now);
    assert!(!of_five.refuses_vote(node(5), now), "two of five are no majority");
    of_five.answered(node(3), PeerReport::default(), now);
    assert!(of_five.refuses_vote(node(5), now));
}

/// Goal: a leader hands over to those who cannot call it only when they can go on by themselves, and only while they say so.
#[tokio::test(start_paused = true)]
async fn a_leader_hands_over_only_to_a_majority_that_cannot_call_it() {
    let now = Instant::now();
    let mut book = book(&[2, 3]);
    book.answered(node(2), cannot_call(&[1]), now);
    assert_eq!(book.heirs(node(1), now), []);
    book.answered(node(3), cannot_call(&[2]), now);
    assert_eq!(book.heirs(node(1), now), []);
    book.answered(node(3), cannot_call(&[1]), now);
    assert_eq!(book.heirs(node(1), now), [node(2), node(3)]);
    assert_eq!(book.heirs(node(1), now + AFTER), [], "what they said has grown old");
}
