//! The judgement: from what was seen to what is wrong. Pure.

use std::time::Duration;

use super::clocks::{apart, in_words, is_badly_off, is_off};
use super::facts::{AppFacts, Facts};
use super::finding::{Code, Report, Severity, fault, subject};
use super::{of_app, of_store, of_traces, of_webhooks};
use crate::config::{Mistake, Topic};
use crate::secret_file::fix::{Parted, parted};

/// Judges everything.
pub fn judge(facts: &Facts) -> Report {
    let mut report = Report::default();
    for mistake in &facts.mistakes {
        of_mistake(mistake, &mut report);
    }
    let state = match (facts.mistakes.len(), facts.warnings.len()) {
        (0, 0) => "no mistake, and all files as they must be".to_owned(),
        (0, warnings) => format!("no mistake; warnings: {warnings}"),
        (mistakes, _) => format!("mistakes: {mistakes}"),
    };
    report.see("configuration", &facts.config, state);
    for app in &facts.apps {
        of_app::judge(app, facts.now, &mut report);
    }
    for app in &facts.left_out {
        report.see("app", app, "not looked at: its mistakes must be corrected first");
    }
    let own = of_clock(&facts.apps, &mut report);
    if let Some(store) = &facts.store {
        of_store::judge(store, own, &mut report);
    }
    if let Some(collector) = &facts.collector {
        of_traces::judge(collector, &mut report);
    }
    for webhook in &facts.webhooks {
        of_webhooks::judge(webhook, &mut report);
    }
    for warning in &facts.warnings {
        of_warning(warning, &mut report);
    }
    report.findings.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
    report
}

/// A mistake as `check` says it. Its own words end in what corrects it, if there is something.
fn of_mistake(mistake: &Mistake, report: &mut Report) {
    let words = mistake.to_string();
    let Parted { what, fix, is_of_access } = taken_apart(&words);
    let (code, fault, fix) = match mistake.topic {
        _ if is_of_access => (Code::FilePermissions, fault::FILES, fix),
        Topic::NotHttps if mistake.key == "listen.public.base_url" => (
            Code::BaseUrlNotHttps,
            fault::CONFIGURATION,
            "give `listen.public.base_url` the https address under which browsers reach tokenward, behind an \
             ingress or with `[listen.public.tls]`, and register the redirect URI that follows from it",
        ),
        _ => (Code::Configuration, fault::CONFIGURATION, fix),
    };
    report.find((Severity::Error, code), &mistake.key, fault, what, fix);
}

/// A warning of `check`, unless the authority's own answer has already said the same.
fn of_warning(warning: &Mistake, report: &mut Report) {
    if of_webhooks::is_of_a_file(&warning.key) {
        return of_webhooks::judge_file(warning, report);
    }
    let app = warning.key.strip_prefix("apps.").and_then(|rest| rest.split(['.', '[']).next());
    let is_said = |code| app.is_some_and(|app| report.has(code, &subject(app)));
    let code = match warning.topic {
        Topic::SecretId if is_said(Code::CredentialIsSecretId) => return,
        Topic::Expiry | Topic::Expired if is_said(Code::CredentialExpired) => return,
        Topic::SecretId => Code::CredentialIsSecretId,
        Topic::Expiry | Topic::Expired => Code::Expiry,
        Topic::Other | Topic::NotHttps => Code::Configuration,
    };
    let is_of_a_listener = warning.key.starts_with("listen.");
    // Nobody's client takes a listener's certificate that has expired.
    let severity = match warning.topic {
        Topic::Expired if is_of_a_listener => Severity::Error,
        _ => Severity::Warning,
    };
    let words = warning.to_string();
    let Parted { what, fix, .. } = parted(&words).unwrap_or(Parted {
        what: &words,
        fix: match (code, is_of_a_listener) {
            (Code::Expiry, true) => {
                "write the new certificate and its key to the same files, which a running daemon takes up: \
                 deploy/RUNBOOK.md#replace-a-listeners-certificate"
            }
            (Code::Expiry, false) => {
                "say when it ends, or replace it in time: deploy/RUNBOOK.md has a section for each kind of \
                 secret"
            }
            _ => "if it is not meant so, change what is named here, then run `tokenward check`",
        },
        is_of_access: false,
    });
    report.find((severity, code), &warning.key, fault::CONFIGURATION, what, fix);
}

