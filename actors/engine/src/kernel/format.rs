//! The weight formats of a GGUF file that the kernels multiply.
//!
//! Block sizes only; no parsing of files, and no IQ or ternary types.

/// Inputs that share one activation scale, and the least common divisor of
/// every quantised weight block.
pub const BLOCK: usize = 32;

/// Inputs of one K-quant superblock.
pub(super) const SUPERBLOCK: usize = 256;

/// How a weight matrix is stored in its file: the names are those of ggml.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Format {
    /// 32-bit floats.
    F32,
    /// IEEE half precision.
    F16,
    /// The upper half of a 32-bit float.
    BF16,
    /// 4 bits around 8, one scale per 32.
    Q4_0,
    /// 4 bits, one scale and one minimum per 32.
    Q4_1,
    /// 5 bits around 16, one scale per 32.
    Q5_0,
    /// 5 bits, one scale and one minimum per 32.
    Q5_1,
    /// 8 bits signed, one scale per 32.
    Q8_0,
    /// 2 bits, 4-bit scale and minimum per 16, in superblocks of 256.
    Q2K,
    /// 3 bits around 4, 6-bit scale per 16, in superblocks of 256.
    Q3K,
    /// 4 bits, 6-bit scale and minimum per 32, in superblocks of 256.
    Q4K,
    /// 5 bits, 6-bit scale and minimum per 32, in superblocks of 256.
    Q5K,
    /// 6 bits around 32, 8-bit scale per 16, in superblocks of 256.
    Q6K,
}

impl Format {
    /// Every format, for tables and tests.
    pub const ALL: [Self; 13] = [
        Self::F32,
        Self::F16,
        Self::BF16,
        Self::Q4_0,
        Self::Q4_1,
        Self::Q5_0,
        Self::Q5_1,
        Self::Q8_0,
        Self::Q2K,
        Self::Q3K,
        Self::Q4K,
        Self::Q5K,
        Self::Q6K,
    ];

    /// Inputs per block of the file; the columns of a matrix are a multiple.
    #[must_use]
    pub const fn block_len(self) -> usize {
        match self {
            Self::F32 | Self::F16 | Self::BF16 => 1,
            Self::Q4_0 | Self::Q4_1 | Self::Q5_0 | Self::Q5_1 | Self::Q8_0 => BLOCK,
            Self::Q2K | Self::Q3K | Self::Q4K | Self::Q5K | Self::Q6K => SUPERBLOCK,
        }
    }

    /// Bytes per block of the file.
    #[must_use]
    pub const fn block_bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::BF16 => 2,
            Self::Q4_0 => 18,
            Self::Q4_1 => 20,
            Self::Q5_0 => 22,
            Self::Q5_1 => 24,
            Self::Q8_0 => 34,
            Self::Q2K => 84,
            Self::Q3K => 110,
            Self::Q4K => 144,
            Self::Q5K => 176,
            Self::Q6K => 210,
        }
    }

    /// Whether the activations are multiplied as they are, in 32-bit floats.
    #[must_use]
    pub const fn is_float(self) -> bool {
        self.block_len() == 1
    }
}
