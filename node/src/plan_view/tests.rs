//! The picture from full and from sparse pages.

use super::*;
use crate::terminal::Paint;

fn full() -> PlanPage {
    let stage = |node: &str, layers, free| StagePage {
        node: node.to_owned(),
        layers,
        planned_memory_bytes: 3 << 30,
        free_bytes: Some(free),
        decode_ms: Some(12.345),
        standbys: vec!["laptop".to_owned()],
        ..StagePage::default()
    };
    let loss = |node: &str, loss, bytes_missing| SurvivalPage {
        node: node.to_owned(),
        loss,
        layers_missing: 0,
        bytes_missing,
    };
    PlanPage {
        model: "m.gguf".to_owned(),
        strategy: "optimal".to_owned(),
        objective: Some("latency".to_owned()),
        stages: vec![stage("desktop", [0, 6], 3 << 30), stage("attic", [6, 8], 0)],
        forecast: ForecastPage {
            ttft_ms: 820.0,
            ttft_prompt_tokens: 512,
            tokens_per_second: 20.0,
            hops_ms: Some(1.5),
            many: Some(ManyPage {
                streams: 4,
                tokens_per_second: 55.5,
                tpot_ms: 72.0,
            }),
        },
        balance: 0.75,
        reasons: vec![("attic".to_owned(), "attic: its memory is full".to_owned())],
        survives: vec![
            loss("desktop", LossPage::Covered, 0),
            loss("attic", LossPage::Short, 1 << 30),
        ],
        proof: Some(ProofPage {
            objective_ms: 50.0,
            lower_bound_ms: 49.0,
            exact: false,
        }),
        ..PlanPage::default()
    }
}

#[test]
fn a_full_page_shows_everything_once() {
    let text = render(&full(), Paint::Plain);
    for part in [
        "plan for m.gguf  optimal for latency over 2 nodes, balance 0.75",
        "820 ms",
        "20.0 tokens/s",
        "55.5 tokens/s by 4",
        "1.50 ms of each token on the wires",
        "none can be better by more than 2.0 %",
        "0..6",
        "██████░░░░░░",
        "12.35 ms",
        "serves again at once: laptop stands by",
        "ends: 1.0 GiB short",
        "attic  its memory is full",
    ] {
        assert_eq!(text.matches(part).count().min(1), 1, "{part} in\n{text}");
    }
}

#[test]
fn what_a_node_does_not_tell_has_no_column() {
    let json = r#"{
        "id": "3@ab12.1", "strategy": "balanced", "balance": 1.0,
        "stages": [{"node": "a", "id": "x", "layers": [0, 4],
                    "planned_memory_bytes": 1048576, "memory_bytes": 2097152}],
        "forecast": {"ttft_ms": 10.0, "ttft_prompt_tokens": 512, "tokens_per_second": 9.0},
        "measured": {"ttft_ms": 11.0, "tokens_per_second": 8.0},
        "reasons": [["a", "a: 4 layers"]]
    }"#;
    let page: PlanPage = serde_json::from_str(json).expect("what a node tells");
    let text = render(&page, Paint::Plain);
    assert!(text.starts_with("plan 3@ab12.1  balanced over 1 node, balance 1.00"));
    assert!(text.contains("measured"));
    for column in ["FREE", "A TOKEN", "WHEN IT IS LOST"] {
        assert!(!text.contains(column), "{column} in\n{text}");
    }
}

#[test]
fn a_page_survives_json() {
    let page = full();
    let json = serde_json::to_string(&page).expect("plain data");
    assert_eq!(
        serde_json::from_str::<PlanPage>(&json).expect("its own words"),
        page
    );
}
