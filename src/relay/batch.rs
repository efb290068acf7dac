//! A JSON batch (`POST /v1.0/$batch`): each request in it is judged by itself, and those that are refused are
//! answered in their places.
//!
//! A batch is read strictly and written anew, so that what was judged is what the resource reads: repeated
//! members are refused, unknown ones are left out (an SDK sends some), and URLs are canonical.

use std::collections::{BTreeMap, BTreeSet};

use http::{HeaderName, HeaderValue};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::asked::{Asked, Method};
use super::fields::may_reach_resource;
use super::links::Links;
use super::path::CanonicalPath;
use super::shape::shape;

/// Most requests of a batch. Graph takes as many.
const MOST: usize = 20;
/// Longest URL of a request, in bytes, and most parameters in it: as of a request that comes alone.
const LONGEST_URL: usize = 8 * 1024;
const MOST_PARAMETERS: usize = 64;
/// Longest id.
const LONGEST_ID: usize = 128;

/// A batch that was read.
pub struct Batch {
    requests: Vec<Inner>,
}

/// One request of a batch.
struct Inner {
    id: String,
    /// What it asks for, or why it cannot be relayed.
    asked: Result<Asked, String>,
    method: String,
    depends_on: Vec<String>,
    headers: BTreeMap<String, String>,
    body: Option<Box<RawValue>>,
}

/// Why a batch is refused as a whole. The text continues a sentence that begins with the batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BatchFault {
    /// It is no batch.
    #[error(
        "is not {{\"requests\": […]}} with `id`, `method`, `url`, and perhaps `dependsOn`, `headers` and \
         `body` in each, none of them twice"
    )]
    Form,
    /// It has no request, or too many.
    #[error("must have 1 to {MOST} requests")]
    Number,
    /// An id is empty, too long, or there twice.
    #[error("has a request whose `id` is empty, too long, or another's")]
    Id,
    /// A request depends on one that is not there, or on itself by a detour.
    #[error("has a `dependsOn` that names no other request, or leads in a circle")]
    Depends,
}

#[derive(Deserialize)]
struct BatchWire {
    requests: Vec<InnerWire>,
}

#[derive(Deserialize)]
struct InnerWire {
    id: String,
    method: String,
    url: String,
    #[serde(rename = "dependsOn", default)]
    depends_on: Option<Vec<String>>,
    #[serde(default)]
    headers: Option<Distinct>,
    #[serde(default)]
    body: Option<Box<RawValue>>,
}

/// Fields with distinct names, whatever their case.
struct Distinct(BTreeMap<String, String>);

impl<'de> Deserialize<'de> for Distinct {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Fields;
        impl<'de> serde::de::Visitor<'de> for Fields {
            type Value = Distinct;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("fields")
            }

            fn visit_map<A: serde::de::MapAccess<'de>>(self, mut map: A) -> Result<Distinct, A::Error> {
                let (mut fields, mut names) = (BTreeMap::new(), BTreeSet::new());
                while let Some((name, value)) = map.next_entry::<String, String>()? {
                    if !names.insert(name.to_ascii_lowercase()) {
                        return Err(serde::de::Error::custom("a field that is there twice"));
                    }
                    fields.insert(name, value);
                }
                Ok(Distinct(fields))
            }
        }
        from.deserialize_map(Fields)
    }
}

/// What becomes of a batch.
#[derive(Clone)]
pub struct Plan {
    /// What is sent, as JSON; `None` if everything is refused.
    pub send: Option<Vec<u8>>,
    /// The answers of what is refused, as items of a list in JSON.
    pub refused: Vec<String>,
    /// Status, method and shape of the path of each that is refused; of one that cannot be read the status.
    pub refused_shapes: Vec<String>,
    /// The code of a batch of which everything is refused: whether a rule is missing, or nothing can be read.
    pub code: &'static str,
    /// Method and shape of the path of each that is sent.
    pub shapes: Vec<String>,
    /// The ids of those that are sent, and their paths.
    pub ids: Vec<String>,
    /// See `ids`.
    pub paths: Vec<CanonicalPath>,
}

/// What becomes of a request of which a rule is missing, and of one that cannot be read in one way.
const FORBIDDEN: (u16, &str) = (403, "caller_forbidden");
const INVALID: (u16, &str) = (400, "invalid_request");
const DEPENDS: (u16, &str) = (424, "failed_dependency");

