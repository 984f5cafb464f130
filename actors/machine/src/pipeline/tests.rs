//! One driver, driven by hand; the stages are answered by the tests.

use cairn_wire::data::SampledToken;

use super::*;
use crate::fixture::{node, plan as fixture_plan, plan_id};

struct Rig {
    machine: PipelineMachine,
    now: Tick,
    sent: Vec<(NodeId, DataFrame)>,
    said: Vec<Output>,
}

impl Rig {
    /// Node 9 drives a plan of two stages, on nodes 1 and 2, with four places of 64 rows.
    fn new() -> Self {
        let mut rig = Self {
            machine: PipelineMachine::new(node(9), BootId(5)),
            now: Tick(0),
            sent: Vec::new(),
            said: Vec::new(),
        };
        rig.members(&[1, 2, 9]);
        rig.feed(Input::Adopted(Arc::new(fixture_plan(&[
            (1, 0..2),
            (2, 2..4),
        ]))));
        rig
    }

    fn members(&mut self, members: &[u8]) {
        self.feed(Input::Members(View {
            nodes: members.iter().map(|number| node(*number)).collect(),
            ..View::default()
        }));
    }

    fn feed(&mut self, input: Input) {
        self.machine.handle(self.now, input);
        self.drain();
    }

    fn drain(&mut self) {
        while let Some(order) = self.machine.poll() {
            match order {
                Output::Send { to, frame } => self.sent.push((to, frame)),
                order => self.said.push(order),
            }
        }
    }

    fn pass(&mut self, millis: u64) {
        let end = self.now.after_millis(millis);
        while let Some(at) = self.machine.deadline().filter(|at| *at <= end) {
            self.now = at.max(self.now);
            self.machine.wake(self.now);
            self.drain();
        }
        self.now = end;
    }

    fn submit(&mut self, id: u64, prompt: usize, tokens_max: u32) {
        let request = Request {
            tokens: (0..u32::try_from(prompt).unwrap()).collect(),
            tokens_max,
            end_tokens: vec![99],
            sampling: Sampling::GREEDY,
        };
        let id = RequestId(id);
        self.feed(Input::Submit { id, request });
    }

    /// The sequence opened last.
    fn sequence(&self) -> SequenceId {
        let opens = self.sent.iter().rev().filter_map(|(_, frame)| match frame {
            DataFrame::Open(open) => Some(open.sequence),
            _ => None,
        });
        opens.into_iter().next().expect("a sequence was opened")
    }

    fn token(&mut self, from: u8, position: u32, token: u32) {
        let token = SampledToken {
            sequence: self.sequence(),
            position,
            token,
            logprob: -1.0,
        };
        let sampled = Sampled {
            plan: plan_id(1),
            goes_on: false,
            tokens: vec![token],
        };
        let from = node(from);
        self.feed(Input::Sampled { from, sampled });
    }

    fn fail(&mut self, why: FailedWhy) {
        let failed = Failed {
            plan: plan_id(1),
            stage: 0,
            sequence: self.sequence(),
            why,
            detail: "because".to_owned(),
        };
        let from = node(1);
        self.feed(Input::Failed { from, failed });
    }

    fn tokens(&self) -> Vec<u32> {
        let tokens = self.said.iter().filter_map(|order| match order {
            Output::Token { token, .. } => Some(*token),
            _ => None,
        });
        tokens.collect()
    }

    fn spans(&self) -> Vec<(u32, u32, Ask)> {
        let rows = self.sent.iter().filter_map(|(_, frame)| match frame {
            DataFrame::Rows(rows) => rows.spans().next(),
            _ => None,
        });
        rows.map(|span| (span.position, span.rows, span.ask))
            .collect()
    }

    fn closes(&self) -> usize {
        let closes = |(_, frame): &&(NodeId, DataFrame)| matches!(frame, DataFrame::Close(_));
        self.sent.iter().filter(closes).count()
    }

    fn aborts(&self) -> Vec<Abort> {
        let aborts = self.said.iter().filter_map(|order| match order {
            Output::Aborted { cause, .. } => Some(cause.clone()),
            _ => None,
        });
        aborts.collect()
    }
}

#[test]
fn a_prompt_goes_out_in_chunks_and_only_the_last_asks() {
    let mut rig = Rig::new();
    let mut long = fixture_plan(&[(1, 0..2), (2, 2..4)]);
    long.context = 1_000;
    long.id = plan_id(2);
    rig.feed(Input::Adopted(Arc::new(long)));
    rig.submit(1, 130, 5);
    let spans = [
        (0, 64, Ask::Nothing),
        (64, 64, Ask::Nothing),
        (128, 2, Ask::Token),
    ];
    assert_eq!(rig.spans(), spans);
    assert!(
        rig.sent.iter().all(|(to, _)| *to == node(1)),
        "all to the first stage"
    );
}

