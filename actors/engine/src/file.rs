//! An open model file: its header, its tensors' places, its loaded layers.
//!
//! Holds no weights itself. Layers that were loaded are remembered only as
//! long as somebody still has them, so a re-plan finds what is already here.

use std::fs::File;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use crate::error::EngineError;
use crate::gguf::Gguf;
use crate::layout::Layout;
use crate::loaded::Loaded;
use crate::spec::{Spec, Tied};
use crate::template::ChatTemplate;
use crate::tokenizer::Tokenizer;

/// A GGUF model whose header has been read and checked.
#[derive(Debug)]
pub struct ModelFile {
    path: PathBuf,
    file: File,
    gguf: Gguf,
    spec: Spec,
    layout: Layout,
    loaded: Loaded,
}

/// What each part of a model weighs, for planning.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayerCosts {
    /// One entry per decoder layer.
    pub layers: Vec<LayerCost>,
    /// Bytes of the embedding table in the file; the first stage reads looked-up rows only.
    pub embedding_bytes: u64,
    /// Bytes of the head's matrix and norm, which the last stage reads once per token.
    pub head_bytes: u64,
    /// Multiply-accumulates of the head per projected row.
    pub head_macs_per_row: u64,
    /// Bytes of one hidden row between stages.
    pub hidden_row_bytes: u64,
}

/// What one decoder layer weighs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LayerCost {
    /// Bytes of the layer's tensors in the file.
    pub weight_bytes: u64,
    /// Multiply-accumulates with the weights per row, attention over the cache not counted.
    pub macs_per_row: u64,
    /// Multiply-accumulates of attention per row and cached row.
    pub attention_macs_per_row: u64,
    /// Cache bytes that each token takes.
    pub kv_bytes_per_token: u64,
}

impl ModelFile {
    /// Reads the header of the file at `path` and checks that the model is one the engine can run.
    ///
    /// # Errors
    /// [`EngineError::Truncated`], [`EngineError::Corrupt`] and [`EngineError::Io`] with path and
    /// offset; [`EngineError::UnsupportedFamily`], [`EngineError::UnsupportedFeature`],
    /// [`EngineError::Metadata`] and [`EngineError::Tensor`] by name. A tensor of an unknown
    /// quantisation is no error until a shard needs it.
    pub fn open(path: &Path) -> Result<ModelFile, EngineError> {
        let file = File::open(path).map_err(|source| EngineError::Io {
            path: path.to_path_buf(),
            action: "open",
            offset: 0,
            source,
        })?;
        let gguf = Gguf::read(&file, path)?;
        let spec = Spec::read(&gguf)?;
        let layout = Layout::read(&gguf, &spec)?;
        Ok(ModelFile {
            path: path.to_path_buf(),
            file,
            gguf,
            spec,
            layout,
            loaded: Loaded::default(),
        })
    }

    /// The path that the file was opened by.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The decoder's shape.
    pub fn spec(&self) -> &Spec {
        &self.spec
    }

    /// What each layer, the embedding and the head weigh.
    pub fn layer_costs(&self) -> LayerCosts {
        let spec = &self.spec;
        let layers = self.layout.layers.iter().map(|layer| LayerCost {
            weight_bytes: layer.all().iter().map(|t| t.bytes.unwrap_or(0)).sum(),
            macs_per_row: layer.matrices().iter().map(|t| t.elements()).sum(),
            attention_macs_per_row: 2 * spec.query_width() as u64,
            kv_bytes_per_token: (2 * spec.kv_width() * size_of::<f32>()) as u64,
        });
        LayerCosts {
            layers: layers.collect(),
            embedding_bytes: self.layout.embedding.bytes.unwrap_or(0),
            head_bytes: self.layout.output.bytes.unwrap_or(0)
                + self.layout.output_norm.bytes.unwrap_or(0),
            head_macs_per_row: self.layout.output.elements(),
            hidden_row_bytes: (spec.width * size_of::<f32>()) as u64,
        }
    }

    /// Whether the head uses the embedding's table.
    pub fn tied_embeddings(&self) -> Tied {
        self.spec.tied_embeddings
    }

    /// Bytes of the layers and heads of this file that are in memory. What several shards hold
    /// counts once.
    pub fn loaded_bytes(&self) -> u64 {
        self.loaded.bytes()
    }

    /// Builds the tokenizer that the file describes. Takes a while: keep it.
    ///
    /// # Errors
    /// [`EngineError::Tokenizer`] when it is absent, broken, or of an unknown kind.
    pub fn tokenizer(&self) -> Result<Tokenizer, EngineError> {
        Tokenizer::read(&self.gguf, &self.file)
    }

    /// Parses the chat template that the file carries.
    ///
    /// # Errors
    /// [`EngineError::Template`] when there is none or it does not parse.
    pub fn chat_template(&self) -> Result<ChatTemplate, EngineError> {
        ChatTemplate::read(&self.gguf, &self.file)
    }

    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    /// Fills `bytes` from the file's byte `offset` on, without moving a cursor that
    /// others share. `what` is for messages.
    pub(crate) fn read_at(
        &self,
        what: &str,
        offset: u64,
        bytes: &mut [u8],
    ) -> Result<(), EngineError> {
        let Err(source) = read_exact_at(&self.file, bytes, offset) else {
            return Ok(());
        };
        let length = self.file.metadata().map(|metadata| metadata.len());
        let path = self.path.clone();
        Err(match (source.kind(), length) {
            // The header's promise held when the file was opened; it has been cut since.
            (ErrorKind::UnexpectedEof, Ok(length)) => EngineError::Truncated {
                path,
                what: what.to_string(),
                offset,
                needed: bytes.len() as u64,
                length,
            },
            _ => EngineError::Io {
                path,
                action: "read",
                offset,
                source,
            },
        })
    }

    pub(crate) fn alignment(&self) -> u64 {
        self.gguf.alignment()
    }

    pub(crate) fn layout(&self) -> &Layout {
        &self.layout
    }

    pub(crate) fn loaded(&self) -> &Loaded {
        &self.loaded
    }
}

#[cfg(unix)]
fn read_exact_at(file: &File, bytes: &mut [u8], offset: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, bytes, offset)
}

#[cfg(windows)]
fn read_exact_at(file: &File, mut bytes: &mut [u8], mut offset: u64) -> io::Result<()> {
    while !bytes.is_empty() {
        match std::os::windows::fs::FileExt::seek_read(file, bytes, offset) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(count) => {
                bytes = &mut bytes[count..];
                offset += count as u64;
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
