//! Aligned columns, and numbers as people read them.

use std::fmt::Write as _;

/// A title row and rows below it: the first column to the left, the others to the right.
pub(crate) fn table<const N: usize>(out: &mut String, head: [&str; N], rows: &[[String; N]]) {
    let width = |column: usize| {
        let cells = rows.iter().map(|row| row[column].chars().count() + if column == 0 { 2 } else { 0 });
        cells.chain([head[column].chars().count()]).max().unwrap_or(0)
    };
    let widths: [usize; N] = std::array::from_fn(width);
    let mut line = |cells: [&str; N], indent: &str| {
        let first = format!("{indent}{}", cells[0]);
        let mut text = format!("{first:<0$}", widths[0]);
        for (cell, width) in cells.iter().zip(widths).skip(1) {
            write!(text, "  {cell:>width$}").expect("a string takes every text");
        }
        out.push_str(text.trim_end());
        out.push('\n');
    };
    line([""; N], "");
    line(head, "");
    rows.iter().for_each(|row| line(std::array::from_fn(|column| row[column].as_str()), "  "));
}

/// `15.71B`, `209.7M`, `2048`.
pub(crate) fn count(number: u64) -> String {
    match number as f64 {
        billions if billions >= 1e9 => format!("{:.2}B", billions / 1e9),
        millions if millions >= 1e6 => format!("{:.1}M", millions / 1e6),
        thousands if thousands >= 1e4 => format!("{:.1}K", thousands / 1e3),
        _ => number.to_string(),
    }
}

/// `2.27 G`, `13.4 M`.
pub(crate) fn operations(number: f64) -> String {
    match number {
        tera if tera >= 1e12 => format!("{:.2} T", tera / 1e12),
        giga if giga >= 1e9 => format!("{:.2} G", giga / 1e9),
        mega if mega >= 1e6 => format!("{:.1} M", mega / 1e6),
        _ => format!("{:.1} K", number / 1e3),
    }
}

/// `31.41 GB`, `1.5 MB`, `31.1 kB`; powers of 1000.
pub(crate) fn bytes(number: u64) -> String {
    match number as f64 {
        tera if tera >= 1e12 => format!("{:.2} TB", tera / 1e12),
        giga if giga >= 1e9 => format!("{:.2} GB", giga / 1e9),
        mega if mega >= 1e6 => format!("{:.1} MB", mega / 1e6),
        kilo if kilo >= 1e3 => format!("{:.1} kB", kilo / 1e3),
        _ => format!("{number} B"),
    }
}

/// `163,840`.
pub(crate) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// `14.1 %` of 0.141.
pub(crate) fn percent(share: f64) -> String {
    format!("{:.1} %", share * 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_well() {
        for (number, short, size, whole) in [
            (0, "0", "0 B", "0"),
            (999, "999", "999 B", "999"),
            (2048, "2048", "2.0 kB", "2,048"),
            (35_136, "35.1K", "35.1 kB", "35,136"),
            (209_715_200, "209.7M", "209.7 MB", "209,715,200"),
            (15_706_484_224, "15.71B", "15.71 GB", "15,706,484,224"),
        ] {
            assert_eq!((count(number).as_str(), bytes(number).as_str()), (short, size));
            assert_eq!(grouped(number), whole);
        }
        assert_eq!(bytes(1_343_290_000_000), "1.34 TB");
        assert_eq!(percent(0.1406), "14.1 %");
        let flops = [140_000.0, 2.5e6, 73.25e9, 2.3e12].map(operations);
        assert_eq!(flops, ["140.0 K", "2.5 M", "73.25 G", "2.30 T"]);
    }

    #[test]
    fn columns_line_up() {
        let mut out = String::new();
        let rows = [["a", "1"], ["long name", "1000"]].map(|row| row.map(String::from));
        table(&mut out, ["Title", "n"], &rows);
        assert_eq!(out, "\nTitle           n\n  a             1\n  long name  1000\n");
    }
}
