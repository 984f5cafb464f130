use super::*;

const SHAPE: CacheShape = CacheShape {
    layers: 2,
    kv_heads: 1,
    head_dim: 3,
    format: CacheFormat::F32,
};

/// A cache of `positions` positions, each of which holds its number, and `mark` more in values.
fn written(positions: usize, stock: &Arc<Stock>, mark: f32) -> KvCache {
    let mut cache = KvCache::new(SHAPE, stock);
    write(&mut cache, 0..positions, mark);
    cache
}

fn write(cache: &mut KvCache, positions: Range<usize>, mark: f32) {
    cache.reserve(positions.clone()).expect("memory");
    for position in positions {
        let number = position as f32;
        for layer in 0..SHAPE.layers {
            let number = number + 0.5 * layer as f32;
            cache.write(layer, position, &[number; 3], &[number + mark; 3]);
        }
    }
}

/// The first key and value of a position, less what [`write`] put there with a mark of 0.
fn off(cache: &KvCache, layer: usize, position: usize) -> (f32, f32) {
    let head = cache
        .layer(layer)
        .head_of_page::<f32>(position / PAGE_POSITIONS, 0);
    let (block, within) = (position % PAGE_POSITIONS / POSITIONS, position % POSITIONS);
    let (keys, values) = head.block(block);
    let expected = position as f32 + 0.5 * layer as f32;
    (
        keys[within] - expected,
        values[within * SHAPE.padded_dim()] - expected,
    )
}

fn assert_marks(cache: &KvCache, positions: Range<usize>, mark: f32) {
    for position in positions {
        for layer in 0..SHAPE.layers {
            assert_eq!(off(cache, layer, position), (0.0, mark), "{position}");
        }
    }
}

#[test]
fn no_format_takes_more_than_it_tells() {
    let permille = |format, head_dim| {
        let bytes = |format| {
            let shape = CacheShape {
                head_dim,
                format,
                ..SHAPE
            };
            shape.page_bytes()
        };
        (bytes(format) * 1000).div_ceil(bytes(CacheFormat::F32))
    };
    for format in [CacheFormat::F32, CacheFormat::F16, CacheFormat::I16] {
        let told = format.permille() as usize;
        assert_eq!(permille(format, 32), told, "{format:?}");
        for head_dim in [64, 80, 128] {
            assert!(permille(format, head_dim) <= told, "{format:?} {head_dim}");
        }
    }
}

#[test]
fn pages_are_taken_as_rows_come_and_given_back() {
    let stock = Arc::default();
    let page = SHAPE.page_bytes() as u64;
    let mut cache = KvCache::new(SHAPE, &stock);
    assert_eq!(stock.bytes_in_use(), 0);
    cache.reserve(0..1).expect("memory");
    cache.reserve(1..PAGE_POSITIONS).expect("memory");
    assert_eq!(stock.bytes_in_use(), page);
    cache
        .reserve(PAGE_POSITIONS - 1..PAGE_POSITIONS + 1)
        .expect("memory");
    assert_eq!(stock.bytes_in_use(), 2 * page);
    drop(cache);
    assert_eq!(stock.bytes_in_use(), 0);
}

#[test]
fn a_shared_page_is_held_once_until_one_writes_into_it() {
    let stock = Arc::default();
    let page = SHAPE.page_bytes() as u64;
    let rows = 2 * PAGE_POSITIONS + 40;
    let first = written(rows, &stock, 0.0);
    let mut others = [(); 5].map(|()| first.fork(rows));
    assert_eq!(stock.bytes_in_use(), 3 * page);
    for other in &mut others {
        write(other, rows..rows + 1, 7.0);
    }
    assert_eq!(
        stock.bytes_in_use(),
        (3 + 5) * page,
        "only the last is copied"
    );
    drop(first);
    assert_eq!(
        stock.bytes_in_use(),
        (2 + 5) * page,
        "others hold the rest of it"
    );
    for other in &others {
        assert_marks(other, 0..rows, 0.0);
        assert_marks(other, rows..rows + 1, 7.0);
    }
}

#[test]
fn neither_side_of_a_fork_sees_what_the_other_writes() {
    let stock = Arc::default();
    for rows in [1, 15, 16, 17, 40, PAGE_POSITIONS, PAGE_POSITIONS + 1] {
        for original_first in [true, false] {
            let end = PAGE_POSITIONS + 50;
            let mut original = written(end, &stock, 0.0);
            let mut fork = original.fork(rows);
            if original_first {
                write(&mut original, end..end + 5, 1.0);
                write(&mut fork, rows..end, 2.0);
            } else {
                write(&mut fork, rows..end, 2.0);
                write(&mut original, end..end + 5, 1.0);
            }
            assert_marks(&original, 0..end, 0.0);
            assert_marks(&original, end..end + 5, 1.0);
            assert_marks(&fork, 0..rows, 0.0);
            assert_marks(&fork, rows..end, 2.0);
        }
    }
}

#[test]
fn rows_before_those_that_were_shared_can_be_written_again() {
    let stock = Arc::default();
    let rows = PAGE_POSITIONS + 20;
    let mut original = written(rows, &stock, 0.0);
    let fork = original.fork(rows);
    write(&mut original, 5..rows, 3.0);
    assert_marks(&original, 0..5, 0.0);
    assert_marks(&original, 5..rows, 3.0);
    assert_marks(&fork, 0..rows, 0.0);
}

#[test]
fn the_last_holder_writes_in_place() {
    let stock = Arc::default();
    let original = written(20, &stock, 0.0);
    let mut fork = original.fork(20);
    drop(original);
    write(&mut fork, 20..30, 0.0);
    assert_eq!(stock.bytes_in_use(), SHAPE.page_bytes() as u64);
    assert_marks(&fork, 0..30, 0.0);
}

#[test]
#[should_panic(expected = "reserved before they are written")]
fn a_shared_page_is_not_written() {
    let stock = Arc::default();
    let mut original = written(20, &stock, 0.0);
    let _fork = original.fork(20);
    original.write(0, 19, &[0.0; 3], &[0.0; 3]);
}

#[test]
fn a_few_pages_are_kept_for_the_next_sequence() {
    let stock = Arc::new(Stock::keeping(1));
    drop(written(2 * PAGE_POSITIONS, &stock, 0.0));
    assert_eq!(stock.bytes_in_use(), 0);
    let mut next = KvCache::new(SHAPE, &stock);
    next.reserve(0..2 * PAGE_POSITIONS).expect("memory");
    let is_fresh = |page: usize| {
        let (keys, _) = next.layer(0).head_of_page::<f32>(page, 0).block(1);
        keys.iter().all(|&key| key == 0.0)
    };
    assert_eq!([is_fresh(0), is_fresh(1)], [false, true]);
}
