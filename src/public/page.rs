//! The pages for people: what happened, what to do, whom to ask. A page names its texts; they are put into the
//! reader's language when it is written. There is one template, one inline style sheet that is allowed by its
//! hash, and on one page one script for a button that copies, allowed by its hash, too.

use askama::Template;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderValue, StatusCode};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use super::look::{Look, support_link};
use super::scopes::{Asked, in_words};
use super::text::{Direction, Language, Text};
use crate::broker::sign_in::CallbackProblem;
use crate::broker::{App, SessionFailure};
use crate::domain::id::AppName;
use crate::domain::reference;
use crate::domain::scope::ScopeNaming;
use crate::domain::time::Timestamp;

const SHEET: &str = include_str!("page.css");
const COPY: &str = include_str!("copy.js");

/// The style sheet and the script, and the policies that allow only them.
pub(super) struct Style {
    sheet: &'static str,
    policy: HeaderValue,
    policy_with_copy: HeaderValue,
}

impl Style {
    pub(super) fn new() -> Self {
        let hash = |text: &str| {
            STANDARD.encode(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, text.as_bytes()).as_ref())
        };
        // The policy must also allow the target of a form's redirect: the button leads to the authority.
        let policy = format!(
            "default-src 'none'; style-src 'sha256-{}'; img-src 'self'; form-action 'self' https: \
             http://127.0.0.1:* http://localhost:*; frame-ancestors 'none'; base-uri 'none'",
            hash(SHEET)
        );
        let policy_with_copy = format!("{policy}; script-src 'sha256-{}'", hash(COPY));
        let header = |policy: &str| HeaderValue::from_str(policy).expect("the policy is ASCII");
        Style { sheet: SHEET, policy: header(&policy), policy_with_copy: header(&policy_with_copy) }
    }

    /// The policy for a page.
    pub(super) fn policy(&self, page: &Page) -> HeaderValue {
        if page.approval.is_some() { &self.policy_with_copy } else { &self.policy }.clone()
    }
}

/// What a page is, at a glance.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Mark {
    /// Nothing has happened yet.
    #[default]
    None,
    /// It is done.
    Good,
    /// It is not done yet.
    Waiting,
    /// It did not work.
    Bad,
}

/// What a page says about an app.
#[derive(Debug, Clone, Default)]
pub(super) struct About {
    /// Its name in the configuration.
    name: String,
    /// Its name for people.
    app: Option<String>,
    is_microsoft: bool,
    purpose: Option<String>,
    support: Option<String>,
    scopes: Vec<String>,
}

impl About {
    pub(super) fn new(name: &AppName, app: &App) -> Self {
        About {
            name: name.to_string(),
            app: app.display_name.clone(),
            is_microsoft: matches!(app.naming(), ScopeNaming::Entra { .. }),
            purpose: app.purpose.clone(),
            support: app.support_contact.clone(),
            scopes: app.scopes.to_words(),
        }
    }

    /// What several apps have in common.
    pub(super) fn of_all(mut all: impl Iterator<Item = About>) -> Self {
        let Some(first) = all.next() else { return About::default() };
        all.fold(first, |common, other| About {
            name: String::new(),
            app: common.app.filter(|app| Some(app) == other.app.as_ref()),
            is_microsoft: common.is_microsoft && other.is_microsoft,
            purpose: None,
            support: common.support.filter(|support| Some(support) == other.support.as_ref()),
            scopes: Vec::new(),
        })
    }

    /// What it wants accounts for, in the reader's language if that says it.
    pub(super) fn purpose(&self, language: &Language) -> Option<String> {
        language.purpose(&self.name).map(str::to_owned).or_else(|| self.purpose.clone())
    }

    pub(super) fn is_microsoft(&self) -> bool {
        self.is_microsoft
    }
}

/// Which request and when, so that whoever helps finds it in log and audit.
#[derive(Debug, Clone)]
pub(super) struct Reference {
    pub(super) request_id: String,
    pub(super) at: Timestamp,
}

impl Reference {
    /// The request's reference, and the time.
    fn words(&self) -> [String; 2] {
        let at = self.at.rfc3339();
        let minute = at.get(..16).unwrap_or(&at).replace('T', " ");
        [reference::shown(&self.request_id), format!("{minute} UTC")]
    }
}

