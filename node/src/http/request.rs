//! A request's body, read and checked: what is wrong is named by its field.
//!
//! A field that would change the answer and is not supported is refused, never
//! ignored. Fields that nobody knows are ignored, since clients send many.

use cairn_actors::{Message, Prompt, PromptText, Role, SamplerParams};
use serde::Deserialize;
use serde_json::Value;

use super::error::ApiError;

/// The node's default: lively, without the nonsense that a small model makes at 1.
pub(crate) const TEMPERATURE: f32 = 0.7;
/// More stop texts than anyone needs.
const STOP_COUNT_MAX: usize = 16;

/// A request, checked.
#[derive(Debug)]
pub(crate) struct Asked {
    /// The model that the client wants, if it says.
    pub(crate) model: Option<String>,
    /// What to answer.
    pub(crate) prompt: Prompt,
    /// In one piece or as it is made.
    pub(crate) delivery: Delivery,
    /// What is told of each token.
    pub(crate) detail: Detail,
}

/// How the answer is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Delivery {
    /// One JSON object.
    Whole,
    /// Server-sent events.
    Stream,
    /// Server-sent events, the last with the token counts.
    StreamWithUsage,
}

/// What is told of each token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Detail {
    /// Its text.
    Text,
    /// Its text, id and log-probability.
    Logprobs,
}

/// Both endpoints' fields. One flat struct, because `serde(flatten)` loses the name of the wrong field.
#[derive(Debug, Deserialize)]
struct Body {
    model: Option<String>,
    messages: Option<Vec<MessageBody>>,
    prompt: Option<PromptBody>,
    stream: Option<bool>,
    stream_options: Option<StreamOptions>,
    max_tokens: Option<u32>,
    max_completion_tokens: Option<u32>,
    temperature: Option<f32>,
    top_k: Option<u32>,
    top_p: Option<f32>,
    min_p: Option<f32>,
    repetition_penalty: Option<f32>,
    seed: Option<i64>,
    stop: Option<Stop>,
    /// `true` for chat; a count for completions.
    logprobs: Option<Value>,
    top_logprobs: Option<Value>,
    n: Option<Value>,
    best_of: Option<Value>,
    tools: Option<Value>,
    functions: Option<Value>,
    response_format: Option<Value>,
    frequency_penalty: Option<Value>,
    presence_penalty: Option<Value>,
    logit_bias: Option<Value>,
    echo: Option<Value>,
    suffix: Option<Value>,
}

#[derive(Debug, Deserialize)]
struct MessageBody {
    role: RoleBody,
    content: Content,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
enum RoleBody {
    System,
    Developer,
    User,
    Assistant,
}

#[derive(Debug, Deserialize)]
#[serde(untagged, expecting = "expected a text or a list of text parts")]
enum Content {
    Text(String),
    Parts(Vec<TextPart>),
}

#[derive(Debug, Deserialize)]
struct TextPart {
    text: String,
}

#[derive(Debug, Deserialize)]
#[serde(untagged, expecting = "expected a text or a list of token ids")]
enum PromptBody {
    Text(String),
    Tokens(Vec<u32>),
}

#[derive(Debug, Deserialize)]
#[serde(untagged, expecting = "expected a text or a list of texts")]
enum Stop {
    One(String),
    Many(Vec<String>),
}

#[derive(Debug, Deserialize)]
struct StreamOptions {
    #[serde(default)]
    include_usage: bool,
}

/// Reads the body of `/v1/chat/completions`.
pub(crate) fn chat(bytes: &[u8]) -> Result<Asked, ApiError> {
    let mut body = read(bytes)?;
    let messages = body
        .messages
        .take()
        .ok_or_else(|| ApiError::bad_field("messages", "`messages` is missing"))?;
    if messages.is_empty() {
        return Err(ApiError::bad_field("messages", "`messages` is empty"));
    }
    let messages: Vec<Message> = messages.into_iter().map(Message::from).collect();
    let says_something = messages
        .iter()
        .any(|message| !message.content.trim().is_empty());
    if !says_something {
        return Err(ApiError::bad_field(
            "messages",
            "the prompt is empty: every message has an empty `content`",
        ));
    }
    finish(body, PromptText::Chat(messages))
}

/// Reads the body of `/v1/completions`.
pub(crate) fn completion(bytes: &[u8]) -> Result<Asked, ApiError> {
    let mut body = read(bytes)?;
    let text = match body.prompt.take() {
        Some(PromptBody::Text(text)) if !text.is_empty() => PromptText::Raw(text),
        Some(PromptBody::Tokens(tokens)) if !tokens.is_empty() => PromptText::Tokens(tokens),
        Some(PromptBody::Text(_) | PromptBody::Tokens(_)) => {
            return Err(ApiError::bad_field("prompt", "`prompt` is empty"));
        }
        None => return Err(ApiError::bad_field("prompt", "`prompt` is missing")),
    };
    finish(body, text)
}

fn read(bytes: &[u8]) -> Result<Body, ApiError> {
    let mut json = serde_json::Deserializer::from_slice(bytes);
    let body = serde_path_to_error::deserialize(&mut json).map_err(|error| {
        let path = error.path().to_string();
        let source = error.inner();
        match source.classify() {
            serde_json::error::Category::Data if path != "." => {
                ApiError::bad_field(&path, format!("`{path}`: {source}"))
            }
            _ => ApiError::bad_json(format!("the body is not the JSON of a request: {source}")),
        }
    })?;
    json.end().map_err(|source| {
        ApiError::bad_json(format!("the body goes on after its JSON: {source}"))
    })?;
    Ok(body)
}

fn finish(body: Body, text: PromptText) -> Result<Asked, ApiError> {
    refuse_unsupported(&body)?;
    let defaults = SamplerParams::greedy();
    let sampling = SamplerParams {
        temperature: within("temperature", body.temperature, TEMPERATURE, 0.0, 2.0)?,
        top_k: body.top_k.unwrap_or(defaults.top_k),
        top_p: above_zero("top_p", body.top_p, defaults.top_p, 1.0)?,
        min_p: within("min_p", body.min_p, defaults.min_p, 0.0, 1.0)?,
        repetition_penalty: above_zero(
            "repetition_penalty",
            body.repetition_penalty,
            defaults.repetition_penalty,
            10.0,
        )?,
        repetition_window: defaults.repetition_window,
        seed: match body.seed {
            // A negative seed is a name like any other.
            Some(seed) => seed.cast_unsigned(),
            None => random_seed(),
        },
    };
    let max_tokens = match (body.max_completion_tokens, body.max_tokens) {
        (Some(0), _) => {
            return Err(ApiError::bad_field(
                "max_completion_tokens",
                "`max_completion_tokens` must be at least 1",
            ));
        }
        (None, Some(0)) => {
            return Err(ApiError::bad_field(
                "max_tokens",
                "`max_tokens` must be at least 1",
            ));
        }
        (Some(count), _) | (None, Some(count)) => Some(count),
        (None, None) => None,
    };
    let include_usage = body
        .stream_options
        .is_some_and(|options| options.include_usage);
    Ok(Asked {
        model: body.model.filter(|model| !model.is_empty()),
        prompt: Prompt {
            text,
            max_tokens,
            sampling,
            stop: stops(body.stop)?,
        },
        delivery: match (body.stream.unwrap_or(false), include_usage) {
            (false, _) => Delivery::Whole,
            (true, false) => Delivery::Stream,
            (true, true) => Delivery::StreamWithUsage,
        },
        detail: match body.logprobs {
            None | Some(Value::Null | Value::Bool(false)) => Detail::Text,
            Some(_) => Detail::Logprobs,
        },
    })
}

/// A field, its value, and whether a value asks for what happens anyway.
type Check<'a> = (&'static str, &'a Option<Value>, &'a dyn Fn(&Value) -> bool);

