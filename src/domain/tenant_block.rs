//! A tenant that blocks an app, seen as one thing: many of its connections are refused for one reason, and no
//! grant of it works in between. Pure: each replica tells what it saw ([`News`]), one record has what all of
//! them saw ([`Blocks`]), and whoever changes the record learns of the edge.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::digest::sha256_hex;
use super::id::{AppName, ConnectionName};
use super::own_tokens::Refusals as OwnRefusals;
use super::time::Timestamp;
use super::verdict::BlockReason;

/// How many connections must be refused for the same reason.
const MANY: usize = 3;
/// Within which time.
const WITHIN: Duration = Duration::from_secs(600);
/// A success this soon after a block began may be from before it.
const SETTLED_AFTER: Duration = Duration::from_secs(60);
/// A block that no refusal has shown for so long is over. (A blocked connection is tried once an hour, while
/// there is one.)
const FORGOTTEN_AFTER: Duration = Duration::from_secs(3 * 86_400);
/// Most tenants in the record, of all apps together.
const MOST_TENANTS: usize = 1000;

/// An app's tenant; the tenant is empty where the authority has none.
pub type Part = (AppName, String);

/// Whether a refusal for this reason may be meant for a whole tenant. A disabled account never is.
fn may_be_the_tenants(reason: BlockReason) -> bool {
    reason != BlockReason::AccountDisabled
}

/// AADSTS numbers that concern one resource, whatever the reason: the tenant has no licence or subscription
/// for it. Other connections may never ask for it.
const OF_A_RESOURCE: [u32; 1] = [650052];

/// How many connections must be refused. What the authority says of the tenant itself needs one alone.
fn enough(reason: BlockReason, error_codes: &[u32]) -> usize {
    if error_codes.iter().any(|code| OF_A_RESOURCE.contains(code)) {
        return MANY;
    }
    match reason {
        BlockReason::AppNotInTenant | BlockReason::TenantGone => 1,
        BlockReason::AdminConsentRequired
        | BlockReason::AssignmentRequired
        | BlockReason::AccountDisabled
        | BlockReason::DeviceRequired
        | BlockReason::PolicyBlocked => MANY,
    }
}

/// Refusals of one tenant's connections for one reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusals {
    reason: BlockReason,
    /// Marks of different connections that were not blocked before, as many as can be needed. (One that is
    /// tried again and is still refused is no sign of a new block.)
    marks: BTreeSet<String>,
    /// How many marks are a block.
    enough: usize,
    /// Connections that were not blocked before.
    newly: u64,
}

/// What one replica saw of a tenant since it last told the others.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct News {
    /// A grant worked, before these refusals.
    worked: bool,
    /// A grant worked whose connection was blocked, before these refusals.
    lifted: bool,
    refusals: Option<Refusals>,
}

impl News {
    /// A connection was refused for this reason, with these AADSTS numbers. `is_new`: it was not blocked for
    /// it before.
    pub fn refused(&mut self, name: &ConnectionName, reason: BlockReason, codes: &[u32], is_new: bool) {
        if !may_be_the_tenants(reason) {
            return;
        }
        let none = || Refusals { reason, marks: BTreeSet::new(), enough: MANY, newly: 0 };
        if self.refusals.as_ref().is_none_or(|before| before.reason != reason) {
            self.refusals = Some(none());
        }
        let refusals = self.refusals.get_or_insert_with(none);
        if is_new {
            refusals.newly += 1;
            refusals.enough = refusals.enough.min(enough(reason, codes));
            if refusals.marks.len() < MANY {
                refusals.marks.insert(mark(name));
            }
        }
    }

    /// A grant worked. `was_blocked`: its connection was blocked before.
    pub fn worked(&mut self, was_blocked: bool) {
        self.worked = true;
        self.lifted |= was_blocked;
        self.refusals = None;
    }

    /// The same, without the number of connections: it may have been told already.
    #[must_use]
    pub fn perhaps_told(mut self) -> News {
        if let Some(refusals) = &mut self.refusals {
            refusals.newly = 0;
        }
        self
    }

