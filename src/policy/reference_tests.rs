//! The room against the reference: random rules, random questions, no difference.

use super::decision::Decision;
use super::reference::{Wish, Words, judge};
use super::{AppTenants, CallerPolicy, Pattern, Rule, RuleScopes};
use crate::domain::app_only::{AppResource, AppTenant};
use crate::domain::id::{AppName, CallerName, ConnectionKey, ConnectionName};
use crate::domain::random::{Random, random_bytes};
use crate::domain::scope::ScopeNaming;
use crate::relay::{Asked, RelayRule};
use crate::testkit::SeededRandom;

const T1: &str = "aaaaaaaa-2222-3333-4444-555555555555";
const T2: &str = "bbbbbbbb-2222-3333-4444-555555555555";
const APPS: &[&str] = &["outlook", "other", "third"];
const NAMES: &[&str] = &["a", "ab", "A", "team-a/1", "team-a/x/1", "team-b/1", "tenant:x", "team-a"];
const PATTERNS: &[&str] = &[
    "a",
    "a*",
    "team-a/*",
    "team-a/x/*",
    "team-b/1",
    "team*",
    "*",
    "tenant:aaaaaaaa-2222-3333-4444-555555555555",
    "tenant:bbbbbbbb-2222-3333-4444-555555555555",
];
const SCOPES: &[&str] = &[
    "*",
    "Mail.Read",
    "mail.read",
    "https://graph.microsoft.com/Mail.Read",
    "Mail.Send",
    "https://outlook.office.com/Mail.Read",
    "Calendars.Read",
];
const RELAY: &[&str] = &[
    "GET graph:/v1.0/me",
    "GET graph:/v1.0/me*",
    "GET graph:/v1.0/me/messages*",
    "GET graph:/v1.0/me/messages/*",
    "POST graph:/v1.0/me/sendMail",
    "GET graph:/*",
    "GET other:/*",
];
const REQUESTS: &[&str] = &[
    "GET graph:/v1.0/me",
    "GET graph:/v1.0/me/messages",
    "GET graph:/v1.0/me/messages/1",
    "GET graph:/v1.0/me/contacts",
    "GET graph:/v1.0/Me",
    "POST graph:/v1.0/me/sendMail",
    "POST graph:/v1.0/me/messages",
    "GET other:/v1.0/me",
];
const TENANTS: &[&str] = &["home", T1, T2, "*"];
const RESOURCES: &[&str] =
    &["https://graph.microsoft.com", "https://vault.azure.net", "https://vault.azure.net/", "api://reports"];

/// Draws.
struct Dice(SeededRandom);

impl Dice {
    fn below(&self, many: usize) -> usize {
        let [one, other] = random_bytes::<2>(&self.0 as &dyn Random);
        (usize::from(one) * 256 + usize::from(other)) % many
    }

    fn one<'a>(&self, of: &[&'a str]) -> &'a str {
        of[self.below(of.len())]
    }

    fn some<'a>(&self, of: &[&'a str]) -> Vec<&'a str> {
        (0..self.below(4)).map(|_| self.one(of)).collect()
    }

    fn words(&self) -> Words<'static> {
        Words {
            app: self.one(&APPS[..2]),
            connections: self.some(PATTERNS),
            scopes: self.some(SCOPES),
            relay: self.some(RELAY),
            app_only: self.some(TENANTS),
            resources: self.some(RESOURCES),
            connect: self.below(2) == 0,
            bulk: self.below(3) == 0,
        }
    }

    fn wish(&self) -> Wish<'static> {
        let (name, of_tenant) = (self.one(NAMES), self.one(&["", T1, T2]));
        match self.below(4) {
            0 => Wish::Token { name, of_tenant, scope: self.one(&SCOPES[1..]) },
            1 => Wish::Connect { name, of_tenant },
            2 => Wish::Relay { name, of_tenant, request: self.one(REQUESTS) },
            _ => Wish::AppToken { tenant: self.one(&TENANTS[..3]), resource: self.one(RESOURCES) },
        }
    }
}

fn naming() -> ScopeNaming {
    ScopeNaming::Entra { graph: "https://graph.microsoft.com".into() }
}

fn rule(words: &Words<'_>) -> Rule {
    let resource = |text: &&str| AppResource::parse(&naming(), text).expect("a resource");
    Rule {
        app: AppName::parse(words.app).expect("a name"),
        connections: words.connections.iter().map(|text| Pattern::parse(text).expect("a pattern")).collect(),
        scopes: match words.scopes.contains(&"*") {
            true => RuleScopes::All,
            false => RuleScopes::Only(naming().scopes(&words.scopes.join(" ")).expect("scopes")),
        },
        relay: words.relay.iter().map(|text| RelayRule::parse(text).expect("a rule")).collect(),
        connect: words.connect,
        bulk: words.bulk,
        app_only: words.app_only.iter().map(|text| AppTenants::parse(text).expect("a tenant")).collect(),
        resources: words.resources.iter().map(resource).collect(),
        app_only_since: None,
    }
}

