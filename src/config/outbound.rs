//! `[outbound]`, and the proxies from the environment that replace it.

use std::collections::BTreeMap;

use super::context::{Context, Leaf, Section, pair};
use super::mistakes::{Finding, Place, Topic};
use super::sections::{AppConfig, OutboundConfig};
use super::url::{HttpUrl, UrlError};
use crate::domain::proxy::{Exception, Proxy, Routes};

/// Reads the section and the environment. A bad variable is a mistake only if an app would use it.
pub(super) fn outbound<'a>(
    section: &Section<'_>,
    context: &Context,
    env: &BTreeMap<String, String>,
    apps: impl Iterator<Item = &'a AppConfig> + Clone,
) -> Option<OutboundConfig> {
    let configured = section.text("proxy").map(|leaf| match proxy(leaf.value, "outbound.proxy") {
        Ok(proxy) => Some(proxy),
        Err(problem) => {
            leaf.mistake(problem);
            None
        }
    });
    let (is_configured, proxy) = (configured.is_some(), configured.flatten());
    let from_environment = |https: bool, names: [&str; 2]| {
        let (name, value) = variable(env, names).filter(|_| !is_configured)?;
        // A variable may name a proxy without its scheme.
        let text = if value.contains("://") { value.to_owned() } else { format!("http://{value}") };
        match self::proxy(&text, name) {
            Ok(proxy) => Some(proxy),
            Err(problem) => {
                if apps.clone().any(|app| app.authority.is_https() == https) {
                    context.mistake(at_variable(name, problem));
                }
                None
            }
        }
    };
    let https = proxy.clone().or_else(|| from_environment(true, ["HTTPS_PROXY", "https_proxy"]));
    let http = proxy.or_else(|| from_environment(false, ["HTTP_PROXY", "http_proxy"]));
    let routes = Routes { https, http, exceptions: exceptions(section, context, env, is_configured) };

    pair(section, "proxy_username", "proxy_password_file");
    let is_named = is_configured || routes.https.is_some() || routes.http.is_some();
    let any = |is: fn(&Proxy) -> bool| routes.https.iter().chain(&routes.http).any(is);
    if let Some(leaf) = section.text("proxy_username") {
        if leaf.value.contains(':') {
            leaf.mistake("must not hold a colon: it ends the name in a login (RFC 7617)");
        } else if !is_named {
            leaf.warning("has no effect: neither `proxy` nor `HTTPS_PROXY` names a proxy");
        } else if any(|proxy| !proxy.tls && !super::url::is_loopback_host(&proxy.host)) {
            leaf.warning(
                "is sent to the proxy together with its password, where both can be read on the way; a \
                 proxy at `https://` is safe from that",
            );
        }
    }
    if let Some(leaf) = section.text("proxy_ca_file").filter(|_| !any(|proxy| proxy.tls)) {
        leaf.warning("has no effect: only a proxy at `https://` shows a certificate of its own");
    }
    Some(OutboundConfig {
        routes,
        proxy_username: section.string("proxy_username"),
        proxy_password_file: section.path("proxy_password_file"),
        proxy_ca_file: section.path("proxy_ca_file"),
    })
}

/// Returns the configured exceptions, or the environment's if the configuration does not mention proxies.
fn exceptions(
    section: &Section<'_>,
    context: &Context,
    env: &BTreeMap<String, String>,
    is_configured: bool,
) -> Vec<Exception> {
    if section.node("no_proxy").is_some() || is_configured {
        let read = |leaf: Leaf<'_, &str>| {
            let exception = Exception::parse(leaf.value);
            if exception.is_none() {
                leaf.mistake(
                    "must be a domain such as \".contoso.com\", an address, a network such as \
                     \"127.0.0.0/8\", or \"*\"; each may end in `:port`",
                );
            }
            exception
        };
        return section.texts("no_proxy").into_iter().filter_map(read).collect();
    }
    let Some((name, value)) = variable(env, ["NO_PROXY", "no_proxy"]) else { return Vec::new() };
    let entries = value.split([',', ' ']).map(str::trim).filter(|entry| !entry.is_empty());
    let read = |entry| {
        let exception = Exception::parse(entry);
        if exception.is_none() {
            // The variable is shared by all programs of the machine, and others may understand the entry.
            context.warn(at_variable(
                name,
                format!("{entry:?} is no domain, address or network, and is left out of account"),
            ));
        }
        exception
    };
    entries.filter_map(read).collect()
}