    /// Puts earlier news before these, because they could not be told.
    #[must_use]
    pub fn after(self, earlier: News) -> News {
        if self.worked {
            return News { lifted: self.lifted || earlier.lifted, ..self };
        }
        let refusals = match (self.refusals, earlier.refusals) {
            (Some(later), Some(before)) if later.reason == before.reason => Some(Refusals {
                marks: later.marks.union(&before.marks).take(MANY).cloned().collect(),
                enough: later.enough.min(before.enough),
                newly: later.newly + before.newly,
                ..later
            }),
            (later, before) => later.or(before),
        };
        News { refusals, ..earlier }
    }
}

/// Tells connections apart. No name of a connection stands in the record.
fn mark(connection: &ConnectionName) -> String {
    let mut mark = sha256_hex(connection.as_str().as_bytes());
    mark.truncate(12);
    mark
}

/// A tenant that blocks an app.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Block {
    /// Why.
    pub reason: BlockReason,
    /// Since when.
    pub since: Timestamp,
    /// How many connections were newly refused so far; at least so many are blocked.
    pub connections: u64,
    /// When the last refusal was told.
    pub refused_at: Timestamp,
}

/// Refusals that are too few yet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Suspicion {
    reason: BlockReason,
    marks: BTreeSet<String>,
    connections: u64,
    since: Timestamp,
}

/// What is known of one tenant.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Standing {
    #[serde(default)]
    block: Option<Block>,
    #[serde(default)]
    suspicion: Option<Suspicion>,
}

/// A change of a tenant's state. It is told once, by the replica that changed the record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Edge {
    /// The app.
    pub app: AppName,
    /// Its tenant.
    pub tenant: String,
    /// What became of it.
    pub change: Change,
}

/// What became of a tenant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// It blocks the app, or for another reason than before.
    Blocked(Block),
    /// It does not any more. This was the block.
    Recovered(Block),
}

/// All that is known of tenants that refuse, as it is stored.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Blocks {
    /// By app, then by tenant.
    #[serde(default)]
    apps: BTreeMap<String, BTreeMap<String, Standing>>,
    /// The tenants in which the app gets no token of its own. Nothing here judges by it.
    #[serde(default, skip_serializing_if = "OwnRefusals::is_empty")]
    pub own: OwnRefusals,
}

impl Blocks {
    /// Adds what a replica saw of a tenant.
    pub fn tell(&mut self, (app, tenant): &Part, news: &News, now: Timestamp) -> Vec<Edge> {
        let edge = |change| Edge { app: app.clone(), tenant: tenant.clone(), change };
        let is_known = self.standing(app, tenant).is_some();
        let has_marks = news.refusals.as_ref().is_some_and(|refusals| !refusals.marks.is_empty());
        if !is_known && (!has_marks || !self.has_room()) {
            return Vec::new();
        }
        let tenants = self.apps.entry(app.to_string()).or_default();
        let standing = tenants.entry(tenant.clone()).or_default();
        let mut edges = Vec::new();
        if news.worked {
            standing.suspicion = None;
        }
        let is_over =
            |block: &mut Block| news.lifted || (news.worked && now.since(block.since) >= SETTLED_AFTER);
        edges.extend(standing.block.take_if(is_over).map(|block| edge(Change::Recovered(block))));
        if let Some(refusals) = &news.refusals {
            edges.extend(standing.refused(refusals, now).map(|block| edge(Change::Blocked(block))));
        }
        if *standing == Standing::default() {
            tenants.remove(tenant);
        }
        edges
    }

    /// Ends what nothing has shown for long.
    pub fn forget(&mut self, now: Timestamp) -> Vec<Edge> {
        let mut edges = Vec::new();
        for (name, tenants) in &mut self.apps {
            for (tenant, standing) in tenants.iter_mut() {
                let is_old = |one: &Suspicion| now.since(one.since) > WITHIN;
                standing.suspicion = standing.suspicion.take().filter(|one| !is_old(one));
                let is_over = |block: &mut Block| now.since(block.refused_at) > FORGOTTEN_AFTER;
                if let Some(block) = standing.block.take_if(is_over)
                    && let Ok(app) = AppName::parse(name)
                {
                    edges.push(Edge { app, tenant: tenant.clone(), change: Change::Recovered(block) });
                }
            }
            tenants.retain(|_, standing| *standing != Standing::default());
        }
        self.apps.retain(|_, tenants| !tenants.is_empty());
        self.own.forget(now);
        edges
    }

