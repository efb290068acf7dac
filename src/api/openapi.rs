//! The `paths` of an OpenAPI document, written from an API's table. The rest of the document (information,
//! components) is kept by hand in the committed file.

use super::dialect::Dialect;
use super::doc::{Body, Content, Doc, Example, Examples};
use super::routes::{Api, Effect, Permission, Route};

/// Writes the committed document anew: its `paths` from `table`, the rest as it is. `common` are the bad
/// answers of every route that is not anybody's.
fn document<A: Api>(committed: &str, table: &[Route<A>], common: &[(u16, &str)]) -> String {
    const PATHS: &str = "\n  \"paths\": ";
    const COMPONENTS: &str = ",\n  \"components\": ";
    let (head, rest) = committed.split_once(PATHS).expect("the document has paths");
    let (_, components) = rest.split_once(COMPONENTS).expect("components stand behind the paths");
    format!("{head}{PATHS}{}{COMPONENTS}{components}", pretty(&paths(table, common), 1))
}

fn paths<A: Api>(table: &[Route<A>], common: &[(u16, &str)]) -> String {
    let mut paths: Vec<(&str, Vec<(String, String)>)> = Vec::new();
    for route in table {
        let at = paths.iter().position(|(path, _)| *path == route.path).unwrap_or_else(|| {
            let named = route.path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'));
            let parameters = list(named.map(|name| reference("parameters", name)));
            let parameters = (parameters != "[]").then(|| ("parameters".to_owned(), parameters));
            paths.push((route.path, parameters.into_iter().collect()));
            paths.len() - 1
        });
        paths[at].1.push((route.method.to_ascii_lowercase(), operation(route, common)));
    }
    object(paths.into_iter().map(|(path, members)| (path.to_owned(), object(members))))
}

fn operation<A: Api>(route: &Route<A>, common: &[(u16, &str)]) -> String {
    let Doc { id, tag, summary, description, query, ref body, .. } = route.doc;
    let mut members =
        vec![("operationId", text(id)), ("tags", list([text(tag)])), ("summary", text(summary))];
    if !description.is_empty() {
        members.push(("description", text(description)));
    }
    if route.permission == Permission::Anybody {
        members.push(("security", list([])));
    } else if let Some(scheme) = Dialect::of(route.path).security_scheme() {
        members.push(("security", list([object([(scheme, list([]))]), object::<&str>([])])));
    }
    if !query.is_empty() {
        members.push(("parameters", list(query.iter().map(|name| reference("parameters", name)))));
    }
    let body = match body {
        Body::None => None,
        Body::Optional(content) => Some(("false", content)),
        Body::Required(content) => Some(("true", content)),
    };
    if let Some((required, content)) = body {
        members.push(("requestBody", object([("required", required.to_owned()), of_content(content)])));
    }
    members.push(("responses", responses(route, common)));
    object(members)
}

fn responses<A: Api>(route: &Route<A>, common: &[(u16, &str)]) -> String {
    let (status, description) = route.doc.answer;
    let header = |name| reference("headers", name);
    let mut headers = vec![("X-Request-Id", header("RequestId")), ("Cache-Control", header("NoStore"))];
    if route.effect == Effect::HandsOut {
        headers.push(("Tokenward-Degraded", header("Degraded")));
        let dialect = Dialect::of(route.path);
        if dialect == Dialect::Native {
            headers.push(("ETag", header("EntityTag")));
        }
        if matches!(dialect, Dialect::Native | Dialect::ManagedIdentity) {
            headers.push(("Tokenward-Source", header("Source")));
        }
    }
    let mut good = vec![("description", text(description)), ("headers", object(headers))];
    good.extend(route.doc.content.as_ref().map(of_content));

    let mut bad = vec![(414, "TargetTooLong"), (500, "Internal")];
    bad.extend(route.doc.problems);
    if matches!(route.permission, Permission::HasScopes | Permission::HasRelay | Permission::Connects) {
        bad.push((403, "Forbidden"));
    }
    let is_said = |status: u16| route.doc.problems.iter().any(|(said, _)| *said == status);
    if route.permission != Permission::Anybody {
        bad.extend(common.iter().filter(|(status, _)| !is_said(*status)));
    }
    bad.sort_unstable();
    bad.dedup_by_key(|(status, _)| *status);
    bad.retain(|(status, _)| Dialect::of(route.path).answers(*status));
    if let Some(refusal) = Dialect::of(route.path).refusal_schema() {
        bad.iter_mut().for_each(|(_, name)| *name = refusal);
    }
    let bad = bad.into_iter().map(|(status, name)| (status.to_string(), reference("responses", name)));
    object([(status.to_string(), object(good))].into_iter().chain(bad))
}

