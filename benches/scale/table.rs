//! The table of figures: a row for each, a column for each number of connections.

use std::fmt;

use crate::Kind;

/// Figures of one store.
pub struct Table {
    kind: Kind,
    sizes: Vec<u64>,
    rows: Vec<(&'static str, Vec<String>)>,
}

impl Table {
    pub fn new(kind: Kind) -> Self {
        Table { kind, sizes: Vec::new(), rows: Vec::new() }
    }

    /// Begins the column of a number of connections.
    pub fn column(&mut self, size: u64) {
        self.sizes.push(size);
    }

    /// Writes a figure, and prints it at once, since a whole run takes long.
    pub fn put(&mut self, row: &'static str, value: f64) {
        let text = match value.abs() {
            100.0.. => format!("{value:.0}"),
            1.0.. => format!("{value:.2}"),
            _ => format!("{value:.4}"),
        };
        println!("  {row}: {text}");
        let at = self.sizes.len() - 1;
        let row = match self.rows.iter().position(|(name, _)| *name == row) {
            Some(at) => &mut self.rows[at].1,
            None => {
                self.rows.push((row, Vec::new()));
                &mut self.rows.last_mut().expect("just pushed").1
            }
        };
        row.resize(at, String::new());
        row.push(text);
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\n| {} |", self.kind)?;
        self.sizes.iter().try_for_each(|size| write!(f, " {size} |"))?;
        write!(f, "\n|---|{}", "---|".repeat(self.sizes.len()))?;
        for (name, values) in &self.rows {
            write!(f, "\n| {name} | {} |", values.join(" | "))?;
        }
        writeln!(f)
    }
}
