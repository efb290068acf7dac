//! Secrets that refuse to print: none of these types has `Debug`, `Display` or `Serialize`, and each is wiped
//! when dropped. The only way in is `new`, the only way out is `expose`, so a search for `expose(` finds every
//! place where a secret can leave. A clone shares the one copy that there is.

use std::sync::Arc;

use zeroize::Zeroizing;

macro_rules! secret {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        ///
        /// ```compile_fail
        #[doc = concat!("let secret = tokenward::domain::secret::", stringify!($name), "::new(String::new());")]
        /// println!("{secret:?}");
        /// ```
        /// ```compile_fail
        #[doc = concat!("let secret = tokenward::domain::secret::", stringify!($name), "::new(String::new());")]
        /// println!("{secret}");
        /// ```
        /// ```compile_fail
        /// fn wire<T: serde::Serialize>(_: T) {}
        #[doc = concat!("wire(tokenward::domain::secret::", stringify!($name), "::new(String::new()));")]
        /// ```
        #[derive(Clone, PartialEq, Eq)]
        pub struct $name(Arc<Zeroizing<String>>);

        impl $name {
            /// Takes the secret in.
            pub fn new(secret: impl Into<String>) -> Self {
                $name(Arc::new(Zeroizing::new(secret.into())))
            }

            /// The secret itself. Every call is a place to review.
            pub fn expose(&self) -> &str {
                &self.0
            }
        }
    };
}

secret!(
    /// A short-lived bearer for a resource; opaque to us (never parsed, RFC 6749 §1.4).
    AccessToken
);
secret!(
    /// The long-lived secret that renews a grant. It never leaves this process but to the authority.
    RefreshToken
);
secret!(
    /// An authorization code on its way from the browser to the authority (RFC 6749 §1.3.1).
    AuthorizationCode
);
secret!(
    /// A PKCE code verifier (RFC 7636 §4.1).
    CodeVerifier
);
secret!(
    /// A client secret as the authority issued it.
    ClientSecret
);
secret!(
    /// A one-time code with which the product confirms a connect session.
    ConfirmationCode
);
