//! Answers of the token endpoint that are odd: what is kept of them, and whose they must be.

use super::*;

/// A refresh's answer with `change` made to it.
async fn refreshed(change: impl Fn(&mut Value) + Send + 'static) -> Result<TokenAnswer, AuthorityFailure> {
    let world = World::entra();
    world.answer_tokens(move |origin, _| {
        let mut body = tokens(&entra_claims(origin));
        change(&mut body);
        Reply::json(200, &body)
    });
    world.refresh().await
}

#[tokio::test]
async fn what_is_optional_costs_no_refresh_its_tokens() {
    let cut = Duration::from_secs(172_800);
    let unsaid = Duration::from_secs(300);
    let hour = Duration::from_secs(3600);
    let rows: [(&str, Value, Duration); 17] = [
        ("expires_in", json!(172_801), cut),
        ("expires_in", json!(31_536_000), cut),
        ("expires_in", json!(600.0), Duration::from_secs(600)),
        ("expires_in", json!("3600.5"), hour),
        ("expires_in", json!("soon"), unsaid),
        ("expires_in", Value::Null, unsaid),
        ("scope", json!(["Mail.Read"]), hour),
        ("scope", json!({}), hour),
        ("refresh_in", json!([]), hour),
        ("refresh_in", json!(-1), hour),
        ("token_type", json!("bearer"), hour),
        ("token_type", Value::Null, hour),
        ("token_type", json!(7), hour),
        ("error", Value::Null, hour),
        ("id_token", json!(""), hour),
        ("id_token", Value::Null, hour),
        ("ext_expires_in", json!({ "a": [null] }), hour),
    ];
    for (name, value, life) in rows {
        let row = format!("{name} {value}");
        let answer = refreshed(move |body| body[name] = value.clone()).await;
        let answer = answer.unwrap_or_else(|failure| panic!("{row}: {failure}"));
        assert_eq!(answer.expires_in, life, "{row}");
        assert!(answer.refresh_token.is_some_and(|token| token.expose() == "RT-2"), "{row}");
    }
}

#[tokio::test]
async fn a_media_type_that_is_wrong_costs_nothing() {
    let world = World::entra();
    for media_type in ["text/plain", "text/html; charset=utf-8", ""] {
        world.answer_tokens(move |origin, _| Reply::Answer {
            status: 200,
            headers: vec![("content-type", media_type.to_owned())],
            body: tokens(&entra_claims(origin)).to_string(),
        });
        world.refresh().await.expect("tokens");
        world.redeem().await.expect("tokens");
    }
}

#[tokio::test]
async fn a_claim_that_need_not_be_there_costs_neither_a_refresh_nor_a_sign_in() {
    let world = World::openid();
    for name in ["at_hash", "c_hash", "azp", "nbf", "preferred_username", "email", "auth_time"] {
        for value in [Value::Null, json!(7.5), json!({})] {
            if name == "nbf" && value.is_number() {
                continue; // that is a good one
            }
            let row = format!("{name} {value}");
            world.answer_tokens(move |origin, _| {
                let mut claims = json!({
                    "iss": origin, "aud": CLIENT_ID, "sub": "s", "iat": NOW, "exp": NOW + 60, "nonce": NONCE,
                });
                claims[name] = value.clone();
                Reply::json(200, &tokens(&claims))
            });
            let signed_in = world.redeem().await;
            assert!(signed_in.is_ok(), "{row}: {}", failed(signed_in));
            let refreshed = world.refresh_as("s").await;
            assert!(refreshed.is_ok(), "{row}: {}", failed(refreshed));
        }
    }
}
