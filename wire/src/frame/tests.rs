//! Round trips, and every way of breaking a frame that a byte can take.

use proptest::prelude::*;

use super::*;
use crate::codec::{ALIGNMENT, PRELUDE_BYTES};
use crate::control::{
    Capability, Drift, Explain, Heartbeat, LayerRange, LinkSeen, LogLevel, LogLine, Loss, ModelRef,
    NodeStatus, PeerAddress, Ping, Plan, Pong, Reason, Role, Stage, StageForecast, StageSeen,
    Standby, Standing, Survival,
};
use crate::data::{Ask, DType, FailedWhy, Prefix, SampledToken, Sampling};
use crate::id::{BootId, NodeId, SequenceId, Term};
use crate::limits;

pub(super) fn plan_id() -> PlanId {
    PlanId {
        term: Term {
            number: 3,
            leader: NodeId([0xaa; 32]),
        },
        epoch: 5,
    }
}

pub(super) fn sequence() -> SequenceId {
    SequenceId {
        driver: NodeId([0xbb; 32]),
        number: 7,
    }
}

pub(super) fn sampling() -> Sampling {
    Sampling {
        temperature: 0.5,
        top_k: 40,
        top_p: 0.75,
        min_p: 0.0,
        repetition_penalty: 1.0,
        repetition_window: 64,
        seed: 11,
    }
}

/// `spans` of so many rows each.
fn rows(width: u32, spans: &[u32]) -> Rows {
    let mut position = 0;
    Rows {
        plan: plan_id(),
        stage: 1,
        dtype: DType::F32,
        width,
        spans: spans
            .iter()
            .map(|&rows| {
                position += rows;
                Span {
                    sequence: sequence(),
                    position: position - rows,
                    rows,
                    ask: Ask::Token,
                }
            })
            .collect(),
        tokens: (0..spans.iter().sum()).collect(),
    }
}

pub(crate) fn frame(width: u32, spans: &[u32]) -> RowsFrame {
    let elements = width as usize * spans.iter().sum::<u32>() as usize;
    let payload: Vec<f32> = (0..elements).map(|n| n as f32).collect();
    RowsFrame::build(&rows(width, spans), &payload)
}

pub(super) fn data_frames() -> Vec<DataFrame> {
    vec![
        DataFrame::Rows(frame(2, &[1])),
        DataFrame::Open(Open {
            plan: plan_id(),
            stage: 1,
            sequence: sequence(),
            rows_max: 512,
            sampling: sampling(),
            end_tokens: vec![2],
            prefix: Some(Prefix {
                sequence: sequence(),
                rows: 256,
            }),
        }),
        DataFrame::Close(Close {
            plan: plan_id(),
            stage: 1,
            sequence: sequence(),
        }),
        DataFrame::Sampled(Sampled {
            plan: plan_id(),
            goes_on: true,
            tokens: vec![SampledToken {
                sequence: sequence(),
                position: 9,
                token: 13,
                logprob: -0.5,
            }],
        }),
        DataFrame::Failed(Failed {
            plan: plan_id(),
            stage: 1,
            sequence: sequence(),
            why: FailedWhy::Gap,
            detail: "a row is missing".to_owned(),
        }),
        DataFrame::Credit(Credit { frames: 32 }),
    ]
}

fn plan() -> Plan {
    let stage = |first, end| Stage {
        node: NodeId([1; 32]),
        first,
        end,
        standbys: vec![Standby {
            node: NodeId([2; 32]),
            layers: LayerRange { first, end },
        }],
        memory_bytes: 1 << 30,
    };
    Plan {
        id: plan_id(),
        model: ModelRef {
            name: "smollm2".to_owned(),
            sha256: [9; 32],
            file_bytes: 98_362_432,
            layers: 30,
        },
        context: 2048,
        sequences: 4,
        stages: vec![stage(0, 10), stage(10, 30)],
        groups: 2,
        explain: Explain {
            strategy: "optimal".to_owned(),
            reasons: vec![Reason {
                node: NodeId([3; 32]),
                text: "too slow".to_owned(),
            }],
            stages: vec![StageForecast {
                decode_micros: 1,
                prefill_chunk_micros: 2,
                free_bytes: 3,
            }],
            survives: vec![Survival {
                node: NodeId([3; 32]),
                loss: Loss::Short(4),
            }],
            drifts: vec![Drift {
                node: NodeId([3; 32]),
                told_bytes_per_second: 4,
                forecast_micros: 5,
                measured_micros: 6,
            }],
            ..Explain::default()
        },
    }
}

