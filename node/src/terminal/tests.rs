//! What people read.

use super::*;

#[test]
fn sizes_and_spans() {
    let sizes = [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (98_362_432, "93.8 MiB"),
        (1 << 30, "1.0 GiB"),
        ((1 << 30) - 1, "1.0 GiB"),
        (u64::MAX, "16777216.0 TiB"),
    ];
    for (bytes, text) in sizes {
        assert_eq!(size(bytes), text);
    }
    let spans = [
        (3, "3 s"),
        (250, "4 min"),
        (7500, "2 h 5 min"),
        (273_600, "3 d 4 h"),
    ];
    for (seconds, text) in spans {
        assert_eq!(span(Duration::from_secs(seconds)), text);
    }
}

#[test]
fn bars_fill_what_they_mean() {
    assert_eq!(bar(0.0, 0.5, 4), "██░░");
    assert_eq!(bar(0.5, 1.0, 4), "░░██");
    assert_eq!(bar(0.5, 0.501, 4), "░░█░", "a sliver is still seen");
    assert_eq!(bar(0.3, 0.3, 4), "░░░░");
    assert_eq!(bar(-1.0, 9.0, 4), "████");
}

#[test]
fn columns_line_up_with_and_without_colours() {
    let mut table = Table::new(&["NAME", "SIZE"]);
    table.row().toned(Tone::Good, "a").cell("1");
    table.row().cell("kitchen").cell("22");
    assert_eq!(
        table.render(Paint::Plain),
        "  NAME     SIZE\n  a        1\n  kitchen  22"
    );
    let coloured = table.render(Paint::Colours);
    assert!(
        coloured.contains("\u{1b}[32ma      \u{1b}[0m  1"),
        "{coloured:?}"
    );
}

#[test]
fn the_progress_template_is_valid() {
    assert!(progress::style().is_ok());
}
