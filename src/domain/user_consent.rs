//! Which of Microsoft's scopes a user may not consent to without an administrator.

use super::scope::Scope;

/// Scopes of Microsoft Graph that the consent policy which Microsoft manages
/// (`microsoft-user-default-recommended`, the default of tenants) leaves to administrators, in lower case. A
/// `*` at the end stands for anything.
/// <https://learn.microsoft.com/entra/identity/enterprise-apps/manage-app-consent-policies>, and Microsoft
/// 365 message center MC1163922 and MC1304287.
const OF_GRAPH: &[&str] = &[
    "mail.read",
    "mail.readbasic",
    "mail.readwrite",
    "mail.read.shared",
    "mail.readbasic.shared",
    "mail.readwrite.shared",
    "mail-advanced.*",
    "mailboxsettings.*",
    "calendars.*",
    "contacts.readwrite",
    "contacts.read.shared",
    "contacts.readwrite.shared",
    "people.read",
    "tasks.*",
    "files.read.all",
    "files.readwrite.all",
    "sites.*",
    "ews.accessasuser.all",
    "eas.accessasuser.all",
    "imap.accessasuser.all",
    "pop.accessasuser.all",
];

/// Exchange's own scopes, which the same policy leaves to administrators.
const OF_EXCHANGE: &[&str] =
    &["ews.accessasuser.all", "eas.accessasuser.all", "imap.accessasuser.all", "pop.accessasuser.all"];

/// Scopes of Microsoft Graph that only administrators can consent to, whatever the policy, in lower case: the
/// ones that services for mail and calendars ask for (permissions reference).
const ALWAYS: &[&str] = &[
    "mail-advanced.*",
    "user.read.all",
    "user.readwrite.all",
    "people.read.all",
    "group.read.all",
    "group.readwrite.all",
    "directory.*",
];

/// Returns true if only an administrator can consent to a scope, in every tenant. `graph` is the Graph of the
/// app's cloud, in lower case.
pub fn needs_an_administrator(scope: &Scope, graph: &str) -> bool {
    match word_of(scope) {
        Some((resource, word)) if resource.eq_ignore_ascii_case(graph) => is_in(ALWAYS, word),
        _ => false,
    }
}

/// The resource of a scope, and the word within it.
fn word_of(scope: &Scope) -> Option<(&str, &str)> {
    let resource = scope.resource()?;
    Some((resource, scope.canonical().strip_prefix(resource)?.trim_start_matches('/')))
}

fn is_in(list: &[&str], word: &str) -> bool {
    list.iter().any(|entry| match entry.strip_suffix('*') {
        Some(start) => word.starts_with(start),
        None => word == *entry,
    })
}

/// Returns true if users may not consent to a scope by themselves where the tenant has the default policy.
/// `graph` is the Graph of the app's cloud, in lower case.
pub fn is_left_to_administrators(scope: &Scope, graph: &str) -> bool {
    let Some((resource, word)) = word_of(scope) else { return false };
    let list = match resource {
        resource if resource.eq_ignore_ascii_case(graph) => OF_GRAPH,
        resource if resource.starts_with("https://outlook.office") => OF_EXCHANGE,
        _ => return false,
    };
    is_in(list, word)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::scope::ScopeNaming;

    #[test]
    fn mail_and_calendars_are_left_to_administrators_and_sending_and_contacts_to_read_are_not() {
        let graph = "https://graph.microsoft.com";
        let naming = ScopeNaming::Entra { graph: graph.to_owned() };
        let is_left = |scope: &str| {
            let scopes = naming.scopes_lossy([scope]);
            scopes.iter().any(|scope| is_left_to_administrators(scope, graph))
        };
        for scope in [
            "Mail.Read",
            "MAIL.READWRITE",
            "Mail.Read.Shared",
            "Mail-Advanced.ReadWrite",
            "Calendars.ReadBasic",
            "MailboxSettings.Read",
            "Tasks.Read",
            "Contacts.ReadWrite",
            "https://graph.microsoft.com/People.Read",
            "https://outlook.office.com/IMAP.AccessAsUser.All",
            "https://outlook.office365.com/POP.AccessAsUser.All",
        ] {
            assert!(is_left(scope), "{scope}");
        }
        for scope in [
            "openid",
            "offline_access",
            "User.Read",
            "Mail.Send",
            "Contacts.Read",
            "api://ours/Mail.Read",
            "https://outlook.office.com/SMTP.Send",
        ] {
            assert!(!is_left(scope), "{scope}");
        }
    }
}
