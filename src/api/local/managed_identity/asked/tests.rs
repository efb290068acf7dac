use super::*;

const GRAPH: &str = "https://graph.microsoft.com";

fn entra() -> ScopeNaming {
    ScopeNaming::Entra { graph: GRAPH.to_owned() }
}

fn read(query: &str, path: Option<&str>) -> Result<Asked, Problem> {
    let pairs = Pairs::read(query.as_bytes()).expect("pairs");
    let key = path.map(|text| match named(text).expect("a name") {
        Whose::Connection(key) => key,
        Whose::App(app) => panic!("{app} is no connection"),
    });
    Asked::read(&pairs, key.as_ref())
}

/// The parameter that is at fault.
fn fault(query: &str, path: Option<&str>) -> String {
    let problem = read(query, path).expect_err(query);
    assert_eq!(problem.code, "invalid_request");
    problem.detail.split(':').next().unwrap_or_default().to_owned()
}

/// Queries as five clients sent them, each for `outlook:team-a/u7`.
#[test]
fn every_client_s_query_is_understood() {
    for query in [
        // azure-identity for Python encodes nothing.
        "api-version=2019-08-01&resource=https://graph.microsoft.com&client_id=outlook:team-a/u7",
        // msal for Python, and Rust; @azure/identity and msal-node.
        "api-version=2019-08-01&resource=https%3A%2F%2Fgraph.microsoft.com&client_id=outlook%3Ateam-a%2Fu7",
        // The same, below an address with a query of its own: before and after it, and with a bare `?`.
        "x=1&api-version=2019-08-01&resource=https://graph.microsoft.com&client_id=outlook%3Ateam-a%2Fu7",
        "api-version=2019-08-01&resource=https://graph.microsoft.com&client_id=outlook:team-a/u7&x=1",
        "?api-version=2019-08-01&resource=https://graph.microsoft.com&client_id=outlook:team-a/u7",
        // msal-node with the client capability CP1, and the version that has it by itself.
        "api-version=2019-08-01&xms_cc=CP1&resource=https://graph.microsoft.com&client_id=outlook:team-a/u7",
        "api-version=2025-03-30&xms_cc=cp1&resource=https://graph.microsoft.com&client_id=outlook:team-a/u7",
        // MSI_ENDPOINT with MSI_SECRET, and Service Fabric's.
        "api-version=2017-09-01&resource=https://graph.microsoft.com&clientid=outlook:team-a/u7",
        "api-version=2019-07-01-preview&resource=https://graph.microsoft.com&client_id=outlook:team-a/u7",
    ] {
        let asked = read(query, None).expect(query);
        assert_eq!(asked.whose, named("outlook:team-a/u7").expect("a name"), "{query}");
        assert_eq!((asked.resource.as_str(), &asked.rejected), (GRAPH, &None), "{query}");
    }
}

#[test]
fn a_connection_is_named_in_one_way() {
    let path = Some("outlook:a");
    let named_by = |query: &str, path| read(&format!("resource=x&{query}"), path).map(|asked| asked.whose);
    for (query, path) in [
        ("client_id=outlook:a", None),
        ("clientid=outlook:a&client_id=outlook:a", None),
        ("", path),
        // Rust sends it empty.
        ("client_id=", path),
        ("client_id=outlook:a", path),
    ] {
        assert_eq!(named_by(query, path).ok(), named("outlook:a").ok(), "{query}");
    }
    // The app itself.
    let app = AppName::parse("outlook").expect("a name");
    assert_eq!(named_by("client_id=outlook", None).ok(), Some(Whose::App(app)));
    for (query, path, at_fault) in [
        ("", None, "client_id"),
        ("client_id=", None, "client_id"),
        ("client_id=a&clientid=b", None, "client_id"),
        ("client_id=outlook:a&clientid=outlook:b", None, "client_id"),
        ("client_id=:a", None, "client_id"),
        ("client_id=Outlook:a", None, "client_id"),
        ("client_id=outlook:", None, "client_id"),
        ("client_id=outlook:a+b", None, "client_id"),
        ("client_id=outlook:..", None, "client_id"),
        // Which of the two is meant cannot be known.
        ("client_id=outlook:b", path, "client_id"),
        ("client_id=outlook", path, "client_id"),
        ("client_id=11111111-2222-3333-4444-555555555555", path, "client_id"),
        ("object_id=outlook:a", None, "object_id"),
        ("principal_id=outlook:a", None, "principal_id"),
        ("mi_res_id=outlook:a", None, "mi_res_id"),
        ("msi_res_id=x&client_id=outlook:a", None, "msi_res_id"),
        ("object_id=x", path, "object_id"),
    ] {
        assert_eq!(fault(&format!("resource=x&{query}"), path), at_fault, "{query}");
    }
    assert_eq!(fault("client_id=outlook:a", None), "resource");
    assert_eq!(fault("resource=&client_id=outlook:a", None), "resource");
    assert_eq!(fault("api-version=2018-02-01&resource=x&client_id=outlook:a", None), "api-version");
}

