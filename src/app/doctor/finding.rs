//! A finding: what is wrong, whose fault it is, and what helps.

use serde::Serialize;

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Nothing is wrong; there is something to know or to plan.
    Hint,
    /// It works, and will not always.
    Warning,
    /// It does not work.
    Error,
}

impl Severity {
    /// The word for people and programs.
    pub fn as_str(self) -> &'static str {
        match self {
            Severity::Hint => "hint",
            Severity::Warning => "warning",
            Severity::Error => "error",
        }
    }
}

/// Every kind of finding. Its word is stable, and a heading of `docs/doctor.md`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "docs/doctor.md says what each means")]
pub enum Code {
    Configuration,
    BaseUrlNotHttps,
    FilePermissions,
    Expiry,
    AuthorityUnreachable,
    AuthorityDocument,
    TenantNotFound,
    AppNotFound,
    AppNotInTenant,
    AccountTypes,
    ClockOff,
    AuthorityClockOff,
    CredentialMissing,
    CredentialWrong,
    CredentialIsSecretId,
    CredentialExpired,
    CredentialRejected,
    CredentialUnknown,
    RedirectUriNotRegistered,
    RedirectUriPlatform,
    SignInRefused,
    ScopeNeedsAdmin,
    ScopeEwsEnds,
    ScopeMailAdvanced,
    StoreUnreachable,
    StoreIsAnother,
    StoreVersion,
    StoreEvicts,
    StoreFull,
    StorePersistence,
    StoreReplicas,
    StoreRights,
    StoreUnknown,
    StoreClockOff,
    StoreDisk,
    CollectorUnreachable,
    CollectorRefuses,
    WebhookSecret,
    WebhookUnresolved,
    WebhookNotPublic,
    WebhookCertificate,
    WebhookUnreachable,
    WebhookGone,
    WebhookFailing,
}

impl Code {
    /// Every one.
    pub const ALL: [Code; 44] = [
        Code::Configuration,
        Code::BaseUrlNotHttps,
        Code::FilePermissions,
        Code::Expiry,
        Code::AuthorityUnreachable,
        Code::AuthorityDocument,
        Code::TenantNotFound,
        Code::AppNotFound,
        Code::AppNotInTenant,
        Code::AccountTypes,
        Code::ClockOff,
        Code::AuthorityClockOff,
        Code::CredentialMissing,
        Code::CredentialWrong,
        Code::CredentialIsSecretId,
        Code::CredentialExpired,
        Code::CredentialRejected,
        Code::CredentialUnknown,
        Code::RedirectUriNotRegistered,
        Code::RedirectUriPlatform,
        Code::SignInRefused,
        Code::ScopeNeedsAdmin,
        Code::ScopeEwsEnds,
        Code::ScopeMailAdvanced,
        Code::StoreUnreachable,
        Code::StoreIsAnother,
        Code::StoreVersion,
        Code::StoreEvicts,
        Code::StoreFull,
        Code::StorePersistence,
        Code::StoreReplicas,
        Code::StoreRights,
        Code::StoreUnknown,
        Code::StoreClockOff,
        Code::StoreDisk,
        Code::CollectorUnreachable,
        Code::CollectorRefuses,
        Code::WebhookSecret,
        Code::WebhookUnresolved,
        Code::WebhookNotPublic,
        Code::WebhookCertificate,
        Code::WebhookUnreachable,
        Code::WebhookGone,
        Code::WebhookFailing,
    ];

    /// Its word.
    pub fn as_str(self) -> &'static str {
        match self {
            Code::Configuration => "configuration",
            Code::BaseUrlNotHttps => "base_url_not_https",
            Code::FilePermissions => "file_permissions",
            Code::Expiry => "expiry",
            Code::AuthorityUnreachable => "authority_unreachable",
            Code::AuthorityDocument => "authority_document",
            Code::TenantNotFound => "tenant_not_found",
            Code::AppNotFound => "app_not_found",
            Code::AppNotInTenant => "app_not_in_tenant",
            Code::AccountTypes => "account_types",
            Code::ClockOff => "clock_off",
            Code::AuthorityClockOff => "authority_clock_off",
            Code::CredentialMissing => "credential_missing",
            Code::CredentialWrong => "credential_wrong",
            Code::CredentialIsSecretId => "credential_is_secret_id",
            Code::CredentialExpired => "credential_expired",
            Code::CredentialRejected => "credential_rejected",
            Code::CredentialUnknown => "credential_unknown",
            Code::RedirectUriNotRegistered => "redirect_uri_not_registered",
            Code::RedirectUriPlatform => "redirect_uri_platform",
            Code::SignInRefused => "sign_in_refused",
            Code::ScopeNeedsAdmin => "scope_needs_admin",
            Code::ScopeEwsEnds => "scope_ews_ends",
            Code::ScopeMailAdvanced => "scope_mail_advanced",
            Code::StoreUnreachable => "store_unreachable",
            Code::StoreIsAnother => "store_is_another",
            Code::StoreVersion => "store_version",
            Code::StoreEvicts => "store_evicts",
            Code::StoreFull => "store_full",
            Code::StorePersistence => "store_persistence",
            Code::StoreReplicas => "store_replicas",
            Code::StoreRights => "store_rights",
            Code::StoreUnknown => "store_unknown",
            Code::StoreClockOff => "store_clock_off",
            Code::StoreDisk => "store_disk",
            Code::CollectorUnreachable => "collector_unreachable",
            Code::CollectorRefuses => "collector_refuses",
            Code::WebhookSecret => "webhook_secret",
            Code::WebhookUnresolved => "webhook_unresolved",
            Code::WebhookNotPublic => "webhook_not_public",
            Code::WebhookCertificate => "webhook_certificate",
            Code::WebhookUnreachable => "webhook_unreachable",
            Code::WebhookGone => "webhook_gone",
            Code::WebhookFailing => "webhook_failing",
        }
    }

    /// Where it is explained.
    pub fn docs(self) -> String {
        format!("docs/doctor.md#{}", self.as_str())
    }
}

