//! Keys of any bytes on a command line: as text, percent-encoded, or base64.

use crate::failure::Failure;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use clap::{Args, ValueEnum};
use percent_encoding::percent_decode_str;

/// How keys are written on this command line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum KeyForm {
    /// The text's UTF-8 bytes.
    #[default]
    Text,
    /// Percent-encoded: %00 is a zero byte, %25 a percent sign.
    Percent,
    /// Base64, standard alphabet with padding.
    Base64,
}

/// The option for it.
#[derive(Clone, Copy, Debug, Args)]
pub(super) struct KeyFormArgs {
    /// How keys are written on this command line.
    #[arg(long, value_name = "FORM", default_value = "text")]
    key_form: KeyForm,
}

impl KeyFormArgs {
    /// The bytes that a text stands for.
    pub(super) fn bytes(self, text: &str) -> Result<Bytes, Failure> {
        match self.key_form {
            KeyForm::Text => Ok(Bytes::copy_from_slice(text.as_bytes())),
            KeyForm::Percent => percent_decoded(text)
                .ok_or_else(|| Failure::usage(format!("{text:?} is not percent-encoded: write % as %25"))),
            KeyForm::Base64 => STANDARD
                .decode(text)
                .map(Bytes::from)
                .map_err(|error| Failure::usage(format!("{text:?} is not base64: {error}"))),
        }
    }
}

/// `None` where a percent sign is not followed by two hex digits: guessing would read another key.
fn percent_decoded(text: &str) -> Option<Bytes> {
    let mut parts = text.split('%');
    parts.next();
    let is_hex = |byte: &u8| byte.is_ascii_hexdigit();
    let is_whole = parts.all(|part| part.as_bytes().get(..2).is_some_and(|digits| digits.iter().all(is_hex)));
    is_whole.then(|| Bytes::from(percent_decode_str(text).collect::<Vec<u8>>()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_may_be_any_bytes() {
        let bytes = |key_form, text: &str| KeyFormArgs { key_form }.bytes(text).ok();
        assert_eq!(bytes(KeyForm::Text, "a%00/é").as_deref(), Some("a%00/é".as_bytes()));
        assert_eq!(bytes(KeyForm::Percent, "a%00%2f%FFé").as_deref(), Some(b"a\0/\xff\xc3\xa9".as_slice()));
        assert_eq!(bytes(KeyForm::Base64, "AP8=").as_deref(), Some(b"\0\xff".as_slice()));
        for text in ["%", "%0", "a%zz", "%%41"] {
            assert_eq!(bytes(KeyForm::Percent, text), None, "{text:?} was taken");
        }
        assert_eq!(bytes(KeyForm::Base64, "AP8"), None);
    }
}
