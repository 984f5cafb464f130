//! Rows as the first stage gets them.

use cairn_wire::data::{DType, Rows, Span};
use cairn_wire::frame::RowsFrame;
use cairn_wire::id::PlanId;

/// Rows for the first stage, which embeds the tokens itself.
///
/// # Panics
/// When spans and tokens do not agree with each other.
pub(crate) fn token_rows(plan: PlanId, spans: Vec<Span>, tokens: Vec<u32>) -> RowsFrame {
    let header = Rows {
        plan,
        stage: 0,
        dtype: DType::F32,
        width: 0,
        spans,
        tokens,
    };
    RowsFrame::build(&header, &[])
}
