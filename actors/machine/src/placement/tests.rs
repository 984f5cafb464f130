//! One node's placement, driven by hand; the planner and the model are real.

use cairn_wire::control::{LinkSeen, Stage, StageSeen};

use super::*;
use crate::fixture::{node, plan as fixture_plan};
use cairn_wire::id::Term;

fn capability(wish: Option<&str>) -> Capability {
    Capability {
        name: "device".to_owned(),
        version: String::new(),
        memory_bytes: 1 << 30,
        threads: 1,
        decode_bytes_per_second: 1 << 30,
        prefill_macs_per_second: 1 << 30,
        layer_nanos: 0,
        head_bytes_per_second: 1 << 30,
        cache_bytes_per_second: 1 << 30,
        attention_macs_per_second: 1 << 30,
        kv_permille: 1000,
        share_permille: 1000,
        host: 0,
        host_cores: 1,
        wish: wish.map(str::to_owned),
        accelerator: None,
    }
}

fn facts(name: &str) -> ModelFacts {
    let layer = cairn_planner::LayerCost {
        weight_bytes: 1 << 20,
        macs_per_row: 1 << 20,
        kv_bytes_per_token: 64,
        ..Default::default()
    };
    ModelFacts {
        model: ModelRef {
            name: name.to_owned(),
            layers: 6,
            ..fixture_plan(&[]).model
        },
        costs: cairn_planner::Model {
            layers: vec![layer; 6],
            hidden_bytes_per_row: 64,
            ..Default::default()
        },
        context_max: 128,
    }
}

fn view(leader: u8, members: &[u8]) -> View {
    View {
        term: Term {
            number: 3,
            leader: node(leader),
        },
        leader: Some(node(leader)),
        nodes: members.iter().map(|number| node(*number)).collect(),
        ..View::default()
    }
}

/// What an end tells of a link.
fn link(peer: u8, round_trip_micros: u64) -> LinkSeen {
    LinkSeen {
        peer: node(peer),
        round_trip_micros,
        bytes_per_second: 0,
    }
}

/// A machine with a clock; the planner and the model store answer at once.
struct Rig {
    machine: PlacementMachine,
    now: Tick,
    /// Orders that the rig does not answer itself.
    orders: Vec<Output>,
    missing_model: Option<String>,
    /// What this node sees of its own stage and links, and every other one of its links.
    seen: Seen,
}

impl Rig {
    fn new(me: u8) -> Self {
        Self::with(me, Strategy::Uniform)
    }

    fn with(me: u8, strategy: Strategy) -> Self {
        let machine = PlacementMachine::new(Config {
            me: node(me),
            strategy,
            default_model: "default".to_owned(),
            context: 64,
            sequences: 2,
        });
        Self {
            machine,
            now: Tick(0),
            orders: Vec::new(),
            missing_model: None,
            seen: Seen {
                stage: None,
                links: (1..=9).map(|peer| link(peer, 300)).collect(),
            },
        }
    }

    fn feed(&mut self, input: Input) {
        self.machine.handle(self.now, input);
        self.drain();
    }

    fn drain(&mut self) {
        while let Some(order) = self.machine.poll() {
            match order {
                Output::Describe { name } => {
                    let missing = self.missing_model.as_ref() == Some(&name);
                    let facts = match missing {
                        true => Err("it is nowhere".to_owned()),
                        false => Ok(facts(&name)),
                    };
                    let described = Input::Described { name, facts };
                    self.machine.handle(self.now, described);
                }
                Output::Solve { question, request } => {
                    let plan = cairn_planner::plan(&request).map_err(|error| error.to_string());
                    let solved = Input::Solved { question, plan };
                    self.machine.handle(self.now, solved);
                }
                // The other looks are for the judgement of the plan in force.
                Output::Look if self.machine.waiting_for() == "this node's links" => {
                    let me = self.machine.me;
                    let others = (1..=9).map(node).filter(|other| *other != me);
                    for from in others.chain([me]) {
                        let seen = self.seen.clone();
                        self.machine.handle(self.now, Input::Seen { from, seen });
                    }
                }
                order => self.orders.push(order),
            }
        }
    }

