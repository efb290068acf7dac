//! Properties of every path, query and rule, of every answer, and of every batch.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use serde_json::Value;

use super::fields::may_reach_resource;
use super::links::is_name_of_link;
use super::{
    Asked, Base, Batch, CanonicalPath, Injector, Links, Method, RelayRule, Rewriter, Throttled, shape,
};

fn links() -> Links {
    let base = Base::parse("graph", "https://graph.microsoft.com").expect("a base");
    Links::new(vec![base], "http://here/relay/".to_owned())
}

/// Panics if an answer comes out otherwise when it is cut otherwise, if JSON does not stay JSON, or if
/// anything changes in it but its links.
pub fn an_answer_changes_in_its_links_alone(input: &[u8]) {
    let links = Arc::new(links());
    for is_batch in [false, true] {
        let rewritten = |size: usize| {
            let (mut rewriter, mut out) = (Rewriter::new(Arc::clone(&links)), Vec::<u8>::new());
            let mut reader = is_batch.then(Throttled::default);
            for piece in input.chunks(size).map(Bytes::copy_from_slice) {
                let said = reader.as_mut().map(|reader| reader.take(&piece)).unwrap_or_default();
                out.extend(rewriter.take(&piece, &said.fields));
            }
            out.extend(rewriter.end());
            out
        };
        let whole = rewritten(input.len().max(1));
        for size in [1, 2, 7] {
            assert_eq!(rewritten(size), whole, "pieces of {size}: {}", input.escape_ascii());
        }
        if let Ok(before) = serde_json::from_slice::<Value>(input) {
            let after = serde_json::from_slice::<Value>(&whole);
            // (A name that is written with an escape is not taken for a link's.)
            if input.windows(2).any(|two| two == br"\u") {
                after.expect("it stays JSON");
                continue;
            }
            let fields = if is_batch { &["", "responses", ITEM, "headers"][..] } else { &[] };
            assert_is_same_but_links(&[""], &before, &after.expect("it stays JSON"), &links, fields);
        }
    }
    // The answers of what was refused come in without harm to the rest.
    let injected = |size: usize| {
        let (mut injector, mut out) = (Injector::new(&["{\"id\":\"refused\"}".to_owned()]), Vec::new());
        input.chunks(size).for_each(|piece| injector.take(piece, &mut out));
        out
    };
    let whole = injected(input.len().max(1));
    for size in [1, 2, 7] {
        assert_eq!(injected(size), whole, "pieces of {size}: {}", input.escape_ascii());
    }
    if serde_json::from_slice::<Value>(input).is_ok() {
        assert!(serde_json::from_slice::<Value>(&whole).is_ok(), "{}", input.escape_ascii());
    }
    // Who is to come later is read alike, too.
    let later = |size: usize| {
        let mut throttled = Throttled::default();
        input.chunks(size).flat_map(|piece| throttled.take(piece).later).collect::<Vec<_>>()
    };
    let whole = later(input.len().max(1));
    for size in [1, 2, 7] {
        assert_eq!(later(size), whole, "pieces of {size}: {}", input.escape_ascii());
    }
}

/// What stands for the name of a list's item: no name has it unescaped.
const ITEM: &str = "\0";

/// `path`: the names above the value. `fields`: the path of those objects whose members are fields.
fn assert_is_same_but_links(path: &[&str], before: &Value, after: &Value, links: &Links, fields: &[&str]) {
    let name = path.last().copied().unwrap_or_default();
    match (before, after) {
        (Value::Object(before), Value::Object(after)) => {
            assert!(before.keys().eq(after.keys()));
            for ((name, before), after) in before.iter().zip(after.values()) {
                assert_is_same_but_links(&[path, &[name]].concat(), before, after, links, fields);
            }
        }
        (Value::Array(before), Value::Array(after)) => {
            assert_eq!(before.len(), after.len());
            for (before, after) in before.iter().zip(after) {
                assert_is_same_but_links(&[path, &[ITEM]].concat(), before, after, links, fields);
            }
        }
        // (One that is longer than a URL may be passes as it is.)
        (Value::String(before), Value::String(after)) if before != after || before.len() < 1000 => {
            let is_field = !fields.is_empty() && path.split_last().is_some_and(|(_, above)| above == fields);
            let turned = links.turned(before).filter(|_| is_name_of_link(name.as_bytes(), is_field));
            assert_eq!(after, turned.as_ref().unwrap_or(before), "{name}");
        }
        (before, after) => assert_eq!(before, after, "{name}"),
    }
}

