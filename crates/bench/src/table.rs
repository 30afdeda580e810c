//! Reports as people read them.

use std::fmt;

use crate::limits::Measured;
use crate::{Limits, Report};

impl fmt::Display for Limits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "machine   {}, {}", self.isa, plural(self.threads, "thread"))?;
        write!(f, "memory    {} read", rate(self.read_before, "B/s"))?;
        if let Some(after) = self.read_after {
            write!(f, "; afterwards {}", rate(after, "B/s"))?;
        }
        writeln!(f, " (from {})", si(self.read_buffer_bytes as f64, "B"))?;
        writeln!(f, "f32 FMA   {}", rate(self.f32_flops, "FLOP/s"))?;
        for (name, unit, vectors) in [("bf16", "FLOP/s", self.bf16_flops), ("int8", "OP/s", self.int8_ops)] {
            if let Some(vectors) = vectors {
                writeln!(f, "{name}      {}", rate(vectors, unit))?;
            }
        }
        for (name, unit, registers, from_l2) in [
            ("AMX bf16", "FLOP/s", self.bf16_tile_flops, self.bf16_tile_flops_from_l2),
            ("AMX int8", "OP/s", self.int8_tile_ops, self.int8_tile_ops_from_l2),
        ] {
            if let Some(registers) = registers {
                write!(f, "{name}  {}", rate(registers, unit))?;
                from_l2.map_or(Ok(()), |l2| write!(f, "; from the L2 cache {}", rate(l2, unit)))?;
                writeln!(f)?;
            }
        }
        Ok(())
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let model = &self.model;
        let layers = plural(model.layers, "layer");
        writeln!(f, "model     {}, {layers}, {}", model.model_type, model.dtype)?;
        let (all, read) = (model.weight_bytes as f64, model.weight_bytes_per_token as f64);
        let latents = si(model.cache_bytes_per_token as f64, "B");
        writeln!(
            f,
            "weights   {}, of which a decoded token reads {}; {latents} of latents per token",
            si(all, "B"),
            si(read, "B")
        )?;
        write!(f, "{}", self.limits)?;
        if !self.prefill.is_empty() {
            let multiplier = self.limits.peak(model.dtype).multiplier;
            writeln!(
                f,
                "\nprefill, tokens/s; share of the {multiplier} peak, and of that fed from the L2 cache; f32: times the speed of f32 products of the same shapes\n"
            )?;
            f.write_str(&table(&PREFILL, &self.prefill_rows()))?;
        }
        if !self.decode.is_empty() {
            writeln!(f, "\ndecode, tokens/s of all sequences; share of the best bandwidth\n")?;
            f.write_str(&table(&DECODE, &self.decode_rows()))?;
            self.of_layers(f)?;
        }
        if !self.complete {
            writeln!(
                f,
                "\nincomplete: stopped before all was measured; * marks cases with fewer than {} repeats",
                self.plan.repeats
            )?;
        }
        Ok(())
    }
}

const PREFILL: [&str; 10] =
    ["prompt", "batch", "tokens/s", "min", "max", "MFLOP/token", "GFLOP/s", "share", "of L2", "× f32"];
const DECODE: [&str; 11] = [
    "context", "batch", "tokens/s", "min", "max", "per seq", "experts", "MB/step", "MB/token", "GB/s",
    "share",
];

impl Report {
    fn prefill_rows(&self) -> Vec<Vec<String>> {
        let row = |result: &crate::PrefillResult| {
            let speed = &result.tokens_per_second;
            vec![
                result.prompt_tokens.to_string(),
                result.batch.to_string(),
                mark(digits(speed.median), result.complete),
                digits(speed.min),
                digits(speed.max),
                digits(result.flops_per_token / 1e6),
                digits(result.flops_per_second / 1e9),
                percent(result.share_of_peak),
                result.share_of_l2_peak.map_or("–".to_owned(), percent),
                result.times_f32_gemm.map_or("–".to_owned(), digits),
            ]
        };
        self.prefill.iter().map(row).collect()
    }

