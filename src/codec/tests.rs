//! What every codec in the list promises.

use proptest::prelude::*;

use super::*;
use crate::codec::json::to_json;

/// Types that a source can declare, a few of each kind.
fn types() -> Vec<Type> {
    let shape = |fields: &[(&str, Type)]| {
        let fields = fields.iter().map(|(name, ty)| crate::model::Field { name: (*name).into(), ty: ty.clone() }).collect();
        Type::Object(std::sync::Arc::new(crate::model::Shape { fields }))
    };
    let scalars = [
        Type::Any,
        Type::Bool,
        Type::Int,
        Type::Uint,
        Type::Double,
        Type::String,
        Type::Bytes,
        Type::Decimal,
        Type::Timestamp,
        Type::Duration,
    ];
    let mut types = scalars.to_vec();
    types.push(shape(&[("a", Type::Int), ("b", Type::nullable(Type::String)), ("c", shape(&[("d", Type::list(Type::Decimal))]))]));
    types.push(Type::map(Type::Int, Type::list(Type::nullable(Type::Bool))));
    types.extend(scalars.into_iter().map(Type::nullable));
    types
}

#[test]
fn every_codec_is_found_by_its_name() {
    for kind in CODECS {
        assert_eq!(codec(kind.name).map(|found| found.name), Some(kind.name));
        assert!(!kind.summary.is_empty() && kind.example.contains("sources:"), "{}", kind.name);
    }
    assert!(codec("xml").is_none());
}

#[test]
fn every_codec_refuses_a_value_over_the_limit() {
    let limits = Limits { value_bytes: 10, ..Limits::default() };
    for kind in CODECS {
        let bad = (kind.decoder)(&Type::String, limits).decode(b"\"3456789ab\"").unwrap_err();
        assert_eq!((bad.reason, bad.detail.as_str()), ("too_large", "the value has 11 bytes, the limit is 10"), "{}", kind.name);
        (kind.decoder)(&Type::String, limits).decode(b"\"3456789a\"").unwrap();
    }
}

proptest! {
    #[test]
    fn any_bytes_are_a_value_or_an_error(bytes: Vec<u8>, text in r#"[\[\]{}:,"\\0-9eE.+ \-a-d]{0,40}"#) {
        for kind in CODECS {
            for ty in types() {
                let mut decoder = (kind.decoder)(&ty, Limits::default());
                let _ = (decoder.decode(&bytes).is_ok(), decoder.decode(text.as_bytes()).is_ok());
            }
        }
    }

    /// What a codec reads, it writes so that it reads the same again.
    #[test]
    fn a_value_that_was_read_is_written_and_read_the_same(text in "\\PC{0,30}", bytes: Vec<u8>) {
        for kind in CODECS {
            let ty = match kind.name { "json" => Type::Any, "string" => Type::String, _ => Type::Bytes };
            let mut decoder = (kind.decoder)(&ty, Limits::default());
            for input in [text.as_bytes(), &bytes, &serde_json::to_vec(&text).unwrap()] {
                if let Ok(value) = decoder.decode(input) {
                    let mut written = Vec::new();
                    (kind.encode)(&value, &mut written);
                    prop_assert_eq!(to_json(&decoder.decode(&written).unwrap()), to_json(&value), "{}", kind.name);
                }
            }
        }
    }
}
