//! The text of a daemon's configuration: one app, its listeners, and callers with API keys.

#![allow(unreachable_pub, missing_docs, dead_code, reason = "shared by tests, benches and the quickstart")]

pub const CLIENT_ID: &str = "11111111-2222-3333-4444-555555555555";

/// The parts that configurations differ in. Each stands in the file as it is.
pub struct ConfigText<'a> {
    /// Lines of `[store]`.
    pub store: &'a str,
    /// Folder of the keyring, the client secret and the API keys, with its last slash; empty for the
    /// configuration's own.
    pub folder: &'a str,
    /// More lines of `[audit]`.
    pub audit: &'a str,
    pub log_level: &'a str,
    pub public_port: u16,
    /// Port of the base URL.
    pub base_port: u16,
    /// Address of the local API.
    pub local: &'a str,
    /// Address of the operations listener.
    pub ops: &'a str,
    pub authority: &'a str,
    pub scopes: &'a str,
    /// More lines of `[apps.outlook]`.
    pub app: &'a str,
    /// The app's credentials; by default the secret in the file `client-secret`.
    pub credentials: Option<&'a str>,
    /// Callers (see [`caller`]) and more sections.
    pub sections: &'a str,
}

impl Default for ConfigText<'_> {
    fn default() -> Self {
        ConfigText {
            store: "kind = \"embedded\"\npath = \"data\"",
            folder: "",
            audit: "",
            log_level: "info",
            public_port: 0,
            base_port: 0,
            local: "127.0.0.1:0",
            ops: "127.0.0.1:0",
            authority: "",
            scopes: r#"["offline_access", "openid", "profile", "User.Read", "Mail.Read"]"#,
            app: "",
            credentials: None,
            sections: "",
        }
    }
}

impl ConfigText<'_> {
    pub fn text(&self) -> String {
        let ConfigText { store, folder, audit, log_level, public_port, base_port, local, ops, .. } = self;
        let ConfigText { authority, scopes, app, credentials, sections, .. } = self;
        let secret = format!(
            "[[apps.outlook.credentials]]\nid = \"first\"\nkind = \"secret\"\nfile = \"{folder}client-secret\"\n"
        );
        let credentials = credentials.unwrap_or(&secret);
        format!(
            r#"
[store]
{store}
[sealing]
keyring = "{folder}keyring"
[audit]
path = "audit.jsonl"
{audit}
[log]
level = "{log_level}"
[listen.public]
address  = "127.0.0.1:{public_port}"
base_url = "http://localhost:{base_port}"
[[listen.local]]
address = "{local}"
[[listen.admin]]
unix = "admin.sock"
[listen.ops]
address = "{ops}"

[apps.outlook]
client_id     = "{CLIENT_ID}"
authority     = "{authority}"
scopes        = {scopes}
{app}
{credentials}
{sections}
"#
        )
    }
}

/// Returns the sections of a caller with the API keys in `keys`, and with `rule` for the app.
pub fn caller(name: &str, keys: &str, rule: &str) -> String {
    format!(
        r#"[callers.{name}]
authenticate = [{{ api_keys = "{keys}" }}]
[[callers.{name}.allow]]
app         = "outlook"
{rule}"#
    )
}

/// A rule for connections of any name, with all scopes.
pub const EVERYTHING: &str = r#"connections = ["*"]
bulk        = true
scopes      = ["*"]
connect     = true
"#;
