//! An index in memory: nothing survives. For simulation, tests, and nodes that rather replay than write.

use super::{Index, IndexError, Visit, Witness, WriteError, Writes};
use bytes::Bytes;
use parking_lot::RwLock;
use std::collections::BTreeMap;
use std::ops::Bound;

#[derive(Default)]
pub(crate) struct MemoryIndex {
    map: RwLock<BTreeMap<Vec<u8>, Bytes>>,
}

impl Index for MemoryIndex {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, IndexError> {
        Ok(self.map.read().get(key).cloned())
    }

    fn range(&self, start: Bound<&[u8]>, end: Bound<&[u8]>, visit: Visit<'_>) -> Result<(), IndexError> {
        for (key, value) in self.map.read().range::<[u8], _>((start, end)) {
            if visit(key, value).is_break() {
                break;
            }
        }
        Ok(())
    }

    fn write_seen(&self, mut writes: Writes, witness: Option<&mut dyn Witness>) -> Result<(), WriteError> {
        let mut map = self.map.write();
        if let Some(witness) = witness {
            super::show(witness, &mut writes, |key| Ok(map.get(key).cloned()))?;
        }
        for (key, value) in writes {
            match value {
                Some(value) => map.insert(key, Bytes::from(value)),
                None => map.remove(&key),
            };
        }
        Ok(())
    }

    fn sync(&self) -> Result<(), IndexError> {
        Ok(())
    }

    fn blocks(&self) -> bool {
        false
    }
}
