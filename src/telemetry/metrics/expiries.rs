//! When credentials, keys and certificates expire. The time left is worked out when the page is read.

use std::collections::BTreeMap;

use parking_lot::Mutex;

use super::catalogue::Catalogue;
use crate::domain::id::{AppName, CallerName};
use crate::domain::time::Timestamp;
use crate::telemetry::series::{Known, Label};

/// What expires.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Expiring {
    Credential(AppName, String),
    TlsCertificate(&'static str),
    TlsClientCa(&'static str),
    TlsClientCrl(&'static str),
    CallerKey(CallerName, String),
    StoreCertificate(&'static str),
}

/// When each of them expires.
#[derive(Debug, Default)]
pub(super) struct Expiries(Mutex<BTreeMap<Expiring, Timestamp>>);

impl Expiries {
    /// Sets when it expires; `None` if that is not known.
    pub(super) fn set(&self, what: Expiring, at: Option<Timestamp>) {
        let mut expiries = self.0.lock();
        match at {
            Some(at) => expiries.insert(what, at),
            None => expiries.remove(&what),
        };
    }

    /// Forgets those whose names are no longer configured.
    pub(super) fn end_what_is_gone(&self, known: &Known) {
        self.0.lock().retain(|what, _| match what {
            Expiring::Credential(app, credential) => known.has(Label::Credential(app, credential)),
            Expiring::CallerKey(caller, key) => known.has(Label::CallerKey(caller, key)),
            Expiring::TlsCertificate(_)
            | Expiring::TlsClientCa(_)
            | Expiring::TlsClientCrl(_)
            | Expiring::StoreCertificate(_) => true,
        });
    }

    /// Sets each metric to the seconds left at this moment.
    pub(super) fn show(&self, all: &Catalogue, now: Timestamp) {
        for (what, at) in self.0.lock().iter() {
            let gauge = match what {
                Expiring::Credential(app, credential) => {
                    all.credential_expiry_seconds.with(&[Label::App(app), Label::Credential(app, credential)])
                }
                Expiring::TlsCertificate(listener) => {
                    all.tls_certificate_expiry_seconds.with(&[Label::Word(listener)])
                }
                Expiring::TlsClientCa(listener) => {
                    all.tls_client_ca_expiry_seconds.with(&[Label::Word(listener)])
                }
                Expiring::TlsClientCrl(listener) => {
                    all.tls_client_crl_expiry_seconds.with(&[Label::Word(listener)])
                }
                Expiring::CallerKey(caller, key) => all
                    .caller_key_expiry_seconds
                    .with(&[Label::Caller(caller), Label::CallerKey(caller, key)]),
                Expiring::StoreCertificate(certificate) => {
                    all.store_certificate_expiry_seconds.with(&[Label::Word(certificate)])
                }
            };
            gauge.set(at.unix_millis().saturating_sub(now.unix_millis()) as f64 / 1000.0);
        }
    }
}
