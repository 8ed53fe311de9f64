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
    let cannot_call = nodes.iter().copied().map(NodeId::new).collect();
    PeerReport { cannot_call, votes: true, ..PeerReport::default() }
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

/// Goal: a node that cannot be called is kept from leading only where a majority cannot call it and can lead without it.
#[tokio::test(start_paused = true)]
async fn a_vote_is_refused_only_where_a_majority_remains() {
    let (start, now) = (Instant::now(), Instant::now() + AFTER);
    let refuses = |book: &PeerBook, candidate, now| book.refuses_vote(node(1), node(candidate), now);
    let mut alone = book(&[2, 3]);
    fail(&mut alone, 2, start);
    fail(&mut alone, 3, start);
    assert!(!refuses(&alone, 3, now), "nobody else could lead");
    let mut with_two = book(&[2, 3]);
    fail(&mut with_two, 3, start);
    with_two.answered(node(2), cannot_call(&[]), now);
    assert!(!refuses(&with_two, 3, now), "the other one can call it");
    with_two.answered(node(2), cannot_call(&[3]), now);
    assert!(refuses(&with_two, 3, now));
    assert!(!refuses(&with_two, 2, now));
    assert!(!refuses(&with_two, 3, start), "it has only just failed");
    let mut of_five = book(&[2, 3, 4, 5]);
    fail(&mut of_five, 5, start);
    of_five.answered(node(2), cannot_call(&[5]), now);
    assert!(!refuses(&of_five, 5, now), "two of five are no majority");
    of_five.answered(node(3), cannot_call(&[5]), now);
    assert!(refuses(&of_five, 5, now));
}

/// Goal: a node whose groups do not run, because its folder was wiped or it failed, does not count as one that can do without a
/// candidate. Method: of three, node 2 answers and cannot vote.
#[tokio::test(start_paused = true)]
async fn a_node_that_does_not_vote_keeps_nobody_from_leading() {
    let (start, now) = (Instant::now(), Instant::now() + AFTER);
    let mut book = book(&[2, 3]);
    fail(&mut book, 3, start);
    book.answered(node(2), PeerReport { votes: false, ..cannot_call(&[3]) }, now);
    assert!(!book.refuses_vote(node(1), node(3), now));
    assert!(!book.can_win(node(2), now));
    book.answered(node(2), cannot_call(&[3]), now);
    assert!(book.refuses_vote(node(1), node(3), now) && book.can_win(node(2), now));
}

/// Goal: where each of three nodes cannot call the next one, each may still get votes. Method: the book of each.
#[tokio::test(start_paused = true)]
async fn one_way_failures_in_a_circle_keep_nobody_from_leading() {
    let (start, now) = (Instant::now(), Instant::now() + AFTER);
    for (me, next, last) in [(1, 2, 3), (2, 3, 1), (3, 1, 2)] {
        let mut book = book(&[next, last]);
        fail(&mut book, next, start);
        book.told(node(next), cannot_call(&[last]), now);
        book.answered(node(last), cannot_call(&[me]), now);
        assert!(!book.refuses_vote(node(me), node(next), now), "node {next} at node {me}");
        assert!(!book.refuses_vote(node(me), node(last), now), "node {last} at node {me}");
    }
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

/// Goal: leadership goes only to a node that can win: it calls a majority of those who cannot call the leader. Method: two that can
/// call nobody; then one that can call the other.
#[tokio::test(start_paused = true)]
async fn nobody_inherits_who_cannot_win() {
    let now = Instant::now();
    let mut book = book(&[2, 3]);
    book.told(node(2), cannot_call(&[1, 3]), now);
    book.told(node(3), cannot_call(&[1, 2]), now);
    assert_eq!(book.heirs(node(1), now), []);
    assert!(!book.can_win(node(2), now) && !book.can_win(node(3), now));
    book.told(node(3), cannot_call(&[1]), now);
    assert_eq!(book.heirs(node(1), now), [node(3)]);
    assert!(book.can_win(node(3), now));
    assert!(!book.can_win(node(3), now + AFTER), "what it said has grown old");
}
