//! Model files made up in memory, for tests that need one of a given shape.
//!
//! Small, random and complete: any number of layers, any quantisation, a
//! tokenizer and a chat template. They answer nonsense, but always the same.

mod writer;

use candle_core::quantized::QTensor;
use candle_core::{Device, Tensor};

pub use crate::gguf::TensorType;
use crate::spec::Tied;
pub use writer::{GgufWriter, Meta};

/// The shape of a made-up llama.
#[derive(Clone, Debug)]
pub struct TinyModel {
    /// Number of decoder layers.
    pub layers: u32,
    /// Width of a hidden row.
    pub width: usize,
    /// Width inside the MLP.
    pub feed_forward: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads.
    pub kv_heads: usize,
    /// Elements per head.
    pub head_dim: usize,
    /// Number of tokens, at least [`VOCABULARY_MIN`].
    pub vocabulary: usize,
    /// Rows that the model claims to attend over.
    pub context: usize,
    /// Type of the layers' matrices.
    pub matrices: TensorType,
    /// Type of the embedding and of the head's matrix.
    pub tables: TensorType,
    /// Whether the head has its own matrix.
    pub tied: Tied,
    /// Base of the rotary frequencies.
    pub rope_base: f32,
    /// Divisors of the rotary frequencies, if any (head_dim / 2).
    pub rope_factors: Option<Vec<f32>>,
    /// Rows that a row sees, if not all.
    pub window: Option<usize>,
    /// Epsilon of the norms.
    pub norm_epsilon: f32,
    /// Changes every weight; 0 gives the weights of the golden logits.
    pub seed: u64,
}

/// Bytes, three control tokens and the merges.
pub const VOCABULARY_MIN: usize = 3 + 256 + MERGES.len();

const CONTROL: [&str; 3] = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"];
/// Each merges two tokens that are there already; `Ġ` is a space.
const MERGES: [(&str, &str); 6] = [
    ("h", "e"),
    ("l", "l"),
    ("Ġ", "t"),
    ("Ġt", "he"),
    ("he", "ll"),
    ("hell", "o"),
];
const CHAT_TEMPLATE: &str = "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";

/// A llama of `layers` layers in F32 with everything else small, as a GGUF file.
pub fn tiny_gguf(layers: u32) -> Vec<u8> {
    TinyModel::new(layers).gguf()
}

impl TinyModel {
    /// Four heads over two, width 64, 288 tokens, F32, separate head.
    pub fn new(layers: u32) -> TinyModel {
        TinyModel {
            layers,
            width: 64,
            feed_forward: 160,
            heads: 4,
            kv_heads: 2,
            head_dim: 16,
            vocabulary: 288,
            context: 512,
            matrices: TensorType::F32,
            tables: TensorType::F32,
            tied: Tied::Separate,
            rope_base: 10_000.0,
            rope_factors: None,
            window: None,
            norm_epsilon: 1e-6,
            seed: 0,
        }
    }

    /// The model as the bytes of a GGUF file.
    ///
    /// # Panics
    /// When the shape is impossible, such as columns that are not whole blocks of the type.
    pub fn gguf(&self) -> Vec<u8> {
        self.writer().bytes()
    }

    /// The model as a writer, for tests that change something before writing.
    pub fn writer(&self) -> GgufWriter {
        let mut writer = GgufWriter::default();
        self.metadata(&mut writer);
        self.tokenizer(&mut writer);
        let (width, inner) = (self.width, self.feed_forward);
        let (queries, keys) = (self.heads * self.head_dim, self.kv_heads * self.head_dim);
        let tables = [self.vocabulary, width];
        self.matrix(&mut writer, "token_embd", "model.embed_tokens", tables);
        for layer in 0..self.layers {
            let hf = |part: &str| format!("model.layers.{layer}.{part}");
            let gg = |part: &str| format!("blk.{layer}.{part}");
            let mut matrix = |ours: &str, theirs: &str, shape: [usize; 2]| {
                self.matrix(&mut writer, &gg(ours), &hf(theirs), shape);
            };
            matrix("attn_q", "self_attn.q_proj", [queries, width]);
            matrix("attn_k", "self_attn.k_proj", [keys, width]);
            matrix("attn_v", "self_attn.v_proj", [keys, width]);
            matrix("attn_output", "self_attn.o_proj", [width, queries]);
            matrix("ffn_gate", "mlp.gate_proj", [inner, width]);
            matrix("ffn_up", "mlp.up_proj", [inner, width]);
            matrix("ffn_down", "mlp.down_proj", [width, inner]);
            self.norm(&mut writer, &gg("attn_norm"), &hf("input_layernorm"));
            self.norm(
                &mut writer,
                &gg("ffn_norm"),
                &hf("post_attention_layernorm"),
            );
        }
        self.norm(&mut writer, "output_norm", "model.norm");
        match self.tied {
            Tied::Shared => {}
            Tied::Separate => self.matrix(&mut writer, "output", "lm_head", tables),
        }
        if let Some(factors) = &self.rope_factors {
            let dimensions = [factors.len() as u64];
            writer.tensor(
                "rope_freqs.weight",
                &dimensions,
                TensorType::F32,
                f32_bytes(factors),
            );
        }
        writer
    }

