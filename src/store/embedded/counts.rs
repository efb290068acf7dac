//! What is open of each owner, counted in the file: see [`Pending::count_in`](crate::store::Pending::count_in).

use redb::{ReadTransaction, ReadableTable, TableDefinition, WriteTransaction};

use crate::domain::time::Timestamp;
use crate::store::{Counted, Full};

/// Until when each entry counts. Key: the owner, a zero, the entry.
pub(super) const COUNTED: TableDefinition<'_, &str, i64> = TableDefinition::new("counted");

/// How many may count: [`crate::store::Most`] on its way to the writer.
pub(super) struct Most {
    pub(super) of_owner: usize,
    pub(super) of_group: Option<(String, usize)>,
}

/// Others that count.
struct Others {
    count: usize,
    /// When the first of them ends.
    first: i64,
}

impl Others {
    const NONE: Others = Others { count: 0, first: i64::MAX };

    fn add(&mut self, until: i64) {
        self.count += 1;
        self.first = self.first.min(until);
    }

    fn fill(&self, most: usize, which: Full) -> Option<Counted> {
        (self.count >= most).then(|| Counted::Full { which, until: Timestamp::from_unix_millis(self.first) })
    }
}

pub(super) fn count_in(
    transaction: &WriteTransaction,
    owner: &str,
    entry: &str,
    until: Timestamp,
    most: &Most,
    now: Timestamp,
    changed: &mut bool,
) -> Result<Counted, redb::Error> {
    let mut table = transaction.open_table(COUNTED)?;
    let (mut all, mut of_group, mut ended, mut is_counted) = (Others::NONE, Others::NONE, Vec::new(), false);
    for row in table.range::<&str>(owner..)? {
        let (key, until) = row?;
        let (key, until) = (key.value(), until.value());
        let Some(other) = key.strip_prefix(owner) else { break };
        if until <= now.unix_millis() {
            ended.push(key.to_owned());
        } else if other == entry {
            is_counted = true;
        } else {
            all.add(until);
            if most.of_group.as_ref().is_some_and(|(prefix, _)| other.starts_with(prefix)) {
                of_group.add(until);
            }
        }
    }
    for key in ended {
        table.remove(key.as_str())?;
        *changed = true;
    }
    let full = all
        .fill(most.of_owner, Full::Owner)
        .or_else(|| most.of_group.as_ref().and_then(|(_, most)| of_group.fill(*most, Full::Group)));
    if let Some(full) = full.filter(|_| !is_counted) {
        return Ok(full);
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
