//! The encoders extension: base64.

use base64::Engine;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use bytes::Bytes;

use crate::expression::arithmetic::{check_text, text};
use crate::expression::problem::{Failure, Outcome};
use crate::model::Value;

/// Writes padding, reads with and without.
const BASE64: GeneralPurpose =
    GeneralPurpose::new(&STANDARD, GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent));

pub(super) fn encode(value: &Value) -> Outcome {
    match value {
        Value::Bytes(bytes) => {
            check_text(bytes.len().div_ceil(3) * 4)?;
            text(BASE64.encode(bytes))
        }
        other => Err(Failure::overload("base64.encode", &[other])),
    }
}

pub(super) fn decode(value: &Value) -> Outcome {
    match value {
        Value::String(encoded) => match BASE64.decode(encoded.as_bytes()) {
            Ok(bytes) => Ok(Value::Bytes(Bytes::from(bytes))),
            Err(error) => Err(Failure::new(format!("not base64: {}", error.to_string().trim_end_matches('.').to_lowercase()))),
        },
        other => Err(Failure::overload("base64.decode", &[other])),
    }
}
