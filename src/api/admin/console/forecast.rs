//! Who will have to act within a week, as the last walk over all connections foresaw. No page waits for a
//! walk of its own: `tokenward forecast` asks anew, and looks further.

use maud::{Markup, html};

use super::layout::{Mood, head, href, number, tag, when};
use super::overview::Counted;
use crate::api::problem::Problem;
use crate::broker::Broker;
use crate::domain::forecast::{Certainty, Row, Summary};
use crate::domain::time::Timestamp;

/// The page.
pub(super) async fn page(broker: &Broker, now: Timestamp) -> Result<Markup, Problem> {
    let kept = broker.kept_forecast().await.map_err(|error| Problem::of(error.into()))?;
    Ok(forecast(kept.as_ref(), now))
}

/// What the last walk foresaw, if the store says it.
pub(super) async fn kept(broker: &Broker, counts: &Counted) -> Option<Summary> {
    match counts {
        Counted::Unavailable => None,
        Counted::Known(_) | Counted::NotYet => broker.kept_forecast().await.ok().flatten(),
    }
}

fn forecast(kept: Option<&Summary>, now: Timestamp) -> Markup {
    html! {
        h1 { "Who will have to act within a week" }
        @match kept {
            None => p { "Nothing is known yet: the first walk over all connections has not ended." },
            Some(kept) => {
                @if kept.rows.is_empty() { p { "Nothing is foreseen." } }
                @else { section.card { div.scroll { table.stack {
                    (head(&["When", "App", "Tenant", "Why", "Who acts", "How sure", "Connections"]))
                    tbody { @for one in &kept.rows { (row(one, now)) } }
                } } } }
                @if kept.left_out > 0 {
                    p { (number(kept.left_out)) " more connections are in smaller rows, which are not kept." }
                }
                p.soft { "As of " (when(kept.walked_at, now)) ", when the last walk over all connections "
                    "ended. " code { "tokenward forecast" } " asks anew, and looks as far as you like." }
            }
        }
    }
}

fn row(one: &Row, now: Timestamp) -> Markup {
    let mood = match one.certainty {
        Certainty::Certain => Mood::Bad,
        Certainty::Likely => Mood::Warn,
        Certainty::Possible => Mood::Calm,
    };
    html! {
        tr {
            td data-label="When" { div { (when(one.from, now)) @if one.to > one.from { br; small { "to "
                (when(one.to, now)) } } } }
            td.name data-label="App" { (one.app) }
            td.name data-label="Tenant" { @match one.tenant.as_deref() {
                None => "–",
                Some(tenant) => a href=(href("/console/connections",
                    &[("app", one.app.as_str()), ("tenant", tenant)])) { (tenant) },
            } }
            td.name data-label="Why" { div { (one.reason.as_str().replace('_', " "))
                @if let Some(detail) = &one.detail { br; small { (detail) } } } }
            td data-label="Who acts" { (one.reason.acts()) }
            td data-label="How sure" { (tag(mood, one.certainty.as_str())) }
            td data-label="Connections" { div {
                @if one.connections == 0 { "all" } @else { (number(one.connections)) }
                @for name in &one.examples {
                    br; small { a href=(href("/console/connection",
                        &[("app", one.app.as_str()), ("name", name)])) { (name) } }
                }
            } }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::forecast::{Reason, Rows};

    #[test]
    fn each_row_says_who_acts_and_how_sure_it_is_and_nothing_is_unescaped() {
        let at = Timestamp::from_unix_seconds;
        let mut rows = Rows::new();
        for (reason, tenant) in [(Reason::GrantIdle, Some("<t>")), (Reason::CredentialEnds, None)] {
            rows.insert(Row {
                app: "outlook".to_owned(),
                tenant: tenant.map(str::to_owned),
                reason,
                certainty: Certainty::Certain,
                from: at(100_000),
                to: at(200_000),
                connections: u64::from(tenant.is_some()) * 4711,
                examples: tenant.map(|_| "user-1".to_owned()).into_iter().collect(),
                detail: None,
            });
        }
        let text = forecast(Some(&rows.summary(at(1), 9)), at(2)).into_string();
        let parts = ["grant idle", "operator", "certain", "4,711", "all", "&lt;t&gt;", "name=user-1"];
        for part in parts {
            assert!(text.contains(part), "{part} in {text}");
        }
        assert!(forecast(None, at(2)).into_string().contains("Nothing is known yet"));
    }
}
