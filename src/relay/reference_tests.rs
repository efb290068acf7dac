//! The room against a reference, which is written from the words of docs/relay.md alone: random paths, random
//! rules, no difference.

use super::{Asked, CanonicalPath, Method, RelayRule};
use crate::domain::random::{Random, random_bytes};
use crate::testkit::SeededRandom;

const SEGMENTS: &[&str] = &[
    "v1.0",
    "me",
    "users",
    "messages",
    "contacts",
    "4711",
    "AAMk=",
    "$value",
    "$ref",
    "$batch",
    "$Batch",
    "$all",
    "users('4711')",
    "messages('1')",
    "messages(%271%27)",
    "delta()",
    "search(q='x')",
    "search(q=@p)",
    "f(",
    "f('')",
    "f('a')b",
    "graph.user",
    "Microsoft.Graph.user",
    "m%65",
    "messages%20",
    ".",
    "..",
    "%2e%2e",
    "%2e",
    "...",
    "a.",
    "%2f",
    "%5c",
    "\\",
    "%252e",
    "%25",
    "%00",
    "%0a",
    "%7f",
    "%c3%bc",
    "%c3",
    "%ef%bc%8e",
    "%e2%80%8b",
    ";",
    "%3b",
    "a;b",
    "%3f",
    "%23",
    "#",
    "%",
    "%z1",
    "",
    "a b",
    "x('..')",
    "x('$y')",
    "Messages",
    "root:",
    "a:b",
    "%E2%84%80",
];
const RULES: &[&str] = &[
    "GET graph:/v1.0/me",
    "GET graph:/v1.0/me*",
    "GET graph:/v1.0/me/messages*",
    "GET graph:/v1.0/users/4711/messages",
    "GET graph:/v1.0/users/*",
    "POST graph:/v1.0/$batch",
    "GET graph:/*",
    "GET other:/*",
    "DELETE graph:/v1.0/me/m*",
    "GET graph:/v1.0/me/graph.user*",
    "GET graph:/v1.0/users/4711/Microsoft.Graph.*",
    "GET graph:/v1.0/me/search(q='x')",
];
const QUERIES: &[&str] = &[
    "",
    "",
    "",
    "$top=1",
    "$expand=contacts",
    "%24Expand=messages",
    "expand=a($expand=b)",
    "$expand=*",
    "$apply=x",
    "a=%0a",
    "$expand=graph.user",
];

/// Draws.
struct Dice(SeededRandom);

impl Dice {
    fn below(&self, many: usize) -> usize {
        usize::from(u16::from_le_bytes(random_bytes::<2>(&self.0 as &dyn Random))) % many
    }

    fn one<'a>(&self, of: &[&'a str]) -> &'a str {
        of[self.below(of.len())]
    }

    /// Mostly a path that means something.
    fn path(&self) -> String {
        let start = self.one(&[
            "/v1.0/me",
            "/v1.0/me/messages",
            "/v1.0/users('4711')",
            "/v1.0/users",
            "/v1.0",
            "",
            "/beta",
        ]);
        let rest = (0..self.below(4)).map(|_| match self.below(3) {
            0 => self.one(SEGMENTS),
            _ => self.one(&SEGMENTS[..12]),
        });
        rest.fold(start.to_owned(), |path, segment| format!("{path}/{segment}"))
    }
}