    /// Lets time pass until nothing is due any more, at most `millis`.
    fn pass(&mut self, millis: u64) {
        let end = self.now.after_millis(millis);
        while let Some(at) = self.machine.deadline().filter(|at| *at <= end) {
            self.now = at.max(self.now);
            self.machine.wake(self.now);
            self.drain();
        }
        self.now = end;
    }

    fn members(&mut self, leader: u8, members: &[u8]) {
        self.feed(Input::Members(view(leader, members)));
        let told = members.iter().map(|n| (node(*n), capability(None)));
        self.feed(Input::Capabilities(told.collect()));
    }

    /// The plan that was proposed last.
    fn proposed(&self) -> Plan {
        let plans = self.orders.iter().rev();
        let loads = plans.filter_map(|order| match order {
            Output::Load { plan, .. } => Some(Plan::clone(plan)),
            _ => None,
        });
        loads.into_iter().next().expect("a plan was proposed")
    }

    fn load_everywhere(&mut self, plan: &Plan) {
        for (index, stage) in plan.stages.iter().enumerate() {
            if stage.node == self.machine.me {
                let result = Ok(1);
                let plan = plan.id;
                self.feed(Input::StageLoaded { plan, result });
            } else {
                let loaded = Loaded {
                    plan: plan.id,
                    stage: u16::try_from(index).unwrap(),
                    weight_bytes: 1,
                };
                let from = stage.node;
                self.feed(Input::Loaded { from, loaded });
            }
        }
    }

    fn sent(&self, pick: impl Fn(&Control) -> bool) -> Vec<NodeId> {
        let sends = self.orders.iter().filter_map(|order| match order {
            Output::Send { to, message } if pick(message) => Some(*to),
            _ => None,
        });
        sends.collect()
    }

    fn adopt(&mut self) -> Plan {
        let plan = self.proposed();
        self.load_everywhere(&plan);
        let result = Ok(());
        self.feed(Input::Probed {
            plan: plan.id,
            result,
        });
        assert_eq!(self.machine.adopted().map(|plan| plan.id), Some(plan.id));
        plan
    }
}

fn layers(plan: &Plan) -> Vec<(NodeId, u32, u32)> {
    let of = |stage: &Stage| (stage.node, stage.first, stage.end);
    plan.stages.iter().map(of).collect()
}

#[test]
fn a_plan_is_in_force_only_after_every_load_and_a_token() {
    let mut rig = Rig::new(1);
    rig.members(1, &[1, 2, 3]);
    rig.pass(1_000);
    let plan = rig.proposed();
    assert_eq!(plan.stages.len(), 3);
    assert_eq!(
        rig.sent(|message| matches!(message, Control::Propose(_))),
        [node(2), node(3)]
    );
    let probes = |rig: &Rig| {
        let probe = |order: &&Output| matches!(order, Output::Probe { .. });
        rig.orders.iter().filter(probe).count()
    };
    assert_eq!(probes(&rig), 0, "not loaded yet");
    rig.load_everywhere(&plan);
    assert_eq!(probes(&rig), 1);
    assert_eq!(rig.machine.adopted(), None, "no token yet");
    let result = Ok(());
    rig.feed(Input::Probed {
        plan: plan.id,
        result,
    });
    assert_eq!(rig.machine.adopted().map(|plan| plan.id), Some(plan.id));
    assert_eq!(
        rig.sent(|message| matches!(message, Control::Adopt(_))),
        [node(2), node(3)]
    );
}

