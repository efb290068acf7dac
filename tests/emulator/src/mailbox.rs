//! A mailbox of Graph: messages by pages, mail that is sent, upload sessions, and batches of requests.

use std::collections::HashMap;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use serde_json::{Value, json};

use crate::clock::Moment;
use crate::directory::User;
use crate::message::{Answer, Params, Request};
use crate::state::{AccessToken, State};

/// Messages of a mailbox of which nothing else was said.
const USUAL_MESSAGES: usize = 3;
/// Messages on a page, if the request does not say.
const USUAL_PAGE: usize = 10;
/// Most messages on a page.
const MOST_ON_PAGE: usize = 1000;
/// Most requests of a batch.
const MOST_IN_BATCH: usize = 20;

/// Mailboxes, by what differs from the usual.
#[derive(Debug, Default)]
pub(crate) struct Mailboxes {
    /// How many messages each user has.
    pub(crate) messages: HashMap<String, usize>,
    /// How many messages each user has sent.
    pub(crate) sent: HashMap<String, usize>,
    uploads: Vec<Upload>,
}

/// An upload session.
struct Upload {
    user: String,
    total: u64,
    received: u64,
    /// Of what came so far.
    digest: aws_lc_rs::digest::Context,
}

impl std::fmt::Debug for Upload {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} of {} bytes", self.received, self.total)
    }
}

impl Mailboxes {
    /// Bytes and SHA-256, in lower-case hex, of what a user has uploaded whole.
    pub(crate) fn uploads(&self, upn: &str) -> Vec<(u64, String)> {
        let whole = self.uploads.iter().filter(|one| one.user == upn && one.received == one.total);
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        whole.map(|one| (one.total, hex(one.digest.clone().finish().as_ref()))).collect()
    }
}

