//! JSON with a token in it, whose text is not looked through letter by letter.

use http::StatusCode;
use serde::Serialize;

use crate::api::problem::json_bytes;
use crate::domain::json_text::push_text;
use crate::domain::secret::AccessToken;
use crate::listener::Response;

/// Stands in a shape for its token. Nothing that a caller names stands before it.
pub(super) const PLACE: &str = "";
/// How the place looks in JSON.
const IN_JSON: &[u8] = b"\"access_token\":\"\"";

/// Makes an answer of a shape whose member `access_token` is [`PLACE`].
pub(super) fn with_token<T: Serialize>(shape: &T, token: &AccessToken) -> Response {
    json_bytes(StatusCode::OK, text_with_token(shape, token))
}

/// Writes the JSON of that answer.
pub(super) fn text_with_token<T: Serialize>(shape: &T, token: &AccessToken) -> Vec<u8> {
    let json = serde_json::to_vec(shape).expect("answers are plain JSON");
    let place = json.windows(IN_JSON.len()).position(|part| part == IN_JSON).expect("the shape has a place");
    let (before, after) = json.split_at(place + IN_JSON.len());
    let mut out = Vec::with_capacity(json.len() + token.expose().len());
    out.extend_from_slice(&before[..before.len() - 2]);
    push_text(&mut out, token.expose());
    out.extend_from_slice(after);
    out
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;

    use super::*;

    #[derive(Serialize)]
    struct Shape {
        first: u8,
        access_token: &'static str,
        last: &'static str,
    }

    #[tokio::test]
    async fn the_token_stands_in_its_place_however_it_is_written() {
        for token in ["a.b.c", "", "\"\\\n", "\"access_token\":\"\""] {
            let shape = Shape { first: 1, access_token: PLACE, last: "\"access_token\":\"\"" };
            let body = with_token(&shape, &AccessToken::new(token)).into_body().collect().await;
            let said: serde_json::Value =
                serde_json::from_slice(&body.expect("whole").to_bytes()).expect("JSON");
            assert_eq!(said["access_token"], token);
            assert_eq!((&said["first"], &said["last"]), (&1.into(), &"\"access_token\":\"\"".into()));
        }
    }
}
