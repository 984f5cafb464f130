//! A node's numbers in Prometheus' text format. Translates only.

use std::fmt::Write as _;

use cairn_actors::{NodeView, StageView, State, Status};

/// Of the text format.
pub(super) const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// A line's labels and its value.
type Sample = (Vec<(&'static str, String)>, f64);

/// The whole page. Figures of other members are as old as what they told last: a second.
pub(super) fn render(status: &Status) -> String {
    let mut page = String::new();
    let mut put = |name: &str, kind: &str, help: &str, samples: Vec<Sample>| {
        if !samples.is_empty() {
            family(&mut page, name, kind, help, &samples);
        }
    };
    let ready = f64::from(u8::from(status.state == State::Ready));
    let running = f64::from(status.requests_running);
    let waiting = f64::from(status.requests_waiting);
    for (name, help, value) in [
        ("cairn_ready", "Whether prompts can be answered.", ready),
        (
            "cairn_requests_running",
            "Answers in progress that arrived here.",
            running,
        ),
        ("cairn_requests_waiting", "Requests waiting here.", waiting),
    ] {
        put(name, "gauge", help, vec![(Vec::new(), value)]);
    }

    let of_nodes = |value: fn(&NodeView) -> f64| -> Vec<Sample> {
        let nodes = status.nodes.iter();
        nodes
            .map(|node| (vec![("node", node.name.clone())], value(node)))
            .collect()
    };
    for (name, kind, help, value) in NODE {
        put(name, kind, help, of_nodes(*value));
    }

    let stages = status.plan.iter().flat_map(|plan| &plan.stages);
    let of_stages = |value: fn(&StageView) -> Option<f64>| -> Vec<Sample> {
        let seen = stages.clone().filter_map(|stage| {
            let [first, end] = stage.layers;
            let layers = ("layers", format!("{first}..{end}"));
            Some((
                vec![("node", stage.node.clone()), layers],
                value(stage)? / 1e3,
            ))
        });
        seen.collect()
    };
    for (name, help, value) in STAGE {
        put(name, "gauge", help, of_stages(*value));
    }

    let links = status.nodes.iter().flat_map(|node| {
        let ends = move |peer: &str| vec![("node", node.name.clone()), ("peer", peer.to_owned())];
        node.links.iter().map(move |link| (ends(&link.node), link))
    });
    let trips = links
        .clone()
        .map(|(ends, link)| (ends, link.round_trip_ms / 1e3));
    let help = "To a neighbour's actors and back.";
    put(
        "cairn_link_round_trip_seconds",
        "gauge",
        help,
        trips.collect(),
    );
    let speeds = links.filter_map(|(ends, link)| Some((ends, link.bytes_per_second? as f64)));
    let help = "How fast large frames come from a neighbour.";
    put(
        "cairn_link_received_bytes_per_second",
        "gauge",
        help,
        speeds.collect(),
    );
    page
}

/// Of a node: name, kind, help, value.
type NodeFigure = (
    &'static str,
    &'static str,
    &'static str,
    fn(&NodeView) -> f64,
);
/// Of a stage, in milliseconds: name, help, value.
type StageFigure = (&'static str, &'static str, fn(&StageView) -> Option<f64>);

const NODE: &[NodeFigure] = &[
    (
        "cairn_node_resident_bytes",
        "gauge",
        "Resident memory of the process.",
        |node| node.resident_bytes as f64,
    ),
    (
        "cairn_node_weight_bytes",
        "gauge",
        "Weights in memory.",
        |node| node.weight_bytes as f64,
    ),
    (
        "cairn_node_kv_bytes",
        "gauge",
        "Pages of the KV cache that are held.",
        |node| node.kv_bytes as f64,
    ),
    (
        "cairn_node_sequences",
        "gauge",
        "Sequences on its stage.",
        |node| f64::from(node.sequences),
    ),
    (
        "cairn_node_rows_total",
        "counter",
        "Rows computed.",
        |node| node.rows_total as f64,
    ),
    (
        "cairn_node_frames_stale_total",
        "counter",
        "Frames of plans not run here.",
        |node| node.frames_stale_total as f64,
    ),
    (
        "cairn_node_frames_refused_total",
        "counter",
        "Frames that broke a rule.",
        |node| node.frames_refused_total as f64,
    ),
    (
        "cairn_node_prefix_hits_total",
        "counter",
        "Sequences begun with rows of an earlier one.",
        |node| node.prefix_hits_total as f64,
    ),
    (
        "cairn_node_prefix_rows_total",
        "counter",
        "Rows not computed again for them.",
        |node| node.prefix_rows_total as f64,
    ),
];

const STAGE: &[StageFigure] = &[
    (
        "cairn_stage_decode_forecast_seconds",
        "A decode row, as planned.",
        |stage| Some(stage.decode_ms),
    ),
    (
        "cairn_stage_decode_seconds",
        "A decode row, as measured; absent without traffic.",
        |stage| stage.measured_decode_ms,
    ),
    (
        "cairn_stage_queue_wait_seconds",
        "How long rows waited for the engine.",
        |stage| stage.queue_wait_ms,
    ),
];

fn family(page: &mut String, name: &str, kind: &str, help: &str, samples: &[Sample]) {
    // Writing into a String cannot fail.
    writeln!(page, "# HELP {name} {help}\n# TYPE {name} {kind}").ok();
    for (labels, value) in samples {
        let labels: Vec<String> = labels
            .iter()
            .map(|(key, text)| format!("{key}=\"{}\"", escaped(text)))
            .collect();
        let labels = match labels.is_empty() {
            true => String::new(),
            false => format!("{{{}}}", labels.join(",")),
        };
        writeln!(page, "{name}{labels} {value}").ok();
    }
}

fn escaped(text: &str) -> String {
    let text = text.replace('\\', "\\\\").replace('"', "\\\"");
    text.replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_family_is_written_as_prometheus_reads_it() {
        let mut page = String::new();
        let samples = [(vec![("node", "a \"b\"\\".to_owned())], 0.25)];
        family(&mut page, "x_seconds", "gauge", "Help.", &samples);
        let expected = "# HELP x_seconds Help.\n# TYPE x_seconds gauge\n\
                        x_seconds{node=\"a \\\"b\\\"\\\\\"} 0.25\n";
        assert_eq!(page, expected);
    }
}