/// The words of a mistake with its place, and what corrects it.
fn taken_apart(words: &str) -> Parted<'_> {
    let fix = "correct what is named here, then run `tokenward check`";
    parted(words).unwrap_or(Parted { what: words, fix, is_of_access: false })
}

/// How far this machine's clock is from the authorities'. Positive: it is behind. It is off if no authority
/// agrees with it; an authority that has another time than the one that agrees best is off itself.
fn of_clock(apps: &[AppFacts], report: &mut Report) -> Option<i64> {
    let seen = |app: &AppFacts| app.looked.clocks.map(|clocks| (apart(clocks), app.looked.url.clone()));
    let all: Vec<(i64, String)> = apps.iter().filter_map(seen).collect();
    let (off, by) = all.iter().min_by_key(|(off, _)| off.unsigned_abs())?.clone();
    let away = Duration::from_millis(off.unsigned_abs());
    report.see("clock", "this machine", format!("{} s from the authority's", away.as_secs()));
    if is_off(off) {
        let severity = if is_badly_off(off) { Severity::Error } else { Severity::Warning };
        let direction = if off > 0 { "behind" } else { "ahead of" };
        report.find(
            (severity, Code::ClockOff),
            "this machine",
            fault::MACHINE,
            format!("this machine's clock is {} {direction} the clock of {by}", in_words(away)),
            "have the clock follow a time server: `timedatectl set-ntp true`, or chrony; then restart \
             tokenward",
        );
    }
    for (theirs, url) in all.iter().filter(|(theirs, _)| is_off(theirs.saturating_sub(off))) {
        let apart = theirs.saturating_sub(off);
        report.find(
            (Severity::Warning, Code::AuthorityClockOff),
            url,
            fault::AUTHORITY,
            format!(
                "the clock of {url} is {} {} that of {by}",
                in_words(Duration::from_millis(apart.unsigned_abs())),
                if apart > 0 { "ahead of" } else { "behind" }
            ),
            "see whether something on the way answers in its place, such as a cache of a proxy; else the \
             authority's own clock is wrong",
        );
    }
    Some(off)
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::super::facts::{Answer, CredentialFacts, StoreFacts};
    use super::*;
    use crate::authority::{LookedAt, RedirectSeen, Registered, RegistrationSeen, Way};
    use crate::config::Places;
    use crate::domain::scope::ScopeNaming;
    use crate::domain::time::Timestamp;
    use crate::store::observed::Risk;
    use crate::store::redis::{Found, ServerSeen, StoreName};

    /// 2026-11-30T12:00:00Z.
    const NOW: Timestamp = Timestamp::from_unix_seconds(1_796_040_000);
    const URI: &str = "https://tokens.contoso.example/callback/outlook";

    fn scopes(words: &str) -> crate::domain::scope::ScopeSet {
        let naming = ScopeNaming::Entra { graph: "https://graph.microsoft.com".to_owned() };
        naming.scopes(words).expect("scopes")
    }

    fn credential(id: &str, answer: Answer) -> CredentialFacts {
        let expires_at = Some(NOW.plus(Duration::from_secs(90 * 86_400)));
        CredentialFacts {
            id: id.to_owned(),
            kind: "secret",
            expires_at,
            is_guid: false,
            is_retired: false,
            answer,
        }
    }

    fn app() -> AppFacts {
        AppFacts {
            name: "outlook".to_owned(),
            client_id: "11111111-2222-3333-4444-555555555555".to_owned(),
            authority: "https://login.microsoftonline.com/organizations/v2.0".to_owned(),
            home_tenant: Some("contoso.example".to_owned()),
            way_out: "directly".to_owned(),
            roots: "this machine's roots",
            is_entra: true,
            is_personal: false,
            graph: Some("https://graph.microsoft.com".to_owned()),
            scopes: scopes("openid offline_access Mail.Send"),
            looked: LookedAt {
                url: "https://login.microsoftonline.com/organizations/v2.0/.well-known".to_owned(),
                way: Ok(Way { peer: "[2603::1]:443".parse().ok(), issuer: Some("Root".to_owned()) }),
                problem: None,
                clocks: Some((NOW, NOW)),
            },
            credentials: vec![credential("first", Answer::Accepted)],
            redirect_uri: URI.to_owned(),
            redirect: Some(RedirectSeen::Accepted(None)),
            registration: None,
        }
    }

    fn server() -> ServerSeen {
        ServerSeen {
            server: "redis:6379".to_owned(),
            version: Some("7.2.4".to_owned()),
            clocks: Some((NOW, NOW)),
            appends: Some(true),
            ..ServerSeen::default()
        }
    }

    fn on_redis(server: ServerSeen) -> Option<StoreFacts> {
        let found = Found { servers: vec![server], name: StoreName::Known };
        Some(StoreFacts::Redis { place: "Redis at redis:6379".to_owned(), found: Ok(found), remembers: true })
    }

    fn facts(app: AppFacts, store: Option<StoreFacts>) -> Facts {
        Facts { now: NOW, apps: vec![app], store, ..Facts::default() }
    }

    /// Severity and word of each finding.
    fn found(facts: &Facts) -> Vec<(&'static str, &'static str)> {
        let report = judge(facts);
        report.findings.iter().map(|one| (one.severity.as_str(), one.code.as_str())).collect()
    }

    #[test]
    fn nothing_is_found_where_all_is_well() {
        assert_eq!(found(&facts(app(), on_redis(server()))), []);
        let embedded = StoreFacts::Embedded {
            path: PathBuf::from("/s"),
            is_there: true,
            room: Some((9 << 30, 99 << 30)),
        };
        let report = judge(&facts(app(), Some(embedded)));
        assert_eq!(report.worst(), None);
        assert!(report.seen.iter().any(|one| one.state.contains("over IPv6, directly")), "{report:?}");
    }

    #[test]
    fn what_the_authority_says_of_an_app_is_judged() {
        let rejected = |code| Answer::Rejected("it was rejected".to_owned(), vec![code]);
        let unknown = |code| Answer::Unknown("it said something else".to_owned(), vec![code]);
        let with = |answer| AppFacts { credentials: vec![credential("first", answer)], ..app() };
        let second = |answer| {
            let mut two = with(answer);
            two.credentials.push(credential("second", Answer::Accepted));
            two
        };
        let kind = |kind, code| {
            let mut one = with(rejected(code));
            one.credentials[0].kind = kind;
            one
        };
        let mut guid = with(rejected(7_000_215));
        guid.credentials[0].is_guid = true;
        let mut old_guid = with(rejected(7_000_222));
        old_guid.credentials[0].is_guid = true;
        let both = AppFacts {
            credentials: vec![credential("a", unknown(700_016)), credential("b", unknown(700_016))],
            ..app()
        };
        let redirect = |seen| AppFacts { redirect: Some(seen), ..app() };
        let answered = |error: &str, code| redirect(RedirectSeen::Accepted(Some((error.to_owned(), code))));
        let nobody = AppFacts { redirect: Some(RedirectSeen::Refused(700_016)), ..with(unknown(700_016)) };
        let error = |code: &'static str| vec![("error", code)];
        let rows = [
            (with(rejected(7_000_215)), error("credential_wrong")),
            (second(rejected(7_000_215)), vec![("warning", "credential_wrong")]),
            (guid, error("credential_is_secret_id")),
            (with(rejected(7_000_222)), error("credential_expired")),
            (old_guid, error("credential_expired")),
            (kind("certificate", 700_027), error("credential_rejected")),
            (kind("federated", 70_021), error("credential_rejected")),
            (with(unknown(90_033)), vec![("warning", "credential_unknown")]),
            (with(Answer::NotAsked("home_tenant is not set".to_owned())), vec![]),
            (with(Answer::ByDaemon("it has the store".to_owned())), vec![]),
            (AppFacts { credentials: Vec::new(), ..app() }, error("credential_missing")),
            // Several credentials say the same of the app once.
            (both, error("app_not_in_tenant")),
            (with(unknown(90_002)), error("tenant_not_found")),
            (with(rejected(7_000_229)), error("app_not_in_tenant")),
            (nobody, error("app_not_found")),
            (redirect(RedirectSeen::Refused(50_011)), error("redirect_uri_not_registered")),
            (redirect(RedirectSeen::Refused(900_971)), error("redirect_uri_not_registered")),
            (redirect(RedirectSeen::Refused(90_002)), error("tenant_not_found")),
            (redirect(RedirectSeen::Refused(9_002_331)), error("account_types")),
            (redirect(RedirectSeen::Refused(1_000_031)), error("sign_in_refused")),
            // What passes is nobody's fault.
            (redirect(RedirectSeen::Refused(90_033)), vec![]),
            (answered("temporarily_unavailable", None), vec![]),
            (answered("server_error", Some(90_006)), vec![]),
            (answered("invalid_request", Some(50_194)), error("account_types")),
            (answered("invalid_scope", None), error("sign_in_refused")),
            (redirect(RedirectSeen::Untold("500".to_owned())), vec![]),
        ];
        for (at, (app, expected)) in rows.into_iter().enumerate() {
            assert_eq!(found(&facts(app, None)), expected, "row {at}");
        }
    }

    #[test]
    fn an_authority_that_is_not_reached_says_nothing_about_the_rest() {
        let mut app = AppFacts { credentials: Vec::new(), redirect: None, ..app() };
        app.looked.way = Err("refused".to_owned());
        app.looked.problem = Some(("refused".to_owned(), Vec::new()));
        app.looked.clocks = None;
        assert_eq!(found(&facts(app.clone(), None)), [("error", "authority_unreachable")]);
        app.looked.way = Ok(Way { peer: None, issuer: None });
        assert_eq!(found(&facts(app.clone(), None)), [("error", "authority_document")]);
        app.looked.problem = Some(("status 400".to_owned(), vec![90_002]));
        assert_eq!(found(&facts(app, None)), [("error", "tenant_not_found")]);
    }

    #[test]
    fn a_redirect_uri_must_be_of_the_platform_web() {
        let uris = |uris: &[&str]| uris.iter().map(|&uri| uri.to_owned()).collect::<Vec<_>>();
        let local = "http://localhost:8080/callback/outlook";
        /// The URI, those registered for Web, for browsers and for devices, and whether that is right.
        type Row<'a> = (&'a str, &'a [&'a str], &'a [&'a str], &'a [&'a str], bool);
        let rows: [Row<'_>; 8] = [
            (URI, &[URI], &[], &[], true),
            (URI, &[], &[URI], &[], false),
            (URI, &[URI], &[URI], &[], false),
            (URI, &[], &[], &[URI], false),
            (URI, &[URI], &["https://tokens.contoso.example/other"], &[URI], true),
            // Not seen at all: the request has told that it is registered.
            (URI, &[], &[], &[], true),
            // The port of localhost does not count.
            (local, &["http://localhost/callback/outlook"], &[], &[], true),
            (local, &[], &["http://localhost:3000/callback/outlook"], &[], false),
        ];
        for (uri, web, spa, public, is_right) in rows {
            let registered = Registered { web: uris(web), spa: uris(spa), public: uris(public) };
            let registration = Some(RegistrationSeen::Read(registered));
            let app = AppFacts { redirect_uri: uri.to_owned(), registration, ..app() };
            let expected: &[_] = if is_right { &[] } else { &[("error", "redirect_uri_platform")] };
            assert_eq!(found(&facts(app, None)), expected, "{uri} {web:?} {spa:?} {public:?}");
        }
    }

    #[test]
    fn scopes_that_somebody_else_must_consent_to_are_hints() {
        let consent = ("hint", "scope_needs_admin");
        let rows = [
            ("openid Mail.Send Contacts.Read", vec![]),
            ("openid Mail.Read", vec![consent]),
            ("openid Mail-Advanced.ReadWrite Mail.ReadWrite", vec![consent]),
            ("openid Mail.ReadWrite", vec![consent, ("hint", "scope_mail_advanced")]),
            ("openid User.Read.All", vec![consent]),
            ("https://outlook.office.com/EWS.AccessAsUser.All", vec![("warning", "scope_ews_ends"), consent]),
        ];
        for (words, expected) in rows {
            let app = AppFacts { scopes: scopes(words), ..app() };
            assert_eq!(found(&facts(app, None)), expected, "{words}");
        }
        let own = AppFacts { scopes: scopes("Mail.Read"), is_personal: true, ..app() };
        assert_eq!(found(&facts(own, None)), [], "nobody administers personal accounts");
        let ews = AppFacts { scopes: scopes("EWS.AccessAsUser.All"), ..app() };
        let later = Facts { now: NOW.plus(Duration::from_secs(200 * 86_400)), ..facts(ews, None) };
        assert_eq!(found(&later)[0], ("error", "scope_ews_ends"));
    }

    #[test]
    fn a_clock_is_blamed_on_the_machine_that_is_alone_with_its_time() {
        let off = |seconds: u64| (NOW.plus(Duration::from_secs(seconds)), NOW);
        /// How far authority and Redis are ahead, in seconds, and what is found.
        type Row<'a> = (u64, u64, &'a [(&'a str, &'a str)]);
        let rows: [Row<'_>; 9] = [
            (0, 0, &[]),
            (30, 30, &[]),
            // Redis has this machine's time: once that is right, both are.
            (31, 0, &[("warning", "clock_off")]),
            (301, 0, &[("error", "clock_off")]),
            // It agrees with nobody.
            (301, 100, &[("error", "clock_off"), ("warning", "store_clock_off")]),
            (40, 600, &[("warning", "clock_off"), ("warning", "store_clock_off")]),
            // Redis agrees with the authority: this machine is wrong.
            (600, 600, &[("error", "clock_off")]),
            (0, 600, &[("warning", "store_clock_off")]),
            (0, 31, &[("warning", "store_clock_off")]),
        ];
        for (authority, store, expected) in rows {
            let mut app = app();
            app.looked.clocks = Some(off(authority));
            let server = ServerSeen { clocks: Some(off(store)), ..server() };
            assert_eq!(found(&facts(app, on_redis(server))), expected, "{authority} {store}");
        }
        let mut ahead = app();
        ahead.looked.clocks = Some((NOW, NOW.plus(Duration::from_secs(600))));
        let report = judge(&facts(ahead, None));
        assert!(report.findings[0].what.contains("10 minutes ahead of"), "{report:?}");

        // Of two authorities one agrees with this machine: the other one is wrong, or what answers for it.
        let mut second = AppFacts { name: "second".to_owned(), ..app() };
        second.looked.clocks = Some(off(600));
        second.looked.url = "https://second.example/".to_owned();
        for apps in [vec![app(), second.clone()], vec![second, app()]] {
            let report = judge(&Facts { now: NOW, apps, ..Facts::default() });
            let finding = &report.findings[0];
            assert_eq!(
                (report.findings.len(), finding.code.as_str()),
                (1, "authority_clock_off"),
                "{report:?}"
            );
            assert!(finding.what.contains("second.example/ is 10 minutes ahead of"), "{finding:?}");
        }
    }

    #[test]
    fn a_store_that_is_another_one_is_an_error_and_a_new_one_is_not() {
        let found = |name| {
            let found = Ok(Found { servers: vec![server()], name });
            let store = StoreFacts::Redis { place: "r".to_owned(), found, remembers: true };
            let report = judge(&facts(app(), Some(store)));
            let state = report.seen.last().map(|seen| seen.state.clone()).unwrap_or_default();
            (report.findings.iter().map(|one| one.code.as_str()).collect::<Vec<_>>(), state)
        };
        let none = Vec::<&str>::new();
        assert_eq!(found(StoreName::Known), (none.clone(), state("holds a store")));
        assert_eq!(found(StoreName::None), (none.clone(), state("empty: the first start gives it its name")));
        let unknown = found(StoreName::Unknown("no right".to_owned()));
        assert_eq!(unknown, (none, state("whether it holds a store is not known (no right)")));
        let another = found(StoreName::Another("it came back empty".to_owned()));
        assert_eq!(another, (vec!["store_is_another"], state("NOT THE STORE FROM BEFORE")));
    }

    fn state(holds: &str) -> String {
        format!("Redis 7.2.4, keeps an append-only file; {holds}")
    }

    #[test]
    fn whose_fault_a_refused_sign_in_is() {
        let fault_of = |number| {
            let app = AppFacts { redirect: Some(RedirectSeen::Refused(number)), ..app() };
            judge(&facts(app, None)).findings[0].fault
        };
        assert_eq!(fault_of(1_000_031), fault::TENANT, "a policy of the tenant");
        assert_eq!(fault_of(650_057), fault::REGISTRATION);
    }

    /// Why a credential is rejected is shown, whatever its kind.
    #[test]
    fn the_cause_of_a_rejection_is_shown() {
        for kind in ["secret", "certificate", "federated"] {
            let answer = Answer::Rejected("the key is not registered".to_owned(), vec![700_027]);
            let credentials = vec![CredentialFacts { kind, ..credential("first", answer) }];
            let report = judge(&facts(AppFacts { credentials, ..app() }, None));
            let what = &report.findings[0].what;
            assert!(what.contains("the key is not registered") && what.contains("AADSTS700027"), "{what}");
        }
    }

    #[test]
    fn what_redis_or_a_disk_shows_is_judged() {
        let risk = |risk| ServerSeen { risks: vec![(risk, "so it is".to_owned())], ..server() };
        let version = |version: &str| ServerSeen { version: Some(version.to_owned()), ..server() };
        let missing = ["+zadd".to_owned()].into();
        let forgets = Some(false);
        let rows = [
            (risk(Risk::Eviction), vec![("error", "store_evicts")]),
            (risk(Risk::Full), vec![("error", "store_full")]),
            (risk(Risk::Replicas), vec![("warning", "store_replicas")]),
            (risk(Risk::Unknown), vec![("warning", "store_unknown")]),
            (
                ServerSeen { appends: forgets, ..risk(Risk::Persistence) },
                vec![("error", "store_persistence")],
            ),
            (ServerSeen { appends: forgets, ..server() }, vec![("warning", "store_persistence")]),
            (version("6.0.16"), vec![("error", "store_version")]),
            (version("6.2.0"), vec![]),
            (version("10.0"), vec![]),
            (version("odd"), vec![]),
            (ServerSeen { missing, ..server() }, vec![("error", "store_rights")]),
            (ServerSeen { no_scripts: Some("no".to_owned()), ..server() }, vec![("error", "store_rights")]),
        ];
        for (server, expected) in rows {
            let words = format!("{server:?}");
            assert_eq!(found(&facts(app(), on_redis(server))), expected, "{words}");
        }
        let gone =
            StoreFacts::Redis { place: "r".to_owned(), found: Err("refused".to_owned()), remembers: true };
        assert_eq!(found(&facts(app(), Some(gone))), [("error", "store_unreachable")]);
        for (free, all, expected) in [
            (600 << 20, 99 << 30, None),
            (511 << 20, 99 << 30, Some("warning")),
            (63 << 20, 99 << 30, Some("error")),
            // A small disk is measured by its size.
            (60 << 20, 100 << 20, None),
            (15 << 20, 100 << 20, Some("warning")),
            (9 << 20, 100 << 20, Some("error")),
            (0, 0, None),
        ] {
            let path = PathBuf::from("/s");
            let store = StoreFacts::Embedded { path, is_there: false, room: Some((free, all)) };
            let expected: Vec<_> = expected.into_iter().map(|severity| (severity, "store_disk")).collect();
            assert_eq!(found(&facts(app(), Some(store))), expected, "{free} of {all}");
        }
    }

    #[test]
    fn a_mistake_keeps_its_words_and_its_command() {
        let mistake = |key: &str, problem: &str| Places::default().mistake(key, problem);
        let rows = [
            ("sealing.keyring", "k has mode 0644; fix: chmod 600 k", "file_permissions", "chmod 600 k"),
            ("sealing.keyring", "k belongs to 7; fix: chown 0 k", "file_permissions", "chown 0 k"),
            ("sealing.keyring", "k is UTF-16; fix: iconv k", "configuration", "iconv k"),
            ("listen.public.base_url", "has a query", "configuration", "tokenward check"),
            ("apps.a.scopes", "is empty", "configuration", "tokenward check"),
        ];
        for (key, problem, code, fix) in rows {
            let facts = Facts { mistakes: vec![mistake(key, problem)], ..Facts::default() };
            let report = judge(&facts);
            assert_eq!(report.findings.len(), 1);
            let finding = &report.findings[0];
            assert_eq!((finding.code.as_str(), finding.severity), (code, Severity::Error));
            assert!(finding.fix.contains(fix) && finding.what.contains(key), "{finding:?}");
        }
        let not_https = Mistake { topic: Topic::NotHttps, ..mistake("listen.public.base_url", "is http") };
        let facts_of = Facts { mistakes: vec![not_https], ..Facts::default() };
        let report = judge(&facts_of);
        assert_eq!(report.findings[0].code, Code::BaseUrlNotHttps);
        assert!(report.findings[0].fix.contains("ingress"), "{report:?}");
        // A listener with a certificate that has expired serves nobody.
        let warning = |topic, key: &str| Mistake { topic, ..mistake(key, "w") };
        let ended = |topic| {
            let of_listener = warning(topic, "listen.public.tls.certificate_file");
            judge(&Facts { warnings: vec![of_listener], ..Facts::default() })
        };
        assert_eq!(ended(Topic::Expiry).worst(), Some(Severity::Warning));
        let expired = ended(Topic::Expired);
        assert_eq!(expired.worst(), Some(Severity::Error));
        assert!(expired.findings[0].fix.contains("#replace-a-listeners-certificate"), "{expired:?}");
        // A warning that the authority's answer repeats is said once.
        let dated = |key| vec![warning(Topic::Expiry, key)];
        let answer = Answer::Rejected("no".to_owned(), vec![7_000_222]);
        let expired = AppFacts { credentials: vec![credential("first", answer)], ..app() };
        let own =
            Facts { warnings: dated("apps.outlook.credentials[0].file"), ..facts(expired.clone(), None) };
        assert_eq!(found(&own), [("error", "credential_expired")]);
        let another = Facts { warnings: dated("apps.out.credentials_dir"), ..facts(expired, None) };
        assert_eq!(found(&another), [("error", "credential_expired"), ("warning", "expiry")]);
    }
}
