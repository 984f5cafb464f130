//! A sequence that starts with another's rows gives the bits of one that ran them itself.

use super::*;

const ROWS: usize = 40;

/// Every logit of `tokens` from `position` on.
fn run(shard: &mut Shard, slot: SlotId, position: usize, tokens: &[u32]) -> Vec<u32> {
    let span = BatchSpan {
        slot,
        position: position as u32,
        rows: tokens.len() as u32,
        logits: LogitRows::All,
    };
    let batch = Batch {
        input: Input::Tokens(tokens),
        spans: &[span],
    };
    let Output::Logits(logits) = shard.forward(&batch).expect("a good batch") else {
        panic!("the last shard gives logits");
    };
    logits.iter().map(|logit| logit.to_bits()).collect()
}

#[test]
fn shared_rows_are_as_good_as_own_ones() {
    let file = model(&TinyModel::new(2).gguf());
    let vocabulary = file.spec().vocabulary;
    for path in PATHS {
        let mut shard = shard(&file, 0..2, &options(path));
        let first = tokens(ROWS, 1, vocabulary);
        let earlier = shard.open(64).unwrap();
        run(&mut shard, earlier, 0, &first);
        shard.retain(earlier);
        for rows in [1, 15, 16, 17, ROWS - 1, ROWS] {
            let rest = tokens(9, rows as u64, vocabulary);
            let whole = [&first[..rows], &rest].concat();
            let own = shard.open(64).unwrap();
            let expected = run(&mut shard, own, 0, &whole).split_off(rows * vocabulary);
            let forked = shard.fork(earlier, rows, 64).unwrap();
            assert_eq!(shard.rows(forked), Some(rows));
            let found = run(&mut shard, forked, rows, &rest);
            assert!(found == expected, "{path:?} after {rows} rows");
            shard.close(own);
            shard.close(forked);
        }
    }
}

#[test]
fn rows_that_are_not_there_are_refused() {
    let file = model(&TinyModel::new(2).gguf());
    let mut shard = shard(&file, 0..2, &options(ComputePath::Auto));
    let earlier = shard.open(64).unwrap();
    run(&mut shard, earlier, 0, &[1, 2, 3]);
    let gap = |result| matches!(result, Err(EngineError::PositionGap { .. }));
    assert!(gap(shard.fork(earlier, 4, 64)), "more than it has");
    assert!(
        gap(shard.fork(earlier, 3, 2)),
        "more than there is room for"
    );
    let long = shard.fork(earlier, 3, 65);
    assert!(matches!(long, Err(EngineError::ContextTooLong { .. })));
    shard.close(earlier);
    let gone = shard.fork(earlier, 1, 64);
    assert!(matches!(gone, Err(EngineError::UnknownSlot { .. })));
    assert_eq!(shard.memory().kv_bytes, 0, "a refusal opens nothing");
}