/// Refuses what would change the answer and is not there, unless it asks for the usual.
fn refuse_unsupported(body: &Body) -> Result<(), ApiError> {
    let one = |value: &Value| value.as_u64() == Some(1);
    let zero = |value: &Value| value.as_f64() == Some(0.0);
    let empty = |value: &Value| match value {
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
        Value::String(text) => text.is_empty(),
        Value::Bool(flag) => !flag,
        Value::Null | Value::Number(_) => false,
    };
    let text_format = |value: &Value| value["type"] == "text";
    let checks: [Check<'_>; 11] = [
        ("n", &body.n, &one),
        ("best_of", &body.best_of, &one),
        ("top_logprobs", &body.top_logprobs, &zero),
        ("tools", &body.tools, &empty),
        ("functions", &body.functions, &empty),
        ("response_format", &body.response_format, &text_format),
        ("frequency_penalty", &body.frequency_penalty, &zero),
        ("presence_penalty", &body.presence_penalty, &zero),
        ("logit_bias", &body.logit_bias, &empty),
        ("echo", &body.echo, &empty),
        ("suffix", &body.suffix, &empty),
    ];
    for (field, value, is_usual) in checks {
        let unusual = value
            .as_ref()
            .is_some_and(|value| !value.is_null() && !is_usual(value));
        if unusual {
            return Err(ApiError::bad_field(
                field,
                format!("`{field}` is not supported"),
            ));
        }
    }
    Ok(())
}

fn within(
    field: &str,
    value: Option<f32>,
    default: f32,
    least: f32,
    most: f32,
) -> Result<f32, ApiError> {
    let value = value.unwrap_or(default);
    // NaN is in no range, so it is refused too.
    if !(least..=most).contains(&value) {
        return Err(ApiError::bad_field(
            field,
            format!("`{field}` must be between {least} and {most}"),
        ));
    }
    Ok(value)
}

fn above_zero(field: &str, value: Option<f32>, default: f32, most: f32) -> Result<f32, ApiError> {
    if value.is_some_and(|value| value <= 0.0) {
        return Err(ApiError::bad_field(
            field,
            format!("`{field}` must be above 0"),
        ));
    }
    within(field, value, default, 0.0, most)
}

fn stops(stop: Option<Stop>) -> Result<Vec<String>, ApiError> {
    let stops = match stop {
        None => Vec::new(),
        Some(Stop::One(text)) => vec![text],
        Some(Stop::Many(texts)) => texts,
    };
    if stops.len() > STOP_COUNT_MAX || stops.iter().any(String::is_empty) {
        return Err(ApiError::bad_field(
            "stop",
            format!("`stop` must be a text or up to {STOP_COUNT_MAX} texts, none of them empty"),
        ));
    }
    Ok(stops)
}

fn random_seed() -> u64 {
    let mut bytes = [0u8; 8];
    // Without randomness every answer has the same seed, which is still an answer.
    getrandom::fill(&mut bytes).ok();
    u64::from_le_bytes(bytes)
}

impl From<MessageBody> for Message {
    fn from(body: MessageBody) -> Self {
        Self {
            role: match body.role {
                RoleBody::System | RoleBody::Developer => Role::System,
                RoleBody::User => Role::User,
                RoleBody::Assistant => Role::Assistant,
            },
            content: match body.content {
                Content::Text(text) => text,
                Content::Parts(parts) => parts.into_iter().map(|part| part.text).collect(),
            },
        }
    }
}