    /// Whether [`Blocks::forget`] would change something.
    pub fn has_old(&self, now: Timestamp) -> bool {
        let mut forgotten = self.clone();
        forgotten.forget(now);
        forgotten != *self
    }

    /// The tenants that block an app.
    pub fn all(&self) -> impl Iterator<Item = (&str, &str, &Block)> {
        self.apps.iter().flat_map(|(app, tenants)| {
            tenants.iter().filter_map(move |(tenant, standing)| {
                Some((app.as_str(), tenant.as_str(), standing.block.as_ref()?))
            })
        })
    }

    /// The tenants of which a success is news: those that refuse.
    pub fn watched(&self) -> impl Iterator<Item = (&str, &str, Option<BlockReason>)> {
        self.apps.iter().flat_map(|(app, tenants)| {
            tenants.iter().map(move |(tenant, standing)| {
                (app.as_str(), tenant.as_str(), standing.block.as_ref().map(|block| block.reason))
            })
        })
    }

    fn standing(&self, app: &AppName, tenant: &str) -> Option<&Standing> {
        self.apps.get(app.as_str())?.get(tenant)
    }

    /// Whether there is room for one more; suspicions give way.
    fn has_room(&mut self) -> bool {
        let number = |apps: &BTreeMap<String, BTreeMap<String, Standing>>| {
            apps.values().map(BTreeMap::len).sum::<usize>()
        };
        if number(&self.apps) >= MOST_TENANTS {
            for tenants in self.apps.values_mut() {
                tenants.retain(|_, standing| standing.block.is_some());
            }
        }
        number(&self.apps) < MOST_TENANTS
    }
}

impl Standing {
    /// Returns the block that these refusals make.
    fn refused(&mut self, refusals: &Refusals, now: Timestamp) -> Option<Block> {
        if let Some(block) = self.block.as_mut().filter(|block| block.reason == refusals.reason) {
            block.connections = block.connections.saturating_add(refusals.newly);
            block.refused_at = block.refused_at.max(now);
            return None;
        }
        let goes_on = |one: &Suspicion| one.reason == refusals.reason && now.since(one.since) <= WITHIN;
        let mut suspicion = self.suspicion.take().filter(goes_on).unwrap_or_else(|| Suspicion {
            reason: refusals.reason,
            marks: BTreeSet::new(),
            connections: 0,
            since: now,
        });
        suspicion.marks.extend(refusals.marks.iter().cloned());
        suspicion.connections = suspicion.connections.saturating_add(refusals.newly);
        if suspicion.marks.len() < refusals.enough {
            self.suspicion = Some(suspicion).filter(|suspicion| !suspicion.marks.is_empty());
            return None;
        }
        let shown = u64::try_from(suspicion.marks.len()).unwrap_or(u64::MAX);
        let block = Block {
            reason: refusals.reason,
            since: suspicion.since,
            connections: suspicion.connections.max(shown),
            refused_at: now,
        };
        self.block = Some(block.clone());
        Some(block)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::random::random_bytes;
    use crate::testkit::SeededRandom;

    const POLICY: BlockReason = BlockReason::PolicyBlocked;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_unix_seconds(seconds)
    }

    fn part(tenant: &str) -> Part {
        (AppName::parse("outlook").expect("a name"), tenant.to_owned())
    }

    fn name(number: usize) -> ConnectionName {
        ConnectionName::parse(&format!("user-{number}")).expect("a name")
    }

    fn refused(numbers: impl IntoIterator<Item = usize>, reason: BlockReason) -> News {
        let mut news = News::default();
        numbers.into_iter().for_each(|number| news.refused(&name(number), reason, &[], true));
        news
    }

    fn worked(was_blocked: bool) -> News {
        let mut news = News::default();
        news.worked(was_blocked);
        news
    }

