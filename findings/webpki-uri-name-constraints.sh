#!/usr/bin/env bash
# rustls-webpki 0.103.17 refuses every certificate with a SPIFFE ID under a CA that permits just its trust domain by a URI name
# constraint (RFC 5280 section 4.2.1.10). OpenSSL takes the same chain.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
mkdir src
cat >Cargo.toml <<'TOML'
[package]
name = "uri-name-constraints"
version = "0.0.0"
edition = "2024"

[dependencies]
webpki = { package = "rustls-webpki", version = "=0.103.17", default-features = false, features = ["std", "ring"] }
pki-types = { package = "rustls-pki-types", version = "=1.16.0" }

[workspace]
TOML
cat >src/main.rs <<'RUST'
use std::time::Duration;

use pki_types::{CertificateDer, UnixTime};
use webpki::{EndEntityCert, KeyUsage, anchor_from_trusted_cert, ring};

fn main() {
    for ca in ["without", "with"] {
        let read = |name: &str| CertificateDer::from(std::fs::read(format!("{name}-{ca}.der")).unwrap());
        let (root, leaf) = (read("ca"), read("leaf"));
        let anchor = [anchor_from_trusted_cert(&root).unwrap()];
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        let leaf = EndEntityCert::try_from(&leaf).unwrap();
        let result = leaf.verify_for_usage(
            &[ring::ECDSA_P256_SHA256],
            &anchor,
            &[],
            UnixTime::since_unix_epoch(Duration::from_secs(now.as_secs())),
            KeyUsage::client_auth(),
            None,
            None,
        );
        println!("webpki, {ca} the constraint: {:?}", result.map(|_| ()));
    }
}
RUST
for ca in without with; do
  constraint=; [ $ca = with ] && constraint="nameConstraints = critical, permitted;URI:contoso.com"
  printf '[req]\ndistinguished_name = dn\nx509_extensions = ca\n[dn]\n[ca]\nbasicConstraints = critical, CA:true\n%s\n' \
    "$constraint" >ca.cnf
  printf 'subjectAltName = URI:spiffe://contoso.com/mail-sync\nextendedKeyUsage = clientAuth\n' >leaf.cnf
  key() { openssl ecparam -name prime256v1 -genkey -noout -out "$1.key"; }
  key ca && key leaf
  openssl req -x509 -new -key ca.key -subj /CN=callers -days 2 -config ca.cnf -out ca-$ca.pem
  openssl req -new -key leaf.key -subj /CN=mail-sync -config ca.cnf -out leaf.csr
  openssl x509 -req -in leaf.csr -CA ca-$ca.pem -CAkey ca.key -CAcreateserial -days 1 -extfile leaf.cnf -out leaf-$ca.pem 2>/dev/null
  for one in ca leaf; do openssl x509 -in $one-$ca.pem -outform DER -out $one-$ca.der; done
  echo "openssl, $ca the constraint: $(openssl verify -purpose sslclient -CAfile ca-$ca.pem leaf-$ca.pem)"
done | tee seen
openssl version
cargo run -q --target-dir target | tee -a seen
grep -qx 'openssl, with the constraint: leaf-with.pem: OK' seen
grep -qx 'webpki, without the constraint: Ok(())' seen
grep -qx 'webpki, with the constraint: Err(NameConstraintViolation)' seen
