//! Signals: which end a process, and which do not.
//!
//! * Ctrl-C and SIGTERM: the first asks for a clean end, the second ends the process at once.
//! * Nodes do not end by SIGHUP, SIGUSR1 or SIGUSR2: they say that the signal does nothing. `duramen dev` on a terminal takes
//!   SIGHUP as SIGTERM, because it means that the terminal was closed.
//! * SIGXFSZ (a file at `ulimit -f`) must not end a node either: the write fails with an error that is handled.
//! * Source: docs/adr/0017-output-never-stops-a-node.md.

use crate::failure::Failure;
use rustix::process::Signal as Number;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// The signals that ask for an end, listened to from the moment this is made.
pub struct Stop {
    interrupt: Signal,
    terminate: Signal,
    /// Only where it asks for an end.
    hang_up: Option<Signal>,
}

/// What SIGHUP means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HangUp {
    /// A clean end: the terminal that the process belongs to was closed.
    Ends,
    /// Nothing: there is no file to read again.
    IsIgnored,
}

fn take(kind: SignalKind) -> Result<Signal, Failure> {
    signal(kind).map_err(|error| Failure::failed(format!("cannot listen for signals: {error}")))
}

impl Stop {
    /// For commands: takes Ctrl-C and SIGTERM over from the operating system's default, which would end the process.
    pub fn listen() -> Result<Stop, Failure> {
        Ok(Stop { interrupt: take(SignalKind::interrupt())?, terminate: take(SignalKind::terminate())?, hang_up: None })
    }

    /// For nodes: the same, and no other signal of those that people send ends the process without a word.
    pub fn listen_as_node(hang_up: HangUp) -> Result<Stop, Failure> {
        let mut stop = Stop::listen()?;
        let signal = take(SignalKind::hangup())?;
        match hang_up {
            HangUp::Ends => stop.hang_up = Some(signal),
            HangUp::IsIgnored => explain(signal, "SIGHUP: nothing to reload; settings are read at the start"),
        }
        explain(take(SignalKind::user_defined1())?, "SIGUSR1 does nothing here");
        explain(take(SignalKind::user_defined2())?, "SIGUSR2 does nothing here");
        let file_size = take(SignalKind::from_raw(Number::XFSZ.as_raw()))?;
        explain(file_size, "SIGXFSZ: a file has the size that the process's limit allows (ulimit -f)");
        Ok(stop)
    }

    /// Waits for the next of them.
    pub async fn asked(&mut self) {
        let hang_up = async {
            match &mut self.hang_up {
                Some(signal) => signal.recv().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
            _ = hang_up => tracing::warn!("SIGHUP: the terminal was closed; stopping"),
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

/// Answers each signal of a kind with a log line.
fn explain(mut signal: Signal, line: &'static str) {
    tokio::spawn(async move {
        while signal.recv().await.is_some() {
            tracing::warn!("{line}");
        }
    });
}