#[test]
fn members_who_come_and_go_are_taken_in_and_out() {
    let mut rig = Rig::new(1);
    rig.members(1, &[1]);
    rig.pass(1_000);
    assert_eq!(layers(&rig.adopt()), [(node(1), 0, 6)]);
    rig.members(1, &[1, 2]);
    rig.pass(1_000);
    let both = rig.adopt();
    assert_eq!(layers(&both), [(node(1), 0, 3), (node(2), 3, 6)]);
    rig.members(1, &[1]);
    rig.pass(1_000);
    let alone = rig.adopt();
    assert_eq!(layers(&alone), [(node(1), 0, 6)]);
    assert!(alone.id > both.id);
}

#[test]
fn a_node_that_cannot_load_is_left_out_for_a_while() {
    let mut rig = Rig::new(1);
    rig.members(1, &[1, 2]);
    rig.pass(1_000);
    let plan = rig.proposed();
    let failed = LoadFailed {
        plan: plan.id,
        stage: 1,
        detail: "disk full".to_owned(),
    };
    let from = node(2);
    rig.feed(Input::LoadFailed { from, failed });
    rig.pass(1_000);
    assert_eq!(layers(&rig.adopt()), [(node(1), 0, 6)]);
    rig.pass(120_000);
    assert_eq!(rig.adopt().stages.len(), 2, "it gets another chance");
}

#[test]
fn an_owner_that_leaves_while_it_loads_ends_the_attempt() {
    let mut rig = Rig::new(1);
    rig.members(1, &[1, 2, 3]);
    rig.pass(1_000);
    let first = rig.proposed();
    rig.members(1, &[1, 3]);
    assert_eq!(
        rig.sent(|message| matches!(message, Control::Abandon(_))),
        [node(3)],
        "those who stay are told"
    );
    rig.pass(1_000);
    let second = rig.adopt();
    assert!(second.id > first.id);
    assert_eq!(layers(&second), [(node(1), 0, 3), (node(3), 3, 6)]);
}

#[test]
fn members_that_do_not_hear_each_other_are_not_planned_together() {
    let mut rig = Rig::new(1);
    rig.members(1, &[1, 2, 3]);
    let mut cut = view(1, &[1, 2, 3]);
    cut.deaf = [(node(2), node(3))].into();
    rig.feed(Input::Members(cut.clone()));
    rig.pass(1_000);
    let apart = rig.adopt();
    assert_eq!(layers(&apart), [(node(1), 0, 3), (node(2), 3, 6)]);
    rig.feed(Input::Members(view(1, &[1, 2, 3])));
    rig.pass(1_000);
    let whole = rig.proposed();
    assert_eq!(whole.stages.len(), 3, "the cut has healed");
    rig.feed(Input::Members(cut));
    rig.pass(1_000);
    assert_eq!(rig.proposed().id, whole.id, "it may be back in a moment");
    rig.pass(2_000);
    let again = rig.adopt();
    assert_eq!(again.stages, apart.stages, "while it loads, too");
    rig.pass(60_000);
    assert_eq!(rig.proposed().id, again.id, "and then there is peace");
}

#[test]
fn a_failed_probe_is_tried_again_with_a_new_plan() {
    let mut rig = Rig::new(1);
    rig.members(1, &[1, 2]);
    rig.pass(1_000);
    let first = rig.proposed();
    rig.load_everywhere(&first);
    let result = Err("no token".to_owned());
    rig.feed(Input::Probed {
        plan: first.id,
        result,
    });
    assert_eq!(rig.machine.adopted(), None);
    rig.pass(10_000);
    assert!(rig.adopt().id > first.id);
}

#[test]
fn a_model_that_cannot_be_had_is_named_and_tried_again() {
    let mut rig = Rig::new(1);
    rig.missing_model = Some("default".to_owned());
    rig.members(1, &[1]);
    rig.pass(1_000);
    assert!(rig.machine.waiting_for().contains("nowhere"));
    rig.missing_model = None;
    rig.pass(10_000);
    rig.adopt();
}

