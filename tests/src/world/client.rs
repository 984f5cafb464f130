//! Clients of a world: each asks one node, and knows what one node alone would answer.

use cairn_machine::pipeline::{Request, RequestId};
use cairn_wire::data::Sampling;
use cairn_wire::id::BootId;

use super::{Asked, World};
use crate::engine::oracle;
use crate::host::{Answer, Fact};
use crate::net::Seat;

/// A conversation of so many tokens ends.
const TALK_MAX: usize = 120;
/// Tokens of the longest prompt: with its answer it fits into the context.
const CONTEXT_TOKENS: usize = 200;

impl World {
    pub(super) fn ask(&mut self, seat: Seat) {
        // Half of the clients go on with their conversation, the others begin one.
        let talk = std::mem::take(&mut self.seats[seat.0].talk);
        let goes_on = talk.len() < TALK_MAX && self.rng.chance(500);
        let mut prompt = if goes_on { talk } else { Vec::new() };
        prompt.extend((0..self.rng.between(1, 150)).map(|_| self.rng.below(1_000) as u32));
        prompt.truncate(CONTEXT_TOKENS);
        let tokens_max = self.rng.between(1, 20) as u32;
        let answer = oracle(&prompt, tokens_max as usize);
        self.seats[seat.0].talk = [&prompt[..], &answer].concat();
        let answer = answer.into();
        let Some(run) = self.run_at(seat) else {
            return;
        };
        let boot = run.boot;
        let id = RequestId(self.requests);
        self.requests += 1;
        let at = self.now;
        self.asked.insert((seat, boot, id), Asked { at, answer });
        let request = Request {
            tokens: prompt,
            tokens_max,
            end_tokens: Vec::new(),
            sampling: Sampling::GREEDY,
        };
        self.tell(seat, boot, Fact::Submit(id, request));
    }

    pub(super) fn answer(&mut self, seat: Seat, boot: BootId, id: RequestId, answer: Answer) {
        let key = (seat, boot, id);
        let asked = self.asked.get_mut(&key);
        let asked = asked.expect("an answer to nobody, or after its end");
        match answer {
            Answer::Token(token) => {
                let expected = asked.answer.pop_front();
                assert_eq!(Some(token), expected, "not what one node would say");
            }
            Answer::Finished => {
                assert!(asked.answer.is_empty(), "the answer is cut short");
                self.asked.remove(&key);
                self.answered += 1;
            }
            Answer::Aborted(cause) => {
                self.asked.remove(&key);
                self.remember(|| format!("{seat:?} aborts {id:?}: {cause:?}"));
                self.aborts.push((self.now, seat, cause));
            }
        }
    }
}