impl Batch {
    /// Reads a batch that was sent to a base, below this version (`v1.0`).
    ///
    /// # Errors
    /// It is refused as a whole.
    pub fn read(text: &[u8], base: &str, version: &str, links: &Links) -> Result<Self, BatchFault> {
        let wire: BatchWire = serde_json::from_slice(text).map_err(|_| BatchFault::Form)?;
        if !(1..=MOST).contains(&wire.requests.len()) {
            return Err(BatchFault::Number);
        }
        let requests: Vec<Inner> =
            wire.requests.into_iter().map(|one| Inner::of(one, base, version, links)).collect();
        let ids: BTreeSet<&str> = requests.iter().map(|one| one.id.as_str()).collect();
        let is_id = |id: &str| (1..=LONGEST_ID).contains(&id.len()) && !id.chars().any(char::is_control);
        if ids.len() != requests.len() || !ids.iter().all(|id| is_id(id)) {
            return Err(BatchFault::Id);
        }
        if !requests.iter().flat_map(|one| &one.depends_on).all(|id| ids.contains(id.as_str()))
            || has_circle(&requests)
        {
            return Err(BatchFault::Depends);
        }
        Ok(Batch { requests })
    }

    /// How many requests it has.
    pub fn count(&self) -> usize {
        self.requests.len()
    }

    /// Judges each request. `judge` says what is wrong with one.
    pub fn plan(&self, judge: impl Fn(&Asked) -> Result<(), String>) -> Plan {
        let mut refused: BTreeMap<&str, ((u16, &str), String)> = BTreeMap::new();
        for one in &self.requests {
            let verdict = match &one.asked {
                Ok(asked) => judge(asked).map_err(|why| (FORBIDDEN, why)),
                Err(odd) => Err((INVALID, odd.clone())),
            };
            if let Err(verdict) = verdict {
                refused.insert(&one.id, verdict);
            }
        }
        // What depends on a refused one fails with it, in as many rounds as there are requests at most.
        while let Some(one) = self.requests.iter().find(|one| {
            !refused.contains_key(one.id.as_str())
                && one.depends_on.iter().any(|id| refused.contains_key(id.as_str()))
        }) {
            refused.insert(&one.id, (DEPENDS, "a request that it depends on was refused".to_owned()));
        }
        let refused_shapes = self.requests.iter().filter_map(|one| {
            let ((status, _), _) = refused.get(one.id.as_str())?;
            Some(match &one.asked {
                Ok(asked) => format!("{status} {} {}", asked.method, shape(&asked.path)),
                Err(_) => status.to_string(),
            })
        });
        let refused_shapes = refused_shapes.collect();
        let is_forbidden = refused.values().any(|(verdict, _)| *verdict == FORBIDDEN);
        let code = if is_forbidden { FORBIDDEN.1 } else { INVALID.1 };
        let send: Vec<InnerSent<'_>> = self
            .requests
            .iter()
            .filter(|one| !refused.contains_key(one.id.as_str()))
            .filter_map(InnerSent::of)
            .collect();
        let shapes = send.iter().map(|one| format!("{} {}", one.method, one.shape)).collect();
        let ids = send.iter().map(|one| one.id.to_owned()).collect();
        let paths = send.iter().map(|one| one.path.clone()).collect();
        let send = (!send.is_empty())
            .then(|| serde_json::to_vec(&BatchSent { requests: send }).expect("plain JSON"));
        let refused = refused.into_iter().map(|(id, (verdict, why))| answer(id, verdict, &why)).collect();
        Plan { send, refused, refused_shapes, code, shapes, ids, paths }
    }
}

impl Inner {
    fn of(wire: InnerWire, base: &str, version: &str, links: &Links) -> Self {
        let InnerWire { id, method, url, depends_on, headers, body } = wire;
        let headers = headers.map_or_else(BTreeMap::new, |fields| fields.0);
        let asked = match headers.iter().all(|(name, value)| is_field(name, value)) {
            true => asked(&method, &url, base, version, links),
            false => Err("a name or a value in `headers` is none of HTTP".to_owned()),
        };
        let headers = headers.into_iter().filter(|(name, _)| may_reach_resource(name)).collect();
        Inner { id, asked, method, depends_on: depends_on.unwrap_or_default(), headers, body }
    }
}

