//! The form of opened fields before they are sealed: JSON, only ever extended, so that the version before can
//! read this one's. Only this file and the authority's wire turn a secret into bytes.

use std::borrow::Cow;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::Redeemed;
use crate::domain::account::Account;
use crate::domain::connection::Profile;
use crate::domain::grant::Grant;
use crate::domain::id::CallerName;
use crate::domain::secret::{AccessToken, RefreshToken};
use crate::domain::time::Timestamp;
use crate::domain::token::{HeldToken, nobody};
use crate::store::Floor;

#[derive(Serialize, Deserialize)]
struct TokenWire<'a> {
    #[serde(borrow)]
    access_token: Cow<'a, str>,
    digest: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    uti: Option<String>,
    issued_at: Timestamp,
    expires_at: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    refresh_at: Option<Timestamp>,
    scopes: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    resource: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    answers_claims: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    got_for: Option<Cow<'a, str>>,
    /// Builds before 0.3 did not write it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    cae: Option<bool>,
}

/// Life from which a token that does not say it is taken for one under continuous access evaluation. Entra's
/// other tokens live for an hour and a half at most, unless a tenant's policy says otherwise.
const LIFE_UNDER_CAE: Duration = Duration::from_secs(4 * 3600);

#[derive(Serialize, Deserialize)]
struct GrantWire<'a> {
    #[serde(borrow)]
    current: Cow<'a, str>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    previous: Option<Cow<'a, str>>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    is_doubtful: bool,
}

/// A redemption as it is sealed.
#[derive(Serialize, Deserialize)]
pub(super) struct RedeemedWire<'a> {
    account: Account,
    scopes_granted: Vec<String>,
    #[serde(borrow)]
    refresh_token: Cow<'a, str>,
    #[serde(borrow)]
    token: TokenWire<'a>,
    floor: Floor,
    nonce: [u8; 8],
}

pub(super) fn encode_redeemed(redeemed: &Redeemed) -> Zeroizing<Vec<u8>> {
    let size = redeemed.refresh_token.expose().len() + redeemed.token.access_token.expose().len() + 4096;
    encode(&RedeemedWire::of(redeemed), size)
}

pub(super) fn decode_redeemed(bytes: &[u8]) -> Option<Redeemed> {
    let wire: RedeemedWire<'_> = serde_json::from_slice(bytes).ok()?;
    Some(wire.into_redeemed())
}

impl<'a> RedeemedWire<'a> {
    pub(super) fn of(redeemed: &'a Redeemed) -> Self {
        RedeemedWire {
            account: redeemed.account.clone(),
            scopes_granted: redeemed.scopes_granted.clone(),
            refresh_token: Cow::Borrowed(redeemed.refresh_token.expose()),
            token: TokenWire::of(&redeemed.token),
            floor: redeemed.floor,
            nonce: redeemed.nonce,
        }
    }

    pub(super) fn into_redeemed(self) -> Redeemed {
        Redeemed {
            account: self.account,
            scopes_granted: self.scopes_granted,
            refresh_token: RefreshToken::new(self.refresh_token),
            token: self.token.into_token(),
            floor: self.floor,
            nonce: self.nonce,
        }
    }
}

impl<'a> TokenWire<'a> {
    fn of(token: &'a HeldToken) -> Self {
        TokenWire {
            access_token: Cow::Borrowed(token.access_token.expose()),
            digest: token.digest.clone(),
            uti: token.uti.clone(),
            issued_at: token.issued_at,
            expires_at: token.expires_at,
            refresh_at: token.refresh_at,
            scopes: token.scopes.clone(),
            resource: token.resource.clone(),
            answers_claims: token.answers_claims.clone(),
            got_for: token.got_for.as_ref().map(|caller| Cow::Borrowed(caller.as_str())),
            cae: Some(token.cae),
        }
    }

    fn into_token(self) -> HeldToken {
        let got_for = self.got_for.map(|name| CallerName::parse(&name).unwrap_or_else(|_| nobody()));
        let cae = self.cae.unwrap_or_else(|| self.expires_at.since(self.issued_at) > LIFE_UNDER_CAE);
        HeldToken {
            access_token: AccessToken::new(self.access_token),
            digest: self.digest,
            uti: self.uti,
            issued_at: self.issued_at,
            expires_at: self.expires_at,
            refresh_at: self.refresh_at,
            scopes: self.scopes,
            resource: self.resource,
            answers_claims: self.answers_claims,
            got_for,
            cae,
        }
    }
}

