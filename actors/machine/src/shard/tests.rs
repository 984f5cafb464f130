//! One node's stages, driven by hand; the engine is answered by the tests.

use cairn_wire::data::{Ask, Prefix, Sampling};

use super::*;
use crate::fixture::{node, plan as fixture_plan, plan_id};

/// Node 2 runs the middle stage of three; node 9 drives.
struct Rig {
    machine: ShardMachine,
    passes: Vec<Pass>,
    sent: Vec<(NodeId, DataFrame)>,
    others: Vec<Output>,
    full: bool,
    /// Of the plan, and what sequences are opened with.
    context: u32,
}

const DRIVER: u8 = 9;
/// The token that ends an answer.
const END: u32 = 99;

impl Rig {
    fn new(me_is_stage: u16) -> Self {
        Self::with_context(me_is_stage, 64)
    }

    fn with_context(me_is_stage: u16, context: u32) -> Self {
        let mut rig = Self {
            machine: ShardMachine::default(),
            passes: Vec::new(),
            sent: Vec::new(),
            others: Vec::new(),
            full: false,
            context,
        };
        let nodes = [1, 2, 3, DRIVER].map(node);
        rig.feed(Input::Members(View {
            nodes: nodes.into(),
            ..View::default()
        }));
        let mut plan = fixture_plan(&[(1, 0..2), (2, 2..4), (3, 4..6)]);
        plan.context = context;
        let plan = Arc::new(plan);
        let stage = me_is_stage;
        rig.feed(Input::Load {
            plan: Arc::clone(&plan),
            stage,
        });
        let result = Ok(1);
        rig.feed(Input::LayersLoaded {
            plan: plan.id,
            result,
        });
        let standby = Vec::new();
        rig.feed(Input::Adopted { plan, standby });
        rig.others.clear();
        rig
    }

    /// One more member.
    fn members_with(&mut self, number: u8) {
        let nodes = [1, 2, 3, DRIVER, number].map(node);
        self.feed(Input::Members(View {
            nodes: nodes.into(),
            ..View::default()
        }));
    }

    fn feed(&mut self, input: Input) {
        self.machine.handle(Tick(0), input);
        while let Some(order) = self.machine.poll() {
            match order {
                Output::Forward(pass) => self.passes.push(pass),
                Output::Send { to, frame } if self.full => {
                    self.machine.handle(Tick(0), Input::Unsent { to, frame });
                }
                Output::Send { to, frame } => self.sent.push((to, frame)),
                order => self.others.push(order),
            }
        }
    }

    fn open(&mut self, from: u8, stage: u16, number: u64) {
        self.open_with(from, stage, number, None);
    }

    /// Opens sequence `number`, with rows of another if so said.
    fn open_with(&mut self, from: u8, stage: u16, number: u64, prefix: Option<(u64, u32)>) {
        let prefix = prefix.map(|(number, rows)| Prefix {
            sequence: sequence(number),
            rows,
        });
        let frame = DataFrame::Open(Open {
            plan: plan_id(1),
            stage,
            sequence: sequence(number),
            rows_max: self.context,
            sampling: Sampling::GREEDY,
            end_tokens: vec![END],
            prefix,
        });
        let from = node(from);
        self.feed(Input::Arrived { from, frame });
    }

    fn close(&mut self, from: u8, stage: u16, number: u64) {
        let frame = DataFrame::Close(Close {
            plan: plan_id(1),
            stage,
            sequence: sequence(number),
        });
        let from = node(from);
        self.feed(Input::Arrived { from, frame });
    }

    /// Runs `rows` rows of a new sequence and ends it.
    fn live(&mut self, number: u64, rows: u32) {
        self.live_on(number, None, rows);
    }

    /// The same after rows of another, if so said.
    fn live_on(&mut self, number: u64, prefix: Option<(u64, u32)>, rows: u32) {
        self.open_with(1, 1, number, prefix);
        let first = prefix.map_or(0, |(_, rows)| rows);
        self.rows(1, 1, &[span(number, first, rows, Ask::Nothing)]);
        let pass = self.passes.pop().expect("an idle engine starts at once");
        self.done(&pass);
        self.close(1, 1, number);
    }

