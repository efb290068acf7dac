//! Kinds of authority, and the tenants in an Entra authority's URL.

use super::text::is_guid;
use super::url::CheckedUrl;
use crate::domain::account::{PERSONAL_TENANT, is_for_personal_accounts};
use crate::domain::clouds::cloud_of;

/// Kind of authority.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Provider {
    /// Microsoft Entra ID.
    Entra,
    /// Any other OpenID provider.
    OpenId,
}

/// The tenants that an Entra authority's URL accepts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum TenantPath {
    /// `common`: every work, school and personal account.
    Common,
    /// `organizations`: every work and school account.
    Organizations,
    /// `consumers`, or the personal tenant's id.
    Consumers,
    /// A tenant's id, lower case.
    Id(String),
    /// A tenant's domain, lower case.
    Domain(String),
}

impl TenantPath {
    /// Returns the tenant of a URL of the form `{origin}/{tenant}/v2.0`; `None` for any other.
    pub(super) fn of(url: &CheckedUrl) -> Option<Self> {
        let mut segments = url.segments();
        let (tenant, version) = (segments.next()?, segments.next()?);
        if version != "v2.0" || segments.next().is_some() || url.has_query() {
            return None;
        }
        let tenant = tenant.to_ascii_lowercase();
        Some(match tenant.as_str() {
            "common" => TenantPath::Common,
            "organizations" => TenantPath::Organizations,
            personal if is_for_personal_accounts(personal) => TenantPath::Consumers,
            _ if is_guid(&tenant) => TenantPath::Id(tenant),
            _ if is_tenant_name(&tenant) && tenant.contains('.') => TenantPath::Domain(tenant),
            _ => return None,
        })
    }

    /// Returns true for a single tenant of an organization.
    pub(super) fn is_one_tenant(&self) -> bool {
        matches!(self, TenantPath::Id(_) | TenantPath::Domain(_))
    }

    /// Returns its form in URLs.
    pub(super) fn as_str(&self) -> &str {
        match self {
            TenantPath::Common => "common",
            TenantPath::Organizations => "organizations",
            TenantPath::Consumers => "consumers",
            TenantPath::Id(tenant) | TenantPath::Domain(tenant) => tenant,
        }
    }

    /// Returns true if this authority may name the issuer's tenant, given in lower case.
    pub(super) fn fits_issuer(&self, issuer_tenant: &str) -> bool {
        match self {
            TenantPath::Common | TenantPath::Organizations => issuer_tenant == "{tenantid}",
            TenantPath::Consumers => issuer_tenant == PERSONAL_TENANT,
            TenantPath::Id(tenant) => issuer_tenant == tenant,
            TenantPath::Domain(_) => is_guid(issuer_tenant),
        }
    }
}

/// Returns the probable Entra authority for a similar URL: a version 1 authority, a document or an endpoint,
/// the issuer of version 1 tokens (`sts.windows.net`), or a version in another case. `None` if no tenant can
/// be found.
pub(super) fn entra_authority_of(url: &CheckedUrl) -> Option<String> {
    let origin = match (url.host(), cloud_of(url.host())) {
        ("sts.windows.net", Some(cloud)) => format!("https://{}", cloud.hosts.first()?),
        _ => url.origin().to_owned(),
    };
    let tenant = url.segments().next().filter(|tenant| !tenant.eq_ignore_ascii_case("v2.0"))?;
    let meant = format!("{origin}/{tenant}/v2.0");
    let is_one = CheckedUrl::parse(&meant, true).is_ok_and(|url| TenantPath::of(&url).is_some());
    is_one.then_some(meant)
}

/// Returns true if `text` can name a tenant in a path: a GUID, a domain, or one of the three words.
pub fn is_tenant_name(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= 253
        && !text.starts_with(['.', '-'])
        && !text.contains("..")
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'.' || byte == b'-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tenant_path_table() {
        let of = |text: &str| TenantPath::of(&CheckedUrl::parse(text, true).expect("a URL"));
        let guid = "72F988BF-86F1-41AF-91AB-2D7CD011DB47";
        let rows = [
            ("https://login.microsoftonline.com/common/v2.0".to_owned(), Some(TenantPath::Common)),
            ("http://127.0.0.1:8080/organizations/v2.0/".to_owned(), Some(TenantPath::Organizations)),
            ("https://login.microsoftonline.com/consumers/v2.0".to_owned(), Some(TenantPath::Consumers)),
            (format!("https://x.example/{PERSONAL_TENANT}/v2.0"), Some(TenantPath::Consumers)),
            (format!("https://x.example/{guid}/v2.0"), Some(TenantPath::Id(guid.to_ascii_lowercase()))),
            ("https://x.example/Contoso.com/v2.0".to_owned(), Some(TenantPath::Domain("contoso.com".into()))),
            ("https://x.example/realm/v2.0".to_owned(), None),
            ("https://x.example/common".to_owned(), None),
            ("https://x.example/common/v2.0/more".to_owned(), None),
            ("https://x.example/".to_owned(), None),
        ];
        for (url, expected) in rows {
            assert_eq!(of(&url), expected, "{url}");
        }
    }

    #[test]
    fn what_was_meant_by_a_url_like_an_authority_s() {
        let guid = "72f988bf-86f1-41af-91ab-2d7cd011db47";
        let common = "https://login.microsoftonline.com/common";
        let of_tenant = format!("https://login.microsoftonline.com/{guid}/v2.0");
        for (url, meant) in [
            (common.to_owned(), Some(format!("{common}/v2.0"))),
            (format!("{common}/V2.0"), Some(format!("{common}/v2.0"))),
            (format!("{common}/oauth2/v2.0/token"), Some(format!("{common}/v2.0"))),
            (format!("{common}/v2.0/.well-known/openid-configuration"), Some(format!("{common}/v2.0"))),
            (format!("https://sts.windows.net/{guid}/"), Some(of_tenant)),
            ("http://127.0.0.1:4000/common".to_owned(), Some("http://127.0.0.1:4000/common/v2.0".to_owned())),
            ("https://login.microsoftonline.com/contoso/v2.0".to_owned(), None),
            ("https://login.microsoftonline.com/v2.0".to_owned(), None),
            ("https://login.microsoftonline.com/".to_owned(), None),
        ] {
            assert_eq!(entra_authority_of(&CheckedUrl::parse(&url, true).expect("a URL")), meant, "{url}");
        }
    }
}