/// What the room answers, by the functions that every door uses.
fn answer(policy: &CallerPolicy, app: &AppName, wish: Wish<'_>) -> &'static str {
    let key = |name: &str| ConnectionKey {
        app: app.clone(),
        connection: ConnectionName::parse(name).expect("a name"),
    };
    let said = match wish {
        Wish::Token { name, of_tenant, scope } => {
            let (key, asked) = (key(name), naming().scopes(scope).expect("a scope"));
            let of_tenant = Some(of_tenant).filter(|text| !text.is_empty());
            let seen = policy.may_see(&key).and_then(|permit| permit.of_tenant(of_tenant));
            let said = seen.and_then(|permit| permit.scopes_for(Some(&asked), &asked)).map(|_| ());
            // What operators are told is the same, and the rules that they are told of make it so alone.
            match policy.decide(&key, of_tenant, &asked) {
                Decision::Yes { rules } => {
                    assert!(said.is_ok());
                    let alone: Vec<Rule> = rules.iter().map(|at| policy.rules()[*at].clone()).collect();
                    let alone = CallerPolicy::new(policy.caller.clone(), alone);
                    assert!(matches!(alone.decide(&key, of_tenant, &asked), Decision::Yes { .. }));
                }
                Decision::No { denial, .. } => assert_eq!(said.as_ref(), Err(&denial)),
            }
            said
        }
        Wish::Connect { name, of_tenant } => {
            let of_tenant = Some(of_tenant).filter(|text| !text.is_empty());
            let said = policy.can_connect(&key(name), of_tenant).map(|_| ());
            let decided = policy.decide_connect(&key(name), of_tenant);
            assert_eq!(matches!(decided, Decision::Yes { .. }), said.is_ok());
            said
        }
        Wish::Relay { name, of_tenant, request } => {
            let (key, asked) = (key(name), Asked::written(request).expect("a request"));
            let of_tenant = Some(of_tenant).filter(|text| !text.is_empty());
            let seen = policy.may_see(&key).and_then(|permit| permit.of_tenant(of_tenant));
            let said = seen.and_then(|permit| permit.relays(&asked));
            match policy.decide_relay(&key, of_tenant, &asked) {
                Decision::Yes { rules } => {
                    assert!(said.is_ok());
                    let alone: Vec<Rule> = rules.iter().map(|at| policy.rules()[*at].clone()).collect();
                    let alone = CallerPolicy::new(policy.caller.clone(), alone);
                    assert!(matches!(alone.decide_relay(&key, of_tenant, &asked), Decision::Yes { .. }));
                }
                Decision::No { denial, .. } => assert_eq!(said.as_ref(), Err(&denial)),
            }
            said
        }
        Wish::AppToken { tenant, resource } => {
            let tenant = AppTenant::parse(tenant).expect("a tenant");
            let resource = AppResource::parse(&naming(), resource).expect("a resource");
            policy.may_have_app_token(app, &tenant, Some(&resource)).map(|_| ())
        }
    };
    match said {
        Ok(()) => "yes",
        Err(denial) => denial.code(),
    }
}

/// Asks ten questions of each of so many sets of rules.
fn agree(seed: u64, sets: usize) {
    let dice = Dice(SeededRandom::new(seed));
    let mut seen = std::collections::BTreeMap::<&str, usize>::new();
    for number in 0..sets {
        let words: Vec<Words<'_>> = (0..dice.below(5)).map(|_| dice.words()).collect();
        let rules = words.iter().map(rule).collect();
        let policy = CallerPolicy::new(CallerName::parse("sync").expect("a name"), rules);
        for _ in 0..10 {
            let (app, wish) = (dice.one(APPS), dice.wish());
            let expected = judge(&words, app, wish);
            let app_name = AppName::parse(app).expect("a name");
            assert_eq!(
                answer(&policy, &app_name, wish),
                expected,
                "seed {seed}, set {number}: {app} {wish:?} {words:?}"
            );
            *seen.entry(expected).or_default() += 1;
        }
    }
    // Every answer is there, and none is rare.
    for expected in ["yes", "app_not_found", "connection_not_found", "caller_forbidden"] {
        let times = seen.get(expected).copied().unwrap_or_default();
        assert!(times > sets / 5, "{expected}: {times} of {}", sets * 10);
    }
}

#[test]
fn random_questions_are_answered_as_the_contract_says() {
    agree(4711, 2_000);
}

/// `make policy`
#[test]
#[ignore = "a minute: make policy"]
fn a_million_random_questions_are_answered_as_the_contract_says() {
    for seed in 0..10 {
        agree(seed, 10_000);
    }
}
