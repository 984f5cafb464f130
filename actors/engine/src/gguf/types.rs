//! The element types that ggml knows, by number, name and block size.
//!
//! Naming a type here does not mean that the engine computes with it.

use std::fmt;

use candle_core::quantized::GgmlDType;

macro_rules! tensor_types {
    ($($variant:ident = $number:literal $name:literal [$elements:literal, $bytes:literal]),* $(,)?) => {
        /// A tensor's element type.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[allow(non_camel_case_types, reason = "the format's own names")]
        #[non_exhaustive]
        pub enum TensorType {
            $(#[doc = concat!("ggml type ", $number, ", `", $name, "`.")] $variant,)*
            /// A number that no published ggml assigns.
            Unknown(u32),
        }

        impl TensorType {
            /// The type with ggml's `number`.
            pub fn from_number(number: u32) -> TensorType {
                match number {
                    $($number => TensorType::$variant,)*
                    other => TensorType::Unknown(other),
                }
            }

            /// ggml's number for the type.
            pub fn number(self) -> u32 {
                match self {
                    $(TensorType::$variant => $number,)*
                    TensorType::Unknown(number) => number,
                }
            }

            /// (elements, bytes) of one block; `None` when unknown.
            pub fn block(self) -> Option<(u64, u64)> {
                match self {
                    $(TensorType::$variant => Some(($elements, $bytes)),)*
                    TensorType::Unknown(_) => None,
                }
            }
        }

        impl fmt::Display for TensorType {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match self {
                    $(TensorType::$variant => f.write_str($name),)*
                    TensorType::Unknown(number) => write!(f, "ggml type {number}"),
                }
            }
        }
    };
}

tensor_types! {
    F32 = 0 "F32" [1, 4],
    F16 = 1 "F16" [1, 2],
    Q4_0 = 2 "Q4_0" [32, 18],
    Q4_1 = 3 "Q4_1" [32, 20],
    Q5_0 = 6 "Q5_0" [32, 22],
    Q5_1 = 7 "Q5_1" [32, 24],
    Q8_0 = 8 "Q8_0" [32, 34],
    Q8_1 = 9 "Q8_1" [32, 36],
    Q2_K = 10 "Q2_K" [256, 84],
    Q3_K = 11 "Q3_K" [256, 110],
    Q4_K = 12 "Q4_K" [256, 144],
    Q5_K = 13 "Q5_K" [256, 176],
    Q6_K = 14 "Q6_K" [256, 210],
    Q8_K = 15 "Q8_K" [256, 292],
    IQ2_XXS = 16 "IQ2_XXS" [256, 66],
    IQ2_XS = 17 "IQ2_XS" [256, 74],
    IQ3_XXS = 18 "IQ3_XXS" [256, 98],
    IQ1_S = 19 "IQ1_S" [256, 50],
    IQ4_NL = 20 "IQ4_NL" [32, 18],
    IQ3_S = 21 "IQ3_S" [256, 110],
    IQ2_S = 22 "IQ2_S" [256, 82],
    IQ4_XS = 23 "IQ4_XS" [256, 136],
    I8 = 24 "I8" [1, 1],
    I16 = 25 "I16" [1, 2],
    I32 = 26 "I32" [1, 4],
    I64 = 27 "I64" [1, 8],
    F64 = 28 "F64" [1, 8],
    IQ1_M = 29 "IQ1_M" [256, 56],
    BF16 = 30 "BF16" [1, 2],
    TQ1_0 = 34 "TQ1_0" [256, 54],
    TQ2_0 = 35 "TQ2_0" [256, 66],
    MXFP4 = 39 "MXFP4" [32, 17],
}

impl TensorType {
    /// The type as candle knows it; `None` when candle cannot compute with it.
    pub(crate) fn candle(self) -> Option<GgmlDType> {
        match self {
            TensorType::F32 => Some(GgmlDType::F32),
            TensorType::F16 => Some(GgmlDType::F16),
            TensorType::BF16 => Some(GgmlDType::BF16),
            TensorType::Q4_0 => Some(GgmlDType::Q4_0),
            TensorType::Q4_1 => Some(GgmlDType::Q4_1),
            TensorType::Q5_0 => Some(GgmlDType::Q5_0),
            TensorType::Q5_1 => Some(GgmlDType::Q5_1),
            TensorType::Q8_0 => Some(GgmlDType::Q8_0),
            TensorType::Q2_K => Some(GgmlDType::Q2K),
            TensorType::Q3_K => Some(GgmlDType::Q3K),
            TensorType::Q4_K => Some(GgmlDType::Q4K),
            TensorType::Q5_K => Some(GgmlDType::Q5K),
            TensorType::Q6_K => Some(GgmlDType::Q6K),
            // Q8_1 and Q8_K are for activations and never stored; the rest candle lacks.
            TensorType::Q8_1
            | TensorType::Q8_K
            | TensorType::IQ2_XXS
            | TensorType::IQ2_XS
            | TensorType::IQ3_XXS
            | TensorType::IQ1_S
            | TensorType::IQ4_NL
            | TensorType::IQ3_S
            | TensorType::IQ2_S
            | TensorType::IQ4_XS
            | TensorType::I8
            | TensorType::I16
            | TensorType::I32
            | TensorType::I64
            | TensorType::F64
            | TensorType::IQ1_M
            | TensorType::TQ1_0
            | TensorType::TQ2_0
            | TensorType::MXFP4
            | TensorType::Unknown(_) => None,
        }
    }
}
