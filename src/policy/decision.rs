//! A decision with the rules that made it, for operators who ask. It is made by the same functions as every
//! other.

use super::{CallerPolicy, Denial, Permit};
use crate::domain::id::ConnectionKey;
use crate::domain::scope::ScopeSet;
use crate::relay::Asked;

/// A decision, and the rules that made it: their places in the caller's list, from 0.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// The caller may have it. These rules give it, the first that does for each scope.
    Yes {
        /// Never empty.
        rules: Vec<usize>,
    },
    /// The caller may not have it.
    No {
        /// The reason.
        denial: Denial,
        /// The rules that cover the connection and do not give what was asked for; empty if none covers it.
        rules: Vec<usize>,
    },
}

impl CallerPolicy {
    /// Decides whether the caller gets a token of a connection with these scopes; without scopes, whether it
    /// sees the connection. `tenant` is that of the connection's account.
    pub fn decide(&self, key: &ConnectionKey, tenant: Option<&str>, asked: &ScopeSet) -> Decision {
        let permit = match self.see(key, tenant) {
            Ok(permit) => permit,
            Err(denial) => return Decision::No { denial, rules: Vec::new() },
        };
        match permit.scopes_for(Some(asked), asked) {
            Ok(_) => Decision::Yes { rules: permit.deciding(asked) },
            Err(denial) => Decision::No { denial, rules: permit.matching },
        }
    }

    /// Decides whether the caller has a request relayed with a connection's token.
    pub fn decide_relay(&self, key: &ConnectionKey, tenant: Option<&str>, asked: &Asked) -> Decision {
        let permit = match self.see(key, tenant) {
            Ok(permit) => permit,
            Err(denial) => return Decision::No { denial, rules: Vec::new() },
        };
        let mut rules = Vec::new();
        match permit.relaying(asked, |at| rules.push(at)) {
            Ok(()) => {
                rules.sort_unstable();
                rules.dedup();
                Decision::Yes { rules }
            }
            Err(denial) => Decision::No { denial, rules: permit.matching },
        }
    }

    /// Decides whether the caller may connect accounts to the connection, renew and delete it.
    pub fn decide_connect(&self, key: &ConnectionKey, tenant: Option<&str>) -> Decision {
        let rules = self.matching(key, tenant);
        match self.can_connect(key, tenant) {
            Ok(_) => Decision::Yes {
                rules: rules.into_iter().filter(|at| self.rules[*at].connect).take(1).collect(),
            },
            Err(denial) => Decision::No { denial, rules },
        }
    }
}

