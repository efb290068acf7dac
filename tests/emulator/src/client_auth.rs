//! Client authentication: secrets, certificate assertions, federated assertions.

use aws_lc_rs::signature::{
    RSA_PKCS1_2048_8192_SHA256, RSA_PSS_2048_8192_SHA256, RsaPublicKeyComponents, UnparsedPublicKey,
};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::{Map, Value};

use crate::clock::Moment;
use crate::directory::{Certificate, Registration, Secret, TenantPath};
use crate::errors::AadError;
use crate::ledger::{AuthMethod, Notes};
use crate::message::Request;
use crate::state::State;

const ASSERTION_TYPE: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";

/// Entra reads this many keys of a federated issuer and no more.
const MOST_ISSUER_KEYS: usize = 100;

/// The client named by the request, unverified.
#[derive(Debug, Default)]
struct Claimed {
    client_id: Option<String>,
    basic_secret: Option<String>,
    form_secret: Option<String>,
    assertion: Option<String>,
}

impl State {
    /// Identifies the app and checks its credential. Records the findings in `notes`.
    pub(crate) fn authenticate(
        &mut self,
        request: &Request,
        path: &TenantPath,
        notes: &mut Notes,
    ) -> Result<String, AadError> {
        let claimed = claimed(request)?;
        let methods = [
            (claimed.basic_secret.is_some(), AuthMethod::SecretBasic),
            (claimed.form_secret.is_some(), AuthMethod::SecretPost),
            (claimed.assertion.is_some(), AuthMethod::Certificate),
        ];
        let used: Vec<_> = methods.iter().filter(|(used, _)| *used).map(|(_, method)| *method).collect();
        notes.auth_method = match used.as_slice() {
            [] => AuthMethod::None,
            [one] => *one,
            _ => AuthMethod::Several,
        };
        notes.client_id.clone_from(&claimed.client_id);
        let Some(client_id) =
            claimed.client_id.clone().or_else(|| claimed.assertion.as_deref().and_then(subject))
        else {
            return Err(AadError::because(
                900144,
                "The request body must contain the following parameter: 'client_id'.",
            ));
        };
        notes.client_id = Some(client_id.clone());
        let Some(app) = self.directory.apps.get(&client_id).cloned() else {
            return Err(AadError::because(
                700016,
                format!(
                    "Application with identifier '{client_id}' was not found in the directory '{}'.",
                    path.canonical()
                ),
            ));
        };
        if used.len() > 1 {
            return Err(AadError::because(9002313, "More than one client authentication method was used."));
        }
        if !used.is_empty() && request.header("origin").is_some() {
            return Err(AadError::new(9002326));
        }
        let secret = claimed.basic_secret.as_deref().or(claimed.form_secret.as_deref());
        match (secret, claimed.assertion.as_deref()) {
            (None, None) if app.app.public => {}
            (None, None) => return Err(AadError::new(7000218)),
            _ if app.app.public => return Err(AadError::new(700025)),
            (Some(secret), _) => {
                let now = self.clock.now();
                let flaps = |known: &Secret| {
                    known.value == secret && known.flaps_until.is_some_and(|until| now < until)
                };
                let misses = app.secrets.iter().any(flaps) && {
                    self.flaps += 1;
                    self.flaps % 2 == 1
                };
                if misses {
                    return Err(AadError::new(7000215));
                }
                notes.credential = Some(check_secret(&app, secret, now)?);
            }
            (None, Some(assertion)) => {
                if request.form.get("client_assertion_type") != Some(ASSERTION_TYPE) {
                    return Err(AadError::because(
                        900144,
                        "The request body must contain the following parameter: 'client_assertion_type'.",
                    ));
                }
                self.check_assertion(&app, assertion, request, path, notes)?;
            }
        }
        Ok(client_id)
    }

