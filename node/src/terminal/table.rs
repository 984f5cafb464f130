//! Columns that line up, whatever the colours in them.
//!
//! No borders, no wrapping: a terminal that is too narrow shows long lines.

use super::{Paint, Tone};

/// Rows of cells under a head.
#[derive(Debug)]
pub(crate) struct Table {
    head: Vec<&'static str>,
    rows: Vec<Vec<Cell>>,
}

#[derive(Debug)]
struct Cell {
    text: String,
    tone: Option<Tone>,
}

impl Table {
    /// An empty table.
    pub(crate) fn new(head: &[&'static str]) -> Self {
        Self {
            head: head.to_vec(),
            rows: Vec::new(),
        }
    }

    /// Starts a row.
    pub(crate) fn row(&mut self) -> &mut Self {
        self.rows.push(Vec::new());
        self
    }

    /// Adds a cell to the row that was started last.
    pub(crate) fn cell(&mut self, text: impl Into<String>) -> &mut Self {
        self.push(text.into(), None)
    }

    /// Adds a coloured cell to the row that was started last.
    pub(crate) fn toned(&mut self, tone: Tone, text: impl Into<String>) -> &mut Self {
        self.push(text.into(), Some(tone))
    }

    fn push(&mut self, text: String, tone: Option<Tone>) -> &mut Self {
        let row = self.rows.last_mut().expect("row() comes before cell()");
        row.push(Cell { text, tone });
        self
    }

    /// The lines, indented by two, without a last line end.
    pub(crate) fn render(&self, paint: Paint) -> String {
        let mut widths: Vec<usize> = self.head.iter().map(|text| text.chars().count()).collect();
        for row in &self.rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.text.chars().count());
            }
        }
        let mut lines = Vec::new();
        if self.head.iter().any(|text| !text.is_empty()) {
            let head = self.head.iter().zip(&widths);
            let cells: Vec<String> = head
                .map(|(text, &width)| paint.tone(Tone::Dim, format!("{text:width$}")))
                .collect();
            lines.push(join(&cells));
        }
        for row in &self.rows {
            let cells: Vec<String> = row
                .iter()
                .zip(&widths)
                .map(|(cell, &width)| {
                    let padded = format!("{:width$}", cell.text);
                    match cell.tone {
                        Some(tone) => paint.tone(tone, padded),
                        None => padded,
                    }
                })
                .collect();
            lines.push(join(&cells));
        }
        lines.join("\n")
    }
}

fn join(cells: &[String]) -> String {
    format!("  {}", cells.join("  ")).trim_end().to_owned()
}
