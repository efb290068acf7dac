//! Mistakes in a configuration, one in each row: the text, and the expected message. `check`, `serve` and the
//! reading of the configuration are all tested with this one table.

/// A file beside the configuration, or a folder if its name ends with a slash.
pub struct Beside {
    pub name: &'static str,
    pub content: Vec<u8>,
    pub mode: u32,
}

/// A configuration with one mistake.
pub struct Row {
    pub config: String,
    pub files: Vec<Beside>,
    /// Part of the printed line, without the configuration's path: `3:12: apps.a.client_id: is …`.
    pub says: &'static str,
}

impl Row {
    /// Returns true if the configuration's text shows the mistake, without any file beside it and before
    /// anything is built from it.
    pub fn is_of_words(&self) -> bool {
        !self.config.starts_with(READABLE)
    }
}

/// The beginning of a readable configuration: the mistake is in its meaning or its files.
const READABLE: &str = "sealing.keyring = \"ring\"\n";

const APP: &str = r#"
[apps.outlook]
client_id = "11111111-2222-3333-4444-555555555555"
authority = "https://login.microsoftonline.com/common/v2.0"
scopes = ["offline_access", "openid", "Mail.Read"]
credentials_dir = "credentials"
"#;

/// Every row.
pub fn rows() -> Vec<Row> {
    let mut rows = Vec::new();
    let mut words = |config: String, says: &'static str| rows.push(Row { config, files: Vec::new(), says });
    for (text, says) in
        SYNTAX.iter().chain(KEYS).chain(KINDS).chain(SECRETS).chain(OUTBOUND).chain(LISTENERS).chain(STORES)
    {
        words((*text).to_owned(), says);
    }
    for (url, says) in URLS {
        words(format!("[store]\nkind = \"redis\"\nurl = \"{url}\"\n"), says);
    }
    for (lines, says) in APPS {
        words(format!("{APP}{lines}\n"), says);
    }
    for (from, to, says) in REPLACED {
        words(APP.replace(from, to), says);
    }
    for (list, says) in CREDENTIALS {
        words(APP.replace("credentials_dir = \"credentials\"", &format!("credentials = [{list}]")), says);
    }
    for (url, says) in AUTHORITIES {
        words(APP.replace("https://login.microsoftonline.com/common/v2.0", url), says);
    }
    for (lines, says) in RULES {
        let head = "[callers.sync]\nauthenticate = [{ unix_user = \"sync\" }]\n[[callers.sync.allow]]";
        words(format!("{APP}{head}\n{lines}\n"), says);
    }
    for (item, says) in WAYS {
        words(format!("[callers.a]\nauthenticate = [{item}]"), says);
        words(format!("[admins.a]\nauthenticate = [{item}]"), says);
    }
    for (lines, says) in ISSUERS {
        words(format!("{APP}[issuers.kubernetes]\n{lines}\n"), says);
    }
    for (url, says) in ENTRA_AUTHORITIES {
        rows.push(readable(&APP.replace("https://login.microsoftonline.com/common/v2.0", url), says));
    }
    for (lines, says) in MEANT {
        rows.push(readable(lines, says));
    }
    rows
}

/// Makes a row with a readable configuration, and files with every kind of mistake.
fn readable(config: &str, says: &'static str) -> Row {
    let beside = |name, content: &[u8], mode| Beside { name, content: content.to_vec(), mode };
    let files = vec![
        beside("credentials/a@2099-01-01.secret", b"hunter2\n", 0o600),
        beside("good", b"hunter2\n", 0o600),
        beside("open", b"hunter2\n", 0o644),
        beside("empty", b"", 0o600),
        beside("lines", b"hunter2\nhunter3\n", 0o600),
        beside("marked", b"\xef\xbb\xbfhunter2\n", 0o600),
        beside("wide", b"\xff\xfeh\0u\0n\0t\0e\0r\0", 0o600),
        beside("container", b"0\x82\x01\x00\x02\x01\x03hunter", 0o600),
        beside("one-line", b"-----BEGIN CERTIFICATE----- hunter -----END CERTIFICATE-----", 0o600),
        beside("crowded/a.secret", b"hunter2", 0o600),
        beside("crowded/README", b"x", 0o600),
        beside("twice/a.secret", b"hunter2", 0o600),
        beside("twice/a@2099-01-01.secret", b"hunter2", 0o600),
        beside("writable.pem", b"hunter2", 0o666),
        beside("loose/a@2099-01-01.secret", b"hunter2", 0o600),
        beside("loose/", b"", 0o777),
        beside("sticky/a@2099-01-01.secret", b"hunter2", 0o600),
        beside("sticky/", b"", 0o1777),
    ];
    Row { config: format!("{READABLE}{config}"), files, says }
}

/// Makes an app with one more line in its table.
macro_rules! app_with {
    ($line:literal) => {
        concat!(
            "[apps.a]\nclient_id = \"11111111-2222-3333-4444-555555555555\"\n",
            "authority = \"https://login.microsoftonline.com/common/v2.0\"\n",
            "scopes = [\"offline_access\", \"openid\"]\n",
            $line
        )
    };
}

