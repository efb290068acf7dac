//! Tenants in which an app gets no token of its own, as all replicas saw it. Pure: each replica tells what it
//! saw ([`News`]), and one record has what stands ([`Refusals`]).
//!
//! The one hard problem: replicas see the same at different times, and one of them may still hand out a token
//! from before. So only a token that is newer than the refusal ends it.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::id::AppName;
use super::time::Timestamp;
use super::verdict::BlockReason;

/// A refusal that no other has followed for so long is forgotten, and nothing is told of it.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(30 * 86_400);
/// A refusal that stands is noted again after so long.
const AGAIN: Duration = Duration::from_secs(86_400);
/// Most tenants in the record, and in what one replica has not told yet.
pub const MOST_TENANTS: usize = 1000;

/// What a token is for: the app, the tenant, and the resource (empty if the authority chose it).
pub type OwnToken = (AppName, String, String);

/// What became of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seen {
    /// The authority refused it at this time, for the tenant's sake.
    Refused(Timestamp, BlockReason),
    /// It gave one that was asked for at this time.
    Worked(Timestamp),
}

/// What a replica saw last of each.
pub type News = BTreeMap<OwnToken, Seen>;

/// A tenant that refuses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Refusal {
    /// What was asked for first. Only this ends it, so that two resources do not say one thing and the other.
    resource: String,
    /// When it was noted last.
    at: Timestamp,
    /// When it was refused first. (Not in records of earlier versions.)
    #[serde(default, skip_serializing_if = "Option::is_none")]
    since: Option<Timestamp>,
    /// Why. (Not in records of earlier versions.)
    #[serde(default, skip_serializing_if = "Option::is_none")]
    reason: Option<BlockReason>,
}

/// What is known of a tenant's refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refused {
    /// Why, as it was said last.
    pub reason: BlockReason,
    /// When it was refused first.
    pub since: Timestamp,
    /// When it was noted last.
    pub at: Timestamp,
}

/// All that stand, by app and by tenant.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Refusals(BTreeMap<String, BTreeMap<String, Refusal>>);

impl Refusals {
    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether this would change the record.
    pub fn is_news(&self, (app, tenant, resource): &OwnToken, seen: Seen) -> bool {
        let known = self.0.get(app.as_str()).and_then(|tenants| tenants.get(tenant));
        match (known, seen) {
            (None, Seen::Refused(..)) => self.all().count() < MOST_TENANTS,
            (Some(known), Seen::Refused(at, reason)) => {
                let is_other = known.reason != Some(reason);
                known.resource == *resource && (at.since(known.at) >= AGAIN || (is_other && at > known.at))
            }
            (None, Seen::Worked(_)) => false,
            (Some(known), Seen::Worked(asked_at)) => known.resource == *resource && asked_at > known.at,
        }
    }

    /// Adds what a replica saw.
    pub fn tell(&mut self, news: &News, now: Timestamp) {
        for (of, seen) in news.iter().filter(|(_, seen)| !seen.is_old(now)) {
            if !self.is_news(of, *seen) {
                continue;
            }
            let (app, tenant, resource) = of;
            match seen {
                Seen::Refused(at, reason) => {
                    let tenants = self.0.entry(app.to_string()).or_default();
                    let since = tenants.get(tenant).map_or(*at, |known| known.since.unwrap_or(known.at));
                    let (since, reason) = (Some(since), Some(*reason));
                    let refusal = Refusal { resource: resource.clone(), at: *at, since, reason };
                    tenants.insert(tenant.clone(), refusal);
                }
                Seen::Worked(_) => {
                    if let Some(tenants) = self.0.get_mut(app.as_str()) {
                        tenants.remove(tenant);
                    }
                }
            }
        }
        self.0.retain(|_, tenants| !tenants.is_empty());
    }

    /// Forgets what nobody has asked for again.
    pub fn forget(&mut self, now: Timestamp) {
        for tenants in self.0.values_mut() {
            tenants.retain(|_, refusal| now.since(refusal.at) < FORGOTTEN_AFTER);
        }
        self.0.retain(|_, tenants| !tenants.is_empty());
    }

    /// The tenants with their apps, and what is known of each refusal.
    pub fn refused(&self) -> impl Iterator<Item = (&str, &str, Refused)> {
        self.0.iter().flat_map(|(app, tenants)| {
            tenants.iter().filter_map(move |(tenant, refusal)| {
                let Refusal { at, since, reason, .. } = refusal;
                let refused = Refused { reason: (*reason)?, since: since.unwrap_or(*at), at: *at };
                Some((app.as_str(), tenant.as_str(), refused))
            })
        })
    }

