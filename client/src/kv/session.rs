//! [`Session`]: a client that remembers what it has seen, so that it reads its own writes and never goes back in time,
//! at whichever node it reads.
//!
//! * In: every answer's `Log-Timestamp`. Out: the merged token, with every read.
//! * Invariant: the token only grows. Before it has seen anything, a session reads linearizably.
//! * Thread-safe: calls may run at once; a read sees what was answered before it began.
//! * Deliberately absent: writes with unknown outcome (they have no timestamp yet).

use super::answer::{BatchResults, Got, Swap, TxnOutcome, Written};
use super::client::Client;
use super::error::Error;
use super::options::{Consistency, Guard, Op, ReadOptions, ScanQuery, WatchOptions, WriteOptions};
use super::scan::Page;
use super::version::Version;
use super::watch::Watch;
use bytes::Bytes;
use duramen_common::SessionToken;
use parking_lot::Mutex;
use std::sync::Arc;

/// A client with a memory. Clones share it.
///
/// ```no_run
/// # async fn example(client: duramen_client::kv::Client) -> Result<(), Box<dyn std::error::Error>> {
/// use duramen_client::kv::Session;
/// let session = Session::new(client.clone());
/// session.put("apple", "Tim Cook").await?;
/// let carried_over = session.export();
/// // Elsewhere, for instance in the user's next request:
/// let session = Session::import(client, &carried_over)?;
/// assert!(session.get("apple").await?.entry.is_some());
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Session {
    client: Client,
    token: Arc<Mutex<Option<SessionToken>>>,
}

impl Session {
    /// A session that has seen nothing.
    #[must_use]
    pub fn new(client: Client) -> Session {
        Session { client, token: Arc::new(Mutex::new(None)) }
    }

    /// A session that goes on where [`Session::export`] was called.
    pub fn import(client: Client, exported: &str) -> Result<Session, Error> {
        let session = Session::new(client);
        if !exported.is_empty() {
            *session.token.lock() = Some(exported.parse()?);
        }
        Ok(session)
    }

    /// What this session has seen, as a string of visible ASCII; empty when that is nothing.
    #[must_use]
    pub fn export(&self) -> String {
        self.token.lock().as_ref().map(ToString::to_string).unwrap_or_default()
    }

    /// What this session has seen; `None` when that is nothing.
    #[must_use]
    pub fn token(&self) -> Option<SessionToken> {
        self.token.lock().clone()
    }

    /// The same session over another client, for instance one that starts at another node.
    #[must_use]
    pub fn over(&self, client: Client) -> Session {
        Session { client, token: Arc::clone(&self.token) }
    }

    /// Takes over what somebody else has seen. Refused where that is of another history: such data is gone or was never
    /// here, and the session must be started anew.
    pub fn see(&self, other: &SessionToken) -> Result<(), Error> {
        let mut token = self.token.lock();
        match token.as_mut() {
            None => *token = Some(other.clone()),
            Some(token) => {
                let merged = token.merge(other);
                merged.map_err(|error| Error::Invalid { what: "token", reason: error.to_string() })?;
            }
        }
        Ok(())
    }

    /// Reads a key, no older than what this session has seen.
    pub async fn get(&self, key: impl AsRef<[u8]>) -> Result<Got, Error> {
        self.get_with(key, &ReadOptions::default()).await
    }

    /// Reads a key; the options' token counts besides the session's.
    pub async fn get_with(&self, key: impl AsRef<[u8]>, options: &ReadOptions) -> Result<Got, Error> {
        let options = self.read_options(options)?;
        let got = self.noting(self.client.get_with(key, &options).await)?;
        self.note(&got.seen);
        Ok(got)
    }

    /// Sets a key.
    pub async fn put(&self, key: impl AsRef<[u8]>, value: impl Into<Bytes>) -> Result<Written, Error> {
        self.put_with(key, value, &WriteOptions::default()).await
    }

    /// Sets a key.
    pub async fn put_with(
        &self,
        key: impl AsRef<[u8]>,
        value: impl Into<Bytes>,
        options: &WriteOptions,
    ) -> Result<Written, Error> {
        let written = self.noting(self.client.put_with(key, value, options).await)?;
        self.note(&written.token());
        Ok(written)
    }

