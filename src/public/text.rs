//! The pages' texts, by name, in one language: what `languages/en.toml` has, and each other language's file.

use std::collections::BTreeMap;
use std::str::FromStr as _;

/// Largest text of a language, in bytes.
const LONGEST: usize = 4000;
/// Longest sentence about what an app wants accounts for, in characters.
const LONGEST_PURPOSE: usize = 200;

macro_rules! texts {
    ($($name:ident $key:literal,)*) => {
        /// One text of the pages.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(super) enum Text {
            $(#[doc = $key] $name,)*
        }

        impl Text {
            /// All texts, in the order of the enum.
            const ALL: &[(Text, &'static str)] = &[$((Text::$name, $key),)*];
        }
    };
}

texts! {
    MicrosoftAccount "microsoft_account",
    OtherAccount "other_account",
    OtherProvider "other_provider",
    TheOtherProvider "the_other_provider",
    Questions "questions",
    ForSupport "for_support",
    Back "back",
    TryAgain "try_again",
    CheckNow "check_now",
    NotConnected "not_connected",
    GoBack "go_back",
    StartAgain "start_again",
    IfAgain "if_again",
    ConnectTitle "connect_title",
    ConnectAsks "connect_asks",
    ConnectHow "connect_how",
    ConnectList "connect_list",
    ConnectWarning "connect_warning",
    ConnectButton "connect_button",
    ConnectButtonMicrosoft "connect_button_microsoft",
    ScopeIdentity "scope_identity",
    ScopeEmail "scope_email",
    ScopeOffline "scope_offline",
    ScopeMailHeaders "scope_mail_headers",
    ScopeMailRead "scope_mail_read",
    ScopeMailWrite "scope_mail_write",
    ScopeMailSend "scope_mail_send",
    ScopeMailReadShared "scope_mail_read_shared",
    ScopeMailWriteShared "scope_mail_write_shared",
    ScopeMailSendShared "scope_mail_send_shared",
    ScopeSettingsRead "scope_settings_read",
    ScopeSettingsWrite "scope_settings_write",
    ScopeCalendarsRead "scope_calendars_read",
    ScopeCalendarsWrite "scope_calendars_write",
    ScopeCalendarsReadShared "scope_calendars_read_shared",
    ScopeCalendarsWriteShared "scope_calendars_write_shared",
    ScopeContactsRead "scope_contacts_read",
    ScopeContactsWrite "scope_contacts_write",
    ScopeImap "scope_imap",
    ScopePop "scope_pop",
    ConnectedTitle "connected_title",
    ConnectedAs "connected_as",
    Connected "connected",
    WasConnectedTitle "was_connected_title",
    WasConnected "was_connected",
    WaitingTitle "waiting_title",
    SignedInAs "signed_in_as",
    SignedIn "signed_in",
    Waiting "waiting",
    WaitingHere "waiting_here",
    DeclinedTitle "declined_title",
    Declined "declined",
    DeclinedNext "declined_next",
    EndedTitle "ended_title",
    Ended "ended",
    EndedNext "ended_next",
    NotAllowedTitle "not_allowed_title",
    NotAllowed "not_allowed",
    NotAllowedNext "not_allowed_next",
    SetUpTitle "set_up_title",
    SetUp "set_up",
    SetUpNext "set_up_next",
    NotCompletedTitle "not_completed_title",
    NotCompleted "not_completed",
    NotCompletedPasses "not_completed_passes",
    AnotherAccountTitle "another_account_title",
    CameBack "came_back",
    AnotherAccount "another_account",
    AnotherAccountNext "another_account_next",
    ApprovalTitle "approval_title",
    Approval "approval",
    ApprovalSend "approval_send",
    ApprovalLink "approval_link",
    ApprovalCopy "approval_copy",
    ApprovalCopied "approval_copied",
    ApprovalMail "approval_mail",
    ApprovalMailSubject "approval_mail_subject",
    ApprovalMailBody "approval_mail_body",
    ApprovalMailWhy "approval_mail_why",
    ApprovalMailSupport "approval_mail_support",
    ScopeMissingTitle "scope_missing_title",
    ScopeMissing "scope_missing",
    ScopeMissingNext "scope_missing_next",
    TenantTitle "tenant_title",
    Tenant "tenant",
    TenantNext "tenant_next",
    ExpiredTitle "expired_title",
    Expired "expired",
    PausedTitle "paused_title",
    Paused "paused",
    PausedNext "paused_next",
    ForbiddenTitle "forbidden_title",
    Forbidden "forbidden",
    ForbiddenNext "forbidden_next",
    WithdrawnTitle "withdrawn_title",
    Withdrawn "withdrawn",
    WithdrawnNext "withdrawn_next",
    InternalTitle "internal_title",
    Internal "internal",
    InternalNext "internal_next",
    ApprovedTitle "approved_title",
    Approved "approved",
    Close "close",
    ApprovalWithdrawn "approval_withdrawn",
    ApprovalWithdrawnNext "approval_withdrawn_next",
    NotApprovedTitle "not_approved_title",
    NotApproved "not_approved",
    NotApprovedNext "not_approved_next",
    NotFoundTitle "not_found_title",
    NotFound "not_found",
    NotUnderstoodTitle "not_understood_title",
    NotUnderstood "not_understood",
    TooManyParameters "too_many_parameters",
    LinkGoneTitle "link_gone_title",
    LinkGone "link_gone",
    OverTitle "over_title",
    Over "over",
    UsedTitle "used_title",
    Used "used",
    BrowsersTitle "browsers_title",
    Browsers "browsers",
    CookiesTitle "cookies_title",
    Cookies "cookies",
    CookiesNext "cookies_next",
    AheadTitle "ahead_title",
    Ahead "ahead",
    UnderWayTitle "under_way_title",
    UnderWay "under_way",
    UnderWayNext "under_way_next",
    AnotherBrowserTitle "another_browser_title",
    AnotherBrowser "another_browser",
    AnotherBrowserNext "another_browser_next",
    TooOftenTitle "too_often_title",
    TooOften "too_often",
    TooOftenNext "too_often_next",
    ElsewhereTitle "elsewhere_title",
    Elsewhere "elsewhere",
    LaterTitle "later_title",
    Later "later",
    CrowdedTitle "crowded_title",
    Crowded "crowded",
    OperatorTitle "operator_title",
    Operator "operator",
    HomeTitle "home_title",
    Home "home",
    HomeNext "home_next",
    HomeOpen "home_open",
    RedirectTitle "redirect_title",
}

/// The direction in which a language is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Direction {
    /// From left to right.
    LeftToRight,
    /// From right to left.
    RightToLeft,
}

/// A language: its tag, its direction, and all texts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Language {
    /// The tag of BCP 47, as the attribute `lang` has it.
    pub(super) tag: String,
    pub(super) direction: Direction,
    /// In the order of [`Text::ALL`].
    texts: Vec<String>,
    /// What an app wants accounts for, by its name.
    purposes: BTreeMap<String, String>,
}

