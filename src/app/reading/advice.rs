//! Advice about settings that are allowed and probably not meant: scopes, and the kinds of accounts.

use crate::app::apps::PreparedApps;
use crate::app::findings::Findings;
use crate::config::{AppConfig, Authenticate, CallerConfig, Config, Listener};
use crate::domain::id::AppName;
use crate::domain::scope::{Scope, ScopeNaming, ScopeSet};

/// Scopes that are often requested: those of the sign-in itself, of Microsoft Graph and of Exchange Online
/// (permissions reference). Another name is no mistake; one that is nearly one of these probably is.
const WELL_KNOWN: &[&str] = &[
    "openid",
    "profile",
    "email",
    "offline_access",
    "Mail.Read",
    "Mail.ReadBasic",
    "Mail.ReadWrite",
    "Mail.Send",
    "Mail.Read.Shared",
    "Mail.ReadBasic.Shared",
    "Mail.ReadWrite.Shared",
    "Mail.Send.Shared",
    "MailboxSettings.Read",
    "MailboxSettings.ReadWrite",
    "MailboxFolder.Read",
    "MailboxFolder.ReadWrite",
    "Calendars.Read",
    "Calendars.ReadBasic",
    "Calendars.ReadWrite",
    "Calendars.Read.Shared",
    "Calendars.ReadWrite.Shared",
    "Contacts.Read",
    "Contacts.ReadWrite",
    "Contacts.Read.Shared",
    "Contacts.ReadWrite.Shared",
    "People.Read",
    "People.Read.All",
    "User.Read",
    "User.Read.All",
    "User.ReadBasic.All",
    "User.ReadWrite",
    "User.ReadWrite.All",
    "Files.Read",
    "Files.Read.All",
    "Files.ReadWrite",
    "Files.ReadWrite.All",
    "Sites.Read.All",
    "Sites.ReadWrite.All",
    "Tasks.Read",
    "Tasks.ReadWrite",
    "Tasks.Read.Shared",
    "Tasks.ReadWrite.Shared",
    "Notes.Read",
    "Notes.Read.All",
    "Notes.ReadWrite",
    "Notes.ReadWrite.All",
    "Notes.Create",
    "Chat.Read",
    "Chat.ReadBasic",
    "Chat.ReadWrite",
    "Presence.Read",
    "Presence.Read.All",
    "OnlineMeetings.Read",
    "OnlineMeetings.ReadWrite",
    "Group.Read.All",
    "Group.ReadWrite.All",
    "Directory.Read.All",
    "Directory.ReadWrite.All",
    "EWS.AccessAsUser.All",
    "IMAP.AccessAsUser.All",
    "POP.AccessAsUser.All",
    "SMTP.Send",
];

/// Largest distance at which a name counts as a misspelling.
const NEAR: usize = 2;

/// Checks every app that could be built, and the rules for it.
pub(super) fn check(config: &Config, apps: &PreparedApps, findings: &mut Findings<'_>) {
    for (name, settings) in &config.apps {
        let Some(app) = AppName::parse(name).ok().and_then(|name| apps.apps.get(&name)) else { continue };
        let naming = app.authority.scope_naming();
        if *naming != ScopeNaming::Plain {
            misspelt(name, settings, findings);
            accounts(name, settings, findings);
        }
        for (caller, rules) in &config.callers {
            of_rules(name, &app.scopes, naming, caller, rules, findings);
        }
    }
    let callers = config.callers.iter().map(|(name, one)| (format!("callers.{name}"), &one.authenticate));
    let admins = config.admins.iter().map(|(name, one)| (format!("admins.{name}"), &one.authenticate));
    not_accepted(callers, "local", &config.listen.local, findings);
    not_accepted(admins, "admin", &config.listen.admin, findings);
}

