//! The one place that knows how control messages become bytes: a version byte, then bincode with variable-length
//! integers, decoded only from a slice that is already bounded; and messages that carry raw bytes behind them.
//!
//! * Invariant: decoding allocates no more than the slice's own length times a constant; trailing bytes are refused.
//! * Deliberately absent: record batches, which have a layout of their own (`batch`).
//! * Source: DESIGN D10; docs/formats.md "Control messages".

use bincode::Options as _;
use bytes::{BufMut, Bytes, BytesMut};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Version of control messages: the first byte of each.
pub const CODEC_VERSION: u8 = 1;
/// Longest control message, without the raw bytes behind it. Unit: bytes.
pub const CONTROL_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Why bytes are not a message.
#[derive(Debug, thiserror::Error)]
pub enum CodecError {
    /// Another version wrote it.
    #[error("control message of version {found}, this program speaks {CODEC_VERSION}: upgrade the older side")]
    Version {
        /// The version byte found.
        found: u8,
    },
    /// Too long, before any of it was decoded.
    #[error("control message of {length} bytes, the limit is {CONTROL_BYTES_MAX}")]
    TooLong {
        /// Its length in bytes.
        length: usize,
    },
    /// Cut off.
    #[error("control message is cut off")]
    Short,
    /// Not what was expected.
    #[error("control message does not decode: {0}")]
    Malformed(#[from] bincode::Error),
}

fn options() -> impl bincode::Options {
    bincode::DefaultOptions::new().with_limit(CONTROL_BYTES_MAX as u64)
}

/// Encodes a message. Panics where it is over [`CONTROL_BYTES_MAX`]: senders bound what they send.
#[must_use]
pub fn encode<T: Serialize>(message: &T) -> Bytes {
    let mut bytes = vec![CODEC_VERSION];
    options().serialize_into(&mut bytes, message).expect("messages are bounded by their senders and need no I/O");
    Bytes::from(bytes)
}

/// Decodes a message that fills the slice exactly.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, CodecError> {
    if bytes.len() > CONTROL_BYTES_MAX {
        return Err(CodecError::TooLong { length: bytes.len() });
    }
    match bytes.split_first() {
        None => Err(CodecError::Short),
        Some((&CODEC_VERSION, rest)) => Ok(options().deserialize(rest)?),
        Some((&found, _)) => Err(CodecError::Version { found }),
    }
}

/// A message with raw bytes behind it: `[u32 length of the message][message][raw bytes]`.
#[must_use]
pub fn encode_with_payload<T: Serialize>(message: &T, payload: &[u8]) -> Bytes {
    encode_with_payloads(message, &[payload])
}

/// As [`encode_with_payload`], with the raw bytes in several pieces.
#[must_use]
pub fn encode_with_payloads<P: AsRef<[u8]>, T: Serialize>(message: &T, payloads: &[P]) -> Bytes {
    let control = encode(message);
    let total: usize = payloads.iter().map(|payload| payload.as_ref().len()).sum();
    let mut bytes = BytesMut::with_capacity(4 + control.len() + total);
    bytes.put_u32_le(u32::try_from(control.len()).expect("bounded by CONTROL_BYTES_MAX"));
    bytes.put_slice(&control);
    for payload in payloads {
        bytes.put_slice(payload.as_ref());
    }
    bytes.freeze()
}

/// The message and the raw bytes behind it; the latter share `bytes`' memory.
pub fn decode_with_payload<T: DeserializeOwned>(bytes: &Bytes) -> Result<(T, Bytes), CodecError> {
    let (head, _) = bytes.split_first_chunk::<4>().ok_or(CodecError::Short)?;
    let length = u32::from_le_bytes(*head) as usize;
    let end = length.checked_add(4).ok_or(CodecError::Short)?;
    let control = bytes.get(4..end).ok_or(CodecError::Short)?;
    Ok((decode(control)?, bytes.slice(end..)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn messages_survive(number: u64, text: String, payload: Vec<u8>) {
            let message = (number, text);
            prop_assert_eq!(&decode::<(u64, String)>(&encode(&message)).unwrap(), &message);
            let (decoded, rest) = decode_with_payload::<(u64, String)>(&encode_with_payload(&message, &payload)).unwrap();
            prop_assert_eq!(decoded, message);
            prop_assert_eq!(&rest[..], &payload[..]);
        }

        /// Goal: hostile bytes neither panic nor allocate what they claim.
        #[test]
        fn any_bytes_are_refused_or_decoded(bytes: Vec<u8>) {
            let _ = decode::<(u64, Vec<String>, Option<u128>)>(&bytes);
            let _ = decode_with_payload::<Vec<u64>>(&Bytes::from(bytes));
        }
    }

    #[test]
    fn another_version_and_trailing_bytes_are_refused() {
        let mut bytes = encode(&7u64).to_vec();
        bytes.push(0);
        assert!(matches!(decode::<u64>(&bytes), Err(CodecError::Malformed(_))));
        bytes[0] = 9;
        assert!(matches!(decode::<u64>(&bytes), Err(CodecError::Version { found: 9 })));
        assert!(matches!(decode::<u64>(&[]), Err(CodecError::Short)));
    }

    #[test]
    fn a_hostile_length_does_not_allocate() {
        let mut bytes = vec![CODEC_VERSION, 253];
        bytes.extend_from_slice(&u64::MAX.to_le_bytes());
        assert!(decode::<Vec<u8>>(&bytes).is_err());
    }
}