impl Language {
    /// Returns a text, with its words in braces not filled in.
    pub(super) fn raw(&self, text: Text) -> &str {
        &self.texts[text as usize]
    }

    /// Returns what an app wants accounts for, if this language says it.
    pub(super) fn purpose(&self, app: &str) -> Option<&str> {
        self.purposes.get(app).map(String::as_str)
    }

    /// Returns a text with its words filled in. A value is not looked through for further words.
    pub(super) fn filled(&self, text: Text, value: &dyn Fn(&str) -> Option<String>) -> String {
        let mut filled = String::new();
        let mut rest = self.raw(text);
        while let Some((before, after)) = rest.split_once('{') {
            filled.push_str(before);
            match after.split_once('}').and_then(|(word, rest)| Some((value(word)?, rest))) {
                Some((value, behind)) => {
                    filled.push_str(&value);
                    rest = behind;
                }
                None => {
                    filled.push('{');
                    rest = after;
                }
            }
        }
        filled.push_str(rest);
        filled
    }
}

/// What was read of a language's file.
#[derive(Debug)]
pub(super) struct Read {
    pub(super) language: Language,
    /// The texts that it lacks.
    pub(super) missing: Vec<&'static str>,
}

/// Reads a language's file. What it lacks is taken from `fallback`, of which only English has none.
pub(super) fn read(tag: &str, file: &str, fallback: Option<&Language>) -> Result<Read, Vec<String>> {
    if !is_tag(tag) {
        return Err(vec![format!(
            "{tag:?} is no language tag: name the file like `fr.toml` or `pt-BR.toml`"
        )]);
    }
    let mut table = toml::Table::from_str(file).map_err(|error| vec![error.message().to_owned()])?;
    let mut mistakes = Vec::new();
    let direction = match table.remove("direction") {
        None => Direction::LeftToRight,
        Some(toml::Value::String(word)) if word == "ltr" => Direction::LeftToRight,
        Some(toml::Value::String(word)) if word == "rtl" => Direction::RightToLeft,
        Some(_) => {
            mistakes.push("direction must be \"ltr\" or \"rtl\"".to_owned());
            Direction::LeftToRight
        }
    };
    let mut given = match table.remove("texts") {
        Some(toml::Value::Table(texts)) => texts,
        None => toml::Table::new(),
        Some(_) => {
            mistakes.push("texts must be a table".to_owned());
            toml::Table::new()
        }
    };
    let mut purposes = BTreeMap::new();
    match table.remove("purposes") {
        None => {}
        Some(toml::Value::Table(given)) => {
            for (app, said) in given {
                match said {
                    toml::Value::String(said) if is_sentence(&said) => {
                        purposes.insert(app, said);
                    }
                    _ => mistakes.push(format!(
                        "purposes.{app} must be a text of 1 to {LONGEST_PURPOSE} characters on one line"
                    )),
                }
            }
        }
        Some(_) => mistakes.push("purposes must be a table: a sentence for each app".to_owned()),
    }
    mistakes.extend(
        table.keys().map(|key| format!("{key} is not a key here: there are direction, texts and purposes")),
    );
    let (mut texts, mut missing) = (Vec::with_capacity(Text::ALL.len()), Vec::new());
    for (text, key) in Text::ALL {
        let english = fallback.map(|language| language.raw(*text));
        match given.remove(*key) {
            Some(toml::Value::String(said)) if !said.trim().is_empty() && said.len() <= LONGEST => {
                if let Some(word) = english.and_then(|english| unknown_word(&said, english)) {
                    mistakes.push(format!("texts.{key} has {{{word}}}, which is not filled in there"));
                }
                texts.push(said);
            }
            Some(_) => mistakes.push(format!("texts.{key} must be a text of 1 to {LONGEST} bytes")),
            None => {
                missing.push(*key);
                texts.push(english.unwrap_or_default().to_owned());
            }
        }
    }
    mistakes.extend(given.keys().map(|key| format!("texts.{key} is not a text of the pages")));
    match mistakes.is_empty() {
        true => Ok(Read { language: Language { tag: tag.to_owned(), direction, texts, purposes }, missing }),
        false => Err(mistakes),
    }
}