/// Whether HTTP has such a field: what it would refuse, another reader could take for several.
fn is_field(name: &str, value: &str) -> bool {
    HeaderName::from_bytes(name.as_bytes()).is_ok() && HeaderValue::from_str(value).is_ok()
}

/// What a request of a batch asks for. Its URL is relative to the version, or the relay's own.
fn asked(method: &str, url: &str, base: &str, version: &str, links: &Links) -> Result<Asked, String> {
    let method = Method::parse(method).ok_or("the method is none that is relayed, in capitals")?;
    if url.len() > LONGEST_URL || url.matches('&').count() >= MOST_PARAMETERS {
        return Err(format!("the URL has more than {LONGEST_URL} bytes or {MOST_PARAMETERS} parameters"));
    }
    let below = format!("/{version}/");
    let target = match links.turned_back(url, base) {
        Some(target) if target.starts_with(&below) => target.to_owned(),
        Some(_) => return Err("the URL is of another version than the batch".to_owned()),
        None if url.contains("://") || url.starts_with("//") => {
            return Err(
                "the URL is absolute and not one of this relay: write it relative to the version".to_owned()
            );
        }
        None => format!("{below}{}", url.strip_prefix('/').unwrap_or(url)),
    };
    let (path, query) =
        target.split_once('?').map_or((target.as_str(), None), |(path, query)| (path, Some(query)));
    let asked = Asked::read(method, base, path, query).map_err(|odd| odd.to_string())?;
    if asked.path.is_batch() {
        return Err("a batch within a batch is not relayed".to_owned());
    }
    Ok(asked)
}

fn has_circle(requests: &[Inner]) -> bool {
    // Whatever depends on nothing that is left goes, until nothing changes.
    let mut left: BTreeMap<&str, &Inner> = requests.iter().map(|one| (one.id.as_str(), one)).collect();
    loop {
        let before = left.len();
        let free: Vec<&str> = left
            .values()
            .filter(|one| !one.depends_on.iter().any(|id| left.contains_key(id.as_str())))
            .map(|one| one.id.as_str())
            .collect();
        for id in free {
            left.remove(id);
        }
        if left.is_empty() || left.len() == before {
            return !left.is_empty();
        }
    }
}

/// The answer of a request that is refused, as Graph words one.
fn answer(id: &str, (status, code): (u16, &str), message: &str) -> String {
    serde_json::json!({
        "id": id,
        "status": status,
        "headers": { "Content-Type": "application/json" },
        "body": { "error": { "code": code, "message": message } },
    })
    .to_string()
}

#[derive(Serialize)]
struct BatchSent<'a> {
    requests: Vec<InnerSent<'a>>,
}

#[derive(Serialize)]
struct InnerSent<'a> {
    id: &'a str,
    method: &'a str,
    url: String,
    #[serde(rename = "dependsOn", skip_serializing_if = "<[String]>::is_empty")]
    depends_on: &'a [String],
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    headers: &'a BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    body: Option<&'a RawValue>,
    #[serde(skip)]
    shape: String,
    #[serde(skip)]
    path: &'a CanonicalPath,
}

impl<'a> InnerSent<'a> {
    fn of(inner: &'a Inner) -> Option<Self> {
        let asked = inner.asked.as_ref().ok()?;
        let url = asked.target();
        let url = url.strip_prefix('/')?.strip_prefix(asked.path.version())?.to_owned();
        let Inner { id, method, depends_on, headers, body, .. } = inner;
        let shape = shape(&asked.path);
        Some(InnerSent {
            id,
            method,
            url,
            depends_on,
            headers,
            body: body.as_deref(),
            shape,
            path: &asked.path,
        })
    }
}

/// Puts items into the list `responses` of a batch's answer, which comes in pieces.
pub struct Injector {
    /// The items, until they are there.
    items: Option<String>,
    depth: usize,
    is_text: bool,
    is_escaped: bool,
    /// The last text at the first level, as far as it may be the list's name.
    text: Vec<u8>,
    place: Place,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// Before the list's name.
    Before,
    /// Behind it.
    Named,
    /// Behind its colon.
    Colon,
    /// Behind the list's bracket: the first item, or its end, comes next.
    Open,
}

const NAME: &[u8] = b"responses";

impl Injector {
    /// Begins an answer into which these items come.
    pub fn new(items: &[String]) -> Self {
        let items = (!items.is_empty()).then(|| items.join(","));
        Injector {
            items,
            depth: 0,
            is_text: false,
            is_escaped: false,
            text: Vec::new(),
            place: Place::Before,
        }
    }

