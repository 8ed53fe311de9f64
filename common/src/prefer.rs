//! The preference `wait` of a `Prefer` header: how long a caller would wait.
//!
//! * In: the header's values. Out: seconds, not bounded yet: a server waits no longer than its own limit, whatever is asked.
//! * Preferences that are not known are ignored, as the RFC asks.
//! * Source: RFC 7240, sections 2 and 4.3.

use crate::header_list::{elements, split_outside_quotes};

/// A `wait` that is no whole number of seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("Prefer: wait takes whole seconds, for instance wait=2")]
pub struct MalformedWait;

/// The seconds of the first `wait` that stands in these values; `None` where there is none.
pub fn wait_seconds<'a>(values: impl IntoIterator<Item = &'a [u8]>) -> Result<Option<u64>, MalformedWait> {
    for preference in values.into_iter().flat_map(elements) {
        let preference = split_outside_quotes(preference, b';').next().unwrap_or_default();
        let mut parts = preference.splitn(2, |&byte| byte == b'=');
        if parts.next().unwrap_or_default().trim_ascii().eq_ignore_ascii_case(b"wait") {
            return whole_number(parts.next().unwrap_or_default().trim_ascii()).map(Some);
        }
    }
    Ok(None)
}

fn whole_number(text: &[u8]) -> Result<u64, MalformedWait> {
    let text = text.strip_prefix(b"\"").and_then(|text| text.strip_suffix(b"\"")).unwrap_or(text);
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return Err(MalformedWait);
    }
    Ok(text.iter().fold(0u64, |number, digit| number.saturating_mul(10).saturating_add(u64::from(digit - b'0'))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_seconds_are_a_wait() {
        for (value, seconds) in [
            ("wait=2", Some(2)),
            ("respond-async, wait=30", Some(30)),
            ("WAIT = 0", Some(0)),
            ("wait=\"7\"; x=1", Some(7)),
            ("wait=1, wait=2", Some(1)),
            ("wait=99999999999999999999999", Some(u64::MAX)),
            ("respond-async", None),
            ("", None),
            (",, wait=2 ,", Some(2)),
            (r#"note="a, wait=60; b", wait=2"#, Some(2)),
            (r#"note="a\", wait=60", wait=2"#, Some(2)),
            (r#"note="a, wait=60""#, None),
            (r#"note="a; x", wait=4;y="1,wait=5""#, Some(4)),
        ] {
            assert_eq!(wait_seconds([value.as_bytes()]), Ok(seconds), "{value}");
        }
        assert_eq!(wait_seconds([b"respond-async".as_slice(), b"wait=3"]), Ok(Some(3)));
        for value in ["wait=-1", "wait=", "wait", "wait=1.5", "wait=x", "wait=\""] {
            assert_eq!(wait_seconds([value.as_bytes()]), Err(MalformedWait), "{value}");
        }
    }
}
