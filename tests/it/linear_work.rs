//! What a stranger sends costs a constant for each of its bytes, whatever it is: many parameters, members, words,
//! separators, escapes, depth. What has too many parts is refused before a part is read.

use http::Method;

use crate::http_client::{request, request_unix};
use crate::world::Plan;

/// The sizes that are allowed, a little less.
const QUERY: usize = 8000;
const BODY: usize = 64 * 1024 - 16;

/// As many parameters with short names of their own as there is room for.
fn parameters(size: usize) -> String {
    fill(size, |at| format!("{}&", name(at)))
}

/// Pieces one after the other, until there are `size` bytes.
fn fill(size: usize, mut piece: impl FnMut(usize) -> String) -> String {
    let mut text = String::with_capacity(size + 16);
    for at in 0.. {
        let piece = piece(at);
        if text.len() + piece.len() > size {
            break;
        }
        text.push_str(&piece);
    }
    text
}

/// A short name that no other number has.
fn name(at: usize) -> String {
    const DIGITS: &[u8; 36] = b"abcdefghijklmnopqrstuvwxyz0123456789";
    let (mut at, mut name) = (at, String::new());
    loop {
        name.push(char::from(DIGITS[at % 36]));
        at /= 36;
        if at == 0 {
            return name;
        }
    }
}

#[tokio::test]
async fn eighteen_thousand_parameters_are_refused_at_every_listener() {
    let world = Plan::default().start().await;
    let query = parameters(QUERY);
    assert!(query.matches('&').count() > 2000);
    let form = parameters(BODY);
    assert!(form.matches('&').count() > 15_000);

    // A form, to the browser's listener: a page, whatever its size.
    let callback = format!("{}/callback/outlook", world.daemon.public);
    let of_a_form = [("content-type", "application/x-www-form-urlencoded")];
    let few = form[..form[..12_000].rfind('&').expect("one")].to_owned();
    for sent in [few, form] {
        let answer = request(Method::POST, &callback, &of_a_form, sent.clone()).await.expect("an answer");
        let is_refused = answer.status == 400 || (answer.status == 413 && sent.len() > 16 * 1024);
        assert!(is_refused && answer.text().contains("nothing"), "{}: {}", answer.status, answer.text());
    }
    let page = request(Method::GET, &format!("{callback}?{query}"), &[], "").await.expect("an answer");
    assert_eq!(page.status, 400, "{}", page.text());
    assert!(page.text().contains("more than a sign-in sends"), "{}", page.text());
    assert!(
        page.headers["content-security-policy"].to_str().expect("text").starts_with("default-src 'none'")
    );

    // A query, to the others: a problem that says what is wrong, with a key and without.
    let bearer = format!("Bearer {}", world.key);
    let path = "/v1/apps/outlook/connections/user-1/token";
    let with_key = [("authorization", bearer.as_str())];
    let admin = world.folder.path().join("admin.sock");
    for (listener, answer) in [
        (
            "local",
            request(Method::GET, &format!("{}{path}?{query}", world.daemon.local), &with_key, "").await,
        ),
        (
            "local, no key",
            request(Method::GET, &format!("{}{path}?{query}", world.daemon.local), &[], "").await,
        ),
        ("admin", request_unix(&admin, Method::GET, &format!("/admin/v1/status?{query}"), &[], "").await),
        ("ops", request(Method::GET, &format!("{}/livez?{query}", world.daemon.ops), &[], "").await),
    ] {
        let answer = answer.expect("an answer");
        assert_eq!(answer.status, 400, "{listener}: {}", answer.text());
        let problem = answer.json();
        assert_eq!(problem["code"], "invalid_request", "{listener}");
        let detail = problem["detail"].as_str().expect("text");
        assert!(detail.contains("the query has too many parameters: 64 are taken"), "{listener}: {detail}");
    }
    // As many as are allowed are read, and ignored where nobody knows them.
    let allowed = (0..64).map(|at| format!("x{at}=1")).collect::<Vec<_>>().join("&");
    let ready = request(Method::GET, &format!("{}/livez?{allowed}", world.daemon.ops), &[], "").await;
    assert_eq!(ready.expect("an answer").status, 200);
}

#[tokio::test]
async fn more_cookies_than_a_browser_keeps_are_told_so() {
    let world = Plan::default().start().await;
    let cookies = |count: usize| vec!["a=b"; count].join("; ");
    for (count, status) in [(180, 404), (257, 431)] {
        let url = format!("{}/connect/none", world.daemon.public);
        let answer = request(Method::GET, &url, &[("cookie", &cookies(count))], "").await.expect("an answer");
        assert_eq!(answer.status, status, "{count}: {}", answer.text());
        assert_eq!(answer.text().contains("Delete the cookies of"), status == 431, "{}", answer.text());
    }
}

#[test]
fn names_are_short_and_none_stands_twice() {
    let names: std::collections::BTreeSet<String> = (0..20_000).map(name).collect();
    assert!(names.len() == 20_000 && names.iter().all(|name| name.len() <= 3));
}