type Table = &'static [(&'static str, &'static str)];

const SYNTAX: Table = &[
    ("[store]\nkind = \"embedded\n", "2:17: not valid TOML"),
    ("[store]\nkind = \"embedded\"\nkind = \"redis\"\n", "3:1: not valid TOML"),
];

const KEYS: Table = &[
    (
        "[listen.public]\nbase-url = \"https://x.example\"\n",
        "2:1: listen.public.base-url: unknown key (did you mean `base_url`?)",
    ),
    ("[stroe]\nkind = \"embedded\"\n", "1:2: stroe: unknown key (did you mean `store`?)"),
    ("[log]\nzzzzzzzz = 1\n", "2:1: log.zzzzzzzz: unknown key"),
    ("\"a b\\n\" = 1\n", "1:1: \"a b\\n\": unknown key"),
];

const REPLACED: &[(&str, &str, &str)] = &[
    // A misspelt required key is one mistake, not two.
    ("client_id", "clientid", "3:1: apps.outlook.clientid: unknown key (did you mean `client_id`?)"),
    (
        "common/v2.0\"",
        "consumers/v2.0\"\ntenants = [\"*\"]",
        "5:11: apps.outlook.tenants: the authority `consumers` has personal accounts only: `tenants` must \
         hold \"personal\"",
    ),
];

const KINDS: Table = &[
    ("store = 1", "store: must be a table, not a number"),
    ("[apps]\noutlook = \"x\"", "2:11: apps.outlook: must be a table, not a string"),
    (
        "[callers.a]\nrate_limit = 0\nauthenticate = [{ unix_user = 1 }]",
        "2:14: callers.a.rate_limit: must be a whole number from 1 to 1000000",
    ),
    ("[callers.a]\nauthenticate = []", "authenticate: must not be empty"),
    (
        "[callers.a]\nauthenticate = [{ unix_user = true }]",
        "authenticate[0].unix_user: must be a user's name in quotes or a user id, not true or false",
    ),
    (
        "[limits]\ndrain = 1.5",
        "drain: must be a duration from \"0s\" to \"10m\", not a number with a fraction",
    ),
    ("[limits]\ndrain = \"5 m\"", "drain: must be a duration such as"),
    ("[limits]\ndrain = \"1d\"", "drain: must be from 0s to 10m"),
    ("[limits]\nauthority_timeout = \"28s\"", "authority_timeout: `lease` must be at least 5 s longer"),
    ("[limits]\nlease = \"12s\"", "limits.lease: `lease` must be at least 5 s longer"),
    ("[log]\nlevel = \"warning\"", "level: must be \"error\", \"warn\", \"info\", \"debug\" or \"trace\""),
    ("[sealing]\nkeyring = \" \"", "keyring: must not be empty"),
    (
        "[traces]\nendpoint = \"http://127.0.0.1:4318\"\nsample_ratio = 1.5",
        "3:16: traces.sample_ratio: must be a number from 0 to 1, such as 0.01",
    ),
    (
        "[traces]\nendpoint = \"http://127.0.0.1:4318\"\nsample_ratio = \"1\"",
        "sample_ratio: must be a number from 0 to 1, not a string",
    ),
    ("[traces]\nendpoint = \"collector:4318\"", "traces.endpoint: must be an absolute URL"),
    ("[traces]\nendpoint = \"https://c.example/v1/traces?key=x\"", "endpoint: must not have a query"),
    (
        "[traces]\nendpoint = \"http://c.example:4318\"\nheaders_file = \"x\"",
        "traces.headers_file: needs `https://` in `endpoint`",
    ),
    ("[sealing]\nkeyring = \"a\\u0000b\"", "keyring: must not hold control characters"),
];

const SECRETS: Table = &[
    (
        "[apps.a]\nclient_id = \"x\"\nauthority = \"https://x.example\"\nscopes = \
         [\"openid\"]\nclient_secret = \"hunter2\"",
        "`credentials` or `credentials_dir`",
    ),
    ("[store]\nkind = \"redis\"\nurl = \"rediss://r\"\npassword = \"hunter2\"", "`password_file`"),
    ("[store]\nkind = \"redis\"\nurl = \"rediss://u:hunter2@r\"", "`username` and `password_file`"),
    ("[callers.a]\nauthenticate = [{ unix_user = 1 }]\napi-key = \"hunter2\"", "`authenticate`"),
    ("[traces]\nheaders = { authorization = \"hunter2\" }", "`headers_file`"),
    ("[callers.a]\nauthenticate = [{ api_keys = \"twk_hunter2\" }]", "is an API key"),
    ("[callers.a]\nauthenticate = [{ client_assertion = {} }]", "client_assertion.jwks_file: is required"),
    (
        "[callers.a]\nauthenticate = [{ client_assertion = { jwks_file = \"a\" } }, \
        { client_assertion = { jwks_file = \"b\" } }]",
        "authenticate[1]: is a second `client_assertion`",
    ),
    ("[callers.a]\nauthenticate = [{}]", "`san`, `jwt` or `client_assertion`"),
    ("[admins.a]\nauthenticate = [{}]", "`san` or `jwt`"),
    ("[admins.a]\nauthenticate = [{ client_assertion = { jwks_file = \"a\" } }]", "client_assertion"),
    ("[[listen.admin]]\nunix = \"a\"\naccept = [\"client_assertion\"]", "the admin API has none"),
    ("[[listen.admin]]\nunix = \"a\"\naccept = [\"handles\"]", "are for the relay"),
    ("[callers.a]\nauthenticate = [{ unix_user = 1, token = \"hunter2\" }]", "`api_keys`"),
];