fn control_messages() -> Vec<Control> {
    vec![
        Control::Heartbeat(Heartbeat {
            boot: BootId(1),
            term: plan_id().term,
            role: Role::Leading,
            term_number_max: 4,
            hears: vec![NodeId([1; 32]), NodeId([2; 32])],
        }),
        Control::Peers(vec![PeerAddress {
            node: NodeId([1; 32]),
            addresses: vec!["192.0.2.1:7001".to_owned()],
        }]),
        Control::Capability(Capability {
            name: "kitchen".to_owned(),
            version: "0.1.0".to_owned(),
            memory_bytes: 1 << 33,
            threads: 4,
            decode_bytes_per_second: 10_000_000_000,
            prefill_macs_per_second: 50_000_000_000,
            layer_nanos: 90_000,
            head_bytes_per_second: 12_000_000_000,
            cache_bytes_per_second: 6_000_000_000,
            attention_macs_per_second: 20_000_000_000,
            kv_permille: 1000,
            share_permille: 1000,
            host: 7,
            host_cores: 4,
            wish: Some("smollm2".to_owned()),
            accelerator: Some("a GPU".to_owned()),
        }),
        Control::Status(NodeStatus {
            stage: Some(StageSeen {
                plan: plan_id(),
                decode_micros: 1,
                queue_wait_micros: 2,
            }),
            links: vec![LinkSeen {
                peer: NodeId([2; 32]),
                round_trip_micros: 3,
                bytes_per_second: 4,
            }],
            standing: Some(Standing {
                plan: plan_id(),
                layers: [(0, 2), (5, 6)]
                    .map(|(first, end)| LayerRange { first, end })
                    .into(),
            }),
            ..NodeStatus::default()
        }),
        Control::Ping(Ping {
            number: 7,
            filler: vec![0; 9],
        }),
        Control::Pong(Pong { number: 7 }),
        Control::Propose(Box::new(plan())),
        Control::Adopt(plan_id()),
        Control::Logs(vec![LogLine {
            number: 1,
            unix_micros: 2,
            level: LogLevel::Warn,
            target: "cairn::net".to_owned(),
            text: "a line".to_owned(),
        }]),
        Control::Leave,
    ]
}

fn bytes(frame: &DataFrame) -> Vec<u8> {
    frame.encode().expect("a legal frame").bytes().to_vec()
}

#[test]
fn every_kind_survives_the_wire() {
    for frame in data_frames() {
        assert_eq!(DataFrame::decode(&bytes(&frame)), Ok(frame));
    }
    for control in control_messages() {
        let encoded = control.encode().expect("a legal message");
        assert_eq!(Control::decode(encoded.bytes()), Ok(control));
    }
}

#[test]
fn rows_are_read_in_place() {
    let frame = frame(8, &[2, 1]);
    let within = |pointer: *const u8| frame.bytes().as_ptr_range().contains(&pointer);
    assert!(within(frame.payload().as_ptr().cast()));
    assert!(within(std::ptr::from_ref(frame.header()).cast()));
    assert_eq!(frame.payload().as_ptr() as usize % ALIGNMENT, 0);
    assert_eq!(frame.payload().len(), 24);
    assert_eq!((frame.rows(), frame.width(), frame.stage()), (3, 8, 1));
    assert_eq!(frame.plan(), plan_id());
    assert_eq!(frame.tokens().collect::<Vec<_>>(), [0, 1, 2]);
    let spans: Vec<_> = frame.spans().map(|s| (s.position, s.rows)).collect();
    assert_eq!(spans, [(0, 2), (2, 1)]);
    // The first stage embeds by itself.
    assert!(self::frame(0, &[5]).payload().is_empty());
}

