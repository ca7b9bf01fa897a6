//! Aligned tables, with colour. Whether a colour reaches anybody is decided where the text is printed.

use anstyle::{AnsiColor, Color, Style};

/// A cell.
#[derive(Debug, Clone, Default)]
pub struct Cell {
    text: String,
    style: Style,
}

impl Cell {
    /// In this style.
    pub fn new(text: impl Into<String>, style: Style) -> Self {
        Cell { text: text.into(), style }
    }
}

impl<T: Into<String>> From<T> for Cell {
    fn from(text: T) -> Self {
        Cell::new(text, Style::new())
    }
}

/// The colours that mean something here.
pub mod style {
    use super::*;

    const fn bold(color: AnsiColor) -> Style {
        Style::new().bold().fg_color(Some(Color::Ansi(color)))
    }

    /// All is well.
    pub const GOOD: Style = bold(AnsiColor::Green);
    /// Redundancy is lost.
    pub const WARN: Style = bold(AnsiColor::Yellow);
    /// An outage, or what leads to one.
    pub const BAD: Style = bold(AnsiColor::Red);
    /// It could not be told.
    pub const UNKNOWN: Style = bold(AnsiColor::Magenta);
    /// What to type next.
    pub const NEXT: Style = Style::new().fg_color(Some(Color::Ansi(AnsiColor::Cyan)));
    /// Headings, and what is there for completeness.
    pub const FAINT: Style = Style::new().dimmed();
}

/// `text` in a style.
pub fn styled(text: impl AsRef<str>, style: Style) -> String {
    let text = text.as_ref();
    if text.is_empty() || style == Style::new() { text.to_owned() } else { format!("{style}{text}{style:#}") }
}

/// Rows under a heading, in columns as wide as their widest cell.
pub fn table(heading: &[&str], rows: &[Vec<Cell>]) -> String {
    let heading: Vec<Cell> = heading.iter().map(|text| Cell::new(*text, style::FAINT)).collect();
    let rows: Vec<&Vec<Cell>> = std::iter::once(&heading).chain(rows).collect();
    let width = |column: usize| {
        rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.text.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..heading.len()).map(width).collect();
    let mut out = String::new();
    for row in rows {
        let last = row.iter().rposition(|cell| !cell.text.is_empty()).map_or(0, |last| last + 1);
        for (column, cell) in row[..last].iter().enumerate() {
            out.push_str(&styled(&cell.text, cell.style));
            if column + 1 < last {
                let gap = widths[column] - cell.text.chars().count() + 2;
                out.extend(std::iter::repeat_n(' ', gap));
            }
        }
        out.push('\n');
    }
    out
}

/// Plain columns, the first row being the heading.
pub fn columns<const N: usize>(rows: &[[String; N]]) -> String {
    let Some((heading, rows)) = rows.split_first() else { return String::new() };
    let heading: Vec<&str> = heading.iter().map(String::as_str).collect();
    let rows: Vec<Vec<Cell>> = rows.iter().map(|row| row.iter().map(|cell| cell.as_str().into()).collect()).collect();
    anstream::adapter::strip_str(&table(&heading, &rows)).to_string()
}

/// `text` in lines of at most `width` characters, broken between words; all lines but the first begin with `indent` spaces.
pub fn wrapped(text: &str, width: usize, indent: usize) -> String {
    // Narrower than this it would be one word a line.
    let width = width.max(indent + 24);
    let mut out = String::new();
    let mut column = 0;
    for (n, word) in text.split(' ').enumerate() {
        let long = word.chars().count();
        if column > indent && column + 1 + long > width {
            out.push('\n');
            out.extend(std::iter::repeat_n(' ', indent));
            column = indent;
        } else if n > 0 {
            out.push(' ');
            column += 1;
        }
        out.push_str(word);
        column += long;
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_take_no_room() {
        let rows =
            [vec![Cell::new("a", style::BAD), "b".into(), "".into()], vec!["long".into(), "x".into(), "y".into()]];
        let text = table(&["N", "WIDER", "Z"], &rows);
        assert!(text.contains("\u{1b}["), "{text:?}");
        let plain = anstream::adapter::strip_str(&text).to_string();
        assert_eq!(plain, "N     WIDER  Z\na     b\nlong  x      y\n");
    }

    #[test]
    fn long_lines_are_broken_between_words() {
        let text = "  warning  one two three four five six seven eight nine ten";
        let lines = wrapped(text, 40, 11);
        assert_eq!(lines, "  warning  one two three four five six\n           seven eight nine ten");
        assert_eq!(wrapped("x", 0, 9), "x");
        assert_eq!(wrapped(text, 400, 11), text);
    }
}
