//! Certification authorities of a test, and TLS clients that show what these have issued.

#![allow(dead_code, reason = "each test uses a part of it")]

use std::sync::Arc;
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, DnType,
    ExtendedKeyUsagePurpose, GeneralSubtree, IsCa, KeyIdMethod, KeyPair, KeyUsagePurpose, NameConstraints,
    RevokedCertParams, SanType, SerialNumber,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use time::OffsetDateTime;
use tokenward::domain::time::Clock;
use tokenward::system::SystemClock;
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

/// The time now, moved by so many hours.
pub(crate) fn hours(by: i64) -> OffsetDateTime {
    let now = SystemClock::new().now().unix_seconds();
    OffsetDateTime::from_unix_timestamp(now).expect("a time") + time::Duration::hours(by)
}

/// An authority.
pub(crate) struct Authority(CertifiedIssuer<'static, KeyPair>);

/// A certificate chain and its key, in PEM.
#[derive(Clone)]
pub(crate) struct Identity {
    pub(crate) chain: String,
    pub(crate) key: String,
}

/// A server of HTTP/2 with this certificate.
pub(crate) fn http2_server(identity: &Identity) -> Arc<rustls::ServerConfig> {
    let chain = CertificateDer::pem_slice_iter(identity.chain.as_bytes()).collect::<Result<Vec<_>, _>>();
    let key = PrivateKeyDer::from_pem_slice(identity.key.as_bytes()).expect("a key");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut tls = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(chain.expect("a chain"), key)
        .expect("TLS");
    tls.alpn_protocols = vec![b"h2".to_vec()];
    Arc::new(tls)
}

/// What a certificate says. The default is that of a client without names.
pub(crate) struct Leaf {
    names: Vec<SanType>,
    common_name: String,
    from: OffsetDateTime,
    until: OffsetDateTime,
    purpose: ExtendedKeyUsagePurpose,
    serial: u64,
}

impl Leaf {
    pub(crate) fn new() -> Self {
        Leaf {
            names: Vec::new(),
            common_name: "a client".to_owned(),
            from: hours(-1),
            until: hours(24),
            purpose: ExtendedKeyUsagePurpose::ClientAuth,
            serial: 7,
        }
    }

    /// With a SPIFFE id or another URI.
    pub(crate) fn uri(mut self, uri: &str) -> Self {
        self.names.push(SanType::URI(uri.try_into().expect("ASCII")));
        self
    }

    pub(crate) fn dns(mut self, name: &str) -> Self {
        self.names.push(SanType::DnsName(name.try_into().expect("ASCII")));
        self
    }

    pub(crate) fn common_name(mut self, name: &str) -> Self {
        name.clone_into(&mut self.common_name);
        self
    }

    /// Valid from and until so many hours from now.
    pub(crate) fn valid(mut self, from: i64, until: i64) -> Self {
        (self.from, self.until) = (hours(from), hours(until));
        self
    }

    pub(crate) fn for_servers(mut self) -> Self {
        self.purpose = ExtendedKeyUsagePurpose::ServerAuth;
        self
    }

    pub(crate) fn serial(mut self, serial: u64) -> Self {
        self.serial = serial;
        self
    }

    fn params(self) -> CertificateParams {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, self.common_name);
        params.subject_alt_names = self.names;
        (params.not_before, params.not_after) = (self.from, self.until);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![self.purpose];
        params.serial_number = Some(SerialNumber::from(self.serial));
        params.use_authority_key_identifier_extension = true;
        params
    }

    pub(crate) fn self_signed(self) -> Identity {
        let key = KeyPair::generate().expect("a key");
        let chain = self.params().self_signed(&key).expect("a certificate").pem();
        Identity { chain, key: key.serialize_pem() }
    }
}

impl Authority {
    /// A root that ends in so many hours.
    pub(crate) fn root(name: &str, until: i64) -> Self {
        let key = KeyPair::generate().expect("a key");
        Authority(CertifiedIssuer::self_signed(Self::params(name, until), key).expect("a certificate"))
    }

