//! Text of the run in the page: escaped, bounded, and numbers as people write them.

use std::borrow::Cow;
use std::fmt::Write;

/// `text` as HTML text or as the value of a quoted attribute. Control characters, which would act on
/// the page or vanish from it, are shown as the replacement character.
pub(super) fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            '\n' | '\t' => out.push(character),
            // Marks that turn the direction of what follows.
            '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => out.push('\u{fffd}'),
            control if control.is_control() => out.push('\u{fffd}'),
            other => out.push(other),
        }
    }
    out
}

/// `text` cut to about `bytes`, with a word about what was cut.
pub(super) fn bounded(text: &str, bytes: usize) -> Cow<'_, str> {
    if text.len() <= bytes {
        return Cow::Borrowed(text);
    }
    let cut = text.floor_char_boundary(bytes);
    Cow::Owned(format!("{}\n[… {} more bytes]", &text[..cut], text.len() - cut))
}

/// Whole numbers: `12,345`, from a hundred thousand on `1.23 M`.
pub(super) fn count(value: f64) -> String {
    if value.abs() >= 1e5 {
        for (unit, name) in [(1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")] {
            if value.abs() >= unit {
                return format!("{} {name}", significant(value / unit));
            }
        }
    }
    grouped(value.round() as i64)
}

fn grouped(value: i64) -> String {
    let digits = value.unsigned_abs().to_string();
    let mut out = String::from(if value < 0 { "-" } else { "" });
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// Three digits that count.
fn significant(value: f64) -> String {
    let decimals = if value.abs() >= 100.0 {
        0
    } else if value.abs() >= 10.0 {
        1
    } else {
        2
    };
    format!("{value:.decimals$}")
}

/// `1.5 GiB`.
pub(super) fn bytes(value: f64) -> String {
    for (unit, name) in [(40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")] {
        let unit = (1_u64 << unit) as f64;
        if value >= unit {
            return format!("{} {name}", significant(value / unit));
        }
    }
    format!("{value:.0} B")
}

/// `3 d 4 h`, `2 h 5 min`, `12 min 3 s`, `4.2 s`.
pub(super) fn duration(seconds: f64) -> String {
    if !seconds.is_finite() || seconds < 0.0 {
        return "unknown".into();
    }
    if seconds < 60.0 {
        return format!("{seconds:.1} s");
    }
    let whole = seconds.round() as u64;
    let (days, hours, minutes) = (whole / 86_400, whole / 3600 % 24, whole / 60 % 60);
    match (days, hours) {
        (0, 0) => format!("{minutes} min {} s", whole % 60),
        (0, _) => format!("{hours} h {minutes} min"),
        _ => format!("{days} d {hours} h"),
    }
}

/// `2026-11-25 15:04 UTC`.
pub(super) fn date(seconds: u64) -> String {
    // Days to a civil date: Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms".
    let days = (seconds / 86_400).min(4_000_000) + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    format!("{year}-{month:02}-{day:02} {:02}:{:02} UTC", seconds / 3600 % 24, seconds / 60 % 60)
}

/// A list of definitions; rows without a value are left out.
pub(super) fn definitions(rows: &[(&str, String)]) -> String {
    let mut out = String::from("<dl>");
    for (name, value) in rows.iter().filter(|row| !row.1.is_empty()) {
        let _ = write!(out, "<dt>{name}</dt><dd>{}</dd>", escaped(value));
    }
    out.push_str("</dl>");
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_of_a_text_acts_on_the_page() {
        assert_eq!(escaped("<b a='\"'>&amp;"), "&lt;b a=&#39;&quot;&#39;&gt;&amp;amp;");
        assert_eq!(escaped("a\0\u{1b}[1m\u{202e}b\r\n\té😀"), "a\u{fffd}\u{fffd}[1m\u{fffd}b\u{fffd}\n\té😀");
    }

    #[test]
    fn a_long_text_is_cut_between_characters() {
        assert_eq!(bounded("abc", 3), "abc");
        assert_eq!(bounded("aé😀b", 4), "aé\n[… 5 more bytes]");
    }

    #[test]
    fn numbers_are_written_for_people() {
        assert_eq!(
            [0.0, 999.0, 12_345.0, 1.5e6, 671e9].map(count),
            ["0", "999", "12,345", "1.50 M", "671 B"]
        );
        assert_eq!([100.0, 1536.0, 1.5e9].map(bytes), ["100 B", "1.50 KiB", "1.40 GiB"]);
        let rows = [(4.21, "4.2 s"), (723.0, "12 min 3 s"), (7500.0, "2 h 5 min"), (273_600.0, "3 d 4 h")];
        rows.into_iter().for_each(|(seconds, expected)| assert_eq!(duration(seconds), expected));
        assert_eq!(duration(f64::NAN), "unknown");
        assert_eq!(date(0), "1970-01-01 00:00 UTC");
        assert_eq!(date(951_782_400), "2000-02-29 00:00 UTC");
        assert_eq!(date(1_764_083_045), "2025-11-25 15:04 UTC");
        assert!(date(u64::MAX).ends_with("UTC"));
    }
}
