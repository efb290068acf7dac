//! The initial responses of the two SASL mechanisms that carry an access token. Pure.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// Longest user name in bytes: that of an address (RFC 5321 §4.5.3.1: 64 before the `@`, 255 after it).
const LONGEST_USER: usize = 320;
/// Longest host name in bytes (RFC 1035 §2.3.4).
const LONGEST_HOST: usize = 255;

/// A SASL mechanism.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Mechanism {
    /// Google's and Microsoft's own, which most programs speak
    Xoauth2,
    /// RFC 7628
    Oauthbearer,
}

impl Mechanism {
    /// The name in the registry of SASL mechanisms.
    pub(super) fn name(self) -> &'static str {
        match self {
            Mechanism::Xoauth2 => "XOAUTH2",
            Mechanism::Oauthbearer => "OAUTHBEARER",
        }
    }

    /// Writes the initial response with a token, in Base64 (RFC 4648 §4).
    pub(super) fn initial_response(self, login: &Login, token: &str) -> String {
        STANDARD.encode(self.response(login, token))
    }

    /// Returns the length in bytes of a response with an empty token, before Base64.
    pub(super) fn length_without_token(self, login: &Login) -> usize {
        self.response(login, "").len()
    }

    /// `\x01` cannot be in a [`User`], a [`Host`] or a token, so each part ends where it should.
    fn response(self, login: &Login, token: &str) -> String {
        let user = &*login.user.0;
        match self {
            Mechanism::Xoauth2 => format!("user={user}\x01auth=Bearer {token}\x01\x01"),
            Mechanism::Oauthbearer => {
                // RFC 5801 §4: in a saslname `=` and `,` are escaped.
                let user = user.replace('=', "=3D").replace(',', "=2C");
                let host = login.host.as_ref().map(|host| format!("host={}\x01", host.0)).unwrap_or_default();
                let port = login.port.map(|port| format!("port={port}\x01")).unwrap_or_default();
                format!("n,a={user},\x01{host}{port}auth=Bearer {token}\x01\x01")
            }
        }
    }
}

/// Who logs in, and where. XOAUTH2 has neither host nor port.
#[derive(Debug, Clone)]
pub(super) struct Login {
    pub(super) user: User,
    pub(super) host: Option<Host>,
    pub(super) port: Option<u16>,
}

/// A mailbox's user name: 1 to 320 bytes without control characters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct User(String);

/// Error: the text is no user name.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("must be a user name of 1 to {LONGEST_USER} bytes without control characters")]
pub(super) struct NoUser;

impl User {
    pub(super) fn parse(text: &str) -> Result<Self, NoUser> {
        let good = (1..=LONGEST_USER).contains(&text.len()) && !text.chars().any(char::is_control);
        if good { Ok(User(text.to_owned())) } else { Err(NoUser) }
    }

    pub(super) fn as_str(&self) -> &str {
        &self.0
    }
}

/// A server's host name or address: 1 to 255 visible ASCII characters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Host(String);

/// Error: the text is no host.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("must be a host name or an address of 1 to {LONGEST_HOST} visible ASCII characters")]
pub(super) struct NoHost;

impl Host {
    pub(super) fn parse(text: &str) -> Result<Self, NoHost> {
        let good =
            (1..=LONGEST_HOST).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic());
        if good { Ok(Host(text.to_owned())) } else { Err(NoHost) }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in super::super) fn login(user: &str, host: Option<&str>, port: Option<u16>) -> Login {
        Login {
            user: User::parse(user).expect("a user"),
            host: host.map(|host| Host::parse(host).expect("a host")),
            port,
        }
    }

    #[test]
    fn the_examples_of_the_protocols() {
        // Google's page "OAuth 2.0 Mechanism".
        let xoauth2 = Mechanism::Xoauth2.initial_response(
            &login("someuser@example.com", None, None),
            "ya29.vF9dft4qmTc2Nvb3RlckBhdHRhdmlzdGEuY29tCg",
        );
        assert_eq!(
            xoauth2,
            "dXNlcj1zb21ldXNlckBleGFtcGxlLmNvbQFhdXRoPUJlYXJlciB5YTI5LnZGOWRmdDRxbVRjMk52YjNSbGNrQmhkSFJo\
             ZG1semRHRXVZMjl0Q2cBAQ=="
        );
        // RFC 7628 §4.1, which wraps it.
        let oauthbearer = Mechanism::Oauthbearer.initial_response(
            &login("user@example.com", Some("server.example.com"), Some(143)),
            "vF9dft4qmTc2Nvb3RlckBhbHRhdmlzdGEuY29tCg==",
        );
        assert_eq!(
            oauthbearer,
            "bixhPXVzZXJAZXhhbXBsZS5jb20sAWhvc3Q9c2VydmVyLmV4YW1wbGUuY29tAXBvcnQ9MTQzAWF1dGg9QmVhcmVyIHZGOWR\
             mdDRxbVRjMk52YjNSbGNrQmhiSFJoZG1semRHRXVZMjl0Q2c9PQEB"
        );
    }

    #[test]
    fn a_user_name_of_oauthbearer_is_a_saslname_and_host_and_port_may_be_left_out() {
        let odd = login("a=b,c@contoso.com", None, None);
        let bytes = |mechanism: Mechanism| mechanism.response(&odd, "t");
        assert_eq!(bytes(Mechanism::Oauthbearer), "n,a=a=3Db=2Cc@contoso.com,\x01auth=Bearer t\x01\x01");
        assert_eq!(bytes(Mechanism::Xoauth2), "user=a=b,c@contoso.com\x01auth=Bearer t\x01\x01");
        assert_eq!(
            Mechanism::Oauthbearer.response(&login("u", None, Some(993)), "t"),
            "n,a=u,\x01port=993\x01auth=Bearer t\x01\x01"
        );
    }

    #[test]
    fn nothing_ends_a_part_early() {
        for bad in ["", "a\u{1}auth=Bearer x", "a\0", "a\n", "a\u{85}b", &"a".repeat(321)] {
            assert_eq!(User::parse(bad), Err(NoUser), "{bad:?}");
        }
        assert!(User::parse("zoë@contoso.com").is_ok() && User::parse(&"a".repeat(320)).is_ok());
        for bad in ["", "a b", "a\u{1}", "é.example", &"a".repeat(256)] {
            assert_eq!(Host::parse(bad), Err(NoHost), "{bad:?}");
        }
        assert!(Host::parse("outlook.office365.com").is_ok() && Host::parse("::1").is_ok());
    }
}
