//! The pages for people: what happened, what to do, whom to ask. There is one template, no script, and one
//! inline style sheet that is allowed by its hash.

use askama::Template;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderValue, StatusCode};

use crate::broker::SessionFailure;
use crate::broker::sign_in::CallbackProblem;

const SHEET: &str = "body{font:17px/1.55 system-ui,sans-serif;color:#1b1b1f;background:#f5f5f7;margin:0}\
main{max-width:34rem;margin:8vh auto;padding:2rem 2.25rem;background:#fff;border-radius:12px;\
box-shadow:0 1px 6px #0002}\
h1{font-size:1.4rem;margin:0 0 1rem}h2{font-size:1rem;margin:1.25rem 0 .25rem}\
ul{margin:.25rem 0 1rem;padding-left:1.2rem}\
button,a.go{display:inline-block;font:inherit;background:#0b57d0;color:#fff;border:0;border-radius:8px;\
padding:.7rem 1.2rem;margin:.75rem 0;text-decoration:none;cursor:pointer}\
code{display:block;overflow-wrap:anywhere;background:#f0f1f4;border-radius:8px;padding:.75rem;\
font-size:.85rem;user-select:all}\
.ask{color:#555;font-size:.92rem}\
@media(prefers-color-scheme:dark){body{background:#17171a;color:#e8e8ea}main{background:#222226}\
code{background:#2d2d33}.ask{color:#aaa}}";

/// The style sheet, and the policy that allows only it.
pub(super) struct Style {
    sheet: &'static str,
    pub(super) policy: HeaderValue,
}

impl Style {
    pub(super) fn new() -> Self {
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, SHEET.as_bytes());
        let hash = STANDARD.encode(digest.as_ref());
        // The policy must also allow the target of a form's redirect: the button leads to the authority.
        let policy = format!(
            "default-src 'none'; style-src 'sha256-{hash}'; form-action 'self' https: http://127.0.0.1:* \
             http://localhost:*; frame-ancestors 'none'; base-uri 'none'"
        );
        Style { sheet: SHEET, policy: HeaderValue::from_str(&policy).expect("the policy is ASCII") }
    }
}

/// One page.
#[derive(Default)]
pub(super) struct Page {
    title: String,
    paragraphs: Vec<String>,
    list_title: String,
    list: Vec<String>,
    copy_title: String,
    copy: Option<String>,
    button: Option<(String, String)>,
    links: Vec<(String, String)>,
    contact: Option<String>,
    support: Option<String>,
}

#[derive(Template)]
#[template(
    ext = "html",
    source = r#"<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1"><meta name="robots" content="noindex"><title>{{ page.title }}</title><style>{{ sheet|safe }}</style></head>
<body><main><h1>{{ page.title }}</h1>
{% for paragraph in page.paragraphs %}<p>{{ paragraph }}</p>
{% endfor %}{% if !page.list.is_empty() %}<h2>{{ page.list_title }}</h2><ul>{% for item in page.list %}<li>{{ item }}</li>{% endfor %}</ul>
{% endif %}{% if let Some(copy) = page.copy %}<h2>{{ page.copy_title }}</h2><code>{{ copy }}</code>
{% endif %}{% if let Some((label, action)) = page.button %}<form method="post" action="{{ action }}"><button type="submit">{{ label }}</button></form>
{% endif %}{% for (label, href) in page.links %}<p><a class="go" rel="noreferrer" href="{{ href }}">{{ label }}</a></p>
{% endfor %}{% if let Some(contact) = page.contact %}<p class="ask">Questions? Ask {{ contact }}.</p>
{% endif %}{% if let Some(support) = page.support %}<p class="ask">For whoever helps you: {{ support }}</p>
{% endif %}</main></body></html>
"#
)]
struct PageTemplate<'a> {
    page: &'a Page,
    sheet: &'static str,
}

impl Page {
    pub(super) fn new(title: impl Into<String>) -> Self {
        Page { title: title.into(), ..Page::default() }
    }

    pub(super) fn say(mut self, paragraph: impl Into<String>) -> Self {
        self.paragraphs.push(paragraph.into());
        self
    }

    pub(super) fn list(mut self, title: &str, items: Vec<String>) -> Self {
        self.list_title = title.to_owned();
        self.list = items;
        self
    }

    pub(super) fn button(mut self, label: &str, action: String) -> Self {
        self.button = Some((label.to_owned(), action));
        self
    }

    pub(super) fn link(mut self, label: String, href: String) -> Self {
        self.links.push((label, href));
        self
    }

    pub(super) fn offer_copy(mut self, title: &str, text: String) -> Self {
        self.copy_title = title.to_owned();
        self.copy = Some(text);
        self
    }

    pub(super) fn contact(mut self, contact: Option<String>) -> Self {
        self.contact = contact;
        self
    }

    /// Adds what a helper needs: the authority's checked words, and a reference that the log has too.
    pub(super) fn for_support(mut self, failure: &SessionFailure, reference: &str) -> Self {
        let numbers = failure.answer.error_codes.iter().map(|code| format!("AADSTS{code}"));
        let words = failure.answer.error.clone().into_iter().chain(numbers);
        self.support = Some(words.chain([reference.to_owned()]).collect::<Vec<_>>().join(", "));
        self
    }

    pub(super) fn html(&self, style: &Style) -> String {
        PageTemplate { page: self, sheet: style.sheet }.render().expect("writing to a string does not fail")
    }

    pub(super) fn not_found() -> Self {
        Page::new("There is nothing here").say(
            "The address is not one of this service's. Open the link you were given again, or ask for \
                a new one.",
        )
    }

