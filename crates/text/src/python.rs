//! What chat templates expect of Python: `json.dumps`, `strftime`, and string methods within a budget.

use std::fmt::Write as _;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use minijinja::value::{Kwargs, Rest, ValueKind, from_args};
use minijinja::{Error, ErrorKind, State, Value};

/// The deepest value that is printed or written as JSON.
const MAX_DEPTH: usize = 128;
/// The largest string that `replace`, `join` or `format` may build in one call, in bytes. The engine charges
/// for a method's result only once it exists, so these are bounded before.
const MAX_BUILT: usize = 1 << 28;

/// Hugging Face's `tojson`: `json.dumps` with `ensure_ascii=False` and no HTML escapes. Takes
/// `ensure_ascii`, `indent`, `separators` and `sort_keys`.
pub(crate) fn tojson(
    state: &mut State,
    value: &Value,
    positional: Rest<Value>,
    options: Kwargs,
) -> Result<Value, Error> {
    let option = |at: usize, name: &str| -> Result<Option<Value>, Error> {
        let named: Option<Value> = options.get(name)?;
        Ok(named.or_else(|| positional.get(at).cloned()).filter(|value| !value.is_none()))
    };
    let ensure_ascii = option(0, "ensure_ascii")?.is_some_and(|flag| flag.is_true());
    let indent = match option(1, "indent")? {
        None => None,
        Some(text) if text.kind() == ValueKind::String => Some(text.to_string()),
        // Wider than any reader would want it, and no way to a huge text.
        Some(width) => Some(" ".repeat(usize::try_from(width)?.min(64))),
    };
    let (item, key) = match option(2, "separators")? {
        Some(pair) => {
            let part = |at: usize| pair.get_item_by_index(at).map(|value| value.to_string());
            (part(0)?, part(1)?)
        }
        None => (if indent.is_some() { "," } else { ", " }.to_owned(), ": ".to_owned()),
    };
    let sort_keys = option(3, "sort_keys")?.is_some_and(|flag| flag.is_true());
    options.assert_all_used()?;
    let mut writer = JsonWriter { state, out: String::new(), ensure_ascii, indent, item, key, sort_keys };
    writer.value(value, 0)?;
    Ok(Value::from(writer.out))
}

struct JsonWriter<'a, 's, 'e> {
    state: &'a State<'s, 'e>,
    out: String,
    ensure_ascii: bool,
    indent: Option<String>,
    item: String,
    key: String,
    sort_keys: bool,
}

impl JsonWriter<'_, '_, '_> {
    fn value(&mut self, value: &Value, depth: usize) -> Result<(), Error> {
        // A small value that contains itself many times over can be written without end: pay per part.
        self.state.consume_fuel(1)?;
        if depth > MAX_DEPTH {
            return Err(too_deep());
        }
        match value.kind() {
            ValueKind::None => self.out.push_str("null"),
            ValueKind::Bool => self.out.push_str(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number => self.number(value)?,
            ValueKind::String => self.string(value.as_str().unwrap_or_default())?,
            ValueKind::Seq | ValueKind::Iterable => {
                let items: Vec<Value> = value.try_iter()?.collect();
                self.container('[', ']', depth, &items, |writer, item| writer.value(item, depth + 1))?;
            }
            ValueKind::Map => {
                let mut keys: Vec<Value> = value.try_iter()?.collect();
                if self.sort_keys {
                    keys.sort_by_key(|key| key.to_string());
                }
                self.container('{', '}', depth, &keys, |writer, key| {
                    writer.object_key(key)?;
                    let separator = writer.key.clone();
                    writer.out.push_str(&separator);
                    writer.value(&value.get_item(key)?, depth + 1)
                })?;
            }
            other => return Err(unserializable(format!("an {other} value"))),
        }
        Ok(())
    }

    fn container(
        &mut self,
        open: char,
        close: char,
        depth: usize,
        items: &[Value],
        mut write: impl FnMut(&mut Self, &Value) -> Result<(), Error>,
    ) -> Result<(), Error> {
        self.out.push(open);
        for (i, item) in items.iter().enumerate() {
            if i > 0 {
                self.out.push_str(&self.item);
            }
            self.line(depth + 1);
            write(self, item)?;
        }
        if !items.is_empty() {
            self.line(depth);
        }
        self.out.push(close);
        Ok(())
    }

    fn line(&mut self, depth: usize) {
        if let Some(indent) = &self.indent {
            self.out.push('\n');
            for _ in 0..depth {
                self.out.push_str(indent);
            }
        }
    }

    fn object_key(&mut self, key: &Value) -> Result<(), Error> {
        match key.kind() {
            ValueKind::String => self.string(key.as_str().unwrap_or_default()),
            ValueKind::None => self.string("null"),
            ValueKind::Bool => self.string(if key.is_true() { "true" } else { "false" }),
            ValueKind::Number => {
                self.out.push('"');
                self.number(key)?;
                self.out.push('"');
                Ok(())
            }
            other => Err(unserializable(format!("an object key of type {other}"))),
        }
    }

    fn number(&mut self, value: &Value) -> Result<(), Error> {
        if value.is_integer() {
            let _ = write!(self.out, "{value}");
        } else {
            self.out.push_str(&float_repr(f64::try_from(value.clone())?));
        }
        Ok(())
    }

    fn string(&mut self, text: &str) -> Result<(), Error> {
        self.state.consume_fuel(text.len() as u64 / 64)?;
        self.out.push('"');
        for symbol in text.chars() {
            match symbol {
                '"' => self.out.push_str("\\\""),
                '\\' => self.out.push_str("\\\\"),
                '\n' => self.out.push_str("\\n"),
                '\r' => self.out.push_str("\\r"),
                '\t' => self.out.push_str("\\t"),
                '\u{8}' => self.out.push_str("\\b"),
                '\u{c}' => self.out.push_str("\\f"),
                _ if symbol < ' ' || (self.ensure_ascii && symbol > '\u{7f}') => {
                    for unit in symbol.encode_utf16(&mut [0; 2]) {
                        let _ = write!(self.out, "\\u{unit:04x}");
                    }
                }
                _ => self.out.push(symbol),
            }
        }
        self.out.push('"');
        Ok(())
    }
}

