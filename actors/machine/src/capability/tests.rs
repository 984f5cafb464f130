use cairn_wire::control::{Capability, NodeStatus};
use cairn_wire::id::NodeId;

use super::{
    Calm, CapabilityMachine, Doubt, Input, NEWCOMER_MILLIS, Observed, Output, STATUS_MILLIS,
};
use crate::fixture::node;
use crate::view::View;
use crate::{Machine, Tick};

fn capability() -> Capability {
    Capability {
        name: "a".to_owned(),
        version: "0".to_owned(),
        memory_bytes: 1,
        threads: 1,
        decode_bytes_per_second: 1,
        prefill_macs_per_second: 1,
        layer_nanos: 0,
        head_bytes_per_second: 1,
        cache_bytes_per_second: 1,
        attention_macs_per_second: 1,
        kv_permille: 1000,
        share_permille: 1000,
        host: 0,
        host_cores: 1,
        wish: None,
        accelerator: None,
    }
}

/// A node that tells its status once a second.
struct Node {
    machine: CapabilityMachine,
    second: u64,
    rows_total: u64,
}

impl Node {
    fn measured(calm: Calm) -> Node {
        let mut node = Node {
            machine: CapabilityMachine::new(NodeId([1; 32])),
            second: 0,
            rows_total: 0,
        };
        node.tell_measured(calm);
        node
    }

    fn now(&self) -> Tick {
        Tick(self.second * 1000)
    }

    fn tell(&mut self, input: Input) -> Vec<Doubt> {
        let now = self.now();
        self.machine.handle(now, input);
        let outputs = std::iter::from_fn(|| self.machine.poll());
        let doubts = outputs.filter_map(|output| match output {
            Output::Measure(doubt) => Some(doubt),
            Output::TakeStatus | Output::Send { .. } | Output::Changed(_) => None,
        });
        doubts.collect()
    }

    fn tell_measured(&mut self, calm: Calm) {
        let capability = capability();
        self.tell(Input::Measured { capability, calm });
    }

    /// What is ordered in so many seconds, in each of which so many rows are computed.
    fn pass(&mut self, seconds: u64, rows: u64) -> Vec<Doubt> {
        let mut ordered = Vec::new();
        for _ in 0..seconds {
            self.second += 1;
            self.rows_total += rows;
            ordered.extend(self.tell(Input::StatusTaken(NodeStatus {
                loading_permille: 1000,
                rows_total: self.rows_total,
                ..NodeStatus::default()
            })));
        }
        ordered
    }

    fn observe(&mut self, times: u32, measured_micros: u64) {
        for _ in 0..times {
            let observed = Observed {
                forecast_micros: 1000,
                measured_micros,
            };
            self.tell(Input::Observed(observed));
        }
    }
}

#[test]
fn a_calm_measurement_is_not_repeated() {
    let mut node = Node::measured(Calm::Calm);
    assert_eq!(node.pass(100, 0), []);
}

#[test]
fn a_disturbed_one_is_repeated_when_idle_and_ever_more_rarely() {
    let mut node = Node::measured(Calm::Disturbed);
    assert_eq!(node.pass(60, 1), [], "rows are computed");
    assert_eq!(node.pass(6, 0), [Doubt::Disturbed]);
    assert_eq!(node.pass(60, 0), [], "one at a time");
    node.tell_measured(Calm::Disturbed);
    assert_eq!(node.pass(15, 0), [], "it rests for twice as long");
    assert_eq!(node.pass(10, 0), [Doubt::Disturbed]);
    node.tell_measured(Calm::Calm);
    assert_eq!(node.pass(1000, 0), []);
}

#[test]
fn reality_is_believed_when_it_disagrees_for_long() {
    let mut node = Node::measured(Calm::Calm);
    node.observe(100, 1240);
    assert_eq!(node.pass(10, 0), [], "near enough");
    node.observe(29, 1500);
    node.observe(1, 1000);
    node.observe(29, 1500);
    assert_eq!(node.pass(10, 0), [], "not for long enough");
    node.observe(1, 1500);
    assert_eq!(node.pass(10, 0), [Doubt::Disagrees]);
    node.tell_measured(Calm::Calm);
    node.observe(60, 500);
    assert_eq!(node.pass(300, 0), [], "it has just been measured for that");
}

#[test]
fn another_model_is_measured_once() {
    let mut node = Node::measured(Calm::Calm);
    node.tell(Input::OtherModel);
    assert_eq!(node.pass(10, 0), [Doubt::OtherModel]);
    node.tell_measured(Calm::Calm);
    assert_eq!(node.pass(100, 0), []);
}

#[test]
fn a_newcomer_is_told_soon_what_is_seen_of_it() {
    let mut machine = CapabilityMachine::new(node(1));
    machine.wake(Tick(0));
    assert_eq!(machine.deadline(), Some(Tick(STATUS_MILLIS)));
    let view = |numbers: &[u8]| View {
        nodes: numbers.iter().map(|number| node(*number)).collect(),
        ..View::default()
    };
    machine.handle(Tick(100), Input::Members(view(&[1, 2])));
    let soon = Tick(100 + NEWCOMER_MILLIS);
    assert_eq!(machine.deadline(), Some(soon));
    machine.handle(Tick(200), Input::Members(view(&[1])));
    assert_eq!(machine.deadline(), Some(soon), "one that leaves is no news");
}
