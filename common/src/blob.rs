//! Bytes in JSON: a string where they are UTF-8, `{"base64": "…"}` where they are not; both are taken.
//!
//! Source: DESIGN §4, "JSON keys and values".

use crate::json::Object;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::de::Error as _;
use serde::ser::SerializeMap as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A key or a value on its way through JSON.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Blob(pub Bytes);

impl Blob {
    /// The length of its JSON. Unit: bytes.
    #[must_use]
    pub fn json_len(&self) -> usize {
        let escaped = |byte: &u8| match byte {
            b'"' | b'\\' | b'\n' | b'\r' | b'\t' | 0x08 | 0x0c => 2,
            0..=0x1f => 6,
            _ => 1,
        };
        match std::str::from_utf8(&self.0) {
            Ok(text) => 2 + text.as_bytes().iter().map(escaped).sum::<usize>(),
            Err(_) => r#"{"base64":""}"#.len() + self.0.len().div_ceil(3) * 4,
        }
    }
}

impl Serialize for Blob {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if let Ok(text) = std::str::from_utf8(&self.0) {
            return serializer.serialize_str(text);
        }
        let mut map = serializer.serialize_map(Some(1))?;
        map.serialize_entry("base64", &STANDARD.encode(&self.0))?;
        map.end()
    }
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Form {
    Text(String),
    Encoded(Object<Encoded>),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Encoded {
    base64: String,
}

impl<'de> Deserialize<'de> for Blob {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Blob, D::Error> {
        let form = Form::deserialize(deserializer)
            .map_err(|_| D::Error::custom("expected a string or {\"base64\": \"…\"}"))?;
        match form {
            Form::Text(text) => Ok(Blob(Bytes::from(text))),
            Form::Encoded(Object(encoded)) => STANDARD
                .decode(encoded.base64)
                .map(|bytes| Blob(Bytes::from(bytes)))
                .map_err(|error| D::Error::custom(format!("not base64: {error}"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_bytes_survive_json(bytes: Vec<u8>) {
            let blob = Blob(Bytes::from(bytes));
            let text = serde_json::to_string(&blob).unwrap();
            prop_assert_eq!(blob.json_len(), text.len());
            prop_assert_eq!(serde_json::from_str::<Blob>(&text).unwrap(), blob);
        }
    }

    #[test]
    fn the_length_of_every_byte_is_known() {
        let all = Blob(Bytes::from((0..=0x7f).collect::<Vec<u8>>()));
        assert_eq!(all.json_len(), serde_json::to_string(&all).unwrap().len());
    }

    #[test]
    fn text_stays_text() {
        assert_eq!(serde_json::to_string(&Blob(Bytes::from_static("né".as_bytes()))).unwrap(), "\"né\"");
        assert_eq!(serde_json::to_string(&Blob(Bytes::from_static(&[0xff]))).unwrap(), "{\"base64\":\"/w==\"}");
        assert!(serde_json::from_str::<Blob>("17").is_err());
        assert!(serde_json::from_str::<Blob>("[\"YQ==\"]").is_err());
        assert!(serde_json::from_str::<Blob>("{\"base64\":\"?\"}").is_err());
    }
}
