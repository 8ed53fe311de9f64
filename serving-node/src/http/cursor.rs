//! Where a scan goes on: the bounds of the whole scan, the last key given, and the token of the page that gave it.
//!
//! * Form: base64url of version, token, fingerprint of what was asked, end, last key; opaque to callers.
//! * Invariant: a cursor continues the scan that it came from, or is refused.

use super::errors::Failure;
use super::extract::Query;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use duramen_common::limits::{KEY_BYTES_MAX, TOKEN_BYTES_MAX};
use duramen_common::{ProblemKind, SessionToken};

const CURSOR_FORMAT: u8 = 1;
/// Longest cursor. Unit: bytes of text.
const CURSOR_BYTES_MAX: usize = (TOKEN_BYTES_MAX + 3 * KEY_BYTES_MAX) * 4 / 3;

/// The range of a scan.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Bounds {
    /// First key, and whether it belongs to the range.
    pub(crate) start: Option<(Bytes, bool)>,
    /// First key behind the range.
    pub(crate) end: Option<Bytes>,
    /// Of what was asked for.
    fingerprint: u64,
}

impl Bounds {
    /// The range that a query asks for; `None` where it names none.
    pub(crate) fn of_query(query: &Query<'_>) -> Result<Option<Bounds>, Failure> {
        let mut parts: [&[u8]; 3] = [&[]; 3];
        for (part, name) in parts.iter_mut().zip(["prefix", "start", "end"]) {
            *part = query.bound(name)?;
        }
        let [prefix, start, end] = parts;
        if prefix.is_empty() && start.is_empty() && end.is_empty() {
            return Ok(None);
        }
        let mut text = Vec::with_capacity(prefix.len() + start.len() + end.len() + 24);
        for part in parts {
            text.extend_from_slice(&(part.len() as u64).to_le_bytes());
            text.extend_from_slice(part);
        }
        let first = start.max(prefix);
        let ends = [successor(prefix), (!end.is_empty()).then(|| Bytes::copy_from_slice(end))];
        Ok(Some(Bounds {
            start: (!first.is_empty()).then(|| (Bytes::copy_from_slice(first), true)),
            end: ends.into_iter().flatten().min(),
            fingerprint: xxhash_rust::xxh3::xxh3_64(&text),
        }))
    }
}

/// The first key behind all that begin with `prefix`; `None` where there is none.
fn successor(prefix: &[u8]) -> Option<Bytes> {
    let length = prefix.iter().rposition(|&byte| byte != 0xff)? + 1;
    let mut next = prefix.get(..length)?.to_vec();
    *next.last_mut()? += 1;
    Some(Bytes::from(next))
}

/// Where to go on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Cursor {
    /// What the page saw.
    pub(crate) token: SessionToken,
    /// The whole scan's range.
    pub(crate) bounds: Bounds,
    /// The page's last key.
    pub(crate) last_key: Bytes,
}

impl Cursor {
    /// The text that callers send back.
    pub(crate) fn to_text(&self) -> String {
        let token = self.token.to_string();
        let end = self.bounds.end.as_deref();
        let mut bytes = vec![CURSOR_FORMAT];
        bytes.extend_from_slice(&self.bounds.fingerprint.to_le_bytes());
        bytes.extend_from_slice(&(token.len() as u16).to_le_bytes());
        bytes.extend_from_slice(token.as_bytes());
        bytes.extend_from_slice(&end.map_or(u16::MAX, |end| end.len() as u16).to_le_bytes());
        bytes.extend_from_slice(end.unwrap_or_default());
        bytes.extend_from_slice(&self.last_key);
        URL_SAFE_NO_PAD.encode(bytes)
    }

