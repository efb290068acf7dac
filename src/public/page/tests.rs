use super::*;
use crate::broker::{FailureReason, Noted};
use crate::listener::Pairs;

const EVIL: &str = "<script>alert(1)</script>\"'&{app}";

fn reference() -> Reference {
    Reference { request_id: "5f3a91c2ffffffff".into(), at: Timestamp::from_unix_seconds(1_796_028_000) }
}

pub(in crate::public) fn written(page: &Page, look: &Look, accepted: &str) -> String {
    let language = look.languages.choose(Some(accepted));
    let about = About { is_microsoft: true, ..About::default() };
    page.html(&Writing {
        style: &Style::new(),
        look,
        language: &language,
        host: "tokens.contoso.example",
        base_url: "https://tokens.contoso.example",
        about: &about,
        reference: &reference(),
    })
}

#[test]
fn what_comes_from_outside_is_escaped() {
    let text = || EVIL.to_owned();
    let about = About {
        name: "outlook".to_owned(),
        app: Some(text()),
        is_microsoft: true,
        purpose: Some(text()),
        support: Some(text()),
        scopes: vec![text()],
    };
    let look = Look { company: Some(text()), support: Some(text()), ..Look::default() };
    let failure = SessionFailure {
        noted: Some(Noted { request_id: text(), at: Timestamp::default() }),
        ..FailureReason::Internal.into()
    };
    for title in [Text::ConnectTitle, Text::CameBack, Text::Cookies] {
        let page = Page::problem(title)
            .say(Text::SignedInAs)
            .say_plain(Some(text()))
            .with("username", EVIL)
            .with("who", EVIL)
            .list(Text::ConnectList, vec![Asked::AsItIs(text())])
            .note(Text::ConnectAsks)
            .button(Text::Back, text())
            .link_to(Text::HomeOpen, Some(text()), text())
            .approval(text())
            .about(Some(about.clone()))
            .of_failure(&failure);
        let html = written(&page, &look, "en").replace(&format!("<script>{COPY}</script>"), "");
        assert!(!html.contains("<script") && !html.contains("\"'&"), "{html}");
    }
}

#[test]
fn the_policy_lets_no_script_but_the_copy_buttons_and_no_frame_in() {
    let style = Style::new();
    let of = |page: &Page| style.policy(page).to_str().expect("text").to_owned();
    let plain = of(&Page::not_found());
    assert!(plain.starts_with("default-src 'none'") && plain.contains("frame-ancestors 'none'"));
    assert!(!plain.contains("script-src") && !plain.contains("unsafe"));
    assert!(!written(&Page::not_found(), &Look::default(), "en").contains("<script"));
    let with_copy = of(&Page::new(Text::ApprovalTitle).approval("https://login.example/".into()));
    assert_eq!(with_copy.matches("script-src 'sha256-").count(), 1, "{with_copy}");
    assert!(with_copy.starts_with(&plain) && !with_copy.contains("unsafe"));
}

#[test]
fn a_page_is_in_its_readers_language_and_direction() {
    let mut look = Look::default();
    assert!(!look.languages.add("ar", "direction = \"rtl\"").is_empty());
    let page = Page::link_gone();
    for (accepted, begins, words) in [
        ("en", "<html lang=\"en\">", "This link does not work any more"),
        ("de-AT", "<html lang=\"de\">", "Dieser Link gilt nicht mehr"),
        ("ar", "<html lang=\"ar\" dir=\"rtl\">", "This link does not work any more"),
    ] {
        let html = written(&page, &look, accepted);
        assert!(html.contains(begins) && html.contains(words), "{accepted}: {html}");
    }
}

#[test]
fn a_problem_has_a_reference_and_a_time_and_those_of_the_request_in_which_it_failed() {
    let html = written(&Page::link_gone(), &Look::default(), "en");
    assert!(html.contains("For whoever helps you: 5F3A-91C2, 2026-11-30 08:40 UTC<"), "{html}");
    let mut failure = SessionFailure::from(FailureReason::AuthorityError);
    failure.answer.error_codes = vec![65004];
    failure.noted =
        Some(Noted { request_id: "00ab12cd00".into(), at: Timestamp::from_unix_seconds(1_796_000_000) });
    let html = written(&Page::problem(Text::EndedTitle).of_failure(&failure), &Look::default(), "en");
    assert!(html.contains(": 00AB-12CD, 2026-11-30 00:53 UTC, AADSTS65004<"), "{html}");
    assert!(!written(&Page::approval_noted(), &Look::default(), "en").contains("5F3A"));
}

#[test]
fn the_mail_for_an_administrator_says_what_is_asked_and_why() {
    let about = About {
        name: "outlook".to_owned(),
        app: Some("Contoso Mail".into()),
        is_microsoft: true,
        purpose: Some("Shows your calendar beside your tickets.".into()),
        support: Some("help@contoso.example".into()),
        scopes: vec!["Mail.Read".into(), "api://x/Files.Read".into()],
    };
    let link = "https://login.example/adminconsent?client_id=1&scope=a";
    let page = Page::new(Text::ApprovalTitle).approval(link.into()).about(Some(about));
    let html = written(&page, &Look::default(), "en");
    let mail = html.split("href=\"mailto:?").nth(1).and_then(|rest| rest.split('"').next()).expect("a mail");
    let mail = mail.replace("&#38;", "&");
    let mail = Pairs::read(mail.as_bytes()).expect("two pairs");
    assert_eq!(mail.value("subject"), Some("Please approve Contoso Mail in Microsoft Entra"));
    let body = mail.value("body").expect("a body");
    for words in [
        "connect my Microsoft account to Contoso Mail",
        "- read your e-mail (Mail.Read)\r\n- api://x/Files.Read\r\n",
        link,
        "What it is for: Shows your calendar beside your tickets.",
        "help@contoso.example",
    ] {
        assert!(body.contains(words), "{words}: {body}");
    }
}

#[test]
fn pages_are_small() {
    let page =
        Page::problem(Text::ApprovalTitle).say(Text::Approval).approval("https://login.example/".into());
    let html = written(&page, &Look::default(), "de");
    assert!(html.len() < 6500, "{}", html.len());
    assert!(written(&Page::link_gone(), &Look::default(), "en").len() < 4500);
}
