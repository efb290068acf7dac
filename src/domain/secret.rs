//! Secrets that cannot be printed. None of these types has `Debug`, `Display` or `Serialize`, and each is
//! wiped when dropped. `new` is the only way in and `expose` the only way out, so a search for `expose(`
//! finds every place where a secret can leave. Clones share one copy.

use std::sync::Arc;

use zeroize::Zeroizing;

macro_rules! secret {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        ///
        /// ```compile_fail
        #[doc = concat!(
            "let secret = tokenward::domain::secret::", stringify!($name), "::new(String::new());"
        )]
        /// println!("{secret:?}");
        /// ```
        /// ```compile_fail
        #[doc = concat!(
            "let secret = tokenward::domain::secret::", stringify!($name), "::new(String::new());"
        )]
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

            /// Returns the secret itself. Review every call.
            pub fn expose(&self) -> &str {
                &self.0
            }
        }
    };
}

secret!(
    /// A short-lived bearer token for a resource. It is opaque to us and never parsed (RFC 6749 §1.4).
    AccessToken
);
secret!(
    /// The long-lived secret that renews a grant. Only the authority ever receives it from this process.
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
    /// A handle, with which its bearer has requests relayed.
    HandleText
);
secret!(
    /// A one-time code with which the product confirms a connect session.
    ConfirmationCode
);
