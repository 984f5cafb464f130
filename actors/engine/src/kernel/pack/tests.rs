use super::{PackError, Packed};
use crate::kernel::format::Format;
use crate::kernel::simd::Isa;

#[test]
fn packing_keeps_the_size_of_the_file() {
    for format in Format::ALL {
        let (rows, cols) = (320, 1536);
        let bytes = rows * cols / format.block_len() * format.block_bytes();
        let packed = Packed::pack(format, &vec![0; bytes], rows, cols).expect("it fits");
        let ratio = packed.bytes() as f64 / bytes as f64;
        assert!((1.0..1.05).contains(&ratio), "{format:?}: {ratio}");
    }
}

#[test]
fn wrong_shapes_are_refused() {
    let pack = |format, bytes, rows, cols| Packed::pack(format, &vec![0; bytes], rows, cols);
    assert!(matches!(
        pack(Format::Q4_1, 0, 1, 48),
        Err(PackError::Columns {
            format: Format::Q4_1,
            cols: 48,
            block: 32
        })
    ));
    assert!(matches!(
        pack(Format::Q6K, 210, 2, 256),
        Err(PackError::Size {
            rows: 2,
            cols: 256,
            actual: 210,
            ..
        })
    ));
    assert!(matches!(
        pack(Format::F32, 8, usize::MAX, 2),
        Err(PackError::Size { .. })
    ));
    let part = |cols| pack(Format::F32, 4 * cols, 1, cols).expect("it fits");
    assert!(matches!(
        Packed::concat(vec![part(4), part(5)]),
        Err(PackError::Parts {
            expected: 4,
            actual: 5
        })
    ));
}

#[test]
fn an_empty_matrix_is_a_matrix() {
    let packed = Packed::pack(Format::Q8_0, &[], 0, 64).expect("it fits");
    assert_eq!((packed.rows(), packed.cols(), packed.bytes()), (0, 64, 0));
}

#[test]
fn every_available_set_packs() {
    for isa in Isa::ALL.into_iter().filter(|isa| isa.is_available()) {
        let packed = Packed::pack_for(isa, Format::Q4_0, &[7; 5 * 18], 5, 32).expect("it fits");
        assert_eq!(
            packed.bytes(),
            5usize.next_multiple_of(isa.lanes()).max(8) / isa.lanes() * {
                (2 * isa.lanes()).next_multiple_of(64) + 16 * isa.lanes()
            }
        );
    }
}
