//! The two moments of a stop: it is asked for, and then its grace is over.
//!
//! * Between them requests under way go on, no new connection is accepted, and every answer says `Connection: close`.
//!   After the grace whoever still waits is answered that the node stops.
//! * HTTP connections hear both from their listener (`activity`), which hears them here.

use tokio::sync::watch;

/// Says both moments. Dropping it says both.
#[derive(Debug)]
pub struct Stopper {
    asked: watch::Sender<bool>,
    overtime: watch::Sender<bool>,
}

/// Hears both moments.
#[derive(Clone, Debug)]
pub struct Stop {
    asked: watch::Receiver<bool>,
    overtime: watch::Receiver<bool>,
}

impl Default for Stopper {
    fn default() -> Stopper {
        Stopper { asked: watch::Sender::new(false), overtime: watch::Sender::new(false) }
    }
}

impl Stopper {
    /// Hears what this says.
    #[must_use]
    pub fn stop(&self) -> Stop {
        Stop { asked: self.asked.subscribe(), overtime: self.overtime.subscribe() }
    }

    /// The stop is asked for.
    pub fn ask(&self) {
        self.asked.send_replace(true);
    }

    /// The grace is over.
    pub fn end_grace(&self) {
        self.ask();
        self.overtime.send_replace(true);
    }
}

impl Stop {
    /// Whether the grace is over.
    #[must_use]
    pub fn is_over(&self) -> bool {
        *self.overtime.borrow()
    }

    /// Resolves when the stop is asked for.
    pub async fn asked(&self) {
        let _ = self.asked.clone().wait_for(|&asked| asked).await;
    }

    /// Resolves when the grace is over.
    pub async fn overtime(&self) {
        let _ = self.overtime.clone().wait_for(|&over| over).await;
    }

    /// Only the first moment, as a channel.
    #[must_use]
    pub fn asked_channel(&self) -> watch::Receiver<bool> {
        self.asked.clone()
    }
}
