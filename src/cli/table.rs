//! Aligned tables, with colour. Whether a colour reaches anybody is decided where the text is printed.

use anstyle::{AnsiColor, Color, Style};

/// A cell.
#[derive(Debug, Clone, Default)]
pub struct Cell {
    text: String,
    style: Style,
    /// The same where there is less room.
    short: Option<String>,
}

impl Cell {
    /// In this style.
    pub fn new(text: impl Into<String>, style: Style) -> Self {
        Cell { text: text.into(), style, short: None }
    }

    /// With a shorter form for where there is less room.
    pub fn or(self, short: impl Into<String>) -> Self {
        Cell { short: Some(short.into()), ..self }
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

/// What makes a table narrower, by a column's heading.
#[derive(Debug, Clone, Copy)]
pub enum Less<'a> {
    /// Its cells' short forms.
    Short(&'a str),
    /// It is left out if each cell says that, which is nothing new.
    Usual(&'a str, &'a str),
    /// It is left out.
    Without(&'a str),
    /// Its cells are cut, in the middle: names differ at both ends.
    Cut(&'a str),
}

/// A cell that is cut keeps so many characters.
const KEPT: usize = 8;

/// Rows under a heading in lines of at most `width` characters, if there is one: of `less` as many are done as that needs, in that order.
/// Gives the headings that are missed, too.
pub fn fitted(heading: &[&str], rows: &[Vec<Cell>], width: Option<usize>, less: &[Less<'_>]) -> (String, Vec<String>) {
    let (mut heading, mut rows) = (heading.to_vec(), rows.to_vec());
    let mut missed = Vec::new();
    let longest = |heading: &[&str], rows: &[Vec<Cell>], column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.text.chars().count());
        cells.chain([heading[column].chars().count()]).max().unwrap_or(0)
    };
    for less in less {
        let total = |heading: &[&str], rows: &[Vec<Cell>]| {
            (0..heading.len()).map(|column| longest(heading, rows, column) + GAP).sum::<usize>().saturating_sub(GAP)
        };
        let Some(over) = width.and_then(|width| total(&heading, &rows).checked_sub(width)).filter(|over| *over > 0)
        else {
            break;
        };
        let (Less::Short(of) | Less::Usual(of, _) | Less::Without(of) | Less::Cut(of)) = less;
        let Some(column) = heading.iter().position(|name| name == of) else { continue };
        let mut cells = rows.iter_mut().filter_map(|row| row.get_mut(column));
        let without = match less {
            Less::Short(_) => {
                cells.for_each(|cell| cell.text = cell.short.take().unwrap_or_else(|| std::mem::take(&mut cell.text)));
                false
            }
            Less::Usual(_, usual) => cells.all(|cell| cell.text == *usual),
            Less::Without(_) => {
                missed.push((*of).to_owned());
                true
            }
            Less::Cut(_) => {
                drop(cells);
                let most = longest(&heading, &rows, column).saturating_sub(over).max(KEPT);
                rows.iter_mut()
                    .filter_map(|row| row.get_mut(column))
                    .for_each(|cell| cell.text = cut(&cell.text, most));
                false
            }
        };
        if without {
            heading.remove(column);
            rows.iter_mut().filter(|row| column < row.len()).for_each(|row| drop(row.remove(column)));
        }
    }
    (table(&heading, &rows), missed)
}

/// `text` with what is over `most` characters taken out of its middle.
pub fn cut(text: &str, most: usize) -> String {
    const MARK: &str = "..";
    let all: Vec<char> = text.chars().collect();
    if all.len() <= most {
        return text.to_owned();
    }
    let keep = most.saturating_sub(MARK.len());
    let end = keep / 2;
    let (first, last) = (&all[..keep - end], &all[all.len() - end..]);
    first.iter().chain(&MARK.chars().collect::<Vec<_>>()).chain(last).collect()
}

/// Between two columns.
const GAP: usize = 2;

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
                let gap = widths[column] - cell.text.chars().count() + GAP;
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
    fn a_table_sheds_what_matters_least_until_it_fits() {
        let row = |name: &str, state: &str, lag: &str| {
            vec![name.into(), state.into(), Cell::from(lag).or(lag.split(',').next().unwrap_or_default())]
        };
        let rows = [row("redis-prod-01", "online", "1.2 kB, 1 s"), row("redis-prod-02", "online", "-")];
        let less = [Less::Short("LAG"), Less::Usual("STATE", "online"), Less::Without("LAG"), Less::Cut("NODE")];
        let within = |width: usize, rows: &[Vec<Cell>]| {
            let (text, missed) = fitted(&["NODE", "STATE", "LAG"], rows, Some(width), &less);
            (anstream::adapter::strip_str(&text).to_string(), missed)
        };
        let all = "NODE           STATE   LAG\nredis-prod-01  online  1.2 kB, 1 s\nredis-prod-02  online  -\n";
        assert_eq!(within(34, &rows), (all.to_owned(), vec![]));
        let (text, missed) = within(33, &rows);
        assert!(text.contains("redis-prod-01  online  1.2 kB\n") && missed.is_empty(), "{text}");
        let (text, missed) = within(28, &rows);
        assert!(text.starts_with("NODE           LAG\n") && missed.is_empty(), "what is usual is not missed: {text}");
        let (text, missed) = within(20, &rows);
        assert!(text.starts_with("NODE\n") && missed == ["LAG"], "{text}");
        let (text, _) = within(9, &rows);
        assert_eq!(text, "NODE\nredi..-01\nredi..-02\n");
        let rows = [rows[0].clone(), row("redis-prod-02", "OFFLINE", "-")];
        assert!(within(24, &rows).0.contains("OFFLINE"));
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