    fn check_assertion(
        &mut self,
        app: &Registration,
        assertion: &str,
        request: &Request,
        path: &TenantPath,
        notes: &mut Notes,
    ) -> Result<(), AadError> {
        let jwt = Jwt::read(assertion).ok_or_else(|| AadError::new(50027))?;
        let now = self.clock.now();
        let client_id = app.app.client_id.as_str();
        let about_itself = jwt.claim("iss") == Some(client_id)
            || jwt.header.contains_key("x5t")
            || jwt.header.contains_key("x5t#S256");
        if !about_itself {
            notes.auth_method = AuthMethod::Federated;
            return check_federated(app, &jwt, now, notes);
        }
        let certificate = find_certificate(app, &jwt)?;
        notes.credential = Some(URL_SAFE_NO_PAD.encode(&certificate.sha256));
        let genuine = match jwt.header("alg") {
            Some("PS256") => UnparsedPublicKey::new(&RSA_PSS_2048_8192_SHA256, &certificate.public_key)
                .verify(&jwt.signed, &jwt.signature),
            Some("RS256") => UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, &certificate.public_key)
                .verify(&jwt.signed, &jwt.signature),
            other => {
                return Err(AadError::because(
                    50027,
                    format!("Invalid JWT token: the algorithm {other:?} is not supported."),
                ));
            }
        };
        genuine.map_err(|_| AadError::new(700027))?;
        if certificate.revoked {
            return Err(AadError::new(7000214));
        }
        if !(certificate.not_before..=certificate.not_after).contains(&now.secs()) {
            return Err(AadError::new(1000502));
        }
        if jwt.claim("iss") != Some(client_id) || jwt.claim("sub") != Some(client_id) {
            return Err(AadError::new(700021));
        }
        let audiences = self.assertion_audiences(request, path);
        if !jwt.audiences().iter().any(|found| audiences.iter().any(|good| good == found)) {
            return Err(AadError::because(
                700023,
                format!(
                    "Client assertion audience claim does not match Realm issuer. Expected '{}'.",
                    audiences[0]
                ),
            ));
        }
        check_times(&jwt, now)?;
        if self.settings.strict_jti {
            let id = jwt.claim("jti").unwrap_or_default();
            if id.is_empty() || self.seen_assertions.get(id).is_some() {
                return Err(AadError::because(
                    50012,
                    "The client assertion's 'jti' is missing or was seen before.",
                ));
            }
            self.seen_assertions.insert(id.to_owned(), ());
        }
        Ok(())
    }

    /// Returns the allowed audiences: the token endpoint, as the request named it and with the tenant's id,
    /// and the issuer.
    fn assertion_audiences(&self, request: &Request, path: &TenantPath) -> Vec<String> {
        let segment = request.path.trim_start_matches('/').split('/').next().unwrap_or_default();
        let tenant = path.canonical();
        vec![
            format!("{}{}", self.base, request.path),
            format!("{}/{tenant}/oauth2/v2.0/token", self.base),
            self.issuer(tenant),
            self.issuer(segment),
        ]
    }
}

fn claimed(request: &Request) -> Result<Claimed, AadError> {
    let form = &request.form;
    let owned = |name: &str| form.get(name).map(str::to_owned);
    let mut claimed = Claimed {
        client_id: owned("client_id"),
        form_secret: owned("client_secret"),
        assertion: owned("client_assertion"),
        basic_secret: None,
    };
    let Some(header) = request.header("authorization") else { return Ok(claimed) };
    let malformed = || AadError::because(9002313, "The Authorization header is malformed.");
    let (scheme, encoded) = header.split_once(' ').ok_or_else(malformed)?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return Err(malformed());
    }
    let pair = STANDARD
        .decode(encoded.trim())
        .ok()
        .and_then(|raw| String::from_utf8(raw).ok())
        .ok_or_else(malformed)?;
    let (id, secret) = pair.split_once(':').ok_or_else(malformed)?;
    // RFC 6749 has both halves form-encoded before they are joined.
    #[expect(clippy::disallowed_methods, reason = "the emulator is asked by our own tests")]
    let decode = |half: &str| {
        form_urlencoded::parse(format!("v={}", half.replace('&', "%26")).as_bytes())
            .next()
            .map(|(_, value)| value.into_owned())
    };
    let id = decode(id).ok_or_else(malformed)?;
    if claimed.client_id.as_ref().is_some_and(|form| *form != id) {
        return Err(malformed());
    }
    claimed.client_id = Some(id);
    claimed.basic_secret = decode(secret);
    Ok(claimed)
}

/// Returns the client in an `Authorization: Basic` header, for matching rules and for the ledger.
pub(crate) fn basic_client(request: &Request) -> Option<String> {
    claimed(request).ok()?.client_id
}

/// Checks a secret and returns its key id.
fn check_secret(app: &Registration, secret: &str, now: Moment) -> Result<String, AadError> {
    let client_id = &app.app.client_id;
    let wrong = || {
        AadError::because(
            7000215,
            format!(
                "Invalid client secret provided. Ensure the secret being sent in the request is the client \
                 secret value, not the client secret ID, for a secret added to app '{client_id}'."
            ),
        )
    };
    let mut expired = false;
    for known in app.secrets.iter().filter(|known| known.value == secret) {
        if known.expires_at.is_some_and(|at| at <= now) {
            expired = true;
        } else if known.active_at <= now {
            return Ok(known.key_id.clone());
        }
    }
    if expired {
        let message = format!(
            "The provided client secret keys for app '{client_id}' are expired. Visit the Azure portal to \
             create new keys for your app."
        );
        return Err(AadError::because(7000222, message));
    }
    Err(wrong())
}

