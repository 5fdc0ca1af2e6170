//! The figures of all runs: medians, ratios between neighbours in time, and the tables.

use std::fmt::Write as _;

use super::bars::Panel;
use super::definition::Rival;
use crate::failure::Failure;
use crate::spread::Spread;

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Column {
    /// CPU microseconds per delivery of a fan-out.
    Delivery,
    /// User bytes per idle connection.
    Memory,
    /// Messages echoed per CPU second.
    Echo,
    /// Handshakes per CPU second.
    Handshakes,
}

impl Column {
    /// All, in the order of the table.
    pub(crate) const ALL: [Column; 4] =
        [Column::Delivery, Column::Memory, Column::Echo, Column::Handshakes];

    /// Its heading.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Column::Delivery => "CPU µs per delivery",
            Column::Memory => "user bytes per idle connection",
            Column::Echo => "echoes per CPU second",
            Column::Handshakes => "handshakes per CPU second",
        }
    }

    /// True exactly when a smaller figure is the better one.
    fn is_cost(self) -> bool {
        matches!(self, Column::Delivery | Column::Memory)
    }

    /// `figure` with as many digits as mean something.
    pub(crate) fn text(self, figure: f64) -> String {
        self.writer()(figure)
    }

    fn writer(self) -> fn(f64) -> String {
        match self {
            Column::Delivery => |figure| format!("{figure:.2}"),
            Column::Memory => group,
            // Three digits are more than a shared machine gives.
            Column::Echo | Column::Handshakes => |figure| group((figure / 100.0).round() * 100.0),
        }
    }
}

/// A whole number with commas between its thousands.
fn group(figure: f64) -> String {
    let digits = format!("{:.0}", figure.abs());
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    if figure <= -0.5 { format!("-{text}") } else { text }
}

/// One server's figures.
#[derive(Debug)]
struct Row {
    title: String,
    name: String,
    /// Figures with the number of their round, by column.
    figures: [Vec<(u32, f64)>; Column::ALL.len()],
    failure: Option<String>,
}

/// All figures. The first row is the one that others are compared with.
#[derive(Debug)]
pub(crate) struct Results {
    rows: Vec<Row>,
}

impl Results {
    /// A row for each of `rivals`, the reference first.
    pub(crate) fn new(rivals: &[Rival]) -> Results {
        let row = |rival: &Rival| Row {
            title: rival.title.clone(),
            name: rival.name.clone(),
            figures: Default::default(),
            failure: None,
        };
        Results { rows: rivals.iter().map(row).collect() }
    }

    /// Adds what round `round` gave for server `number`.
    pub(crate) fn add(&mut self, number: usize, column: Column, round: u32, figure: f64) {
        self.rows[number].figures[column as usize].push((round, figure));
    }

    /// Server `number` failed and is measured no further.
    pub(crate) fn fail(&mut self, number: usize, failure: &Failure) {
        let row = &mut self.rows[number];
        row.failure = Some(format!("{}: {failure}", row.name));
    }

    /// True exactly when server `number` has failed.
    pub(crate) fn has_failed(&self, number: usize) -> bool {
        self.rows[number].failure.is_some()
    }

    /// What failed and why.
    pub(crate) fn failures(&self) -> Vec<&str> {
        self.rows.iter().filter_map(|row| row.failure.as_deref()).collect()
    }

    /// Titles and spreads of a column, the best first; servers without a figure are left out.
    pub(crate) fn ranked(&self, column: Column) -> Vec<(&str, Spread)> {
        let spread = |row: &'_ Row| Spread::of(&row.column(column));
        let mut ranked: Vec<_> =
            self.rows.iter().filter_map(|row| Some((row.title.as_str(), spread(row)?))).collect();
        ranked.sort_by(|(_, left), (_, right)| match column.is_cost() {
            true => left.median.total_cmp(&right.median),
            false => right.median.total_cmp(&left.median),
        });
        ranked
    }

