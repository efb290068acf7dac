//! What `serve` tells a person at a terminal once it serves: where everything is, and what to do next. The
//! log stays the same; a daemon whose standard error is no terminal says nothing of this.

use std::io::{self, IsTerminal, Write};
use std::path::Path;

use crate::config::{Config, Listener, PLACEHOLDER_CLIENT_ID, StoreBackend};

/// Returns what to say, if a person is there to read it.
pub(super) fn prepare(config: &Config, path: &Path) -> Option<String> {
    io::stderr().is_terminal().then(|| text(config, path))
}

/// Says it.
pub(super) fn say(text: &str) {
    // As with the log: who cannot be told is served all the same.
    let _untold = io::stderr().write_all(text.as_bytes());
}

fn text(config: &Config, path: &Path) -> String {
    let listen = &config.listen;
    let store = match &config.store.backend {
        StoreBackend::Embedded { path } => format!("embedded, in {}", path.display()),
        StoreBackend::Redis(redis) => redis.place(),
    };
    let mut rows = vec![
        ("store", store),
        ("browsers", format!("{} (listens on {})", listen.public.base_url, listen.public.address)),
        ("callers", addresses(&listen.local)),
        ("operators", addresses(&listen.admin)),
        ("metrics", format!("http://{}/metrics", listen.ops.address)),
    ];
    let mut next = Vec::new();
    for (name, app) in &config.apps {
        let uri = config.redirect_uri(name).unwrap_or_default();
        rows.push(("app", format!("{name}, with the redirect URI {uri}")));
        if app.client_id == PLACEHOLDER_CLIENT_ID {
            next.push(format!(
                "Put the client id of app {name} into {}: it is a placeholder.",
                path.display()
            ));
        }
    }
    if let (Some(app), true) = (config.apps.keys().next(), next.is_empty()) {
        next.push(format!(
            "Next, in another terminal: tokenward connect {app} NAME --config {}",
            path.display()
        ));
    }
    let rows = rows.iter().map(|(what, value)| format!("  {what:<10} {value}\n")).collect::<String>();
    let next = next.iter().map(|line| format!("{line}\n")).collect::<String>();
    let text =
        format!("\nServing as tokenward {}; Ctrl-C stops it.\n{rows}{next}\n", env!("CARGO_PKG_VERSION"));
    // Paths come from the file: none moves the terminal.
    text.chars()
        .flat_map(|c| match c {
            '\n' => vec![c],
            c if c.is_control() => c.escape_unicode().collect(),
            c => vec![c],
        })
        .collect()
}

fn addresses(listeners: &[Listener]) -> String {
    let one = |listener: &Listener| match listener {
        Listener::Unix { path, .. } => format!("unix:{}", path.display()),
        Listener::Tcp { address, tls: None, .. } => format!("http://{address}"),
        Listener::Tcp { address, tls: Some(_), .. } => format!("https://{address}"),
    };
    listeners.iter().map(one).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;

    #[test]
    fn a_person_reads_where_everything_is_and_what_comes_next() {
        let file = |client_id: &str| {
            let text = format!(
                "[store]\nkind = \"embedded\"\npath = \"/tmp/ab\"\n[apps.outlook]\nclient_id = \
                 \"{client_id}\"\nauthority = \"https://login.microsoftonline.com/organizations/v2.0\"\nscopes = \
                 [\"Mail.Read\", \"offline_access\"]\n"
            );
            let path = Path::new("/etc/t.toml");
            let loaded = config::load(&text, &Default::default(), path);
            super::text(&loaded.unwrap_or_else(|errors| panic!("{errors}")).config, path)
        };
        let at = |text: &str| {
            let loaded = config::load(text, &Default::default(), Path::new("/etc/t.toml"));
            super::text(&loaded.unwrap_or_else(|errors| panic!("{errors}")).config, Path::new("/etc/t.toml"))
        };
        let said = file("11111111-2222-3333-4444-555555555555");
        for part in [
            "  store      embedded, in /tmp/ab\n",
            "  browsers   http://localhost:8080 (listens on 127.0.0.1:8080)\n",
            "unix:/run/tokenward/tokenward.sock, http://127.0.0.1:7070\n",
            "  app        outlook, with the redirect URI http://localhost:8080/callback/outlook\n",
            "tokenward connect outlook NAME --config /etc/t.toml\n",
        ] {
            assert!(said.contains(part), "{part}: {said}");
        }
        let said = at("store.kind = \"redis\"\nstore.url = \"redis+sentinel://r:26379,s:26379/main\"\n");
        let place = "  store      Redis, the primary main of the sentinels at r:26379, s:26379\n";
        assert!(said.contains(place), "{said}");
        let said = file(PLACEHOLDER_CLIENT_ID);
        assert!(
            said.contains("client id of app outlook into /etc/t.toml") && !said.contains("Next"),
            "{said}"
        );
    }
}