/// A path's segments by the words; `None` if it is refused.
fn segments(raw: &str) -> Option<Vec<String>> {
    let mut segments: Vec<String> = Vec::new();
    for (at, piece) in raw.split('/').enumerate() {
        if at == 0 {
            // Everything begins with a slash.
            if !piece.is_empty() {
                return None;
            }
            continue;
        }
        // One strict decoding, of characters that may stand in a URL.
        let mut bytes = Vec::new();
        let mut rest = piece.as_bytes();
        while let [first, behind @ ..] = rest {
            rest = behind;
            match (first, behind) {
                (b'%', [one, two, ..]) => {
                    let digits = [*one, *two];
                    let text = std::str::from_utf8(&digits)
                        .ok()
                        .filter(|text| text.chars().all(|c| c.is_ascii_hexdigit()))?;
                    bytes.push(u8::from_str_radix(text, 16).ok()?);
                    rest = &behind[2..];
                }
                (b'%', _) => return None,
                (byte, _) if *byte > b' ' && *byte < 0x7f => bytes.push(*byte),
                _ => return None,
            }
        }
        let text = String::from_utf8(bytes).ok()?;
        let is_odd =
            |c: char| "/\\;?#%".contains(c) || c.is_control() || "\u{FF0E}\u{200B}\u{2100}".contains(c);
        if text.contains(is_odd) {
            return None;
        }
        // A key stands as a segment; any other call stays as it is.
        match text.find('(') {
            Some(open)
                if open > 0
                    && text[..open].chars().all(|c| c.is_ascii_alphanumeric() || "_.$".contains(c))
                    && !text.starts_with(|c: char| c.is_ascii_digit() || c == '.') =>
            {
                let inner = text.get(open + 1..text.len() - 1).filter(|_| text.ends_with(')'))?;
                match inner.strip_prefix('\'') {
                    Some(key) => {
                        let key = key.strip_suffix('\'')?;
                        if key.is_empty() || key.contains(['\'', '(', ')']) || key.starts_with('$') {
                            return None;
                        }
                        segments.push(text[..open].to_owned());
                        segments.push(key.to_owned());
                    }
                    None if inner.contains('@') || inner.matches('\'').count() % 2 == 1 => return None,
                    None => segments.push(text),
                }
            }
            _ => segments.push(text),
        }
    }
    let batch = segments.iter().position(|segment| segment == "$batch");
    let is_fine = |segment: &String| {
        !segment.is_empty()
            && !segment.ends_with('.')
            && !segment.ends_with(' ')
            && (!segment.starts_with('$')
                || ["$value", "$count", "$ref", "$metadata", "$batch"].contains(&segment.as_str()))
    };
    let batch_is_fine = batch.is_none_or(|at| at == 1 && segments.len() == 2);
    (!segments.is_empty() && segments.iter().all(is_fine) && batch_is_fine).then_some(segments)
}

/// Whether a rule covers these segments, by the words.
fn covers(rule: &str, method: &str, base: &str, segments: &[String]) -> bool {
    let (head, wanted) = rule.split_once(":/").expect("a rule");
    if head != format!("{method} {base}") {
        return false;
    }
    let path = segments.join("/");
    match wanted.strip_suffix('*') {
        None => path == wanted,
        Some(prefix) => {
            let mut before = 0;
            path.starts_with(prefix)
                && segments.iter().all(|segment| {
                    let begins_at = before;
                    before += segment.len() + 1;
                    let lower = segment.to_lowercase();
                    ["microsoft.", "graph."].iter().all(|namespace| {
                        !lower.starts_with(namespace) || prefix.len() >= begins_at + namespace.len()
                    })
                })
        }
    }
}

/// What a query reads beside its path; `None` if it is refused.
fn expanded(query: &str) -> Option<Vec<&'static str>> {
    match query {
        "" | "$top=1" => Some(vec![]),
        "$expand=contacts" => Some(vec!["contacts"]),
        "%24Expand=messages" => Some(vec!["messages"]),
        "expand=a($expand=b)" => Some(vec!["a", "a/b"]),
        "$expand=graph.user" => Some(vec!["graph.user"]),
        _ => None,
    }
}

