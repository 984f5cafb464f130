//! The kernels against the machine: bytes of weights per second for one row,
//! beside plain reading of as many bytes; multiplications per second for 64.
//!
//! `cargo bench -p cairn-engine -- one-row/Q4_1` runs a part.
#![expect(clippy::print_stdout, reason = "a bench talks to a person")]

use cairn_engine::kernel::{Format, Isa, Packed, Pool, QuantizedRows, probe};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

/// As many bytes as the default model reads per token, or nearly.
const MATRIX_BYTES: usize = 64 << 20;
const COLS: usize = 2048;
const ROWS: usize = 64;

fn threads() -> Vec<usize> {
    let most = std::thread::available_parallelism().map_or(1, usize::from);
    if most > 1 { vec![1, most] } else { vec![1] }
}

fn isas() -> impl Iterator<Item = Isa> {
    [Isa::Avx2, Isa::Avx512Vnni]
        .into_iter()
        .filter(|isa| isa.is_available())
}

/// Blocks whose every byte, also as part of a half float, is a small number.
fn matrix(isa: Isa, format: Format, rows: usize, cols: usize) -> Packed {
    let bytes = rows * cols / format.block_len() * format.block_bytes();
    Packed::pack_for(isa, format, &vec![0x21; bytes], rows, cols).expect("it packs")
}

fn inputs(pool: &Pool, n: usize, cols: usize) -> QuantizedRows {
    let floats: Vec<f32> = (0..n * cols).map(|i| (i % 17) as f32 - 8.0).collect();
    let mut x = QuantizedRows::new(n, cols);
    x.set(pool, &floats);
    x
}

fn reading(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("read");
    for threads in threads() {
        let pool = Pool::new(threads);
        let best = probe::read_bytes_per_second(&pool, MATRIX_BYTES).expect("memory");
        println!(
            "read/{threads}: best {:.1} GB/s over {MATRIX_BYTES} bytes",
            best / 1e9
        );
        // The probe times itself; what criterion sees is the whole of it.
        group.bench_function(BenchmarkId::from_parameter(threads), |bencher| {
            bencher.iter_custom(|rounds| {
                let seconds = (0..rounds).map(|_| {
                    let speed = probe::read_bytes_per_second(&pool, MATRIX_BYTES);
                    MATRIX_BYTES as f64 / speed.expect("memory")
                });
                std::time::Duration::from_secs_f64(seconds.sum())
            });
        });
    }
    group.finish();
}

fn one_row(criterion: &mut Criterion) {
    for format in Format::ALL {
        let mut group = criterion.benchmark_group(format!("one-row/{format:?}"));
        let rows = MATRIX_BYTES / (COLS / format.block_len() * format.block_bytes());
        for isa in isas() {
            let weights = matrix(isa, format, rows, COLS);
            group.throughput(Throughput::Bytes(weights.bytes() as u64));
            for threads in threads() {
                let pool = Pool::new(threads);
                let x = inputs(&pool, 1, COLS);
                let mut out = vec![0.0; rows];
                group.bench_function(BenchmarkId::new(format!("{isa:?}"), threads), |bencher| {
                    bencher.iter(|| weights.matmul(&pool, &x, &mut out));
                });
            }
        }
        group.finish();
    }
}

fn many_rows(criterion: &mut Criterion) {
    let (rows, cols) = (1536, 1024);
    for format in Format::ALL {
        let mut group = criterion.benchmark_group(format!("64-rows/{format:?}"));
        for isa in isas() {
            let weights = matrix(isa, format, rows, cols);
            group.throughput(Throughput::Elements((ROWS * rows * cols) as u64));
            for threads in threads() {
                let pool = Pool::new(threads);
                let x = inputs(&pool, ROWS, cols);
                let mut out = vec![0.0; ROWS * rows];
                group.bench_function(BenchmarkId::new(format!("{isa:?}"), threads), |bencher| {
                    bencher.iter(|| weights.matmul(&pool, &x, &mut out));
                });
            }
        }
        group.finish();
    }
}

criterion_group! {
    name = kernels;
    config = Criterion::default()
        .sample_size(20)
        .warm_up_time(std::time::Duration::from_millis(300))
        .measurement_time(std::time::Duration::from_millis(1000));
    targets = reading, one_row, many_rows
}
criterion_main!(kernels);
