//! Goal: headers and queries mean what the contract says, and nothing hostile panics.

use super::*;
use hyper::header::{HeaderValue, IF_MATCH};
use proptest::prelude::*;

fn headers_of(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
    let mut map = HeaderMap::new();
    for (name, value) in pairs {
        map.append(*name, HeaderValue::from_static(value));
    }
    map
}

#[test]
fn keys_are_decoded_once_and_never_normalised() {
    for (raw, wanted) in [
        ("a", &b"a"[..]),
        ("a%2Fb", b"a/b"),
        ("a/b", b"a/b"),
        ("..", b".."),
        ("a//b/../c", b"a//b/../c"),
        ("%00", b"\0"),
        ("%2525", b"%25"),
        ("a+b", b"a+b"),
        ("a%20b", b"a b"),
        ("%ff%FE", b"\xff\xfe"),
        ("/", b"/"),
    ] {
        assert_eq!(&*key_of_path(raw).unwrap(), wanted, "{raw}");
    }
    for raw in ["", "%", "%2", "%zz", "a%", "%+1"] {
        assert_eq!(key_of_path(raw).unwrap_err().problem.kind, ProblemKind::BadKey, "{raw}");
    }
    assert!(key_of_path(&"%61".repeat(1024)).is_ok());
    assert_eq!(key_of_path(&"a".repeat(1025)).unwrap_err().problem.members["limit"], 1024);
}

#[test]
fn a_wait_is_no_longer_than_the_limit() {
    let of = |value| wait(&headers_of(&[("prefer", value)]), Duration::from_secs(5), Duration::from_secs(30));
    for (value, seconds) in [("wait=2", 2), ("wait=0", 0), ("wait=31", 30), ("respond-async", 5)] {
        assert_eq!(of(value).unwrap(), Duration::from_secs(seconds), "{value}");
    }
    assert_eq!(of("wait=x").unwrap_err().problem.kind, ProblemKind::BadRequest);
}

#[test]
fn entity_tags_parse_as_rfc_9110_says() {
    let map = headers_of(&[("if-match", "\"a\", W/\"b,c\" ,\"\""), ("if-match", "\"d\"")]);
    let tag = |weak, opaque| EntityTag { weak, opaque };
    assert_eq!(
        entity_tags(&map, &IF_MATCH).unwrap().unwrap(),
        EntityTags::Listed(vec![tag(false, b"a"), tag(true, b"b,c"), tag(false, b""), tag(false, b"d")])
    );
    assert_eq!(entity_tags(&headers_of(&[("if-match", "*")]), &IF_MATCH).unwrap(), Some(EntityTags::Any));
    assert_eq!(entity_tags(&HeaderMap::new(), &IF_MATCH).unwrap(), None);
    for value in [", \"a\", ,W/\"b,c\",,\"\",\"d\"", "\"a\" ,, W/\"b,c\",\"\" , \"d\" ,"] {
        let map = headers_of(&[("if-match", value)]);
        let listed = entity_tags(&map, &IF_MATCH).unwrap();
        let wanted = vec![tag(false, b"a"), tag(true, b"b,c"), tag(false, b""), tag(false, b"d")];
        assert_eq!(listed, Some(EntityTags::Listed(wanted)), "empty elements are legal: {value}");
    }
    for value in ["", ",", "a", "\"a", "\"a\" \"b\"", "w/\"a\"", "*, \"a\"", "*,"] {
        assert!(entity_tags(&headers_of(&[("if-match", value)]), &IF_MATCH).is_err(), "{value}");
    }
}

#[test]
fn empty_elements_of_a_list_of_tokens_are_left_out() {
    let of = |values: &[(&'static str, &'static str)]| {
        read_after(&headers_of(values), &Query::default(), "c7f3a1".parse().unwrap(), 4)
    };
    let wanted: SessionToken = "c7f3a1.0:17_3:2".parse().unwrap();
    assert_eq!(of(&[("read-after", ", c7f3a1.0:17,, c7f3a1.3:2 ,")]).unwrap(), Some(wanted.clone()));
    assert_eq!(of(&[("read-after", ""), ("read-after", "c7f3a1.0:17,c7f3a1.3:2")]).unwrap(), Some(wanted));
    assert_eq!(of(&[]).unwrap(), None);
    for value in ["", " , "] {
        assert_eq!(of(&[("read-after", value)]).unwrap_err().problem.kind, ProblemKind::BadToken, "{value:?}");
    }
}

#[test]
fn a_parameter_that_is_not_known_is_refused_by_name() {
    assert!(Query::parse(Some("prefix=a&&%70refix=b"), &["prefix"]).is_ok(), "names are decoded");
    for (query, name) in [("prefx=a", "prefx"), ("prefix=a&x", "x"), ("=", ""), ("Prefix=a", "Prefix")] {
        let failure = Query::parse(Some(query), &["prefix"]).unwrap_err();
        assert_eq!(
            (failure.problem.kind, &failure.problem.members["parameter"]),
            (ProblemKind::BadRequest, &name.into())
        );
    }
}

/// Goal: a caller that named no key can still be told one to retry with.
#[test]
fn a_minted_key_is_its_own_name() {
    let minted = IdempotencyKey::minted(0xc7f3_a100_0000_0000_0000_0000_0000_0001);
    assert_eq!(minted.as_bytes(), b"c7f3a100000000000000000000000001");
    assert_eq!(minted.request_id(3), RequestId::of_idempotency_key(minted.as_bytes(), 3));
}

proptest! {
    #[test]
    fn any_bytes_survive_percent_encoding(bytes: Vec<u8>) {
        let encoded: String = bytes.iter().map(|byte| format!("%{byte:02x}")).collect();
        prop_assert_eq!(&*percent_decode(encoded.as_bytes(), false).unwrap(), &bytes[..]);
        prop_assert_eq!(&*percent_decode(encoded.as_bytes(), true).unwrap(), &bytes[..]);
    }

    #[test]
    fn hostile_headers_are_refused_or_parsed(value in "[ -~]{0,40}") {
        let mut map = HeaderMap::new();
        let value = HeaderValue::from_str(&value).unwrap();
        for name in ["if-match", "prefer", "read-after", "idempotency-key"] {
            map.insert(name, value.clone());
        }
        let _ = entity_tags(&map, &IF_MATCH);
        let _ = wait(&map, Duration::ZERO, Duration::from_secs(30));
        let _ = read_after(&map, &Query::default(), HistoryId::from_bits(1), 4);
        let _ = Query::parse(value.to_str().ok(), &["a"]);
    }
}
