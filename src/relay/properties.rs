//! Properties of every path, query and rule.

use super::{Asked, CanonicalPath, Method, RelayRule, shape};

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
            !segment.is_empty() && segment.trim_matches('.') != "" && !segment.contains(['%', '\\', ';'])
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
