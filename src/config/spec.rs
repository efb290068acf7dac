//! The table of all sections and keys of the configuration file.
//!
//! The messages about unknown, missing and wrong values, the environment overrides, the JSON Schema and the
//! reference page all come from this table. To add a key, add a row here, read it in `build.rs`, mention it
//! in `config/tokenward.toml`, and run the tests once with `UPDATE_SCHEMA=1`.

/// The keys that a table may have.
#[derive(Debug)]
pub(super) struct Table {
    /// One or two sentences for the reference page.
    pub(super) doc: &'static str,
    /// In the order of the reference page.
    pub(super) keys: &'static [Key],
}

/// One key of a table.
#[derive(Debug)]
pub(super) struct Key {
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    pub(super) presence: Presence,
    /// One line.
    pub(super) doc: &'static str,
}

/// Kind of value.
#[derive(Debug)]
pub(super) enum Kind {
    /// A string that is not empty.
    Text,
    /// A file or directory; a relative path starts at the configuration file's directory.
    Path,
    /// An absolute http or https URL, or a store's URL.
    Url,
    /// `IP:PORT`.
    Address,
    /// One of a few words.
    OneOf(&'static [&'static str]),
    /// A whole number within bounds.
    Integer { min: i64, max: i64 },
    /// A number from 0 to 1, which may have a fraction.
    Ratio,
    /// `true` or `false`.
    Bool,
    /// `"90s"`, `"5m"`, `"1h30m"`, within bounds.
    Duration { min: &'static str, max: &'static str },
    /// A date and time with its offset, or a date, which is midnight UTC.
    Instant,
    /// A user's name, or a user id as a number.
    User,
    /// A list, every item of the same kind.
    List(&'static Kind),
    /// A table with known keys.
    Table(&'static Table),
    /// Named tables of one shape; the noun is the name of one of them.
    Map { noun: &'static str, table: &'static Table },
    /// Named URLs; the noun is the name of one of them.
    Urls { noun: &'static str },
    /// A table of claims with any names: text, whole numbers, booleans, and tables of these. Not empty.
    Claims,
}

/// What applies if a key is absent.
#[derive(Debug)]
pub(super) enum Presence {
    Required,
    /// Nothing, or what the doc line says.
    Optional,
    /// A default value, written as TOML.
    Default(&'static str),
}

const fn key(name: &'static str, kind: Kind, presence: Presence, doc: &'static str) -> Key {
    Key { name, kind, presence, doc }
}

use Presence::{Default, Optional, Required};

const TEXTS: Kind = Kind::List(&Kind::Text);
const SECTION: Presence = Default("{}");

/// Key names that people try when they want to write a secret into the file.
pub(super) const SECRET_NAMES: &[&str] = &[
    "access_token",
    "api_key",
    "client_assertion",
    "client_secret",
    "headers",
    "key_value",
    "passphrase",
    "password",
    "private_key",
    "proxy_password",
    "refresh_token",
    "secret",
    "token",
    "value",
];

pub(super) static ROOT: Table = Table {
    doc: "The sections of the file. None is required, but a daemon without an app and a caller has nothing \
        to do.",
    keys: &[
        key("store", Kind::Table(&STORE), SECTION, "Where connections live."),
        key("sealing", Kind::Table(&SEALING), SECTION, "The keys that seal stored records."),
        key("listen", Kind::Table(&LISTEN), SECTION, "The sockets."),
        key("outbound", Kind::Table(&OUTBOUND), SECTION, "The way of requests to authorities."),
        key(
            "apps",
            Kind::Map { noun: "app", table: &APP },
            Optional,
            "The registered applications, by name.",
        ),
        key(
            "issuers",
            Kind::Map { noun: "issuer", table: &ISSUER },
            Optional,
            "Whose JWTs name callers, by name: Kubernetes clusters, or any other issuer.",
        ),
        key(
            "callers",
            Kind::Map { noun: "caller", table: &CALLER },
            Optional,
            "The internal services that may ask for tokens, by name.",
        ),
        key(
            "admins",
            Kind::Map { noun: "admin", table: &ADMIN },
            Optional,
            "Who may use the admin API, by name. Without this section: root and the daemon's own user, on \
             the admin socket.",
        ),
        key("pages", Kind::Table(&PAGES), SECTION, "How the pages for users look and speak."),
        key("limits", Kind::Table(&LIMITS), SECTION, "Limits of time and size."),
        key("log", Kind::Table(&LOG), SECTION, "What is logged, on standard error."),
        key("audit", Kind::Table(&AUDIT), SECTION, "The audit log's sinks."),
        key("traces", Kind::Table(&TRACES), SECTION, "Where traces are sent."),
        key(
            "webhooks",
            Kind::Map { noun: "webhook", table: &WEBHOOK },
            Optional,
            "Who is told of changes, by name.",
        ),
    ],
};

static STORE: Table = Table {
    doc: "The store for connections. A change needs a restart, except for the contents of the files it \
        names.",
    keys: &[
        key(
            "kind",
            Kind::OneOf(&["embedded", "redis"]),
            Default(r#""embedded""#),
            "`embedded`: one process, on its own disk. `redis`: any number of replicas.",
        ),
        key(
            "path",
            Kind::Path,
            Default(r#""/var/lib/tokenward""#),
            "The embedded store's directory. Only for `embedded`.",
        ),
        key(
            "url",
            Kind::Url,
            Optional,
            "`redis://host:6379/0`, `rediss://…` for TLS, `redis+sentinel://h1:26379,h2:26379/primary/0`, \
             `rediss+sentinel://…` for TLS to the sentinels and to Redis, whose certificates must then hold \
             the addresses that the sentinels name. `redis+cluster://h1:6379,h2:6379` names some nodes of a \
             Cluster, `rediss+cluster://…` uses TLS to all of them, whose certificates must then hold the \
             addresses that `CLUSTER SLOTS` names. Required for `redis`. Never holds a user or password.",
        ),
        key("username", Kind::Text, Optional, "The Redis ACL user."),
        key("password_file", Kind::Path, Optional, "The file with the Redis password."),
        key(
            "ca_file",
            Kind::Path,
            Optional,
            "PEM certificates to trust for Redis, in place of the system's.",
        ),
        key(
            "client_certificate",
            Kind::Path,
            Optional,
            "PEM certificate chain to show to Redis; needs `client_key`.",
        ),
        key("client_key", Kind::Path, Optional, "PEM private key of `client_certificate`."),
        key(
            "sentinel_username",
            Kind::Text,
            Optional,
            "The ACL user at the sentinels. Needs `+sentinel|get-master-addr-by-name` and \
             `+sentinel|master`.",
        ),
        key(
            "sentinel_password_file",
            Kind::Path,
            Optional,
            "The file with the password for the sentinels; by default they are asked without one. \
             `password_file` is never sent to them.",
        ),
        key(
            "wait_replicas",
            Kind::Integer { min: 0, max: 10 },
            Default("0"),
            "Number of Redis replicas that must have a commit or a delete before it is acknowledged, so \
             that a failover does not lose it. Until then it fails with `store_unavailable` and is tried \
             again. Needs the ACL's `+wait`. Only for `redis`.",
        ),
        key(
            "wait_timeout",
            Kind::Duration { min: "10ms", max: "400ms" },
            Default(r#""250ms""#),
            "Time limit for `wait_replicas`. Only for `redis`.",
        ),
        key(
            "serve_cached_for",
            Kind::Duration { min: "0s", max: "1h" },
            Default(r#""5m""#),
            "How long cached tokens are handed out while the store is unreachable.",
        ),
        key(
            "journal",
            Kind::Path,
            Optional,
            "For `redis`: a directory on this machine's disk, a separate one for each replica. A refreshed \
             grant that Redis does not accept at once is kept there, sealed, so that a crash does not lose \
             it. It also records which Redis this is.",
        ),
    ],
};

static SEALING: Table = Table {
    doc: "The keys that seal stored records.",
    keys: &[key(
        "keyring",
        Kind::Path,
        Default(r#""/etc/tokenward/keyring""#),
        "A directory with one file for each key; the key promoted last seals. In systemd's credentials \
         directory, `/run/credentials/tokenward.service`, these are the files that \
         `LoadCredential=keyring:FOLDER` makes.",
    )],
};

static LISTEN: Table = Table {
    doc: "The sockets. A change needs a restart, except for the contents of the TLS files.",
    keys: &[
        key(
            "issuer",
            Kind::Url,
            Optional,
            "The URL at which callers reach the local API. It is the issuer of the OAuth token endpoint \
             (`{issuer}/oauth2/token`) and stands in its metadata. Default: the address of the first TCP \
             listener of `local`.",
        ),
        key("public", Kind::Table(&PUBLIC), SECTION, "For browsers only."),
        key(
            "local",
            Kind::List(&Kind::Table(&LOCAL)),
            Default(r#"[{ unix = "/run/tokenward/tokenward.sock" }, { address = "127.0.0.1:7070" }]"#),
            "For callers.",
        ),
        key(
            "admin",
            Kind::List(&Kind::Table(&ADMIN_LISTENER)),
            Default(r#"[{ unix = "/run/tokenward/admin.sock" }]"#),
            "For operators and the command line.",
        ),
        key("ops", Kind::Table(&OPS), SECTION, "`/metrics`, `/livez` and `/readyz`."),
    ],
};

static PUBLIC: Table = Table {
    doc: "The listener for browsers: connect pages and the authority's callback. Plain behind an ingress, \
        or with its own TLS.",
    keys: &[
        key("address", Kind::Address, Default(r#""127.0.0.1:8080""#), "Address and port."),
        key(
            "base_url",
            Kind::Url,
            Default(r#""http://localhost:8080""#),
            "The address of this listener for browsers. Register `{base_url}/callback/{app}` at Entra, \
             platform Web.",
        ),
        key("tls", Kind::Table(&TLS), Optional, "Serve TLS here."),
    ],
};

static LOCAL: Table = Table {
    doc: "A listener for callers: a Unix socket, loopback TCP, or TCP with TLS. Exactly one of `unix` and \
        `address`.",
    keys: &[
        key("unix", Kind::Path, Optional, "Path of a Unix socket."),
        key(
            "mode",
            Kind::Text,
            Optional,
            "Permission bits of the Unix socket, in octal; default `\"0666\"`, since callers are identified \
             by their user anyway.",
        ),
        key("address", Kind::Address, Optional, "Address and port. Anything but loopback needs `tls`."),
        key("tls", Kind::Table(&INTERNAL_TLS), Optional, "Serve TLS here."),
        key("accept", ACCEPT, Optional, ACCEPT_DOC),
    ],
};

static ADMIN_LISTENER: Table = Table {
    doc: "A listener for operators, the command line and the console; the same kinds as `listen.local`. \
          Browsers open the console at one with an `address`.",
    keys: &[
        key("unix", Kind::Path, Optional, "Path of a Unix socket."),
        key(
            "mode",
            Kind::Text,
            Optional,
            "Permission bits of the Unix socket, in octal; default `\"0600\"`. Widen it when `[admins]` \
             names other users.",
        ),
        key("address", Kind::Address, Optional, "Address and port. Anything but loopback needs `tls`."),
        key("tls", Kind::Table(&INTERNAL_TLS), Optional, "Serve TLS here."),
        key("accept", ACCEPT, Optional, ACCEPT_DOC),
    ],
};

static OPS: Table = Table {
    doc: "Metrics and probes. They show no secret, so any address is allowed.",
    keys: &[
        key("address", Kind::Address, Default(r#""127.0.0.1:9464""#), "Address and port."),
        key("tls", Kind::Table(&TLS), Optional, "Serve TLS here."),
    ],
};

static TLS: Table = Table {
    doc: "A listener's own TLS.",
    keys: &[
        key("certificate", Kind::Path, Required, "PEM certificate chain, the listener's own first."),
        key("key", Kind::Path, Required, "PEM private key."),
    ],
};

static INTERNAL_TLS: Table = Table {
    doc: "The TLS of a listener for callers or operators, who may prove themselves by a client certificate.",
    keys: &[
        key("certificate", Kind::Path, Required, "PEM certificate chain, the listener's own first."),
        key("key", Kind::Path, Required, "PEM private key."),
        key(
            "client_ca",
            Kind::Path,
            Optional,
            "PEM certificates of the authorities whose certificates clients may present. Each of them may \
             name every caller. While one replaces another, have both. A certificate is optional unless \
             `accept` leaves no other way; one that does not verify fails the handshake.",
        ),
        key(
            "client_crl",
            Kind::Path,
            Optional,
            "Revocation lists of the authorities in `client_ca` and of those below them: PEM, or one in DER. \
             With it, a certificate without a current list of its issuer is refused.",
        ),
        key(
            "http2",
            Kind::Bool,
            Default("true"),
            "Let clients choose HTTP/2. Set it to false if a client or a proxy misbehaves with it; clients \
             then speak HTTP/1.1.",
        ),
    ],
};

const ACCEPT: Kind =
    Kind::List(&Kind::OneOf(&["unix_user", "api_keys", "spiffe", "san", "jwt", "client_assertion", HANDLES]));
/// What callers make for the relay.
const HANDLES: &str = "handles";
const ACCEPT_DOC: &str = "The words of `authenticate` that count here, and `handles`, which callers make for \
    the relay. Default: all that it can carry: `api_keys` and `jwt`, at a local listener also \
    `client_assertion` and `handles`, on a Unix socket also `unix_user`, and where `tls` has `client_ca` \
    also `spiffe` and `san`.";

static OUTBOUND: Table = Table {
    doc: "The way of all outgoing requests: direct, or through a forward proxy with CONNECT. The \
        authority's own certificate is still the one that counts.",
    keys: &[
        key(
            "proxy",
            Kind::Url,
            Optional,
            "`http://host:port`, or `https://…` for TLS to the proxy too. Default: `HTTPS_PROXY` of the \
             environment (`HTTP_PROXY` for an authority on plain http). Neither this nor the variables may \
             hold a user or password.",
        ),
        key(
            "no_proxy",
            TEXTS,
            Optional,
            "Destinations that are reached directly all the same: domains with all names below them \
             (`.contoso.com`), addresses, networks (`127.0.0.0/8`) and `*`; each may end in `:port`. Names \
             are not resolved for it. Without this and `proxy`, `NO_PROXY` of the environment counts.",
        ),
        key("proxy_username", Kind::Text, Optional, "The user name for the proxy (Basic)."),
        key("proxy_password_file", Kind::Path, Optional, "The file with its password."),
        key(
            "proxy_ca_file",
            Kind::Path,
            Optional,
            "PEM certificates to trust for a proxy at `https://`, in place of the system's.",
        ),
    ],
};

static APP: Table = Table {
    doc: "One application as it is registered at its authority. The name is part of the redirect URI and of \
        the API's paths: up to 63 of `a-z 0-9 -`.",
    keys: &[
        key("client_id", Kind::Text, Required, "The application (client) id."),
        key(
            "authority",
            Kind::Url,
            Required,
            "Entra: `https://login.microsoftonline.com/common/v2.0`, or `organizations`, `consumers` or a \
             tenant id for `common`; any other OpenID provider: its issuer. http on loopback only, with a \
             warning.",
        ),
        key(
            "provider",
            Kind::OneOf(&["entra", "openid"]),
            Optional,
            "Kind of authority; by default it is detected from the discovery document.",
        ),
        key(
            "authority_ca",
            Kind::Path,
            Optional,
            "PEM certificates to trust for the authority, in place of the system's.",
        ),
        key(
            "endpoint_hosts",
            TEXTS,
            Optional,
            "The only hosts allowed for the authority's endpoints; default any public host in its discovery \
             document.",
        ),
        key(
            "scopes",
            TEXTS,
            Required,
            "Default scopes of a connect session. Bare names are Microsoft Graph's.",
        ),
        key(
            "tenants",
            TEXTS,
            Optional,
            "Whose accounts may connect: `\"*\"` is every work or school tenant; or tenant ids; \
             `\"personal\"` must be named. Default `[\"*\"]`, and `[\"personal\"]` for the authority \
             `consumers`. Entra only.",
        ),
        key(
            "return_urls",
            Kind::List(&Kind::Url),
            Default("[]"),
            "Allowed return URLs for the browser after connecting, compared exactly.",
        ),
        key(
            "home_tenant",
            Kind::Text,
            Optional,
            "The tenant in which the app is registered, by id or domain; its own credential checks happen \
             there. Entra only.",
        ),
        key(
            "vault_mount",
            Kind::Text,
            Optional,
            "The app's mount in the paths of Vault, `/v1/{vault_mount}/creds/{connection}`; default the \
             app's name.",
        ),
        key(
            "redirect_uri",
            Kind::Url,
            Optional,
            "The redirect URI as registered; default `{base_url}/callback/{app}`.",
        ),
        key(
            "response_mode",
            Kind::OneOf(&["query", "form_post"]),
            Default(r#""query""#),
            "How the authority returns the browser.",
        ),
        key(
            "refresh_token_reuse",
            Kind::OneOf(&["safe", "never"]),
            Optional,
            "`safe`: a used refresh token may be sent again to repair a lost answer. Default `safe` for \
             Entra, `never` for other providers.",
        ),
        key(
            "refresh_ends_tokens",
            Kind::Bool,
            Default("false"),
            "The provider ends the old access token at each refresh: nothing is renewed before its end.",
        ),
        key(
            "continuous_access_evaluation",
            Kind::Bool,
            Default("false"),
            "Day-long tokens that resources can revoke; only for callers that answer claims challenges.",
        ),
        key(
            "token_endpoint_auth_method",
            Kind::OneOf(&["client_secret_post", "client_secret_basic"]),
            Optional,
            "Client authentication method for a secret; if set, no other is tried. Default: \
             `client_secret_post` at Entra; elsewhere `client_secret_basic`, unless the discovery document \
             lists only `client_secret_post`. With a default, the other method is tried once if the app is \
             refused.",
        ),
        key(
            "assertion_audience",
            Kind::Text,
            Default(r#""token_endpoint""#),
            "The single audience (`aud`) of an assertion signed with a certificate: `token_endpoint`, as \
             Entra requires, `issuer`, as newer providers do (RFC 7523bis), or a URL that the provider \
             names. For Entra only `token_endpoint` is allowed.",
        ),
        key(
            "display_name",
            Kind::Text,
            Optional,
            "The app's name on users' pages, such as `Contoso Mail`; default `pages.name`.",
        ),
        key(
            "purpose",
            Kind::Text,
            Optional,
            "What the app wants accounts for, in one sentence. Connect pages show it, and so does the mail \
             with which a user asks an administrator for approval. A file of `pages.languages_dir` may \
             say it in its language, under `[purposes]`.",
        ),
        key(
            "support_contact",
            Kind::Text,
            Optional,
            "Whom the app's users may ask: a mail address, a URL or words; default `pages.support`.",
        ),
        key(
            "credentials",
            Kind::List(&Kind::Table(&CREDENTIAL)),
            Optional,
            "The app's client credentials. Several are allowed, so that they can be replaced.",
        ),
        key(
            "credentials_dir",
            Kind::Path,
            Optional,
            "In place of `credentials`: a directory with one file each, `id.secret`, `id.pem` or \
             `id.assertion`; an expiry goes before the dot, `id@2027-05-20.secret`.",
        ),
        key("relay", Kind::Table(&RELAY), SECTION, "Where callers' requests may be relayed to."),
    ],
};

static RELAY: Table = Table {
    doc: "Where callers' requests may be relayed to, with the connection's token in place of the caller's \
        credential. What a caller may do there is in its rules (`relay`). See [The relay](relay.md).",
    keys: &[
        key(
            "bases",
            Kind::Urls { noun: "base" },
            Default("{}"),
            "The bases by name, `graph = \"https://graph.microsoft.com\"`; at Entra `graph` is there by \
             default, of the app's cloud. A token for `graph` is one for Microsoft Graph, for any other base \
             one for its address. http on loopback only.",
        ),
        key("ca", Kind::Path, Optional, "PEM certificates to trust for the bases, in place of the system's."),
        key(
            "mailbox_concurrency",
            Kind::Integer { min: 1, max: 1000 },
            Default("4"),
            "Most requests of the app that are under way at one mailbox, over all replicas together; the \
             others wait their turn. Microsoft Graph takes 4. It counts for the base `graph`.",
        ),
    ],
};

static CREDENTIAL: Table = Table {
    doc: "One client credential of the app.",
    keys: &[
        key(
            "id",
            Kind::Text,
            Required,
            "Its name in metrics, logs and commands, unique in the app: up to 63 of `A-Z a-z 0-9 . _ -`.",
        ),
        key(
            "kind",
            Kind::OneOf(&["secret", "certificate", "federated"]),
            Required,
            "A client secret, a certificate with its key (private_key_jwt), or an assertion issued by \
             someone else.",
        ),
        key(
            "file",
            Kind::Path,
            Required,
            "The file with the credential. A certificate's file is PEM and may contain the key too.",
        ),
        key("key", Kind::Path, Optional, "The certificate's private key, if it has a file of its own."),
        key(
            "expires",
            Kind::Instant,
            Optional,
            "When a secret expires at the authority; a certificate contains its expiry.",
        ),
    ],
};

static ISSUER: Table = Table {
    doc: "An issuer whose JWTs are credentials of callers and admins. Its keys are found by its discovery \
        document, unless `jwks_file` or `jwks_url` says where they are. They are fetched every four minutes \
        and kept while the issuer does not answer. A token is refused if its `aud` names one of the apps \
        too.",
    keys: &[
        key(
            "issuer",
            Kind::Text,
            Required,
            "The `iss` of its tokens, to the letter. Kubernetes: `https://kubernetes.default.svc.cluster.local` \
             by default; `kubectl get --raw /.well-known/openid-configuration` says it.",
        ),
        key(
            "audience",
            Kind::Text,
            Required,
            "What `aud` must be or contain: a word for tokenward alone, such as `tokenward`. Never the API \
             server's own, nor an app's client id.",
        ),
        key(
            "max_ttl",
            Kind::Duration { min: "1m", max: "24h" },
            Default(r#""1h""#),
            "The longest life of a token, from `iat` to `exp`. Kubernetes' projected tokens live an hour \
             unless `expirationSeconds` says otherwise; those for the API server live a year, and are \
             meant to be refused.",
        ),
        key(
            "jwks_file",
            Kind::Path,
            Optional,
            "A file with the keys (a JWK set), in place of discovery. A change is taken up while the daemon \
             runs.",
        ),
        key(
            "jwks_url",
            Kind::Url,
            Optional,
            "The URL of the keys, in place of discovery: for an issuer whose own URL cannot be reached \
             from here.",
        ),
        key(
            "ca_file",
            Kind::Path,
            Optional,
            "PEM certificates to trust for the issuer, in place of the system's. In a pod: \
             `/var/run/secrets/kubernetes.io/serviceaccount/ca.crt`.",
        ),
        key(
            "token_file",
            Kind::Path,
            Optional,
            "A file with the token that the issuer demands for these requests, read anew each time. A \
             Kubernetes API server wants one unless its discovery is open to everybody. In a pod: \
             `/var/run/secrets/kubernetes.io/serviceaccount/token`. Needs `ca_file`.",
        ),
    ],
};

static JWT: Table = Table {
    doc: "The tokens of an issuer that are this one. At least one of `subject` and `claims`; with both, both \
        must fit.",
    keys: &[
        key("issuer", Kind::Text, Required, "The name of an issuer in `[issuers]`."),
        key(
            "subject",
            Kind::Text,
            Optional,
            "The exact `sub`. Kubernetes: `system:serviceaccount:NAMESPACE:NAME`.",
        ),
        key(
            "claims",
            Kind::Claims,
            Optional,
            "Claims with exactly these values: text, whole numbers, `true` or `false`, or tables of them \
             for the members of an object. A claim that is a list has to contain the value.",
        ),
    ],
};

static PAGES: Table = Table {
    doc: "The pages that users see. Without this section they show the host of \
        `listen.public.base_url` in place of a company. They are in English and German, and in what \
        `languages_dir` adds; the browser's languages decide.",
    keys: &[
        key("name", Kind::Text, Optional, "The company's name."),
        key(
            "logo",
            Kind::Path,
            Optional,
            "A picture in SVG, PNG, WebP or JPEG, of at most 128 KiB; it is shown 40 pixels high.",
        ),
        key("support", Kind::Text, Optional, "Whom users may ask: a mail address, a URL or words."),
        key(
            "languages_dir",
            Kind::Path,
            Optional,
            "A directory with one file for each further language, such as `fr.toml` or `pt-BR.toml`: \
             `direction`, `ltr` or `rtl`, and a table `texts` (docs/pages.md). What it lacks is shown in \
             English, and `check` names it. `en.toml` and `de.toml` replace single texts of the built-in \
             ones.",
        ),
    ],
};

static CALLER: Table = Table {
    doc: "One internal service: how it authenticates, and what it may have. Only what a rule allows is \
        allowed.",
    keys: &[
        key("authenticate", Kind::List(&Kind::Table(&AUTHENTICATE)), Required, "Any one of these will do."),
        key(
            "display_name",
            Kind::Text,
            Optional,
            "The name by which connect pages say who asks; default the app's `display_name`.",
        ),
        key(
            "rate_limit",
            Kind::Integer { min: 1, max: 1_000_000 },
            Optional,
            "Requests of every kind a second, with bursts of twice that; default no limit.",
        ),
        key(
            "connection_rate_limit",
            Kind::Integer { min: 1, max: 1_000_000 },
            Optional,
            "Token requests a second for any one connection, with bursts of twice that.",
        ),
        key("allow", Kind::List(&Kind::Table(&RULE)), Default("[]"), "The rules."),
    ],
};

static AUTHENTICATE: Table = Table {
    doc: "One way to authenticate. Exactly one key in each.",
    keys: &[
        UNIX_USER,
        API_KEYS,
        SPIFFE,
        SAN,
        JWT_WAY,
        key(
            "client_assertion",
            Kind::Table(&CLIENT_ASSERTION),
            Optional,
            "A JWT that the caller signs with a key of its own, for each request to `/oauth2/token` \
             (`private_key_jwt`, RFC 7523).",
        ),
    ],
};

static ADMIN_AUTHENTICATE: Table = Table {
    doc: "One way to authenticate. Exactly one key in each.",
    keys: &[UNIX_USER, API_KEYS, SPIFFE, SAN, JWT_WAY],
};

const UNIX_USER: Key =
    key("unix_user", Kind::User, Optional, "The user at the other end of a Unix socket, by name or by id.");
const API_KEYS: Key = key(
    "api_keys",
    Kind::Path,
    Optional,
    "A file with the hashes of API keys; `tokenward callers add-key` writes it.",
);
const SPIFFE: Key = key(
    "spiffe",
    Kind::Text,
    Optional,
    "The SPIFFE id in a client certificate, `spiffe://contoso.com/mail-sync`; compared whole. Needs a \
     listener with `client_ca`.",
);
const SAN: Key = key(
    "san",
    Kind::Text,
    Optional,
    "A DNS name or a URI in a client certificate's subject alternative name, \
     `mail-sync.contoso.com`; compared whole, and never with the common name. Needs a listener with \
     `client_ca`.",
);
const JWT_WAY: Key = key(
    "jwt",
    Kind::Table(&JWT),
    Optional,
    "A JWT such as a Kubernetes service account's, as the bearer token.",
);

static CLIENT_ASSERTION: Table = Table {
    doc: "The keys of a caller that signs its own assertions.",
    keys: &[key(
        "jwks_file",
        Kind::Path,
        Required,
        "A file with the public halves of its keys (a JWK set), each with a `kid`: two while one is \
         replaced. A change is taken up while the daemon runs.",
    )],
};

static RULE: Table = Table {
    doc: "One rule of a caller.",
    keys: &[
        key("app", Kind::Text, Required, "The app's name."),
        key(
            "connections",
            TEXTS,
            Optional,
            "Required, unless the rule has `app_only`. Exact names, prefixes such as `team-a/*`, \
             `tenant:{tid}` (allows to see and renew existing connections, not to make one), or `*` together \
             with `bulk = true`.",
        ),
        key(
            "scopes",
            TEXTS,
            Optional,
            "Required with `connections`; `[]` for a caller that only relays. Allowed scopes; `*` means all \
             granted ones. They decide who gets a connection's token, not what the token can do: a token of \
             Entra carries every scope granted for its resource. To keep scopes apart, have the caller \
             relay its requests, or register another application.",
        ),
        key(
            "relay",
            TEXTS,
            Default("[]"),
            "What the caller may have relayed for these connections: a method, a base and a path, such as \
             `GET graph:/v1.0/me/messages*`. A `*` at the end stands for any rest. The path is written \
             decoded, and compared as [The relay](relay.md) says. This needs no scope.",
        ),
        key(
            "connect",
            Kind::Bool,
            Default("false"),
            "True if the caller may start and confirm connect sessions and delete connections.",
        ),
        key(
            "app_only",
            TEXTS,
            Default("[]"),
            "Tenants in which the caller gets tokens of the app itself (client credentials): tenant ids, \
             `home` for the app's own tenant, or `*` together with `bulk = true`. Such a token is not a \
             user's: it can do everything that the app was given in that tenant.",
        ),
        key(
            "resources",
            TEXTS,
            Optional,
            "With `app_only`: the resources that those tokens may be for; default Microsoft Graph at Entra. \
             Other authorities get it as `resource` (RFC 8707).",
        ),
        key(
            "app_only_since",
            Kind::Instant,
            Optional,
            "With `app_only`: since when the rule gives it. `tokenward revoke` ends what it gave before; \
             an instant after the revocation gives it again.",
        ),
        key(
            "bulk",
            Kind::Bool,
            Default("false"),
            "Confirms that `connections = [\"*\"]` or `app_only = [\"*\"]` is intended.",
        ),
    ],
};

static ADMIN: Table = Table {
    doc: "Someone who may use the admin API.",
    keys: &[key(
        "authenticate",
        Kind::List(&Kind::Table(&ADMIN_AUTHENTICATE)),
        Required,
        "Any one of these will do.",
    )],
};

static LIMITS: Table = Table {
    doc: "Limits of time and size.",
    keys: &[
        key(
            "connect_session_ttl",
            Kind::Duration { min: "1m", max: "24h" },
            Default(r#""1h""#),
            "Life of a connect session.",
        ),
        key(
            "state_ttl",
            Kind::Duration { min: "1m", max: "1h" },
            Default(r#""10m""#),
            "Time that a user may take at the authority.",
        ),
        key(
            "confirmation_ttl",
            Kind::Duration { min: "1m", max: "1h" },
            Default(r#""10m""#),
            "Time that a new connection waits for its confirmation.",
        ),
        key(
            "open_sessions",
            Kind::Integer { min: 1, max: 5000 },
            Default("1000"),
            "Most open connect sessions of one caller, over all replicas.",
        ),
        key(
            "streams_per_caller",
            Kind::Integer { min: 1, max: 1000 },
            Default("256"),
            "Most open streams of tokens (`…/token/watch`) of one caller, in each replica. All callers of a \
             listener together have at most half as many as it has connections.",
        ),
        key(
            "authority_timeout",
            Kind::Duration { min: "1s", max: "60s" },
            Default(r#""10s""#),
            "Time of one call to an authority. At least 5 s less than `lease`.",
        ),
        key(
            "caller_wait",
            Kind::Duration { min: "1s", max: "60s" },
            Default(r#""15s""#),
            "Time that a caller waits for a refresh.",
        ),
        key(
            "lease",
            Kind::Duration { min: "6s", max: "5m" },
            Default(r#""30s""#),
            "Length of a lease, in which one replica may refresh a connection.",
        ),
        key(
            "sweep_rate",
            Kind::Integer { min: 0, max: 1000 },
            Default("50"),
            "Most refreshes a second that begin before anybody asks, over all replicas. With 0 none begin, \
             and idle connections expire.",
        ),
        key(
            "rewrap_rate",
            Kind::Integer { min: 1, max: 100_000 },
            Default("500"),
            "Most records a second that are rewrapped after another sealing key was promoted.",
        ),
        key(
            "held_memory_mib",
            Kind::Integer { min: 16, max: 1_000_000 },
            Default("128"),
            "Most mebibytes of cached connections and tokens, approximately. Beyond that, the least used \
             connections are dropped and read from the store when they are next asked for. A connection \
             with one token of 1.2 KB took 8.4 KB when measured. Raise the memory limit of the process by \
             what you add here.",
        ),
        key(
            "drain",
            Kind::Duration { min: "0s", max: "10m" },
            Default(r#""30s""#),
            "Time for requests in progress to finish at a stop.",
        ),
    ],
};

static LOG: Table = Table {
    doc: "The log on standard error. It has no token, code, secret or assertion at any level.",
    keys: &[
        key(
            "level",
            Kind::OneOf(&["error", "warn", "info", "debug", "trace"]),
            Default(r#""info""#),
            "Least level that is logged.",
        ),
        key(
            "format",
            Kind::OneOf(&["auto", "json", "text"]),
            Default(r#""auto""#),
            "One JSON line for each event, or text for people; `auto` is text where standard error is a \
             terminal, and JSON anywhere else.",
        ),
    ],
};

static AUDIT: Table = Table {
    doc: "The audit log: one JSON line for each token handed out, each connection made and each \
        administrative act. A sink is a file to append to, `stdout`, `stderr`, `syslog` (RFC 5424 at \
        `/dev/log`; another socket is `syslog:/path`) or `journald` (its own protocol; `journald:/path`). \
        See [The audit stream](audit.md).",
    keys: &[
        key("path", Kind::Path, Default(r#""stdout""#), "The sink."),
        key(
            "also",
            Kind::List(&Kind::Path),
            Optional,
            "Further sinks, at most three. Every record goes to each; one that is stuck or full stops no \
             other.",
        ),
        key(
            "fail_closed",
            Kind::Bool,
            Default("false"),
            "A token, a handle or an exported grant leaves only if at least one sink took its record within \
             250 ms; otherwise 503 `audit_unavailable`.",
        ),
        key(
            "signing_key",
            Kind::Path,
            Optional,
            "An Ed25519 private key in PEM, which signs a checkpoint after at most 1,000 records and at most \
             5 minutes: `tokenward audit make-key` makes one. Its file is watched and may be replaced while \
             the daemon runs.",
        ),
    ],
};

static TRACES: Table = Table {
    doc: "Traces over OTLP. Without `endpoint` there are none. They have no token, code, secret, assertion, \
        and no name of a user or of a connection. See [Traces](traces.md).",
    keys: &[
        key(
            "endpoint",
            Kind::Url,
            Optional,
            "Where the collector takes OTLP over HTTP, in protobuf; `/v1/traces` is added where no path is \
             written. `http://` anywhere is allowed, but not together with `headers_file`, unless it is this \
             machine. The way there is that of `[outbound]`.",
        ),
        key(
            "sample_ratio",
            Kind::Ratio,
            Default("0.01"),
            "The part of the traces beginning here that are sampled, from 0 to 1. A request to `local` or \
             `admin` whose `traceparent` is sampled is sampled in any case, and one whose `traceparent` is \
             not never.",
        ),
        key(
            "headers_file",
            Kind::Path,
            Optional,
            "A file with header fields for the collector, a secret: one `Name: value` in each line, but \
             none that tokenward sets itself, such as `User-Agent` and `Accept`. It is watched and may be \
             replaced while the daemon runs.",
        ),
        key(
            "ca_file",
            Kind::Path,
            Optional,
            "PEM certificates to trust for the collector, in place of the system's.",
        ),
        key("service_name", Kind::Text, Default(r#""tokenward""#), "`service.name` of every span."),
    ],
};

static WEBHOOK: Table = Table {
    doc: "A receiver of events: what changes of connections, apps and tenants is sent there, signed as \
          Standard Webhooks has it, and tried for three days. Live. See [Events](events.md).",
    keys: &[
        key(
            "url",
            Kind::Url,
            Required,
            "Where events are sent, with POST. https; the way there is that of `[outbound]`, and no redirect \
             is followed. Its host must lead to public addresses.",
        ),
        key(
            "secret_file",
            Kind::Path,
            Required,
            "A file with the secret that signs: `whsec_` and 24 to 64 random bytes in base64, on one line. \
             With a second secret on a second line both sign. It is watched; what it had before signs beside \
             what it has for a day.",
        ),
        key("apps", TEXTS, Optional, "The apps whose events are sent; default all."),
        key(
            "events",
            TEXTS,
            Optional,
            "The types of events that are sent, such as `connection.needs_reauthorization`; default all.",
        ),
        key(
            "ca_file",
            Kind::Path,
            Optional,
            "PEM certificates to trust for the receiver, in place of the system's.",
        ),
        key(
            "allow_private",
            Kind::Bool,
            Default("false"),
            "Let its host lead to private addresses too, and to this machine, there also over `http://`. \
             Link-local addresses, where clouds have their metadata, are refused in any case.",
        ),
    ],
};

impl Table {
    pub(super) fn key(&self, name: &str) -> Option<&'static Key> {
        // The table is static, but `self` is not known to be; the slice is.
        let keys: &'static [Key] = self.keys;
        keys.iter().find(|key| key.name == name)
    }
}

/// Parses `"250ms"`, `"90s"`, `"5m"`, `"1h30m"`, `"2d"` and nothing else, so that a bare number never gets
/// the wrong unit.
pub(super) fn parse_duration(text: &str) -> Option<std::time::Duration> {
    let mut millis: u64 = 0;
    let mut rest = text;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let number: u64 = rest[..digits].parse().ok()?;
        let (unit, length) = match &rest.as_bytes()[digits..] {
            [b'm', b's', ..] => (1, 2),
            [b's', ..] => (1000, 1),
            [b'm', ..] => (60 * 1000, 1),
            [b'h', ..] => (60 * 60 * 1000, 1),
            [b'd', ..] => (24 * 60 * 60 * 1000, 1),
            _ => return None,
        };
        millis = millis.checked_add(number.checked_mul(unit)?)?;
        rest = &rest[digits + length..];
    }
    Some(std::time::Duration::from_millis(millis))
}

/// Returns the nearest known name, if it is near enough to be meant.
pub(crate) fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<String> {
    let name = name.to_ascii_lowercase().replace('-', "_");
    known
        .into_iter()
        .map(|candidate| (strsim::damerau_levenshtein(&name, &candidate.replace('-', "_")), candidate))
        // A third of the letters may differ, or two.
        .filter(|(distance, candidate)| {
            let length = candidate.len().max(name.len());
            *distance <= (length / 3).max(2) && *distance < length
        })
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate.to_owned())
}

/// Returns all keys that hold a path: `[]` stands for any item of a list, `NAME` for any name.
#[cfg(test)]
pub(crate) fn path_keys() -> Vec<String> {
    fn below(kind: &Kind, key: String, keys: &mut Vec<String>) {
        match kind {
            Kind::Path => keys.push(key),
            Kind::Table(table) => of_table(table, &format!("{key}."), keys),
            Kind::Map { table, .. } => of_table(table, &format!("{key}.NAME."), keys),
            Kind::List(item) => below(item, format!("{key}[]"), keys),
            Kind::Text
            | Kind::Url
            | Kind::Address
            | Kind::OneOf(_)
            | Kind::Integer { .. }
            | Kind::Ratio
            | Kind::Bool
            | Kind::Duration { .. }
            | Kind::Instant
            | Kind::User
            | Kind::Urls { .. }
            | Kind::Claims => {}
        }
    }
    fn of_table(table: &Table, prefix: &str, keys: &mut Vec<String>) {
        for key in table.keys {
            below(&key.kind, format!("{prefix}{}", key.name), keys);
        }
    }
    let mut keys = Vec::new();
    of_table(&ROOT, "", &mut keys);
    keys
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn durations() {
        for (text, seconds) in
            [("90s", 90), ("5m", 300), ("1h", 3600), ("1h30m", 5400), ("2d", 172_800), ("0s", 0)]
        {
            assert_eq!(parse_duration(text), Some(Duration::from_secs(seconds)), "{text}");
        }
        assert_eq!(parse_duration("250ms"), Some(Duration::from_millis(250)));
        assert_eq!(parse_duration("1m1s500ms"), Some(Duration::from_millis(61_500)));
        for text in [
            "",
            "5",
            "m",
            "5 m",
            "-5m",
            "5min",
            "1.5h",
            "5msx",
            "ms",
            "5µ",
            "99999999999999999999s",
            "400000000000000d",
        ] {
            assert_eq!(parse_duration(text), None, "{text}");
        }
    }

    #[test]
    fn nearest_names() {
        assert_eq!(nearest("clientid", ["client_id", "authority"]).as_deref(), Some("client_id"));
        assert_eq!(nearest("base-url", ["address", "base_url"]).as_deref(), Some("base_url"));
        assert_eq!(nearest("outlok", ["outlook", "gmail"]).as_deref(), Some("outlook"));
        assert_eq!(nearest("zzz", ["address", "base_url", "tls"]), None);
    }

    #[test]
    fn the_table_is_sound() {
        fn walk(table: &Table, depth: usize) {
            assert!(depth < 8);
            for (index, key) in table.keys.iter().enumerate() {
                assert!(
                    !key.doc.is_empty() && !key.doc.contains('\n'),
                    "{}: one line of documentation",
                    key.name
                );
                assert!(
                    table.keys[..index].iter().all(|earlier| earlier.name != key.name),
                    "{} twice",
                    key.name
                );
                assert!(
                    key.name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_'),
                    "{}",
                    key.name
                );
                if let Kind::Duration { min, max } = key.kind {
                    assert!(parse_duration(min).unwrap() < parse_duration(max).unwrap());
                }
                match &key.kind {
                    Kind::Table(inner) | Kind::Map { table: inner, .. } | Kind::List(Kind::Table(inner)) => {
                        walk(inner, depth + 1);
                    }
                    _ => {}
                }
            }
        }
        walk(&ROOT, 0);
    }
}
