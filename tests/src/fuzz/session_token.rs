//! Session tokens: any text is refused, or is a token that prints as exactly that text; tokens merge as sets do.
//!
//! * Input: one text, or two with a space between them.
//! * Source: docs/formats.md "Session token"; DESIGN words.

use super::Target;
use duramen_common::limits::TOKEN_BYTES_MAX;
use duramen_common::{SessionToken, Timestamp};

/// The target.
pub const TARGET: Target = Target {
    name: "session_token",
    run,
    seeds,
    nasty,
    words: &["c7f3a1.", "_", ":", "65534", "18446744073709551614", "meta"],
    inputs: 700_000,
    heap_bytes_max: 64 * 1024,
};

fn run(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let (one, other) = text.split_once(' ').unwrap_or((text, text));
    let (Some(one), Some(other)) = (token(one), token(other)) else { return };
    let mut merged = one.clone();
    if merged.merge(&other).is_err() {
        assert_ne!(one.history(), other.history());
        assert_eq!(merged, one, "a merge that is refused changes nothing");
        return;
    }
    let mut the_other_way = other.clone();
    assert_eq!(the_other_way.merge(&one), Ok(()));
    assert_eq!(merged, the_other_way);
    for Timestamp { partition, offset } in one.timestamps().chain(other.timestamps()) {
        assert!(merged.position(partition) >= Some(offset), "{partition}:{offset} was seen");
    }
    for Timestamp { partition, offset } in merged.timestamps() {
        let seen = [one.position(partition), other.position(partition)];
        assert!(seen.contains(&Some(offset)), "{partition}:{offset} was never seen");
    }
    // Two tokens of the greatest length may merge into one over it.
    if merged.to_string().len() <= TOKEN_BYTES_MAX {
        assert_eq!(token(&merged.to_string()), Some(merged));
    }
}

fn token(text: &str) -> Option<SessionToken> {
    let token: SessionToken = text.parse().ok()?;
    assert_eq!(token.to_string(), text, "one text a token");
    let json = serde_json::to_string(&token).expect("a token is a string");
    assert_eq!(serde_json::from_str::<SessionToken>(&json).ok().as_ref(), Some(&token));
    assert_eq!(token.single().is_some(), token.timestamps().count() == 1);
    Some(token)
}

fn seeds() -> Vec<Vec<u8>> {
    [
        "c7f3a1.0:17_3:1042",
        "c7f3a1.",
        "000000.65534:18446744073709551614",
        "c7f3a1.0:17 c7f3a1.0:9_1:4",
        "c7f3a1.1:1 c7f3a2.1:1",
    ]
    .map(|text| text.as_bytes().to_vec())
    .to_vec()
}

fn nasty() -> Vec<(&'static str, Vec<u8>)> {
    let many: String = (0..2_000).map(|partition| format!("_{partition}:1")).collect();
    let texts = [
        ("nothing", String::new()),
        ("a history of upper-case digits", "C7F3A1.0:1".to_owned()),
        ("a partition twice", "c7f3a1.0:1_0:1".to_owned()),
        ("partitions that descend", "c7f3a1.1:1_0:1".to_owned()),
        ("a zero in front", "c7f3a1.0:01".to_owned()),
        ("the greatest partition is the cluster's own", "c7f3a1.65535:0".to_owned()),
        ("the greatest number is no offset", "c7f3a1.0:18446744073709551615".to_owned()),
        ("a number over all", "c7f3a1.0:99999999999999999999".to_owned()),
        ("digits of another script", "c7f3a1.0:\u{0661}".to_owned()),
        ("a separator too many", "c7f3a1.0:1_".to_owned()),
        ("over the limit", format!("c7f3a1.{}", &many[1..])),
    ];
    texts.into_iter().map(|(name, text)| (name, text.into_bytes())).collect()
}