#[test]
fn the_leaders_wish_comes_first_then_the_first_members() {
    for (mine, theirs, served) in [
        (None, None, "default"),
        (None, Some("theirs"), "theirs"),
        (Some("mine"), Some("theirs"), "mine"),
    ] {
        let mut rig = Rig::new(1);
        rig.feed(Input::Members(view(1, &[1, 2])));
        let told = [(node(1), capability(mine)), (node(2), capability(theirs))];
        rig.feed(Input::Capabilities(told.into()));
        rig.pass(1_000);
        assert_eq!(rig.adopt().model.name, served);
    }
}

/// A follower, node 2, of leader 1.
fn follower() -> Rig {
    let mut rig = Rig::new(2);
    rig.members(1, &[1, 2]);
    rig
}

fn proposal(epoch: u64) -> Plan {
    let mut plan = fixture_plan(&[(1, 0..3), (2, 3..6)]);
    plan.id.term = view(1, &[]).term;
    plan.id.epoch = epoch;
    plan
}

#[test]
fn a_follower_never_goes_back_to_an_older_plan() {
    let mut rig = follower();
    let from = node(1);
    for epoch in [2, 1] {
        let plan = proposal(epoch);
        rig.feed(Input::Proposed { from, plan });
    }
    let loads = rig.orders.iter();
    let loads = loads.filter(|order| matches!(order, Output::Load { .. }));
    assert_eq!(loads.count(), 1, "the older one is stale");
    let plan = proposal(2).id;
    rig.feed(Input::StageLoaded {
        plan,
        result: Ok(7),
    });
    rig.feed(Input::Adopt {
        from,
        plan: proposal(1).id,
    });
    assert_eq!(rig.machine.adopted(), None);
    rig.feed(Input::Adopt { from, plan });
    assert_eq!(rig.machine.adopted().map(|plan| plan.id), Some(plan));
}

#[test]
fn a_plan_of_a_leader_that_was_deposed_is_not_adopted() {
    let mut rig = follower();
    let (from, plan) = (node(1), proposal(1));
    let id = plan.id;
    rig.feed(Input::Proposed { from, plan });
    let result = Ok(7);
    rig.feed(Input::StageLoaded { plan: id, result });
    let mut later = view(3, &[1, 2, 3]);
    later.term.number += 1;
    rig.feed(Input::Members(later));
    rig.feed(Input::Adopt { from, plan: id });
    assert_eq!(rig.machine.adopted(), None);
}

#[test]
fn a_follower_does_not_adopt_what_it_has_not_loaded() {
    let mut rig = follower();
    let (from, plan) = (node(1), proposal(1));
    let id = plan.id;
    rig.feed(Input::Proposed { from, plan });
    rig.feed(Input::Adopt { from, plan: id });
    assert_eq!(rig.machine.adopted(), None);
}

#[test]
fn plans_of_others_than_the_leader_are_refused() {
    let mut rig = follower();
    rig.members(1, &[1, 2, 3]);
    rig.orders.clear();
    let plan = proposal(1);
    rig.feed(Input::Proposed {
        from: node(3),
        plan,
    });
    let mut bad = proposal(1);
    bad.stages[1].first = 4;
    rig.feed(Input::Proposed {
        from: node(1),
        plan: bad,
    });
    let refused = |order: &Output| matches!(order, Output::Note(Note::Refused { .. }));
    assert_eq!(rig.orders.len(), 2);
    assert!(rig.orders.iter().all(refused), "{:?}", rig.orders);
}

#[test]
fn a_proposal_ahead_of_its_leaders_claim_waits_for_it() {
    let mut rig = Rig::new(2);
    let (from, plan) = (node(1), proposal(1));
    rig.feed(Input::Proposed { from, plan });
    assert!(rig.orders.is_empty());
    rig.members(1, &[1, 2]);
    assert_eq!(rig.proposed().id, proposal(1).id);
}

#[test]
fn a_repeated_proposal_is_answered_again() {
    let mut rig = follower();
    let (from, plan) = (node(1), proposal(1));
    rig.feed(Input::Proposed {
        from,
        plan: plan.clone(),
    });
    rig.feed(Input::StageLoaded {
        plan: plan.id,
        result: Ok(7),
    });
    rig.feed(Input::Proposed { from, plan });
    let answers = rig.sent(|message| matches!(message, Control::Loaded(_)));
    assert_eq!(answers, [node(1), node(1)]);
}