    /// A panel for each column that has figures.
    pub(crate) fn panels(&self) -> Vec<Panel<'_>> {
        let panel = |column: Column| Panel {
            caption: column.name().to_owned(),
            bars: self.ranked(column),
            text: column.writer(),
        };
        Column::ALL.into_iter().map(panel).filter(|panel| !panel.bars.is_empty()).collect()
    }

    /// How many times what the reference needs `row` needs: of every round that has both, so that
    /// drift of the machine drops out.
    fn ratio(&self, row: &Row, column: Column) -> Option<Spread> {
        let reference = &self.rows.first()?.figures[column as usize];
        let ratio = |(round, figure): &(u32, f64)| {
            let (_, of_reference) = reference.iter().find(|(other, _)| other == round)?;
            Some(if column.is_cost() { figure / of_reference } else { of_reference / figure })
        };
        let ratios: Vec<_> = row.figures[column as usize].iter().filter_map(ratio).collect();
        Spread::of(&ratios)
    }

    /// Rows by their cost per delivery, those without at the end.
    fn sorted(&self) -> Vec<&Row> {
        let mut rows: Vec<_> = self.rows.iter().collect();
        let cost = |row: &Row| {
            Spread::of(&row.column(Column::Delivery)).map_or(f64::INFINITY, |spread| spread.median)
        };
        rows.sort_by(|left, right| cost(left).total_cmp(&cost(right)));
        rows
    }

    /// Both tables, behind the facts of the run; what nobody was measured for has no column.
    pub(crate) fn markdown(&self, facts: &[String]) -> String {
        let mut text = String::from("# Ringway beside its rivals\n\n");
        for fact in facts {
            let _ = writeln!(text, "* {fact}");
        }
        text.push_str("\nMedian (least – most).\n\n");
        self.push_table(&mut text, |row, column| {
            let spread = Spread::of(&row.column(column))?;
            let [median, least, most] =
                [spread.median, spread.least, spread.most].map(|figure| column.text(figure));
            Some(format!("{median} ({least} – {most})"))
        });
        let _ = writeln!(
            text,
            "\nTimes what {} needs for the same, in the same round: above 1 is dearer.\n",
            self.rows.first().map_or("", |row| row.title.as_str())
        );
        self.push_table(&mut text, |row, column| {
            self.ratio(row, column).map(|spread| spread.to_string())
        });
        for failure in self.failures() {
            let _ = writeln!(text, "\nFailed: {failure}");
        }
        text
    }

    fn push_table(&self, text: &mut String, cell: impl Fn(&Row, Column) -> Option<String>) {
        let measured = |column: &Column| !self.ranked(*column).is_empty();
        let columns: Vec<_> = Column::ALL.into_iter().filter(measured).collect();
        let names: String = columns.iter().map(|column| format!(" {} |", column.name())).collect();
        let _ = writeln!(text, "| server |{names}\n|---|{}", "---|".repeat(columns.len()));
        for row in self.sorted() {
            let cell = |column: &Column| cell(row, *column).unwrap_or_else(|| "–".into());
            let cells: String =
                columns.iter().map(|column| format!(" {} |", cell(column))).collect();
            let _ = writeln!(text, "| {} |{cells}", row.title);
        }
    }
}

impl Row {
    fn column(&self, column: Column) -> Vec<f64> {
        self.figures[column as usize].iter().map(|(_, figure)| *figure).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn results() -> Results {
        let row = |name: &str| Row {
            title: name.to_uppercase(),
            name: name.to_owned(),
            figures: Default::default(),
            failure: None,
        };
        Results { rows: vec![row("ringway"), row("dear"), row("cheap")] }
    }

    #[test]
    fn ratios_are_those_of_the_same_round() {
        let mut results = results();
        for (round, ours, theirs) in [(1, 5.0, 10.0), (2, 10.0, 20.0), (3, 4.0, 12.0)] {
            results.add(0, Column::Delivery, round, ours);
            results.add(1, Column::Delivery, round, theirs);
        }
        results.add(2, Column::Delivery, 2, 5.0);
        let text = results.markdown(&["a fact".to_owned()]);
        let lines: Vec<_> = text.lines().filter(|line| line.starts_with("| ")).collect();
        assert!(text.contains("* a fact\n"));
        assert_eq!(lines[1], "| RINGWAY | 5.00 (4.00 – 10.00) |");
        assert_eq!(lines[2], "| CHEAP | 5.00 (5.00 – 5.00) |");
        assert_eq!(lines[3], "| DEAR | 12.00 (10.00 – 20.00) |");
        assert_eq!(lines[5], "| RINGWAY | 1.00 (1.00 – 1.00) |");
        assert_eq!(lines[6], "| CHEAP | 0.50 (0.50 – 0.50) |");
        assert_eq!(lines[7], "| DEAR | 2.00 (2.00 – 3.00) |");
    }

    #[test]
    fn a_higher_rate_is_less_cost() {
        let mut results = results();
        results.add(0, Column::Echo, 1, 123_456.0);
        results.add(1, Column::Echo, 1, 61_728.0);
        let text = results.markdown(&[]);
        assert!(text.contains("| RINGWAY | 123,500 (123,500 – 123,500) |"), "{text}");
        assert!(text.contains("| DEAR | 2.00 (2.00 – 2.00) |"), "{text}");
        let ranked = results.ranked(Column::Echo);
        assert_eq!(ranked.iter().map(|(title, _)| *title).collect::<Vec<_>>(), ["RINGWAY", "DEAR"]);
    }

    #[test]
    fn a_failure_stands_below_the_table() {
        let mut results = results();
        results.fail(1, &Failure::run("no compiler"));
        assert!(results.has_failed(1) && !results.has_failed(0));
        assert!(results.markdown(&[]).ends_with("\nFailed: dear: no compiler\n"));
    }

    #[test]
    fn thousands_are_grouped() {
        let grouped = [7.4, 157.0, 22_400.0, 1_234_567.0, -1500.0].map(group);
        assert_eq!(grouped, ["7", "157", "22,400", "1,234,567", "-1,500"]);
    }
}
