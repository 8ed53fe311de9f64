//! What a client is told once: where the serving nodes are, how long to try, how much to take.
//!
//! * Invariant: checked in [`ClientConfig::check`] before the first call, so that calls need not.

use std::time::Duration;

/// Longest deadline of a write. The log remembers request ids over a window of offsets (DESIGN D5): a retry must not
/// come after its id may be forgotten.
pub(super) const WRITE_DEADLINE_MAX: Duration = Duration::from_secs(30);

/// Where and how a [`super::Client`] calls. `ClientConfig::new(urls)` gives the defaults.
#[derive(Clone, Debug)]
pub struct ClientConfig {
    /// Serving nodes, for instance `http://127.0.0.1:7001`; the first that answers is kept to until it fails.
    pub base_urls: Vec<String>,
    /// How long a call may take in all, unless its options say otherwise. Writes take at most 30 s.
    pub deadline: Duration,
    /// How long opening one connection may take.
    pub connect_timeout: Duration,
    /// Most attempts of one call; its deadline usually ends it first.
    pub attempts_max: u32,
    /// Pause before the second attempt at the same node; doubles with each, with jitter.
    pub backoff: Duration,
    /// Longest such pause.
    pub backoff_max: Duration,
    /// How long an unused connection is kept.
    pub pool_idle_timeout: Duration,
    /// Most unused connections a node.
    pub pool_idle_max: usize,
    /// Longest answer that is taken. Unit: bytes.
    pub answer_bytes_max: usize,
    /// A feed that says nothing for this long is opened again elsewhere; nodes say something each second.
    pub feed_silence_max: Duration,
}

impl ClientConfig {
    /// The defaults, for these serving nodes.
    pub fn new<U: Into<String>>(base_urls: impl IntoIterator<Item = U>) -> ClientConfig {
        ClientConfig {
            base_urls: base_urls.into_iter().map(Into::into).collect(),
            deadline: Duration::from_secs(10),
            connect_timeout: Duration::from_secs(1),
            attempts_max: 32,
            backoff: Duration::from_millis(25),
            backoff_max: Duration::from_secs(1),
            pool_idle_timeout: Duration::from_secs(60),
            pool_idle_max: 256,
            answer_bytes_max: 256 * 1024 * 1024,
            feed_silence_max: Duration::from_secs(10),
        }
    }

    /// The base URLs without a trailing slash, or what is wrong.
    pub(super) fn check(&self) -> Result<Vec<String>, ConfigError> {
        if self.base_urls.is_empty() {
            return Err(ConfigError::NoUrl);
        }
        if self.attempts_max == 0 || self.deadline.is_zero() || self.backoff.is_zero() {
            return Err(ConfigError::Zero);
        }
        self.base_urls.iter().map(|url| check_url(url)).collect()
    }
}

fn check_url(url: &str) -> Result<String, ConfigError> {
    let refuse = |reason: &'static str| ConfigError::Url { url: url.to_owned(), reason };
    let uri: hyper::Uri = url.parse().map_err(|_| refuse("not a URL"))?;
    if uri.scheme_str() != Some("http") {
        return Err(refuse("expected http://HOST:PORT"));
    }
    if uri.host().is_none_or(str::is_empty) {
        return Err(refuse("no host"));
    }
    if uri.query().is_some() {
        return Err(refuse("a base URL has no query"));
    }
    Ok(url.trim_end_matches('/').to_owned())
}

/// Why there is no client.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// Nobody to call.
    #[error("no base URL: give at least one serving node, for instance http://127.0.0.1:7001")]
    NoUrl,
    /// A limit that lets nothing through.
    #[error("deadline, backoff and attempts_max must be more than 0")]
    Zero,
    /// Not a base URL.
    #[error("{url}: {reason}")]
    Url {
        /// What was given.
        url: String,
        /// What is wrong with it.
        reason: &'static str,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_http_base_urls_are_taken() {
        let urls = ClientConfig::new(["http://a:1/", "http://b:2/under"]).check().unwrap();
        assert_eq!(urls, ["http://a:1", "http://b:2/under"]);
        assert_eq!(ClientConfig::new(Vec::<String>::new()).check(), Err(ConfigError::NoUrl));
        for url in ["a:1", "https://a:1", "http://", "http://a/?x=1", "", "http://a b"] {
            assert!(matches!(ClientConfig::new([url]).check(), Err(ConfigError::Url { .. })), "{url:?} was taken");
        }
    }
}
