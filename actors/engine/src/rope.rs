//! Angles of the rotary position embedding (Su et al., arXiv:2104.09864).
//!
//! No table over the context: the angles of a batch's rows are computed once
//! per forward pass and shared by all layers, which costs microseconds.

use crate::error::EngineError;
use crate::file::ModelFile;
use crate::gguf::TensorType;
use crate::spec::Spec;
use crate::weights::MappedTensors;

/// The rotation per position of each pair of elements.
#[derive(Clone, Debug)]
pub(crate) struct Frequencies {
    /// (head_dim / 2)
    per_pair: Vec<f32>,
}

/// Cosines and sines of a batch's rows, each (rows, head_dim / 2).
#[derive(Clone, Debug, Default)]
pub(crate) struct Angles {
    pub(crate) cos: Vec<f32>,
    pub(crate) sin: Vec<f32>,
}

impl Frequencies {
    /// Reads the model's frequencies, with the divisors that the file may carry.
    pub(crate) fn load(file: &ModelFile) -> Result<Frequencies, EngineError> {
        let factors = match &file.layout().rope_factors {
            None => None,
            Some(tensor) if tensor.kind == TensorType::F32 => {
                let map = MappedTensors::map(file, &[tensor])?;
                let bytes = map.bytes(tensor).chunks_exact(4);
                let number = |b: &[u8]| f32::from_le_bytes([b[0], b[1], b[2], b[3]]);
                Some(bytes.map(number).collect::<Vec<f32>>())
            }
            Some(tensor) => {
                return Err(EngineError::UnsupportedQuantisation {
                    tensor: tensor.name.clone(),
                    quantisation: tensor.kind.to_string(),
                });
            }
        };
        Ok(Frequencies::new(file.spec(), factors.as_deref()))
    }

    fn new(spec: &Spec, factors: Option<&[f32]>) -> Frequencies {
        let base = f64::from(spec.rope.base);
        let pairs = spec.head_dim / 2;
        let frequency = |pair: usize| {
            let exponent = (2 * pair) as f64 / spec.head_dim as f64;
            let divisor = factors.map_or(1.0, |factors| f64::from(factors[pair]));
            (1.0 / (base.powf(exponent) * divisor * f64::from(spec.rope.scale))) as f32
        };
        Frequencies {
            per_pair: (0..pairs).map(frequency).collect(),
        }
    }

    /// Replaces `angles` with those of `positions`, in order.
    pub(crate) fn angles(&self, positions: impl Iterator<Item = usize>, angles: &mut Angles) {
        angles.cos.clear();
        angles.sin.clear();
        for position in positions {
            for frequency in &self.per_pair {
                // The product is rounded to f32 as the models were trained; the
                // sine of what that gives is then taken exactly.
                let (sin, cos) = f64::from(position as f32 * frequency).sin_cos();
                angles.cos.push(cos as f32);
                angles.sin.push(sin as f32);
            }
        }
    }
}
