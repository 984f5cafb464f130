//! Sizes as people write them. No fractions of a byte, no negative sizes.

/// Reads `1536`, `512MiB`, `1.5 GB`; `K`, `M`, `G` and `T` alone mean powers of 1024.
pub(crate) fn parse_size(text: &str) -> Result<u64, String> {
    let text = text.trim();
    let end = text
        .find(|character: char| !character.is_ascii_digit() && character != '.')
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let factor = factor(unit.trim());
    let number: Option<f64> = number.parse().ok();
    match (number, factor) {
        // A size beyond 2^53 bytes would lose its last digits, and no machine has it.
        (Some(number), Some(factor)) if number * factor < 9e15 => Ok((number * factor) as u64),
        _ => Err(format!(
            "`{text}` is not a size such as 512MiB, 2GiB or 1.5GB"
        )),
    }
}

fn factor(unit: &str) -> Option<f64> {
    let factor = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 1.0,
        "k" | "kib" => 1024.0,
        "m" | "mib" => 1024.0 * 1024.0,
        "g" | "gib" => 1024.0 * 1024.0 * 1024.0,
        "t" | "tib" => 1024.0 * 1024.0 * 1024.0 * 1024.0,
        "kb" => 1e3,
        "mb" => 1e6,
        "gb" => 1e9,
        "tb" => 1e12,
        _ => return None,
    };
    Some(factor)
}
