//! What a shard refuses, and what it maps.

use super::*;
use crate::KeptLayer;

#[test]
fn layer_ranges_out_of_bounds_are_refused() {
    let file = model(&TinyModel::new(3).gguf());
    for (first, end) in [(0, 4), (3, 3), (2, 1), (3, 4), (0, u32::MAX)] {
        let result = Shard::load(&file, first..end, &options(ComputePath::Auto), &mut |_| {});
        assert!(
            matches!(result, Err(EngineError::LayerRange { layers: 3, .. })),
            "{first}..{end}: {result:?}"
        );
    }
}

#[test]
fn other_families_are_refused_by_name() {
    let mut writer = TinyModel::new(1).writer();
    writer.meta(
        "general.architecture",
        crate::fixtures::Meta::String("mamba".into()),
    );
    let error = try_model(&writer.bytes()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "model family `mamba` is not supported (supported: llama)"
    );
}

#[test]
fn an_unknown_tensor_in_a_layer_is_refused_by_name() {
    let mut writer = TinyModel::new(1).writer();
    writer.tensor("blk.0.attn_q.bias", &[64], TensorType::F32, vec![0; 256]);
    let error = try_model(&writer.bytes()).unwrap_err();
    assert!(error.to_string().contains("blk.0.attn_q.bias"), "{error}");
}

#[test]
fn unsupported_quantisations_are_refused_by_name_and_only_when_needed() {
    // Every number that ggml has given or may give next.
    for kind in (0..=48).chain([77]).map(TensorType::from_number) {
        let tiny = TinyModel {
            // Whole blocks of every type.
            width: 256,
            ..TinyModel::new(2)
        };
        let mut writer = tiny.writer();
        writer.remove_tensor("blk.1.ffn_up.weight");
        let block = kind.block().unwrap_or((1, 1));
        let bytes = vec![0; (256 * 160 / block.0 * block.1) as usize];
        writer.tensor("blk.1.ffn_up.weight", &[256, 160], kind, bytes);
        let file = model(&writer.bytes());
        for path in PATHS {
            shard(&file, 0..1, &options(path));
            let loaded = Shard::load(&file, 1..2, &options(path), &mut |_| {});
            if COMPUTED.contains(&kind) {
                loaded.unwrap();
                continue;
            }
            assert_eq!(
                loaded.unwrap_err().to_string(),
                format!("tensor `blk.1.ffn_up.weight`: quantisation {kind} is not supported")
            );
        }
    }
    assert_eq!(TensorType::IQ4_XS.to_string(), "IQ4_XS");
    assert_eq!(TensorType::Unknown(77).to_string(), "ggml type 77");
}

/// What a layer may be quantised to.
const COMPUTED: [TensorType; 13] = [
    TensorType::F32,
    TensorType::F16,
    TensorType::BF16,
    TensorType::Q4_0,
    TensorType::Q4_1,
    TensorType::Q5_0,
    TensorType::Q5_1,
    TensorType::Q8_0,
    TensorType::Q2_K,
    TensorType::Q3_K,
    TensorType::Q4_K,
    TensorType::Q5_K,
    TensorType::Q6_K,
];

#[test]
fn only_own_bytes_are_mapped() {
    for tied in [Tied::Shared, Tied::Separate] {
        let tiny = TinyModel {
            tied,
            ..TinyModel::new(4)
        };
        let file = model(&tiny.gguf());
        for path in PATHS {
            for (first, end) in [(0, 1), (1, 3), (3, 4), (0, 4)] {
                let shard = shard(&file, first..end, &options(path));
                check_mapped(&file, &shard);
            }
        }
    }
}

/// Every mapped byte belongs to a tensor of `shard`, and every such tensor is mapped. The
/// embedding's table is only ever mapped as a tied head.
fn check_mapped(file: &ModelFile, shard: &Shard) {
    let layout = file.layout();
    let range = shard.layers();
    let mut owned = Vec::new();
    for layer in &layout.layers[range.start as usize..range.end as usize] {
        owned.extend(layer.all());
    }
    if range.end == file.spec().layers {
        owned.extend([&layout.output, &layout.output_norm]);
    }
    let mapped = shard.memory().mapped;
    for tensor in &owned {
        let end = tensor.offset + tensor.bytes.unwrap();
        assert!(
            mapped
                .iter()
                .any(|m| m.start <= tensor.offset && end <= m.end),
            "{} is not mapped",
            tensor.name
        );
    }
    let mut everything: Vec<_> = layout.layers.iter().flat_map(|layer| layer.all()).collect();
    everything.extend([&layout.embedding, &layout.output, &layout.output_norm]);
    for tensor in everything {
        let end = tensor.offset + tensor.bytes.unwrap();
        let touched = mapped
            .iter()
            .any(|m| m.start < end && tensor.offset < m.end);
        let mine = owned.iter().any(|own| own.name == tensor.name);
        assert!(mine || !touched, "{} belongs to another shard", tensor.name);
    }
}