/// A line of a page.
#[derive(Debug, Clone)]
enum Line {
    Text(Text),
    Plain(String),
}

/// A link of a page.
#[derive(Debug, Clone)]
struct Link {
    label: Text,
    /// The app in its label, if that is another than the page's.
    app: Option<String>,
    href: String,
}

/// One page.
#[derive(Default)]
pub(super) struct Page {
    title: Option<Text>,
    mark: Mark,
    lines: Vec<Line>,
    list: Option<(Text, Vec<Asked>)>,
    note: Option<Text>,
    approval: Option<String>,
    button: Option<(Text, String)>,
    links: Vec<Link>,
    values: Vec<(&'static str, String)>,
    about: Option<About>,
    has_reference: bool,
    reference: Option<Reference>,
    codes: Vec<String>,
    reload: Option<u32>,
}

/// For whom and by whom a page is written.
pub(super) struct Writing<'a> {
    pub(super) style: &'a Style,
    pub(super) look: &'a Look,
    pub(super) language: &'a Language,
    /// The host of the base URL: the name of last resort.
    pub(super) host: &'a str,
    pub(super) base_url: &'a str,
    /// What the page is about if it does not say.
    pub(super) about: &'a About,
    /// The request that is answered.
    pub(super) reference: &'a Reference,
}

#[derive(Template)]
#[template(
    ext = "html",
    source = r#"<!doctype html>
