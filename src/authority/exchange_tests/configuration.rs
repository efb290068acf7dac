//! Configurations, clouds, tenants in paths, and TLS.

use super::*;

#[tokio::test]
async fn each_kind_of_tenant_path_has_its_own_issuer() {
    use crate::domain::account::PERSONAL_TENANT;
    // path, issuer's tenant, whether it fits
    let rows = [
        ("organizations", "{tenantid}", true),
        ("organizations", TENANT_A, false),
        ("consumers", PERSONAL_TENANT, true),
        ("consumers", "{tenantid}", false),
        ("consumers", TENANT_A, false),
        (TENANT_A, TENANT_A, true),
        (TENANT_A, TENANT_B, false),
        (TENANT_A, "{tenantid}", false),
        ("contoso.com", TENANT_B, true),
        ("contoso.com", "{tenantid}", false),
        ("contoso.com", "contoso.com", false),
    ];
    for (path, issuer_tenant, fits) in rows {
        let script = Script {
            document: Box::new(move |origin| {
                let mut document = entra_document(origin);
                document["issuer"] = format!("{origin}/{issuer_tenant}/v2.0").into();
                Reply::json(200, &document)
            }),
            ..entra_script()
        };
        let world = World::with(&format!("/{path}/v2.0"), script, vec![secret("one", "s")], |_| {});
        assert_eq!(world.authorize(|_| {}).await.is_ok(), fits, "{path} {issuer_tenant}");
    }
}

#[test]
fn configurations_that_cannot_work_are_refused() {
    let make = |change: fn(&mut AuthorityConfig)| {
        let mut config = AuthorityConfig::new("https://login.microsoftonline.com/common/v2.0", CLIENT_ID);
        change(&mut config);
        let parts = AuthorityParts {
            token_hosts: AppHosts::default(),
            clock: ManualClock::new(),
            random: Arc::new(CountingRandom::default()),
            observer: Arc::new(Unobserved),
        };
        OpenIdAuthority::new(config, vec![secret("one", "s")], parts).map(|made| made.provider())
    };
    assert_eq!(make(|_| {}).expect("good"), Provider::Entra);
    assert_eq!(
        make(|config| config.authority = "https://accounts.google.com".into()).expect("good"),
        Provider::OpenId
    );
    let refused = |change| make(change).expect_err("refused").to_string();
    assert!(refused(|config| config.authority = "http://login.example/common/v2.0".into()).contains("https"));
    assert!(refused(|config| config.authority = "login.example".into()).contains("URL"));
    assert!(
        refused(|config| config.authority = "https://login.microsoftonline.com/common".into())
            .contains("/common/v2.0")
    );
    assert!(refused(|config| config.authority = "https://x.example/?y".into()).contains("query"));
    assert_eq!(refused(|config| config.client_id = String::new()), "is empty");
    assert!(refused(|config| config.client_id = "a\nb".into()).contains(r#"holds "\n""#));
    assert!(refused(|config| config.roots = Roots::Only("no PEM".into())).contains("CA"));
}

#[test]
fn each_clouds_bare_scopes_are_its_own_graphs() {
    for (host, graph) in [
        ("login.microsoftonline.com", "https://graph.microsoft.com"),
        ("login.microsoftonline.us", "https://graph.microsoft.us"),
        ("login.partner.microsoftonline.cn", "https://microsoftgraph.chinacloudapi.cn"),
        ("emulator.example", "https://graph.microsoft.com"),
    ] {
        let parts = AuthorityParts {
            token_hosts: AppHosts::default(),
            clock: ManualClock::new(),
            random: Arc::new(CountingRandom::default()),
            observer: Arc::new(Unobserved),
        };
        let config = AuthorityConfig::new(format!("https://{host}/common/v2.0"), CLIENT_ID);
        let authority = OpenIdAuthority::new(config, Vec::new(), parts).expect("good");
        assert_eq!(*authority.scope_naming(), ScopeNaming::Entra { graph: graph.into() }, "{host}");
    }
}

#[test]
fn a_graph_that_no_host_tells_can_be_named() {
    let make = |graph: &str| {
        let mut config = AuthorityConfig::new("https://login.microsoftonline.us/common/v2.0", CLIENT_ID);
        config.graph = Some(graph.into());
        let parts = AuthorityParts {
            token_hosts: AppHosts::default(),
            clock: ManualClock::new(),
            random: Arc::new(CountingRandom::default()),
            observer: Arc::new(Unobserved),
        };
        let made = OpenIdAuthority::new(config, Vec::new(), parts);
        made.map(|authority| authority.scope_naming().clone()).map_err(|error| error.to_string())
    };
    let dod = ScopeNaming::Entra { graph: "https://dod-graph.microsoft.us".into() };
    assert_eq!(make("https://dod-graph.microsoft.us/"), Ok(dod));
    assert!(make("dod-graph.microsoft.us").is_err() && make("http://graph.example").is_err());
}

#[tokio::test]
async fn tls_is_checked_against_the_roots_that_were_given() {
    let server = Server::start_tls(|seen| {
        let origin = format!("https://{}", seen.header("host").expect("a host"));
        match seen.path.as_str() {
            path if path.ends_with("keys") => Reply::json(200, &json!({ "keys": [rsa_jwk("k1", &RSA)] })),
            _ => Reply::json(200, &entra_document(&origin)),
        }
    });
    let ca = include_str!("../../../tests/data/authority/keys/tls-ca.pem");
    let probe = async |host: &str, roots: Roots| {
        let authority = format!("https://{host}:{}/common/v2.0", server.address.port());
        let mut config = AuthorityConfig::new(authority, CLIENT_ID);
        config.roots = roots;
        let parts = AuthorityParts {
            token_hosts: AppHosts::default(),
            clock: ManualClock::new(),
            random: Arc::new(CountingRandom::default()),
            observer: Arc::new(Unobserved),
        };
        let authority = OpenIdAuthority::new(config, Vec::new(), parts).expect("good");
        authority.probe().await
    };
    probe("localhost", Roots::Only(ca.into())).await.expect("a private CA's server");
    probe("127.0.0.1", Roots::Only(ca.into())).await.expect("by its address");
    // The app's own self-signed certificate is a root that signed nothing here.
    let other = include_str!("../../../tests/data/authority/keys/app-rsa.pem");
    let failure = failed(probe("localhost", Roots::Only(other.into())).await);
    assert_eq!(failure.disposition, LATER);
    assert!(failure.cause.contains("certificate"), "{failure}");
}