/// Returns true for one line of as many characters as `purpose` may have in the configuration.
fn is_sentence(said: &str) -> bool {
    !said.trim().is_empty() && said.chars().count() <= LONGEST_PURPOSE && !said.chars().any(char::is_control)
}

/// Returns a word in braces that `english` does not have.
fn unknown_word<'a>(said: &'a str, english: &str) -> Option<&'a str> {
    let known: BTreeMap<&str, ()> = words(english).map(|word| (word, ())).collect();
    words(said).find(|word| !known.contains_key(word))
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split('{').skip(1).filter_map(|rest| rest.split_once('}')).map(|(word, _)| word)
}

/// Returns true for a tag such as `de`, `pt-BR` or `zh-Hant`: letters and digits in parts.
fn is_tag(tag: &str) -> bool {
    let mut parts = tag.split('-');
    let is_part =
        |part: &str| (1..=8).contains(&part.len()) && part.bytes().all(|byte| byte.is_ascii_alphanumeric());
    let first = parts.next().unwrap_or_default();
    (2..=3).contains(&first.len())
        && first.bytes().all(|byte| byte.is_ascii_alphabetic())
        && parts.all(is_part)
        && tag.len() <= 35
}

#[cfg(test)]
mod tests {
    use super::*;

    const ENGLISH: &str = include_str!("languages/en.toml");
    const GERMAN: &str = include_str!("languages/de.toml");