/// What a finding about this app begins its subject with.
pub(super) fn subject(app: &str) -> String {
    format!("app {app}")
}

/// One thing that is wrong, or to be known.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// Its kind.
    pub code: Code,
    /// Whose it is: an app with its credential, a server of the store, a key of the configuration.
    pub subject: String,
    /// What was found.
    pub what: String,
    /// Where the fault is.
    pub fault: &'static str,
    /// What helps.
    pub fix: String,
    /// Where it is explained.
    pub docs: String,
}

/// Where a fault is.
pub mod fault {
    /// In what the operator wrote.
    pub const CONFIGURATION: &str = "this configuration";
    /// In a file's owner or mode.
    pub const FILES: &str = "the files on this machine";
    /// In the machine that runs the command.
    pub const MACHINE: &str = "this machine";
    /// In the app's registration at its authority.
    pub const REGISTRATION: &str = "the app's registration";
    /// In a policy or a setting of the tenant.
    pub const TENANT: &str = "the tenant's policies";
    /// In the authority, or in the network on the way there.
    pub const AUTHORITY: &str = "the authority, or the way to it";
    /// In Microsoft's rules for every app.
    pub const RULES: &str = "nobody: these are Microsoft's rules";
    /// In how the store is run.
    pub const STORE: &str = "the store";
    /// In a webhook's receiver, or in the network on the way there.
    pub const RECEIVER: &str = "the receiver, or the way to it";
    /// In the collector of traces, in what is configured for it, or in the network on the way there.
    pub const COLLECTOR: &str = "the collector, or the way to it";
}

/// Something that was looked at, and what was seen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Seen {
    /// What kind of thing.
    pub area: &'static str,
    /// Which one.
    pub subject: String,
    /// How it is.
    pub state: String,
}

/// All that is to be said.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// The worst first.
    pub findings: Vec<Finding>,
    /// What was looked at, in order.
    pub seen: Vec<Seen>,
}

impl Report {
    /// How bad the worst is.
    pub fn worst(&self) -> Option<Severity> {
        self.findings.iter().map(|finding| finding.severity).max()
    }

    pub(super) fn find(
        &mut self,
        (severity, code): (Severity, Code),
        subject: &str,
        fault: &'static str,
        what: impl Into<String>,
        fix: impl Into<String>,
    ) {
        self.findings.push(Finding {
            severity,
            code,
            subject: subject.to_owned(),
            what: what.into(),
            fault,
            fix: fix.into(),
            docs: code.docs(),
        });
    }

    pub(super) fn see(&mut self, area: &'static str, subject: &str, state: impl Into<String>) {
        self.seen.push(Seen { area, subject: subject.to_owned(), state: state.into() });
    }

    /// Whether there is such a finding about this subject, or about a part of it.
    pub(super) fn has(&self, code: Code, subject: &str) -> bool {
        let is_of = |one: &Finding| {
            one.subject.strip_prefix(subject).is_some_and(|rest| rest.is_empty() || rest.starts_with(','))
        };
        self.findings.iter().any(|one| one.code == code && is_of(one))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_is_explained_in_the_document() {
        let document = include_str!("../../../docs/doctor.md");
        for code in Code::ALL {
            assert!(document.contains(&format!("\n### {}\n", code.as_str())), "{}", code.as_str());
            let word = serde_json::to_value(code).expect("JSON");
            assert_eq!(word, code.as_str(), "the same word everywhere");
        }
        let headings = document.lines().filter_map(|line| line.strip_prefix("### "));
        for heading in headings {
            assert!(Code::ALL.iter().any(|code| code.as_str() == heading), "{heading} is no code");
        }
    }
}