    /// What the driver was told last.
    fn refusal(&self) -> Option<FailedWhy> {
        let (_, frame) = self.sent.last()?;
        match frame {
            DataFrame::Failed(failed) => Some(failed.why),
            _ => None,
        }
    }

    fn rows(&mut self, from: u8, stage: u16, spans: &[Span]) {
        let count: u32 = spans.iter().map(|span| span.rows).sum();
        let width = u32::from(stage > 0);
        let header = Rows {
            plan: plan_id(1),
            stage,
            dtype: DType::F32,
            width,
            spans: spans.to_vec(),
            tokens: (0..count).collect(),
        };
        let payload: Vec<f32> = (0..count * width).map(|row| row as f32).collect();
        let frame = DataFrame::Rows(RowsFrame::build(&header, &payload));
        let from = node(from);
        self.feed(Input::Arrived { from, frame });
    }

    fn done(&mut self, pass: &Pass) {
        let rows: u32 = pass.items.iter().map(|item| item.span.rows).sum();
        let output = PassOutput {
            hidden: vec![0.5; rows as usize],
            width: 1,
            sampled: Vec::new(),
            failed: Vec::new(),
        };
        let (plan, result) = (pass.plan, Ok(output));
        self.feed(Input::PassDone { plan, result });
    }
}

fn sequence(number: u64) -> SequenceId {
    SequenceId {
        driver: node(DRIVER),
        number,
    }
}

fn span(number: u64, position: u32, rows: u32, ask: Ask) -> Span {
    Span {
        sequence: sequence(number),
        position,
        rows,
        ask,
    }
}

fn shape(pass: &Pass) -> Vec<(u64, u32, u32)> {
    let of = |item: &PassItem| {
        let span = item.span;
        (span.sequence.number, span.position, span.rows)
    };
    pass.items.iter().map(of).collect()
}

#[test]
fn whatever_waits_goes_in_one_pass_decode_rows_first() {
    let mut rig = Rig::new(1);
    for number in 1..=3 {
        rig.open(1, 1, number);
    }
    rig.rows(1, 1, &[span(1, 0, 1, Ask::Token)]);
    assert_eq!(
        shape(&rig.passes[0]),
        [(1, 0, 1)],
        "an idle engine starts at once"
    );
    rig.rows(
        1,
        1,
        &[span(2, 0, 8, Ask::Nothing), span(3, 0, 1, Ask::Token)],
    );
    assert_eq!(rig.passes.len(), 1, "one pass at a time");
    let first = rig.passes[0].clone();
    rig.done(&first);
    assert_eq!(shape(&rig.passes[1]), [(3, 0, 1), (2, 0, 8)]);
    let (to, frame) = rig.sent.last().unwrap();
    let DataFrame::Rows(rows) = frame else {
        panic!("{frame:?}");
    };
    assert_eq!(
        (*to, rows.stage(), rows.payload()),
        (node(3), 2, &[0.5][..])
    );
}

#[test]
fn rows_of_one_sequence_never_overtake_each_other() {
    let mut rig = Rig::new(1);
    rig.open(1, 1, 1);
    rig.open(1, 1, 2);
    rig.rows(1, 1, &[span(2, 0, 1, Ask::Token)]);
    rig.rows(1, 1, &[span(1, 0, 4, Ask::Nothing)]);
    rig.rows(1, 1, &[span(1, 4, 1, Ask::Token)]);
    let mut seen = Vec::new();
    while let Some(pass) = rig.passes.pop() {
        seen.extend(shape(&pass));
        rig.done(&pass);
    }
    assert_eq!(seen, [(2, 0, 1), (1, 0, 4), (1, 4, 1)]);
}

