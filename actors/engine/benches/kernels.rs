//! The kernels against the machine: bytes of weights per second for one row,
//! beside plain reading of as many bytes; multiplications per second for 64,
//! beside integer dot products and fused multiplications in registers. The
//! ceilings are printed whichever part is run.
//!
//! `cargo bench -p cairn-engine -- one-row/Q4_1` runs a part.
#![expect(clippy::print_stdout, reason = "a bench talks to a person")]

use cairn_engine::kernel::{
    AttentionScratch, AttentionShape, CacheFormat, CacheShape, Format, Isa, KvCache, Packed, Pool,
    QuantizedRows, Span, Stock, attention, probe, rms_norm_rows,
};
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
    [Isa::Avx2, Isa::AvxVnni, Isa::Avx512Vnni]
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
            "ceilings/{threads}: reading {:.1} GB/s over {MATRIX_BYTES} bytes, dots {:.0} and \
             fused multiplications {:.0} of 10^9/s",
            best / 1e9,
            probe::dots_per_second(&pool) / 1e9,
            probe::fmas_per_second(&pool) / 1e9,
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

/// The default model's heads, early and late in a conversation: one row is
/// bound by reading the cache, a chunk by multiplying.
fn attending(criterion: &mut Criterion) {
    let (heads, kv_heads, head_dim) = (9, 3, 64);
    let shape = AttentionShape {
        heads,
        kv_heads,
        head_dim,
        scale: 0.125,
        window: None,
    };
    let mut group = criterion.benchmark_group("attention");
    for (rows, position) in [(1, 127), (1, 2047), (128, 0), (128, 1920)] {
        let end = position + rows;
        let layer = CacheShape {
            layers: 1,
            kv_heads,
            head_dim,
            format: CacheFormat::F32,
        };
        let mut cache = KvCache::new(layer, &Stock::default().into());
        cache.reserve(0..end).expect("memory");
        let numbers = |n: usize| {
            (0..n)
                .map(|i| (i % 17) as f32 * 0.1 - 0.8)
                .collect::<Vec<_>>()
        };
        let (keys, q) = (
            numbers(kv_heads * head_dim),
            numbers(rows * heads * head_dim),
        );
        (0..end).for_each(|position| cache.write(0, position, &keys, &keys));
        let seen: usize = (position + 1..=end).sum();
        group.throughput(if rows == 1 {
            Throughput::Bytes((end * 2 * kv_heads * head_dim * size_of::<f32>()) as u64)
        } else {
            Throughput::Elements((seen * heads * head_dim * 2) as u64)
        });
        for threads in threads() {
            let pool = Pool::new(threads);
            let spans = [Span {
                cache: cache.layer(0),
                position,
                rows,
            }];
            let mut scratch = AttentionScratch::default();
            let mut out = vec![0.0; q.len()];
            let q = (&q[..], heads * head_dim);
            group.bench_function(
                BenchmarkId::new(format!("{rows}@{position}"), threads),
                |b| {
                    b.iter(|| attention(&pool, &shape, &spans, q, &mut out, &mut scratch));
                },
            );
        }
    }
    group.finish();
}

/// What lies between two products.
fn between(criterion: &mut Criterion) {
    let cols = 2048;
    let mut group = criterion.benchmark_group("rows");
    for rows in [1, ROWS] {
        let (x, weight) = (vec![0.5; rows * cols], vec![1.0; cols]);
        group.throughput(Throughput::Bytes((rows * cols * size_of::<f32>()) as u64));
        for threads in threads() {
            let pool = Pool::new(threads);
            let mut out = QuantizedRows::new(rows, cols);
            let id = |what: &str| BenchmarkId::new(format!("{what}/{rows}"), threads);
            group.bench_function(id("norm"), |bencher| {
                bencher.iter(|| rms_norm_rows(&pool, &x, &weight, 1e-5, &mut out));
            });
            group.bench_function(id("quantise"), |bencher| {
                bencher.iter(|| out.quantize(&pool));
            });
        }
    }
    group.finish();
}

criterion_group! {
    name = kernels;
    config = Criterion::default()
        .sample_size(20)
        .warm_up_time(std::time::Duration::from_millis(300))
        .measurement_time(std::time::Duration::from_millis(1000));
    targets = reading, one_row, many_rows, attending, between
}
criterion_main!(kernels);
