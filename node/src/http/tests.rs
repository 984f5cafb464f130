//! Requests as clients send them, answers as clients read them.

use axum::http::StatusCode;
use axum::response::IntoResponse;
use cairn_actors::{AnswerError, Done, Finish, ModelView, PromptText, Role, TokenEvent};
use serde_json::{Value, json};

use super::chat::is_meant;
use super::error::ApiError;
use super::openai::{Gathered, Head, Shape};
use super::request::{self, Asked, Delivery, Detail, TEMPERATURE};

fn chat(extra: Value) -> Result<Asked, ApiError> {
    let mut body = json!({"messages": [{"role": "user", "content": "hi"}]});
    for (key, value) in extra.as_object().unwrap() {
        body[key] = value.clone();
    }
    request::chat(body.to_string().as_bytes())
}

fn param(error: &ApiError) -> Value {
    error.body()["error"]["param"].clone()
}

#[test]
fn a_plain_chat_gets_the_defaults() {
    let asked = chat(json!({"unheard_of": 1})).unwrap();
    assert_eq!(asked.model, None);
    assert_eq!(asked.delivery, Delivery::Whole);
    assert_eq!(asked.detail, Detail::Text);
    assert_eq!(asked.prompt.max_tokens, None);
    assert_eq!(asked.prompt.sampling.temperature, TEMPERATURE);
    assert_eq!(asked.prompt.sampling.repetition_penalty, 1.0);
    assert_eq!(asked.prompt.stop, Vec::<String>::new());
}

#[test]
fn every_field_arrives() {
    let asked = chat(json!({
        "model": "m", "stream": true, "stream_options": {"include_usage": true},
        "max_tokens": 5, "max_completion_tokens": 6, "temperature": 0, "top_k": 7,
        "top_p": 0.5, "min_p": 0.25, "repetition_penalty": 1.5, "seed": -1,
        "stop": "end", "logprobs": true, "n": 1, "tools": [], "logit_bias": {},
        "response_format": {"type": "text"}, "presence_penalty": 0.0,
    }))
    .unwrap();
    assert_eq!(asked.model.as_deref(), Some("m"));
    assert_eq!(asked.delivery, Delivery::StreamWithUsage);
    assert_eq!(asked.detail, Detail::Logprobs);
    assert_eq!(asked.prompt.max_tokens, Some(6));
    assert_eq!(asked.prompt.stop, ["end"]);
    let sampling = asked.prompt.sampling;
    assert_eq!(
        (sampling.temperature, sampling.top_k, sampling.top_p),
        (0.0, 7, 0.5)
    );
    assert_eq!((sampling.min_p, sampling.repetition_penalty), (0.25, 1.5));
    assert_eq!(sampling.seed, u64::MAX);
}

#[test]
fn messages_may_be_parts_and_have_all_roles() {
    let asked = chat(json!({"messages": [
        {"role": "developer", "content": "be brief"},
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
        {"role": "assistant", "content": "c"},
    ]}))
    .unwrap();
    let PromptText::Chat(messages) = asked.prompt.text else {
        panic!("a chat is a chat");
    };
    let read: Vec<_> = messages
        .iter()
        .map(|message| (message.role, message.content.as_str()))
        .collect();
    assert_eq!(
        read,
        [
            (Role::System, "be brief"),
            (Role::User, "ab"),
            (Role::Assistant, "c")
        ]
    );
}

#[test]
fn what_is_wrong_is_named() {
    let table = [
        (json!({"messages": null}), "messages"),
        (json!({"messages": []}), "messages"),
        (
            json!({"messages": [{"role": "user", "content": " "}]}),
            "messages",
        ),
        (
            json!({"messages": [{"role": "wizard", "content": "x"}]}),
            "messages[0].role",
        ),
        (json!({"messages": [{"role": "user"}]}), "messages[0]"),
        (
            json!({"messages": [{"role": "user", "content": 7}]}),
            "messages[0].content",
        ),
        (json!({"temperature": 3}), "temperature"),
        (json!({"temperature": "hot"}), "temperature"),
        (json!({"top_p": 0}), "top_p"),
        (json!({"top_p": 1.5}), "top_p"),
        (json!({"min_p": -1}), "min_p"),
        (json!({"repetition_penalty": 0}), "repetition_penalty"),
        (json!({"top_k": -1}), "top_k"),
        (json!({"max_tokens": 0}), "max_tokens"),
        (json!({"max_completion_tokens": 0}), "max_completion_tokens"),
        (json!({"stop": ["a", ""]}), "stop"),
        (json!({"stop": 1}), "stop"),
        (json!({"stream": "yes"}), "stream"),
        (json!({"n": 2}), "n"),
        (json!({"tools": [{}]}), "tools"),
        (json!({"top_logprobs": 3}), "top_logprobs"),
        (json!({"logit_bias": {"1": 2}}), "logit_bias"),
        (
            json!({"response_format": {"type": "json_object"}}),
            "response_format",
        ),
        (json!({"frequency_penalty": 0.5}), "frequency_penalty"),
    ];
    for (extra, field) in table {
        let error = chat(extra.clone()).unwrap_err();
        assert_eq!(param(&error), field, "{extra}: {error:?}");
        assert_eq!(error.into_response().status(), StatusCode::BAD_REQUEST);
    }
}

