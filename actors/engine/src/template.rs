//! The model's own chat template: messages in, prompt text out.
//!
//! Jinja as models use it, Python methods included. No clock: a template that
//! asks for today's date gets its own default, so the same messages always
//! give the same prompt.

mod json;

use std::fs::File;

use minijinja::syntax::SyntaxConfig;
use minijinja::{Environment, Error, ErrorKind, Value, context};

use crate::error::EngineError;
use crate::gguf::Gguf;

const NAME: &str = "chat";

/// A parsed chat template.
#[derive(Debug)]
pub struct ChatTemplate {
    environment: Environment<'static>,
    bos: Option<String>,
    eos: Option<String>,
}

/// One turn of a conversation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChatMessage {
    /// `system`, `user` or `assistant`, or whatever else the template knows.
    pub role: String,
    /// The text.
    pub content: String,
}

/// Whether the prompt ends where the assistant is to begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GenerationPrompt {
    /// Append what opens the assistant's turn.
    Add,
    /// End after the last message.
    Omit,
}

impl ChatTemplate {
    pub(crate) fn read(gguf: &Gguf, file: &File) -> Result<ChatTemplate, EngineError> {
        let source =
            gguf.string("tokenizer.chat_template")?
                .ok_or_else(|| EngineError::Template {
                    reason: format!("{} carries none", gguf.path().display()),
                })?;
        let tokens = gguf.strings(file, "tokenizer.ggml.tokens")?;
        let text = |key: &str| -> Result<Option<String>, EngineError> {
            let id = gguf.unsigned(key)?;
            let text = id.and_then(|id| tokens.as_ref()?.get(id as usize));
            Ok(text.cloned())
        };
        ChatTemplate::new(
            source,
            text("tokenizer.ggml.bos_token_id")?,
            text("tokenizer.ggml.eos_token_id")?,
        )
    }

    fn new(
        source: &str,
        bos: Option<String>,
        eos: Option<String>,
    ) -> Result<ChatTemplate, EngineError> {
        let mut environment = Environment::new();
        // As Hugging Face Transformers renders chat templates.
        let syntax = SyntaxConfig::builder()
            .trim_blocks(true)
            .lstrip_blocks(true)
            .build()
            .map_err(|error| refused(&error))?;
        environment.set_syntax(syntax);
        environment
            .set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_function(
            "raise_exception",
            |message: String| -> Result<Value, Error> {
                Err(Error::new(ErrorKind::InvalidOperation, message))
            },
        );
        environment.add_filter("tojson", json::tojson);
        environment
            .add_template_owned(NAME, source.to_string())
            .map_err(|error| refused(&error))?;
        Ok(ChatTemplate {
            environment,
            bos,
            eos,
        })
    }

    /// The prompt text for `messages`, special tokens spelled out in it.
    ///
    /// # Errors
    /// [`EngineError::Template`] when the template refuses the messages, with its reason.
    pub fn render(
        &self,
        messages: &[ChatMessage],
        generation: GenerationPrompt,
    ) -> Result<String, EngineError> {
        let messages: Vec<Value> = messages
            .iter()
            .map(|message| context! { role => &message.role, content => &message.content })
            .collect();
        let add_generation_prompt = match generation {
            GenerationPrompt::Add => true,
            GenerationPrompt::Omit => false,
        };
        let values = context! {
            messages,
            add_generation_prompt,
            bos_token => self.bos.as_deref().unwrap_or(""),
            eos_token => self.eos.as_deref().unwrap_or(""),
        };
        self.environment
            .get_template(NAME)
            .and_then(|template| template.render(values))
            .map_err(|error| refused(&error))
    }
}

fn refused(error: &Error) -> EngineError {
    EngineError::Template {
        reason: error.to_string(),
    }
}

#[cfg(test)]
mod tests;
