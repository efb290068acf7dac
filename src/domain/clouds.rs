//! Microsoft's clouds: which hosts belong together, and where each one's Graph is (National clouds; MSAL's known
//! instance metadata).

/// One cloud.
#[derive(Debug, PartialEq, Eq)]
pub struct Cloud {
    /// Its login hosts; the first one stands in issuers.
    pub hosts: &'static [&'static str],
    /// Its Microsoft Graph. Where the new sovereign clouds have theirs is not published: the app of one names its
    /// resources in full.
    pub graph: &'static str,
}

/// The Graph of an Entra authority on a host that is not in the table, such as an emulator.
pub const GRAPH: &str = "https://graph.microsoft.com";

#[rustfmt::skip]
static CLOUDS: [Cloud; 6] = [
    Cloud { hosts: &["login.microsoftonline.com", "login.windows.net", "login.microsoft.com", "sts.windows.net"], graph: GRAPH },
    Cloud { hosts: &["login.microsoftonline.us", "login.usgovcloudapi.net"], graph: "https://graph.microsoft.us" },
    Cloud { hosts: &["login.partner.microsoftonline.cn", "login.chinacloudapi.cn"], graph: "https://microsoftgraph.chinacloudapi.cn" },
    Cloud { hosts: &["login.sovcloud-identity.fr"], graph: GRAPH },
    Cloud { hosts: &["login.sovcloud-identity.de"], graph: GRAPH },
    Cloud { hosts: &["login.sovcloud-identity.sg"], graph: GRAPH },
];

/// The cloud that a login host belongs to.
pub fn cloud_of(host: &str) -> Option<&'static Cloud> {
    CLOUDS.iter().find(|cloud| cloud.hosts.contains(&host))
}
