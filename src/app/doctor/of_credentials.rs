//! The judgement of an app's client credentials. Pure.
//!
//! A credential that an operator retired serves nobody, whatever the authority says of it. It is named only
//! as the way back where no other one works.

use super::facts::{Answer, AppFacts, CredentialFacts};
use super::finding::{Code, Report, Severity, fault, subject};
use crate::authority::{AppFault, EXPIRED_SECRET};
use crate::domain::verdict::aadsts;

/// The finding that Entra knows no such tenant.
pub(super) fn no_tenant(subject: &str, which: &str, report: &mut Report) {
    report.find(
        (Severity::Error, Code::TenantNotFound),
        subject,
        fault::CONFIGURATION,
        format!("Entra knows no tenant such as in {which} (AADSTS90002)"),
        "copy *Directory (tenant) ID* from the app's *Overview* page at https://entra.microsoft.com, in \
         the cloud where the app is registered",
    );
}

/// Judges each of them.
pub(super) fn judge(app: &AppFacts, report: &mut Report) {
    let of_app = &*subject(&app.name);
    let are_retired = app.credentials.iter().all(|one| one.is_retired);
    let way_back = way_back(app);
    if app.credentials.is_empty() {
        report.see("credential", of_app, "none");
        report.find(
            (Severity::Error, Code::CredentialMissing),
            of_app,
            fault::CONFIGURATION,
            "there is no client credential: no account can be connected and no token refreshed",
            "make one under *Certificates & secrets* of the registration, and put it where `credentials` \
             or `credentials_dir` says: docs/app-registration.md#5-the-apps-own-credential",
        );
    } else if are_retired {
        report.find(
            (Severity::Error, Code::CredentialMissing),
            of_app,
            fault::CONFIGURATION,
            "every client credential is retired, and none is used: no account can be connected and no token \
             refreshed",
            way_back.unwrap_or_default() + &new_secret(&app.name),
        );
    }
    for credential in &app.credentials {
        let subject = format!("{of_app}, credential {}", credential.id);
        let (state, refused) = match &credential.answer {
            Answer::Accepted => ("accepted".to_owned(), None),
            Answer::Rejected(cause, codes) => ("REJECTED".to_owned(), Some((true, cause, codes))),
            Answer::Unknown(cause, codes) => (format!("not known ({cause})"), Some((false, cause, codes))),
            Answer::NotAsked(why) | Answer::ByDaemon(why) => (format!("not asked ({why})"), None),
        };
        let end = match (credential.expires_at, credential.kind) {
            (Some(at), _) => format!(", ends {}", at.rfc3339()),
            (None, "secret") => ", its end is not known here".to_owned(),
            (None, _) => String::new(),
        };
        if credential.is_retired {
            let state = if state == "REJECTED" { "rejected" } else { &*state };
            report.see("credential", &subject, format!("{}, retired ({state}){end}", credential.kind));
            continue;
        }
        report.see("credential", &subject, format!("{}, {state}{end}", credential.kind));
        if let Some((is_rejected, cause, codes)) = refused {
            let refused = Refused { credential, subject: &subject, is_rejected, cause, codes };
            not_accepted(app, &refused, report);
        }
    }
}

/// Whether one in service is accepted: callers are served.
fn some_work(app: &AppFacts) -> bool {
    app.credentials.iter().any(|one| !one.is_retired && one.answer == Answer::Accepted)
}

/// What serves callers again at once, if no credential in service does: a retired one that is accepted.
fn way_back(app: &AppFacts) -> Option<String> {
    let is_back = |one: &&CredentialFacts| one.is_retired && one.answer == Answer::Accepted;
    let one = app.credentials.iter().find(is_back).filter(|_| !some_work(app))?;
    Some(format!(
        "run `tokenward credentials promote {} {}`: the authority accepts this retired one, and callers are \
         served again within seconds; afterwards ",
        app.name, one.id
    ))
}

/// A credential that the authority did not take.
struct Refused<'a> {
    credential: &'a CredentialFacts,
    subject: &'a str,
    /// True if it is the credential that the authority rejects.
    is_rejected: bool,
    cause: &'a str,
    codes: &'a [u32],
}