    /// The tenants, with their apps.
    pub fn all(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().flat_map(|(app, tenants)| tenants.keys().map(|tenant| (app.as_str(), tenant.as_str())))
    }
}

impl Seen {
    fn is_old(self, now: Timestamp) -> bool {
        let (Seen::Refused(at, _) | Seen::Worked(at)) = self;
        now.since(at) >= FORGOTTEN_AFTER
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_unix_seconds(1_000_000 + seconds)
    }

    fn of(tenant: &str, resource: &str) -> OwnToken {
        (AppName::parse("outlook").expect("a name"), tenant.to_owned(), resource.to_owned())
    }

    fn refused(at: Timestamp) -> Seen {
        Seen::Refused(at, BlockReason::AppNotInTenant)
    }

    /// The tenants that refuse after each of these.
    fn after(steps: &[(&str, &str, Seen)]) -> Vec<String> {
        let mut refusals = Refusals::default();
        let step = |(tenant, resource, seen): &(&str, &str, Seen)| {
            refusals.tell(&News::from([(of(tenant, resource), *seen)]), at(100));
            refusals.all().map(|(_, tenant)| tenant).collect::<Vec<_>>().join(" ")
        };
        steps.iter().map(step).collect()
    }

    #[test]
    fn a_refusal_stands_until_a_newer_token_for_the_same_comes() {
        use Seen::Worked;
        assert_eq!(after(&[("t", "graph", refused(at(5))), ("t", "graph", Worked(at(6)))]), ["t", ""]);
        assert_eq!(
            after(&[
                ("t", "graph", refused(at(5))),
                // By a replica that has one from before.
                ("t", "graph", Worked(at(5))),
                ("t", "other", Worked(at(9))),
                ("t", "other", refused(at(9))),
                ("u", "graph", refused(at(9))),
                ("t", "graph", Worked(at(10))),
            ]),
            ["t", "t", "t", "t", "t u", "u"]
        );
        assert_eq!(after(&[("t", "graph", Worked(at(5)))]), [""]);
    }

    #[test]
    fn the_record_changes_rarely_and_is_bounded() {
        let mut refusals = Refusals::default();
        let day = i64::try_from(AGAIN.as_secs()).expect("small");
        let graph = of("t", "graph");
        assert!(refusals.is_news(&graph, refused(at(0))));
        refusals.tell(&News::from([(graph.clone(), refused(at(0)))]), at(0));
        assert!(!refusals.is_news(&graph, refused(at(day - 1))));
        assert!(refusals.is_news(&graph, refused(at(day))));
        refusals.tell(&News::from([(graph.clone(), refused(at(day)))]), at(day));
        refusals.forget(at(30 * day));
        assert_eq!(refusals.all().count(), 1, "it was refused again");
        refusals.forget(at(31 * day));
        assert!(refusals.is_empty());
        let news = (0..2 * MOST_TENANTS).map(|one| (of(&one.to_string(), ""), refused(at(0))));
        refusals.tell(&news.collect(), at(0));
        assert_eq!(refusals.all().count(), MOST_TENANTS);
    }

    #[test]
    fn a_refusal_has_its_first_time_and_its_last_reason() {
        let mut refusals = Refusals::default();
        let graph = of("t", "graph");
        let mut tell = |seen: Seen| {
            refusals.tell(&News::from([(graph.clone(), seen)]), at(100_000));
            let told = refusals.refused().map(|(_, tenant, refused)| (tenant.to_owned(), refused));
            told.collect::<Vec<_>>()
        };
        let (out, consent) = (BlockReason::AppNotInTenant, BlockReason::AdminConsentRequired);
        let is =
            |reason, since, last| vec![("t".to_owned(), Refused { reason, since: at(since), at: at(last) })];
        assert_eq!(tell(refused(at(5))), is(out, 5, 5));
        assert_eq!(tell(refused(at(6))), is(out, 5, 5), "that is no news");
        assert_eq!(tell(Seen::Refused(at(7), consent)), is(consent, 5, 7));
        assert_eq!(tell(refused(at(90_000))), is(out, 5, 90_000));
        assert_eq!(tell(Seen::Worked(at(90_001))), []);
        // A record of an earlier version says neither; it is shown once it is refused again.
        let earlier = r#"{"outlook":{"t":{"resource":"graph","at":5000}}}"#;
        let mut earlier: Refusals = serde_json::from_str(earlier).expect("it is read");
        assert_eq!((earlier.all().count(), earlier.refused().count()), (1, 0));
        let again = Seen::Refused(at(9), out);
        assert!(earlier.is_news(&of("t", "graph"), again));
        earlier.tell(&News::from([(of("t", "graph"), again)]), at(9));
        assert_eq!(earlier.refused().count(), 1);
    }
}