#[test]
fn one_token_per_position_however_often_it_comes() {
    let mut rig = Rig::new();
    rig.submit(1, 3, 5);
    rig.token(2, 3, 10);
    rig.token(2, 3, 11);
    rig.token(2, 5, 12);
    rig.token(1, 4, 13);
    assert_eq!(
        rig.tokens(),
        [10],
        "a repeat, one out of turn, one from the wrong stage"
    );
    rig.token(2, 4, 14);
    assert_eq!(rig.tokens(), [10, 14]);
    assert_eq!(
        rig.spans(),
        [(0, 3, Ask::Token)],
        "the first stage has the tokens too, and goes on by itself"
    );
}

#[test]
fn an_end_token_is_not_part_of_the_answer() {
    let mut rig = Rig::new();
    rig.submit(1, 3, 5);
    rig.token(2, 3, 10);
    rig.token(2, 4, 99);
    assert_eq!(rig.tokens(), [10]);
    let end = rig.said.last().unwrap();
    assert!(
        matches!(
            end,
            Output::Finished {
                finish: Finish::EndToken,
                ..
            }
        ),
        "{end:?}"
    );
    assert_eq!(rig.closes(), 1);
}

#[test]
fn an_answer_ends_at_its_limit_or_with_the_context() {
    for (prompt, tokens_max, expected) in [(3, 2, 2), (62, 10, 2)] {
        let mut rig = Rig::new();
        rig.submit(1, prompt, tokens_max);
        let first = u32::try_from(prompt).unwrap();
        for position in first..first + 5 {
            rig.token(2, position, 10);
        }
        assert_eq!(rig.tokens().len(), expected);
        let end = rig.said.last().unwrap();
        assert!(
            matches!(
                end,
                Output::Finished {
                    finish: Finish::Length,
                    ..
                }
            ),
            "{end:?}"
        );
    }
}

#[test]
fn a_prompt_that_fills_the_context_is_refused() {
    let mut rig = Rig::new();
    rig.submit(1, 64, 1);
    assert_eq!(rig.aborts(), [Abort::ContextOverflow { context: 64 }]);
}

#[test]
fn requests_past_the_places_wait_and_past_the_queue_are_refused() {
    let mut rig = Rig::new();
    let places = 4;
    for id in 0..places + WAITING_MAX as u64 {
        rig.submit(id, 3, 5);
    }
    assert_eq!(
        (rig.machine.running(), rig.machine.waiting()),
        (4, WAITING_MAX)
    );
    rig.submit(1_000, 3, 5);
    assert_eq!(rig.aborts(), [Abort::Busy]);
    rig.token(2, 3, 99);
    assert_eq!(
        (rig.machine.running(), rig.machine.waiting()),
        (4, WAITING_MAX - 1)
    );
    rig.pass(WAIT_MILLIS + 1);
    assert_eq!(
        rig.machine.waiting(),
        0,
        "those who waited too long are told"
    );
}

#[test]
fn a_full_stage_is_asked_again_and_an_engine_failure_is_not() {
    let mut rig = Rig::new();
    rig.submit(1, 3, 5);
    let first = rig.sequence();
    rig.fail(FailedWhy::Busy);
    assert_eq!(rig.machine.waiting(), 1);
    rig.pass(BUSY_RETRY_MILLIS);
    assert_ne!(rig.sequence(), first, "a new try is a new sequence");
    rig.fail(FailedWhy::Engine);
    let (stage, detail) = (0, "because".to_owned());
    assert_eq!(rig.aborts(), [Abort::Stage { stage, detail }]);
}

#[test]
fn a_lost_stage_ends_the_answer_by_name_and_new_ones_wait_for_a_plan() {
    let mut rig = Rig::new();
    rig.submit(1, 3, 5);
    rig.members(&[1, 9]);
    assert_eq!(rig.aborts(), [Abort::NodeLost(node(2))]);
    rig.submit(2, 3, 5);
    assert_eq!((rig.machine.running(), rig.machine.waiting()), (0, 1));
    let mut alone = fixture_plan(&[(1, 0..4)]);
    alone.id = plan_id(2);
    rig.feed(Input::Adopted(Arc::new(alone)));
    assert_eq!((rig.machine.running(), rig.machine.waiting()), (1, 0));
}

#[test]
fn without_a_plan_a_request_waits_only_so_long() {
    let mut rig = Rig::new();
    rig.members(&[9]);
    rig.submit(1, 3, 5);
    rig.pass(WAIT_MILLIS);
    assert_eq!(rig.aborts(), [Abort::NoPlan]);
}

#[test]
fn a_cancelled_answer_frees_its_place() {
    let mut rig = Rig::new();
    rig.submit(1, 3, 5);
    rig.feed(Input::Cancel(RequestId(1)));
    assert_eq!((rig.closes(), rig.machine.running()), (1, 0));
    rig.token(2, 3, 10);
    assert!(rig.tokens().is_empty());
}