    fn english() -> Language {
        read("en", ENGLISH, None).unwrap_or_else(|bad| panic!("{bad:?}")).language
    }

    #[test]
    fn both_languages_have_every_text_with_the_same_words() {
        let first = read("en", ENGLISH, None).unwrap_or_else(|bad| panic!("{bad:?}"));
        assert_eq!(first.missing, [""; 0]);
        let german = read("de", GERMAN, Some(&first.language)).unwrap_or_else(|bad| panic!("{bad:?}"));
        assert_eq!(german.missing, [""; 0]);
        for (text, key) in Text::ALL {
            let of = |language: &Language| {
                let mut words: Vec<String> = words(language.raw(*text)).map(str::to_owned).collect();
                words.sort();
                words.dedup();
                words
            };
            assert_eq!(of(&first.language), of(&german.language), "{key}");
        }
    }

    /// A text that no page says is one that people translate for nothing.
    #[test]
    fn every_text_is_said_somewhere() {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/public");
        let files = std::fs::read_dir(folder).expect("the room").map(|entry| entry.expect("a file").path());
        let is_code = |path: &std::path::PathBuf| path.extension().is_some_and(|end| end == "rs");
        let code: String = files
            .filter(|path| is_code(path) && !path.ends_with("text.rs"))
            .map(|path| std::fs::read_to_string(path).expect("the file"))
            .map(|file| file.split("#[cfg(test)]").next().unwrap_or_default().to_owned())
            .collect();
        let said: std::collections::BTreeSet<&str> = code
            .split("Text::")
            .skip(1)
            .filter_map(|rest| rest.split(|c: char| !c.is_ascii_alphanumeric()).next())
            .collect();
        let names = Text::ALL.iter().map(|(text, _)| format!("{text:?}"));
        let left: Vec<String> = names.filter(|name| !said.contains(name.as_str())).collect();
        assert_eq!(left, [""; 0], "no page says these");
    }

    #[test]
    fn a_file_may_lack_texts_and_has_no_others() {
        let read_it = |file: &str| read("fr", file, Some(&english()));
        let read = read_it("direction = \"rtl\"\n[texts]\nback = \"Retour : {app}\"\n").expect("read");
        assert_eq!(read.language.direction, Direction::RightToLeft);
        assert_eq!(read.language.raw(Text::Back), "Retour : {app}");
        assert_eq!(read.language.raw(Text::ConnectedTitle), english().raw(Text::ConnectedTitle));
        assert_eq!(read.missing.len(), Text::ALL.len() - 1);
        let rows = [
            ("direction = \"up\"", "direction must be"),
            ("[texts]\nbak = \"x\"", "texts.bak is not a text"),
            ("[texts]\nback = \"{name}\"", "texts.back has {name}, which is not filled in"),
            ("[texts]\nback = 1", "texts.back must be a text"),
            ("[texts]\nback = \"\"", "texts.back must be a text"),
            ("text = 1", "text is not a key here"),
            ("texts = 1", "texts must be a table"),
        ];
        for (file, problem) in rows {
            let mistakes = read_it(file).expect_err(file);
            assert!(mistakes.iter().any(|said| said.contains(problem)), "{file}: {mistakes:?}");
        }
        assert!(super::read("../fr", "", Some(&english())).is_err());
    }

    #[test]
    fn words_are_filled_in_once() {
        let language = Language { texts: vec!["a {app} {x} {".to_owned()], ..english() };
        let value = |word: &str| (word == "app").then(|| "{app}<".to_owned());
        assert_eq!(language.filled(Text::MicrosoftAccount, &value), "a {app}< {x} {");
    }
}