/// Parses a proxy's URL. The messages never repeat it: it may have a password.
fn proxy(text: &str, named_by: &str) -> Result<Proxy, String> {
    if text.split_once("://").is_some_and(|(scheme, _)| scheme.to_ascii_lowercase().starts_with("socks")) {
        return Err(
            "is a SOCKS proxy, which is not supported: name one that knows CONNECT (`http://host:port`)"
                .to_owned(),
        );
    }
    if text.contains('@') {
        return Err("must not hold a user or a password, for secrets are files: write `proxy_username` and \
            `proxy_password_file` into [outbound]; replace this password, since it has been written \
            down"
            .to_owned());
    }
    let url = HttpUrl::parse(text).map_err(|error| match error {
        UrlError::NotAbsolute => "must begin with `http://` or `https://`".to_owned(),
        other => other.to_string(),
    })?;
    if !matches!(url.path(), "" | "/") || url.query().is_some() {
        return Err("must end with the host and its port".to_owned());
    }
    Ok(Proxy {
        tls: url.is_https(),
        host: url.host().to_owned(),
        port: url.port(),
        named_by: named_by.to_owned(),
    })
}

/// Returns the first of these variables that is not empty.
fn variable<'a>(env: &'a BTreeMap<String, String>, names: [&'a str; 2]) -> Option<(&'a str, &'a str)> {
    let said = |name: &'a str| env.get(name).map(|value| value.trim()).filter(|value| !value.is_empty());
    names.into_iter().find_map(|name| said(name).map(|value| (name, value)))
}

fn at_variable(name: &str, problem: String) -> Finding {
    Finding {
        place: Place::Variable(name.to_owned()),
        key: String::new(),
        problem,
        nearest: None,
        topic: Topic::Other,
    }
}