#[test]
fn a_sequence_without_tokens_fails_at_last() {
    let mut rig = Rig::new();
    rig.submit(1, 3, 5);
    rig.pass(STALL_MILLIS);
    assert_eq!(rig.aborts(), [Abort::Stalled]);
}

#[test]
fn a_probe_reports_a_token_or_its_absence() {
    let mut staged = fixture_plan(&[(1, 0..2), (2, 2..4)]);
    staged.id = plan_id(2);
    let staged = Arc::new(staged);
    let mut rig = Rig::new();
    rig.feed(Input::Probe(Arc::clone(&staged)));
    let token = SampledToken {
        sequence: rig.sequence(),
        position: 1,
        token: 7,
        logprob: 0.0,
    };
    let sampled = Sampled {
        plan: plan_id(2),
        goes_on: false,
        tokens: vec![token],
    };
    let from = node(2);
    rig.feed(Input::Sampled { from, sampled });
    assert!(matches!(
        rig.said.last(),
        Some(Output::Probed { result: Ok(()), .. })
    ));
    rig.feed(Input::Probe(staged));
    rig.pass(PROBE_STALL_MILLIS);
    assert!(matches!(
        rig.said.last(),
        Some(Output::Probed { result: Err(_), .. })
    ));
}

/// The prefix that the last sequence was opened with.
fn prefix(rig: &Rig) -> Option<(u64, u32)> {
    let opens = rig.sent.iter().rev().filter_map(|(_, frame)| match frame {
        DataFrame::Open(open) => Some(open.prefix),
        _ => None,
    });
    let last = opens.into_iter().next().expect("a sequence was opened");
    last.map(|prefix| (prefix.sequence.number, prefix.rows))
}

#[test]
fn a_second_turn_sends_only_what_is_new() {
    let mut rig = Rig::new();
    rig.submit(1, 20, 4);
    assert_eq!(prefix(&rig), None);
    let first = rig.sequence().number;
    rig.token(2, 20, 7);
    rig.token(2, 21, 99);
    rig.sent.clear();
    rig.submit(2, 30, 4);
    assert_eq!(prefix(&rig), Some((first, 20)), "the prompts agree so far");
    assert_eq!(rig.spans(), [(20, 10, Ask::Token)]);
    // A stage has dropped the rows: all of them again, under another name.
    let second = rig.sequence();
    rig.fail(FailedWhy::Forgotten);
    assert_ne!(rig.sequence(), second);
    assert_eq!(prefix(&rig), None);
    assert_eq!(rig.spans().last(), Some(&(0, 30, Ask::Token)));
    assert!(
        rig.said
            .iter()
            .all(|order| !matches!(order, Output::Aborted { .. }))
    );
    // A stage that says so of a sequence without a prefix errs.
    rig.fail(FailedWhy::Forgotten);
    assert!(matches!(rig.said.last(), Some(Output::Aborted { .. })));
}

#[test]
fn a_prompt_starts_with_the_rows_of_one_that_is_being_answered() {
    let mut rig = Rig::new();
    rig.submit(1, 20, 40);
    let first = rig.sequence();
    rig.submit(2, 25, 4);
    assert_eq!(prefix(&rig), None, "no stage is known to have any of it");
    rig.feed(Input::Cancel(RequestId(2)));
    rig.feed(Input::Sampled {
        from: node(2),
        sampled: Sampled {
            plan: plan_id(1),
            goes_on: false,
            tokens: vec![SampledToken {
                sequence: first,
                position: 20,
                token: 7,
                logprob: -1.0,
            }],
        },
    });
    rig.submit(3, 30, 4);
    assert_eq!(prefix(&rig), Some((first.number, 20)));
}

#[test]
fn a_cancelled_answer_is_remembered_without_the_row_that_may_be_on_its_way() {
    let mut rig = Rig::new();
    rig.submit(1, 20, 40);
    let first = rig.sequence();
    // The answer goes on as the next prompt does, so every row of it could be shared.
    rig.token(2, 20, 20);
    rig.token(2, 21, 21);
    rig.feed(Input::Cancel(RequestId(1)));
    rig.submit(2, 30, 4);
    assert_eq!(prefix(&rig), Some((first.number, 21)));
}

#[test]
fn another_plan_knows_nothing_of_the_past() {
    let mut rig = Rig::new();
    rig.submit(1, 20, 4);
    rig.token(2, 20, 99);
    let mut plan = fixture_plan(&[(1, 0..2), (2, 2..4)]);
    plan.id = plan_id(2);
    rig.feed(Input::Adopted(Arc::new(plan)));
    rig.submit(2, 30, 4);
    assert_eq!(prefix(&rig), None);
}
