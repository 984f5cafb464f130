//! Numbers with units, as people write them, into integers.
//!
//! No floats: "0.3 ms" is 300 microseconds exactly.

/// A unit's spellings and how many of the base it is.
type Units = &'static [(&'static str, u128)];

const BYTES: Units = &[
    ("B", 1),
    ("kB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
];

/// In bits, so that both spellings are whole numbers.
const BITS_PER_SECOND: Units = &[
    ("kbit/s", 1_000),
    ("Mbit/s", 1_000_000),
    ("Gbit/s", 1_000_000_000),
    ("kB/s", 8_000),
    ("MB/s", 8_000_000),
    ("GB/s", 8_000_000_000),
    ("TB/s", 8_000_000_000_000),
    ("MiB/s", 8 << 20),
    ("GiB/s", 8 << 30),
];

const FLOPS: Units = &[
    ("MFLOPS", 1_000_000),
    ("GFLOPS", 1_000_000_000),
    ("TFLOPS", 1_000_000_000_000),
    ("PFLOPS", 1_000_000_000_000_000),
];

/// In nanoseconds; the result is rounded up to whole microseconds.
const NANOS: Units = &[
    ("us", 1_000),
    ("µs", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
];

pub(super) fn bytes(text: &str) -> Result<u64, String> {
    positive(text, BYTES, 1, "12 GB")
}

pub(super) fn bytes_per_second(text: &str) -> Result<u64, String> {
    positive(text, BITS_PER_SECOND, 8, "100 GB/s or 1 Gbit/s")
}

pub(super) fn flops(text: &str) -> Result<u64, String> {
    positive(text, FLOPS, 1, "4 TFLOPS")
}

pub(super) fn micros(text: &str) -> Result<u64, String> {
    read(text, NANOS, 1000, "0.3 ms")
}

fn positive(text: &str, units: Units, divisor: u128, example: &str) -> Result<u64, String> {
    match read(text, units, divisor, example)? {
        0 => Err(format!("\"{text}\" must be more than zero")),
        number => Ok(number),
    }
}

fn read(text: &str, units: Units, divisor: u128, example: &str) -> Result<u64, String> {
    let text = text.trim();
    let number_len = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, unit) = (&text[..number_len], text[number_len..].trim());
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let digits = format!("{whole}{fraction}");
    let plain = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    let Some((_, factor)) = units.iter().find(|(name, _)| *name == unit) else {
        let known: Vec<&str> = units.iter().map(|(name, _)| *name).collect();
        return Err(if plain {
            format!(
                "\"{text}\" has no unit that is known here ({}); write it like {example}",
                known.join(", ")
            )
        } else {
            format!("\"{text}\" is not a number with a unit; write it like {example}")
        });
    };
    if !plain || whole.is_empty() {
        return Err(format!(
            "\"{text}\" is not a number with a unit; write it like {example}"
        ));
    }
    let too_large = || format!("\"{text}\" is too large to be true");
    let mantissa: u128 = digits.parse().map_err(|_| too_large())?;
    let decimals = u32::try_from(fraction.len()).map_err(|_| too_large())?;
    let scale = 10u128.checked_pow(decimals).ok_or_else(too_large)?;
    let base = mantissa.checked_mul(*factor).ok_or_else(too_large)?;
    let divisor = scale.checked_mul(divisor).ok_or_else(too_large)?;
    u64::try_from(base.div_ceil(divisor))
        .ok()
        .filter(|number| *number <= 1 << 60)
        .ok_or_else(too_large)
}
