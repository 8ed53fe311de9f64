//! The real-time order of operations as few edges as possible: its transitive reduction, by one sweep over the events.
//!
//! While sweeping, the frontier holds what has ended and is not yet known to be before something else that has ended. What
//! begins comes after all of the frontier, and so, by transitivity, after all that ended before. That is at most as many
//! edges a transaction as transactions run at once, instead of all pairs.

/// An operation's time.
#[derive(Clone, Copy, Debug)]
pub struct Span {
    /// Whose.
    pub number: usize,
    /// Event index of its beginning.
    pub invoked: u64,
    /// Event index at which it had certainly happened; `None`: never certain, so nothing comes after it.
    pub ended: Option<u64>,
}

/// Pairs (earlier, later) whose transitive closure is the real-time order.
pub fn reduction(spans: &[Span]) -> Vec<(usize, usize)> {
    let mut events: Vec<(u64, bool, usize)> = Vec::with_capacity(spans.len() * 2);
    for (place, span) in spans.iter().enumerate() {
        events.push((span.invoked, false, place));
        events.extend(span.ended.map(|at| (at, true, place)));
    }
    events.sort_unstable();
    let mut frontier: Vec<usize> = Vec::new();
    let mut before: Vec<Vec<usize>> = vec![Vec::new(); spans.len()];
    let mut edges = Vec::new();
    for (_, ends, place) in events {
        if ends {
            frontier.retain(|earlier| !before[place].contains(earlier));
            frontier.push(place);
        } else {
            before[place].clone_from(&frontier);
            edges.extend(frontier.iter().map(|&earlier| (spans[earlier].number, spans[place].number)));
        }
    }
    edges
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::harness::Rng;
    use std::collections::BTreeSet;

    /// Goal: the closure of the reduction is the order. Method: all pairs, on random spans.
    #[test]
    fn the_closure_of_the_reduction_is_the_order() {
        for seed in 0..200 {
            let mut rng = Rng::of_stream(seed, 0);
            let spans: Vec<Span> = (0..20)
                .map(|number| {
                    let invoked = rng.below(100) as u64;
                    let ended = (rng.below(5) > 0).then(|| invoked + 1 + rng.below(20) as u64);
                    Span { number, invoked, ended }
                })
                .collect();
            let mut reached: BTreeSet<(usize, usize)> = reduction(&spans).into_iter().collect();
            for middle in 0..20 {
                for from in 0..20 {
                    for to in 0..20 {
                        if reached.contains(&(from, middle)) && reached.contains(&(middle, to)) {
                            reached.insert((from, to));
                        }
                    }
                }
            }
            let mut order = BTreeSet::new();
            for one in &spans {
                let later = spans.iter().filter(|other| one.ended.is_some_and(|ended| ended < other.invoked));
                order.extend(later.map(|other| (one.number, other.number)));
            }
            assert_eq!(reached, order, "seed {seed}");
        }
    }
}