/// Panics if a batch sends what was not judged, or loses or doubles a request.
pub fn a_batch_sends_what_was_judged(input: &[u8]) {
    let Ok(batch) = Batch::read(input, "graph", "v1.0", &links()) else { return };
    // (A body may have numbers that this reader does not take. It passes as it is.)
    let Ok(wire) = serde_json::from_slice::<Value>(input) else { return };
    let rule = RelayRule::parse("GET graph:/v1.0/me/messages*").expect("a rule");
    let is_covered =
        |asked: &Asked| asked.judge(|method, base, path: &CanonicalPath| rule.covers(method, base, path));
    let plan = batch.plan(|asked| is_covered(asked).map_err(|beyond| beyond.to_string()));
    let sent: Value =
        plan.send.as_deref().map_or(Value::Null, |text| serde_json::from_slice(text).expect("JSON"));
    let sent = sent["requests"].as_array().cloned().unwrap_or_default();
    assert_eq!(sent.len(), plan.shapes.len());
    let id = |one: &Value| one["id"].as_str().expect("an id").to_owned();
    let ids: BTreeSet<String> = sent.iter().map(id).collect();
    for one in &sent {
        let (method, url) = (one["method"].as_str().expect("a method"), one["url"].as_str().expect("a URL"));
        let asked = Asked::written(&format!("{method} graph:/v1.0{url}")).expect("it is canonical");
        assert!(is_covered(&asked).is_ok() && asked.target() == format!("/v1.0{url}"), "{one}");
        let depends = one["dependsOn"].as_array().into_iter().flatten();
        assert!(depends.into_iter().all(|on| ids.contains(on.as_str().expect("an id"))), "{one}");
        let mut fields = one["headers"].as_object().into_iter().flatten();
        assert!(fields.all(|(name, _)| may_reach_resource(name)), "{one}");
    }
    let mut all = ids.clone();
    for text in &plan.refused {
        let one: Value = serde_json::from_str(text).expect("JSON");
        assert!([400, 403, 424].map(Value::from).contains(&one["status"]), "{one}");
        assert!(all.insert(id(&one)), "{one} is answered twice");
    }
    assert_eq!(all.len(), wire["requests"].as_array().map_or(0, Vec::len));
}

/// Panics if what is sent for a request is not what was judged, or if a rule covers more than it shows. The
/// input is a target and, after a line break, a rule.
pub fn what_is_judged_is_what_is_sent(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    let (target, rule) = text.split_once('\n').unwrap_or((&text, "GET graph:/v1.0/me/messages*"));
    if let Ok(rule) = RelayRule::parse(rule) {
        assert_eq!(RelayRule::parse(&rule.to_string()).as_ref(), Ok(&rule));
    }
    let (path, query) = target.split_once('?').map_or((target, None), |(path, query)| (path, Some(query)));
    let asked = match Asked::read(Method::Get, "graph", path, query) {
        Ok(asked) => asked,
        Err(odd) => {
            let words = odd.to_string();
            assert!(words.len() < 300 && !words.contains(char::is_control), "{words}");
            return;
        }
    };
    let sent = asked.target();
    assert!(sent.bytes().all(|byte| byte.is_ascii_graphic() && !b"\\\"<>^`{|};#".contains(&byte)), "{sent}");
    let (path, query) =
        sent.split_once('?').map_or((sent.as_str(), None), |(path, query)| (path, Some(query)));
    assert_eq!(Asked::read(Method::Get, "graph", path, query).as_ref(), Ok(&asked), "{sent}");
    for segment in asked.path.segments() {
        assert!(
            !segment.is_empty()
                && !segment.trim_matches('.').is_empty()
                && !segment.contains(['%', '\\', ';'])
        );
    }
    assert!(!shape(&asked.path).contains(char::is_control));
    // A rule for exactly this path covers it, and one for another begin does not.
    if let Ok(exact) = RelayRule::parse(&format!("GET graph:{}", asked.path)) {
        assert!(exact.covers(Method::Get, "graph", &asked.path), "{}", asked.path);
        assert!(!exact.covers(Method::Post, "graph", &asked.path));
    }
    if let Ok(rule) = RelayRule::parse(rule)
        && asked.judge(|method, base, path: &CanonicalPath| rule.covers(method, base, path)).is_ok()
    {
        let shown = rule.to_string();
        let wanted = shown.split_once(':').expect("a base").1;
        let begins = |path: &str| match wanted.strip_suffix('*') {
            Some(prefix) => path.starts_with(prefix),
            None => path == wanted,
        };
        assert!(begins(asked.path.as_str()), "{shown} and {}", asked.path);
        for navigation in asked.query.navigations() {
            assert!(begins(&format!("{}/{navigation}", asked.path)), "{shown} and {navigation}");
        }
    }
}