/// Warns of a way to authenticate that no listener accepts.
fn not_accepted<'a>(
    those: impl Iterator<Item = (String, &'a Vec<Authenticate>)>,
    kind: &str,
    listeners: &[Listener],
    findings: &mut Findings<'_>,
) {
    let is_accepted = |method| listeners.iter().any(|listener| listener.accept().contains(method));
    for (key, ways) in those {
        for (at, way) in ways.iter().enumerate() {
            let method = way.method();
            if is_accepted(method) {
                continue;
            }
            let word = method.as_str();
            let needs = match method.needs_certificate() {
                true => "; it needs one whose `tls` has a `client_ca`",
                false => "",
            };
            findings.warning(
                &format!("{key}.authenticate[{at}].{word}"),
                format_args!("has no effect: no `[[listen.{kind}]]` accepts `{word}`{needs}"),
            );
        }
    }
}

fn misspelt(name: &str, app: &AppConfig, findings: &mut Findings<'_>) {
    for (at, scope) in app.scopes.iter().enumerate() {
        if let Some(meant) = meant_by(scope, WELL_KNOWN.iter().copied()) {
            findings.warning(
                &format!("apps.{name}.scopes[{at}]"),
                format_args!("{scope:?} is not well known (did you mean `{meant}`?)"),
            );
        }
    }
}

/// The well-known scope that was probably meant, if it is another one.
fn meant_by<'a>(scope: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let bare = scope.rsplit_once('/').map_or(scope, |(_, bare)| bare).to_ascii_lowercase();
    let near = |one: &'a str| (strsim::damerau_levenshtein(&bare, &one.to_ascii_lowercase()), one);
    let (distance, nearest) = known.map(near).min_by_key(|(distance, _)| *distance)?;
    (1..=NEAR).contains(&distance).then_some(nearest)
}

fn accounts(name: &str, app: &AppConfig, findings: &mut Findings<'_>) {
    let tenant = app.authority.path().split('/').find(|part| !part.is_empty()).unwrap_or_default();
    if tenant.eq_ignore_ascii_case("common") && !app.tenants.list_personal() {
        findings.warning(
            &format!("apps.{name}.authority"),
            "`common` lets personal accounts sign in, and `tenants` turns them away afterwards: use \
             `organizations` in its place, or add \"personal\" to `tenants`",
        );
    }
    if app.lacks_home_tenant() {
        findings.warning(
            &format!("apps.{name}"),
            "without `home_tenant`, where the app is registered, `tokenward credentials verify` cannot ask \
             about a client credential, and only a user's refresh proves a new one",
        );
    }
}

fn of_rules(
    app: &str,
    asked: &ScopeSet,
    naming: &ScopeNaming,
    caller: &str,
    rules: &CallerConfig,
    findings: &mut Findings<'_>,
) {
    for (at, rule) in rules.allow.iter().enumerate().filter(|(_, rule)| rule.app == app) {
        if rule.scopes.iter().any(|scope| scope == "*") {
            continue;
        }
        let key = format!("callers.{caller}.allow[{at}].scopes");
        let listed: Vec<(usize, Scope)> =
            rule.scopes.iter().enumerate().filter_map(|(at, text)| Some((at, naming.scope(text)?))).collect();
        for (item, scope) in listed.iter().filter(|(_, scope)| !asked.contains(scope)) {
            let meant = meant_by(scope.wire(), asked.iter().map(Scope::wire));
            let meant = meant.map(|meant| format!(" (did you mean `{meant}`?)")).unwrap_or_default();
            findings.warning(
                &format!("{key}[{item}]"),
                format_args!(
                    "app `{app}` does not ask for it: only a connection whose own connect session \
                     asked has it{meant}"
                ),
            );
        }
        let is_listed = |scope: &Scope| listed.iter().any(|(_, one)| one == scope);
        let of_same = |scope: &Scope| {
            scope.resource().is_some() && listed.iter().any(|(_, one)| one.resource() == scope.resource())
        };
        let more: Vec<&str> =
            asked.iter().filter(|scope| of_same(scope) && !is_listed(scope)).map(Scope::wire).collect();
        if !more.is_empty() {
            findings.warning(
                &key,
                format_args!(
                    "decides who gets a token and not what it can do: a token of Entra carries all that was \
                     granted for its resource, here {} too; to keep them apart, register another application",
                    more.join(", ")
                ),
            );
        }
    }
}