    /// An authority below this one that may issue DNS names below `permitted` alone, if it is given.
    pub(crate) fn below(&self, name: &str, permitted: Option<&str>) -> Self {
        let mut params = Self::params(name, 48);
        params.serial_number = Some(SerialNumber::from(1000_u64));
        params.use_authority_key_identifier_extension = true;
        params.name_constraints = permitted.map(|domain| NameConstraints {
            permitted_subtrees: vec![GeneralSubtree::DnsName(domain.to_owned())],
            excluded_subtrees: Vec::new(),
        });
        let key = KeyPair::generate().expect("a key");
        Authority(CertifiedIssuer::signed_by(params, key, &self.0).expect("a certificate"))
    }

    fn params(name: &str, until: i64) -> CertificateParams {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        (params.not_before, params.not_after) = (hours(-24), hours(until));
        params
    }

    pub(crate) fn pem(&self) -> String {
        self.0.pem()
    }

    pub(crate) fn issue(&self, leaf: Leaf) -> Identity {
        let key = KeyPair::generate().expect("a key");
        let chain = leaf.params().signed_by(&key, &self.0).expect("a certificate").pem();
        Identity { chain, key: key.serialize_pem() }
    }

    /// Issues a certificate that is shown together with this authority's own.
    pub(crate) fn issue_with_chain(&self, leaf: Leaf) -> Identity {
        let Identity { chain, key } = self.issue(leaf);
        Identity { chain: format!("{chain}{}", self.pem()), key }
    }

    /// Its list, current until so many hours from now, with these serial numbers.
    pub(crate) fn revoked(&self, serials: &[u64], until: i64) -> String {
        self.list(serials, until).pem().expect("PEM")
    }

    /// The same in DER.
    pub(crate) fn revoked_der(&self, serials: &[u64], until: i64) -> Vec<u8> {
        self.list(serials, until).der().to_vec()
    }

    fn list(&self, serials: &[u64], until: i64) -> rcgen::CertificateRevocationList {
        let revoked = |serial: &u64| RevokedCertParams {
            serial_number: SerialNumber::from(*serial),
            revocation_time: hours(-1),
            reason_code: None,
            invalidity_date: None,
        };
        let params = CertificateRevocationListParams {
            this_update: hours(-2),
            next_update: hours(until),
            crl_number: SerialNumber::from(1_u64),
            issuing_distribution_point: None,
            revoked_certs: serials.iter().map(revoked).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        params.signed_by(&self.0).expect("a list")
    }
}

/// The server's certificate for `localhost`.
pub(crate) fn server(authority: &Authority) -> Identity {
    authority.issue(Leaf::new().dns("localhost").for_servers())
}

/// A TLS client.
pub(crate) fn connector(server_ca: &str, identity: Option<&Identity>) -> tokio_rustls::TlsConnector {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(server_ca.as_bytes()).expect("PEM")).expect("a CA");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots);
    let config = match identity {
        None => builder.with_no_client_auth(),
        Some(Identity { chain, key }) => {
            let chain = CertificateDer::pem_slice_iter(chain.as_bytes()).collect::<Result<_, _>>();
            let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).expect("PEM");
            builder.with_client_auth_cert(chain.expect("PEM"), key).expect("an identity")
        }
    };
    tokio_rustls::TlsConnector::from(Arc::new(config))
}

/// A connection of that client. In TLS 1.3 a client whose certificate is refused learns of it when it reads.
pub(crate) async fn dial(
    connector: &tokio_rustls::TlsConnector,
    port: u16,
) -> std::io::Result<TlsStream<TcpStream>> {
    let name = ServerName::try_from("localhost").expect("a name");
    let connect = async { connector.connect(name, TcpStream::connect(("127.0.0.1", port)).await?).await };
    tokio::time::timeout(Duration::from_secs(60), connect).await.expect("an end of the handshake")
}