fn of_content(content: &Content) -> (&'static str, String) {
    let schema = match content.schema {
        "" if content.media_type == Content::WHATEVER.media_type => "{}".to_owned(),
        "" => object([("type", text("object"))]),
        name => reference("schemas", name),
    };
    let mut members = vec![("schema", schema)];
    match content.examples {
        Examples::None => {}
        Examples::One(json) => members.push(("example", json.to_owned())),
        Examples::Several(examples) => {
            let of_one = |(name, summary, json): &Example| {
                let summary = (!summary.is_empty()).then(|| ("summary", text(summary)));
                (*name, object(summary.into_iter().chain([("value", (*json).to_owned())])))
            };
            members.push(("examples", object(examples.iter().map(of_one))));
        }
    }
    ("content", object([(content.media_type, object(members))]))
}

fn reference(kind: &str, name: &str) -> String {
    object([("$ref", text(&format!("#/components/{kind}/{name}")))])
}

fn text(text: &str) -> String {
    serde_json::to_string(text).expect("text is plain JSON")
}

fn list(items: impl IntoIterator<Item = String>) -> String {
    format!("[{}]", items.into_iter().collect::<Vec<_>>().join(","))
}

fn object<N: AsRef<str>>(members: impl IntoIterator<Item = (N, String)>) -> String {
    let members = members.into_iter().map(|(name, value)| format!("{}:{value}", text(name.as_ref())));
    format!("{{{}}}", members.collect::<Vec<_>>().join(","))
}

/// JSON with two spaces a level and its members in the order they have (serde_json's values would sort them).
fn pretty(json: &str, mut depth: usize) -> String {
    let mut out = String::new();
    let line = |out: &mut String, depth: usize| {
        out.push('\n');
        out.extend(std::iter::repeat_n("  ", depth));
    };
    let (mut in_text, mut is_escaped) = (false, false);
    let mut rest = json.chars().filter(|c| !c.is_control()).peekable();
    while let Some(c) = rest.next() {
        if in_text {
            in_text = is_escaped || c != '"';
            is_escaped = c == '\\' && !is_escaped;
            out.push(c);
            continue;
        }
        match c {
            ' ' => {}
            '{' | '[' => {
                out.push(c);
                while rest.next_if(|next| *next == ' ').is_some() {}
                if let Some(end) = rest.next_if(|next| matches!(next, '}' | ']')) {
                    out.push(end);
                } else {
                    depth += 1;
                    line(&mut out, depth);
                }
            }
            '}' | ']' => {
                depth -= 1;
                line(&mut out, depth);
                out.push(c);
            }
            ',' => {
                out.push(c);
                line(&mut out, depth);
            }
            ':' => out.push_str(": "),
            _ => {
                in_text = c == '"';
                out.push(c);
            }
        }
    }
    out
}

/// Compares a committed document with its table. `UPDATE_OPENAPI=1` writes it anew.
pub(super) fn assert_is_written_from<A: Api>(file: &str, table: &[Route<A>], common: &[(u16, &str)]) {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
    let committed = std::fs::read_to_string(&path).expect("the document is there");
    let written = document(&committed, table, common);
    if std::env::var_os("UPDATE_OPENAPI").is_some() {
        std::fs::write(&path, &written).expect("the document can be written");
    }
    assert!(committed == written, "{file} is old: run `UPDATE_OPENAPI=1 cargo test --lib api`");
}
