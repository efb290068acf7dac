//! Events: whoever heard them all knows how each connection stands.

use super::{Findings, Rule};
use crate::ledger::{Effect, Ending, Evidence};

/// Compares the last event of each connection with how it stands, and looks for changes that are none.
pub(super) fn events(evidence: &Evidence, found: &mut Findings) {
    // A store that lost writes lost events with them, also such as were heard.
    let loses = evidence.faults.iter().any(|fault| fault.effect == Effect::Store);
    for end in &evidence.finals {
        let Some(connected) = evidence.connections.get(usize::from(end.connection)) else { continue };
        let of = || evidence.told.iter().filter(|told| told.connection == connected.name);
        let last = of().next_back().map(|told| told.kind.as_str());
        let fits = match (end.expected, end.status.as_deref()) {
            (Ending::Deleted, _) => last == Some("connection.deleted"),
            // Nothing was heard of one that was connected before the run and never changed.
            (Ending::Served, Some("active")) => {
                matches!(last, None | Some("connection.connected" | "connection.recovered"))
            }
            (_, Some("needs_reauthorization")) => last == Some("connection.needs_reauthorization"),
            (_, Some("blocked")) => last == Some("connection.blocked"),
            _ => true,
        };
        if !fits && !loses {
            found.broken(Rule::EventsDisagree, || {
                format!("{}: {last:?} was told last, and {end:?}", connected.name)
            });
        }
        let mut before = "";
        for told in of() {
            let is_outlook = !matches!(told.kind.as_str(), "connection.connected" | "connection.deleted");
            if is_outlook && before == told.kind && !loses {
                found.broken(Rule::EventsDisagree, || {
                    format!("{}: {} twice in a row", told.connection, told.kind)
                });
            }
            before = &told.kind;
        }
    }
}
