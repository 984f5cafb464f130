use std::io::Write;

use super::*;
use crate::fixtures::{GgufWriter, Meta, TinyModel, tiny_gguf};

fn read(bytes: &[u8]) -> Result<(File, Gguf), EngineError> {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    let gguf = Gguf::read(&file, Path::new("model.gguf"))?;
    Ok((file, gguf))
}

/// A header with every kind of value and two tensors, small enough to cut at every byte.
fn small() -> GgufWriter {
    let mut writer = GgufWriter::default();
    writer.meta("a.number", Meta::U32(7));
    writer.meta("a.float", Meta::F32(0.5));
    writer.meta("a.flag", Meta::Bool(true));
    writer.meta("a.text", Meta::String("grüße".into()));
    writer.meta(
        "a.texts",
        Meta::Strings(vec!["x".into(), String::new(), "yz".into()]),
    );
    writer.meta("a.numbers", Meta::I32s(vec![-1, 0, 1]));
    writer.meta("a.floats", Meta::F32s(vec![1.5, -2.5]));
    writer.tensor("t.first", &[32, 2], TensorType::Q4_1, vec![1; 40]);
    writer.tensor("t.second", &[3], TensorType::F32, vec![2; 12]);
    writer
}

#[test]
fn reads_what_was_written() {
    let (file, gguf) = read(&small().bytes()).unwrap();
    assert_eq!(gguf.unsigned("a.number").unwrap(), Some(7));
    assert_eq!(gguf.float("a.float").unwrap(), Some(0.5));
    assert_eq!(gguf.flag("a.flag").unwrap(), Some(true));
    assert_eq!(gguf.string("a.text").unwrap(), Some("grüße"));
    let texts = gguf.strings(&file, "a.texts").unwrap().unwrap();
    assert_eq!(texts, ["x", "", "yz"]);
    assert_eq!(
        gguf.numbers(&file, "a.numbers").unwrap().unwrap(),
        [-1.0, 0.0, 1.0]
    );
    assert_eq!(
        gguf.numbers(&file, "a.floats").unwrap().unwrap(),
        [1.5, -2.5]
    );
    assert_eq!(gguf.unsigned("absent").unwrap(), None);
    let (first, second) = (
        gguf.tensor("t.first").unwrap(),
        gguf.tensor("t.second").unwrap(),
    );
    assert_eq!(
        (first.dimensions.as_slice(), first.bytes),
        (&[32, 2][..], Some(40))
    );
    assert_eq!(second.offset, first.offset + 64);
    assert_eq!(file.metadata().unwrap().len(), second.offset + 12);
}

#[test]
fn a_value_of_another_type_is_an_error_that_names_the_key() {
    let (file, gguf) = read(&small().bytes()).unwrap();
    let errors = [
        gguf.unsigned("a.text").unwrap_err(),
        gguf.float("a.text").unwrap_err(),
        gguf.flag("a.text").unwrap_err(),
        gguf.strings(&file, "a.text").unwrap_err(),
        gguf.numbers(&file, "a.text").unwrap_err(),
    ];
    for error in errors {
        let text = error.to_string();
        assert!(
            text.starts_with("model.gguf: metadata `a.text`: expected"),
            "{text}"
        );
    }
    assert!(gguf.string("a.number").is_err());
    assert!(gguf.strings(&file, "a.numbers").is_err());
    assert!(gguf.numbers(&file, "a.texts").is_err());
}

#[test]
fn every_truncation_is_an_error_with_an_offset() {
    let bytes = small().bytes();
    for length in 0..bytes.len() {
        match read(&bytes[..length]).map(|_| ()) {
            Err(EngineError::Truncated {
                offset,
                needed,
                length: whole,
                ..
            }) => {
                assert_eq!(whole, length as u64);
                assert!(offset + needed > whole, "cut at {length}");
            }
            // The counts no longer fit in what is left.
            Err(EngineError::Corrupt { offset, .. }) => assert!(offset <= length as u64),
            other => panic!("cut at {length}: {other:?}"),
        }
    }
}

#[test]
fn every_truncation_of_a_model_is_an_error() {
    let bytes = tiny_gguf(1);
    // A model is long: every cut of its first bytes, then one in a few.
    let cuts = (0..600).chain((600..bytes.len()).step_by(97));
    for length in cuts {
        assert!(read(&bytes[..length]).is_err(), "cut at {length}");
    }
}

#[test]
fn no_flipped_bit_panics_or_takes_memory() {
    let bytes = small().bytes();
    let header = bytes.len() - 40 - 24 - 12;
    for bit in 0..header * 8 {
        let mut flipped = bytes.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        // Either it is an error or everything it says can be read.
        let Ok((file, gguf)) = read(&flipped) else {
            continue;
        };
        for tensor in gguf.tensors() {
            let end = tensor.offset + tensor.bytes.unwrap_or(0);
            assert!(end <= bytes.len() as u64, "bit {bit}: {tensor:?}");
        }
        for key in ["a.texts", "a.numbers", "a.floats"] {
            let strings = gguf.strings(&file, key);
            let numbers = gguf.numbers(&file, key);
            assert!(strings.is_err() || numbers.is_err() || gguf.value(key).is_none());
        }
    }
}