fn unserializable(what: String) -> Error {
    Error::new(ErrorKind::BadSerialization, format!("tojson: {what} has no JSON form"))
}

/// Python's `repr` of a float: the shortest digits, with an exponent below 1e-4 and from 1e16 on.
fn float_repr(value: f64) -> String {
    if value.is_nan() {
        return "NaN".into();
    }
    if value.is_infinite() {
        return if value > 0.0 { "Infinity" } else { "-Infinity" }.into();
    }
    let scientific = format!("{value:e}");
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    match exponent.parse::<i32>() {
        Ok(power) if value != 0.0 && !(-4..16).contains(&power) => {
            format!("{digits}e{}{:02}", if power < 0 { '-' } else { '+' }, power.abs())
        }
        _ => format!("{value:?}"),
    }
}

/// Pays for every part of a value before it is printed: a small value that contains itself many times over
/// would be printed without end.
pub(crate) fn pay_to_print(state: &State, value: &Value, depth: usize) -> Result<(), Error> {
    if !matches!(value.kind(), ValueKind::Seq | ValueKind::Iterable | ValueKind::Map) {
        return Ok(());
    }
    if depth > MAX_DEPTH {
        return Err(too_deep());
    }
    for item in value.try_iter()? {
        state.consume_fuel(1)?;
        if value.kind() == ValueKind::Map {
            pay_to_print(state, &value.get_item(&item)?, depth + 1)?;
        }
        pay_to_print(state, &item, depth + 1)?;
    }
    Ok(())
}

/// Jinja's `string` filter.
pub(crate) fn string(state: &mut State, value: &Value) -> Result<Value, Error> {
    pay_to_print(state, value, 0)?;
    Ok(Value::from(value.to_string()))
}

fn too_deep() -> Error {
    Error::new(ErrorKind::InvalidOperation, format!("a value is nested more than {MAX_DEPTH} deep"))
}

/// The method calls of templates: minijinja's Python methods, with those that can build a huge string
/// from small ones bounded first.
pub(crate) fn call_method(
    state: &mut State,
    value: &Value,
    method: &str,
    args: &[Value],
) -> Result<Value, Error> {
    let built = match (value.as_str(), method) {
        (Some(text), "replace") => {
            let (old, new, _count): (&str, &str, Option<i32>) = from_args(args)?;
            text.matches(old).count().saturating_mul(new.len()).saturating_add(text.len())
        }
        (Some(text), "format") => widest_field(text, args),
        (Some(separator), "join") => {
            let (parts,): (&Value,) = from_args(args)?;
            pay_to_print(state, parts, 0)?;
            let count = parts.try_iter()?.take(MAX_BUILT).count();
            count.saturating_mul(separator.len())
        }
        _ => 0,
    };
    if built > MAX_BUILT {
        let reason = format!("{method} would build more than {} MiB", MAX_BUILT >> 20);
        return Err(Error::new(ErrorKind::InvalidOperation, reason));
    }
    minijinja_contrib::pycompat::unknown_method_callback(state, value, method, args)
}