impl OutboundConfig {
    /// Describes the way to an authority.
    pub fn way_to(&self, url: &HttpUrl) -> String {
        let routes = &self.routes;
        match routes.proxy_for(url.is_https(), url.host(), url.port()) {
            Some(proxy) => format!("through the proxy {proxy}"),
            None if if url.is_https() { &routes.https } else { &routes.http }.is_some() => {
                "directly, as no_proxy says".to_owned()
            }
            None => "directly".to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use crate::config::{Loaded, load};

    const HTTPS: &str = "https://login.example";

    /// The section, the environment, and the result.
    type Row<'a> = (&'a str, &'a [(&'a str, &'a str)], &'a str);

    fn read(section: &str, authority: &str, env: &[(&str, &str)]) -> Result<Loaded, Vec<String>> {
        let text = format!(
            "[outbound]\n{section}\n[apps.a]\nclient_id = \"c\"\nauthority = \"{authority}\"\nprovider = \
             \"openid\"\nscopes = [\"openid\"]\n"
        );
        let env = env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        load(&text, &env, Path::new("/etc/tokenward/t.toml"))
            .map_err(|errors| errors.mistakes.iter().map(ToString::to_string).collect())
    }

    fn way(section: &str, authority: &str, env: &[(&str, &str)]) -> String {
        let loaded = read(section, authority, env).expect("a good configuration");
        loaded.config.outbound.way_to(&loaded.config.apps["a"].authority)
    }

    #[test]
    fn the_configuration_counts_before_the_environment() {
        const ENV: &[(&str, &str)] = &[("HTTPS_PROXY", "http://env:1"), ("NO_PROXY", ".example")];
        const PROXY: &[(&str, &str)] = &[ENV[0]];
        const KEY: &str = "proxy = \"http://Proxy:3128/\"";
        let rows: &[Row<'_>] = &[
            ("", &[], "directly"),
            ("", PROXY, "through the proxy env:1 (HTTPS_PROXY)"),
            ("", &[("https_proxy", "env:8")], "through the proxy env:8 (https_proxy)"),
            (
                "",
                &[("HTTPS_PROXY", " "), ("https_proxy", "https://env")],
                "through the proxy env:443 (https_proxy)",
            ),
            ("", &[("HTTP_PROXY", "http://env:1")], "directly"),
            ("", ENV, "directly, as no_proxy says"),
            ("", &[ENV[0], ("no_proxy", "a.test, *")], "directly, as no_proxy says"),
            ("no_proxy = []", ENV, "through the proxy env:1 (HTTPS_PROXY)"),
            ("no_proxy = [\"*\"]", PROXY, "directly, as no_proxy says"),
            (KEY, ENV, "through the proxy proxy:3128 (outbound.proxy)"),
        ];
        for (section, env, expected) in rows {
            assert_eq!(way(section, HTTPS, env), *expected, "{section} {env:?}");
        }
        let except = format!("{KEY}\nno_proxy = [\"login.example:443\"]");
        assert_eq!(way(&except, HTTPS, &[]), "directly, as no_proxy says");
        // http is only for this machine; a configured proxy is used for it too.
        let local = "http://127.0.0.1:9";
        assert_eq!(way("", local, &[("http_proxy", "env:1")]), "through the proxy env:1 (http_proxy)");
        assert_eq!(way("", local, ENV), "directly");
        assert_eq!(way(KEY, local, &[]), "through the proxy proxy:3128 (outbound.proxy)");
        assert_eq!(
            way(&format!("{KEY}\nno_proxy = [\"127.0.0.0/8\"]"), local, &[]),
            "directly, as no_proxy says"
        );
    }

    #[test]
    fn mistakes_name_the_key_or_the_variable_and_never_a_password() {
        let rows: &[Row<'_>] = &[
            (
                "proxy = \"http://u:canary@p:1\"",
                &[],
                "t.toml:2:9: outbound.proxy: must not hold a user or a password",
            ),
            (
                "",
                &[("HTTPS_PROXY", "u:canary@p:1")],
                "environment HTTPS_PROXY: must not hold a user or a password",
            ),
            ("proxy = \"p:3128\"", &[], "outbound.proxy: must begin with `http://` or `https://`"),
            ("proxy = \"socks5://p:1080\"", &[], "outbound.proxy: is a SOCKS proxy"),
            ("", &[("https_proxy", "socks5h://p:1080")], "environment https_proxy: is a SOCKS proxy"),
            ("", &[("HTTPS_PROXY", "http://")], "environment HTTPS_PROXY: has no valid host name"),
            ("proxy = \"http://p:1/path\"", &[], "outbound.proxy: must end with the host and its port"),
            ("no_proxy = [\"10.0.0.0/33\"]", &[], "outbound.no_proxy[0]: must be a domain"),
            ("proxy_username = \"u\"", &[], "outbound.proxy_username: needs `proxy_password_file` beside it"),
            ("proxy_password = \"canary\"", &[], "outbound.proxy_password: "),
            (
                "proxy_username = \"a:b\"\nproxy_password_file = \"p\"",
                &[],
                "outbound.proxy_username: must not hold a colon",
            ),
        ];
        for (section, env, expected) in rows {
            let mistakes = read(section, HTTPS, env).expect_err("a mistake");
            assert_eq!(mistakes.len(), 1, "{mistakes:?}");
            assert!(mistakes[0].contains(expected), "{} does not say {expected}", mistakes[0]);
            assert!(!mistakes[0].contains("canary"), "{}", mistakes[0]);
        }
        // A variable that no app uses does no harm.
        let unused = [("HTTP_PROXY", "socks5://u:canary@p")];
        assert_eq!(way("", HTTPS, &unused), "directly");
    }

    #[test]
    fn what_is_odd_is_said() {
        let rows: &[Row<'_>] = &[
            (
                "",
                &[("HTTPS_PROXY", "p:1"), ("NO_PROXY", "<local>,.a.test")],
                "environment NO_PROXY: \"<local>\"",
            ),
            ("proxy_username = \"u\"\nproxy_password_file = \"p\"", &[], "proxy_username: has no effect"),
            (
                "proxy = \"http://p:1\"\nproxy_username = \"u\"\nproxy_password_file = \"p\"",
                &[],
                "proxy_username: is sent to the proxy",
            ),
            ("proxy = \"http://p:1\"\nproxy_ca_file = \"p\"", &[], "proxy_ca_file: has no effect"),
        ];
        for (section, env, expected) in rows {
            let loaded = read(section, HTTPS, env).expect("good");
            assert!(
                loaded.warnings.iter().any(|warning| warning.to_string().contains(expected)),
                "{:?}",
                loaded.warnings
            );
        }
    }
}