<html lang="{{ tag }}"{% if rtl %} dir="rtl"{% endif %}><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1"><meta name="robots" content="noindex"><title>{{ title }} · {{ speaker }}</title><style>{{ sheet|safe }}</style></head>
<body><header>{% if let Some(logo) = logo %}<img src="{{ logo }}" alt="{{ speaker }}" height="40">{% else %}{{ speaker }}{% endif %}</header>
<main>{% if !mark.is_empty() %}<p class="mark {{ mark }}" aria-hidden="true">{{ sign }}</p>
{% endif %}<h1>{{ title }}</h1>
{% for line in lines %}<p>{{ line }}</p>
{% endfor %}{% if let Some((title, items)) = list %}<h2>{{ title }}</h2>
<ul>{% for item in items %}<li>{{ item }}</li>{% endfor %}</ul>
{% endif %}{% if let Some(note) = note %}<p class="note">{{ note }}</p>
{% endif %}{% if let Some(approval) = approval %}<p><a class="go" href="{{ approval.mail }}">{{ approval.write }}</a></p>
<h2>{{ approval.title }}</h2>
<p><button class="less" type="button" hidden data-done="{{ approval.copied }}">{{ approval.copy }}</button></p>
<p><code>{{ approval.link }}</code></p>
{% endif %}{% if let Some((label, action)) = button %}<form method="post" action="{{ action }}"><button type="submit">{{ label }}</button></form>
{% endif %}{% for (label, href) in links %}<p><a class="go{% if !loop.first || less %} less{% endif %}" rel="noreferrer" href="{{ href }}">{{ label }}</a></p>
{% endfor %}{% if let Some(support) = support_line %}<p class="ask">{{ support }}</p>
{% endif %}</main>
<footer>{% if let Some((questions, support, href)) = contact %}<p>{{ questions }} {% if let Some(href) = href %}<a href="{{ href }}">{{ support }}</a>{% else %}{{ support }}{% endif %}</p>
{% endif %}<p>{{ host }}</p></footer>{% if let Some(script) = script %}<script>{{ script|safe }}</script>{% endif %}</body></html>
"#
)]
struct PageTemplate<'a> {
    tag: &'a str,
    rtl: bool,
    title: String,
    speaker: &'a str,
    sheet: &'static str,
    logo: Option<String>,
    mark: &'static str,
    sign: &'static str,
    lines: Vec<String>,
    list: Option<(String, Vec<String>)>,
    note: Option<String>,
    approval: Option<Approval>,
    button: Option<(String, &'a str)>,
    links: Vec<(String, &'a str)>,
    /// True if a button above is more important than the links.
    less: bool,
    support_line: Option<String>,
    contact: Option<(String, &'a str, Option<String>)>,
    host: &'a str,
    script: Option<&'static str>,
}

/// What a user sends to an administrator.
struct Approval {
    mail: String,
    write: String,
    title: String,
    link: String,
    copy: String,
    copied: String,
}

impl Page {
    pub(super) fn new(title: Text) -> Self {
        Page { title: Some(title), ..Page::default() }
    }

    /// Makes a page about something that did not work. It shows a reference, so the request must be in the
    /// log.
    pub(super) fn problem(title: Text) -> Self {
        Page { mark: Mark::Bad, has_reference: true, ..Page::new(title) }
    }

    pub(super) fn mark(mut self, mark: Mark) -> Self {
        self.mark = mark;
        self
    }

    pub(super) fn say(mut self, text: Text) -> Self {
        self.lines.push(Line::Text(text));
        self
    }

    pub(super) fn say_plain(mut self, words: Option<String>) -> Self {
        self.lines.extend(words.map(Line::Plain));
        self
    }

    pub(super) fn list(mut self, title: Text, items: Vec<Asked>) -> Self {
        self.list = Some((title, items));
        self
    }

    pub(super) fn note(mut self, note: Text) -> Self {
        self.note = Some(note);
        self
    }

    pub(super) fn button(mut self, label: Text, action: String) -> Self {
        self.button = Some((label, action));
        self
    }

    pub(super) fn link(mut self, label: Text, href: String) -> Self {
        self.links.push(Link { label, app: None, href });
        self
    }

    pub(super) fn link_to(mut self, label: Text, app: Option<String>, href: String) -> Self {
        self.links.push(Link { label, app, href });
        self
    }

    /// Offers an administrator's link, in a mail and to copy.
    pub(super) fn approval(mut self, link: String) -> Self {
        self.approval = Some(link);
        self
    }

    /// Fills a word in braces in.
    pub(super) fn with(mut self, word: &'static str, value: impl Into<String>) -> Self {
        self.values.push((word, value.into()));
        self
    }

    pub(super) fn about(mut self, about: Option<About>) -> Self {
        self.about = about;
        self
    }

    /// Has the browser ask again after this many seconds.
    pub(super) fn reload(mut self, seconds: u32) -> Self {
        self.reload = Some(seconds);
        self
    }

    pub(super) fn reloads(&self) -> Option<u32> {
        self.reload
    }

    /// Adds what a helper needs: the authority's checked words, and the request in which it failed.
    pub(super) fn of_failure(mut self, failure: &SessionFailure) -> Self {
        let numbers = failure.answer.error_codes.iter().map(|code| format!("AADSTS{code}"));
        self.codes = failure.answer.error.clone().into_iter().chain(numbers).collect();
        self.reference = failure
            .noted
            .as_ref()
            .map(|noted| Reference { request_id: noted.request_id.clone(), at: noted.at });
        self
    }

    /// Leaves the reference out where the failure has none: the request that only shows it is in no log.
    pub(super) fn without_own_reference(mut self) -> Self {
        self.has_reference &= self.reference.is_some();
        self
    }

    /// Writes the page.
    pub(super) fn html(&self, writing: &Writing<'_>) -> String {
        let Writing { style, look, language, host, base_url, .. } = writing;
        let words = Words::new(self, writing);
        let say = |text: Text| words.say(text);
        let (mark, sign) = match self.mark {
            Mark::None => ("", ""),
            Mark::Good => ("good", "✓"),
            Mark::Waiting => ("waiting", "…"),
            Mark::Bad => ("bad", "!"),
        };
        let line = |line: &Line| match line {
            Line::Text(text) => say(*text),
            Line::Plain(words) => words.clone(),
        };
        let links = self.links.iter().map(|link| {
            let label = match &link.app {
                Some(app) => language.filled(link.label, &|word| (word == "app").then(|| app.clone())),
                None => say(link.label),
            };
            (label, link.href.as_str())
        });
        let contact = words.about.support.as_deref().or(look.support.as_deref());
        let page = PageTemplate {
            tag: &language.tag,
            rtl: language.direction == Direction::RightToLeft,
            title: self.title.map(say).unwrap_or_default(),
            speaker: look.company.as_deref().unwrap_or(host),
            sheet: style.sheet,
            logo: look.logo.is_some().then(|| format!("{base_url}/logo")),
            mark,
            sign,
            lines: self.lines.iter().map(line).collect(),
            list: self.list.as_ref().map(|(title, items)| {
                (say(*title), items.iter().map(|asked| words.permission(asked)).collect())
            }),
            note: self.note.map(say),
            approval: self.approval.as_deref().map(|link| words.approval(link, contact)),
            button: self.button.as_ref().map(|(label, action)| (say(*label), action.as_str())),
            links: links.collect(),
            less: self.button.is_some() || self.approval.is_some(),
            support_line: self.support_line(writing),
            contact: contact.map(|support| (say(Text::Questions), support, support_link(support))),
            host,
            script: self.approval.as_ref().map(|_| COPY),
        };
        page.render().expect("writing to a string does not fail")
    }

    fn support_line(&self, writing: &Writing<'_>) -> Option<String> {
        if !self.has_reference {
            return None;
        }
        let reference = self.reference.as_ref().unwrap_or(writing.reference).words();
        let words: Vec<&str> = reference.iter().chain(&self.codes).map(String::as_str).collect();
        Some(format!("{} {}", writing.language.raw(Text::ForSupport), words.join(", ")))
    }
}

/// A page's texts, with their words filled in.
struct Words<'a> {
    page: &'a Page,
    writing: &'a Writing<'a>,
    about: &'a About,
    app: &'a str,
}

impl<'a> Words<'a> {
    fn new(page: &'a Page, writing: &'a Writing<'a>) -> Self {
        let about = page.about.as_ref().unwrap_or(writing.about);
        let company = writing.look.company.as_deref();
        let app = about.app.as_deref().or(company).unwrap_or(writing.host);
        Words { page, writing, about, app }
    }

    fn say(&self, text: Text) -> String {
        self.filled(text, &[])
    }

    fn filled(&self, text: Text, more: &[(&str, &str)]) -> String {
        let language = self.writing.language;
        let or_microsoft = |other: Text| match self.about.is_microsoft {
            true => "Microsoft".to_owned(),
            false => language.raw(other).to_owned(),
        };
        language.filled(text, &|word| {
            if let Some((_, value)) = more.iter().find(|(known, _)| *known == word) {
                return Some((*value).to_owned());
            }
            if let Some((_, value)) = self.page.values.iter().find(|(known, _)| *known == word) {
                return Some(value.clone());
            }
            match word {
                "app" | "who" => Some(self.app.to_owned()),
                "host" => Some(self.writing.host.to_owned()),
                "provider" => Some(or_microsoft(Text::OtherProvider)),
                "the_provider" => Some(or_microsoft(Text::TheOtherProvider)),
                "account" if self.about.is_microsoft => Some(language.raw(Text::MicrosoftAccount).to_owned()),
                "account" => Some(language.raw(Text::OtherAccount).to_owned()),
                _ => None,
            }
        })
    }

    fn permission(&self, asked: &Asked) -> String {
        match asked {
            Asked::InWords(text) => self.say(*text),
            Asked::AsItIs(scope) => scope.clone(),
        }
    }

    /// An administrator wants the names of permissions beside the words.
    fn approval(&self, link: &str, contact: Option<&str>) -> Approval {
        let scopes = self.about.scopes.iter().map(|scope| match in_words(scope) {
            Asked::InWords(text) => format!("- {} ({scope})", self.say(text)),
            Asked::AsItIs(scope) => format!("- {scope}"),
        });
        let scopes = scopes.collect::<Vec<_>>().join("\n");
        let mut body = self.filled(Text::ApprovalMailBody, &[("scopes", &scopes), ("link", link)]);
        if let Some(purpose) = self.about.purpose(self.writing.language) {
            body.push('\n');
            body.push_str(&self.filled(Text::ApprovalMailWhy, &[("purpose", &purpose)]));
        }
        if let Some(support) = contact {
            body.push('\n');
            body.push_str(&self.filled(Text::ApprovalMailSupport, &[("support", support)]));
        }
        let encoded = |text: &str| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
        // RFC 6068: a line of a mail ends with both.
        let body = encoded(&body.replace('\n', "\r\n"));
        let subject = encoded(&self.say(Text::ApprovalMailSubject));
        Approval {
            mail: format!("mailto:?subject={subject}&body={body}"),
            write: self.say(Text::ApprovalMail),
            title: self.say(Text::ApprovalLink),
            link: link.to_owned(),
            copy: self.say(Text::ApprovalCopy),
            copied: self.say(Text::ApprovalCopied),
        }
    }
}

/// Pages about what cannot be opened, and other pages without a session.
impl Page {
    pub(super) fn not_found() -> Self {
        Page::new(Text::NotFoundTitle).mark(Mark::Bad).say(Text::NotFound)
    }

    pub(super) fn not_understood() -> Self {
        Page::problem(Text::NotUnderstoodTitle).say(Text::NotUnderstood).say(Text::GoBack)
    }

    pub(super) fn too_many_parameters() -> Self {
        Page::problem(Text::NotUnderstoodTitle).say(Text::TooManyParameters).say(Text::GoBack)
    }

    pub(super) fn link_gone() -> Self {
        Page::problem(Text::LinkGoneTitle).say(Text::LinkGone).say(Text::GoBack)
    }

    /// For a browser that knew the link: its sign-in may have worked.
    pub(super) fn over() -> Self {
        Page::problem(Text::OverTitle).say(Text::Over).say(Text::GoBack)
    }

    pub(super) fn already_used() -> Self {
        Page::problem(Text::UsedTitle).say(Text::Used)
    }

    pub(super) fn only_for_browsers() -> Self {
        Page::new(Text::BrowsersTitle).mark(Mark::Bad).say(Text::Browsers)
    }

    pub(super) fn too_many_cookies() -> Self {
        Page::new(Text::CookiesTitle).mark(Mark::Bad).say(Text::Cookies).say(Text::CookiesNext)
    }

    pub(super) fn opened_ahead() -> Self {
        Page::new(Text::AheadTitle).mark(Mark::Waiting).say(Text::Ahead)
    }

    pub(super) fn under_way() -> Self {
        let page = Page::new(Text::UnderWayTitle).mark(Mark::Waiting).reload(3);
        page.say(Text::UnderWay).say(Text::UnderWayNext)
    }

    pub(super) fn another_browser() -> Self {
        Page::problem(Text::AnotherBrowserTitle).say(Text::AnotherBrowser).say(Text::AnotherBrowserNext)
    }

    pub(super) fn pressed_too_often() -> Self {
        Page::problem(Text::TooOftenTitle).say(Text::TooOften).say(Text::TooOftenNext)
    }

    pub(super) fn link_from_elsewhere() -> Self {
        Page::problem(Text::ElsewhereTitle).say(Text::Elsewhere)
    }

    pub(super) fn try_again_later() -> Self {
        Page::problem(Text::LaterTitle).say(Text::Later)
    }

    pub(super) fn crowded() -> Self {
        Page::new(Text::CrowdedTitle).mark(Mark::Waiting).say(Text::Crowded)
    }

    pub(super) fn operator_must_act() -> Self {
        Page::problem(Text::OperatorTitle).say(Text::Operator)
    }

    pub(super) fn approval_noted() -> Self {
        Page::new(Text::ApprovedTitle).mark(Mark::Good).say(Text::Approved).say(Text::Close)
    }

    pub(super) fn of_callback_problem(problem: &CallbackProblem, admin: bool) -> (StatusCode, Self) {
        match problem {
            // An administrator's link from an error page belongs to no session, but its answer is valid.
            CallbackProblem::UnknownState if admin => (StatusCode::OK, Page::approval_noted()),
            CallbackProblem::UnknownState => (StatusCode::BAD_REQUEST, Page::over()),
            CallbackProblem::AnotherBrowser => (StatusCode::FORBIDDEN, Page::another_browser()),
            CallbackProblem::MixedUp => (StatusCode::BAD_REQUEST, Page::not_understood()),
            CallbackProblem::UnderWay => (StatusCode::ACCEPTED, Page::under_way()),
            CallbackProblem::Crowded => (StatusCode::SERVICE_UNAVAILABLE, Page::crowded()),
            CallbackProblem::Unavailable => (StatusCode::SERVICE_UNAVAILABLE, Page::try_again_later()),
        }
    }
}

#[cfg(test)]
pub(super) mod tests;