#[test]
fn a_stage_that_does_not_reach_every_owner_yet_answers_when_it_does() {
    let mut rig = follower();
    let mut plan = proposal(1);
    plan.stages.push(Stage {
        node: node(3),
        first: 6,
        end: 7,
        ..plan.stages[0].clone()
    });
    plan.model.layers = 7;
    let (from, id) = (node(1), plan.id);
    rig.feed(Input::Proposed { from, plan });
    rig.feed(Input::StageLoaded {
        plan: id,
        result: Ok(7),
    });
    let loaded = |message: &Control| matches!(message, Control::Loaded(_));
    assert!(rig.sent(loaded).is_empty(), "node 3 is not in sight");
    rig.members(1, &[1, 2, 3]);
    assert_eq!(rig.sent(loaded), [node(1)]);
}

/// Lets a second pass after which the leader looks at its plan; what it asks of the planner.
fn question(rig: &mut Rig, stages: &[(u8, StageSeen)]) -> Option<Question> {
    rig.orders.clear();
    rig.pass(1_100);
    let looks = rig.orders.contains(&Output::Look);
    let of = |number| Seen {
        stage: stages
            .iter()
            .find(|(of, _)| *of == number)
            .map(|(_, stage)| *stage),
        links: Vec::new(),
    };
    let (from, seen) = (node(2), of(2));
    if seen.stage.is_some() {
        rig.feed(Input::Seen { from, seen });
    }
    if looks {
        let (from, seen) = (rig.machine.me, of(1));
        rig.feed(Input::Seen { from, seen });
    }
    let mut newest_first = rig.orders.iter().rev();
    newest_first.find_map(|order| match order {
        Output::Judge(question) => Some(Question::clone(question)),
        _ => None,
    })
}

fn stage_seen(plan: &Plan, decode_micros: u64) -> StageSeen {
    StageSeen {
        plan: plan.id,
        decode_micros,
        queue_wait_micros: 0,
    }
}

/// Two members that serve a plan by speed.
fn by_speed() -> (Rig, Plan) {
    let mut rig = Rig::with(1, Strategy::Compute);
    rig.members(1, &[1, 2]);
    rig.pass(1_000);
    let plan = rig.adopt();
    assert_eq!(plan.stages.len(), 2);
    (rig, plan)
}

#[test]
fn a_slow_stage_moves_layers_after_some_judgements() {
    let (mut rig, plan) = by_speed();
    let forecast = |stage: usize| plan.explain.stages[stage].decode_micros;
    for round in 1..=5 {
        let (true_one, slow) = (
            stage_seen(&plan, forecast(0)),
            stage_seen(&plan, forecast(1) * 5),
        );
        let asked = question(&mut rig, &[(1, true_one), (2, slow)]);
        let asked = asked.expect("it looks once a second");
        assert_eq!(asked.observed.len(), 2);
        let number = asked.number;
        // What nobody asked about is no answer.
        let result = asked.judge().map(Box::new);
        rig.feed(Input::Judged {
            number: number + 1,
            result: result.clone(),
        });
        assert!(
            rig.sent(|message| matches!(message, Control::Propose(_)))
                .is_empty()
        );
        rig.feed(Input::Judged { number, result });
        let proposals = rig.sent(|message| matches!(message, Control::Propose(_)));
        assert_eq!(proposals.len(), usize::from(round == 5), "round {round}");
    }
    let moved = rig.proposed();
    let held = |plan: &Plan| plan.stages[1].end - plan.stages[1].first;
    assert!(held(&moved) < held(&plan));
    let mut drifts = moved.explain.drifts.iter();
    let slow = drifts.find(|drift| drift.node == node(2));
    let slow = slow.expect("whoever leads next must know");
    assert!(slow.measured_micros > 4 * slow.forecast_micros);
    assert!(rig.orders.iter().any(|order| matches!(
        order,
        Output::Note(Note::Replanning { why }) if why.contains("5.0 times as long")
    )));
}