const OUTBOUND: Table = &[
    (
        "[outbound]\nproxy = \"http://u:hunter2@p:1\"",
        "2:9: outbound.proxy: must not hold a user or a password",
    ),
    ("[outbound]\nproxy_password = \"hunter2\"", "`proxy_password_file`"),
    ("[outbound]\nproxy = \"p:3128\"", "outbound.proxy: must begin with `http://` or `https://`"),
    ("[outbound]\nproxy = \"socks5://p:1080\"", "outbound.proxy: is a SOCKS proxy"),
    ("[outbound]\nno_proxy = [\"10.0.0.0/33\"]", "2:13: outbound.no_proxy[0]: must be a domain"),
    ("[outbound]\nproxy_username = \"u\"", "outbound.proxy_username: needs `proxy_password_file` beside it"),
    (
        app_with!("assertion_audience = \"issuer\"\n"),
        "5:22: apps.a.assertion_audience: Entra takes an assertion for its token endpoint alone",
    ),
    (app_with!("assertion_audience = \"isuer\"\n"), "(did you mean `issuer`?)"),
    (app_with!("assertion_audience = \"http://login.example\"\n"), "apps.a.assertion_audience: "),
];

const LISTENERS: Table = &[
    (
        "[[listen.local]]\naddress = \"0.0.0.0:7070\"",
        "2:11: listen.local[0].address: plain TCP is for loopback addresses only",
    ),
    ("[[listen.admin]]\naddress = \"10.0.0.1:7071\"", "plain TCP is for loopback"),
    ("[[listen.local]]\nunix = \"/a\"\naddress = \"127.0.0.1:1\"", "1:1: listen.local[0]: has both"),
    ("[[listen.local]]\n", "listen.local[0]: needs `unix`"),
    ("[listen]\nlocal = []", "listen.local: must not be empty"),
    (
        "[listen.ops]\naddress = \"127.0.0.1:8080\"",
        "listen.ops.address: the same socket as `listen.public.address`",
    ),
    (
        "[listen.public]\naddress = \"0.0.0.0:7070\"",
        "listen.public.address: the same socket as `listen.local[1].address`",
    ),
    (
        "[[listen.local]]\nunix = \"/a\"\n[[listen.local]]\nunix = \"/a\"",
        "4:8: listen.local[1].unix: the same socket as `listen.local[0].unix`",
    ),
    ("[[listen.local]]\nunix = \"/a\"\nmode = \"rw\"", "must be permission bits in octal"),
    ("[listen.ops]\ntls = { certificate = \"a\" }", "2:1: listen.ops.tls.key: is required"),
    (
        "[listen.ops]\ntls = { certificate = \"a\", key = \"b\", client_ca = \"c\" }",
        "listen.ops.tls.client_ca: unknown key",
    ),
    (
        "[[listen.local]]\naddress = \"127.0.0.1:1\"\naccept = [\"unix_user\"]",
        "3:11: listen.local[0].accept[0]: `unix_user` is for a Unix socket",
    ),
    ("[[listen.local]]\nunix = \"/a\"\naccept = [\"spiffe\"]", "and a Unix socket has no TLS"),
    (
        "[[listen.admin]]\naddress = \"127.0.0.1:1\"\ntls = { certificate = \"a\", key = \"b\" }\naccept = \
         [\"san\"]",
        "listen.admin[0].accept[0]: `san` needs a client certificate: give `tls` a `client_ca`",
    ),
    ("[[listen.local]]\nunix = \"/a\"\naccept = []", "listen.local[0].accept: must not be empty"),
    (
        "[[listen.local]]\nunix = \"/a\"\naccept = [\"api_key\"]",
        "listen.local[0].accept[0]: must be \"unix_user\", \"api_keys\", \"spiffe\", \"san\", \"jwt\", \
         \"client_assertion\" or \"handles\" (did you mean `api_keys`?)",
    ),
    (
        "[[listen.local]]\naddress = \"127.0.0.1:1\"\ntls = { certificate = \"a\", key = \"b\", client_crl = \
         \"c\" }",
        "listen.local[0].tls.client_crl: needs `client_ca` beside it",
    ),
    ("[listen.ops]\naddress = \":9464\"", "such as \"127.0.0.1:9464\""),
    ("[listen.ops]\naddress = \"localhost:9464\"", "must be an IP address"),
    ("[listen.public]\nbase_url = \"https://x.example/tokens\"", "must end after the host and port"),
    ("[listen.public]\nbase_url = \"https://x.example?\"", "must end after the host and port"),
];