    fn words(edges: &[Edge]) -> Vec<String> {
        let word = |edge: &Edge| match &edge.change {
            Change::Blocked(block) => format!("blocked {} {}", block.reason, block.connections),
            Change::Recovered(block) => format!("recovered {} {}", block.reason, block.connections),
        };
        edges.iter().map(word).collect()
    }

    #[test]
    fn three_connections_within_ten_minutes_and_no_success_are_a_block() {
        let blocked = |steps: Vec<(News, i64)>| {
            let mut blocks = Blocks::default();
            let edges = steps.iter().flat_map(|(news, seconds)| blocks.tell(&part("t"), news, at(*seconds)));
            words(&edges.collect::<Vec<_>>())
        };
        let none: [String; 0] = [];
        assert_eq!(blocked(vec![(refused(0..3, POLICY), 0)]), ["blocked policy_blocked 3"]);
        // By three replicas, or one after the other.
        let one_each =
            |last| vec![(refused([0], POLICY), 0), (refused([1], POLICY), 300), (refused([2], POLICY), last)];
        assert_eq!(blocked(one_each(600)), ["blocked policy_blocked 3"]);
        assert_eq!(blocked(one_each(601)), none, "not within ten minutes");
        let again = |number| (refused([number], POLICY), 1);
        assert_eq!(blocked(vec![again(0), again(0), again(0)]), none, "one connection alone");
        assert_eq!(blocked(vec![again(0), again(1), (worked(false), 2), again(2)]), none, "others work");
        let device = (refused([2], BlockReason::DeviceRequired), 2);
        assert_eq!(blocked(vec![again(0), again(1), device]), none, "for different reasons");
        assert_eq!(blocked(vec![(refused(0..9, BlockReason::AccountDisabled), 0)]), none);
        let gone = refused([0], BlockReason::AppNotInTenant);
        assert_eq!(blocked(vec![(gone, 0)]), ["blocked app_not_in_tenant 1"], "it is said of the tenant");
    }

    #[test]
    fn it_ends_when_a_connection_works_or_when_nothing_shows_it_any_more() {
        let mut blocks = Blocks::default();
        blocks.tell(&part("t"), &refused(0..3, POLICY), at(0));
        assert_eq!(words(&blocks.tell(&part("t"), &refused(3..50, POLICY), at(10))), [""; 0]);
        assert_eq!(
            blocks.all().map(|(_, tenant, block)| (tenant, block.connections)).collect::<Vec<_>>(),
            [("t", 50)]
        );
        // This may be from before the block.
        assert_eq!(words(&blocks.tell(&part("t"), &worked(false), at(59))), [""; 0]);
        assert_eq!(words(&blocks.tell(&part("t"), &worked(true), at(30))), ["recovered policy_blocked 50"]);
        assert_eq!(words(&blocks.tell(&part("t"), &worked(true), at(40))), [""; 0], "once");
        assert_eq!(
            blocks,
            Blocks { apps: BTreeMap::from([("outlook".to_owned(), BTreeMap::new())]), ..Blocks::default() }
        );

        // The policy leaves a user out: so it is not the tenant's. Who stays blocked does not make it that.
        blocks.tell(&part("t"), &refused(0..3, POLICY), at(0));
        assert_eq!(words(&blocks.tell(&part("t"), &worked(false), at(60))), ["recovered policy_blocked 3"]);
        let mut again = News::default();
        (0..9).for_each(|number| again.refused(&name(number), POLICY, &[], false));
        assert_eq!(words(&blocks.tell(&part("t"), &again, at(70))), [""; 0]);
        assert_eq!(blocks.watched().count(), 0);

        blocks.tell(&part("t"), &refused(0..3, POLICY), at(0));
        blocks.tell(&part("u"), &refused([0], POLICY), at(0));
        assert!(!blocks.has_old(at(600)) && blocks.has_old(at(601)));
        assert_eq!(words(&blocks.forget(at(3 * 86_400))), [""; 0]);
        assert_eq!(blocks.watched().count(), 1, "a suspicion that is old is none");
        assert_eq!(words(&blocks.forget(at(3 * 86_400 + 1))), ["recovered policy_blocked 3"]);
        assert_eq!(blocks, Blocks::default());
    }