    fn of_layers(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let results =
            self.decode.iter().filter_map(|result| Some((result, result.tokens_per_second_of_layers?)));
        for (index, (result, speed)) in results.enumerate() {
            if index == 0 {
                writeln!(f)?;
            }
            let layers = self.plan.of_layers.unwrap_or(self.model.layers);
            let (batch, context) = (result.batch, result.context);
            writeln!(
                f,
                "{layers} layers like these: {} tokens/s (batch {batch}, context {context})",
                digits(speed)
            )?;
        }
        Ok(())
    }

    fn decode_rows(&self) -> Vec<Vec<String>> {
        let row = |result: &crate::DecodeResult| {
            let speed = &result.tokens_per_second;
            vec![
                result.context.to_string(),
                result.batch.to_string(),
                mark(digits(speed.median), result.complete),
                digits(speed.min),
                digits(speed.max),
                digits(result.sequence_tokens_per_second),
                digits(result.experts_per_step),
                digits(result.bytes_per_step / 1e6),
                digits(result.bytes_per_token / 1e6),
                digits(result.bytes_per_second / 1e9),
                percent(result.share_of_bandwidth),
            ]
        };
        self.decode.iter().map(row).collect()
    }
}

/// Columns aligned to the right, two spaces between.
fn table<const N: usize>(header: &[&str; N], rows: &[Vec<String>]) -> String {
    let width = |column: usize| {
        let cells = rows.iter().map(|row| row[column].chars().count());
        cells.chain([header[column].chars().count()]).max().unwrap_or(0)
    };
    let header = header.map(str::to_owned).to_vec();
    let mut text = String::new();
    for row in std::iter::once(&header).chain(rows) {
        let cells =
            row.iter().enumerate().map(|(column, cell)| format!("{cell:>width$}", width = width(column)));
        text.push_str(&cells.collect::<Vec<_>>().join("  "));
        text.push('\n');
    }
    text
}

fn mark(text: String, complete: bool) -> String {
    if complete { text } else { format!("{text}*") }
}

/// Three significant digits, or all before the point.
fn digits(value: f64) -> String {
    match value.abs() {
        size if size >= 99.95 => format!("{value:.0}"),
        size if size >= 9.995 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

fn percent(share: f64) -> String {
    format!("{:.0} %", 100.0 * share)
}

fn plural(count: usize, noun: &str) -> String {
    format!("{count} {noun}{}", if count == 1 { "" } else { "s" })
}

/// With a decimal prefix.
fn si(value: f64, unit: &str) -> String {
    let scales = [(1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")];
    let (scale, prefix) = scales.into_iter().find(|(scale, _)| value >= *scale).unwrap_or((1.0, ""));
    format!("{} {prefix}{unit}", digits(value / scale))
}

fn rate(measured: Measured, unit: &str) -> String {
    format!("{} (median {})", si(measured.best, unit), si(measured.median, unit))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_keep_three_digits() {
        for (value, expected) in
            [(0.0, "0.00"), (1.234, "1.23"), (9.996, "10.0"), (99.96, "100"), (12345.6, "12346")]
        {
            assert_eq!(digits(value), expected);
        }
        assert_eq!(si(1.414e9, "B"), "1.41 GB");
        assert_eq!(si(12.0, "B"), "12.0 B");
        assert_eq!(percent(0.634), "63 %");
        assert_eq!((plural(1, "thread"), plural(2, "thread")), ("1 thread".into(), "2 threads".into()));
    }

    #[test]
    fn columns_are_aligned() {
        let rows = [vec!["1".to_owned(), "20".to_owned()], vec!["100".to_owned(), "–".to_owned()]];
        assert_eq!(table(&["× a", "b"], &rows), "× a   b\n  1  20\n100   –\n");
    }
}
