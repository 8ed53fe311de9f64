//! Messages: what a line of Maelstrom's network says. Pure.
//!
//! * In: a line, which may be anything. Out: who says what to whom, or why the line is none. And the other way round.
//! * Unknown members are passed over: Maelstrom numbers its messages (`id`).
//! * Source: Maelstrom's protocol, "Messages".

use crate::failure::{Code, Failure};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

/// A body: a JSON object.
pub type Body = Map<String, Value>;

/// One line.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Message {
    /// Who sends it.
    pub src: String,
    /// Whom it is for.
    pub dest: String,
    /// What it says.
    pub body: Body,
}

/// Why a line is no message.
#[derive(Debug, thiserror::Error)]
#[error("this line is no message: {0}")]
pub struct NoMessage(#[from] serde_json::Error);

impl Message {
    /// Reads a line.
    pub fn parse(line: &[u8]) -> Result<Message, NoMessage> {
        Ok(serde_json::from_slice(line)?)
    }

    /// Writes a line, its end included.
    pub fn line(src: &str, dest: &str, body: &impl Serialize) -> Vec<u8> {
        #[derive(Serialize)]
        struct Line<'a, B> {
            src: &'a str,
            dest: &'a str,
            body: &'a B,
        }
        let mut line = serde_json::to_vec(&Line { src, dest, body }).expect("bodies are plain JSON");
        line.push(b'\n');
        line
    }

    /// What kind of message it is; empty when it does not say.
    pub fn kind(&self) -> &str {
        self.body.get("type").and_then(Value::as_str).unwrap_or_default()
    }

    /// The number by which it is answered; `None` when it asks for no answer.
    pub fn msg_id(&self) -> Result<Option<i64>, Failure> {
        match self.body.get("msg_id") {
            None | Some(Value::Null) => Ok(None),
            Some(id) => id.as_i64().map(Some).ok_or_else(|| Failure::malformed("msg_id is no integer")),
        }
    }

    /// Its body as what its type asks for.
    pub fn read<T: DeserializeOwned>(self) -> Result<T, Failure> {
        serde_json::from_value(Value::Object(self.body)).map_err(|error| Failure::malformed(error.to_string()))
    }
}

/// An answer's body: its type and what belongs to it.
pub fn answer(kind: &str, members: Value) -> Body {
    let mut body = match members {
        Value::Object(members) => members,
        _ => Body::new(),
    };
    body.insert("type".to_owned(), Value::from(kind));
    body
}

/// An error's body.
pub fn error(failure: &Failure) -> Body {
    let Failure { code, text } = failure;
    answer("error", json!({ "code": *code as u16, "text": text }))
}

/// There is no such type of message.
pub fn unknown_type(kind: &str) -> Failure {
    let shown: String = kind.chars().take(64).collect();
    Failure::new(Code::NotSupported, format!("there is no type of message {shown:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_read_as_maelstrom_writes_it() {
        let line = br#"{"id":7,"src":"c1","dest":"n1","body":{"type":"read","msg_id":3,"key":0}}"#;
        let message = Message::parse(line).unwrap();
        assert_eq!((message.src.as_str(), message.dest.as_str(), message.kind()), ("c1", "n1", "read"));
        assert_eq!(message.msg_id(), Ok(Some(3)));
        let again = Message::line("c1", "n1", &message.body);
        assert_eq!(Message::parse(&again).unwrap(), message);
        assert_eq!(again.iter().filter(|&&byte| byte == b'\n').count(), 1);
    }

    /// Goal: nothing that comes in stops the process. Method: lines that are no JSON, no messages, too deep, of wrong types.
    #[test]
    fn what_is_no_message_is_refused() {
        let deep = "[".repeat(100_000);
        for line in ["", "{", "null", "[]", "7", "{}", r#"{"src":"c1","dest":"n1"}"#, "\u{0}\u{1}", deep.as_str()] {
            assert!(Message::parse(line.as_bytes()).is_err(), "{line:.40}");
        }
        for line in [r#"{"src":1,"dest":"n1","body":{}}"#, r#"{"src":"a","dest":"n1","body":[]}"#] {
            assert!(Message::parse(line.as_bytes()).is_err(), "{line}");
        }
        assert!(Message::parse(b"\xff\xfe").is_err());
    }

    #[test]
    fn bodies_that_lie_about_themselves_are_malformed() {
        let message = |body: Value| Message::parse(json!({"src":"a","dest":"b","body":body}).to_string().as_bytes());
        assert_eq!(message(json!({})).unwrap().kind(), "");
        assert_eq!(message(json!({"type": 7})).unwrap().kind(), "");
        assert_eq!(message(json!({"msg_id": null})).unwrap().msg_id(), Ok(None));
        for msg_id in [json!("1"), json!(1.5), json!(1e300), json!([1])] {
            let refused = message(json!({"msg_id": msg_id})).unwrap().msg_id().unwrap_err();
            assert_eq!(refused.code, Code::MalformedRequest);
        }
    }
}