#[test]
fn a_replayed_row_is_computed_once_and_a_gap_fails_the_sequence() {
    let mut rig = Rig::new(1);
    rig.open(1, 1, 1);
    rig.rows(1, 1, &[span(1, 0, 4, Ask::Nothing)]);
    rig.rows(1, 1, &[span(1, 2, 4, Ask::Token)]);
    let first = rig.passes[0].clone();
    rig.done(&first);
    let second = &rig.passes[1];
    assert_eq!(shape(second), [(1, 4, 2)], "only the rows that are new");
    assert_eq!(
        second.items[0].hidden(),
        [2.0, 3.0],
        "and they are the right ones"
    );
    assert_eq!(rig.machine.counters().replayed_rows, 2);
    rig.rows(1, 1, &[span(1, 7, 1, Ask::Token)]);
    let (to, frame) = rig.sent.last().unwrap();
    let DataFrame::Failed(failed) = frame else {
        panic!("{frame:?}");
    };
    assert_eq!((*to, failed.why), (node(DRIVER), FailedWhy::Gap));
}

#[test]
fn what_does_not_fit_is_refused_by_name() {
    let mut rig = Rig::new(1);
    for number in 1..=5 {
        rig.open(1, 1, number);
    }
    let whys = |rig: &Rig| -> Vec<FailedWhy> {
        let failed = rig.sent.iter().filter_map(|(_, frame)| match frame {
            DataFrame::Failed(failed) => Some(failed.why),
            _ => None,
        });
        failed.collect()
    };
    assert_eq!(whys(&rig), [FailedWhy::Busy], "the plan has four places");
    rig.rows(1, 1, &[span(1, 0, 65, Ask::Token)]);
    rig.rows(1, 1, &[span(77, 0, 1, Ask::Token)]);
    assert_eq!(
        whys(&rig)[1..],
        [FailedWhy::Overflow, FailedWhy::Gap],
        "past what was opened; never opened"
    );
}

#[test]
fn only_the_stage_before_and_the_driver_may_send() {
    let mut rig = Rig::new(1);
    rig.open(3, 1, 1);
    rig.open(DRIVER, 1, 1);
    rig.open(1, 0, 1);
    assert_eq!(rig.machine.counters().refused, 3);
    assert_eq!(rig.machine.sequences(), 0);
    let mut first = Rig::new(0);
    first.open(2, 0, 1);
    first.open(DRIVER, 0, 2);
    assert_eq!(first.machine.counters().refused, 1);
    assert_eq!(first.machine.sequences(), 1);
}

#[test]
fn a_node_that_leaves_says_nothing_of_rows_that_still_come() {
    let mut rig = Rig::new(1);
    rig.open(1, 1, 1);
    rig.rows(1, 1, &[span(1, 0, 4, Ask::Nothing)]);
    rig.feed(Input::Members(View {
        nodes: [node(2)].into(),
        ..View::default()
    }));
    rig.sent.clear();
    rig.rows(1, 1, &[span(1, 4, 1, Ask::Token)]);
    assert!(rig.sent.is_empty(), "{:?}", rig.sent);
    assert_eq!(rig.machine.counters().refused, 1);
}

#[test]
fn frames_of_unknown_plans_are_counted_and_dropped() {
    let mut rig = Rig::new(1);
    let frame = DataFrame::Close(Close {
        plan: plan_id(7),
        stage: 1,
        sequence: sequence(1),
    });
    let from = node(1);
    rig.feed(Input::Arrived { from, frame });
    assert_eq!(rig.machine.counters().stale, 1);
    assert!(rig.sent.is_empty());
}

#[test]
fn a_full_link_stops_the_stage_and_keeps_the_order() {
    let mut rig = Rig::new(1);
    rig.open(1, 1, 1);
    rig.sent.clear();
    rig.full = true;
    let mut position = 0;
    for _ in 0..2 * OUTBOX_MAX {
        rig.rows(1, 1, &[span(1, position, 1, Ask::Token)]);
        position += 1;
        if let Some(pass) = rig.passes.pop() {
            rig.done(&pass);
        }
    }
    while let Some(pass) = rig.passes.pop() {
        rig.done(&pass);
    }
    assert!(rig.machine.queue_rows() > 0, "it computes no further");
    rig.full = false;
    rig.feed(Input::LinkReady { peer: node(3) });
    while let Some(pass) = rig.passes.pop() {
        rig.done(&pass);
    }
    let positions: Vec<u32> = rig
        .sent
        .iter()
        .filter_map(|(_, frame)| match frame {
            DataFrame::Rows(rows) => rows.spans().next().map(|span| span.position),
            _ => None,
        })
        .collect();
    assert_eq!(positions, (0..position).collect::<Vec<_>>());
}

