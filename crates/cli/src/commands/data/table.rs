//! Rows of text in columns.

/// The rows, their first column to the left and the others to the right, each as wide as it must be.
pub(super) fn table<const N: usize>(rows: &[[String; N]]) -> String {
    let width = |text: &str| text.chars().count();
    let mut widths = [0; N];
    for row in rows {
        for (widest, text) in widths.iter_mut().zip(row) {
            *widest = width(text).max(*widest);
        }
    }
    let mut out = String::new();
    for row in rows {
        for (column, (text, widest)) in row.iter().zip(widths).enumerate() {
            let padding = " ".repeat(widest - width(text));
            if column == 0 {
                out += &format!("{text}{padding}");
            } else {
                out += &format!("  {padding}{text}");
            }
        }
        out.truncate(out.trim_end().len());
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let rows = [["name", "n"], ["é", "100"]].map(|row| row.map(str::to_owned));
        assert_eq!(table(&rows), "name    n\né     100\n");
    }
}
