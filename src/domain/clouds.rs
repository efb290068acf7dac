//! Microsoft's clouds: each cloud's login hosts and its Graph (National clouds; MSAL's known instance
//! metadata).

/// One cloud.
#[derive(Debug, PartialEq, Eq)]
pub struct Cloud {
    /// Login hosts; the first one appears in issuers.
    pub hosts: &'static [&'static str],
    /// The cloud's Microsoft Graph. Microsoft has not published it for the new sovereign clouds: apps there
    /// name their resources in full.
    pub graph: &'static str,
}

/// The Graph for an Entra authority on a host outside the table, such as an emulator.
pub const GRAPH: &str = "https://graph.microsoft.com";

/// The application id of Microsoft Graph, the same in every cloud. Entra takes it for the Graph's name.
pub const GRAPH_ID: &str = "00000003-0000-0000-c000-000000000000";

/// Returns true for an `aud` of tokens for Microsoft Graph, in any cloud.
pub fn is_graph_audience(audience: &str) -> bool {
    let audience = audience.trim_end_matches('/');
    audience.eq_ignore_ascii_case(GRAPH_ID)
        || audience.eq_ignore_ascii_case("https://dod-graph.microsoft.us")
        || CLOUDS.iter().any(|cloud| audience.eq_ignore_ascii_case(cloud.graph))
}

/// Returns true for an `aud` of tokens for the app with this client id: the id, or the `api://{id}` that Entra
/// proposes as its address. Comparison ignores case.
pub fn is_audience_of_app(audience: &str, client_id: &str) -> bool {
    const SCHEME: usize = "api://".len();
    let id = match audience.get(..SCHEME) {
        Some(scheme) if scheme.eq_ignore_ascii_case("api://") => &audience[SCHEME..],
        _ => audience,
    };
    id.trim_end_matches('/').eq_ignore_ascii_case(client_id)
}

#[rustfmt::skip]
static CLOUDS: [Cloud; 6] = [
    Cloud {
        hosts: &["login.microsoftonline.com", "login.windows.net", "login.microsoft.com", "sts.windows.net"],
        graph: GRAPH,
    },
    Cloud {
        hosts: &["login.microsoftonline.us", "login.usgovcloudapi.net"],
        graph: "https://graph.microsoft.us",
    },
    Cloud {
        hosts: &["login.partner.microsoftonline.cn", "login.chinacloudapi.cn"],
        graph: "https://microsoftgraph.chinacloudapi.cn",
    },
    Cloud { hosts: &["login.sovcloud-identity.fr"], graph: GRAPH },
    Cloud { hosts: &["login.sovcloud-identity.de"], graph: GRAPH },
    Cloud { hosts: &["login.sovcloud-identity.sg"], graph: GRAPH },
];

/// Returns the cloud that a login host belongs to.
pub fn cloud_of(host: &str) -> Option<&'static Cloud> {
    CLOUDS.iter().find(|cloud| cloud.hosts.contains(&host))
}