#[test]
fn an_older_plan_goes_with_its_last_sequence() {
    let mut rig = Rig::new(1);
    rig.open(1, 1, 1);
    let mut newer = fixture_plan(&[(1, 0..3), (2, 3..6)]);
    newer.id = plan_id(2);
    let (plan, stage) = (Arc::new(newer), 1);
    rig.feed(Input::Load {
        plan: Arc::clone(&plan),
        stage,
    });
    let standby = vec![LayerRange { first: 0, end: 3 }];
    rig.feed(Input::Adopted { plan, standby });
    let kept =
        |order: &Output| matches!(order, Output::KeepLayers { standby, .. } if standby.len() == 1);
    assert!(rig.others.iter().any(kept), "{:?}", rig.others);
    let dropped = |rig: &Rig| {
        let drops = |order: &&Output| matches!(order, Output::DropLayers { .. });
        rig.others.iter().filter(drops).count()
    };
    assert_eq!(dropped(&rig), 0, "a sequence is still under way");
    let frame = DataFrame::Close(Close {
        plan: plan_id(1),
        stage: 1,
        sequence: sequence(1),
    });
    let from = node(1);
    rig.feed(Input::Arrived { from, frame });
    assert_eq!(dropped(&rig), 1);
}

#[test]
fn a_driver_that_is_gone_frees_its_places() {
    let mut rig = Rig::new(1);
    rig.open(1, 1, 1);
    rig.feed(Input::Members(View {
        nodes: [1, 2, 3].map(node).into(),
        ..View::default()
    }));
    assert_eq!(rig.machine.sequences(), 0);
    let closes = |order: &&Output| matches!(order, Output::CloseSlot { .. });
    assert_eq!(rig.others.iter().filter(closes).count(), 1);
}

#[test]
fn a_sequence_starts_with_rows_of_one_that_ended() {
    let mut rig = Rig::new(1);
    rig.live(1, 40);
    rig.open_with(1, 1, 2, Some((1, 41)));
    assert_eq!(
        rig.refusal(),
        Some(FailedWhy::Forgotten),
        "there are but 40"
    );
    rig.open_with(1, 1, 2, Some((1, 30)));
    let slot = rig.others.last();
    assert!(
        matches!(slot, Some(Output::OpenSlot { prefix: Some(prefix), .. }) if prefix.rows == 30),
        "{slot:?}"
    );
    rig.rows(1, 1, &[span(2, 30, 2, Ask::Token)]);
    assert_eq!(shape(rig.passes.last().unwrap()), [(2, 30, 2)]);
    let counters = rig.machine.counters();
    assert_eq!((counters.prefix_hits, counters.prefix_rows), (1, 30));
}

#[test]
fn rows_under_way_can_be_shared_once_they_are_ordered() {
    let mut rig = Rig::new(1);
    rig.open(1, 1, 1);
    rig.open_with(1, 1, 2, Some((1, 20)));
    assert_eq!(rig.refusal(), Some(FailedWhy::Forgotten), "not a row yet");
    rig.rows(1, 1, &[span(1, 0, 20, Ask::Token)]);
    rig.open_with(1, 1, 2, Some((1, 20)));
    assert_eq!(rig.machine.sequences(), 2);
}

#[test]
fn a_failed_pass_leaves_nothing_to_start_with() {
    let mut rig = Rig::new(1);
    rig.open(1, 1, 1);
    rig.rows(1, 1, &[span(1, 0, 20, Ask::Token)]);
    rig.close(1, 1, 1);
    let (plan, result) = (plan_id(1), Err("no memory".to_owned()));
    rig.feed(Input::PassDone { plan, result });
    rig.open_with(1, 1, 2, Some((1, 20)));
    assert_eq!(rig.refusal(), Some(FailedWhy::Forgotten));
}

