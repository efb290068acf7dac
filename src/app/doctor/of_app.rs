//! The judgement of one app: its authority, redirect URI and scopes. Pure.
//!
//! `of_credentials` judges its client credentials.

use super::facts::AppFacts;
use super::finding::{Code, Report, Severity, fault, subject};
use super::of_credentials::{self, no_tenant};
use crate::authority::{AppFault, RedirectSeen, Registered, RegistrationSeen};
use crate::domain::scope::Scope;
use crate::domain::time::Timestamp;
use crate::domain::user_consent::{is_left_to_administrators, needs_an_administrator};
use crate::domain::verdict::aadsts;

/// 1 April 2027: Exchange Online answers no EWS request from then on (message center MC1227454).
const EWS_ENDS: Timestamp = Timestamp::from_unix_seconds(1_806_537_600);
/// 31 December 2026: who changes messages that are no drafts needs Mail-Advanced.ReadWrite from then on.
const MAIL_ADVANCED: &str = "31 December 2026";

pub(super) fn judge(app: &AppFacts, now: Timestamp, report: &mut Report) {
    if !is_reached(app, report) {
        return;
    }
    redirect(app, report);
    of_credentials::judge(app, report);
    scopes(app, now, report);
}

/// Says by which way the authority is reached. `false` if it is not: nothing else can be said of the app.
fn is_reached(app: &AppFacts, report: &mut Report) -> bool {
    let subject = &*subject(&app.name);
    let looked = &app.looked;
    let way = match &looked.way {
        Err(cause) => {
            report.see("authority", subject, "NOT REACHED");
            report.find(
                (Severity::Error, Code::AuthorityUnreachable),
                subject,
                fault::AUTHORITY,
                format!("no connection to the authority ({}): {cause}", app.way_out),
                "see whether this machine resolves the host and may connect to it; a company's proxy goes \
                 into `[outbound] proxy`, and a private certificate authority into `authority_ca`",
            );
            return false;
        }
        Ok(way) => way,
    };
    let family = match way.peer {
        Some(peer) if peer.ip().to_canonical().is_ipv4() => "over IPv4",
        Some(_) => "over IPv6",
        None => "over an address that is not known",
    };
    let trust = match &way.issuer {
        Some(issuer) => format!("certificate of {issuer}, trusted by {}", app.roots),
        None => "without TLS".to_owned(),
    };
    let Some((cause, codes)) = &looked.problem else {
        let state = format!("{} answers {family}, {}; {trust}", app.authority, app.way_out);
        report.see("authority", subject, state);
        return true;
    };
    report.see("authority", subject, format!("reached {family}, and its document cannot be used"));
    if AppFault::of(codes, None) == AppFault::NoTenant {
        no_tenant(subject, &app.authority, report);
        return false;
    }
    report.find(
        (Severity::Error, Code::AuthorityDocument),
        subject,
        fault::CONFIGURATION,
        format!("{} cannot be used: {cause}", looked.url),
        "correct `authority`: at Entra it is https://login.microsoftonline.com/TENANT/v2.0; if it is \
         right, the authority has a failure, or something on the way answers in its place",
    );
    false
}

