//! JSON objects read strictly.
//!
//! serde takes an array of a structure's members, in their order, for the structure; an API that promises objects must not.

use serde::de::value::MapAccessDeserializer;
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use std::fmt;
use std::marker::PhantomData;

/// A `T` that stands as a JSON object; an array is refused.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Object<T>(pub T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Object<T>, D::Error> {
        deserializer.deserialize_map(ObjectVisitor(PhantomData))
    }
}

struct ObjectVisitor<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for ObjectVisitor<T> {
    type Value = Object<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Object<T>, A::Error> {
        T::deserialize(MapAccessDeserializer::new(map)).map(Object)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Pair {
        key: String,
        value: Option<u8>,
    }

    #[test]
    fn an_array_is_no_object() {
        let of = serde_json::from_str::<Object<Pair>>;
        let pair = Pair { key: "k".to_owned(), value: Some(1) };
        assert_eq!(of(r#"{"value":1,"key":"k"}"#).unwrap(), Object(pair));
        assert_eq!(serde_json::from_str::<Pair>(r#"["k",1]"#).unwrap().value, Some(1), "serde alone takes it");
        for wrong in [r#"["k",1]"#, "[]", "null", "7", r#""k""#, r#"{"key":"k","surprise":1}"#] {
            assert!(of(wrong).is_err(), "{wrong}");
        }
    }
}
