//! Permissions in plain words.

use super::text::Text;

/// One permission on a page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Asked {
    /// A known one.
    InWords(Text),
    /// Another one, as it is.
    AsItIs(String),
}

/// Describes the scopes, without repetition.
pub(super) fn asked_for(scopes: &[String]) -> Vec<Asked> {
    let mut said = Vec::new();
    for asked in scopes.iter().map(|scope| in_words(scope)) {
        if !said.contains(&asked) {
            said.push(asked);
        }
    }
    said
}

/// Describes a scope; an unknown one is shown as it is.
pub(super) fn in_words(scope: &str) -> Asked {
    let name = scope.rsplit('/').next().unwrap_or(scope).to_ascii_lowercase();
    Asked::InWords(match name.as_str() {
        "openid" | "profile" | "user.read" => Text::ScopeIdentity,
        "email" => Text::ScopeEmail,
        "offline_access" => Text::ScopeOffline,
        "mail.readbasic" => Text::ScopeMailHeaders,
        "mail.read" => Text::ScopeMailRead,
        "mail.readwrite" => Text::ScopeMailWrite,
        "mail.send" | "smtp.send" => Text::ScopeMailSend,
        "mail.read.shared" => Text::ScopeMailReadShared,
        "mail.readwrite.shared" => Text::ScopeMailWriteShared,
        "mail.send.shared" => Text::ScopeMailSendShared,
        "mailboxsettings.read" => Text::ScopeSettingsRead,
        "mailboxsettings.readwrite" => Text::ScopeSettingsWrite,
        "calendars.read" => Text::ScopeCalendarsRead,
        "calendars.readwrite" => Text::ScopeCalendarsWrite,
        "calendars.read.shared" => Text::ScopeCalendarsReadShared,
        "calendars.readwrite.shared" => Text::ScopeCalendarsWriteShared,
        "contacts.read" => Text::ScopeContactsRead,
        "contacts.readwrite" => Text::ScopeContactsWrite,
        "imap.accessasuser.all" => Text::ScopeImap,
        "pop.accessasuser.all" => Text::ScopePop,
        _ => return Asked::AsItIs(scope.to_owned()),
    })
}