#[test]
fn impossible_counts_are_refused_before_memory_is_taken() {
    let huge = [u64::MAX, 1 << 62, 1 << 40];
    for count in huge {
        for at in [8, 16] {
            let mut bytes = small().bytes();
            bytes[at..at + 8].copy_from_slice(&count.to_le_bytes());
            let error = read(&bytes).unwrap_err().to_string();
            assert!(error.contains("do not fit"), "{error}");
        }
    }
    for dimensions in [
        &[u64::MAX, u64::MAX][..],
        &[0, 4],
        &[1 << 59, 32],
        &[32; 5],
        &[],
    ] {
        let mut writer = small();
        writer.tensor("t.bad", dimensions, TensorType::F32, vec![0; 64]);
        let error = read(&writer.bytes()).unwrap_err().to_string();
        assert!(error.contains("t.bad"), "{error}");
    }
}

#[test]
fn contradictions_are_refused_by_name() {
    let mut doubled = small();
    doubled.tensor("t.first", &[1], TensorType::F32, vec![0; 4]);
    let mut partial_blocks = small();
    partial_blocks.tensor("t.bad", &[33], TensorType::Q4_1, vec![0; 40]);
    let mut alignment = small();
    alignment.meta("general.alignment", Meta::U32(3));
    let mut tiny_alignment = small();
    tiny_alignment.meta("general.alignment", Meta::U32(1));
    let cases = [
        (doubled, "`t.first` appears twice"),
        (partial_blocks, "33 columns are not whole blocks of Q4_1"),
        (alignment, "general.alignment is Unsigned(3)"),
        (tiny_alignment, "general.alignment is Unsigned(1)"),
    ];
    for (writer, says) in cases {
        let error = read(&writer.bytes()).unwrap_err().to_string();
        assert!(error.contains(says), "{error}");
    }
    let mut other = small().bytes();
    other[..4].copy_from_slice(b"PK\x03\x04");
    assert!(
        read(&other)
            .unwrap_err()
            .to_string()
            .contains("not a GGUF file")
    );
    let mut version = small().bytes();
    version[4..8].copy_from_slice(&9u32.to_le_bytes());
    assert!(
        read(&version)
            .unwrap_err()
            .to_string()
            .contains("GGUF version 9")
    );
    version[4..8].copy_from_slice(&3u32.to_be_bytes());
    assert!(
        read(&version)
            .unwrap_err()
            .to_string()
            .contains("big-endian")
    );
}

#[test]
fn unknown_tensor_types_do_not_hide_the_rest() {
    let mut writer = small();
    writer.tensor("t.new", &[7], TensorType::Unknown(200), vec![0; 5]);
    let (_, gguf) = read(&writer.bytes()).unwrap();
    let tensor = gguf.tensor("t.new").unwrap();
    assert_eq!(
        (tensor.kind, tensor.bytes),
        (TensorType::Unknown(200), None)
    );
    assert!(gguf.tensor("t.first").is_some());
}

#[test]
fn types_are_consistent_with_candle() {
    for number in 0..100 {
        let kind = TensorType::from_number(number);
        assert_eq!(kind.number(), number);
        if let Some(candle) = kind.candle() {
            let block = (candle.block_size() as u64, candle.type_size() as u64);
            assert_eq!(kind.block(), Some(block), "{kind}");
        }
    }
}

#[test]
fn a_model_with_missing_parts_is_refused_by_name() {
    let open = |writer: &GgufWriter| {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(&writer.bytes()).unwrap();
        crate::ModelFile::open(file.path())
            .map(|_| ())
            .unwrap_err()
            .to_string()
    };
    for key in [
        "general.architecture",
        "llama.block_count",
        "llama.embedding_length",
        "llama.attention.head_count",
        "llama.attention.layer_norm_rms_epsilon",
        "llama.context_length",
    ] {
        let mut writer = TinyModel::new(1).writer();
        writer.remove_meta(key);
        let error = open(&writer);
        assert!(
            error.contains(&format!("metadata `{key}`: missing")),
            "{error}"
        );
    }
    for name in [
        "token_embd.weight",
        "blk.0.attn_k.weight",
        "output_norm.weight",
    ] {
        let mut writer = TinyModel::new(1).writer();
        writer.remove_tensor(name);
        let error = open(&writer);
        assert!(
            error.contains(&format!("tensor `{name}`: missing")),
            "{error}"
        );
    }
    let mut writer = TinyModel::new(1).writer();
    writer.meta("llama.block_count", Meta::U32(0));
    assert!(open(&writer).contains("0 is out of range"));
    writer.meta("llama.block_count", Meta::U32(1));
    writer.meta("llama.rope.scaling.type", Meta::String("yarn".into()));
    assert!(open(&writer).contains("RoPE scaling `yarn` is not supported"));
}