#[test]
fn what_was_seen_under_another_plan_or_long_ago_does_not_count() {
    let (mut rig, plan) = by_speed();
    let mut other = plan.clone();
    other.id.epoch += 7;
    let asked = question(&mut rig, &[(2, stage_seen(&other, 9))]).expect("it looks");
    assert_eq!(asked.observed, []);
    let result = Err("the planner is out".to_owned());
    let number = asked.number;
    rig.feed(Input::Judged { number, result });
    let asked = question(&mut rig, &[(2, stage_seen(&plan, 9))]).expect("it looks again");
    assert_eq!(asked.observed.len(), 1);
    assert_eq!(question(&mut rig, &[]), None, "the answer is awaited");
    rig.pass(5_000);
    let result = Err("the planner is out".to_owned());
    let number = asked.number;
    rig.feed(Input::Judged { number, result });
    // An answer that takes so long is not asked for soon again.
    assert_eq!(question(&mut rig, &[]), None);
    rig.pass(120_000);
    let asked = question(&mut rig, &[]).expect("it looks again");
    assert_eq!(asked.observed, [], "told too long ago");
}

#[test]
fn a_users_own_list_and_equal_shares_are_not_judged() {
    let id = |number| cairn_planner::DeviceId(node(number).0);
    let custom = Strategy::Custom(vec![(id(1), 0..1), (id(2), 1..6)]);
    for strategy in [Strategy::Uniform, Strategy::Memory, custom] {
        let mut rig = Rig::with(1, strategy);
        rig.members(1, &[1, 2]);
        rig.pass(1_000);
        rig.adopt();
        assert_eq!(question(&mut rig, &[]), None);
    }
}

#[test]
fn the_first_plan_is_made_with_the_links_that_this_node_has_seen() {
    let mut rig = Rig::with(1, Strategy::Balanced);
    rig.seen.links = vec![link(2, 8_192)];
    rig.members(1, &[1, 2]);
    rig.pass(2_000);
    let plan = rig.proposed();
    // There and home.
    assert!(plan.explain.hops_micros >= 8_192, "{:?}", plan.explain);
}

#[test]
fn a_plan_waits_for_links_that_are_not_measured_yet_but_not_for_ever() {
    // When the link of 1 and 2 is measured, and when the plan is made: the members settle for
    // 400 ms, and the link is looked at every 200 ms after that.
    for (measured, planned) in [(0, 400), (450, 600), (2_300, 2_400), (u64::MAX, 2_400)] {
        let mut rig = Rig::with(1, Strategy::Balanced);
        let all = std::mem::take(&mut rig.seen.links);
        rig.members(1, &[1, 2]);
        while rig.now.0 < planned {
            assert!(!proposes(&rig), "{measured}: made at {:?}", rig.now);
            if rig.now.0 >= measured {
                rig.seen.links.clone_from(&all);
            }
            rig.pass(50);
        }
        assert!(proposes(&rig), "{measured}: not made at {planned}");
    }
}

#[test]
fn a_node_alone_has_no_links_to_wait_for() {
    let mut rig = Rig::with(1, Strategy::Balanced);
    rig.seen.links.clear();
    rig.members(1, &[1]);
    rig.pass(400);
    assert!(proposes(&rig));
}

#[test]
fn nobody_waits_for_links_when_layers_have_lost_their_owner() {
    let mut rig = Rig::new(1);
    rig.members(1, &[1, 2, 3]);
    rig.pass(400);
    rig.adopt();
    rig.orders.clear();
    rig.seen.links.clear();
    rig.pass(10_000);
    rig.members(1, &[1, 2]);
    rig.pass(400);
    assert!(proposes(&rig));
}

fn proposes(rig: &Rig) -> bool {
    let mut orders = rig.orders.iter();
    orders.any(|order| matches!(order, Output::Load { .. }))
}
