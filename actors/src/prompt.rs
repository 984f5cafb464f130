//! From a prompt to a request: template, tokens, limits. Blocking: called on blocking threads.

use cairn_engine::{ChatMessage, GenerationPrompt, SpecialTokens};
use cairn_machine::pipeline::Request;
use cairn_wire::control::Plan;
use cairn_wire::data::Sampling;

use crate::api::{AnswerError, Message, Prompt, PromptText, Role};
use crate::library::{Book, Words};

/// Turns a prompt into token ids and checks that it can be answered under `plan`.
///
/// # Errors
/// [`AnswerError::BadPrompt`] with the field, [`AnswerError::ContextOverflow`].
pub(crate) fn prepare(book: &Book, plan: &Plan, prompt: &Prompt) -> Result<Request, AnswerError> {
    let words = book.words().map_err(AnswerError::NotReady)?;
    let tokens = tokens(words, &prompt.text)?;
    if tokens.is_empty() {
        return Err(bad("messages", "the prompt is empty"));
    }
    let vocabulary = book.file.spec().vocabulary;
    if let Some(token) = tokens.iter().find(|token| **token as usize >= vocabulary) {
        let message = format!("token {token} is not below the vocabulary's {vocabulary}");
        return Err(bad("prompt", &message));
    }
    let tokens_max = prompt.max_tokens.unwrap_or(plan.context);
    if tokens_max == 0 {
        return Err(bad("max_tokens", "must be at least 1"));
    }
    if tokens.len() >= plan.context as usize {
        return Err(AnswerError::ContextOverflow {
            prompt_tokens: u32::try_from(tokens.len()).unwrap_or(u32::MAX),
            context: plan.context,
        });
    }
    let params = &prompt.sampling;
    Ok(Request {
        tokens,
        tokens_max,
        end_tokens: book.file.spec().eos.clone(),
        sampling: Sampling {
            temperature: params.temperature,
            top_k: params.top_k,
            top_p: params.top_p,
            min_p: params.min_p,
            repetition_penalty: params.repetition_penalty,
            repetition_window: u32::try_from(params.repetition_window).unwrap_or(u32::MAX),
            seed: params.seed,
        },
    })
}

fn tokens(words: &Words, text: &PromptText) -> Result<Vec<u32>, AnswerError> {
    let encode = |text: &str, special| {
        let tokens = words.tokenizer.encode(text, special);
        tokens.map_err(|error| bad("messages", &error.to_string()))
    };
    match text {
        PromptText::Tokens(tokens) => Ok(tokens.clone()),
        PromptText::Raw(text) => {
            let mut tokens: Vec<u32> = words.tokenizer.bos().into_iter().collect();
            tokens.extend(encode(text, SpecialTokens::Text)?);
            Ok(tokens)
        }
        PromptText::Chat(messages) => encode(&render(words, messages)?, SpecialTokens::Parse),
    }
}

fn render(words: &Words, messages: &[Message]) -> Result<String, AnswerError> {
    let Some(template) = &words.template else {
        return Err(bad(
            "messages",
            "this model has no chat template: send a raw prompt",
        ));
    };
    let empty = messages
        .iter()
        .all(|message| message.content.trim().is_empty());
    if empty {
        return Err(bad("messages", "the prompt is empty"));
    }
    let messages: Vec<ChatMessage> = messages
        .iter()
        .map(|message| ChatMessage {
            role: match message.role {
                Role::System => "system".to_owned(),
                Role::User => "user".to_owned(),
                Role::Assistant => "assistant".to_owned(),
            },
            // Nobody ends a turn by typing what ends a turn.
            content: words.tokenizer.shield(&message.content).into_owned(),
        })
        .collect();
    let rendered = template.render(&messages, GenerationPrompt::Add);
    rendered.map_err(|error| bad("messages", &error.to_string()))
}

fn bad(field: &'static str, message: &str) -> AnswerError {
    AnswerError::BadPrompt {
        field,
        message: message.to_owned(),
    }
}