    /// Returns true if there is nothing left to be put in.
    pub fn is_done(&self) -> bool {
        self.items.is_none()
    }

    /// Takes a piece, and appends it with the items where they belong.
    pub fn take(&mut self, piece: &[u8], out: &mut Vec<u8>) {
        for (at, byte) in piece.iter().copied().enumerate() {
            if self.items.is_none() {
                out.extend_from_slice(&piece[at..]);
                return;
            }
            if self.place == Place::Open && !byte.is_ascii_whitespace() {
                let items = self.items.take().expect("they are not there yet");
                out.extend_from_slice(items.as_bytes());
                if byte != b']' {
                    out.push(b',');
                }
                out.extend_from_slice(&piece[at..]);
                return;
            }
            out.push(byte);
            self.follow(byte);
        }
    }

    fn follow(&mut self, byte: u8) {
        if self.is_text {
            if byte == b'"' && !self.is_escaped {
                self.is_text = false;
                self.place = if self.depth == 1 && self.text == NAME { Place::Named } else { Place::Before };
            } else if self.text.len() <= NAME.len() {
                self.text.push(byte);
            }
            self.is_escaped = byte == b'\\' && !self.is_escaped;
            return;
        }
        match (byte, self.place) {
            (b' ' | b'\n' | b'\r' | b'\t', _) => {}
            (b'"', _) => {
                self.is_text = true;
                self.text.clear();
            }
            (b':', Place::Named) => self.place = Place::Colon,
            (b'[', Place::Colon) => self.place = Place::Open,
            (b'{' | b'[', _) => {
                self.depth += 1;
                self.place = Place::Before;
            }
            (b'}' | b']', _) => {
                self.depth = self.depth.saturating_sub(1);
                self.place = Place::Before;
            }
            _ => self.place = Place::Before,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::base::Base;
    use super::super::rule::RelayRule;
    use super::*;

    fn links() -> Links {
        let base = Base::parse("graph", "https://graph.microsoft.com").expect("a base");
        Links::new(vec![base], "http://here/relay/".to_owned())
    }

    fn read(batch: &Value) -> Result<Batch, BatchFault> {
        Batch::read(batch.to_string().as_bytes(), "graph", "v1.0", &links())
    }

    /// What is sent, and the status of each refused one by its id.
    fn planned(batch: &Value) -> (Value, BTreeMap<String, u64>) {
        let rules = ["GET graph:/v1.0/me/messages*", "POST graph:/v1.0/me/sendMail"];
        let rules: Vec<RelayRule> =
            rules.iter().map(|rule| RelayRule::parse(rule).expect("a rule")).collect();
        let judge = |asked: &Asked| {
            let covers =
                |method, base: &str, path: &_| rules.iter().any(|rule| rule.covers(method, base, path));
            asked.judge(covers).map_err(|beyond| beyond.to_string())
        };
        let plan =
            read(batch).map(|batch| batch.plan(judge)).unwrap_or_else(|fault| panic!("{batch}: {fault}"));
        let sent = plan.send.map_or(Value::Null, |text| serde_json::from_slice(&text).expect("JSON"));
        let refused = plan.refused.iter().map(|text| {
            let answer: Value = serde_json::from_str(text).expect("JSON");
            (answer["id"].as_str().expect("an id").to_owned(), answer["status"].as_u64().expect("a status"))
        });
        (sent, refused.collect())
    }

    fn one(url: &str) -> Value {
        json!({ "requests": [{ "id": "1", "method": "GET", "url": url }] })
    }

    #[test]
    fn each_request_is_judged_by_itself_and_refused_in_its_place() {
        let (sent, refused) = planned(&json!({ "requests": [
            { "id": "a", "method": "GET", "url": "/me/messages?%24top=1" },
            { "id": "b", "method": "GET", "url": "/me/contacts" },
            { "id": "c", "method": "GET", "url": "me/messages('1')", "dependsOn": ["b"] },
            { "id": "d", "method": "GET", "url": "/me/messages", "dependsOn": ["c"] },
            { "id": "e", "method": "POST", "url": "/me/sendMail", "dependsOn": ["a"],
              "headers": { "Content-Type": "application/json", "Authorization": "Bearer x", "COOKIE": "a",
                           "X-HTTP-Method": "DELETE", "Prefer": "x" },
              "body": { "message": { "subject": "@odata.nextLink" } } },
            { "id": "f", "method": "GET", "url": "http://here/relay/graph/v1.0/me/messages/2" },
        ]}));
        assert_eq!(
            refused,
            BTreeMap::from([("b".to_owned(), 403), ("c".to_owned(), 424), ("d".to_owned(), 424)])
        );
        assert_eq!(
            sent,
            json!({ "requests": [
                { "id": "a", "method": "GET", "url": "/me/messages?$top=1" },
                { "id": "e", "method": "POST", "url": "/me/sendMail", "dependsOn": ["a"],
                  "headers": { "Content-Type": "application/json", "Prefer": "x" },
                  "body": { "message": { "subject": "@odata.nextLink" } } },
                { "id": "f", "method": "GET", "url": "/me/messages/2" },
            ]})
        );
    }

    #[test]
    fn what_is_refused_is_told_by_shape_and_by_code() {
        let plan = |batch: &Value| {
            let judge = |asked: &Asked| match asked.path.as_str() {
                "/v1.0/me/messages" => Ok(()),
                _ => Err("no rule".to_owned()),
            };
            let plan = read(batch).expect("a batch").plan(judge);
            (plan.refused_shapes.join(", "), plan.code, plan.ids.join(" "))
        };
        let batch = |urls: &[&str]| {
            let requests = urls.iter().enumerate().map(|(at, url)| {
                let on = if at == 3 { json!(["1"]) } else { json!([]) };
                json!({ "id": at.to_string(), "method": "GET", "url": url, "dependsOn": on })
            });
            json!({ "requests": requests.collect::<Vec<_>>() })
        };
        let refused = |text: &str, code, ids: &str| (text.to_owned(), code, ids.to_owned());
        assert_eq!(
            plan(&batch(&["/me/messages", "/me/contacts/Anna%20Meier", "/me/../x", "/me/messages"])),
            refused(
                "403 GET /v1.0/me/contacts/{id}, 400, 424 GET /v1.0/me/messages",
                "caller_forbidden",
                "0"
            )
        );
        assert_eq!(plan(&batch(&["/me/../x", "//a"])), refused("400, 400", "invalid_request", ""));
    }

    #[test]
    fn what_is_not_known_is_left_out() {
        let one = json!({ "id": "1", "method": "GET", "url": "/me/messages" });
        let mut more = one.clone();
        for (name, value) in
            [("URL", json!("/me/contacts")), ("depends_on", json!([])), ("headers", json!({}))]
        {
            more[name] = value;
        }
        let (sent, refused) = planned(&json!({ "other": 1, "requests": [more] }));
        assert_eq!((sent, refused.len()), (json!({ "requests": [one] }), 0));
    }

    #[test]
    fn no_way_through_a_batch_leads_elsewhere() {
        for (url, status) in [
            ("/me/contacts", 403),
            ("/me/messages/../contacts", 400),
            ("/me/messages/%2e%2e/contacts", 400),
            ("../v1.0/me/contacts", 400),
            ("/me/messages?$expand=*", 400),
            ("/me/messages?$expand=microsoft.graph.eventMessage/event", 403),
            ("//evil.example/me/messages", 400),
            ("https://graph.microsoft.com/v1.0/me/messages", 400),
            ("https://evil.example/v1.0/me/messages", 400),
            ("http://here/relay/graph/beta/me/messages", 400),
            ("http://here/relay/graph/v1.0/me/contacts", 403),
            ("http://here/relay/other/v1.0/me/messages", 400),
            ("/$batch", 400),
            ("$batch", 400),
            ("/%24batch", 400),
            ("", 400),
        ] {
            let (sent, refused) = planned(&one(url));
            assert_eq!((sent, refused.get("1").copied()), (Value::Null, Some(status)), "{url}");
        }
        // As long as a URL that comes alone may be, and with as many parameters.
        let long = |bytes: usize| format!("/me/messages?$search={}", "x".repeat(bytes - 21));
        let many = |parameters: usize| format!("/me/messages?{}", vec!["a=1"; parameters].join("&"));
        assert_eq!("/me/messages?$search=".len(), 21);
        for (url, status) in [
            (long(LONGEST_URL), None),
            (long(LONGEST_URL + 1), Some(400)),
            (many(MOST_PARAMETERS), None),
            (many(MOST_PARAMETERS + 1), Some(400)),
        ] {
            assert_eq!(planned(&one(&url)).1.get("1").copied(), status, "{} bytes", url.len());
        }
        // A field that HTTP has not, which another reader could take for several.
        for (name, value, status) in [
            ("Prefer", "x", None),
            ("Prefer ", "x", Some(400)),
            ("", "x", Some(400)),
            ("Pre\r\nfer", "x", Some(400)),
            ("Prefer: a\r\nAuthorization", "x", Some(400)),
            ("Prefer", "x\r\nAuthorization: Bearer y", Some(400)),
            ("Prefer", "x\u{0}", Some(400)),
        ] {
            let mut batch = one("/me/messages");
            batch["requests"][0]["headers"] = json!({ name: value });
            assert_eq!(planned(&batch).1.get("1").copied(), status, "{name:?}: {value:?}");
        }
        let mut batch = one("/me/messages");
        for method in ["get", "OPTIONS", "", "GET /me/contacts HTTP/1.1"] {
            batch["requests"][0]["method"] = json!(method);
            assert_eq!(planned(&batch).1.get("1"), Some(&400), "{method}");
        }
    }

    fn request(id: &str, depends: &[&str]) -> Value {
        json!({ "id": id, "method": "GET", "url": "/me", "dependsOn": depends })
    }

    #[test]
    fn what_is_no_batch_is_refused_as_a_whole() {
        use BatchFault::*;
        let many: Vec<Value> = (0..=MOST).map(|at| request(&at.to_string(), &[])).collect();
        for (batch, fault) in [
            (json!([]), Form),
            (json!({}), Form),
            (json!({ "requests": [{ "id": "1", "method": "GET" }] }), Form),
            (json!({ "requests": [{ "id": 1, "method": "GET", "url": "/me" }] }), Form),
            (json!({ "requests": [] }), Number),
            (json!({ "requests": many }), Number),
            (json!({ "requests": [request("1", &[]), request("1", &[])] }), Id),
            (json!({ "requests": [request("", &[])] }), Id),
            (json!({ "requests": [request("1", &["2"])] }), Depends),
            (json!({ "requests": [request("1", &["1"])] }), Depends),
            (
                json!({ "requests": [request("1", &["2"]), request("2", &["3"]), request("3", &["1"])] }),
                Depends,
            ),
        ] {
            assert_eq!(read(&batch).map(|_| ()), Err(fault), "{batch}");
        }
        for text in [
            r#"{"requests":[{"id":"1","method":"GET","url":"/me/messages","url":"/me/contacts"}]}"#,
            r#"{"requests":[],"requests":[]}"#,
            r#"{"requests":[{"id":"1","method":"GET","url":"/me","headers":{"A":"1","a":"2"}}]}"#,
        ] {
            assert_eq!(
                Batch::read(text.as_bytes(), "graph", "v1.0", &links()).map(|_| ()),
                Err(Form),
                "{text}"
            );
        }
    }

    #[test]
    fn refusals_come_into_the_list_of_answers_however_it_is_cut() {
        let items = [r#"{"id":"x"}"#.to_owned(), r#"{"id":"y"}"#.to_owned()];
        for (text, expected) in [
            (r#"{"responses":[]}"#, r#"{"responses":[{"id":"x"},{"id":"y"}]}"#),
            (r#"{"responses" : [ {"id":"1"}]}"#, r#"{"responses" : [ {"id":"x"},{"id":"y"},{"id":"1"}]}"#),
            (
                r#"{"a":{"responses":[1]},"b":"responses","c":["responses",[2]],"responses":[3]}"#,
                r#"{"a":{"responses":[1]},"b":"responses","c":["responses",[2]],"responses":[{"id":"x"},{"id":"y"},3]}"#,
            ),
            (r#"{"error":{"code":"x"}}"#, r#"{"error":{"code":"x"}}"#),
            (r#"{"responses":null}"#, r#"{"responses":null}"#),
            ("", ""),
        ] {
            for size in 1..=text.len().max(1) {
                let mut injector = Injector::new(&items);
                let mut out = Vec::new();
                text.as_bytes().chunks(size).for_each(|piece| injector.take(piece, &mut out));
                assert_eq!(String::from_utf8_lossy(&out), expected, "pieces of {size}");
            }
        }
    }
}
