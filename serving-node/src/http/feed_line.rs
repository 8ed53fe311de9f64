//! A feed's line to its consumer: one piece at a time.
//!
//! * Whoever has something to say waits for the turn, and the turn ends when the socket has taken the whole piece. A consumer that does
//!   not read therefore holds one piece, and nobody reads further for it.
//! * Invariant: the token in [`Said`] names what was said up to the end of the last piece.

use super::feeding::Piece;
use bytes::Bytes;
use duramen_common::SessionToken;
use duramen_common::budget::Held;
use std::sync::Arc;
use tokio::sync::{Mutex, OwnedMutexGuard, mpsc};
use tokio::time::Instant;

/// What the consumer was told.
pub(crate) struct Said {
    /// Everything that was given.
    pub(crate) token: SessionToken,
    /// When the last piece was handed on.
    pub(crate) last: Instant,
}

/// The turn to say something.
pub(crate) type Turn = OwnedMutexGuard<Said>;

/// The line. Clones are the same line.
#[derive(Clone)]
pub(crate) struct FeedLine {
    said: Arc<Mutex<Said>>,
    pieces: mpsc::Sender<Bytes>,
}

impl FeedLine {
    /// A line that begins after `token`, and the end that the socket reads.
    pub(crate) fn new(token: SessionToken) -> (FeedLine, mpsc::Receiver<Bytes>) {
        let (pieces, body) = mpsc::channel(1);
        let said = Arc::new(Mutex::new(Said { token, last: Instant::now() }));
        (FeedLine { said, pieces }, body)
    }

    /// The turn, once the socket has taken what was said before. Turns come in the order in which they were asked for.
    pub(crate) async fn turn(&self) -> Turn {
        Arc::clone(&self.said).lock_owned().await
    }

    /// The turn, if nobody has it and nothing is on its way.
    pub(crate) fn try_turn(&self) -> Option<Turn> {
        Arc::clone(&self.said).try_lock_owned().ok()
    }

    /// Hands a piece on, with the token of all that was said by its end. False when the consumer is gone.
    pub(crate) async fn say(&self, mut turn: Turn, text: Vec<u8>, token: SessionToken, held: Option<Held>) -> bool {
        turn.token = token;
        turn.last = Instant::now();
        self.pieces.send(Piece::bytes(text, turn, held)).await.is_ok()
    }

    /// Resolves when the consumer is gone.
    pub(crate) async fn gone(&self) {
        self.pieces.closed().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(text: &str) -> SessionToken {
        text.parse().unwrap()
    }

    /// Goal: nothing is made for a consumer that has not taken what it was given before.
    #[tokio::test]
    async fn the_turn_ends_when_the_last_byte_is_taken() {
        let (line, mut body) = FeedLine::new(token("c7f3a1."));
        let turn = line.turn().await;
        assert!(line.say(turn, b"one".to_vec(), token("c7f3a1.0:0"), None).await);
        assert!(line.try_turn().is_none(), "it waits in the channel");
        let mut taken = body.recv().await.unwrap();
        let rest = taken.split_off(1);
        drop(taken);
        assert!(line.try_turn().is_none(), "the socket has a part of it");
        drop(rest);
        assert_eq!(line.try_turn().unwrap().token, token("c7f3a1.0:0"));
    }

    #[tokio::test]
    async fn a_consumer_that_is_gone_ends_the_line() {
        let (line, body) = FeedLine::new(token("c7f3a1."));
        drop(body);
        line.gone().await;
        let turn = line.turn().await;
        assert!(!line.say(turn, b"one".to_vec(), token("c7f3a1."), None).await);
    }
}
