//! The resource: `/…/bytes/N` and `/…/json/N` answer with so many bytes, whatever the request's body is.

use std::convert::Infallible;

use bytes::Bytes;
use http::{Request, Response, header};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;

/// Answers one request, when its body has come.
pub async fn answer(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let path = request.uri().path().to_owned();
    let mut body = request.into_body();
    while let Some(Ok(_)) = body.frame().await {}
    let mut parts = path.rsplit('/');
    let length = parts.next().and_then(|length| length.parse().ok()).unwrap_or(0);
    let (kind, content) = match parts.next() {
        Some("json") => ("application/json", json(length)),
        _ => ("application/octet-stream", vec![7; length]),
    };
    let mut response = Response::new(Full::new(Bytes::from(content)));
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(kind));
    Ok(response)
}

/// A page of messages of this length, in the form of Graph's.
fn json(length: usize) -> Vec<u8> {
    const END: &str = "],\"@odata.nextLink\":\"https://graph.microsoft.com/v1.0/me/messages?$skip=10\"}";
    let mut text = String::with_capacity(length);
    text.push_str("{\"@odata.context\":\"https://graph.microsoft.com/v1.0/$metadata#messages\",\"value\":[");
    for number in 0.. {
        let one = format!(
            "{}{{\"id\":\"AAMkAGI{number:08}\",\"subject\":\"Minutes of \\\"the\\\" meeting\",\"isRead\":true,\
             \"bodyPreview\":\"What was said, and by whom, and what is to be done until the next one.\"}}",
            if number == 0 { "" } else { "," }
        );
        if text.len() + one.len() + END.len() > length {
            break;
        }
        text.push_str(&one);
    }
    text.extend(std::iter::repeat_n(' ', length.saturating_sub(text.len() + END.len())));
    text.push_str(END);
    text.into_bytes()
}