/// The largest number in a format string, or of its arguments if it may take widths from them: no field
/// is wider.
fn widest_field(format: &str, args: &[Value]) -> usize {
    let number = |digits: &str| if digits.is_empty() { 0 } else { digits.parse().unwrap_or(usize::MAX) };
    let in_format = format.split(|c: char| !c.is_ascii_digit()).map(number).max().unwrap_or(0);
    let mut braces = format.split(['{', '}']);
    let nested = format.contains(":{") || braces.any(|part| part.ends_with(':') || part.ends_with('.'));
    let from_args = args.iter().filter_map(|arg| usize::try_from(arg.clone()).ok()).max().unwrap_or(0);
    in_format.max(if nested { from_args } else { 0 })
}

/// `datetime.strftime` of a moment in UTC. Directives it does not know stay as they are.
pub(crate) fn strftime(format: &str, moment: SystemTime) -> String {
    const MONTHS: [&str; 12] = [
        "January",
        "February",
        "March",
        "April",
        "May",
        "June",
        "July",
        "August",
        "September",
        "October",
        "November",
        "December",
    ];
    const DAYS: [&str; 7] = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];
    let seconds = moment.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs();
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = civil(days);
    let month_name = MONTHS[month as usize - 1];
    let day_name = DAYS[((days + 4) % 7) as usize];
    let (hour, minute) = (second / 3600, second / 60 % 60);
    let mut out = String::new();
    let mut symbols = format.chars();
    while let Some(symbol) = symbols.next() {
        if symbol != '%' {
            out.push(symbol);
            continue;
        }
        let _ = match symbols.next() {
            Some('Y') => write!(out, "{year:04}"),
            Some('y') => write!(out, "{:02}", year % 100),
            Some('m') => write!(out, "{month:02}"),
            Some('d') => write!(out, "{day:02}"),
            Some('H') => write!(out, "{hour:02}"),
            Some('I') => write!(out, "{:02}", (hour + 11) % 12 + 1),
            Some('p') => write!(out, "{}", if hour < 12 { "AM" } else { "PM" }),
            Some('M') => write!(out, "{minute:02}"),
            Some('S') => write!(out, "{:02}", second % 60),
            Some('B') => write!(out, "{month_name}"),
            Some('b') => write!(out, "{}", &month_name[..3]),
            Some('A') => write!(out, "{day_name}"),
            Some('a') => write!(out, "{}", &day_name[..3]),
            Some('j') => write!(out, "{:03}", day_of_year(year, month, day)),
            Some('%') => write!(out, "%"),
            Some(other) => write!(out, "%{other}"),
            None => write!(out, "%"),
        };
    }
    out
}

/// Year, month and day of the Gregorian calendar, `days` after 1970-01-01. Years are counted from March so
/// that the leap day is the last (H. Hinnant, "chrono-compatible low-level date algorithms").
fn civil(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

fn day_of_year(year: u64, month: u64, day: u64) -> u64 {
    const BEFORE: [u64; 12] = [0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334];
    let leap = year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    BEFORE[month as usize - 1] + day + u64::from(leap && month > 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_are_written_as_python_does() {
        let rows = [
            (0.0, "0.0"),
            (-0.0, "-0.0"),
            (1.0, "1.0"),
            (0.1, "0.1"),
            (1e15, "1000000000000000.0"),
            (1e16, "1e+16"),
            (1.5e300, "1.5e+300"),
            (0.0001, "0.0001"),
            (0.00001, "1e-05"),
            (-2.5e-7, "-2.5e-07"),
            (f64::INFINITY, "Infinity"),
        ];
        for (value, want) in rows {
            assert_eq!(float_repr(value), want);
        }
    }

    #[test]
    fn dates() {
        let rows = [
            (0, "1970-01-01 00:00:00 Thu 001"),
            (951_782_399, "2000-02-28 23:59:59 Mon 059"),
            (951_782_400, "2000-02-29 00:00:00 Tue 060"),
            (1_709_251_199, "2024-02-29 23:59:59 Thu 060"),
            (1_735_689_599, "2024-12-31 23:59:59 Tue 366"),
            (4_107_542_400, "2100-03-01 00:00:00 Mon 060"),
        ];
        for (seconds, want) in rows {
            let moment = UNIX_EPOCH + Duration::from_secs(seconds);
            assert_eq!(strftime("%Y-%m-%d %H:%M:%S %a %j", moment), want);
        }
        let noon = UNIX_EPOCH + Duration::from_secs(12 * 3600 + 5);
        assert_eq!(
            strftime("%d %B %y, %A, %I %p %b 100%% %Q %", noon),
            "01 January 70, Thursday, 12 PM Jan 100% %Q %"
        );
    }
}
