//! How many rows of a prompt go down the stages together.
//!
//! Short chunks fill the pipeline sooner, long ones read the weights less often.

use cairn_wire::control::Plan;

/// Rows of a chunk when nothing is known of the stages; forecasts speak of chunks of so many.
pub const CHUNK_ROWS: u32 = 64;
const ROWS_MIN: u32 = 32;
/// Decode rows of others wait behind a chunk, so more is not worth it.
const ROWS_MAX: u32 = 128;
/// Chunks are multiples of this, the rows that the kernels work on at a time.
const ROWS_STEP: u32 = 16;

/// Rows per chunk of a prompt of `rows`, so that its last row is out soonest.
///
/// Through `s` stages of which the slowest takes `fixed + row * c` for a chunk of `c`, the prompt
/// takes about `(rows / c + s - 1) * (fixed + row * c)`. That is least at
/// `c = sqrt(rows * fixed / (row * (s - 1)))`.
pub(super) fn chunk_rows(plan: &Plan, rows: u32) -> u32 {
    let stages = &plan.explain.stages;
    let Some(slowest) = stages.iter().max_by_key(|stage| stage.prefill_chunk_micros) else {
        return CHUNK_ROWS;
    };
    let fixed = slowest.decode_micros;
    let Some(beyond) = slowest.prefill_chunk_micros.checked_sub(fixed) else {
        return CHUNK_ROWS;
    };
    if fixed == 0 || beyond == 0 {
        return CHUNK_ROWS;
    }
    let further = stages.len() as u64 - 1;
    let square = u128::from(rows) * u128::from(fixed) * u128::from(CHUNK_ROWS - 1);
    let square = square.checked_div(u128::from(beyond) * u128::from(further));
    let best = square.map_or(ROWS_MAX, |square| {
        u32::try_from(square.isqrt()).unwrap_or(ROWS_MAX)
    });
    best.next_multiple_of(ROWS_STEP).clamp(ROWS_MIN, ROWS_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::plan;
    use cairn_wire::control::StageForecast;

    /// A plan of `stages` alike, a decode row of which takes `fixed` microseconds and each
    /// further row of a chunk `row`.
    fn alike(stages: usize, fixed: u64, row: u64) -> Plan {
        let mut plan = plan(&[]);
        plan.explain.stages = (0..stages)
            .map(|_| StageForecast {
                decode_micros: fixed,
                prefill_chunk_micros: fixed + row * u64::from(CHUNK_ROWS - 1),
                free_bytes: 0,
            })
            .collect();
        plan
    }

    /// Time of a whole prompt in chunks.
    fn micros(stages: u64, fixed: u64, row: u64, rows: u32, chunk: u32) -> u64 {
        let chunks = u64::from(rows.div_ceil(chunk));
        (chunks + stages - 1) * (fixed + row * u64::from(chunk))
    }

    #[test]
    fn is_near_the_best_of_all_chunk_sizes() {
        for stages in [2, 3, 5] {
            for (fixed, row) in [(100, 300), (1_700, 270), (20_000, 400), (50_000, 40_000)] {
                for rows in [100, 512, 2_000, 30_000] {
                    let ours = chunk_rows(&alike(stages, fixed, row), rows);
                    let time = |chunk| micros(stages as u64, fixed, row, rows, chunk);
                    let best = (ROWS_MIN..=ROWS_MAX).map(time).min().expect("some");
                    let ours = time(ours);
                    assert!(
                        ours * 10 <= best * 13,
                        "{stages} {fixed} {row} {rows}: {ours} {best}"
                    );
                }
            }
        }
    }

    #[test]
    fn a_stage_alone_gets_long_chunks_and_unknown_stages_the_usual() {
        assert_eq!(chunk_rows(&alike(1, 1_700, 270), 2_000), ROWS_MAX);
        assert_eq!(chunk_rows(&alike(0, 0, 0), 2_000), CHUNK_ROWS);
        assert_eq!(chunk_rows(&alike(3, 0, 0), 2_000), CHUNK_ROWS);
    }
}