    pub(super) fn not_understood() -> Self {
        Page::new("That did not work")
            .say("What came back from the sign-in is not complete, so nothing was done with it.")
            .say(
                "Go back to the application you came from. It shows whether your account is connected; if \
                it is not, start again there.",
            )
    }

    pub(super) fn too_many_parameters() -> Self {
        Page::new("That did not work")
            .say(
                "This address was opened with more than a sign-in sends, so nothing of it was read and \
                nothing was done.",
            )
            .say(
                "Go back to the application you came from. It shows whether your account is connected; if \
                it is not, start again there.",
            )
    }

    pub(super) fn link_gone() -> Self {
        Page::new("This link does not work any more")
            .say("Connect links are for one use and for a short time. Opening this one again did nothing.")
            .say(
                "Go back to the application you came from. It shows whether your account is connected; if \
                it is not, ask for a new link there.",
            )
    }

    pub(super) fn already_used() -> Self {
        Page::new("This link was used already").say(
            "The sign-in it was made for is done. Go back to the application you came from: it shows \
                whether your account is connected.",
        )
    }

    pub(super) fn only_for_browsers() -> Self {
        Page::new("This address is for a browser")
            .say("It cannot be used in another way than by opening it. Nothing was done.")
    }

    pub(super) fn too_many_cookies(host: &str) -> Self {
        Page::new("Your browser sent too much")
            .say(format!(
                "It sent more than this service can read. Nearly always that is cookies which \
                other pages have left for {host} or the domain it is in."
            ))
            .say(format!(
                "Delete the cookies of {host} and of its domain in your browser's settings, or use \
                a private window. Then go back to the application you came from and start again."
            ))
    }

    pub(super) fn opened_ahead() -> Self {
        Page::new("Not opened yet").say(
            "This page was asked for by a program that looks ahead, so nothing was done. Open it to go on.",
        )
    }

    pub(super) fn under_way() -> Self {
        Page::new("Just a moment")
            .say("Your sign-in is still being completed. Reload this page in a few seconds.")
            .say("If this does not end, go back to the application you came from and start again.")
    }

    pub(super) fn another_browser() -> Self {
        Page::new("This link was opened in another browser")
            .say("A connect link belongs to the browser that used it first. Nothing was changed here.")
            .say("Go on in that browser, or go back to the application you came from and ask for a new link.")
    }

    pub(super) fn pressed_too_often() -> Self {
        Page::new("This link was used too often")
            .say("Its button has been pressed more often than a sign-in takes. Nothing was changed.")
            .say("Go back to the application you came from and ask for a new link.")
    }

    pub(super) fn link_from_elsewhere() -> Self {
        Page::new("This request came from another site")
            .say("Nothing was changed. Open the link you were given and press its button.")
    }

    pub(super) fn try_again_later() -> Self {
        Page::new("Please try again in a minute").say(
            "The sign-in service or our own storage does not answer right now. Nothing was changed, \
                and your link still works.",
        )
    }

    pub(super) fn crowded() -> Self {
        Page::new("Please reload this page in a few seconds").say(
            "Many people are signing in at once, and your turn has not come yet. Nothing was changed: \
                reload this page, and your sign-in goes on.",
        )
    }

    pub(super) fn operator_must_act() -> Self {
        Page::new("Connecting is not possible right now").say(
            "The sign-in service does not accept this application at the moment. That is not your \
                account's fault: the people who run this service have to mend it. Your link still works \
                once they have.",
        )
    }

    pub(super) fn approval_noted() -> Self {
        Page::new("Thank you")
            .say(
                "Your answer came back. If you approved, the people in your organisation can connect their \
                accounts now; connections that were waiting are tried again by themselves.",
            )
            .say("You can close this page.")
    }

    pub(super) fn of_callback_problem(problem: &CallbackProblem, admin: bool) -> (StatusCode, Self) {
        match problem {
            // An administrator's link from an error page belongs to no session, but its answer is valid.
            CallbackProblem::UnknownState if admin => (StatusCode::OK, Page::approval_noted()),
            CallbackProblem::UnknownState => (StatusCode::BAD_REQUEST, Page::link_gone()),
            CallbackProblem::AnotherBrowser => (StatusCode::FORBIDDEN, Page::another_browser()),
            CallbackProblem::MixedUp => (StatusCode::BAD_REQUEST, Page::not_understood()),
            CallbackProblem::UnderWay => (StatusCode::ACCEPTED, Page::under_way()),
            CallbackProblem::Crowded => (StatusCode::SERVICE_UNAVAILABLE, Page::crowded()),
            CallbackProblem::Unavailable => (StatusCode::SERVICE_UNAVAILABLE, Page::try_again_later()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::FailureReason;

    #[test]
    fn what_comes_from_outside_is_escaped() {
        let evil = "<script>alert(1)</script>\"'&";
        let page = Page::new(evil)
            .say(evil)
            .list(evil, vec![evil.to_owned()])
            .button(evil, evil.to_owned())
            .link(evil.to_owned(), evil.to_owned())
            .offer_copy(evil, evil.to_owned())
            .contact(Some(evil.to_owned()))
            .for_support(&FailureReason::Internal.into(), evil);
        let html = page.html(&Style::new());
        assert!(!html.contains("<script") && !html.contains("\"'&"), "{html}");
    }

    #[test]
    fn the_policy_lets_no_script_and_no_frame_in() {
        let policy = Style::new().policy;
        let policy = policy.to_str().expect("text");
        assert!(policy.starts_with("default-src 'none'") && policy.contains("frame-ancestors 'none'"));
        assert!(!policy.contains("script-src") && !policy.contains("unsafe"));
    }
}
