//! Gate: everything that leaves a host in one of its lives, to the network or to its disk, passes here and stops when the
//! host dies.
//!
//! * A host dies at any of its effects: a fuse counts them, and the one that burns it does not happen any more, nor does any
//!   later one. What its tasks still do until they are dropped is seen by nobody. Between two effects nothing happens that
//!   could be told apart from outside, so that every await point is covered.
//! * Invariant: what the fuse does (the disk forgets) is done at that very moment, once.

use parking_lot::Mutex;
use std::sync::Arc;

type OnDeath = Box<dyn FnOnce() + Send>;

struct State {
    lives: bool,
    /// Effects that still pass.
    fuse: Option<u64>,
    on_death: Option<OnDeath>,
}

/// One life of a host. Cloning shares it.
#[derive(Clone)]
pub struct Gate {
    state: Arc<Mutex<State>>,
}

impl Default for Gate {
    fn default() -> Gate {
        Gate { state: Arc::new(Mutex::new(State { lives: true, fuse: None, on_death: None })) }
    }
}

impl Gate {
    /// Asks whether an effect may happen.
    #[must_use]
    pub fn passes(&self) -> bool {
        let died = {
            let mut state = self.state.lock();
            if !state.lives {
                return false;
            }
            match &mut state.fuse {
                None => return true,
                Some(0) => {
                    state.lives = false;
                    state.on_death.take()
                }
                Some(left) => {
                    *left -= 1;
                    return true;
                }
            }
        };
        if let Some(died) = died {
            died();
        }
        false
    }

    /// Whether the host still lives.
    #[must_use]
    pub fn lives(&self) -> bool {
        self.state.lock().lives
    }

    /// Lets the host die after so many more effects.
    pub fn light(&self, effects: u64, on_death: impl FnOnce() + Send + 'static) {
        let mut state = self.state.lock();
        state.fuse = Some(effects);
        state.on_death = Some(Box::new(on_death));
    }

    /// The host dies now, unless it has.
    pub fn close(&self, on_death: impl FnOnce()) {
        {
            let mut state = self.state.lock();
            if !std::mem::replace(&mut state.lives, false) {
                return;
            }
            state.on_death = None;
        }
        on_death();
    }
}
