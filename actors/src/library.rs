//! The model files that this node has open, by content. Blocking: called on blocking threads.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use cairn_engine::{ChatTemplate, EngineError, ModelFile, Tied, Tokenizer};
use cairn_machine::placement::ModelFacts;
use cairn_planner::{LayerCost, Model, Part};
use cairn_wire::control::ModelRef;

use crate::models::{Models, Wanted};

/// Whether a model can be read from this file, before anything is started for it. Reads its
/// header, no tensor.
///
/// # Errors
/// The file and its fault in words: which byte is corrupt, how much is missing, which family is unknown.
pub fn check_model(path: &Path) -> Result<(), String> {
    let Err(error) = ModelFile::open(path) else {
        return Ok(());
    };
    let (fault, path) = (chain(&error), path.display().to_string());
    Err(match fault.contains(&path) {
        true => fault,
        false => format!("{path}: {fault}"),
    })
}

/// What the parts of a model cost, as its file describes them.
pub fn model_costs(file: &ModelFile) -> Model {
    let costs = file.layer_costs();
    let layers = costs.layers.iter().map(|layer| LayerCost {
        weight_bytes: layer.weight_bytes,
        macs_per_row: layer.macs_per_row,
        kv_bytes_per_token: layer.kv_bytes_per_token,
        attention_macs_per_token: layer.attention_macs_per_row,
        ..LayerCost::default()
    });
    Model {
        layers: layers.collect(),
        embedding: Part {
            weight_bytes: costs.embedding_bytes,
            decode_bytes: costs.hidden_row_bytes,
            macs_per_row: 0,
        },
        head: Part {
            weight_bytes: costs.head_bytes,
            decode_bytes: costs.head_bytes,
            macs_per_row: costs.head_macs_per_row,
        },
        tied_bytes: match file.tied_embeddings() {
            Tied::Shared => costs.embedding_bytes,
            Tied::Separate => 0,
        },
        hidden_bytes_per_row: costs.hidden_row_bytes,
    }
}

/// Open files and where to get more.
pub(crate) struct Library {
    models: Arc<dyn Models>,
    open: Mutex<BTreeMap<[u8; 32], Arc<Book>>>,
}

/// One open model with what is made from it on demand.
pub(crate) struct Book {
    pub(crate) file: Arc<ModelFile>,
    pub(crate) model: ModelRef,
    words: OnceLock<Result<Words, String>>,
}

/// What turns text into tokens and back.
pub(crate) struct Words {
    pub(crate) tokenizer: Tokenizer,
    pub(crate) template: Option<ChatTemplate>,
}

impl Library {
    pub(crate) fn new(models: Arc<dyn Models>) -> Self {
        Self {
            models,
            open: Mutex::new(BTreeMap::new()),
        }
    }

    /// Finds, if need be downloads, and opens a model.
    ///
    /// # Errors
    /// The cause in words that name the file.
    pub(crate) fn get(
        &self,
        wanted: &Wanted,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<Arc<Book>, String> {
        if let Wanted::Exact { sha256, .. } = wanted
            && let Some(book) = self.lock().get(sha256)
        {
            return Ok(Arc::clone(book));
        }
        let located = self
            .models
            .locate(wanted, progress)
            .map_err(|error| error.to_string())?;
        if let Some(book) = self.lock().get(&located.sha256) {
            return Ok(Arc::clone(book));
        }
        let file = ModelFile::open(&located.path).map_err(|error| chain(&error))?;
        let model = ModelRef {
            name: located.name,
            sha256: located.sha256,
            file_bytes: located.file_bytes,
            layers: file.spec().layers,
        };
        let book = Arc::new(Book {
            file: Arc::new(file),
            model,
            words: OnceLock::new(),
        });
        self.lock().insert(located.sha256, Arc::clone(&book));
        Ok(book)
    }

    /// A model that is open already.
    pub(crate) fn held(&self, sha256: &[u8; 32]) -> Option<Arc<Book>> {
        self.lock().get(sha256).map(Arc::clone)
    }

    /// Bytes of all layers and heads that are in memory, each counted once.
    pub(crate) fn loaded_bytes(&self) -> u64 {
        self.lock()
            .values()
            .map(|book| book.file.loaded_bytes())
            .sum()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<[u8; 32], Arc<Book>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Book {
    /// What the planner needs to know.
    pub(crate) fn facts(&self, name: &str) -> ModelFacts {
        ModelFacts {
            model: ModelRef {
                name: name.to_owned(),
                ..self.model.clone()
            },
            costs: model_costs(&self.file),
            context_max: u32::try_from(self.file.spec().context_max).unwrap_or(u32::MAX),
        }
    }

    /// The tokenizer and the chat template, built at the first call.
    ///
    /// # Errors
    /// Why the file has no usable tokenizer.
    pub(crate) fn words(&self) -> Result<&Words, String> {
        let build = || {
            let tokenizer = self.file.tokenizer().map_err(|error| chain(&error))?;
            // A base model has none; it still completes raw text.
            let template = self.file.chat_template().ok();
            Ok(Words {
                tokenizer,
                template,
            })
        };
        self.words.get_or_init(build).as_ref().map_err(Clone::clone)
    }
}

/// An error with its causes, on one line.
pub(crate) fn chain(error: &EngineError) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}
