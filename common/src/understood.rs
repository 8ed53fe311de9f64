//! What a request must not say, because this API would not do it: such a request is refused, never half done.
//!
//! * In: the headers of a request and what its path takes. Out: the problem that names the header or the parameter.
//! * A header that HTTP lets a server ignore without harm (`Range` of a GET, `Accept`, unknown preferences) is ignored.
//! * Deliberately absent: HTTP itself; both servers call this in the one place where a request is let in.
//! * Source: DESIGN §4; RFC 9110, sections 10.1.1 (Expect), 13.1 (conditions), 14.5 (partial PUT).

use crate::header_list::elements;
use crate::problem::{Problem, ProblemKind};

/// What a path does with a method.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Takes {
    /// It changes something.
    pub is_write: bool,
    /// `If-Match` is evaluated.
    pub if_match: bool,
    /// `If-None-Match` is evaluated.
    pub if_none_match: bool,
}

/// Headers that may stand once. Two of them say two things, and servers on the way may each believe another one.
const SINGLE: [&str; 6] = ["content-length", "content-type", "host", "idempotency-key", "last-event-id", "origin"];

/// Refuses headers that would change what the request means, and that nothing here evaluates. Names are in lower case.
pub fn check_headers<'h>(takes: Takes, headers: impl IntoIterator<Item = (&'h str, &'h [u8])>) -> Result<(), Problem> {
    let mut seen = [false; SINGLE.len()];
    for (name, value) in headers {
        if let Some(seen) = SINGLE.iter().position(|single| *single == name).and_then(|place| seen.get_mut(place)) {
            if *seen {
                return Err(bad_request(name, "stands more than once: send it once"));
            }
            *seen = true;
            continue;
        }
        check_header(takes, name, value)?;
    }
    Ok(())
}

fn check_header(takes: Takes, name: &str, value: &[u8]) -> Result<(), Problem> {
    let has_only = |known: &str| elements(value).all(|element| element.eq_ignore_ascii_case(known.as_bytes()));
    match name {
        "content-range" => {
            Err(bad_request(name, "is not taken: a value is written whole, so send all of it without this header"))
        }
        "content-encoding" if !has_only("identity") => {
            Err(bad_request(name, "takes identity only: what is sent is stored as it is, so send it unencoded"))
        }
        "transfer-encoding" if !has_only("chunked") => Err(bad_request(name, "takes chunked only")),
        "te" if !has_only("trailers") => Err(bad_request(name, "takes trailers only")),
        "expect" if !has_only("100-continue") => {
            let detail = "Expect takes 100-continue only: leave it out";
            Err(Problem::new(ProblemKind::ExpectationFailed, detail).with("header", name))
        }
        "if-match" if !takes.if_match => Err(bad_request(name, "is for PUT and DELETE of a key: leave it out")),
        "if-none-match" if !takes.if_none_match => {
            Err(bad_request(name, "is for GET, HEAD and PUT of a key: leave it out"))
        }
        "if-unmodified-since" => {
            Err(bad_request(name, "is not evaluated, because versions are not times: use If-Match with an ETag"))
        }
        "content-md5" | "digest" | "content-digest" | "repr-digest" => {
            Err(bad_request(name, "is not verified here: leave it out"))
        }
        "x-http-method-override" | "x-http-method" | "x-method-override" => {
            Err(bad_request(name, "is not taken: send the method that is meant"))
        }
        "if-modified-since" | "if-range" | "range" if takes.is_write => {
            Err(bad_request(name, "is not evaluated on writes: leave it out"))
        }
        _ => Ok(()),
    }
}

fn bad_request(name: &str, what: &str) -> Problem {
    Problem::new(ProblemKind::BadRequest, format!("the header {name} {what}")).with("header", name)
}

/// The problem of a query parameter that a path does not take.
#[must_use]
pub fn unknown_parameter(name: &[u8], known: &[&str]) -> Problem {
    let name = String::from_utf8_lossy(name);
    let takes = match known {
        [] => "takes none".to_owned(),
        known => format!("takes {}", known.join(", ")),
    };
    let detail = format!("the query parameter {name:?} is not known: this request {takes}");
    Problem::new(ProblemKind::BadRequest, detail).with("parameter", name)
}