#[test]
fn a_guard_lives_as_long_as_the_last_clone() {
    let alive = Arc::new(());
    let frame = frame(1, &[1]).with_guard(Box::new(Arc::clone(&alive)));
    let clone = frame.clone();
    drop(frame);
    assert_eq!(Arc::strong_count(&alive), 2);
    drop(clone);
    assert_eq!(Arc::strong_count(&alive), 1);
}

#[test]
fn every_truncation_and_every_excess_is_an_error() {
    for frame in data_frames() {
        let mut bytes = bytes(&frame);
        for end in 0..bytes.len() {
            assert!(DataFrame::decode(&bytes[..end]).is_err(), "{end} bytes");
        }
        bytes.push(0);
        assert!(DataFrame::decode(&bytes).is_err());
    }
    for control in control_messages() {
        let encoded = control.encode().expect("a legal message");
        for end in 0..encoded.bytes().len() {
            assert!(Control::decode(&encoded.bytes()[..end]).is_err());
        }
    }
}

/// Either it is refused, or it is a legal frame that encodes again: no third thing.
#[test]
fn no_flipped_bit_panics() {
    for frame in data_frames() {
        let bytes = bytes(&frame);
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            if let Ok(frame) = DataFrame::decode(&flipped) {
                frame.encode().expect("what decodes is legal");
            }
            // Another kind may by chance accept the same header; nothing else may differ.
            if bit / 8 < PRELUDE_BYTES && !(6..8).contains(&(bit / 8)) {
                assert!(
                    DataFrame::decode(&flipped).is_err(),
                    "bit {bit} of the prelude"
                );
            }
        }
    }
    for control in control_messages() {
        let encoded = control.encode().expect("a legal message");
        for bit in 0..encoded.bytes().len() * 8 {
            let mut flipped = encoded.bytes().to_vec();
            flipped[bit / 8] ^= 1 << (bit % 8);
            if let Ok(control) = Control::decode(&flipped) {
                control.encode().expect("what decodes is legal");
            }
        }
    }
}

#[test]
fn planes_do_not_mix() {
    let credit = bytes(&DataFrame::Credit(Credit { frames: 1 }));
    assert_eq!(
        Control::decode(&credit),
        Err(Violation::Kind {
            number: Kind::Credit as u16
        })
    );
    let leave = Control::Leave.encode().expect("a legal message");
    assert!(matches!(
        DataFrame::decode(leave.bytes()),
        Err(Violation::Kind { number: 1 })
    ));
}

/// Builds a header that [`RowsFrame::build`] would refuse.
fn judged(rows: &Rows, payload: &[f32]) -> Result<DataFrame, Violation> {
    let raw = codec::encode(Kind::Rows, rows, bytemuck::cast_slice(payload))?;
    DataFrame::decode(raw.bytes())
}

#[test]
fn rows_that_do_not_add_up_are_refused() {
    let fits = rows(2, &[1, 2]);
    assert!(judged(&fits, &[0.0; 6]).is_ok());
    assert!(matches!(
        judged(&fits, &[0.0; 5]),
        Err(Violation::Shape { rows: 3, .. })
    ));
    let mut short = fits.clone();
    short.tokens.pop();
    assert!(matches!(
        judged(&short, &[0.0; 4]),
        Err(Violation::SpanRows {
            span_rows: 3,
            tokens: 2
        })
    ));
    let mut hollow = fits.clone();
    hollow.spans[0].rows = 0;
    assert_eq!(
        judged(&hollow, &[0.0; 6]),
        Err(Violation::Empty { what: "a span" })
    );
    let mut far = fits.clone();
    far.spans[0].position = u32::MAX;
    assert_eq!(
        judged(&far, &[0.0; 6]),
        Err(Violation::Range { what: "a position" })
    );
    let none = rows(0, &[]);
    assert!(matches!(judged(&none, &[]), Err(Violation::Empty { .. })));
    let many = rows(0, &[limits::ROWS_MAX as u32 + 1]);
    assert!(matches!(judged(&many, &[]), Err(Violation::TooMany { .. })));
}

