//! `cairn plan --what-if`: answers without a node, and names every mistake of a file.

use std::path::Path;
use std::process::Output;

use serde_json::{Value, json};

use crate::model::tiny;
use crate::node::program;

const DEVICES: &str = r#"
[[device]]
name = "desktop"
memory = "12 GB"
bandwidth = "100 GB/s"
compute = "4 TFLOPS"

[[device]]
name = "laptop"
memory = "200 MB"
bandwidth = "50 GB/s"
compute = "900 GFLOPS"
"#;

/// What the command answers for a file of this text.
#[track_caller]
fn what_if(dir: &Path, text: &str, args: &[&str]) -> Output {
    let file = dir.join("devices.toml");
    std::fs::write(&file, text).expect("a temporary directory can be written");
    let model = tiny(dir, 6);
    let mut plan = program(&[]);
    plan.args(["plan", "--what-if"])
        .arg(&file)
        .arg("--model")
        .arg(&model.name)
        .args(args);
    plan.output().expect("the program starts")
}

#[test]
fn a_plan_for_devices_that_are_not_there() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let args = ["--strategy", "uniform", "--json"];
    let output = what_if(dir.path(), DEVICES, &args);
    assert!(output.status.success(), "{output:?}");
    let page: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let stages = page["stages"].as_array().expect("stages");
    let layers: Vec<&Value> = stages.iter().map(|stage| &stage["layers"]).collect();
    assert_eq!(layers, [&json!([0, 3]), &json!([3, 6])]);
    assert!(page["forecast"]["tokens_per_second"].as_f64() > Some(0.0));
    assert!(page["balance"].as_f64() > Some(0.0));
    for key in ["reasons", "survives"] {
        assert_eq!(page[key].as_array().map(Vec::len), Some(2), "{page}");
    }
    let output = what_if(dir.path(), DEVICES, &[]);
    let picture = String::from_utf8_lossy(&output.stdout).into_owned();
    for part in ["not splitting is best", "laptop", "left out", "stands by"] {
        assert!(picture.contains(part), "{part} in\n{picture}");
    }
}

#[test]
fn every_mistake_of_the_file_is_named_with_its_line() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let text = DEVICES
        .replace("12 GB", "12 bananas")
        .replace("900 GFLOPS", "fast")
        .replace("\"laptop\"", "\"desktop\"");
    let output = what_if(dir.path(), &text, &[]);
    assert_eq!(output.status.code(), Some(2));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    for line in ["line 4:", "line 9:", "line 12:"] {
        assert!(said.contains(line), "{line} in\n{said}");
    }
}

#[test]
fn flags_of_an_imagined_plan_need_its_file() {
    let output = program(&[]).args(["plan", "--sequences", "2"]).output();
    let output = output.expect("the program starts");
    assert_eq!(output.status.code(), Some(2), "{output:?}");
}