fn redirect(app: &AppFacts, report: &mut Report) {
    let subject = &*subject(&app.name);
    let uri = &app.redirect_uri;
    let (fault, numbers) = match &app.redirect {
        None => return,
        Some(RedirectSeen::Untold(why)) => {
            report.see("redirect URI", subject, format!("{uri}: not known ({why})"));
            return;
        }
        Some(RedirectSeen::Accepted(None)) => {
            is_registered(app, report);
            return;
        }
        Some(RedirectSeen::Refused(code)) => (AppFault::of(&[*code], None), aadsts([*code])),
        Some(RedirectSeen::Accepted(Some((error, code)))) => {
            let codes = code.as_slice();
            let words = format!("{error} {}", aadsts(codes.iter().copied())).trim_end().to_owned();
            (AppFault::of(codes, Some(error)), words)
        }
    };
    if let AppFault::Passing(why) = fault {
        report.see("redirect URI", subject, format!("{uri}: not known ({why}, {numbers})"));
        return;
    }
    report.see("redirect URI", subject, format!("{uri}: refused"));
    match fault {
        AppFault::RedirectUri => report.find(
            (Severity::Error, Code::RedirectUriNotRegistered),
            subject,
            fault::REGISTRATION,
            format!("the redirect URI {uri} is not registered for {} ({numbers})", app.client_id),
            format!(
                "at https://entra.microsoft.com, App registrations, the app, Authentication: add {uri} \
                 for the platform Web, exactly as it stands here; capitals count"
            ),
        ),
        AppFault::NotInTenant => report.find(
            (Severity::Error, Code::AppNotFound),
            subject,
            fault::CONFIGURATION,
            format!("Entra finds no application {} at {} ({numbers})", app.client_id, app.authority),
            "copy *Application (client) ID* from the app's *Overview* page into `client_id`, and see \
             whether `authority` names the cloud and the tenant where it is registered",
        ),
        AppFault::NoTenant => no_tenant(subject, &app.authority, report),
        AppFault::Accounts => report.find(
            (Severity::Error, Code::AccountTypes),
            subject,
            fault::REGISTRATION,
            format!("the registration does not admit the accounts that {} is for ({numbers})", app.authority),
            "let *Supported account types* of the registration and `authority` say the same: \
             docs/app-registration.md#2-decide-who-may-connect",
        ),
        AppFault::Tenant(why) => report.find(
            (Severity::Error, Code::SignInRefused),
            subject,
            fault::TENANT,
            format!("the authority refuses the app's sign-in before a user is asked: {why} ({numbers})"),
            "ask an administrator of the tenant; the tenant's sign-in log names the policy",
        ),
        AppFault::Passing(_) | AppFault::Other(_) => report.find(
            (Severity::Error, Code::SignInRefused),
            subject,
            fault::REGISTRATION,
            format!("the authority refuses the app's sign-in before a user is asked: {numbers}"),
            "look it up at https://login.microsoftonline.com/error, and correct the registration or the \
             app's section",
        ),
    }
}

/// Says for which platform the redirect URI is registered, as far as that is seen.
fn is_registered(app: &AppFacts, report: &mut Report) {
    let uri = &app.redirect_uri;
    let state = match &app.registration {
        Some(RegistrationSeen::Read(registered)) => match wrong_platform(registered, uri) {
            Some(platform) => {
                wrong(app, platform, report);
                format!("registered, for the platform {platform}")
            }
            None => "registered, platform Web".to_owned(),
        },
        Some(RegistrationSeen::NotRead(why)) => {
            format!(
                "registered; whether the URI stands under the platform Web could not be read from Microsoft \
                 Graph ({why}): look at *Authentication* in the portal"
            )
        }
        None if app.is_entra => {
            "registered; its platform, which must be Web, is read once a credential is accepted".to_owned()
        }
        None => "registered".to_owned(),
    };
    report.see("redirect URI", &subject(&app.name), format!("{uri}: {state}"));
}

/// The platform other than Web for which a URI is registered, if it is for no other than that.
fn wrong_platform(registered: &Registered, uri: &str) -> Option<&'static str> {
    let among = |uris: &[String]| uris.iter().any(|one| is_same_uri(one, uri));
    match () {
        () if among(&registered.spa) => Some("Single-page application"),
        () if among(&registered.web) => None,
        () if among(&registered.public) => Some("Mobile and desktop applications"),
        () => None,
    }
}

/// As Entra compares: the port of `localhost` does not count, nor does a slash in place of no path.
fn is_same_uri(registered: &str, uri: &str) -> bool {
    let plain = |uri: &str| {
        let rest = ["http://localhost", "https://localhost"].iter().find_map(|host| {
            let rest = uri.strip_prefix(host)?.strip_prefix(':')?;
            Some(format!("{host}{}", rest.trim_start_matches(|one: char| one.is_ascii_digit())))
        });
        rest.unwrap_or_else(|| uri.to_owned()).trim_end_matches('/').to_owned()
    };
    plain(registered) == plain(uri)
}