const URLS: Table = &[
    ("http://redis", "must be `redis://"),
    ("redis", "must be `redis://"),
    ("redis://", "no valid host"),
    ("redis://a,b", "names several hosts"),
    ("redis://a/x", "must be a number"),
    ("redis://a?protocol=resp3", "must not hold options"),
    ("redis+sentinel://a", "must name the primary"),
    ("redis+cluster://a/1", "database 0 only"),
    ("redis://a:0", "no valid port"),
];

const STORES: Table = &[
    ("[store]\nkind = \"redis\"", "1:2: store: `kind = \"redis\"` needs a `url`"),
    ("[store]\nurl = \"redis://a\"", "store.url: is for `kind = \"redis\"` only"),
    ("[store]\nkind = \"redis\"\nurl = \"rediss://a\"\npath = \"/x\"", "store.path: is for"),
    (
        "[store]\nkind = \"redis\"\nurl = \"rediss://a\"\nclient_key = \"/x\"",
        "store.client_key: needs `client_certificate` beside it",
    ),
    ("[store]\nkind = \"redis\"\nurl = \"redis://a\"\nca_file = \"/x\"", "store.ca_file: needs TLS"),
    (
        "[store]\nkind = \"redis\"\nurl = \"redis://a\"\nsentinel_password_file = \"/x\"",
        "store.sentinel_password_file: is for a `url` that names sentinels only",
    ),
    (
        "[store]\nkind = \"redis\"\nurl = \"redis://a\"\nusername = \"x\"",
        "4:12: store.username: needs `password_file` beside it",
    ),
    (
        "[store]\nkind = \"redis\"\nurl = \"redis+sentinel://a/b\"\nsentinel_username = \"x\"",
        "store.sentinel_username: needs `sentinel_password_file` beside it",
    ),
    ("[store]\nwait_replicas = 1", "store.wait_replicas: is for `kind = \"redis\"` only"),
    (
        "[store]\nkind = \"redis\"\nurl = \"redis://a\"\nwait_timeout = \"1s\"",
        "store.wait_timeout: must be from 10ms to 400ms",
    ),
];

const APPS: Table = &[
    ("return_urls = [\"//evil\"]", "return_urls[0]: must be an absolute URL"),
    ("return_urls = [\"https://a.example/\", \"http://a.example/\"]", "return_urls[1]: must be https"),
    ("tenants = [\"contoso.com\"]", "use the tenant's id"),
    ("tenants = [\"personnal\"]", "(did you mean `personal`?)"),
    ("tenants = []", "tenants: must not be empty"),
    ("provider = \"openid\"\ntenants = [\"*\"]", "only Entra has tenants"),
    ("response_mode = \"fragment\"", "must be \"query\" or \"form_post\""),
    ("refresh_token_reuse = \"always\"", "must be \"safe\" or \"never\""),
    ("endpoint_hosts = [\"https://x.example\"]", "endpoint_hosts[0]: must be a host name"),
    ("redirect_uri = \"http://x.example/cb\"", "must be https"),
    ("vault_mount = \"sys\"", "vault_mount: `sys` is a word of the API"),
    ("vault_mount = \"sys/b\"", "vault_mount: `sys` is a word of the API"),
    ("vault_mount = \"a//b\"", "vault_mount: must be 1 to 63 letters"),
    ("vault_mount = \"a/creds\"", "vault_mount: must be 1 to 63 letters"),
    ("relay = { bases = { graph = \"http://graph.example\" } }", "relay.bases.graph: must be https"),
    (
        "relay = { bases = { Graph = \"https://a.example\" } }",
        "relay.bases.Graph: base names are up to 63 of",
    ),
    ("relay = { bases = { a = \"https://a.example/\" } }", "relay.bases.a: must not hold a query"),
    ("relay = { bases = \"https://a.example\" }", "relay.bases: must be a table of URLs, one for each base"),
    ("relay = { base = \"https://a.example\" }", "(did you mean `bases`?)"),
    (
        "vault_mount = \"other\"\n[apps.other]\nclient_id = \"22222222-2222-3333-4444-555555555555\"\nauthority = \
         \"https://login.microsoftonline.com/common/v2.0\"\nscopes = [\"offline_access\", \
         \"Mail.Read\"]\ncredentials_dir = \"others\"",
        "apps.outlook.vault_mount: is the mount of the app other, too",
    ),
    (
        "credentials = [{ id = \"a\", kind = \"federated\", file = \"f\" }]",
        "credentials_dir: cannot be used together",
    ),
];