pub(super) fn encode_profile(profile: &Profile) -> Zeroizing<Vec<u8>> {
    encode(profile, 4096)
}

pub(super) fn encode_tokens(tokens: &[HeldToken]) -> Zeroizing<Vec<u8>> {
    let size = tokens.iter().map(|token| token.access_token.expose().len() + 1024).sum();
    let wires: Vec<TokenWire<'_>> = tokens.iter().map(TokenWire::of).collect();
    encode(&wires, size)
}

pub(super) fn decode_tokens(bytes: &[u8]) -> Option<Vec<HeldToken>> {
    let wires: Vec<TokenWire<'_>> = serde_json::from_slice(bytes).ok()?;
    Some(wires.into_iter().map(TokenWire::into_token).collect())
}

pub(super) fn encode_grant(grant: Option<&Grant>) -> Zeroizing<Vec<u8>> {
    let Some(grant) = grant else { return encode(&None::<()>, 8) };
    let previous = grant.previous.as_ref().map(RefreshToken::expose);
    let size = grant.current.expose().len() + previous.map_or(0, str::len) + 256;
    let wire = GrantWire {
        current: Cow::Borrowed(grant.current.expose()),
        previous: previous.map(Cow::Borrowed),
        is_doubtful: grant.is_doubtful,
    };
    encode(&wire, size)
}

/// The outer `None`: this version does not write such content. The inner: a destroyed grant.
pub(super) fn decode_grant(bytes: &[u8]) -> Option<Option<Grant>> {
    let wire: Option<GrantWire<'_>> = serde_json::from_slice(bytes).ok()?;
    Some(wire.map(|wire| Grant {
        current: RefreshToken::new(wire.current),
        previous: wire.previous.map(RefreshToken::new),
        is_doubtful: wire.is_doubtful,
    }))
}

/// Encodes into a buffer that is wiped when dropped; `size` is ample, so that it does not grow and leave
/// copies.
pub(super) fn encode<T: Serialize>(value: &T, size: usize) -> Zeroizing<Vec<u8>> {
    let mut bytes = Zeroizing::new(Vec::with_capacity(size));
    serde_json::to_writer(&mut *bytes, value).expect("these types have no map keys that JSON lacks");
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_and_grants_come_back_as_they_went() {
        let token = HeldToken {
            access_token: AccessToken::new("eyJ0.AbC-_~+/=="),
            digest: "d".into(),
            uti: Some("u".into()),
            issued_at: Timestamp::from_unix_seconds(1),
            expires_at: Timestamp::from_unix_seconds(2),
            refresh_at: None,
            scopes: vec!["Mail.Read".into()],
            resource: Some("https://graph.microsoft.com".into()),
            answers_claims: None,
            got_for: None,
            cae: true,
        };
        let back = decode_tokens(&encode_tokens(&[token])).expect("decodes");
        assert!(back[0].cae);
        assert_eq!(back[0].access_token.expose(), "eyJ0.AbC-_~+/==");
        assert_eq!(back[0].expires_at, Timestamp::from_unix_seconds(2));

        for is_doubtful in [false, true] {
            let previous = Some(RefreshToken::new("r1"));
            let grant = Grant { current: RefreshToken::new("r2"), previous, is_doubtful };
            let back = decode_grant(&encode_grant(Some(&grant))).expect("decodes").expect("a grant");
            assert!(back.current == grant.current && back.previous == grant.previous);
            assert_eq!(back.is_doubtful, is_doubtful);
        }
    }

    #[test]
    fn a_secret_with_characters_that_json_escapes_survives() {
        let grant = Grant::new(RefreshToken::new("quote\" slash\\ line\n ü"));
        assert!(
            decode_grant(&encode_grant(Some(&grant)))
                .flatten()
                .is_some_and(|back| back.current == grant.current)
        );
        assert!(decode_grant(&encode_grant(None)).is_some_and(|back| back.is_none()));
    }
}
