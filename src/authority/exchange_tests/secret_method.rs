//! The two methods by which a secret is sent.

use super::*;

#[tokio::test]
async fn basic_encodes_both_halves_first_and_leaves_the_form_alone() {
    let world = World::openid();
    world.redeem().await.expect("tokens");
    let request = &world.token_requests()[0];
    let header = request.header("authorization").expect("a header").strip_prefix("Basic ").expect("Basic");
    let pair = STANDARD.decode(header).expect("base64");
    assert_eq!(String::from_utf8(pair).expect("text"), format!("{CLIENT_ID}:a%3Ab+c"));
    assert_eq!((request.field("client_secret"), request.field("client_id")), (None, None));
}

#[tokio::test]
async fn a_configured_way_to_send_the_secret_wins() {
    let world = World::with("/common/v2.0", entra_script(), vec![secret("one", "s")], |config| {
        config.token_endpoint_auth_method = Some(SecretMethod::Basic);
    });
    world.refresh().await.expect("tokens");
    let request = &world.token_requests()[0];
    assert!(request.header("authorization").is_some() && request.field("client_secret").is_none());
}

/// A provider where the app is registered for one method of sending its secret, with a document that lists
/// these.
fn registered_for(
    method: SecretMethod,
    listed: Option<&'static [&'static str]>,
    refusal: fn() -> Reply,
) -> World {
    let world = World::openid();
    world.script(|script| {
        script.document = Box::new(move |origin| {
            let mut document = openid_document(origin);
            if let Some(listed) = listed {
                document["token_endpoint_auth_methods_supported"] = json!(listed);
            }
            Reply::json(200, &document)
        });
        let good = std::mem::replace(&mut script.token, Box::new(|_, _| Reply::Close));
        script.token = Box::new(move |origin, seen| {
            let is_basic = seen.header("authorization").is_some();
            let secret = if is_basic { Some("a:b c") } else { seen.field("client_secret") };
            match is_basic == (method == SecretMethod::Basic) && secret == Some("a:b c") {
                true => good(origin, seen),
                false => refusal(),
            }
        });
    });
    world
}

const BOTH: &[&str] = &["client_secret_post", "client_secret_basic"];

fn sent(world: &World) -> Vec<&'static str> {
    let way = |seen: &Seen| if seen.header("authorization").is_some() { "basic" } else { "post" };
    world.token_requests().iter().map(way).collect()
}

#[tokio::test]
async fn a_secret_goes_into_the_header_unless_the_document_rules_that_out() {
    let refused = || Reply::json(401, &json!({ "error": "invalid_client" }));
    let rows: [(Option<&'static [&'static str]>, SecretMethod); 5] = [
        (None, SecretMethod::Basic),
        (Some(BOTH), SecretMethod::Basic),
        (Some(&["client_secret_basic", "private_key_jwt"]), SecretMethod::Basic),
        (Some(&["client_secret_post"]), SecretMethod::Post),
        (Some(&["private_key_jwt"]), SecretMethod::Basic),
    ];
    for (listed, method) in rows {
        let world = registered_for(method, listed, refused);
        world.redeem().await.expect("tokens");
        assert_eq!(sent(&world).len(), 1, "{listed:?}");
    }
    // A proof at Entra, whose document lists both.
    let world = World::entra();
    world.redeem().await.expect("tokens");
    assert_eq!(sent(&world), ["post"]);
}

#[tokio::test]
async fn a_way_that_was_guessed_wrong_gives_way_within_the_request_and_what_works_is_remembered() {
    let refusals: [fn() -> Reply; 5] = [
        || Reply::json(401, &json!({ "error": "invalid_client" })),
        || Reply::json(400, &json!({ "error": "unauthorized_client" })),
        || Reply::json(403, &json!({ "error": "unauthorized_client" })),
        || Reply::json(400, &json!({ "error": "invalid_request" })),
        || Reply::Answer { status: 400, headers: Vec::new(), body: String::new() },
    ];
    for refusal in refusals {
        let world = registered_for(SecretMethod::Post, Some(BOTH), refusal);
        world.redeem().await.expect("tokens, by the other way");
        assert_eq!(sent(&world), ["basic", "post"]);
        assert!(world.ledger.has("sent as client_secret_post"));
        world.refresh_as("alice").await.expect("tokens");
        world.replace(vec![secret("one", "a:b c"), secret("new", "a:b c")]);
        world.refresh_as("alice").await.expect("tokens");
        assert_eq!(sent(&world)[2..], ["post", "post"], "remembered, and by a reload too");
    }
}

/// One more call when it is first refused, and then once in a while; the failure names the setting.
#[tokio::test]
async fn a_secret_that_is_wrong_either_way_does_not_double_the_calls() {
    let world = World::openid();
    world.answer_tokens(|_, _| Reply::json(401, &json!({ "error": "invalid_client" })));
    let failure = failed(world.refresh_as("alice").await);
    assert_eq!(failure.disposition, Disposition::NextCredential);
    assert!(failure.cause.contains("token_endpoint_auth_method"), "{}", failure.cause);
    assert_eq!(sent(&world), ["basic", "post"]);
    for _ in 0..9 {
        world.clock.advance(30);
        failed(world.refresh_as("alice").await);
    }
    assert_eq!(sent(&world).len(), 2 + 9);
    world.clock.advance(30);
    failed(world.refresh_as("alice").await);
    assert_eq!(sent(&world).len(), 2 + 9 + 2);
}

#[tokio::test]
async fn a_way_that_the_operator_set_decides_alone() {
    let script =
        Script { document: Box::new(|origin| Reply::json(200, &openid_document(origin))), ..entra_script() };
    let world = World::with("", script, vec![secret("one", "s")], |config| {
        config.token_endpoint_auth_method = Some(SecretMethod::Post);
    });
    world.answer_tokens(|_, _| Reply::json(401, &json!({ "error": "invalid_client" })));
    let failure = failed(world.refresh_as("alice").await);
    assert_eq!(sent(&world), ["post"]);
    assert!(failure.cause.contains("as token_endpoint_auth_method says"), "{}", failure.cause);
}

/// If the other method passes client authentication, its answer about the grant counts.
#[tokio::test]
async fn a_verdict_that_the_other_way_brings_counts() {
    let world = World::openid();
    world.answer_tokens(|_, seen| match seen.header("authorization") {
        Some(_) => Reply::json(401, &json!({ "error": "invalid_client" })),
        None => Reply::json(400, &json!({ "error": "invalid_grant" })),
    });
    let failure = failed(world.refresh_as("alice").await);
    assert!(failure.disposition.is_verdict(), "{failure}");
    assert!(
        !world.ledger.lines().iter().any(|line| line.starts_with("rejected")),
        "{:?}",
        world.ledger.lines()
    );
}

/// A refused code or grant is not sent twice if no untried credential is involved.
#[tokio::test]
async fn a_code_that_is_refused_as_such_is_sent_once() {
    let world = World::with("/common/v2.0", entra_script(), vec![secret("a", "1"), secret("b", "2")], |_| {});
    world.answer_tokens(|_, _| refused(400, "invalid_grant", 54005));
    assert_eq!(failed(world.redeem().await).disposition, Disposition::Restart);
    assert_eq!(world.token_requests().len(), 1);
}