#[test]
fn what_an_sdk_makes_of_a_scope_is_a_resource_or_a_scope() {
    let known = entra().scopes("Mail.Read https://contoso.com/api/Read api://x/y/Read").expect("scopes");
    let graph = Some(GRAPH);
    // what is sent, the resource that is wanted, the scope that is wanted
    for (text, resource, scope) in [
        ("https://graph.microsoft.com", graph, ""),
        ("https://graph.microsoft.com/", graph, ""),
        ("https://graph.microsoft.com//", graph, ""),
        ("HTTPS://Graph.Microsoft.com", graph, ""),
        ("https://graph.microsoft.com/.default", graph, ""),
        ("https://graph.microsoft.com//.default", graph, ""),
        ("00000003-0000-0000-c000-000000000000", graph, ""),
        ("00000003-0000-0000-C000-000000000000/.default", graph, ""),
        ("Mail.Read", None, "Mail.Read"),
        ("https://graph.microsoft.com/Mail.Read", None, "https://graph.microsoft.com/Mail.Read"),
        ("https://outlook.office.com", Some("https://outlook.office.com"), ""),
        ("https://outlook.office365.com/", Some("https://outlook.office.com"), ""),
        ("https://outlook.office.com/SMTP.Send", None, "https://outlook.office.com/SMTP.Send"),
        ("11111111-2222-3333-4444-555555555555", Some("11111111-2222-3333-4444-555555555555"), ""),
        // A resource with a path, if the app has scopes of it; otherwise a scope.
        ("https://contoso.com/api", Some("https://contoso.com/api"), ""),
        ("api://x/y", Some("api://x/y"), ""),
        ("https://contoso.com/api/Read", None, "https://contoso.com/api/Read"),
        ("https://contoso.com/other", None, "https://contoso.com/other"),
        ("https://contoso.com/other/.default", Some("https://contoso.com/other"), ""),
    ] {
        let asked = read(&format!("client_id=outlook:a&resource={text}"), None).expect(text);
        let want = asked.want(&entra(), &known).expect(text);
        assert_eq!((want.resource.as_deref(), want.scopes.wire().as_str()), (resource, scope), "{text}");
        assert!(!want.cae, "{text}");
        assert_eq!(asked.resource, text, "the answer names what was asked for");
    }
    // Other authorities have no resources.
    let asked = read("client_id=mock:a&resource=mail", None).expect("a request");
    let want = asked.want(&ScopeNaming::Plain, &ScopeSet::default()).expect("a want");
    assert_eq!((want.resource, want.scopes.wire()), (None, "mail".to_owned()));
}

#[test]
fn a_refused_token_is_named_by_its_digest_alone() {
    let digest = "0123456789abcdef".repeat(4);
    let query =
        |sha256: &str| format!("client_id=outlook:a&resource={GRAPH}&token_sha256_to_refresh={sha256}");
    for (sent, wanted) in
        [(digest.clone(), Some(&digest)), (digest.to_ascii_uppercase(), Some(&digest)), (String::new(), None)]
    {
        let asked = read(&query(&sent), None).expect("a request");
        let want = asked.want(&entra(), &ScopeSet::default()).expect("a want");
        assert_eq!(want.rejected.as_ref(), wanted, "{sent}");
    }
    for bad in ["x", "eyJ0eXAi", &digest[1..]] {
        assert_eq!(fault(&query(bad), None), "token_sha256_to_refresh", "{bad}");
    }
}
