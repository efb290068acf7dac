//! What is open of each owner, counted in the file: see [`Store::count_in`](crate::store::Store::count_in).

use redb::{ReadTransaction, ReadableTable, TableDefinition, WriteTransaction};

use crate::domain::time::Timestamp;
use crate::store::Counted;

/// Until when each entry counts. Key: the owner, a zero, the entry.
pub(super) const COUNTED: TableDefinition<'_, &str, i64> = TableDefinition::new("counted");

pub(super) fn count_in(
    transaction: &WriteTransaction,
    owner: &str,
    entry: &str,
    (until, most): (Timestamp, usize),
    now: Timestamp,
    changed: &mut bool,
) -> Result<Counted, redb::Error> {
    let mut table = transaction.open_table(COUNTED)?;
    let (mut others, mut first, mut ended) = (0, i64::MAX, Vec::new());
    for row in table.range::<&str>(owner..)? {
        let (key, until) = row?;
        let (key, until) = (key.value(), until.value());
        let Some(other) = key.strip_prefix(owner) else { break };
        if until <= now.unix_millis() {
            ended.push(key.to_owned());
        } else if other != entry {
            others += 1;
            first = first.min(until);
        }
    }
    for key in ended {
        table.remove(key.as_str())?;
        *changed = true;
    }
    if others >= most {
        return Ok(Counted::Full { until: Timestamp::from_unix_millis(first) });
    }
    table.insert(format!("{owner}{entry}").as_str(), until.unix_millis())?;
    *changed = true;
    Ok(Counted::In)
}

/// The entries of an owner that have not ended.
pub(super) fn counted(
    transaction: &ReadTransaction,
    owner: &str,
    now: Timestamp,
) -> Result<Vec<String>, redb::Error> {
    let mut entries = Vec::new();
    for row in transaction.open_table(COUNTED)?.range::<&str>(owner..)? {
        let (key, until) = row?;
        let Some(entry) = key.value().strip_prefix(owner) else { break };
        if until.value() > now.unix_millis() {
            entries.push(entry.to_owned());
        }
    }
    Ok(entries)
}