    /// AADSTS650052 says that the tenant has no licence for one resource.
    #[test]
    fn what_concerns_one_resource_takes_as_many_as_other_reasons() {
        let lacks = |number: usize, codes: &[u32]| {
            let mut news = News::default();
            news.refused(&name(number), BlockReason::AppNotInTenant, codes, true);
            news
        };
        let mut blocks = Blocks::default();
        let tell = |blocks: &mut Blocks, news: &News| words(&blocks.tell(&part("t"), news, at(0)));
        assert_eq!(tell(&mut blocks, &lacks(0, &[650_052])), [""; 0]);
        assert_eq!(tell(&mut blocks, &lacks(1, &[650_052])), [""; 0]);
        assert_eq!(tell(&mut blocks, &lacks(2, &[650_052])), ["blocked app_not_in_tenant 3"]);
        let mut blocks = Blocks::default();
        let two = lacks(1, &[650_052]).after(lacks(0, &[650_052]));
        assert_eq!(tell(&mut blocks, &two), [""; 0], "seen by one replica");
        let mut blocks = Blocks::default();
        let both = lacks(1, &[700_016]).after(lacks(0, &[650_052]));
        assert_eq!(tell(&mut blocks, &both), ["blocked app_not_in_tenant 2"], "one speaks of the tenant");
    }

    #[test]
    fn another_reason_takes_the_place_of_the_one_before() {
        let mut blocks = Blocks::default();
        blocks.tell(&part("t"), &refused(0..3, POLICY), at(0));
        let gone = blocks.tell(&part("t"), &refused([0], BlockReason::TenantGone), at(1));
        assert_eq!(words(&gone), ["blocked tenant_gone 1"]);
        assert_eq!(blocks.all().count(), 1);
    }

    #[test]
    fn tenants_beyond_the_limit_push_out_suspicions_and_never_a_block() {
        let mut blocks = Blocks::default();
        for number in 0..MOST_TENANTS {
            let several = if number % 2 == 0 { 0..3 } else { 0..1 };
            blocks.tell(&part(&number.to_string()), &refused(several, POLICY), at(0));
        }
        assert_eq!(blocks.watched().count(), MOST_TENANTS);
        assert_eq!(words(&blocks.tell(&part("new"), &refused(0..3, POLICY), at(1))).len(), 1);
        assert_eq!(blocks.watched().count(), MOST_TENANTS / 2 + 1);
    }

    /// Whichever replica sees what, and whoever tells first: every block and every recovery is told once, in
    /// turn, and news that come together say what they say one by one.
    #[test]
    fn edges_alternate_and_news_in_one_or_in_many_say_the_same() {
        let random = SeededRandom::new(5);
        let number = |below: u32| u32::from_be_bytes(random_bytes::<4>(&random)) % below;
        for round in 0..500 {
            let (mut one_by_one, mut together) = (Blocks::default(), Blocks::default());
            // With others' successes in between it matters when what was told.
            let others_work = number(2) == 0;
            let mut edges = Vec::new();
            for _ in 0..20 {
                let mut sum = News::default();
                for _ in 0..1 + number(5) {
                    let mut news = News::default();
                    match number(5) {
                        0 => news.worked(!others_work || number(2) == 0),
                        _ => news.refused(&name(number(6) as usize), POLICY, &[], true),
                    }
                    edges.extend(one_by_one.tell(&part("t"), &news, at(0)));
                    sum = news.after(sum);
                }
                together.tell(&part("t"), &sum, at(0));
            }
            let is_blocked = |edge: &Edge| matches!(edge.change, Change::Blocked(_));
            for (place, edge) in edges.iter().enumerate() {
                assert_eq!(is_blocked(edge), place % 2 == 0, "round {round}: {edges:?}");
            }
            assert_eq!(one_by_one.all().count(), edges.len() % 2, "round {round}");
            // (A block that comes and goes within what is told together is not seen.)
            if !others_work {
                assert_eq!(one_by_one.all().count(), together.all().count(), "round {round}");
            }
        }
    }
}