#[test]
fn what_is_no_json_is_said_to_be_none() {
    for bytes in ["", "{", "[]", "nonsense", "{} trailing", "\u{0}"] {
        let error = request::chat(bytes.as_bytes()).unwrap_err();
        assert_eq!(
            error.body()["error"]["code"],
            "invalid_json",
            "{bytes:?}: {error:?}"
        );
    }
    let error = request::chat(b"\xff\xfe").unwrap_err();
    assert_eq!(error.body()["error"]["code"], "invalid_json");
}

#[test]
fn raw_prompts_are_texts_or_tokens() {
    let text = request::completion(br#"{"prompt": "once"}"#).unwrap();
    assert_eq!(text.prompt.text, PromptText::Raw("once".to_owned()));
    let tokens = request::completion(br#"{"prompt": [1, 2]}"#).unwrap();
    assert_eq!(tokens.prompt.text, PromptText::Tokens(vec![1, 2]));
    for wrong in [
        r#"{}"#,
        r#"{"prompt": ""}"#,
        r#"{"prompt": []}"#,
        r#"{"prompt": [-1]}"#,
    ] {
        let error = request::completion(wrong.as_bytes()).unwrap_err();
        assert_eq!(param(&error), "prompt", "{wrong}");
    }
}

#[test]
fn errors_have_the_status_and_the_shape_that_clients_know() {
    let table = [
        (
            AnswerError::NotReady("x".to_owned()),
            503,
            "not_ready",
            Some("1"),
        ),
        (
            AnswerError::BadPrompt {
                field: "messages",
                message: "x".to_owned(),
            },
            400,
            "invalid_value",
            None,
        ),
        (
            AnswerError::ContextOverflow {
                prompt_tokens: 9,
                context: 8,
            },
            400,
            "context_length_exceeded",
            None,
        ),
        (
            AnswerError::Busy {
                retry_after_seconds: 7,
            },
            429,
            "busy",
            Some("7"),
        ),
        (
            AnswerError::StageFailed {
                stage: 1,
                detail: "x".to_owned(),
            },
            500,
            "stage_failed",
            None,
        ),
    ];
    for (error, status, code, retry) in table {
        let shown = ApiError::from(&error);
        assert_eq!(shown.body()["error"]["code"], code);
        assert!(shown.body()["error"]["message"].is_string());
        let response = shown.into_response();
        assert_eq!(response.status().as_u16(), status, "{code}");
        let header = response.headers().get("retry-after");
        assert_eq!(header.map(|value| value.to_str().unwrap()), retry, "{code}");
    }
    assert_eq!(
        ApiError::unknown_model("a", "b").into_response().status(),
        StatusCode::NOT_FOUND
    );
}

#[test]
fn a_whole_answer_has_text_tokens_counts_and_times() {
    let head = Head {
        shape: Shape::Chat,
        id: "chatcmpl-1".to_owned(),
        created: 5,
        model: "m".to_owned(),
        detail: Detail::Logprobs,
    };
    let mut gathered = Gathered::default();
    gathered.push(&TokenEvent {
        token: 42,
        text: "Hé".to_owned(),
        logprob: f32::NEG_INFINITY,
    });
    let done = Done {
        finish: Finish::Length,
        text: "!".to_owned(),
        prompt_tokens: 3,
        completion_tokens: 1,
        ttft_ms: 12.5,
        tokens_per_second: 80.0,
    };
    let whole = head.whole(gathered, &done);
    let choice = &whole["choices"][0];
    assert_eq!(whole["object"], "chat.completion");
    assert_eq!(choice["message"]["content"], "Hé!");
    assert_eq!(choice["finish_reason"], "length");
    assert_eq!(choice["logprobs"]["content"][0]["token_id"], 42);
    assert_eq!(choice["logprobs"]["content"][0]["logprob"], -9999.0);
    assert_eq!(whole["usage"]["total_tokens"], 4);
    assert_eq!(whole["timings"]["ttft_ms"], 12.5);
}

#[test]
fn a_model_is_meant_by_its_name_file_or_stem() {
    let model = ModelView {
        name: "hf:o/r/Some.Model.gguf".to_owned(),
        sha256: String::new(),
        file_bytes: 0,
        layers: 1,
        context: 1,
    };
    for name in ["hf:o/r/Some.Model.gguf", "Some.Model.gguf", "some.model"] {
        assert!(is_meant(name, &model), "{name}");
    }
    assert!(!is_meant("Some", &model));
}
