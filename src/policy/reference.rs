//! What the contract says a caller may have, once more and as simply as possible: on the words of the
//! configuration, with nothing of the room.

/// The words of one `[[callers.NAME.allow]]`.
#[derive(Debug, Clone, Default)]
pub(super) struct Words<'a> {
    pub(super) app: &'a str,
    pub(super) connections: Vec<&'a str>,
    pub(super) scopes: Vec<&'a str>,
    pub(super) relay: Vec<&'a str>,
    pub(super) app_only: Vec<&'a str>,
    pub(super) resources: Vec<&'a str>,
    pub(super) connect: bool,
    pub(super) bulk: bool,
}

/// What is asked for: a token of a connection with a scope, to connect it, to have a request relayed with its
/// token (method, base and canonical path, as rules write them), or a token of the app itself.
#[derive(Debug, Clone, Copy)]
pub(super) enum Wish<'a> {
    Token { name: &'a str, of_tenant: &'a str, scope: &'a str },
    Connect { name: &'a str, of_tenant: &'a str },
    Relay { name: &'a str, of_tenant: &'a str, request: &'a str },
    AppToken { tenant: &'a str, resource: &'a str },
}

/// A bare scope is Microsoft Graph's, case is ignored, and so are a slash and `/.default` at a resource's
/// end.
fn plain(word: &str) -> String {
    let word = word.to_lowercase();
    let word = word.strip_prefix("https://graph.microsoft.com/").unwrap_or(&word);
    word.trim_end_matches("/.default").trim_end_matches('/').to_owned()
}

/// The answer: `yes`, or the code of the refusal.
pub(super) fn judge(rules: &[Words<'_>], app: &str, wish: Wish<'_>) -> &'static str {
    let of_app: Vec<&Words<'_>> = rules.iter().filter(|rule| rule.app == app).collect();
    let means = |rule: &Words<'_>, word: &str| word != "*" || rule.bulk;
    let knows =
        |rule: &Words<'_>| rule.connections.iter().chain(&rule.app_only).any(|word| means(rule, word));
    if !of_app.iter().any(|rule| knows(rule)) {
        return "app_not_found";
    }
    let covers = |rule: &Words<'_>, name: &str, of_tenant: &str| {
        rule.connections.iter().filter(|word| means(rule, word)).any(|word| match word.strip_suffix('*') {
            _ if word.starts_with("tenant:") => !of_tenant.is_empty() && word[7..] == *of_tenant,
            Some(prefix) => name.starts_with(prefix),
            None => *word == name,
        })
    };
    let covering = |name, of_tenant| of_app.iter().filter(move |rule| covers(rule, name, of_tenant));
    let (found, is_given) = match wish {
        Wish::Token { name, of_tenant, scope } => {
            let gives = |word: &&str| *word == "*" || plain(word) == plain(scope);
            let mut covering = covering(name, of_tenant).peekable();
            (covering.peek().is_some(), covering.any(|rule| rule.scopes.iter().any(&gives)))
        }
        Wish::Connect { name, of_tenant } => {
            let mut covering = covering(name, of_tenant).peekable();
            (covering.peek().is_some(), covering.any(|rule| rule.connect))
        }
        Wish::Relay { name, of_tenant, request } => {
            let has = |word: &&str| match word.strip_suffix('*') {
                Some(beginning) => request.starts_with(beginning),
                None => *word == request,
            };
            let mut covering = covering(name, of_tenant).peekable();
            (covering.peek().is_some(), covering.any(|rule| rule.relay.iter().any(&has)))
        }
        Wish::AppToken { tenant, resource } => {
            let in_tenant = |rule: &Words<'_>| {
                rule.app_only.iter().any(|word| means(rule, word) && (*word == "*" || *word == tenant))
            };
            let of_it = |rule: &Words<'_>| rule.resources.iter().any(|word| plain(word) == plain(resource));
            (true, of_app.iter().any(|rule| in_tenant(rule) && of_it(rule)))
        }
    };
    match (found, is_given) {
        (false, _) => "connection_not_found",
        (true, false) => "caller_forbidden",
        (true, true) => "yes",
    }
}
