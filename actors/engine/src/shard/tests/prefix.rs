//! A sequence that starts with another's rows gives the bits of one that ran them itself.

use super::*;

/// More than a page of the cache.
const ROWS: usize = 300;

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

/// Every path and every kind of numbers that a cache has, in a context of 512 rows.
fn everywhere() -> Vec<ShardOptions> {
    let with = |path, cache| ShardOptions {
        context: 512,
        cache,
        ..options(path)
    };
    vec![
        with(ComputePath::Portable, CacheFormat::F32),
        with(ComputePath::Auto, CacheFormat::F32),
        with(ComputePath::Auto, CacheFormat::F16),
        with(ComputePath::Auto, CacheFormat::I16),
    ]
}

#[test]
fn shared_rows_are_as_good_as_own_ones() {
    let file = model(&TinyModel::new(2).gguf());
    let vocabulary = file.spec().vocabulary;
    for options in everywhere() {
        let mut shard = shard(&file, 0..2, &options);
        let first = tokens(ROWS, 1, vocabulary);
        let earlier = shard.open(512).unwrap();
        run(&mut shard, earlier, 0, &first);
        shard.retain(earlier);
        for rows in [1, 15, 16, 17, 255, 256, 257, ROWS - 1, ROWS] {
            let rest = tokens(9, rows as u64, vocabulary);
            let whole = [&first[..rows], &rest].concat();
            let own = shard.open(512).unwrap();
            let expected = run(&mut shard, own, 0, &whole).split_off(rows * vocabulary);
            let forked = shard.fork(earlier, rows, 512).unwrap();
            assert_eq!(shard.rows(forked), Some(rows));
            let found = run(&mut shard, forked, rows, &rest);
            assert!(found == expected, "{options:?} after {rows} rows");
            shard.close(own);
            shard.close(forked);
        }
    }
}

#[test]
fn sequences_that_share_rows_go_on_apart() {
    let file = model(&TinyModel::new(2).gguf());
    let vocabulary = file.spec().vocabulary;
    let text = tokens(ROWS, 1, vocabulary);
    for options in everywhere() {
        let mut shard = shard(&file, 0..2, &options);
        let own = shard.open(512).unwrap();
        let whole = run(&mut shard, own, 0, &text);
        let rows_from = |rows: usize| &whole[rows * vocabulary..];
        // The original runs on while others that began with its rows run the same text, or
        // another one; and it runs rows again that they have.
        let original = shard.open(512).unwrap();
        run(&mut shard, original, 0, &text[..270]);
        let same = shard.fork(original, 265, 512).unwrap();
        let other = shard.fork(original, 260, 512).unwrap();
        run(&mut shard, other, 260, &tokens(9, 2, vocabulary));
        assert!(run(&mut shard, original, 270, &text[270..]) == rows_from(270));
        shard.truncate(original, 100);
        run(&mut shard, original, 100, &tokens(200, 3, vocabulary));
        let again = run(&mut shard, same, 265, &text[265..]);
        assert!(again == rows_from(265), "{options:?}");
    }
}

#[test]
fn a_start_that_many_have_is_in_memory_once() {
    let file = model(&TinyModel::new(2).gguf());
    let vocabulary = file.spec().vocabulary;
    let mut shard = shard(
        &file,
        0..2,
        &ShardOptions {
            context: 512,
            ..options(ComputePath::Auto)
        },
    );
    // A page of 256 rows, 2 layers, keys and values of 2 heads of 16 floats.
    let page = 256 * 2 * 2 * 32 * 4;
    let first = shard.open(512).unwrap();
    run(&mut shard, first, 0, &tokens(ROWS, 1, vocabulary));
    shard.retain(first);
    assert_eq!(shard.kv_bytes(), 2 * page);
    let chats: Vec<SlotId> = (0..8)
        .map(|_| shard.fork(first, ROWS, 512).unwrap())
        .collect();
    assert_eq!(shard.kv_bytes(), 2 * page, "not a row of their own yet");
    for (seed, chat) in (0..).zip(&chats) {
        run(&mut shard, *chat, ROWS, &tokens(9, seed, vocabulary));
    }
    assert_eq!(shard.kv_bytes(), (2 + 8) * page);
    shard.close(first);
    assert_eq!(shard.kv_bytes(), (1 + 8) * page);
    chats.into_iter().for_each(|chat| shard.close(chat));
    assert_eq!(shard.kv_bytes(), 0);
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
