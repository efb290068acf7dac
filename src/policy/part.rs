//! A part of a caller's relay rules, as a handle has it.

use super::{Denial, Permit};
use crate::relay::{Asked, RelayRule};

/// Rules of the relay that a caller gave on. They allow nothing by themselves: what is relayed needs the
/// caller's own permit beside them, each time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RelayPart(Vec<RelayRule>);

impl RelayPart {
    /// Takes up rules that a caller gave on earlier.
    pub fn given(rules: Vec<RelayRule>) -> Self {
        RelayPart(rules)
    }

    /// Returns its rules.
    pub fn rules(&self) -> &[RelayRule] {
        &self.0
    }

    /// Judges whether a request may be relayed, with all that its query reaches.
    ///
    /// # Errors
    /// [`Denial::RelayForbidden`] names what none of the rules covers.
    pub fn relays(&self, asked: &Asked) -> Result<(), Denial> {
        let is_covered =
            |method, base: &str, path: &_| self.0.iter().any(|rule| rule.covers(method, base, path));
        asked.judge(is_covered).map_err(|beyond| Denial::RelayForbidden { beyond: Box::new(beyond) })
    }
}

impl Permit {
    /// Judges whether the caller may give these rules on: each of them must be included in one of its own. So
    /// a part that two rules cover only together is refused.
    ///
    /// # Errors
    /// [`Denial::NotItsOwn`] names the first that is not.
    pub fn give_on(&self, rules: Vec<RelayRule>) -> Result<RelayPart, Denial> {
        let is_own =
            |rule: &RelayRule| self.matching().flat_map(|own| &own.relay).any(|own| own.includes(rule));
        match rules.iter().find(|rule| !is_own(rule)) {
            Some(rule) => Err(Denial::NotItsOwn { rule: rule.to_string() }),
            None => Ok(RelayPart(rules)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::id::{AppName, CallerName, ConnectionKey, ConnectionName};
    use crate::domain::scope::ScopeSet;
    use crate::policy::{CallerPolicy, Pattern, Rule, RuleScopes};

    fn read(rules: &[&str]) -> Vec<RelayRule> {
        rules.iter().map(|text| RelayRule::parse(text).expect("a rule")).collect()
    }

    fn permit(rules: &[(&str, &[&str])]) -> Permit {
        let app = || AppName::parse("outlook").expect("a name");
        let rule = |(pattern, relay): &(&str, &[&str])| Rule {
            app: app(),
            connections: vec![Pattern::parse(pattern).expect("a pattern")],
            scopes: RuleScopes::Only(ScopeSet::default()),
            relay: read(relay),
            connect: false,
            bulk: false,
            app_only: Vec::new(),
            resources: Vec::new(),
            app_only_since: None,
        };
        let caller = CallerName::parse("sync").expect("a name");
        let policy = CallerPolicy::new(caller, rules.iter().map(rule).collect());
        let key = ConnectionKey { app: app(), connection: ConnectionName::parse("user-1").expect("a name") };
        policy.see(&key, None).expect("it is covered")
    }

    #[test]
    fn a_caller_gives_on_what_one_of_its_rules_includes() {
        let permit = permit(&[
            ("user-*", &["GET graph:/v1.0/me/messages", "GET graph:/v1.0/me/messages/*"]),
            ("user-1", &["POST graph:/v1.0/$batch", "POST graph:/v1.0/me/send*"]),
            ("user-2", &["GET graph:/*"]),
        ]);
        for (wanted, beyond) in [
            (&["GET graph:/v1.0/me/messages", "GET graph:/v1.0/me/messages/*"][..], None),
            (&["POST graph:/v1.0/me/sendMail", "POST graph:/v1.0/$batch"], None),
            // Two rules cover it together, but for /v1.0/me/messagesX.
            (&["GET graph:/v1.0/me/messages*"], Some("GET graph:/v1.0/me/messages*")),
            (&["POST graph:/v1.0/$batch", "GET graph:/v1.0/me"], Some("GET graph:/v1.0/me")),
            // Another connection's rule.
            (&["GET graph:/v1.0/me/contacts"], Some("GET graph:/v1.0/me/contacts")),
        ] {
            match (permit.give_on(read(wanted)), beyond) {
                (Ok(part), None) => assert_eq!(part.rules(), read(wanted)),
                (Err(denial), Some(beyond)) => {
                    assert_eq!(denial.code(), "caller_forbidden");
                    assert!(denial.to_string().contains(&format!("`{beyond}`")), "{denial}");
                }
                (other, _) => panic!("{wanted:?}: {other:?}"),
            }
        }
    }

    #[test]
    fn a_part_judges_by_its_own_rules_alone() {
        let part = RelayPart::given(read(&["GET graph:/v1.0/me/messages"]));
        let judged = |request: &str| part.relays(&Asked::written(request).expect("a request"));
        assert_eq!(judged("GET graph:/v1.0/me/messages?$top=1"), Ok(()));
        for beyond in ["GET graph:/v1.0/me/messages/1", "GET graph:/v1.0/me/messages?$expand=attachments"] {
            assert!(matches!(judged(beyond), Err(Denial::RelayForbidden { .. })), "{beyond}");
        }
        assert!(
            RelayPart::given(Vec::new()).relays(&Asked::written("GET graph:/v1.0/me").expect("one")).is_err()
        );
    }
}