impl State {
    /// Answers a request about the user's mailbox; `None` if it is about something else.
    pub(crate) fn mailbox(
        &mut self,
        request: &Request,
        path: &str,
        user: &User,
        scopes: &[String],
    ) -> Option<Answer> {
        let reads = scopes.iter().any(|name| name.starts_with("mail.read"));
        let sends = scopes.iter().any(|name| name == "mail.send");
        let segments: Vec<&str> = path.trim_matches('/').split('/').collect();
        let allowed = |may: bool, answer: Answer| if may { answer } else { self.denied(request) };
        let now = self.clock.now();
        Some(match (&request.method, &segments[..]) {
            (&Method::GET, ["v1.0", "me", "messages"]) => allowed(reads, self.page(request, user, now)),
            (&Method::GET, ["v1.0", "me", "mailFolders", folder, "messages", "delta" | "delta()"]) => {
                allowed(reads, self.delta(request, folder, user, now))
            }
            (&Method::GET, ["v1.0", "me", "messages", id]) => {
                let found = (1..=self.messages_of(&user.upn)).find(|number| message_id(*number) == *id);
                match found {
                    Some(number) => allowed(reads, Answer::json(200, message(number, &user.upn, now))),
                    None => self.missing(request),
                }
            }
            (&Method::POST, ["v1.0", "me", "sendMail"]) if sends => {
                *self.mailboxes.sent.entry(user.upn.to_ascii_lowercase()).or_default() += 1;
                Answer::empty(202)
            }
            (&Method::POST, ["v1.0", "me", "sendMail"]) => self.denied(request),
            (&Method::POST, ["v1.0", "me", "messages", _, "attachments", "createUploadSession"]) => {
                let asked: Value = serde_json::from_slice(&request.body).unwrap_or_default();
                let total =
                    asked["AttachmentItem"]["size"].as_u64().or(asked["attachmentItem"]["size"].as_u64());
                self.mailboxes.uploads.push(Upload {
                    user: user.upn.to_ascii_lowercase(),
                    total: total.unwrap_or_default(),
                    received: 0,
                    digest: aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256),
                });
                let url = format!("{}/graph/v1.0/uploads/{}", self.base, self.mailboxes.uploads.len() - 1);
                let body = json!({
                    "@odata.context": format!("{}/graph/v1.0/$metadata#microsoft.graph.uploadSession", self.base),
                    "uploadUrl": url, "expirationDateTime": "2099-01-01T00:00:00Z", "nextExpectedRanges": ["0-"],
                });
                Answer::json(201, body)
            }
            (&Method::PUT, ["v1.0", "uploads", number]) => self.upload(request, number),
            _ => return None,
        })
    }

    fn messages_of(&self, upn: &str) -> usize {
        self.mailboxes.messages.get(&upn.to_ascii_lowercase()).copied().unwrap_or(USUAL_MESSAGES)
    }

    fn page(&self, request: &Request, user: &User, now: Moment) -> Answer {
        let number = |name: &str| request.query.get(name).and_then(|text| text.parse::<usize>().ok());
        let (top, skip) =
            (number("$top").unwrap_or(USUAL_PAGE).clamp(1, MOST_ON_PAGE), number("$skip").unwrap_or(0));
        let all = self.messages_of(&user.upn);
        let value: Vec<Value> =
            (skip + 1..=all).take(top).map(|number| message(number, &user.upn, now)).collect();
        let graph = format!("{}/graph/v1.0", self.base);
        let mut body = json!({
            "@odata.context": format!("{graph}/$metadata#users('{}')/messages", user.oid), "value": value,
        });
        if skip + top < all {
            body["@odata.nextLink"] =
                json!(format!("{graph}/me/messages?%24top={top}&%24skip={}", skip + top));
        }
        Answer::json(200, body)
    }

    /// What has come since a round of `delta` ended, by pages; in the first round everything. A token says how
    /// many messages its round has shown; that of a page also where the page ends, so that messages which come
    /// meanwhile belong to the next round.
    fn delta(&self, request: &Request, folder: &str, user: &User, now: Moment) -> Answer {
        let token = |name: &str| request.query.get(name).map(str::to_owned);
        let all = self.messages_of(&user.upn);
        let position = match (token("$skiptoken"), token("$deltatoken")) {
            (Some(token), _) => token
                .split_once('-')
                .and_then(|(shown, end)| Some((shown.parse::<usize>().ok()?, end.parse::<usize>().ok()?))),
            (None, Some(token)) => token.parse::<usize>().ok().map(|shown| (shown, all)),
            (None, None) => Some((0, all)),
        };
        let Some((shown, end)) = position.filter(|(shown, end)| shown <= end && *end <= all) else {
            let words = "Badly formed token.";
            return Answer::json(400, self.graph_error(request, "ErrorInvalidUrlQuery", words));
        };
        let preferred = request.header("prefer").and_then(|prefer| prefer.strip_prefix("odata.maxpagesize="));
        let size = preferred.and_then(|size| size.parse::<usize>().ok()).unwrap_or(USUAL_PAGE);
        let next = (shown + size.clamp(1, MOST_ON_PAGE)).min(end);
        let value: Vec<Value> = (shown + 1..=next).map(|number| message(number, &user.upn, now)).collect();
        let graph = format!("{}/graph/v1.0", self.base);
        let here = format!("{graph}/me/mailFolders/{folder}/messages/delta");
        let mut body = json!({
            "@odata.context": format!("{graph}/$metadata#Collection(microsoft.graph.message)"), "value": value,
        });
        match next < end {
            true => body["@odata.nextLink"] = json!(format!("{here}?%24skiptoken={next}-{end}")),
            false => body["@odata.deltaLink"] = json!(format!("{here}?%24deltatoken={end}")),
        }
        Answer::json(200, body)
    }

    fn upload(&mut self, request: &Request, number: &str) -> Answer {
        let range = request.header("content-range").and_then(|range| {
            let (range, total) = range.strip_prefix("bytes ")?.split_once('/')?;
            let (first, last) = range.split_once('-')?;
            Some((first.parse::<u64>().ok()?, last.parse::<u64>().ok()?, total.parse::<u64>().ok()?))
        });
        let session = number.parse::<usize>().ok().and_then(|number| self.mailboxes.uploads.get_mut(number));
        // (When all has come, the session is no more.)
        let session = session.filter(|session| session.received < session.total);
        let (Some((first, last, total)), Some(session)) = (range, session) else {
            return self.missing(request);
        };
        let is_next = first == session.received && last + 1 - first == request.body.len() as u64;
        if !is_next || total != session.total {
            let words = "The fragment does not follow the one before.";
            return Answer::json(416, self.graph_error(request, "invalidRange", words));
        }
        session.received = last + 1;
        session.digest.update(&request.body);
        if session.received < total {
            let next = [format!("{}-{}", session.received, total - 1)];
            return Answer::json(
                200,
                json!({ "expirationDateTime": "2099-01-01T00:00:00Z", "nextExpectedRanges": next }),
            );
        }
        let location = format!("{}/graph/v1.0/me/messages/1/attachments/{number}", self.base);
        Answer::empty(201).header("location", location)
    }

    /// Answers the requests of a batch, in order.
    pub(crate) fn batch(&mut self, request: &Request, token: &AccessToken) -> Answer {
        let Ok(Value::Object(batch)) = serde_json::from_slice(&request.body) else {
            return Answer::json(
                400,
                self.graph_error(request, "BadRequest", "Invalid batch payload format."),
            );
        };
        let requests = batch.get("requests").and_then(Value::as_array).cloned().unwrap_or_default();
        if requests.is_empty() || requests.len() > MOST_IN_BATCH {
            return Answer::json(
                400,
                self.graph_error(request, "BadRequest", "Invalid batch payload format."),
            );
        }
        let mut failed: Vec<String> = Vec::new();
        let mut responses = Vec::new();
        for one in requests {
            let id = one["id"].as_str().unwrap_or_default().to_owned();
            let depends = one["dependsOn"].as_array().cloned().unwrap_or_default();
            let answer = match depends.iter().any(|on| failed.iter().any(|id| on == id.as_str())) {
                true => {
                    Answer::json(424, self.graph_error(request, "FailedDependency", "A dependency failed."))
                }
                false => {
                    let inner = within(request, &one);
                    let path = inner.path.clone();
                    self.graph_with(&inner, &path, token)
                }
            };
            if answer.status >= 400 {
                failed.push(id.clone());
            }
            let headers: serde_json::Map<String, Value> =
                answer.headers.iter().map(|(name, value)| ((*name).to_owned(), json!(value))).collect();
            let body: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
            responses.push(json!({ "id": id, "status": answer.status, "headers": headers, "body": body }));
        }
        Answer::json(200, json!({ "responses": responses }))
    }

    fn denied(&self, request: &Request) -> Answer {
        let words = "Access is denied. Check credentials and try again.";
        Answer::json(403, self.graph_error(request, "ErrorAccessDenied", words))
    }

    fn missing(&self, request: &Request) -> Answer {
        let words = "The specified object was not found in the store.";
        Answer::json(404, self.graph_error(request, "ErrorItemNotFound", words))
    }
}