    fn metadata(&self, writer: &mut GgufWriter) {
        let size = |n: usize| Meta::U32(n as u32);
        writer.meta("general.architecture", Meta::String("llama".into()));
        writer.meta("general.name", Meta::String("tiny".into()));
        writer.meta("llama.block_count", Meta::U32(self.layers));
        writer.meta("llama.context_length", size(self.context));
        writer.meta("llama.embedding_length", size(self.width));
        writer.meta("llama.feed_forward_length", size(self.feed_forward));
        writer.meta("llama.attention.head_count", size(self.heads));
        writer.meta("llama.attention.head_count_kv", size(self.kv_heads));
        writer.meta("llama.attention.key_length", size(self.head_dim));
        writer.meta("llama.attention.value_length", size(self.head_dim));
        writer.meta("llama.rope.dimension_count", size(self.head_dim));
        writer.meta("llama.rope.freq_base", Meta::F32(self.rope_base));
        if let Some(window) = self.window {
            writer.meta("llama.attention.sliding_window", size(window));
        }
        let epsilon = "llama.attention.layer_norm_rms_epsilon";
        writer.meta(epsilon, Meta::F32(self.norm_epsilon));
    }

    fn tokenizer(&self, writer: &mut GgufWriter) {
        let mut tokens: Vec<String> = CONTROL.iter().map(|&text| text.into()).collect();
        let mut kinds = vec![3; CONTROL.len()];
        tokens.extend((0..=255).map(|byte| byte_character(byte).to_string()));
        tokens.extend(MERGES.iter().map(|(left, right)| format!("{left}{right}")));
        kinds.resize(tokens.len(), 1);
        for unused in tokens.len()..self.vocabulary {
            tokens.push(format!("<unused{unused}>"));
            kinds.push(5);
        }
        let merges = MERGES.iter().map(|(left, right)| format!("{left} {right}"));
        writer.meta("tokenizer.ggml.model", Meta::String("gpt2".into()));
        writer.meta("tokenizer.ggml.pre", Meta::String("smollm".into()));
        writer.meta("tokenizer.ggml.tokens", Meta::Strings(tokens));
        writer.meta("tokenizer.ggml.token_type", Meta::I32s(kinds));
        writer.meta("tokenizer.ggml.merges", Meta::Strings(merges.collect()));
        writer.meta("tokenizer.ggml.bos_token_id", Meta::U32(1));
        writer.meta("tokenizer.ggml.eos_token_id", Meta::U32(2));
        writer.meta(
            "tokenizer.chat_template",
            Meta::String(CHAT_TEMPLATE.into()),
        );
    }

    fn matrix(&self, writer: &mut GgufWriter, ours: &str, theirs: &str, shape: [usize; 2]) {
        let [rows, columns] = shape;
        let mut values = self.weight(&format!("{theirs}.weight"), &shape);
        if theirs.ends_with("q_proj") || theirs.ends_with("k_proj") {
            values = permuted(&values, columns, self.head_dim);
        }
        let kind = match ours {
            "token_embd" | "output" => self.tables,
            _ => self.matrices,
        };
        let dimensions = [columns as u64, rows as u64];
        let bytes = quantised(&values, shape, kind);
        writer.tensor(&format!("{ours}.weight"), &dimensions, kind, bytes);
    }

    fn norm(&self, writer: &mut GgufWriter, ours: &str, theirs: &str) {
        let values = self.weight(&format!("{theirs}.weight"), &[self.width]);
        let dimensions = [self.width as u64];
        let bytes = f32_bytes(&values);
        writer.tensor(
            &format!("{ours}.weight"),
            &dimensions,
            TensorType::F32,
            bytes,
        );
    }

    /// A tensor as a function of its name in the family's own checkpoint and its shape.
    fn weight(&self, name: &str, shape: &[usize]) -> Vec<f32> {
        let hash = name.bytes().fold(0xCBF2_9CE4_8422_2325, |hash: u64, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3)
        });
        let hash = hash ^ self.seed.wrapping_mul(0xD6E8_FEB8_6659_FD93);
        let uniform = |index: u64| {
            let golden = 0x9E37_79B9_7F4A_7C15u64;
            let mut x = hash.wrapping_add((index + 1).wrapping_mul(golden));
            x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
            x ^= x >> 31;
            (x >> 40) as f32 * (1.0 / (1 << 23) as f32) - 1.0
        };
        let (scale, offset) = match shape {
            [_, columns] => ((2.5 / (*columns as f64).sqrt()) as f32, 0.0),
            _ => (0.25, 1.0),
        };
        let count = shape.iter().product::<usize>() as u64;
        (0..count).map(|i| uniform(i) * scale + offset).collect()
    }
}

/// GGUF's row order for queries and keys: the halves of each head interleaved.
fn permuted(values: &[f32], columns: usize, head_dim: usize) -> Vec<f32> {
    let half = head_dim / 2;
    let mut permuted = Vec::with_capacity(values.len());
    for row in 0..values.len() / columns {
        let (head, within) = (row / head_dim, row % head_dim);
        let source = head * head_dim + (within % 2) * half + within / 2;
        permuted.extend_from_slice(&values[source * columns..][..columns]);
    }
    permuted
}

fn quantised(values: &[f32], shape: [usize; 2], kind: TensorType) -> Vec<u8> {
    let candle = kind.candle().expect("a type that candle can quantise to");
    Tensor::from_slice(values, (shape[0], shape[1]), &Device::Cpu)
        .and_then(|tensor| QTensor::quantize(&tensor, candle))
        .and_then(|tensor| Ok(tensor.data()?.into_owned()))
        .expect("columns are whole blocks of the type")
}

fn f32_bytes(values: &[f32]) -> Vec<u8> {
    values
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect()
}

/// GPT-2's printable stand-in for a byte.
fn byte_character(byte: u8) -> char {
    let printable = |byte: u8| matches!(byte, 33..=126 | 161..=172 | 174..=255);
    if printable(byte) {
        return char::from(byte);
    }
    let before = (0..byte).filter(|&byte| !printable(byte)).count() as u32;
    char::from_u32(256 + before).expect("256..=323 are characters")
}