/// Sequences whose slots were closed.
#[test]
fn a_sequence_that_fails_takes_no_other_with_it() {
    let mut rig = Rig::new(1);
    for number in 0..=3 {
        rig.open(1, 1, number);
    }
    // The engine is busy with one while the others come.
    rig.rows(1, 1, &[span(0, 0, 1, Ask::Nothing)]);
    let spans = [1, 2, 3].map(|number| span(number, 0, 2 * number as u32, Ask::Nothing));
    rig.rows(1, 1, &spans);
    let busy = rig.passes.remove(0);
    rig.done(&busy);
    let pass = rig.passes.pop().expect("the others");
    assert_eq!(shape(&pass), [(1, 0, 2), (2, 0, 4), (3, 0, 6)]);
    rig.sent.clear();
    let result = Ok(PassOutput {
        hidden: vec![0.5; 8],
        width: 1,
        sampled: Vec::new(),
        failed: vec![(sequence(2), "a fault".to_owned())],
    });
    rig.feed(Input::PassDone {
        plan: pass.plan,
        result,
    });
    let [
        (driver, DataFrame::Failed(failed)),
        (next, DataFrame::Rows(rows)),
    ] = &rig.sent[..]
    else {
        panic!("{:?}", rig.sent);
    };
    assert_eq!((driver, failed.sequence), (&node(DRIVER), sequence(2)));
    assert_eq!(
        (failed.why, &failed.detail[..]),
        (FailedWhy::Engine, "a fault")
    );
    assert_eq!(*next, node(3));
    let kept: Vec<(u64, u32)> = rows
        .spans()
        .map(|span| (span.sequence.number, span.rows))
        .collect();
    assert_eq!(kept, [(1, 2), (3, 6)]);
    assert_eq!(
        rows.tokens().collect::<Vec<_>>(),
        [0, 1, 6, 7, 8, 9, 10, 11]
    );
}

fn closed(rig: &Rig) -> Vec<u64> {
    let closed = rig.others.iter().filter_map(|order| match order {
        Output::CloseSlot { sequence, .. } => Some(sequence.number),
        _ => None,
    });
    closed.collect()
}

#[test]
fn what_was_kept_goes_when_room_is_needed_the_oldest_first() {
    let mut rig = Rig::new(1);
    // Four places of one page each.
    for number in 1..=4 {
        rig.live(number, 20);
    }
    rig.open_with(1, 1, 5, Some((1, 20)));
    assert_eq!(closed(&rig), [2], "1 was used last");
    rig.open(1, 1, 6);
    assert_eq!(closed(&rig), [2, 3]);
    assert_eq!(rig.machine.sequences(), 2, "those under way stay");
}

#[test]
fn pages_that_chats_share_take_room_once() {
    // Four places of four pages.
    let mut rig = Rig::with_context(1, 1024);
    rig.live(1, 1000);
    // Three whole pages are shared, so each takes one more.
    for number in 2..=13 {
        rig.live_on(number, Some((1, 1000)), 20);
    }
    assert_eq!(closed(&rig), [0; 0], "4 + 12 pages");
    rig.open_with(1, 1, 14, Some((1, 1000)));
    assert_eq!(closed(&rig), [2]);
    rig.open(1, 1, 15);
    assert_eq!(closed(&rig), [2, 3, 4, 5, 6], "it shares nothing");
}

#[test]
fn rows_of_another_driver_are_out_of_reach() {
    let mut first = Rig::new(0);
    first.members_with(8);
    first.open(DRIVER, 0, 1);
    first.rows(DRIVER, 0, &[span(1, 0, 20, Ask::Token)]);
    let stranger = SequenceId {
        driver: node(8),
        number: 1,
    };
    let frame = DataFrame::Open(Open {
        plan: plan_id(1),
        stage: 0,
        sequence: stranger,
        rows_max: 64,
        sampling: Sampling::GREEDY,
        end_tokens: vec![END],
        prefix: Some(Prefix {
            sequence: sequence(1),
            rows: 20,
        }),
    });
    let from = node(8);
    first.feed(Input::Arrived { from, frame });
    assert_eq!(first.refusal(), Some(FailedWhy::Forgotten));
}