    /// Removes a key.
    pub async fn delete(&self, key: impl AsRef<[u8]>) -> Result<Written, Error> {
        self.delete_with(key, &WriteOptions::default()).await
    }

    /// Removes a key.
    pub async fn delete_with(&self, key: impl AsRef<[u8]>, options: &WriteOptions) -> Result<Written, Error> {
        let written = self.noting(self.client.delete_with(key, options).await)?;
        self.note(&written.token());
        Ok(written)
    }

    /// Sets a key that is at version `expected` (`None`: absent).
    pub async fn compare_and_set(
        &self,
        key: impl AsRef<[u8]>,
        expected: Option<Version>,
        value: impl Into<Bytes>,
    ) -> Result<Written, Error> {
        let written = self.noting(self.client.compare_and_set(key, expected, value).await)?;
        self.note(&written.token());
        Ok(written)
    }

    /// Sets a key whose value is `expected` (`None`: absent).
    pub async fn compare_and_set_value(
        &self,
        key: impl AsRef<[u8]>,
        expected: Option<&[u8]>,
        value: impl Into<Bytes>,
    ) -> Result<Swap, Error> {
        let options = self.read_options(&ReadOptions::default())?;
        let swap = self.noting(self.client.compare_and_set_value(key, expected, value, &options).await)?;
        match &swap {
            Swap::Swapped(written) => self.note(&written.token()),
            Swap::Differs(got) => self.note(&got.seen),
        }
        Ok(swap)
    }

    /// Writes many keys.
    pub async fn batch(&self, ops: &[Op]) -> Result<BatchResults, Error> {
        self.batch_with(ops, &WriteOptions::default()).await
    }

    /// Writes many keys.
    pub async fn batch_with(&self, ops: &[Op], options: &WriteOptions) -> Result<BatchResults, Error> {
        let results = self.client.batch_with(ops, options).await?;
        if let Some(token) = results.token() {
            self.note(&token);
        }
        Ok(results)
    }

    /// Writes keys of one partition, all or nothing, if all guards hold.
    pub async fn txn(&self, guards: &[Guard], ops: &[Op]) -> Result<TxnOutcome, Error> {
        self.txn_with(guards, ops, &WriteOptions::default()).await
    }

    /// Writes keys of one partition, all or nothing, if all guards hold.
    pub async fn txn_with(&self, guards: &[Guard], ops: &[Op], options: &WriteOptions) -> Result<TxnOutcome, Error> {
        let outcome = self.client.txn_with(guards, ops, options).await?;
        self.note(&outcome.version.token());
        Ok(outcome)
    }

    /// Reads one page of a scan, no older than what this session has seen.
    pub async fn scan_page(&self, query: &ScanQuery, cursor: Option<&str>) -> Result<Page, Error> {
        let query = ScanQuery { read: self.read_options(&query.read)?, ..query.clone() };
        let page = self.client.scan_page(&query, cursor).await?;
        self.note(&page.seen);
        Ok(page)
    }

    /// Follows changes beyond what this session has seen.
    pub async fn watch(&self, prefix: impl Into<Bytes>) -> Result<Watch, Error> {
        self.client.watch(WatchOptions { prefix: prefix.into(), from: self.token() }).await
    }

    /// The caller's options with this session's token merged in.
    fn read_options(&self, options: &ReadOptions) -> Result<ReadOptions, Error> {
        let mut options = options.clone();
        let Some(mut token) = self.token() else { return Ok(options) };
        if let Some(after) = &options.after {
            token.merge(after).map_err(|error| Error::Invalid { what: "token", reason: error.to_string() })?;
        }
        options.after = Some(token);
        options.consistency = options.consistency.or(Some(Consistency::Session));
        Ok(options)
    }

    /// Notes an answer's positions. An answer of another history is not noted: the next read sends the old token, and
    /// the server tells that the histories differ.
    fn note(&self, seen: &SessionToken) {
        if let Err(error) = self.see(seen) {
            tracing::warn!(%error, "a session met another history");
        }
    }

    /// Notes the position of a mismatch, which is an answer too.
    fn noting<T>(&self, result: Result<T, Error>) -> Result<T, Error> {
        if let Err(Error::VersionMismatch { seen: Some(seen), .. }) = &result {
            self.note(seen);
        }
        result
    }
}
