//! Requests: from the bytes of an input to what a connection would hand on.
//!
//! * Requests are parted by a byte 0x1e. Each is a line `METHOD TARGET`, lines `name: value`, an empty line, and the body.
//! * What no connection would hand on is left out: a method, target or header that HTTP has no form for.

use bytes::Bytes;
use hyper::header::{HOST, HeaderMap, HeaderName, HeaderValue};
use hyper::http::uri::Uri;
use hyper::{Method, Request};

/// Parts requests: ASCII's own record separator.
pub(super) const SEPARATOR: u8 = 0x1e;
/// Most requests of an input.
const REQUESTS_MAX: usize = 12;

/// A request, with what a judge looks at.
#[derive(Clone, Debug)]
pub(super) struct Ask {
    pub(super) method: Method,
    pub(super) uri: Uri,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

impl Ask {
    /// A request without headers and body, for a path that is well-formed.
    pub(super) fn get(path: &str) -> Ask {
        let uri = path.parse().expect("the judge makes well-formed paths");
        let mut headers = HeaderMap::new();
        headers.insert(HOST, HeaderValue::from_static("localhost"));
        Ask { method: Method::GET, uri, headers, body: Bytes::new() }
    }

    /// All requests of an input.
    pub(super) fn all(input: &[u8]) -> Vec<Ask> {
        input.split(|&byte| byte == SEPARATOR).take(REQUESTS_MAX).filter_map(Ask::parse).collect()
    }

    fn parse(text: &[u8]) -> Option<Ask> {
        let (line, mut rest) = line(text);
        let space = line.iter().position(|&byte| byte == b' ')?;
        let method = Method::from_bytes(&line[..space]).ok()?;
        let uri = Uri::try_from(&line[space + 1..]).ok()?;
        let mut headers = HeaderMap::new();
        while !rest.is_empty() {
            let (header, behind) = self::line(rest);
            rest = behind;
            if header.is_empty() {
                break;
            }
            let colon = header.iter().position(|&byte| byte == b':')?;
            let name = HeaderName::from_bytes(&header[..colon]).ok()?;
            let value = HeaderValue::from_bytes(header[colon + 1..].trim_ascii()).ok()?;
            headers.append(name, value);
        }
        if !headers.contains_key(HOST) {
            headers.insert(HOST, HeaderValue::from_static("localhost"));
        }
        Some(Ask { method, uri, headers, body: Bytes::copy_from_slice(rest) })
    }

    /// As a node takes it.
    pub(super) fn to_request(&self) -> Request<Bytes> {
        let mut request = Request::new(self.body.clone());
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = self.uri.clone();
        *request.headers_mut() = self.headers.clone();
        request
    }

    /// The key that its path names, decoded once; `None` where it names none.
    pub(super) fn key(&self) -> Option<Vec<u8>> {
        let raw = self.uri.path().strip_prefix("/v1/kv/")?;
        decode(raw.as_bytes()).filter(|key| (1..=1024).contains(&key.len()))
    }

    /// Why a write of this kind must not be taken, whatever else it says.
    pub(super) fn must_be_refused(&self) -> Option<&'static str> {
        let has = |name: &str| self.headers.contains_key(name);
        if self.uri.query().is_some() {
            return Some("a write has no query");
        }
        if ["content-range", "range", "if-unmodified-since", "if-modified-since"].into_iter().any(has) {
            return Some("a header says that it is not a plain write");
        }
        if self.only("content-encoding").is_some_and(|coding| coding.eq_ignore_ascii_case(b"gzip")) {
            return Some("the value is encoded");
        }
        if self.method == Method::DELETE && (has("if-none-match") || !self.body.is_empty()) {
            return Some("DELETE has neither If-None-Match nor a body");
        }
        None
    }

    /// Its only value of this header, where it stands once.
    pub(super) fn only(&self, name: &str) -> Option<&[u8]> {
        let mut values = self.headers.get_all(name).iter();
        let first = values.next()?;
        values.next().is_none().then_some(first.as_bytes())
    }
}

fn line(text: &[u8]) -> (&[u8], &[u8]) {
    match text.iter().position(|&byte| byte == b'\n') {
        Some(end) => (text[..end].strip_suffix(b"\r").unwrap_or(&text[..end]), &text[end + 1..]),
        None => (text, &[]),
    }
}

/// Percent-decoding, as the contract says it: each `%` with its two digits is one byte, everything else stays.
pub(super) fn decode(raw: &[u8]) -> Option<Vec<u8>> {
    let mut decoded = Vec::new();
    let mut at = 0;
    while let Some(&byte) = raw.get(at) {
        if byte != b'%' {
            decoded.push(byte);
            at += 1;
            continue;
        }
        let digits = std::str::from_utf8(raw.get(at + 1..at + 3)?).ok()?;
        if !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return None;
        }
        decoded.push(u8::from_str_radix(digits, 16).ok()?);
        at += 3;
    }
    Some(decoded)
}

/// A path of this key with every byte encoded.
pub(super) fn path_of(key: &[u8], is_lower_case: bool) -> String {
    let digits = |byte: &u8| if is_lower_case { format!("%{byte:02x}") } else { format!("%{byte:02X}") };
    format!("/v1/kv/{}", key.iter().map(digits).collect::<String>())
}
