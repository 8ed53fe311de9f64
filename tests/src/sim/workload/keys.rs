//! Keys: few, so that clients get into each other's way, in every partition; and values, each written once in a run.

use crate::harness::Rng;
use bytes::Bytes;
use duramen_common::PartitionId;
use duramen_common::placement::partition_of;

/// Keys by partition.
#[derive(Clone, Debug)]
pub struct Keys {
    by_partition: Vec<Vec<Bytes>>,
}

impl Keys {
    /// So many keys in each partition.
    #[must_use]
    pub fn new(partitions: u16, each: usize) -> Keys {
        let mut by_partition = vec![Vec::new(); usize::from(partitions)];
        let mut number = 0;
        while by_partition.iter().any(|keys: &Vec<Bytes>| keys.len() < each) {
            let key = Bytes::from(format!("k{number}"));
            number += 1;
            let keys = &mut by_partition[usize::from(partition_of(&key, partitions).get())];
            if keys.len() < each {
                keys.push(key);
            }
        }
        Keys { by_partition }
    }

    /// Any key, with its partition.
    pub fn any(&self, rng: &mut Rng) -> (PartitionId, Bytes) {
        let partition = rng.below(self.by_partition.len());
        (PartitionId::new(partition as u16), self.within(partition, rng))
    }

    /// Any key of a partition.
    pub fn of(&self, partition: PartitionId, rng: &mut Rng) -> Bytes {
        self.within(usize::from(partition.get()), rng)
    }

    /// Some keys of a partition, each once: at least one, at most so many.
    pub fn several(&self, partition: PartitionId, most: usize, rng: &mut Rng) -> Vec<Bytes> {
        let mut keys = self.by_partition[usize::from(partition.get())].clone();
        rng.shuffle(&mut keys);
        keys.truncate(1 + rng.below(most));
        keys
    }

    fn within(&self, partition: usize, rng: &mut Rng) -> Bytes {
        rng.pick(&self.by_partition[partition]).clone()
    }
}
