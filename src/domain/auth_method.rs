//! The ways in which a caller can prove who it is: the words of `authenticate` and of a listener's `accept`.
//! (A handle is no way of `authenticate`: callers make it.)

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

/// One way to prove who is calling.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum AuthMethod {
    /// The user at the other end of a Unix socket.
    UnixUser,
    /// An API key.
    ApiKeys,
    /// The SPIFFE id in a client certificate.
    Spiffe,
    /// A DNS name or URI in a client certificate.
    San,
    /// A JWT of a configured issuer.
    Jwt,
    /// A JWT that the caller itself has signed, at the token endpoint (`private_key_jwt`).
    ClientAssertion,
    /// A handle that a caller made, at the relay.
    Handles,
}

impl AuthMethod {
    /// Every method.
    pub const ALL: [AuthMethod; 7] = [
        AuthMethod::UnixUser,
        AuthMethod::ApiKeys,
        AuthMethod::Spiffe,
        AuthMethod::San,
        AuthMethod::Jwt,
        AuthMethod::ClientAssertion,
        AuthMethod::Handles,
    ];

    /// Its word in the configuration and in the audit log.
    pub fn as_str(self) -> &'static str {
        match self {
            AuthMethod::UnixUser => "unix_user",
            AuthMethod::ApiKeys => "api_keys",
            AuthMethod::Spiffe => "spiffe",
            AuthMethod::San => "san",
            AuthMethod::Jwt => "jwt",
            AuthMethod::ClientAssertion => "client_assertion",
            AuthMethod::Handles => "handles",
        }
    }

    /// The method of this word.
    pub fn of_word(word: &str) -> Option<Self> {
        AuthMethod::ALL.into_iter().find(|method| method.as_str() == word)
    }

    /// Returns true if a client certificate is the proof.
    pub fn needs_certificate(self) -> bool {
        matches!(self, AuthMethod::Spiffe | AuthMethod::San)
    }
}

/// A set of methods.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct AuthMethods(u8);

impl AuthMethods {
    /// All methods.
    pub fn all() -> Self {
        AuthMethod::ALL.into_iter().collect()
    }

    /// Returns true if it is in the set.
    pub fn contains(self, method: AuthMethod) -> bool {
        self.0 & (1 << method as u8) != 0
    }

    /// Returns true if the set has no method.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Its methods, in the order of [`AuthMethod::ALL`].
    pub fn iter(self) -> impl Iterator<Item = AuthMethod> {
        AuthMethod::ALL.into_iter().filter(move |method| self.contains(*method))
    }

    /// Returns true if a client certificate is the only proof in the set.
    pub fn need_certificate(self) -> bool {
        !self.is_empty() && self.iter().all(AuthMethod::needs_certificate)
    }
}

impl FromIterator<AuthMethod> for AuthMethods {
    fn from_iter<I: IntoIterator<Item = AuthMethod>>(methods: I) -> Self {
        AuthMethods(methods.into_iter().fold(0, |set, method| set | 1 << method as u8))
    }
}

impl fmt::Debug for AuthMethods {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter().map(AuthMethod::as_str)).finish()
    }
}

/// The methods that a listener accepts now. Clones share them; a reload replaces them.
#[derive(Debug, Clone)]
pub struct LiveAuthMethods(Arc<AtomicU8>);

impl LiveAuthMethods {
    /// Begins with these.
    pub fn new(methods: AuthMethods) -> Self {
        LiveAuthMethods(Arc::new(AtomicU8::new(methods.0)))
    }

    /// Returns the methods accepted now.
    pub fn current(&self) -> AuthMethods {
        AuthMethods(self.0.load(Ordering::Acquire))
    }

    /// Replaces them.
    pub fn replace(&self, methods: AuthMethods) {
        self.0.store(methods.0, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_has_what_was_put_into_it() {
        for method in AuthMethod::ALL {
            assert_eq!(AuthMethod::of_word(method.as_str()), Some(method));
            let one = AuthMethods::from_iter([method]);
            assert!(one.iter().eq([method]) && AuthMethods::all().contains(method), "{one:?}");
            assert_eq!(one.need_certificate(), method.needs_certificate());
        }
        assert!(!AuthMethods::all().need_certificate());
        assert!(!AuthMethods::default().need_certificate() && AuthMethods::default().is_empty());
        assert_eq!(AuthMethod::of_word("mtls"), None);
    }
}