impl Permit {
    /// Returns the first rule that gives each scope, or the first of all if none is asked for.
    fn deciding(&self, asked: &ScopeSet) -> Vec<usize> {
        let mut rules: Vec<usize> = asked.iter().filter_map(|scope| self.given_by(scope)).collect();
        rules.sort_unstable();
        rules.dedup();
        if rules.is_empty() { self.matching[..1].to_vec() } else { rules }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::id::{AppName, CallerName, ConnectionName};
    use crate::domain::scope::ScopeNaming;
    use crate::policy::{Pattern, Rule, RuleScopes};
    use crate::relay::RelayRule;

    fn scopes(text: &str) -> ScopeSet {
        ScopeNaming::Entra { graph: "https://graph.microsoft.com".into() }.scopes(text).expect("scopes")
    }

    #[test]
    fn the_rules_that_decide_are_named() {
        let rule = |pattern: &str, given: &str, connect| Rule {
            app: AppName::parse("outlook").expect("a name"),
            connections: vec![Pattern::parse(pattern).expect("a pattern")],
            scopes: if given == "*" { RuleScopes::All } else { RuleScopes::Only(scopes(given)) },
            relay: Vec::new(),
            connect,
            bulk: false,
            app_only: Vec::new(),
            resources: Vec::new(),
            app_only_since: None,
        };
        let rules = vec![
            rule("b", "*", true),
            rule("a*", "Mail.Read", false),
            rule("a", "Calendars.Read", true),
            rule("a", "Mail.Read", true),
        ];
        let policy = CallerPolicy::new(CallerName::parse("sync").expect("a name"), rules);
        let key = |app: &str, name: &str| ConnectionKey {
            app: AppName::parse(app).expect("a name"),
            connection: ConnectionName::parse(name).expect("a name"),
        };
        let yes = |rules: &[usize]| Decision::Yes { rules: rules.to_vec() };
        let no = |denial, rules: &[usize]| Decision::No { denial, rules: rules.to_vec() };
        let forbidden = || Denial::ScopeForbidden { scopes: vec!["Mail.Send".into()] };
        for (name, asked, expected) in [
            ("a", "Mail.Read", yes(&[1])),
            ("a", "https://graph.microsoft.com/mail.read Calendars.Read openid", yes(&[1, 2])),
            ("a", "", yes(&[1])),
            ("a", "Mail.Read Mail.Send", no(forbidden(), &[1, 2, 3])),
            ("ab", "Mail.Send", no(forbidden(), &[1])),
            ("b", "Mail.Send", yes(&[0])),
            ("c", "Mail.Read", no(Denial::ConnectionNotFound, &[])),
        ] {
            assert_eq!(
                policy.decide(&key("outlook", name), None, &scopes(asked)),
                expected,
                "{name} {asked}"
            );
        }
        let other = policy.decide(&key("other", "a"), None, &scopes("Mail.Read"));
        assert_eq!(other, no(Denial::AppNotFound, &[]));
        let connect = |name| policy.decide_connect(&key("outlook", name), None);
        assert_eq!(connect("a"), yes(&[2]));
        assert_eq!(connect("ab"), no(Denial::ActionForbidden { action: "connect" }, &[1]));
        assert_eq!(connect("c"), no(Denial::ConnectionNotFound, &[]));
    }

    #[test]
    fn the_rules_that_have_a_request_relayed_are_named() {
        let rule = |pattern: &str, relay: &[&str]| Rule {
            app: AppName::parse("outlook").expect("a name"),
            connections: vec![Pattern::parse(pattern).expect("a pattern")],
            scopes: RuleScopes::Only(ScopeSet::default()),
            relay: relay.iter().map(|text| RelayRule::parse(text).expect("a rule")).collect(),
            connect: false,
            bulk: false,
            app_only: Vec::new(),
            resources: Vec::new(),
            app_only_since: None,
        };
        let rules = vec![
            rule("b", &["GET graph:/*"]),
            rule("a*", &["GET graph:/v1.0/me/messages", "POST graph:/v1.0/me/sendMail"]),
            rule("a", &["GET graph:/v1.0/me/messages*"]),
        ];
        let policy = CallerPolicy::new(CallerName::parse("sync").expect("a name"), rules);
        let decide = |name: &str, request: &str| {
            let key = ConnectionKey {
                app: AppName::parse("outlook").expect("a name"),
                connection: ConnectionName::parse(name).expect("a name"),
            };
            policy.decide_relay(&key, None, &Asked::written(request).expect("a request"))
        };
        for (name, request, expected) in [
            ("a", "GET graph:/v1.0/me/messages", &[1][..]),
            ("a", "GET graph:/v1.0/me/messages/1", &[2]),
            ("a", "GET graph:/v1.0/me/messages?$expand=attachments", &[1, 2]),
            ("ab", "POST graph:/v1.0/me/sendMail", &[1]),
            ("b", "GET graph:/v1.0/me/contacts", &[0]),
        ] {
            assert_eq!(decide(name, request), Decision::Yes { rules: expected.to_vec() }, "{name} {request}");
        }
        for (name, request, beyond, expected) in [
            ("a", "GET graph:/v1.0/me/contacts", "GET graph:/v1.0/me/contacts", &[1, 2][..]),
            ("a", "GET other:/v1.0/me/messages", "GET other:/v1.0/me/messages", &[1, 2]),
            (
                "ab",
                "GET graph:/v1.0/me/messages?$expand=attachments",
                "GET graph:/v1.0/me/messages/attachments",
                &[1],
            ),
        ] {
            let Decision::No { denial, rules } = decide(name, request) else { panic!("{name} {request}") };
            assert_eq!(denial.code(), "caller_forbidden");
            assert!(denial.to_string().contains(beyond), "{denial}");
            assert_eq!(rules, expected, "{name} {request}");
        }
        let nothing = Decision::No { denial: Denial::ConnectionNotFound, rules: Vec::new() };
        assert_eq!(decide("c", "GET graph:/v1.0/me"), nothing);
    }
}
