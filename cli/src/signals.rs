//! Ctrl-C and SIGTERM: the first asks for a clean end, the second ends the process at once.

use crate::failure::Failure;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Both signals, listened to from the moment this is made.
pub struct Stop {
    interrupt: Signal,
    terminate: Signal,
}

impl Stop {
    /// Takes the signals over from the operating system's default, which would end the process.
    pub fn listen() -> Result<Stop, Failure> {
        let take = |kind| signal(kind).map_err(|error| Failure::failed(format!("cannot listen for signals: {error}")));
        Ok(Stop { interrupt: take(SignalKind::interrupt())?, terminate: take(SignalKind::terminate())? })
    }

    /// Waits for the next of them.
    pub async fn asked(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }

    /// From now on, the next signal ends the process at once, with the code that shells expect of an interrupt.
    pub fn exit_at_next(mut self) {
        tokio::spawn(async move {
            self.asked().await;
            std::process::exit(130);
        });
    }
}