/// The problem of a body that a method does not take.
#[must_use]
pub fn unexpected_body(method: &str) -> Problem {
    Problem::new(ProblemKind::BadRequest, format!("{method} takes no body here: send none, and no Transfer-Encoding"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const READ: Takes = Takes { is_write: false, if_match: false, if_none_match: true };
    const PUT: Takes = Takes { is_write: true, if_match: true, if_none_match: true };
    const POST: Takes = Takes { is_write: true, if_match: false, if_none_match: false };

    fn check(takes: Takes, headers: &[(&str, &str)]) -> Result<(), Problem> {
        check_headers(takes, headers.iter().map(|(name, value)| (*name, value.as_bytes())))
    }

    #[test]
    fn what_would_change_the_meaning_is_refused_by_name() {
        for (takes, name, value) in [
            (PUT, "content-range", "bytes 6-21/22"),
            (READ, "content-range", "bytes 0-1/2"),
            (PUT, "content-encoding", "gzip"),
            (PUT, "content-md5", "AAAAAAAAAAAAAAAAAAAAAA=="),
            (PUT, "content-digest", "sha-256=:AAAA:"),
            (PUT, "x-http-method-override", "DELETE"),
            (PUT, "content-encoding", "identity, br"),
            (PUT, "transfer-encoding", "gzip, chunked"),
            (READ, "te", "gzip"),
            (READ, "te", "trailers, deflate;q=0.5"),
            (READ, "if-match", "*"),
            (POST, "if-match", "*"),
            (POST, "if-none-match", "*"),
            (READ, "if-unmodified-since", "Sat, 29 Oct 1994 19:43:31 GMT"),
            (PUT, "if-modified-since", "Sat, 29 Oct 1994 19:43:31 GMT"),
            (PUT, "range", "bytes=0-1"),
            (PUT, "if-range", "\"a\""),
        ] {
            let problem = check(takes, &[(name, value)]).expect_err(name);
            assert_eq!((problem.kind, &problem.members["header"]), (ProblemKind::BadRequest, &name.into()), "{value}");
        }
        let problem = check(PUT, &[("expect", "200-ok")]).unwrap_err();
        assert_eq!((problem.kind, problem.status), (ProblemKind::ExpectationFailed, 417));
    }

    #[test]
    fn what_is_harmless_is_taken() {
        for (takes, name, value) in [
            (PUT, "content-encoding", "identity"),
            (PUT, "content-encoding", ""),
            (PUT, "transfer-encoding", "chunked"),
            (READ, "te", "trailers"),
            (READ, "te", ", trailers ,,"),
            (PUT, "expect", "100-Continue"),
            (PUT, "if-match", "*"),
            (PUT, "if-none-match", "*"),
            (READ, "if-none-match", "\"a\""),
            (READ, "range", "bytes=0-1"),
            (READ, "if-modified-since", "Sat, 29 Oct 1994 19:43:31 GMT"),
            (READ, "accept-encoding", "gzip"),
            (PUT, "prefer", "respond-async"),
        ] {
            assert_eq!(check(takes, &[(name, value)]), Ok(()), "{name}: {value}");
        }
    }

    #[test]
    fn a_header_that_stands_once_does_not_stand_twice() {
        for name in SINGLE {
            assert_eq!(check(PUT, &[(name, "1"), ("accept", "a"), ("accept", "b")]), Ok(()), "{name}");
            let problem = check(PUT, &[(name, "1"), ("accept", "a"), (name, "1")]).expect_err(name);
            assert_eq!(problem.kind, ProblemKind::BadRequest);
        }
    }

    #[test]
    fn a_parameter_is_named_with_those_that_are_known() {
        let problem = unknown_parameter(b"prefx", &["prefix", "limit"]);
        assert_eq!(problem.members["parameter"], "prefx");
        assert!(problem.detail.contains("\"prefx\"") && problem.detail.contains("prefix, limit"), "{problem}");
        assert!(unknown_parameter(b"\xff", &[]).detail.contains("takes none"));
    }
}