const CREDENTIALS: Table = &[
    (
        r#"{ id = "a", kind = "federated", file = "f" }, { id = "a", kind = "federated", file = "g" }"#,
        "credentials[1].id: another credential",
    ),
    (r#"{ id = "a b", kind = "federated", file = "f" }"#, "credentials[0].id: must be up to 63"),
    (
        r#"{ id = "a", kind = "federated", file = "f", secret = "hunter2" }"#,
        "credentials[0].secret: secrets are never values here",
    ),
    (r#"{ id = "a", kind = "federated", file = "f", key = "k" }"#, "is for `kind = \"certificate\"` only"),
    (r#"{ id = "a", kind = "secret", file = "f", expires = "2027-05-20" }"#, "must be a date without quotes"),
    (
        r#"{ id = "a", kind = "secret", file = "f", expires = 2027-05-20T00:00:00 }"#,
        "must be a date and time with its offset",
    ),
    (r#"{ id = "a", kind = "federated" }"#, "credentials[0].file: is required"),
];

const AUTHORITIES: Table = &[
    ("http://login.example/common/v2.0", "must be https"),
    ("https://user@login.example", "must not hold a user"),
    ("https://login.example/?a", "must not hold a query"),
    ("https://login.example/#a", "fragment"),
    ("login.microsoftonline.com", "absolute URL"),
];

const RULES: Table = &[
    ("app = \"outlook\"\nconnections = [\"a\"]", "allow[0].scopes: is required"),
    ("app = \"outlook\"\nconnections = [\"a\"]\nscopes = []", "allow[0].scopes: must not be empty"),
    ("app = \"outlook\"\nconnections = []\nscopes = [\"*\"]", "allow[0].connections: must not be empty"),
    ("app = \"outlook\"\nconnections = [\"a*b\"]\nscopes = [\"*\"]", "`*` may stand at the end only"),
    (
        "app = \"outlook\"\nconnections = [\"a b\"]\nscopes = [\"*\"]",
        "a connection name may hold only A-Z a-z 0-9",
    ),
    (
        "app = \"outlook\"\nconnections = [\"a/../b\"]\nscopes = [\"*\"]",
        "a connection name must have no part",
    ),
    ("app = \"outlook\"\nconnections = [\"../*\"]\nscopes = [\"*\"]", "a connection name must have no part"),
    (
        "app = \"outlook\"\nconnections = [\"tenant:contoso\"]\nscopes = [\"*\"]",
        "`tenant:` needs a tenant id",
    ),
    ("app = \"outlook\"\nconnections = [\"a\", \"*\"]\nscopes = [\"*\"]", "connections[1]: every connection"),
    ("app = \"outlook\"\nconnections = [\"a\"]\nscopes = [\"a b\"]", "several scopes in one string"),
    ("app = \"outlook\"\nscopes = [\"a\"]", "allow[0].connections: is required"),
    ("app = \"outlook\"\nconnections = [\"a\"]\nscopes = []", "allow[0].scopes: must not be empty"),
    (
        "app = \"outlook\"\nconnections = [\"a\"]\nrelay = [\"GET graph:/v1.0/me\"]",
        "allow[0].scopes: is required: `scopes = []` is for a caller that only relays",
    ),
    (
        "app = \"outlook\"\nconnections = [\"a\"]\nscopes = []\nrelay = [\"GET /v1.0/me\"]",
        "relay[0]: must be a method, a base and a path",
    ),
    (
        "app = \"outlook\"\nconnections = [\"a\"]\nscopes = []\nrelay = [\"GET graph:/v1.0/users('a')/messages\"]",
        "relay[0]: writes a key as a segment: /v1.0/users/a/messages",
    ),
    ("app = \"outlook\"", "allow[0].connections: is required"),
    ("app = \"outlook\"\napp_only = [\"home\"]\nscopes = [\"a\"]", "allow[0].connections: is required"),
    ("app = \"outlook\"\napp_only = [\"home\"]\nconnections = [\"a\"]", "allow[0].scopes: is required"),
    ("app = \"outlook\"\napp_only = [\"contoso.com\"]", "app_only[0]: must be a tenant's id"),
    ("app = \"outlook\"\napp_only = [\"Home\"]", "did you mean `home`"),
    ("app = \"outlook\"\napp_only = [\"*\"]", "app_only[0]: tokens of the app itself in every tenant need"),
    ("app = \"outlook\"\napp_only = [\"home\"]\nresources = []", "resources: must not be empty"),
    ("app = \"outlook\"\napp_only = [\"home\"]\napp_only_since = \"now\"", "app_only_since: must be a date"),
];

const WAYS: Table = &[
    ("{ spiffe = \"contoso.com/b\" }", "authenticate[0].spiffe: must begin with `spiffe://`"),
    ("{ spiffe = \"spiffe://contoso.com\" }", "authenticate[0].spiffe: must name a workload"),
    ("{ spiffe = \"spiffe://a/*\" }", "authenticate[0].spiffe: must have a path of segments"),
    ("{ san = \"*.contoso.com\" }", "authenticate[0].san: must be one whole name"),
    ("{ san = \"spiffe://a/b\" }", "authenticate[0].san: is a SPIFFE id: say `spiffe`"),
    ("{ san = \"a b\" }", "authenticate[0].san: must be a DNS name"),
    ("{ san = \"a\", spiffe = \"spiffe://a/b\" }", "authenticate[0]: has two ways in one"),
    (
        "{ jwt = { issuer = \"a\", subject = \"b\" } }",
        "authenticate[0].jwt.issuer: there is no such issuer: it is the name of a section `[issuers.NAME]`",
    ),
    ("{ unix_user = \"a\", api_keys = \"b\" }", "authenticate[0]: has two ways in one"),
    ("{}", "authenticate[0]: needs `unix_user`, `api_keys`, `spiffe`, `san`"),
    ("{ unix_user = -1 }", "is not a user id"),
    ("{ unix_user = \"a b\" }", "is not a user's name"),
];

/// Makes an issuer, and a caller by a way in one.
macro_rules! issuer_with {
    ($way:literal) => {
        concat!(
            "issuer = \"https://a.example\"\naudience = \"tokenward\"\n",
            "[callers.a]\nauthenticate = [{ jwt = ",
            $way,
            " }]"
        )
    };
}

const ISSUERS: Table = &[
    ("audience = \"tokenward\"", "issuers.kubernetes.issuer: is required"),
    ("issuer = \"https://a.example\"", "issuers.kubernetes.audience: is required"),
    (
        "issuer = \"https://a.example\"\naudience = \"11111111-2222-3333-4444-555555555555\"",
        "audience: names the app `outlook`",
    ),
    (
        "issuer = \"https://a.example\"\naudience = \"API://11111111-2222-3333-4444-555555555555/\"",
        "audience: names the app `outlook`",
    ),
    ("issuer = \"https://a.example\"\naudience = \"https://graph.microsoft.com\"", "is Microsoft Graph's"),
    ("issuer = \"kubernetes\"\naudience = \"tokenward\"", "needs `jwks_file` or `jwks_url`"),
    ("issuer = \"http://a.example\"\naudience = \"tokenward\"", "issuer: must be https"),
    (
        "issuer = \"a\"\naudience = \"tokenward\"\njwks_url = \"http://a.example\"",
        "issuers.kubernetes.jwks_url: must be https",
    ),
    (
        "issuer = \"a\"\naudience = \"tokenward\"\njwks_file = \"a\"\nca_file = \"b\"",
        "ca_file: is not used beside `jwks_file`",
    ),
    (
        "issuer = \"https://a.example\"\naudience = \"tokenward\"\ntoken_file = \"a\"",
        "token_file: needs `ca_file` beside it",
    ),
    (
        "issuer = \"https://a.example\"\naudience = \"tokenward\"\nmax_ttl = \"25h\"",
        "max_ttl: must be from 1m to 24h",
    ),
    (issuer_with!("{ issuer = \"kubernetes\" }"), "authenticate[0].jwt: needs `subject` or `claims`"),
    (issuer_with!("{ issuer = \"kubernetes\", claims = {} }"), "jwt.claims: must not be empty"),
    (
        issuer_with!("{ issuer = \"kubernetes\", claims = { groups = [\"b\"] } }"),
        "jwt.claims.groups: must be text",
    ),
    (issuer_with!("{ issuer = \"kubernetes\", sub = \"b\" }"), "jwt.sub: unknown key"),
    (
        issuer_with!("{ issuer = \"kubernetes\", subject = \"b\" }, unix_user = \"b\""),
        "authenticate[0]: has two ways in one",
    ),
    (
        issuer_with!("{ issuer = \"kubernetse\", subject = \"b\" }"),
        "there is no such issuer: it is the name of a section `[issuers.NAME]` (did you mean `kubernetes`?)",
    ),
    (
        "issuer = \"https://a.example\"\naudience = \"tokenward\"\ntoken = \"a\"",
        "secrets are never values here",
    ),
];

/// URLs that resemble an Entra authority's, and the intended ones.
const ENTRA_AUTHORITIES: Table = &[
    (
        "https://login.microsoftonline.com/common",
        "5:13: apps.outlook.authority: an Entra authority ends in /common/v2.0, /organizations/v2.0, \
         /consumers/v2.0 or /{tenant}/v2.0, where {tenant} is the tenant's id or one of its domains, such \
         as contoso.onmicrosoft.com (did you mean `https://login.microsoftonline.com/common/v2.0`?)",
    ),
    (
        "https://login.microsoftonline.com/contoso.com",
        "(did you mean `https://login.microsoftonline.com/contoso.com/v2.0`?)",
    ),
    (
        "https://login.microsoftonline.com/common/V2.0",
        "(did you mean `https://login.microsoftonline.com/common/v2.0`?)",
    ),
    (
        "https://login.microsoftonline.com/common/v2.0/.well-known/openid-configuration",
        "5:13: apps.outlook.authority: is the URL of the authority's discovery document; the authority's \
         own is what stands before it (did you mean `https://login.microsoftonline.com/common/v2.0`?)",
    ),
    (
        "https://login.microsoftonline.com/organizations/oauth2/v2.0/token",
        "(did you mean `https://login.microsoftonline.com/organizations/v2.0`?)",
    ),
    (
        "https://login.microsoftonline.com/common/oauth2/v2.0/authorize",
        "(did you mean `https://login.microsoftonline.com/common/v2.0`?)",
    ),
    (
        "https://sts.windows.net/72f988bf-86f1-41af-91ab-2d7cd011db47/",
        "(did you mean `https://login.microsoftonline.com/72f988bf-86f1-41af-91ab-2d7cd011db47/v2.0`?)",
    ),
    ("https://login.microsoftonline.com/contoso/v2.0", "apps.outlook.authority: an Entra authority ends in"),
    ("https://login.microsoftonline.com/", "apps.outlook.authority: an Entra authority ends in"),
    (
        "https://idp.example/realms/a/.well-known/openid-configuration",
        "(did you mean `https://idp.example/realms/a`?)",
    ),
];

/// Mistakes in the meaning or in the named files.
const MEANT: Table = &[
    // Files that others can change.
    (app_with!("credentials_dir = \"loose\""), "6:19: apps.a.credentials_dir: the folder"),
    (app_with!("credentials_dir = \"sticky\""), "; fix: put the files into a folder of their own"),
    (
        app_with!(
            "credentials = [{ id = \"a\", kind = \"secret\", file = \"loose/a@2099-01-01.secret\", expires \
             = 2099-01-01 }]"
        ),
        "has mode 0777, so that everyone can change which files are in it; fix: chmod go-w ",
    ),
    (
        app_with!("authority_ca = \"writable.pem\"\ncredentials_dir = \"credentials\""),
        "has mode 0666, so that everyone can change what is in it; fix: chmod go-w ",
    ),
    (
        "[issuers.a]\nissuer = \"a\"\naudience = \"b\"\njwks_file = \"one-line\"",
        "5:13: issuers.a.jwks_file: ",
    ),
    (
        "[callers.a]\nauthenticate = [{ client_assertion = { jwks_file = \"one-line\" } }]",
        "callers.a.authenticate[0].client_assertion.jwks_file: ",
    ),
    (
        "[issuers.a]\nissuer = \"https://127.0.0.1:1\"\naudience = \"b\"\nca_file = \"good\"",
        "5:11: issuers.a.ca_file: ",
    ),
    (
        "[issuers.a]\nissuer = \"https://127.0.0.1:1\"\naudience = \"b\"\n[callers.a]\nauthenticate = [{ jwt \
         = { issuer = \"a\", subject = \"c\" } }]\n[callers.b]\nauthenticate = [{ jwt = { issuer = \"a\", \
         subject = \"c\" } }]",
        "callers.b.authenticate[0].jwt: the same tokens are already `a`",
    ),
    (
        "[callers.a]\nauthenticate = [{ api_keys = \"loose/none.keys\" }]",
        "has mode 0777, so that everyone can change",
    ),
    (
        "[outbound]\nproxy = \"http://127.0.0.1:1\"\nproxy_username = \"u\"\nproxy_password_file = \"open\"",
        "5:23: outbound.proxy_password_file: ",
    ),
    (
        r#"[apps.a]
client_id = "schlüssel"
authority = "https://login.microsoftonline.com/common/v2.0"
scopes = ["offline_access", "openid"]
credentials_dir = "credentials""#,
        "3:13: apps.a.client_id: holds \"ü\", which no client id does",
    ),
    (
        r#"[apps.a]
client_id = "11111111-2222-3333-4444-555555555555"
authority = "https://login.microsoftonline.com/common/v2.0"
scopes = ["offline_access", "openid"]
authority_ca = "absent.pem"
credentials_dir = "credentials""#,
        "6:16: apps.a.authority_ca: cannot read",
    ),
    (
        r#"[apps.a]
client_id = "11111111-2222-3333-4444-555555555555"
authority = "https://login.microsoftonline.com/common/v2.0"
scopes = ["offline_access", "openid"]
authority_ca = "good"
credentials_dir = "credentials""#,
        "6:16: apps.a.authority_ca: ",
    ),
    (
        app_with!("credentials_dir = \"absent\""),
        "6:19: apps.a.credentials_dir: cannot read the credentials directory",
    ),
    (app_with!("credentials_dir = \"crowded\""), "6:19: apps.a.credentials_dir: "),
    (app_with!("credentials_dir = \"twice\""), "6:19: apps.a.credentials_dir: "),
    (
        app_with!("credentials = [{ id = \"a\", kind = \"secret\", file = \"open\", expires = 2099-01-01 }]"),
        "6:52: apps.a.credentials[0].file: the secret file",
    ),
    (
        app_with!(
            "credentials = [{ id = \"a\", kind = \"secret\", file = \"empty\", expires = 2099-01-01 }]"
        ),
        "6:52: apps.a.credentials[0].file: the secret file",
    ),
    (
        app_with!(
            "credentials = [{ id = \"a\", kind = \"secret\", file = \"lines\", expires = 2099-01-01 }]"
        ),
        "6:52: apps.a.credentials[0].file: the secret file",
    ),
    (
        app_with!("credentials = [{ id = \"a\", kind = \"certificate\", file = \"good\" }]"),
        "6:57: apps.a.credentials[0].file: ",
    ),
    (
        app_with!(
            "credentials = [{ id = \"a\", kind = \"certificate\", file = \"good\", key = \"absent\" }]"
        ),
        "6:71: apps.a.credentials[0].key: cannot read the secret file",
    ),
    (
        app_with!(
            "credentials = [{ id = \"a\", kind = \"secret\", file = \"marked\", expires = 2099-01-01 }]"
        ),
        "holds a byte order mark (U+FEFF) as character 1",
    ),
    (
        app_with!("credentials = [{ id = \"a\", kind = \"secret\", file = \"wide\", expires = 2099-01-01 }]"),
        "is UTF-16, as Windows PowerShell writes text; fix: ",
    ),
    (
        app_with!("credentials = [{ id = \"a\", kind = \"certificate\", file = \"container\" }]"),
        "is a PKCS#12 container (.pfx, .p12); fix: ",
    ),
    (
        app_with!("credentials = [{ id = \"a\", kind = \"certificate\", file = \"one-line\" }]"),
        "is PEM that lost its line ends; fix: ",
    ),
    (
        "store = { kind = \"redis\", url = \"redis://localhost\", password_file = \"marked\" }",
        "2:70: store.password_file: the secret file",
    ),
    (
        "listen.public.tls = { certificate = \"one-line\", key = \"good\" }",
        "2:37: listen.public.tls.certificate: ",
    ),
    ("store.path = \"good\"", "2:14: store.path: "),
    ("store.path = \"credentials\"", "2:14: store.path: "),
    ("store.path = \"data\"\nstore.journal = \"good\"", "store.journal: is for `kind = \"redis\"` only"),
    (
        "store = { kind = \"redis\", url = \"redis://localhost\", journal = \"good\" }",
        "2:64: store.journal: opening the journal",
    ),
    (
        "store = { kind = \"redis\", url = \"redis://localhost\", password_file = \"open\" }",
        "2:70: store.password_file: the secret file",
    ),
    (
        "store = { kind = \"redis\", url = \"rediss://localhost\", ca_file = \"good\" }",
        "2:65: store.ca_file: ",
    ),
    (
        "store = { kind = \"redis\", url = \"redis://localhost/70000\" }",
        "2:33: store.url: there is no such database number",
    ),
    (
        "listen.ops.tls = { certificate = \"good\", key = \"open\" }",
        "2:48: listen.ops.tls.key: the secret file",
    ),
    ("listen.ops.tls = { certificate = \"good\", key = \"good\" }", "2:34: listen.ops.tls.certificate: "),
    (
        "listen.public.tls = { certificate = \"absent\", key = \"good\" }",
        "2:37: listen.public.tls.certificate: cannot read",
    ),
    ("[[listen.local]]\nunix = \"good\"", "3:8: listen.local[0].unix: "),
    ("[[listen.admin]]\nunix = \"good/socket\"", "3:8: listen.admin[0].unix: "),
    ("audit.path = \"absent/audit.log\"", "2:14: audit.path: there is no directory"),
    ("audit.path = \"credentials\"", "2:14: audit.path: "),
    (
        "[callers.a]\nauthenticate = [{ unix_user = \"nobody-here\" }]",
        "3:31: callers.a.authenticate[0].unix_user: there is no user `nobody-here`",
    ),
    (
        "[callers.a]\nauthenticate = [{ api_keys = \"good\" }]",
        "3:30: callers.a.authenticate[0].api_keys: key file",
    ),
    (
        "[callers.b]\nauthenticate = [{ unix_user = 7 }]\n[callers.c]\nauthenticate = [{ unix_user = 7 }]",
        "5:31: callers.c.authenticate[0].unix_user: the Unix user 7 is both `b` and `c`",
    ),
    (
        "[admins.b]\nauthenticate = [{ unix_user = 7 }]\n[admins.c]\nauthenticate = [{ unix_user = 7 }]",
        "5:31: admins.c.authenticate[0].unix_user: the Unix user 7 is both",
    ),
    (
        "[callers.b]\nauthenticate = [{ spiffe = \"spiffe://a/b\" }]\n[callers.c]\nauthenticate = [{ spiffe = \
         \"spiffe://a/b\" }]",
        "5:28: callers.c.authenticate[0].spiffe: the SPIFFE id `spiffe://a/b` is both `b` and `c`",
    ),
    (
        "[callers.b]\nauthenticate = [{ san = \"A.example\" }]\n[callers.c]\nauthenticate = [{ san = \
         \"a.example\" }]",
        "5:25: callers.c.authenticate[0].san: the certificate name `a.example` is both `b` and `c`",
    ),
];
