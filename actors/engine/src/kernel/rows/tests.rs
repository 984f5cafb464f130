use proptest::prelude::*;

use super::{BLOCK, Block, Quantize, QuantizedRows};
use crate::kernel::pool::Pool;
use crate::kernel::simd::{Isa, dispatch};

fn quantize_on(isa: Isa, floats: &[f32; BLOCK]) -> Block {
    let mut blocks = [Block::default()];
    // SAFETY: the callers pass sets that are available.
    unsafe {
        dispatch(
            isa,
            Quantize {
                floats,
                blocks: &mut blocks,
            },
        )
    };
    blocks[0]
}

fn quantize(floats: &[f32; BLOCK]) -> Block {
    quantize_on(Isa::Portable, floats)
}

proptest! {
    #[test]
    fn quants_are_within_half_a_step(floats in prop::array::uniform32(-1e6f32..1e6), scale in -30i32..30) {
        let floats = floats.map(|x| x * 2f32.powi(scale));
        let block = quantize(&floats);
        let mut halves = [0; 2];
        for (i, (&x, &q)) in floats.iter().zip(&block.quants).enumerate() {
            prop_assert!((-127..=127).contains(&q));
            // Half a step, the rounding of inverse and product, and up to 127 steps that are
            // each wrong by the rounding of the scale to 11 bits.
            let bound = block.scale * (0.5 * (1.0 + 1e-4) + 127.0 / 2048.0);
            prop_assert!((x - f32::from(q) * block.scale).abs() <= bound);
            halves[i / 16] += i32::from(q);
        }
        prop_assert_eq!(block.half_sums, halves);
        prop_assert_eq!(block.sum, halves[0] + halves[1]);
    }

    #[test]
    fn every_set_gives_the_same_block(floats in prop::array::uniform32(-9f32..9.0)) {
        let reference = quantize(&floats);
        for isa in Isa::ALL.into_iter().filter(|isa| isa.is_available()) {
            prop_assert_eq!(format!("{:?}", quantize_on(isa, &floats)), format!("{reference:?}"));
        }
    }
}

#[test]
fn edges_of_the_range() {
    let zero = quantize(&[0.0; BLOCK]);
    assert_eq!((zero.quants, zero.scale), ([0; BLOCK], 0.0));
    let tiny = quantize(&[1e-38; BLOCK]);
    assert_eq!(tiny.quants, [0; BLOCK]);
    let mut floats = [1.0; BLOCK];
    floats[7] = -254.0;
    // 1 / (254 / 127) is a half: to even.
    let tie = quantize(&floats);
    assert_eq!((tie.quants[0], tie.quants[7], tie.scale), (0, -127, 2.0));
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        floats[3] = bad;
        for isa in Isa::ALL.into_iter().filter(|isa| isa.is_available()) {
            let block = quantize_on(isa, &floats);
            assert!(!block.scale.is_finite(), "{bad} must not vanish on {isa:?}");
        }
    }
}

#[test]
fn many_rows_quantise_like_one() {
    let pool = Pool::new(3);
    let cols = 96;
    let floats: Vec<f32> = (0..37 * cols)
        .map(|i| ((i * 7919) % 1000) as f32 - 500.0)
        .collect();
    let mut all = QuantizedRows::new(1, cols);
    all.set(&pool, &floats);
    assert_eq!((all.rows(), all.floats()), (37, &floats[..]));
    let mut one = QuantizedRows::new(1, cols);
    for (row, floats) in floats.chunks(cols).enumerate() {
        one.set(&pool, floats);
        let blocks = &all.blocks()[row * 3..row * 3 + 3];
        assert_eq!(format!("{blocks:?}"), format!("{:?}", one.blocks()));
    }
}

#[test]
#[should_panic(expected = "not quantised again")]
fn stale_blocks_are_refused() {
    let pool = Pool::new(1);
    let mut rows = QuantizedRows::new(1, 32);
    rows.set(&pool, &[1.0; 32]);
    rows.begin(1)[0] = 2.0;
    rows.blocks();
}
