//! What is foreseen of many connections, by app and tenant: counts, with some names as examples.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Certainty, Foreseen, Reason};
use crate::domain::id::{AppName, ConnectionName};
use crate::domain::time::Timestamp;

/// Names that a row shows.
const EXAMPLES: usize = 3;

/// Connections of one app and tenant of which the same is foreseen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Row {
    /// The app.
    pub app: String,
    /// The tenant; `None` for an app's own row, and for authorities without tenants.
    #[serde(default)]
    pub tenant: Option<String>,
    /// Why.
    pub reason: Reason,
    /// How sure.
    pub certainty: Certainty,
    /// The earliest time of one of them.
    pub from: Timestamp,
    /// The latest time of one of them.
    pub to: Timestamp,
    /// How many.
    pub connections: u64,
    /// Some of their names.
    #[serde(default)]
    pub examples: Vec<String>,
    /// Which policy, or which credential.
    #[serde(default)]
    pub detail: Option<String>,
}

type Place = (String, Option<String>, Reason, Certainty, Option<String>);

/// Rows, with a limit.
#[derive(Debug, Clone, Default)]
pub struct Rows {
    most: Option<usize>,
    rows: BTreeMap<Place, Row>,
    /// By app and reason, all of them.
    totals: BTreeMap<(String, Reason), u64>,
    left_out: u64,
}

impl Rows {
    /// Rows without a limit: for as many connections as a page has.
    pub fn new() -> Self {
        Rows::default()
    }

    /// At most so many rows; what has no place in them is counted.
    pub fn at_most(most: usize) -> Self {
        Rows { most: Some(most), ..Rows::default() }
    }

    /// Adds what is foreseen of a connection.
    pub fn add(&mut self, app: &AppName, tenant: Option<&str>, name: &ConnectionName, what: Foreseen) {
        let Foreseen { reason, certainty, from, to, detail } = what;
        self.insert(Row {
            app: app.to_string(),
            tenant: tenant.map(str::to_owned),
            reason,
            certainty,
            from,
            to,
            connections: 1,
            examples: vec![name.to_string()],
            detail: detail.map(str::to_owned),
        });
    }

    /// Adds a row; one of the same kind becomes one with it.
    pub fn insert(&mut self, row: Row) {
        let total = self.totals.entry((row.app.clone(), row.reason)).or_default();
        *total = total.saturating_add(row.connections);
        let place = (row.app.clone(), row.tenant.clone(), row.reason, row.certainty, row.detail.clone());
        if let Some(there) = self.rows.get_mut(&place) {
            there.connections = there.connections.saturating_add(row.connections);
            (there.from, there.to) = (there.from.min(row.from), there.to.max(row.to));
            there.examples.extend(row.examples);
            there.examples.truncate(EXAMPLES);
        } else if self.most.is_some_and(|most| self.rows.len() >= most) {
            self.left_out = self.left_out.saturating_add(row.connections);
        } else {
            self.rows.insert(place, row);
        }
    }

    /// The rows, those first that come first.
    pub fn into_rows(self) -> Vec<Row> {
        let mut rows: Vec<Row> = self.rows.into_values().collect();
        rows.sort_by(|one, other| (one.from, one.to, &one.app).cmp(&(other.from, other.to, &other.app)));
        rows
    }

    /// The `most` rows with most connections, and the totals: what is kept of a walk over everything.
    pub fn summary(self, walked_at: Timestamp, most: usize) -> Summary {
        let totals =
            self.totals.iter().map(|((app, reason), count)| (app.clone(), *reason, *count)).collect();
        let mut left_out = self.left_out;
        let mut rows: Vec<Row> = self.rows.into_values().collect();
        rows.sort_by(|one, other| other.connections.cmp(&one.connections).then(one.from.cmp(&other.from)));
        let beyond = rows.split_off(rows.len().min(most));
        left_out = beyond.iter().fold(left_out, |sum, row| sum.saturating_add(row.connections));
        rows.sort_by_key(|row| (row.from, row.to));
        Summary { walked_at, rows, totals, left_out }
    }
}

/// What a walk over all connections foresaw, bounded.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    /// When the walk ended.
    pub walked_at: Timestamp,
    /// Those with most connections, those first that come first.
    pub rows: Vec<Row>,
    /// By app and reason, of all connections.
    pub totals: Vec<(String, Reason, u64)>,
    /// Connections that are in no row.
    pub left_out: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(tenant: &str, from: i64, connections: u64) -> Row {
        Row {
            app: "outlook".to_owned(),
            tenant: Some(tenant.to_owned()),
            reason: Reason::GrantIdle,
            certainty: Certainty::Likely,
            from: Timestamp::from_unix_seconds(from),
            to: Timestamp::from_unix_seconds(from + 1),
            connections,
            examples: (0..connections).map(|number| format!("{tenant}-{number}")).take(EXAMPLES).collect(),
            detail: None,
        }
    }

    #[test]
    fn what_is_alike_is_one_row_with_few_examples() {
        let mut rows = Rows::new();
        for (tenant, from) in [("a", 5), ("b", 3), ("a", 2), ("a", 9), ("a", 4)] {
            rows.insert(row(tenant, from, 1));
        }
        let rows = rows.into_rows();
        assert_eq!(
            rows.iter().map(|row| (row.tenant.as_deref(), row.connections)).collect::<Vec<_>>(),
            [(Some("a"), 4), (Some("b"), 1)]
        );
        let at = |seconds| Timestamp::from_unix_seconds(seconds);
        assert_eq!((rows[0].from, rows[0].to, rows[0].examples.len()), (at(2), at(10), EXAMPLES));
    }

    /// However rows come, together or page by page, they are the same, and nothing is lost of the totals.
    #[test]
    fn pages_that_are_put_together_say_the_same_and_a_limit_loses_no_connection() {
        let all: Vec<Row> =
            (0_u32..200).map(|number| row(&(number % 17).to_string(), number.into(), 1)).collect();
        let mut at_once = Rows::new();
        all.iter().cloned().for_each(|row| at_once.insert(row));
        let mut by_pages = Rows::new();
        for page in all.chunks(7) {
            let mut rows = Rows::new();
            page.iter().cloned().for_each(|row| rows.insert(row));
            rows.into_rows().into_iter().for_each(|row| by_pages.insert(row));
        }
        let without_examples = |rows: Rows| {
            let rows = rows.into_rows().into_iter().map(|row| Row { examples: vec![], ..row });
            rows.collect::<Vec<_>>()
        };
        assert_eq!(without_examples(at_once), without_examples(by_pages));

        let mut bounded = Rows::at_most(10);
        all.into_iter().for_each(|row| bounded.insert(row));
        let summary = bounded.summary(Timestamp::from_unix_seconds(1), 5);
        let shown: u64 = summary.rows.iter().map(|row| row.connections).sum();
        assert_eq!((summary.rows.len(), shown + summary.left_out), (5, 200));
        assert_eq!(summary.totals, [("outlook".to_owned(), Reason::GrantIdle, 200)]);
    }
}