#[test]
fn layers_are_shared_between_shards_and_dropped_with_the_last() {
    let file = model(&TinyModel::new(4).gguf());
    for path in PATHS {
        let first = shard(&file, 0..3, &options(path));
        let second = shard(&file, 1..4, &options(path));
        assert_eq!(first.shared_with(&second), 2, "{path:?}");
        drop(first);
        let third = shard(&file, 0..2, &options(path));
        assert_eq!(third.shared_with(&second), 1, "{path:?}");
    }
}

#[test]
fn kept_layers_are_taken_not_read_and_count_once() {
    let file = model(&TinyModel::new(4).gguf());
    for path in PATHS {
        let options = options(path);
        let read = |layers: Range<u32>| {
            let mut read = 0;
            let report = &mut |at: LoadProgress| read = at.layers_read;
            let loaded = Shard::load(&file, layers, &options, report).expect("loads");
            (loaded, read)
        };
        assert!(KeptLayer::find(&file, 2, &options).is_none());
        let kept: Vec<_> = [2, 3]
            .map(|layer| KeptLayer::load(&file, layer, &options).expect("loads"))
            .into();
        let bytes = file.loaded_bytes();
        let (shard, layers_read) = read(1..4);
        assert_eq!(layers_read, 1, "{path:?}");
        let (twin, layers_read) = read(1..4);
        assert_eq!(layers_read, 0, "{path:?}");
        assert_eq!(file.loaded_bytes(), shard.memory().weight_bytes, "{path:?}");
        let found = KeptLayer::find(&file, 1, &options);
        assert!(found.is_some(), "{path:?}");
        drop((shard, twin, found));
        assert_eq!(file.loaded_bytes(), bytes, "what is kept stays: {path:?}");
        drop(kept);
        assert_eq!(file.loaded_bytes(), 0, "{path:?}");
    }
    assert!(KeptLayer::load(&file, 4, &options(ComputePath::Auto)).is_err());
}

#[test]
fn bad_batches_are_refused_and_change_nothing() {
    let file = model(&TinyModel::new(2).gguf());
    let mut whole = shard(&file, 0..2, &options(ComputePath::Auto));
    let slot = whole.open(4).unwrap();
    let closed = whole.open(4).unwrap();
    whole.close(closed);
    let span = |position, rows| BatchSpan {
        slot,
        position,
        rows,
        logits: LogitRows::Last,
    };
    let mut refused = |input: Input<'_>, spans: &[BatchSpan], says: &str| {
        let error = whole.forward(&Batch { input, spans }).unwrap_err();
        assert!(error.to_string().contains(says), "{error}");
        assert_eq!(whole.rows(slot), Some(0));
    };
    refused(Input::Tokens(&[1]), &[], "no spans");
    refused(Input::Tokens(&[1]), &[span(0, 0)], "no rows");
    refused(
        Input::Tokens(&[1]),
        &[span(1, 1)],
        "do not continue a cache of 0",
    );
    refused(Input::Tokens(&[1; 5]), &[span(0, 5)], "its cache holds 4");
    refused(
        Input::Tokens(&[1; 5]),
        &[span(0, 3), span(3, 2)],
        "its cache holds 4",
    );
    refused(
        Input::Tokens(&[1; 3]),
        &[span(0, 2)],
        "3 tokens for spans of 2 rows",
    );
    refused(
        Input::Tokens(&[288]),
        &[span(0, 1)],
        "outside the vocabulary of 288",
    );
    refused(
        Input::Hidden(&[&[0.0; 64]]),
        &[span(0, 1)],
        "the shard that embeds",
    );
    let gone = BatchSpan {
        slot: closed,
        ..span(0, 1)
    };
    refused(Input::Tokens(&[1]), &[gone], "is not open");

    let mut second = shard(&file, 1..2, &options(ComputePath::Auto));
    let slot = second.open(4).unwrap();
    let spans = [BatchSpan { slot, ..span(0, 2) }];
    for (input, says) in [
        (Input::Tokens(&[1, 2]), "starts at layer 1"),
        (Input::Hidden(&[&[0.0; 64]]), "hidden slices of [64]"),
        (Input::Hidden(&[]), "hidden slices of []"),
    ] {
        let batch = Batch {
            input,
            spans: &spans,
        };
        let error = second.forward(&batch).unwrap_err();
        assert!(error.to_string().contains(says), "{error}");
    }
}

