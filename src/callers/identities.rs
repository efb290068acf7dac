//! Identities other than API keys: which caller a Unix user or a name in a client certificate is.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use super::{AuthenticationFailure, Caller, CallersError};
use crate::domain::auth_method::{AuthMethod, AuthMethods};
use crate::domain::certificate_names::{CertificateNames, San, SpiffeId};

/// Something that names one caller.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Identity {
    /// A user of this machine, by number.
    UnixUser(u32),
    /// The SPIFFE id of an X.509-SVID.
    Spiffe(SpiffeId),
    /// A DNS name or URI in a client certificate.
    San(San),
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Identity::UnixUser(uid) => write!(f, "the Unix user {uid}"),
            Identity::Spiffe(id) => write!(f, "the SPIFFE id `{id}`"),
            Identity::San(name) => write!(f, "the certificate name `{name}`"),
        }
    }
}

/// The caller of each identity.
#[derive(Debug, Default)]
pub(super) struct Identities {
    by_uid: HashMap<u32, Arc<Caller>>,
    by_spiffe_id: HashMap<Box<str>, Arc<Caller>>,
    by_san: HashMap<Box<str>, Arc<Caller>>,
}

impl Identities {
    /// Adds an identity of a caller.
    ///
    /// # Errors
    /// It names another caller already.
    pub(super) fn add(&mut self, identity: Identity, caller: &Arc<Caller>) -> Result<(), CallersError> {
        let before = match &identity {
            Identity::UnixUser(uid) => self.by_uid.insert(*uid, caller.clone()),
            Identity::Spiffe(id) => self.by_spiffe_id.insert(id.as_str().into(), caller.clone()),
            Identity::San(name) => self.by_san.insert(name.as_str().into(), caller.clone()),
        };
        match before.filter(|before| before.name != caller.name) {
            None => Ok(()),
            Some(first) => {
                let (first, second) = (first.name.clone(), caller.name.clone());
                Err(CallersError::SameIdentity { identity, first, second })
            }
        }
    }

    /// Returns the caller that is this user of the machine.
    pub(super) fn of_uid(&self, uid: u32) -> Option<Arc<Caller>> {
        self.by_uid.get(&uid).cloned()
    }

    /// Returns the one caller that the names of a certificate name, by the `accepted` methods.
    pub(super) fn of_certificate(
        &self,
        names: &CertificateNames,
        accepted: AuthMethods,
    ) -> Result<(Arc<Caller>, AuthMethod), AuthenticationFailure> {
        let spiffe_id = names.spiffe_id().filter(|_| accepted.contains(AuthMethod::Spiffe));
        let by_spiffe_id = spiffe_id.and_then(|id| self.by_spiffe_id.get(id));
        let sans = names.sans().filter(|_| accepted.contains(AuthMethod::San));
        let by_san = sans.filter_map(|name| self.by_san.get(name));
        let mut named = by_spiffe_id
            .map(|caller| (caller, AuthMethod::Spiffe))
            .into_iter()
            .chain(by_san.map(|caller| (caller, AuthMethod::San)));
        let (caller, method) = named.next().ok_or(AuthenticationFailure::Unknown)?;
        if named.any(|(other, _)| other.name != caller.name) {
            return Err(AuthenticationFailure::Ambiguous);
        }
        Ok((caller.clone(), method))
    }
}
