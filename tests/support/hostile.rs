//! Texts that are slow to parse, by grammar. Each list begins with plain text of the same size, for
//! comparison.

#![allow(
    unreachable_pub,
    missing_docs,
    dead_code,
    reason = "shared by tests, each of which uses a part of it"
)]

/// Texts with their descriptions.
pub type Texts = Vec<(&'static str, String)>;

/// Returns as many pieces as fit into `size` bytes.
pub fn fill(size: usize, mut piece: impl FnMut(usize) -> String) -> String {
    let mut text = String::with_capacity(size);
    for at in 0.. {
        let piece = piece(at);
        if text.len() + piece.len() > size {
            break;
        }
        text.push_str(&piece);
    }
    text
}

/// Returns a repeated piece.
pub fn again(size: usize, piece: &str) -> String {
    piece.repeat(size / piece.len())
}

/// Returns a short name for a number.
pub fn name(at: usize) -> String {
    const DIGITS: &[u8; 36] = b"abcdefghijklmnopqrstuvwxyz0123456789";
    let (mut at, mut name) = (at, String::new());
    loop {
        name.push(char::from(DIGITS[at % 36]));
        at /= 36;
        if at == 0 {
            return name;
        }
    }
}

/// A query or a form.
pub fn parameters(size: usize) -> Texts {
    let within = |piece: &str| format!("scope={}", again(size - 6, piece));
    let alike = |at: usize| format!("{}{at:02}=&", "a".repeat(size / 64 - 5));
    vec![
        ("plain", within("a")),
        ("many names", fill(size, |at| format!("{}=&", name(at)))),
        ("names without a value", fill(size, |at| format!("{}&", name(at)))),
        (
            "64 names that begin alike",
            (0..64).map(alike).collect::<String>().trim_end_matches('&').to_owned(),
        ),
        ("one name again", again(size, "a&")),
        ("separators", again(size, "&")),
        ("equals", again(size, "=")),
        ("escapes", within("%61")),
        ("escapes that are no text", within("%ff")),
        ("half escapes", within("%")),
        ("words", format!("scope={}", fill(size - 6, |at| format!("{}+", name(at))))),
        ("blanks", within("+")),
        ("a relay", format!("relay={}", again(size - 6, "A"))),
    ]
}

/// Returns a query with all known parameters.
pub fn known_parameters(size: usize) -> Texts {
    const KNOWN: [&str; 8] =
        ["scope", "resource", "min_ttl", "connect", "status", "tenant", "cursor", "wait"];
    let each = |value: String| KNOWN.map(|name| format!("{name}={value}")).join("&");
    let room = size / KNOWN.len() - 10;
    vec![("plain", each(again(room, "a"))), ("words", each(fill(room, |at| format!("{}+", name(at)))))]
}

/// Returns a JSON object with a known member of this name; `plain` is an allowed value, including quotes.
pub fn json(size: usize, member: &str, plain: (&str, &str)) -> Texts {
    let within = |open: &str, inner: String, close: &str| format!("{{\"{member}\":{open}{inner}{close}}}");
    let room = size - member.len() - 16;
    let numbered =
        |piece: fn(String) -> String| fill(room, |at| piece(name(at))).trim_end_matches(',').to_owned();
    vec![
        ("plain", within(plain.0, again(room, "a"), plain.1)),
        ("members", format!("{{{}}}", numbered(|name| format!("\"{name}\":0,")))),
        ("members within", within("{", numbered(|name| format!("\"{name}\":0,")), "}")),
        ("members of a text", within("\"{", numbered(|name| format!("\\\"{name}\\\":0,")), "}\"")),
        (
            "one member again",
            format!("{{{}}}", fill(room, |_| format!("\"{member}\":\"\",")).trim_end_matches(',')),
        ),
        ("depth of lists", within("", again(room, "["), "")),
        ("depth of objects", within("", again(room, "{\"a\":"), "")),
        ("a list of texts", within("[", numbered(|name| format!("\"{name}\",")), "]")),
        ("words", within("\"", numbered(|name| format!("{name} ")), "\"")),
        ("escapes", within("\"", again(room, "\\u0061"), "\"")),
        ("digits", within("", again(room, "1"), "")),
        ("lines", within("", again(room - 4, "\n"), "null")),
    ]
}
