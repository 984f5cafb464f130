//! The engine on a real model file, named by `CAIRN_TEST_MODEL`; says so when it is absent.

use std::sync::Arc;

use cairn_engine::{
    Batch, BatchSpan, ChatMessage, ComputePath, GenerationPrompt, Input, LogitRows, ModelFile,
    Output, SamplerParams, Shard, ShardOptions, SpecialTokens, sample,
};

fn open() -> Option<Arc<ModelFile>> {
    let Some(path) = std::env::var_os("CAIRN_TEST_MODEL") else {
        eprintln!("skipped: CAIRN_TEST_MODEL names no model file");
        return None;
    };
    Some(Arc::new(
        ModelFile::open(path.as_ref()).expect("a readable model"),
    ))
}

fn answer(file: &Arc<ModelFile>, path: ComputePath, question: &str, count: usize) -> String {
    let options = ShardOptions {
        context: 512,
        threads: 2,
        path,
    };
    let layers = file.spec().layers;
    let mut shard = Shard::load(file, 0..layers, &options, &mut |_| {}).unwrap();
    let tokenizer = file.tokenizer().unwrap();
    let messages = [ChatMessage {
        role: "user".into(),
        content: question.into(),
    }];
    let template = file.chat_template().unwrap();
    let prompt = template.render(&messages, GenerationPrompt::Add).unwrap();
    let mut tokens = tokenizer.encode(&prompt, SpecialTokens::Parse).unwrap();
    let slot = shard.open(512).unwrap();
    let mut fresh = tokens.clone();
    let mut stream = tokenizer.stream();
    let mut text = String::new();
    for _ in 0..count {
        let span = BatchSpan {
            slot,
            position: (tokens.len() - fresh.len()) as u32,
            rows: fresh.len() as u32,
            logits: LogitRows::Last,
        };
        let batch = Batch {
            input: Input::Tokens(&fresh),
            spans: &[span],
        };
        let Output::Logits(mut logits) = shard.forward(&batch).unwrap() else {
            panic!("the last shard gives logits");
        };
        let token = sample(
            &mut logits,
            &SamplerParams::greedy(),
            tokens.len() as u32,
            &tokens,
        )
        .token;
        if file.spec().eos.contains(&token) {
            break;
        }
        text.push_str(&stream.push(token));
        tokens.push(token);
        fresh = vec![token];
    }
    text.push_str(&stream.finish());
    text
}

#[test]
fn answers_a_question() {
    let Some(file) = open() else { return };
    let text = answer(
        &file,
        ComputePath::Portable,
        "Name three primary colors.",
        24,
    );
    assert!(text.contains("Red") && text.contains("Blue"), "{text:?}");
}
