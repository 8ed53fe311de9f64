//! How many files a node may have open: what it needs is set aside first, its listeners get the rest.
//!
//! * In: what the process may open, what a node needs, what its listeners would like. Out: what each listener gets, or a
//!   refusal that names the number needed and what to do.
//! * Pure; whoever starts a process asks the operating system.
//! * Source: docs/adr/0015-files-are-a-budget.md.

/// What one node of a process may have open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FilesShare {
    /// What the process may have open.
    pub limit: u64,
    /// What it has open besides its nodes: streams, the runtime, what it inherited.
    pub taken: u64,
    /// Nodes in this process, which share the rest.
    pub nodes: u64,
}

/// The process may open too few files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "this process may open {limit} files and needs {needed}: raise the hard limit (ulimit -Hn {needed}, or \
     LimitNOFILE={needed} in the unit), or configure fewer partitions"
)]
pub struct TooFewFiles {
    /// What there is.
    pub limit: u64,
    /// What is needed.
    pub needed: u64,
}

/// A listener's wish.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wish {
    /// Connections that it would take.
    pub most: usize,
    /// Connections without which it is of no use.
    pub least: usize,
}

impl FilesShare {
    /// Sets `need` aside and divides the rest among listeners: each its least, then in proportion to what it would take.
    pub fn divide(&self, need: u64, wishes: &[Wish]) -> Result<Vec<usize>, TooFewFiles> {
        let own = self.limit.saturating_sub(self.taken) / self.nodes.max(1);
        let least: u64 = wishes.iter().map(|wish| wish.least as u64).sum();
        let Some(spare) = own.checked_sub(need + least) else {
            let needed = self.taken + self.nodes.max(1) * (need + least);
            return Err(TooFewFiles { limit: self.limit, needed });
        };
        let more = |wish: &Wish| wish.most.saturating_sub(wish.least) as u64;
        let wanted: u64 = wishes.iter().map(more).sum();
        let given = wishes.iter().map(|wish| match more(wish).checked_mul(spare) {
            _ if spare >= wanted => wish.most.max(wish.least),
            Some(share) => wish.least + (share / wanted.max(1)) as usize,
            None => wish.least,
        });
        Ok(given.collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WISHES: [Wish; 2] = [Wish { most: 1_024, least: 16 }, Wish { most: 4_096, least: 16 }];

    #[test]
    fn listeners_get_what_is_left() {
        let share = |limit| FilesShare { limit, taken: 20, nodes: 1 };
        assert_eq!(share(1_048_576).divide(120, &WISHES), Ok(vec![1_024, 4_096]));
        let given = share(1_024).divide(120, &WISHES).unwrap();
        assert!(given.iter().sum::<usize>() <= 1_024 - 20 - 120 && given[0] >= 150 && given[1] > given[0], "{given:?}");
        assert_eq!(share(172).divide(120, &WISHES), Ok(vec![16, 16]));
        assert_eq!(share(171).divide(120, &WISHES), Err(TooFewFiles { limit: 171, needed: 172 }));
    }

    #[test]
    fn what_is_needed_is_enough() {
        for nodes in 1..6 {
            let few = FilesShare { limit: 64, taken: 20, nodes };
            let TooFewFiles { needed, .. } = few.divide(120, &WISHES).unwrap_err();
            assert!(FilesShare { limit: needed, ..few }.divide(120, &WISHES).is_ok(), "{nodes} nodes");
        }
        let text = TooFewFiles { limit: 64, needed: 172 }.to_string();
        assert!(text.contains("64") && text.contains("LimitNOFILE=172") && text.contains("ulimit -Hn 172"), "{text}");
    }
}