#[test]
fn values_out_of_range_are_refused_before_they_are_sent() {
    let temperature = |temperature| {
        DataFrame::Open(Open {
            plan: plan_id(),
            stage: 0,
            sequence: sequence(),
            rows_max: 1,
            sampling: Sampling {
                temperature,
                ..sampling()
            },
            end_tokens: Vec::new(),
            prefix: None,
        })
    };
    assert!(temperature(0.0).encode().is_ok());
    for bad in [f32::NAN, f32::INFINITY, -1.0] {
        assert_eq!(
            temperature(bad).encode().map(drop),
            Err(Violation::Range {
                what: "temperature"
            })
        );
    }
    for rows in [0, 512] {
        let DataFrame::Open(mut open) = data_frames().swap_remove(1) else {
            panic!("the second is an `Open`");
        };
        let sequence = sequence();
        open.prefix = Some(Prefix { sequence, rows });
        assert!(DataFrame::Open(open).encode().is_err(), "{rows} of 512");
    }
    for frames in [0, limits::CREDIT_WINDOW_FRAMES + 1] {
        assert!(DataFrame::Credit(Credit { frames }).encode().is_err());
    }
    let long = "x".repeat(limits::TEXT_BYTES_MAX + 1);
    let failed = DataFrame::Failed(Failed {
        plan: plan_id(),
        stage: 0,
        sequence: sequence(),
        why: FailedWhy::Engine,
        detail: long,
    });
    assert!(matches!(failed.encode(), Err(Violation::TooLong { .. })));
}

#[test]
fn a_plan_covers_every_layer_once() {
    assert!(Control::Propose(Box::new(plan())).encode().is_ok());
    let breaks: [fn(&mut Plan); 9] = [
        |plan| plan.stages[0].standbys[0].layers.end = 11,
        |plan| plan.stages[1].standbys[0].layers.first = 9,
        |plan| plan.stages[0].standbys[0].layers.end = 0,
        |plan| plan.stages[0].standbys[0].node = plan.stages[0].node,
        |plan| plan.stages[1].first = 11,
        |plan| plan.stages[1].first = 9,
        |plan| plan.stages[1].end = 29,
        |plan| plan.stages.clear(),
        |plan| plan.stages.swap(0, 1),
    ];
    for (number, break_it) in breaks.into_iter().enumerate() {
        let mut plan = plan();
        break_it(&mut plan);
        assert_eq!(
            Control::Propose(Box::new(plan)).encode().map(drop),
            Err(Violation::Cover),
            "break {number}"
        );
    }
}

#[test]
fn a_node_stands_by_with_ranges_in_order() {
    let status = |ranges: &[(u32, u32)]| {
        Control::Status(NodeStatus {
            standing: Some(Standing {
                plan: plan_id(),
                layers: ranges
                    .iter()
                    .map(|&(first, end)| LayerRange { first, end })
                    .collect(),
            }),
            ..NodeStatus::default()
        })
        .encode()
        .map(drop)
    };
    assert_eq!(status(&[]), Ok(()));
    assert_eq!(status(&[(0, 4), (4, 5), (9, 10)]), Ok(()));
    for wrong in [
        &[(1, 1)][..],
        &[(2, 1)],
        &[(0, 4), (3, 5)],
        &[(4, 5), (0, 1)],
    ] {
        assert_eq!(status(wrong), Err(Violation::Cover), "{wrong:?}");
    }
    assert!(status(&[(0, limits::LAYERS_MAX + 1)]).is_err());
    let many: Vec<_> = (0..=limits::STANDING_MAX as u32)
        .map(|first| (first, first + 1))
        .collect();
    assert!(status(&many).is_err());
    assert_eq!(status(&many[1..]), Ok(()));
}

