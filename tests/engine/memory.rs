//! What a shard costs in resident memory. Alone in its process, because it
//! reads the process's own figure; says so where there is no `/proc`.

#![allow(
    clippy::print_stderr,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a test reports and stops"
)]

#[path = "../parity/model.rs"]
mod model;

use std::sync::{Arc, Mutex, PoisonError};

use cairn_engine::{Batch, BatchSpan, Input, LogitRows, ModelFile, Shard, ShardOptions, SlotId};

/// One test at a time: the figure is the whole process's.
static ALONE: Mutex<()> = Mutex::new(());

fn resident_bytes() -> Option<u64> {
    status_bytes("VmRSS:")
}

/// The most that was resident since [`forget_peak`].
fn peak_bytes() -> Option<u64> {
    status_bytes("VmHWM:")
}

fn status_bytes(name: &str) -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with(name))?;
    let kilobytes: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kilobytes * 1024)
}

fn forget_peak() {
    std::fs::write("/proc/self/clear_refs", "5").unwrap();
}

#[test]
fn resident_memory_is_tensors_and_cache_and_little_else() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let path = model::path();
    let Some(before) = resident_bytes() else {
        eprintln!("skipped: no /proc");
        return;
    };
    let file = Arc::new(ModelFile::open(&path).unwrap());
    // The last three have the head, a third of the model by itself.
    for layers in [0..15, 28..30, 15..30, 0..30] {
        forget_peak();
        let options = ShardOptions::new(2048, 2);
        let mut shard = Shard::load(&file, layers.clone(), &options, &mut |_| {}).unwrap();
        let (peak, loaded) = (
            peak_bytes().unwrap() - before,
            resident_bytes().unwrap() - before,
        );
        println!(
            "{layers:?}: {} KiB loaded, {} KiB at most",
            loaded >> 10,
            peak >> 10
        );
        assert!(
            peak <= loaded * 6 / 5,
            "{layers:?}: {peak} bytes while loading {loaded}"
        );
        let slot = shard.open(2048).unwrap();
        run(&mut shard, slot, 0, 64);
        let memory = shard.memory();
        let used = resident_bytes().unwrap() - before;
        // Of one page.
        let touched = memory.kv_bytes * 64 / 256;
        let allowed = memory.weight_bytes + touched + (8 << 20);
        println!(
            "{layers:?}: {} KiB of {} KiB allowed",
            used >> 10,
            allowed >> 10
        );
        assert!(
            used <= allowed,
            "{layers:?}: {used} bytes of {allowed} allowed, {memory:?}"
        );
        drop(shard);
        // All of it went back to the system, whatever the allocator kept.
        let after = resident_bytes().unwrap() - before;
        assert!(after < 12 << 20, "{layers:?}: {after} bytes are left");
    }
}

#[test]
fn chats_with_one_system_prompt_hold_it_once() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    const PROMPT_ROWS: usize = 1500;
    const CHATS: u64 = 16;
    let path = model::path();
    if resident_bytes().is_none() {
        eprintln!("skipped: no /proc");
        return;
    }
    let file = Arc::new(ModelFile::open(&path).unwrap());
    let options = ShardOptions::new(2048, 2);
    let mut shard = Shard::load(&file, 0..4, &options, &mut |_| {}).unwrap();
    let first = shard.open(2048).unwrap();
    run(&mut shard, first, 0, PROMPT_ROWS);
    let row_bytes: u64 = file.layer_costs().layers[..4]
        .iter()
        .map(|layer| layer.kv_bytes_per_token)
        .sum();
    let before = resident_bytes().unwrap();
    for _ in 0..CHATS {
        let chat = shard.fork(first, PROMPT_ROWS, 2048).unwrap();
        run(&mut shard, chat, PROMPT_ROWS, 16);
    }
    let grown = resident_bytes().unwrap() - before;
    let (copied, page) = (PROMPT_ROWS as u64 * row_bytes, 256 * row_bytes);
    println!(
        "{CHATS} chats: {} KiB more, {} KiB had the prompt been copied",
        grown >> 10,
        (CHATS * copied) >> 10
    );
    // The rows behind the last whole page are copied, and the chat's own follow them.
    assert!(grown <= CHATS * page + (4 << 20), "{grown} bytes");
}

/// Rows of made-up tokens, or of made-up hidden numbers.
fn run(shard: &mut Shard, slot: SlotId, position: usize, rows: usize) {
    // All over the embedding's table, as a prompt's are.
    let tokens: Vec<u32> = (0..rows as u32).map(|i| i * 761 % 49_152).collect();
    let hidden = vec![0.1; rows * shard.spec().width];
    let slices = [&hidden[..]];
    let spans = [BatchSpan {
        slot,
        position: position as u32,
        rows: rows as u32,
        logits: LogitRows::Last,
    }];
    let input = match shard.layers().start {
        0 => Input::Tokens(&tokens),
        _ => Input::Hidden(&slices),
    };
    let batch = Batch {
        input,
        spans: &spans,
    };
    shard.forward(&batch).unwrap();
}
