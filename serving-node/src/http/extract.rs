//! What a request says: key, query, tokens, consistency, waits, entity tags, idempotency key. Pure.
//!
//! * In: raw path and query bytes, headers. Out: typed values, or the failure that says what is wrong.
//! * Invariant: keys are percent-decoded exactly once and never normalised: `..`, `//` and `%2F` are key bytes.
//! * Source: DESIGN §4; RFC 9110 (entity tags), RFC 7240 (Prefer).

use super::errors::Failure;
use super::headers;
use duramen_common::limits::{IDEMPOTENCY_KEY_BYTES_MAX, KEY_BYTES_MAX};
use duramen_common::planted::{Plant, is_planted};
use duramen_common::seams::Entropy;
use duramen_common::{HistoryId, Offset, PartitionId, ProblemKind, RequestId, SessionToken};
use duramen_common::{header_list, prefer, understood};
use hyper::HeaderMap;
use hyper::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use std::borrow::Cow;
use std::time::Duration;

fn bad_request(detail: impl Into<String>) -> Failure {
    Failure::new(ProblemKind::BadRequest, detail)
}

/// Percent-decodes once; `None` where `%` is not followed by two hex digits. In a query, `+` is a space.
pub(crate) fn percent_decode(raw: &[u8], in_query: bool) -> Option<Cow<'_, [u8]>> {
    if !raw.iter().any(|&byte| byte == b'%' || (in_query && byte == b'+')) {
        return Some(Cow::Borrowed(raw));
    }
    let mut decoded = Vec::with_capacity(raw.len());
    let mut rest = raw.iter();
    while let Some(&byte) = rest.next() {
        decoded.push(match byte {
            b'%' => {
                let high = char::from(*rest.next()?).to_digit(16)?;
                let low = char::from(*rest.next()?).to_digit(16)?;
                (high * 16 + low) as u8
            }
            b'+' if in_query => b' ',
            other => other,
        });
    }
    Some(Cow::Owned(decoded))
}

/// A key from the path's bytes behind `/v1/kv/`.
pub(crate) fn key_of_path(raw: &str) -> Result<Cow<'_, [u8]>, Failure> {
    let key = percent_decode(raw.as_bytes(), false).ok_or_else(|| {
        Failure::new(ProblemKind::BadKey, "the key is not percent-encoded properly: '%' needs two hex digits")
    })?;
    check_key(&key)?;
    Ok(key)
}

/// Refuses keys that are empty or too long.
pub(crate) fn check_key(key: &[u8]) -> Result<(), Failure> {
    if key.is_empty() || key.len() > KEY_BYTES_MAX {
        return Err(Failure::new(
            ProblemKind::BadKey,
            format!("a key of {} bytes: it must have 1 to {KEY_BYTES_MAX}", key.len()),
        )
        .with("limit", KEY_BYTES_MAX));
    }
    Ok(())
}

/// Name and value.
type Pair<'a> = (Cow<'a, [u8]>, Cow<'a, [u8]>);

/// The parameters of a query, decoded.
#[derive(Debug, Default)]
pub(crate) struct Query<'a> {
    pairs: Vec<Pair<'a>>,
}

impl<'a> Query<'a> {
    /// Splits and decodes; refuses parameters that are not `known`, because an answer without them would be another one.
    pub(crate) fn parse(raw: Option<&'a str>, known: &[&str]) -> Result<Query<'a>, Failure> {
        let mut pairs = Vec::new();
        for pair in raw.unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let decoded = percent_decode(name.as_bytes(), true).zip(percent_decode(value.as_bytes(), true));
            let (name, value) = decoded
                .ok_or_else(|| bad_request("the query is not percent-encoded properly: '%' needs two hex digits"))?;
            if !known.iter().any(|known| known.as_bytes() == &*name) {
                return Err(understood::unknown_parameter(&name, known).into());
            }
            pairs.push((name, value));
        }
        Ok(Query { pairs })
    }

    /// Every value of a parameter.
    pub(crate) fn all<'q>(&'q self, name: &'q str) -> impl Iterator<Item = &'q [u8]> + 'q {
        self.pairs.iter().filter(move |(this, _)| &**this == name.as_bytes()).map(|(_, value)| &**value)
    }

    /// The value of a parameter that may stand once.
    pub(crate) fn one<'q>(&'q self, name: &'q str) -> Result<Option<&'q [u8]>, Failure> {
        let mut values = self.all(name);
        let first = values.next();
        if values.next().is_some() {
            return Err(bad_request(format!("the parameter {name} stands more than once")));
        }
        Ok(first)
    }

    /// A bound of keys, empty unless it stands; no longer than a key.
    pub(crate) fn bound<'q>(&'q self, name: &'q str) -> Result<&'q [u8], Failure> {
        let bound = self.one(name)?.unwrap_or_default();
        if bound.len() > KEY_BYTES_MAX {
            let detail = format!("{name} has {} bytes, a key has at most {KEY_BYTES_MAX}", bound.len());
            return Err(Failure::new(ProblemKind::BadKey, detail).with("limit", KEY_BYTES_MAX));
        }
        Ok(bound)
    }
}