/// Tokens of sequences at positions, as the last stage sends them.
fn sampled(tokens: &[(u64, u32, u32)]) -> Sampled {
    let token = |(number, position, token): &(u64, u32, u32)| SampledToken {
        sequence: sequence(*number),
        position: *position,
        token: *token,
        logprob: -1.0,
    };
    Sampled {
        plan: plan_id(1),
        goes_on: true,
        tokens: tokens.iter().map(token).collect(),
    }
}

/// Tokens come to this node's stage.
fn come(rig: &mut Rig, from: u8, tokens: &[(u64, u32, u32)]) {
    let frame = DataFrame::Sampled(sampled(tokens));
    let from = node(from);
    rig.feed(Input::Arrived { from, frame });
}

#[test]
fn the_first_stage_goes_on_with_the_tokens_of_the_last() {
    let mut rig = Rig::with_context(0, 8);
    for number in 1..=4 {
        rig.open(DRIVER, 0, number);
        rig.rows(DRIVER, 0, &[span(number, 0, 5, Ask::Token)]);
        let pass = rig.passes.pop().expect("an idle engine starts at once");
        rig.done(&pass);
    }
    rig.close(DRIVER, 0, 3);
    // One that goes on, one that has ended here, one that its driver has ended, one out of turn.
    let tokens = [(1, 5, 10), (2, 5, END), (3, 5, 10), (4, 6, 10)];
    come(&mut rig, 3, &tokens);
    let pass = rig.passes.pop().expect("a row");
    assert_eq!(shape(&pass), [(1, 5, 1)]);
    assert_eq!(pass.items[0].tokens().collect::<Vec<_>>(), [10]);
    assert_eq!(pass.items[0].span.ask, Ask::Token);
    rig.done(&pass);
    // A repeat, and then all that the sequence has room for: its last token takes the last place.
    come(&mut rig, 3, &[(1, 5, 10), (1, 6, 11)]);
    let pass = rig.passes.pop().expect("a row");
    assert_eq!(shape(&pass), [(1, 6, 1)]);
    rig.done(&pass);
    come(&mut rig, 3, &[(1, 7, 12)]);
    assert!(rig.passes.is_empty());
    assert!(rig.refusal().is_none(), "nobody has failed");
}

#[test]
fn only_the_last_stage_makes_the_first_go_on() {
    for (stage, from) in [(0, 1), (0, 2), (0, DRIVER), (1, 3)] {
        let mut rig = Rig::new(stage);
        let before = if stage == 0 { DRIVER } else { 1 };
        rig.open(before, stage, 1);
        rig.rows(before, stage, &[span(1, 0, 5, Ask::Token)]);
        let pass = rig.passes.pop().expect("an idle engine starts at once");
        rig.done(&pass);
        come(&mut rig, from, &[(1, 5, 10)]);
        assert!(rig.passes.is_empty(), "stage {stage}, from {from}");
        assert_eq!(rig.machine.counters().refused, 1);
    }
}

#[test]
fn the_last_stage_sends_all_tokens_to_the_first_and_each_driver_its_own() {
    let mut rig = Rig::new(2);
    let others = SequenceId {
        driver: node(1),
        number: 7,
    };
    let token = |sequence, position| SampledToken {
        sequence,
        position,
        token: 10,
        logprob: -1.0,
    };
    let all = vec![token(sequence(1), 5), token(others, 3)];
    rig.open(2, 2, 1);
    rig.rows(2, 2, &[span(1, 0, 5, Ask::Token)]);
    let pass = rig.passes.pop().expect("an idle engine starts at once");
    rig.sent.clear();
    let result = Ok(PassOutput {
        hidden: Vec::new(),
        width: 0,
        sampled: all.clone(),
        failed: Vec::new(),
    });
    let plan = pass.plan;
    rig.feed(Input::PassDone { plan, result });
    let told = |goes_on, tokens| {
        DataFrame::Sampled(Sampled {
            plan: plan_id(1),
            goes_on,
            tokens,
        })
    };
    let to_first = (node(1), told(true, all.clone()));
    let to_driver = (node(DRIVER), told(false, vec![all[0]]));
    assert_eq!(rig.sent, [to_first, to_driver]);
}