fn not_accepted(app: &AppFacts, refused: &Refused<'_>, report: &mut Report) {
    let Refused { credential, subject, is_rejected, cause, codes } = *refused;
    let of_app = &*self::subject(&app.name);
    let home = app.home_tenant.as_deref().unwrap_or_default();
    let numbers = match aadsts(codes.iter().copied()) {
        none if none.is_empty() => String::new(),
        numbers => format!(" ({numbers})"),
    };
    // While another one works, nobody notices yet.
    let severity = if some_work(app) { Severity::Warning } else { Severity::Error };
    let way_back = way_back(app).unwrap_or_default();
    match AppFault::of(codes, None) {
        AppFault::NotInTenant => {
            if report.has(Code::AppNotFound, of_app) || report.has(Code::AppNotInTenant, of_app) {
                return;
            }
            report.find(
                (Severity::Error, Code::AppNotInTenant),
                of_app,
                fault::CONFIGURATION,
                format!("the application {} is not in the tenant {home}{numbers}", app.client_id),
                "let `home_tenant` name the tenant where the app is registered (*Directory (tenant) ID* on \
                 its *Overview* page), and `client_id` the app",
            );
        }
        AppFault::NoTenant => {
            if !report.has(Code::TenantNotFound, of_app) {
                no_tenant(of_app, &format!("home_tenant = \"{home}\""), report);
            }
        }
        _ if !is_rejected => report.find(
            (Severity::Warning, Code::CredentialUnknown),
            subject,
            fault::AUTHORITY,
            format!("whether the authority takes it is not known: {cause}{numbers}"),
            "if the reason names a command or a key, follow it; else run `tokenward doctor` again",
        ),
        _ if codes.contains(&EXPIRED_SECRET) => report.find(
            (severity, Code::CredentialExpired),
            subject,
            fault::REGISTRATION,
            format!("the client secret has expired: {cause}{numbers}"),
            way_back + &new_secret(&app.name),
        ),
        _ if credential.is_guid => report.find(
            (severity, Code::CredentialIsSecretId),
            subject,
            fault::CONFIGURATION,
            format!("the file holds the secret's ID and not its value: {cause}{numbers}"),
            format!(
                "{way_back}the value is shown only once, when the secret is made, so {}",
                new_secret(&app.name)
            ),
        ),
        _ if credential.kind == "secret" => report.find(
            (severity, Code::CredentialWrong),
            subject,
            fault::CONFIGURATION,
            format!("the authority does not know this client secret: {cause}{numbers}"),
            format!(
                "{way_back}write the secret's Value to the file, without spaces or quotes (a new one may \
                 take a minute until every server of Entra knows it); if nobody has it any more, {}",
                new_secret(&app.name)
            ),
        ),
        _ => {
            let fix = match credential.kind {
                "certificate" => {
                    "upload the public certificate under *Certificates & secrets*, *Certificates*, and see \
                     whether it has expired: docs/app-registration.md#a-certificate-best-for-most"
                }
                _ => {
                    "let issuer, subject and audience of the registration's federated credential be \
                     exactly those of the assertion: \
                     docs/app-registration.md#a-federated-credential-nothing-to-replace"
                }
            };
            report.find(
                (severity, Code::CredentialRejected),
                subject,
                fault::REGISTRATION,
                format!("the authority rejects this {} credential: {cause}{numbers}", credential.kind),
                way_back + fix,
            );
        }
    }
}

fn new_secret(app: &str) -> String {
    format!(
        "make a new one (*Certificates & secrets*, *New client secret*), put its Value into a new file of \
         mode 0600 beside the old one, and run `tokenward credentials verify {app}`: \
         deploy/RUNBOOK.md#replace-the-client-secret"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::scope::ScopeSet;

    fn credential(id: &str, is_retired: bool, answer: Answer) -> CredentialFacts {
        CredentialFacts {
            id: id.to_owned(),
            kind: "secret",
            expires_at: None,
            is_guid: false,
            is_retired,
            answer,
        }
    }

    fn judged(credentials: Vec<CredentialFacts>) -> Report {
        let app = AppFacts {
            name: "outlook".to_owned(),
            client_id: "c".to_owned(),
            authority: "https://login.example/v2.0".to_owned(),
            home_tenant: None,
            way_out: "directly".to_owned(),
            roots: "this machine's roots",
            is_entra: true,
            is_personal: false,
            graph: None,
            scopes: ScopeSet::default(),
            looked: crate::authority::LookedAt {
                url: String::new(),
                way: Err(String::new()),
                problem: None,
                clocks: None,
            },
            credentials,
            redirect_uri: String::new(),
            redirect: None,
            registration: None,
        };
        let mut report = Report::default();
        judge(&app, &mut report);
        report
    }

    #[test]
    fn a_retired_credential_serves_nobody_and_may_be_the_way_back() {
        let rejected = || Answer::Rejected("no".to_owned(), vec![7_000_215]);
        let promote = "tokenward credentials promote outlook old";
        for (old, new, severity, leads_back) in [
            (Answer::Accepted, rejected(), Some(Severity::Error), true),
            (rejected(), rejected(), Some(Severity::Error), false),
            (rejected(), Answer::Accepted, None, false),
            (Answer::Accepted, Answer::Accepted, None, false),
        ] {
            let report = judged(vec![credential("old", true, old), credential("new", false, new)]);
            assert_eq!(report.worst(), severity, "{report:?}");
            assert!(report.findings.len() <= 1, "nothing of the retired one: {report:?}");
            assert_eq!(report.findings.iter().any(|one| one.fix.contains(promote)), leads_back, "{report:?}");
            assert!(report.seen[0].state.starts_with("secret, retired ("), "{report:?}");
        }
        let alone = judged(vec![credential("old", true, Answer::Accepted)]);
        assert_eq!(alone.findings[0].code, Code::CredentialMissing);
        assert!(alone.findings[0].fix.contains(promote), "{alone:?}");
    }
}