/// A token's text.
pub(crate) fn token(text: &[u8]) -> Result<SessionToken, Failure> {
    std::str::from_utf8(text)
        .ok()
        .map(str::parse::<SessionToken>)
        .ok_or_else(|| Failure::new(ProblemKind::BadToken, "the token is not text"))?
        .map_err(|error| Failure::new(ProblemKind::BadToken, error.to_string()))
}

/// Refuses a token of another history, and one that names a partition that there is not.
pub(crate) fn check_token(token: &SessionToken, history: HistoryId, partitions: u16) -> Result<(), Failure> {
    if token.history() != history {
        return Err(Failure::new(
            ProblemKind::OtherHistory,
            format!(
                "the token is of history {}, this cluster's is {history}: start over without the token",
                token.history()
            ),
        )
        .with("history", history.to_string()));
    }
    match token.timestamps().find(|timestamp| timestamp.partition.get() >= partitions) {
        None => Ok(()),
        Some(timestamp) => Err(Failure::new(
            ProblemKind::BadToken,
            format!("the token names partition {}, this cluster has {partitions}", timestamp.partition),
        )),
    }
}

/// The merged token of all `Read-After` headers and `after` parameters.
pub(crate) fn read_after(
    header_map: &HeaderMap,
    query: &Query<'_>,
    history: HistoryId,
    partitions: u16,
) -> Result<Option<SessionToken>, Failure> {
    let in_headers = || header_map.get_all(headers::READ_AFTER).iter().map(HeaderValue::as_bytes);
    let is_without_token = in_headers().flat_map(header_list::elements).next().is_none();
    if in_headers().next().is_some() && is_without_token {
        return Err(Failure::new(ProblemKind::BadToken, "Read-After names no token: send one, or leave it out"));
    }
    let in_headers = in_headers().flat_map(header_list::elements);
    let mut merged: Option<SessionToken> = None;
    for text in in_headers.chain(query.all("after")) {
        let token = token(text)?;
        check_token(&token, history, partitions)?;
        match &mut merged {
            None => merged = Some(token),
            Some(merged) if is_planted(Plant::TokensNotMerged) => *merged = token,
            Some(merged) => {
                merged.merge(&token).map_err(|error| Failure::new(ProblemKind::OtherHistory, error.to_string()))?;
            }
        }
    }
    Ok(merged)
}

/// What a read must see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Consistency {
    /// Everything acknowledged before it began.
    Linearizable,
    /// Everything that its token names.
    Session,
    /// Whatever is here.
    Stale,
}

/// The consistency asked for, or the default.
pub(crate) fn consistency(query: &Query<'_>, has_token: bool) -> Result<Consistency, Failure> {
    match query.one("consistency")? {
        None if has_token => Ok(Consistency::Session),
        None | Some(b"linearizable") => Ok(Consistency::Linearizable),
        Some(b"session") if has_token => Ok(Consistency::Session),
        Some(b"session") => {
            Err(bad_request("consistency=session needs a token: send Read-After or ?after= with a Log-Timestamp"))
        }
        Some(b"stale") => Ok(Consistency::Stale),
        Some(_) => Err(bad_request("unknown consistency: take linearizable, session or stale")),
    }
}

/// How long an answer of the log is waited for, however little its caller would wait: `Prefer: wait=0` says not to wait for
/// anything to happen, and asking the leader takes a round trip even where nothing has to.
pub(crate) const ASKING_MIN: Duration = Duration::from_millis(500);

/// `Prefer: wait=SECONDS`, or the default; no longer than `max`, whatever was asked for.
pub(crate) fn wait(header_map: &HeaderMap, default: Duration, max: Duration) -> Result<Duration, Failure> {
    let values = header_map.get_all(headers::PREFER).iter().map(HeaderValue::as_bytes);
    match prefer::wait_seconds(values) {
        Ok(None) => Ok(default),
        Ok(Some(seconds)) => Ok(Duration::from_secs(seconds).min(max)),
        Err(error) => Err(bad_request(error.to_string())),
    }
}

/// An entity tag (RFC 9110).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct EntityTag<'a> {
    /// `W/` before it.
    pub(crate) weak: bool,
    /// What stands between the quotes.
    pub(crate) opaque: &'a [u8],
}

impl EntityTag<'_> {
    /// The version that the tag names, where it is a strong tag of this history and partition; else none ever matches.
    pub(crate) fn version(&self, history: HistoryId, partition: PartitionId) -> Option<Offset> {
        if self.weak {
            return None;
        }
        version_of(&token(self.opaque).ok()?, history, partition)
    }
}

