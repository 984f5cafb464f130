//! Answers that are computed together, of which some end before the others.

use std::thread;

use crate::cluster::{Cluster, PATIENCE, PROMPT};
use crate::http::question;

const TOKENS: u32 = 24;

#[test]
fn a_stop_text_ends_no_answer_but_its_own() {
    let mut cluster = Cluster::tiny(6);
    cluster.start("a");
    cluster.wait_ready(PATIENCE);
    let http = cluster.node("a").http();
    let alone = http.ask(PROMPT, TOKENS).expect("an answer");
    let letters: Vec<char> = alone.text.chars().collect();
    let stop: String = letters[letters.len() / 2..].iter().take(2).collect();
    let mut stopped = question(PROMPT, TOKENS);
    stopped["stop"] = stop.into();
    let stopped = stopped.to_string().into_bytes();
    for round in 0..10 {
        // Prompts that come together are answered in step, a row of each in every pass.
        thread::scope(|scope| {
            let whole = [(); 2].map(|()| scope.spawn(|| http.ask(PROMPT, TOKENS)));
            let cut = [(); 2].map(|()| scope.spawn(|| http.post("/v1/chat/completions", &stopped)));
            for answer in cut {
                let (status, answer) = answer.join().expect("no panic").expect("an answer");
                assert_eq!(status, 200, "round {round}: {answer}");
                let text = &answer["choices"][0]["message"]["content"];
                let text = text.as_str().expect("an answer has a text");
                assert!(text.len() < alone.text.len(), "{text:?} was not stopped");
            }
            for answer in whole {
                let answer = answer.join().expect("no panic");
                assert_eq!(answer.as_ref(), Ok(&alone), "round {round}");
            }
        });
    }
}