fn wrong(app: &AppFacts, platform: &str, report: &mut Report) {
    let why = match platform {
        "Single-page application" => {
            "Entra then gives codes that only a browser may redeem (AADSTS9002327), and grants that end \
             after 24 hours"
        }
        _ => "Entra then takes the app for one that can keep no secret",
    };
    report.find(
        (Severity::Error, Code::RedirectUriPlatform),
        &subject(&app.name),
        fault::REGISTRATION,
        format!("the redirect URI {} is registered for the platform {platform}: {why}", app.redirect_uri),
        format!(
            "at https://entra.microsoft.com, App registrations, the app, Authentication: remove {} there, \
             and add it for the platform Web",
            app.redirect_uri
        ),
    );
}

fn scopes(app: &AppFacts, now: Timestamp, report: &mut Report) {
    let Some(graph) = &app.graph else { return };
    let subject = &*subject(&app.name);
    let words = |which: &dyn Fn(&Scope) -> bool| -> Vec<String> {
        app.scopes.iter().filter(|scope| which(scope)).map(|scope| scope.wire().to_owned()).collect()
    };
    let by_policy =
        words(&|scope| is_left_to_administrators(scope, graph) && !needs_an_administrator(scope, graph));
    let always = words(&|scope| needs_an_administrator(scope, graph));
    let is_left = !by_policy.is_empty() || !always.is_empty();
    let state = match (app.is_personal, is_left) {
        (true, _) => "personal accounts consent for themselves".to_owned(),
        (false, false) => "users may consent to all of them, under Microsoft's default policy".to_owned(),
        (false, true) => {
            format!("administrators must consent to {}", [&by_policy[..], &always].concat().join(", "))
        }
    };
    report.see("scopes", subject, state);
    if is_left && !app.is_personal {
        let mut what = Vec::new();
        if !by_policy.is_empty() {
            what.push(format!(
                "in a tenant with Microsoft's default consent policy, users cannot consent to {} \
                 themselves",
                by_policy.join(", ")
            ));
        }
        if !always.is_empty() {
            what.push(format!("an administrator must always consent to {}", always.join(", ")));
        }
        report.find(
            (Severity::Hint, Code::ScopeNeedsAdmin),
            subject,
            fault::RULES,
            what.join("; "),
            "have an administrator of each tenant approve the app once, by the link that `tokenward \
             admin-consent` prints, or for your own tenant by *Grant admin consent*; or take the scopes out \
             of `scopes` if nobody needs them",
        );
    }
    let ends_in = |scope: &Scope, word: &str| scope.canonical().ends_with(word);
    let ews = words(&|scope| ends_in(scope, "/ews.accessasuser.all"));
    if !ews.is_empty() {
        let (severity, when) = match now < EWS_ENDS {
            true => (Severity::Warning, "ends for good on 1 April 2027"),
            false => (Severity::Error, "ended on 1 April 2027"),
        };
        report.find(
            (severity, Code::ScopeEwsEnds),
            subject,
            fault::RULES,
            format!("{} is for Exchange Web Services, which {when} in Exchange Online", ews.join(", ")),
            "move the services that use it to Microsoft Graph, and ask for its scopes (Mail.Read, \
             Mail.ReadWrite) in its place",
        );
    }
    for (plain, advanced) in [
        ("/mail.readwrite", "/mail-advanced.readwrite"),
        ("/mail.readwrite.shared", "/mail-advanced.readwrite.shared"),
    ] {
        let is_asked = |word: &str| app.scopes.iter().any(|scope| ends_in(scope, word));
        if is_asked(plain) && !is_asked(advanced) {
            report.find(
                (Severity::Hint, Code::ScopeMailAdvanced),
                subject,
                fault::RULES,
                format!(
                    "from {MAIL_ADVANCED} on, {} does not suffice to change subject, body or recipients \
                     of a message that is no draft",
                    plain.trim_start_matches('/')
                ),
                "if a service does that, add Mail-Advanced.ReadWrite (or .Shared) to `scopes` and have \
                 administrators approve it; else there is nothing to do",
            );
        }
    }
}