/// The version that a token names, where it is one of this history and partition.
pub(crate) fn version_of(token: &SessionToken, history: HistoryId, partition: PartitionId) -> Option<Offset> {
    let timestamp = token.single()?;
    (token.history() == history && timestamp.partition == partition).then_some(timestamp.offset)
}

/// `*` or a list of entity tags.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum EntityTags<'a> {
    /// `*`
    Any,
    /// At least one.
    Listed(Vec<EntityTag<'a>>),
}

/// The entity tags of a header; `None` where it does not stand.
pub(crate) fn entity_tags<'a>(header_map: &'a HeaderMap, name: &HeaderName) -> Result<Option<EntityTags<'a>>, Failure> {
    let malformed =
        || bad_request(format!("{name} takes * or entity tags in double quotes, for instance \"c7f3a1.3:1042\""));
    let mut tags = Vec::new();
    let mut stands = false;
    let mut any = false;
    for value in header_map.get_all(name) {
        stands = true;
        let mut rest = value.as_bytes().trim_ascii();
        if rest == b"*" {
            any = true;
            continue;
        }
        loop {
            // Empty elements are legal.
            while let Some((b',' | b' ' | b'\t', more)) = rest.split_first() {
                rest = more;
            }
            if rest.is_empty() {
                break;
            }
            let (weak, quoted) = rest.strip_prefix(b"W/").map_or((false, rest), |rest| (true, rest));
            let inside = quoted.strip_prefix(b"\"").ok_or_else(malformed)?;
            let length = inside.iter().position(|&byte| byte == b'"').ok_or_else(malformed)?;
            let (opaque, after) = inside.split_at(length);
            tags.push(EntityTag { weak, opaque });
            rest = after.get(1..).unwrap_or_default().trim_ascii_start();
            if !(rest.is_empty() || rest.starts_with(b",")) {
                return Err(malformed());
            }
        }
    }
    match (stands, any, tags.is_empty()) {
        (false, ..) => Ok(None),
        (true, true, true) => Ok(Some(EntityTags::Any)),
        (true, false, false) => Ok(Some(EntityTags::Listed(tags))),
        (true, ..) => Err(malformed()),
    }
}

/// Names a write: what the caller said, or what was minted for it before anything was sent.
#[derive(Clone, Debug)]
pub(crate) enum IdempotencyKey {
    /// The caller's.
    Given(Box<[u8]>),
    /// 32 hex digits.
    Minted([u8; 32]),
}

impl IdempotencyKey {
    /// The caller's key, or a fresh one.
    pub(crate) fn of(header_map: &HeaderMap, entropy: &dyn Entropy) -> Result<IdempotencyKey, Failure> {
        let mut values = header_map.get_all(headers::IDEMPOTENCY_KEY).iter();
        let Some(value) = values.next() else { return Ok(IdempotencyKey::minted(entropy.bits())) };
        let length = value.as_bytes().len();
        if length == 0 || length > IDEMPOTENCY_KEY_BYTES_MAX || values.next().is_some() {
            return Err(bad_request(format!(
                "Idempotency-Key stands once and has 1 to {IDEMPOTENCY_KEY_BYTES_MAX} bytes, not {length}"
            ))
            .with("limit", IDEMPOTENCY_KEY_BYTES_MAX));
        }
        Ok(IdempotencyKey::Given(value.as_bytes().into()))
    }

    fn minted(bits: u128) -> IdempotencyKey {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let mut text = [0; 32];
        for (place, digit) in text.iter_mut().enumerate() {
            *digit = DIGITS[(bits >> (124 - 4 * place)) as usize & 15];
        }
        IdempotencyKey::Minted(text)
    }

    /// The text that a retry must carry.
    pub(crate) fn as_bytes(&self) -> &[u8] {
        match self {
            IdempotencyKey::Given(text) => text,
            IdempotencyKey::Minted(text) => text,
        }
    }

    /// Whether the caller chose it.
    pub(crate) fn is_given(&self) -> bool {
        matches!(self, IdempotencyKey::Given(_))
    }

    /// The id of the op at this index.
    pub(crate) fn request_id(&self, op_index: u32) -> RequestId {
        RequestId::of_idempotency_key(self.as_bytes(), op_index)
    }
}

/// Refuses a body that is not said to be JSON.
pub(crate) fn check_json(header_map: &HeaderMap) -> Result<(), Failure> {
    let media = header_map.get(CONTENT_TYPE).map_or(&b""[..], |value| value.as_bytes());
    let media = media.split(|&byte| byte == b';').next().unwrap_or_default().trim_ascii();
    if media.eq_ignore_ascii_case(b"application/json") {
        return Ok(());
    }
    Err(Failure::new(ProblemKind::MediaType, "send the body with Content-Type: application/json"))
}

#[cfg(test)]
#[path = "extract_tests.rs"]
mod tests;