#[test]
fn capacity_is_bounded_by_the_context() {
    let file = model(&TinyModel::new(1).gguf());
    let mut shard = shard(&file, 0..1, &options(ComputePath::Auto));
    for capacity in [0, 65, usize::MAX] {
        assert!(matches!(
            shard.open(capacity),
            Err(EngineError::ContextTooLong { limit: 64, .. })
        ));
    }
    let long = ShardOptions::new(513, 1);
    assert!(matches!(
        Shard::load(&file, 0..1, &long, &mut |_| {}),
        Err(EngineError::ContextTooLong { limit: 512, .. })
    ));
}

#[test]
fn progress_ends_with_everything() {
    let file = model(&TinyModel::new(3).gguf());
    let mut reports = Vec::new();
    let options = options(ComputePath::Auto);
    let shard = Shard::load(&file, 1..3, &options, &mut |now| reports.push(now)).unwrap();
    let last = reports.last().unwrap();
    assert_eq!((last.layers_done, last.layers_total), (2, 2));
    assert_eq!(last.bytes_done, last.bytes_total);
    let costs = file.layer_costs();
    let expected = costs.layers[1].weight_bytes + costs.layers[2].weight_bytes + costs.head_bytes;
    assert_eq!(last.bytes_total, expected);
    assert_eq!(shard.memory().weight_bytes, expected);
    assert!(reports.is_sorted_by_key(|now| now.bytes_done));
}

#[test]
fn memory_counts_open_sequences() {
    let file = model(&TinyModel::new(3).gguf());
    let mut shard = shard(&file, 0..2, &options(ComputePath::Auto));
    let slot = shard.open(10).unwrap();
    assert_eq!(shard.kv_bytes(), 0, "not a row yet");
    let spans = [BatchSpan {
        slot,
        position: 0,
        rows: 3,
        logits: LogitRows::None,
    }];
    let input = Input::Tokens(&[1, 2, 3]);
    shard
        .forward(&Batch {
            input,
            spans: &spans,
        })
        .unwrap();
    // A page of 256 rows, 2 layers, keys and values of 2 heads of 16 floats.
    assert_eq!(shard.kv_bytes(), 256 * 2 * 2 * 32 * 4);
    assert_eq!(file.layer_costs().layers[0].kv_bytes_per_token, 2 * 32 * 4);
    shard.close(slot);
    assert_eq!(shard.kv_bytes(), 0);
}

#[test]
fn everything_may_move_to_the_compute_thread() {
    fn moves<T: Send + 'static>() {}
    moves::<Shard>();
    moves::<Arc<ModelFile>>();
    moves::<crate::Tokenizer>();
    moves::<crate::DecodeStream>();
    moves::<crate::ChatTemplate>();
    moves::<EngineError>();
}

#[test]
fn a_file_cut_after_it_was_opened_is_an_error_that_names_the_row() {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(&TinyModel::new(1).gguf()).unwrap();
    let opened = Arc::new(ModelFile::open(file.path()).unwrap());
    let mut shard = shard(&opened, 0..1, &options(ComputePath::Auto));
    let slot = shard.open(8).unwrap();
    let table = opened.layout().embedding.offset;
    let row_bytes = 4 * opened.spec().width as u64;
    file.as_file().set_len(table + 8 * row_bytes).unwrap();
    let mut run = |token: u32, position: u32| {
        let spans = [BatchSpan {
            slot,
            position,
            rows: 1,
            logits: LogitRows::Last,
        }];
        let input = Input::Tokens(&[token]);
        shard.forward(&Batch {
            input,
            spans: &spans,
        })
    };
    // What was loaded is needed no more, and rows before the cut are still there.
    run(7, 0).unwrap();
    let error = run(8, 1).unwrap_err();
    let expected = (table + 8 * row_bytes, row_bytes);
    assert!(
        matches!(&error, EngineError::Truncated { what, offset, needed, .. }
            if what == "token_embd.weight" && (*offset, *needed) == expected),
        "{error}"
    );
    // Nothing was computed: the same row can be asked for again.
    run(7, 1).unwrap();
}