/// A request within a batch.
fn within(outer: &Request, inner: &Value) -> Request {
    let url = inner["url"].as_str().unwrap_or_default();
    let (path, query) = url.split_once('?').unwrap_or((url, ""));
    let mut headers = HeaderMap::new();
    for (name, value) in inner["headers"].as_object().into_iter().flatten() {
        let pair =
            (name.parse::<HeaderName>(), value.as_str().and_then(|value| HeaderValue::from_str(value).ok()));
        if let (Ok(name), Some(value)) = pair {
            headers.insert(name, value);
        }
    }
    let path = percent_encoding::percent_decode_str(path).decode_utf8_lossy();
    Request {
        method: inner["method"].as_str().and_then(|method| method.parse().ok()).unwrap_or(Method::GET),
        path: format!("/v1.0/{}", path.trim_start_matches('/')),
        query: Params::parse(query.as_bytes()),
        raw_query: query.to_owned(),
        form: Params::default(),
        headers,
        body: Bytes::from(inner["body"].to_string()),
        ids: outer.ids.clone(),
        connection: outer.connection,
    }
}

fn message_id(number: usize) -> String {
    format!("AAMkAGI{number:04}=")
}

fn message(number: usize, upn: &str, now: Moment) -> Value {
    const SUBJECTS: [&str; 3] = ["Welcome to the mailbox", "Minutes of Tuesday's meeting", "Your invoice"];
    let subject = match SUBJECTS.get(number - 1) {
        Some(subject) => (*subject).to_owned(),
        None => format!("Message {number}"),
    };
    json!({
        "id": message_id(number), "subject": subject, "isRead": number > 1,
        "receivedDateTime": now.in_error_body().replace(' ', "T"),
        "bodyPreview": format!("{subject}, said the emulator."),
        "from": { "emailAddress": { "name": "Entra Emulator", "address": "emulator@contoso.example" } },
        "toRecipients": [{ "emailAddress": { "name": upn, "address": upn } }],
    })
}