fn agree(seed: u64, questions: usize) {
    let dice = Dice(SeededRandom::new(seed));
    let (mut yes, mut no, mut odd) = (0, 0, 0);
    for number in 0..questions {
        let (method, base) = (
            dice.one(&["GET", "GET", "GET", "POST", "DELETE"]),
            dice.one(&["graph", "graph", "graph", "other"]),
        );
        let (path, query) = (dice.path(), dice.one(QUERIES));
        let rules: Vec<&str> = (0..1 + dice.below(3)).map(|_| dice.one(RULES)).collect();
        let expected = segments(&path).zip(expanded(query)).map(|(path, read)| {
            let is_covered =
                |method: &str, path: &[String]| rules.iter().any(|rule| covers(rule, method, base, path));
            let below = |navigation: &str| {
                path.iter().cloned().chain(navigation.split('/').map(str::to_owned)).collect::<Vec<_>>()
            };
            is_covered(method, &path) && read.iter().all(|navigation| is_covered("GET", &below(navigation)))
        });
        let parsed: Vec<RelayRule> =
            rules.iter().map(|rule| RelayRule::parse(rule).expect("a rule")).collect();
        let known = Method::parse(method).expect("a method");
        let is_covered = |method, base: &str, path: &CanonicalPath| {
            parsed.iter().any(|rule| rule.covers(method, base, path))
        };
        let asked = Asked::read(known, base, &path, Some(query)).ok();
        let answer = asked.as_ref().map(|asked| asked.judge(is_covered).is_ok());
        assert_eq!(
            answer, expected,
            "seed {seed}, question {number}: {method} {base}:{path}?{query} by {rules:?}"
        );
        // What was judged is what is sent.
        if let Some(asked) = asked {
            let target = asked.target();
            let (path, query) =
                target.split_once('?').map_or((target.as_str(), None), |(path, query)| (path, Some(query)));
            assert_eq!(Asked::read(known, base, path, query).as_ref(), Ok(&asked), "{target}");
        }
        *match expected {
            Some(true) => &mut yes,
            Some(false) => &mut no,
            None => &mut odd,
        } += 1;
    }
    // Every answer is there, and none is rare.
    for times in [yes, no, odd] {
        assert!(times > questions / 40, "{yes} yes, {no} no, {odd} odd");
    }
}

/// A rule's path, or what a path begins with.
fn rule_of(dice: &Dice) -> Option<(String, RelayRule)> {
    const PIECES: &[&str] = &[
        "v1.0",
        "me",
        "messages",
        "users",
        "4711",
        "graph.user",
        "Microsoft.Graph.user",
        "micro",
        "delta()",
    ];
    let path: String = (0..1 + dice.below(4)).map(|_| format!("/{}", dice.one(PIECES))).collect();
    let path = match dice.below(2) {
        0 => path,
        _ => format!("{}*", &path[..1 + dice.below(path.len())]),
    };
    let (method, base) = (dice.one(&["GET", "GET", "GET", "POST"]), dice.one(&["graph", "graph", "other"]));
    let text = format!("{method} {base}:{path}");
    RelayRule::parse(&text).ok().map(|rule| (text, rule))
}

/// A rule that is included in another covers no request that the other does not, by the words; and of one
/// that is not included there is a request to show for it.
fn includes_nothing_more(seed: u64, questions: usize) {
    let dice = Dice(SeededRandom::new(seed));
    let (mut yes, mut no) = (0, 0);
    for number in 0..questions {
        let (Some((one, known)), Some((other, part))) = (rule_of(&dice), rule_of(&dice)) else { continue };
        let (head, wanted) = other.split_once(":/").expect("a rule");
        let (method, base) = head.split_once(' ').expect("a base");
        let is_beyond = |path: &str| {
            segments(path)
                .is_some_and(|path| covers(&other, method, base, &path) && !covers(&one, method, base, &path))
        };
        let is_included = known.includes(&part);
        if is_included {
            for _ in 0..4 {
                let path = dice.path();
                assert!(!is_beyond(&path), "seed {seed}, question {number}: {one} | {other} | {path}");
            }
        }
        let begin = format!("/{}", wanted.trim_end_matches('*'));
        let ends: &[&str] = match wanted.ends_with('*') {
            true => &["", "x", "/x", "0/me/messages", ")", "x)"],
            false => &[""],
        };
        let shown = ends.iter().any(|end| is_beyond(&format!("{begin}{end}")));
        assert_eq!(shown, !is_included, "seed {seed}, question {number}: {one} | {other}");
        *if is_included { &mut yes } else { &mut no } += 1;
    }
    for times in [yes, no] {
        assert!(times > questions / 100, "{yes} yes, {no} no");
    }
}

#[test]
fn a_rule_includes_what_the_words_say_and_no_more() {
    includes_nothing_more(4711, 50_000);
}

#[test]
fn random_requests_are_judged_as_the_words_say() {
    agree(4711, 20_000);
}

/// `make policy`
#[test]
#[ignore = "a minute: make policy"]
fn a_million_random_requests_are_judged_as_the_words_say() {
    for seed in 0..10 {
        agree(seed, 100_000);
        includes_nothing_more(seed, 100_000);
    }
}