/// The header bounds leave room for the largest message that the counts allow.
#[test]
fn the_largest_legal_messages_encode() {
    let node = NodeId([1; 32]);
    let text = |bytes| "x".repeat(bytes);
    let peers = Control::Peers(vec![
        PeerAddress {
            node,
            addresses: vec![text(limits::ADDRESS_BYTES_MAX); limits::ADDRESSES_MAX],
        };
        limits::NODES_MAX
    ]);
    let logs = Control::Logs(vec![
        LogLine {
            number: 1,
            unix_micros: 1,
            level: LogLevel::Info,
            target: text(limits::NAME_BYTES_MAX),
            text: text(limits::LOG_TEXT_BYTES_MAX),
        };
        limits::LOG_LINES_MAX
    ]);
    let mut plan = plan();
    plan.model.layers = limits::STAGES_MAX as u32;
    plan.stages = (0..plan.model.layers)
        .map(|first| Stage {
            node,
            first,
            end: first + 1,
            standbys: vec![
                Standby {
                    node: NodeId([2; 32]),
                    layers: LayerRange {
                        first,
                        end: first + 1
                    },
                };
                limits::STANDBYS_MAX
            ],
            memory_bytes: 1,
        })
        .collect();
    plan.explain.reasons = vec![
        Reason {
            node,
            text: text(limits::TEXT_BYTES_MAX),
        };
        limits::NODES_MAX
    ];
    plan.explain.drifts = vec![plan.explain.drifts[0]; limits::SEEN_MAX];
    let ping = Control::Ping(Ping {
        number: 1,
        filler: vec![0; limits::PING_BYTES_MAX],
    });
    for message in [peers, logs, ping, Control::Propose(Box::new(plan))] {
        let encoded = message.encode().expect("within every bound");
        assert_eq!(Control::decode(encoded.bytes()), Ok(message));
    }
    let spans = vec![(limits::ROWS_MAX / limits::SPANS_MAX) as u32; limits::SPANS_MAX];
    assert_eq!(frame(1, &spans).rows(), limits::ROWS_MAX);
}

proptest! {
    #[test]
    fn any_rows_survive_the_wire(
        width in 0_u32..40,
        spans in prop::collection::vec(1_u32..9, 1..20),
    ) {
        let frame = frame(width, &spans);
        let decoded = DataFrame::decode(frame.bytes());
        prop_assert_eq!(decoded, Ok(DataFrame::Rows(frame)));
    }

    #[test]
    fn any_bytes_are_judged_without_panic(
        mut bytes in prop::collection::vec(any::<u8>(), 0..200),
        kind in 0_u16..24,
    ) {
        drop(DataFrame::decode(&bytes));
        // With a sound prelude the header's own checks are reached.
        let header = bytes.len().saturating_sub(PRELUDE_BYTES);
        if header > 0 && header.is_multiple_of(ALIGNMENT) {
            bytes[..PRELUDE_BYTES].fill(0);
            bytes[..4].copy_from_slice(&codec::MAGIC);
            bytes[4] = codec::MAJOR;
            bytes[6..8].copy_from_slice(&kind.to_le_bytes());
            bytes[8..12].copy_from_slice(&(header as u32).to_le_bytes());
            drop(DataFrame::decode(&bytes));
            drop(Control::decode(&bytes));
        }
    }
}

#[test]
fn a_capability_that_no_planner_could_add_up_is_refused() {
    let told = control_messages()
        .into_iter()
        .find_map(|control| match control {
            Control::Capability(capability) => Some(capability),
            _ => None,
        });
    let fair = told.expect("one of them");
    let refused = |change: fn(&mut Capability)| {
        let mut capability = fair.clone();
        change(&mut capability);
        Control::Capability(capability).encode().is_err()
    };
    assert!(!refused(|_| {}));
    assert!(refused(|capability| capability.layer_nanos = u64::MAX));
    assert!(refused(|capability| capability.share_permille = 0));
    assert!(refused(|capability| capability.share_permille = 1001));
    assert!(refused(|capability| capability.kv_permille = 0));
    assert!(refused(|capability| capability.kv_permille = 1001));
    assert!(refused(
        |capability| capability.accelerator = Some("x".repeat(257))
    ));
}
