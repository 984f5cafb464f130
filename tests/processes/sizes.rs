//! Any number of nodes, the same answer.

use std::time::Duration;

use crate::cluster::{Cluster, PATIENCE, PROMPT, assert_covers, layers_of};
use crate::http::Answer;

/// A ready cluster of `count` nodes over a model of `layers`, and what its first node answers.
fn answer(count: usize, layers: u32, patience: Duration) -> Answer {
    let mut cluster = Cluster::tiny(layers);
    cluster.start_many(count);
    let status = cluster.wait_ready(patience);
    let stages = &status["plan"]["stages"];
    assert_covers(stages, layers.into());
    assert_eq!(layers_of(stages).len(), count);
    match cluster.node("n1").http().ask(PROMPT, 24) {
        Ok(answer) => answer,
        Err(error) => cluster.fail(&format!("{count} nodes: {error}")),
    }
}

#[test]
fn one_two_three_and_eight_nodes_answer_alike() {
    let alone = answer(1, 8, PATIENCE);
    assert_eq!(alone.tokens.len(), 24);
    for count in [2, 3, 8] {
        assert_eq!(answer(count, 8, PATIENCE), alone, "{count} nodes");
    }
}

#[test]
fn thirty_nodes_hold_a_layer_each() {
    let alone = answer(1, 30, PATIENCE);
    // 870 handshakes and 30 probes of the processor on perhaps two cores.
    let thirty = answer(30, 30, PATIENCE * 4);
    assert_eq!(thirty, alone);
}