fn find_certificate<'a>(app: &'a Registration, jwt: &Jwt) -> Result<&'a Certificate, AadError> {
    let by = |name: &str| {
        jwt.header(name).and_then(|text| URL_SAFE_NO_PAD.decode(text.trim_end_matches('=')).ok())
    };
    let (sha256, sha1) = (by("x5t#S256"), by("x5t"));
    app.certificates
        .iter()
        .find(|one| match &sha256 {
            Some(digest) => one.sha256 == *digest,
            None => sha1.as_ref().is_some_and(|digest| one.sha1 == *digest),
        })
        .ok_or_else(|| AadError::new(700027))
}

fn check_federated(app: &Registration, jwt: &Jwt, now: Moment, notes: &mut Notes) -> Result<(), AadError> {
    let matches = app.federated.iter().find(|(one, active_at)| {
        *active_at <= now
            && jwt.claim("iss") == Some(one.issuer.as_str())
            && jwt.claim("sub") == Some(one.subject.as_str())
            && jwt.audiences() == [one.audience.as_str()]
    });
    let Some((credential, _)) = matches else {
        return Err(AadError::because(
            70021,
            format!(
                "No matching federated identity record found for presented assertion. Assertion Issuer: \
                 '{}'. Assertion Subject: '{}'. Assertion Audience: '{}'.",
                jwt.claim("iss").unwrap_or_default(),
                jwt.claim("sub").unwrap_or_default(),
                jwt.audiences().join(" "),
            ),
        ));
    };
    notes.credential = Some(credential.subject.clone());
    if jwt.header("alg") != Some("RS256") {
        return Err(AadError::new(50027));
    }
    let keys = credential.jwks["keys"].as_array().map(Vec::as_slice).unwrap_or_default();
    let kid = jwt.header("kid");
    let genuine =
        keys.iter().take(MOST_ISSUER_KEYS).filter(|key| kid.is_none() || key["kid"].as_str() == kid).any(
            |key| {
                let part = |name: &str| {
                    URL_SAFE_NO_PAD.decode(key[name].as_str().unwrap_or_default()).unwrap_or_default()
                };
                let key = RsaPublicKeyComponents { n: part("n"), e: part("e") };
                key.verify(&RSA_PKCS1_2048_8192_SHA256, &jwt.signed, &jwt.signature).is_ok()
            },
        );
    if !genuine {
        return Err(AadError::new(700027));
    }
    check_times(jwt, now)
}

/// Checks the times. `exp` is required, `nbf` is not. Five minutes of clock error are allowed, as at Entra.
fn check_times(jwt: &Jwt, now: Moment) -> Result<(), AadError> {
    const SKEW: u64 = 300;
    let time = |name: &str| jwt.claims.get(name).and_then(Value::as_f64);
    #[expect(clippy::cast_precision_loss, reason = "seconds since 1970 are far below 2^52")]
    let (early, late) = ((now.secs() + SKEW) as f64, now.secs().saturating_sub(SKEW) as f64);
    if time("exp").is_none_or(|exp| exp <= late) || time("nbf").is_some_and(|nbf| nbf > early) {
        return Err(AadError::new(700024));
    }
    Ok(())
}

/// Returns the `sub` of an assertion, for requests without `client_id`.
fn subject(assertion: &str) -> Option<String> {
    Jwt::read(assertion)?.claim("sub").map(str::to_owned)
}

/// A parsed JWT, not verified yet.
#[derive(Debug)]
struct Jwt {
    header: Map<String, Value>,
    claims: Map<String, Value>,
    signed: Vec<u8>,
    signature: Vec<u8>,
}

impl Jwt {
    fn read(text: &str) -> Option<Self> {
        let (signed, signature) = text.rsplit_once('.')?;
        let (header, claims) = signed.split_once('.')?;
        let object = |part: &str| serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).ok()?).ok();
        Some(Self {
            header: object(header)?,
            claims: object(claims)?,
            signed: signed.as_bytes().to_vec(),
            signature: URL_SAFE_NO_PAD.decode(signature).ok()?,
        })
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.header.get(name)?.as_str()
    }

    fn claim(&self, name: &str) -> Option<&str> {
        self.claims.get(name)?.as_str()
    }

    fn audiences(&self) -> Vec<&str> {
        match self.claims.get("aud") {
            Some(Value::String(one)) => vec![one],
            Some(Value::Array(several)) => several.iter().filter_map(Value::as_str).collect(),
            _ => Vec::new(),
        }
    }
}
