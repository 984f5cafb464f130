//! What a file may say, and what it hears when it says something else.

use super::*;

fn mistakes(text: &str) -> Vec<String> {
    let mistakes = WhatIf::parse(text).expect_err("must be refused");
    mistakes.iter().map(Mistake::to_string).collect()
}

#[test]
fn every_mistake_is_reported_with_its_line() {
    let text = r#"
[[device]]
name = "desktop"
memory = "12 potatoes"
bandwidth = "100 GB/s"
compute = "4 TFLOPS"
colour = "red"

[[device]]
name = "desktop"
memory = "0 GB"
compute = 4

[[link]]
from = "desktop"
to = "phone"
rtt = "fast"
bandwidth = "1 Gbit/s"

[[link]]
from = "desktop"
to = "desktop"
rtt = "1 ms"
bandwidth = "1.5.2 Gbit/s"

[cluster]
"#;
    assert_eq!(
        mistakes(text),
        [
            "line 4: `memory`: \"12 potatoes\" has no unit that is known here (B, kB, MB, GB, TB, KiB, MiB, GiB, TiB); write it like 12 GB",
            "line 7: `colour` is not known in [[device]]; expected name, memory, bandwidth, compute",
            "line 9: this [[device]] has no `bandwidth`",
            "line 10: the name \"desktop\" is taken by a device above",
            "line 11: `memory`: \"0 GB\" must be more than zero",
            "line 12: `compute` must be a text in quotes",
            "line 16: \"phone\" is no [[device]] of this file",
            "line 17: `rtt`: \"fast\" is not a number with a unit; write it like 0.3 ms",
            "line 20: a link joins two different devices",
            "line 24: `bandwidth`: \"1.5.2 Gbit/s\" is not a number with a unit; write it like 100 GB/s or 1 Gbit/s",
            "line 26: `cluster` is not known here; expected [[device]] or [[link]]",
        ]
    );
}

#[test]
fn broken_toml_is_reported_with_its_lines() {
    let found = WhatIf::parse("[[device]]\nname = \"a\nmemory = \"1 GB\"\nbandwidth = = 3\n")
        .expect_err("must be refused");
    let lines: Vec<usize> = found.iter().map(|mistake| mistake.line).collect();
    assert!(lines.contains(&2) && lines.contains(&4), "{found:?}");
}

#[test]
fn an_empty_file_is_a_mistake() {
    assert_eq!(
        mistakes("# nothing"),
        ["line 1: the file has no [[device]]"]
    );
}

#[test]
fn a_pair_has_one_link_per_direction() {
    let device = |name| {
        format!(
            "[[device]]\nname = \"{name}\"\nmemory = \"1 GB\"\nbandwidth = \"1 GB/s\"\ncompute = \"1 GFLOPS\"\n"
        )
    };
    let link = |from, to| {
        format!(
            "[[link]]\nfrom = \"{from}\"\nto = \"{to}\"\nrtt = \"1 ms\"\nbandwidth = \"1 MB/s\"\n"
        )
    };
    let pair = format!("{}{}", device("a"), device("b"));
    let both = format!("{pair}{}{}", link("a", "b"), link("b", "a"));
    assert_eq!(WhatIf::parse(&both).expect("sound").links.len(), 2);
    let twice = format!("{pair}{}{}", link("a", "b"), link("a", "b"));
    assert_eq!(
        mistakes(&twice),
        ["line 16: this pair has a link above already"]
    );
}

#[test]
fn units_are_exact() {
    for (read, text, expected) in [
        (
            units::bytes as fn(&str) -> Result<u64, String>,
            "1.5 GB",
            1_500_000_000,
        ),
        (units::bytes, "16GiB", 16 << 30),
        (units::bytes_per_second, "1 Gbit/s", 125_000_000),
        (units::bytes_per_second, "0.1 GB/s", 100_000_000),
        (units::micros, "0.3 ms", 300),
        (units::micros, "0.25 us", 1),
        (units::micros, "0 ms", 0),
        (units::flops, "4 TFLOPS", 4_000_000_000_000),
    ] {
        assert_eq!(read(text), Ok(expected), "{text}");
    }
    for text in [
        "",
        "GB",
        ".5 GB",
        "-1 GB",
        "1e9 GB",
        "1 gb",
        "99999999999999 TB",
    ] {
        assert!(units::bytes(text).is_err(), "{text}");
    }
}
