//! TLS with the emulator's own authority.

use std::sync::Arc;

use entra_emulator::{Emulator, StartError};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::client::*;

#[tokio::test]
async fn a_client_that_trusts_the_authority_gets_through() {
    let emulator = builder().https(true).start().await.unwrap();
    let base = emulator.base_url();
    assert!(base.starts_with("https://localhost:"), "{base}");
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(emulator.ca_pem().unwrap().as_bytes()).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let connector = TlsConnector::from(Arc::new(config));
    let port = base.rsplit(':').next().unwrap();
    for name in ["localhost", "127.0.0.1"] {
        let stream = TcpStream::connect(format!("127.0.0.1:{port}")).await.unwrap();
        let stream = connector.connect(ServerName::try_from(name).unwrap(), stream).await.unwrap();
        let url = format!("{base}/common/v2.0/.well-known/openid-configuration");
        let reply = exchange(stream, "GET", &url, &[], "").await.unwrap();
        assert_eq!(reply.json()["issuer"], format!("{base}/{{tenantid}}/v2.0"));
    }
}

#[tokio::test]
async fn only_loopback_addresses_are_listened_on() {
    for address in ["0.0.0.0:0", "192.0.2.1:0", "nonsense"] {
        let refused = Emulator::builder().address(address).start().await;
        assert!(matches!(refused, Err(StartError::Address(_))), "{address}");
    }
}

#[tokio::test]
async fn stopping_frees_the_port() {
    let emulator = emulator().await;
    let address = emulator.base_url().replace("http://", "");
    emulator.stop().await;
    assert!(TcpStream::connect(&address).await.is_err());
}