    /// Reads a cursor.
    pub(crate) fn parse(text: &[u8]) -> Result<Cursor, Failure> {
        let refused =
            || Failure::new(ProblemKind::BadRequest, "not a cursor: send it as it came, or start over without");
        if text.len() > CURSOR_BYTES_MAX {
            return Err(refused());
        }
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| refused())?;
        Cursor::parse_bytes(&bytes).ok_or_else(refused)
    }

    fn parse_bytes(bytes: &[u8]) -> Option<Cursor> {
        let (&[CURSOR_FORMAT], rest) = bytes.split_first_chunk::<1>()? else { return None };
        let (fingerprint, rest) = rest.split_first_chunk::<8>()?;
        let (length, rest) = rest.split_first_chunk::<2>()?;
        let (token, rest) = rest.split_at_checked(usize::from(u16::from_le_bytes(*length)))?;
        let (length, rest) = rest.split_first_chunk::<2>()?;
        let (end, last_key) = match u16::from_le_bytes(*length) {
            u16::MAX => (None, rest),
            length => {
                let (end, rest) = rest.split_at_checked(usize::from(length))?;
                (Some(Bytes::copy_from_slice(end)), rest)
            }
        };
        if last_key.is_empty() || last_key.len() > KEY_BYTES_MAX {
            return None;
        }
        Some(Cursor {
            token: std::str::from_utf8(token).ok()?.parse().ok()?,
            bounds: Bounds { start: None, end, fingerprint: u64::from_le_bytes(*fingerprint) },
            last_key: Bytes::copy_from_slice(last_key),
        })
    }

    /// The range that is left. `asked` is what the query says beside the cursor: nothing, or the same as before.
    pub(crate) fn continue_of(&self, asked: Option<Bounds>) -> Result<Bounds, Failure> {
        if asked.is_some_and(|asked| asked.fingerprint != self.bounds.fingerprint) {
            return Err(Failure::new(
                ProblemKind::BadRequest,
                "the cursor is of another scan: send it with the same prefix, start and end, or start over without",
            ));
        }
        Ok(Bounds { start: Some((self.last_key.clone(), false)), ..self.bounds.clone() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn bounds_of(query: &str) -> Bounds {
        Bounds::of_query(&Query::parse(Some(query), &["prefix", "start", "end"]).unwrap()).unwrap().unwrap_or_default()
    }

    #[test]
    fn prefix_start_and_end_are_one_range() {
        let bounds = bounds_of("prefix=b&start=ba&end=bz");
        assert_eq!(bounds.start, Some((Bytes::from_static(b"ba"), true)));
        assert_eq!(bounds.end, Some(Bytes::from_static(b"bz")));
        assert_eq!(bounds_of("prefix=b&start=a").start, Some((Bytes::from_static(b"b"), true)));
        assert_eq!(bounds_of("prefix=b&end=z").end, Some(Bytes::from_static(b"c")));
        assert_eq!(bounds_of("prefix=b%FF").end, Some(Bytes::from_static(b"c")));
        assert_eq!(bounds_of("prefix=%FF").end, None);
        assert_eq!(bounds_of("prefix=&start=&end="), Bounds::default());
    }

    proptest! {
        #[test]
        fn a_cursor_survives_its_text(last_key in proptest::collection::vec(any::<u8>(), 1..40), end: Option<[u8; 5]>) {
            let cursor = Cursor {
                token: "c7f3a1.0:17_3:1042".parse().unwrap(),
                bounds: Bounds { start: None, end: end.map(|end| Bytes::copy_from_slice(&end)), fingerprint: 7 },
                last_key: Bytes::from(last_key),
            };
            prop_assert_eq!(Cursor::parse(cursor.to_text().as_bytes()).unwrap(), cursor);
        }

        #[test]
        fn any_bytes_are_refused_or_parsed(bytes: Vec<u8>) {
            let _ = Cursor::parse(&bytes);
            let _ = Cursor::parse(URL_SAFE_NO_PAD.encode(&bytes).as_bytes());
            let mut versioned = vec![CURSOR_FORMAT];
            versioned.extend_from_slice(&bytes);
            let _ = Cursor::parse_bytes(&versioned);
        }
    }
}
