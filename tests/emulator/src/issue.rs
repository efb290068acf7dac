//! Issues access tokens, refresh tokens and id tokens, and writes the answer with them.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value, json};

use crate::clock::Moment;
use crate::directory::{PERSONAL_TENANT, User};
use crate::faults::{Fault, IdTokenSigning, merge};
use crate::ledger::Notes;
use crate::random::{self, digests};
use crate::scope::{GRAPH, Scope, Scopes};
use crate::settings::ScopeStyle;
use crate::state::{AccessToken, RefreshToken, State};

/// Life of an id token.
const ID_TOKEN_LIFE: Duration = Duration::from_secs(3600);

/// The basis of a user's token answer.
#[derive(Debug)]
pub(crate) struct Delegation {
    pub(crate) client_id: String,
    pub(crate) user: User,
    pub(crate) family: u64,
    pub(crate) generation: u64,
    /// The access token's resource.
    pub(crate) resource: String,
    /// Scopes requested now.
    pub(crate) asked: Scopes,
    /// All scopes granted by the user and the administrator.
    pub(crate) granted: Scopes,
    /// Scopes that a refresh without a scope requests again; `None` if no refresh token is due.
    pub(crate) refresh_scopes: Option<Scopes>,
    pub(crate) nonce: Option<String>,
    /// True if the client declared that it understands claims challenges.
    pub(crate) cae: bool,
    /// True if the client requested `client_info`.
    pub(crate) client_info: bool,
}

impl State {
    /// Issues what a delegation is due and writes the token answer.
    pub(crate) fn issue(
        &mut self,
        due: &Delegation,
        faults: &[Fault],
        notes: &mut Notes,
    ) -> Map<String, Value> {
        let now = self.clock.now();
        let named: Scopes = due.granted.of_resource(&due.resource).into_iter().collect();
        let life = match due.user.token_lifetime_seconds {
            Some(fixed) => Duration::from_secs(fixed),
            None => self.access_token_life(due.cae),
        };
        let serial = self.next_serial();
        let record = AccessToken {
            serial,
            family: due.family,
            generation: due.generation,
            client_id: due.client_id.clone(),
            upn: Some(due.user.upn.clone()),
            tenant: due.user.tenant.clone(),
            resource: due.resource.clone(),
            scopes: named.clone(),
            issued_at: now,
            expires_at: now.plus(life),
            cae: due.cae,
        };
        let access_token = self.access_token(record, Some(&due.user));

        let mut answer = Map::new();
        answer.insert("token_type".into(), json!("Bearer"));
        let scopes = self.scopes_granted(due, &named);
        answer.insert("scope".into(), json!(self.write_scopes(&scopes, due.asked.is_bare())));
        self.write_life(&mut answer, life, due.cae);
        answer.insert("access_token".into(), json!(access_token));
        if let Some(scopes) = &due.refresh_scopes {
            let (text, refresh_serial) = self.refresh_token(due, scopes, now);
            notes.refresh_issued = Some(refresh_serial);
            answer.insert("refresh_token".into(), json!(text));
        }
        if due.asked.identity("openid") {
            answer.insert("id_token".into(), json!(self.id_token(due, faults, now)));
        }
        if due.client_info {
            answer.insert("client_info".into(), json!(client_info(&due.user)));
        }
        notes.access_issued = Some(serial);
        notes.user = Some(due.user.upn.clone());
        notes.scopes_granted = scopes.iter().map(Scope::full).collect();
        answer
    }

    /// Issues a refresh token as if the user had signed in to another program of this app and consented there.
    pub(crate) fn foreign_grant(
        &mut self,
        upn: &str,
        client_id: &str,
        scopes: &str,
    ) -> Result<String, String> {
        let wanted = Scopes::parse(scopes).map_err(|bad| format!("not a scope: {bad}"))?;
        let account = self.directory.account_mut(upn).ok_or_else(|| format!("there is no user {upn}"))?;
        account.consents.entry(client_id.to_owned()).or_default().add(&wanted);
        let account = account.clone();
        let due = Delegation {
            client_id: client_id.to_owned(),
            granted: self.directory.granted(client_id, &account),
            user: account.user,
            family: self.next_serial(),
            generation: 0,
            resource: GRAPH.to_owned(),
            asked: wanted.clone(),
            refresh_scopes: Some(wanted.clone()),
            nonce: None,
            cae: false,
            client_info: false,
        };
        let now = self.clock.now();
        Ok(self.refresh_token(&due, &wanted, now).0)
    }

    /// Issues an app's own token.
    pub(crate) fn issue_app_only(
        &mut self,
        client_id: &str,
        tenant: &str,
        resource: &str,
        notes: &mut Notes,
    ) -> Map<String, Value> {
        let now = self.clock.now();
        let life = self.access_token_life(false);
        let serial = self.next_serial();
        let record = AccessToken {
            serial,
            family: serial,
            generation: 0,
            client_id: client_id.to_owned(),
            upn: None,
            tenant: tenant.to_owned(),
            resource: resource.to_owned(),
            scopes: Scopes::default(),
            issued_at: now,
            expires_at: now.plus(life),
            cae: false,
        };
        notes.access_issued = Some(serial);
        notes.scopes_granted = vec![format!("{resource}/.default")];
        let mut answer = Map::from_iter([("token_type".to_owned(), json!("Bearer"))]);
        self.write_life(&mut answer, life, false);
        answer.insert("access_token".into(), json!(self.access_token(record, None)));
        answer
    }

    /// An id token, as the token endpoint and `response_type=id_token` give it.
    pub(crate) fn id_token(&mut self, due: &Delegation, faults: &[Fault], now: Moment) -> String {
        let other = faults.iter().find_map(|fault| match fault {
            Fault::WrongUserIdToken(upn) => self.directory.account(upn).map(|account| account.user.clone()),
            _ => None,
        });
        let user = other.as_ref().unwrap_or(&due.user);
        let mut claims = Map::new();
        let mut put = |name: &str, value: Value| claims.insert(name.to_owned(), value);
        put("aud", json!(due.client_id));
        put("iss", json!(self.issuer(&user.tenant)));
        put("iat", json!(now.secs()));
        put("nbf", json!(now.secs()));
        put("exp", json!(now.plus(ID_TOKEN_LIFE).secs()));
        put("ver", json!("2.0"));
        put("tid", json!(user.tenant));
        put("sub", json!(pairwise(&due.client_id, user)));
        put("rh", json!(format!("1.{}.", random::text::<24>())));
        put("uti", json!(random::text::<16>()));
        put("sid", json!(random::named_guid(&format!("sid:{}", due.family))));
        if let Some(nonce) = &due.nonce {
            put("nonce", json!(nonce));
        }
        if due.asked.identity("profile") {
            put("oid", json!(user.oid));
            put("name", json!(user.name));
            put("preferred_username", json!(user.upn));
        }
        if due.asked.identity("email") {
            put("email", json!(user.upn));
        }
        let mut signing = None;
        let mut header_patch = Map::new();
        for fault in faults {
            match fault {
                Fault::IdTokenPatch(patch) => merge(&mut claims, patch),
                Fault::IdTokenHeaderPatch(patch) => header_patch.extend(patch.clone()),
                Fault::IdTokenSigning(how) => signing = Some(*how),
                _ => {}
            }
        }
        self.sign_id_token(&user.tenant.clone(), &claims, &header_patch, signing)
    }

    /// A user's token with the claims of an id token and those of `patch`.
    pub(crate) fn user_token(&mut self, upn: &str, client_id: &str, patch: &Value) -> Result<String, String> {
        let user = self.directory.account(upn).map(|account| account.user.clone());
        let user = user.ok_or_else(|| format!("there is no user {upn}"))?;
        let now = self.clock.now();
        let mut claims = Map::from_iter([
            ("aud".to_owned(), json!(client_id)),
            ("iss".to_owned(), json!(self.issuer(&user.tenant))),
            ("iat".to_owned(), json!(now.secs())),
            ("nbf".to_owned(), json!(now.secs())),
            ("exp".to_owned(), json!(now.plus(ID_TOKEN_LIFE).secs())),
            ("ver".to_owned(), json!("2.0")),
            ("tid".to_owned(), json!(user.tenant)),
            ("oid".to_owned(), json!(user.oid)),
            ("sub".to_owned(), json!(pairwise(client_id, &user))),
            ("preferred_username".to_owned(), json!(user.upn)),
        ]);
        merge(&mut claims, patch.as_object().ok_or("the patch is no object")?);
        Ok(self.sign_id_token(&user.tenant, &claims, &Map::new(), None))
    }

    fn sign_id_token(
        &mut self,
        tenant: &str,
        claims: &Map<String, Value>,
        header_patch: &Map<String, Value>,
        signing: Option<IdTokenSigning>,
    ) -> String {
        let odd_key = matches!(signing, Some(IdTokenSigning::WrongKey | IdTokenSigning::UnpublishedKey))
            .then(|| self.keys.unpublished());
        let key = self.keys.signing(tenant);
        let kid = match (signing, &odd_key) {
            (Some(IdTokenSigning::UnpublishedKey), Some(odd)) => &odd.kid,
            _ => &key.kid,
        };
        let alg = if signing == Some(IdTokenSigning::AlgNone) { "none" } else { "RS256" };
        let mut header = Map::from_iter([
            ("typ".to_owned(), json!("JWT")),
            ("alg".to_owned(), json!(alg)),
            ("kid".to_owned(), json!(kid)),
        ]);
        merge(&mut header, header_patch);
        let signed = format!("{}.{}", encode(&header), encode(claims));
        let signature = match signing {
            Some(IdTokenSigning::AlgNone) => Vec::new(),
            _ => odd_key.as_deref().unwrap_or(key).sign(signed.as_bytes()),
        };
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
    }

    fn refresh_token(&mut self, due: &Delegation, scopes: &Scopes, now: Moment) -> (String, u64) {
        let serial = self.next_serial();
        let text = if due.user.tenant == PERSONAL_TENANT {
            format!("M.C540_BAY.0.U.-{}", random::text::<300>())
        } else {
            format!("1.A{}", random::text::<600>())
        };
        let token = RefreshToken {
            serial,
            family: due.family,
            generation: due.generation,
            client_id: due.client_id.clone(),
            upn: due.user.upn.clone(),
            scopes: scopes.clone(),
            issued_at: now,
            used: false,
        };
        self.refresh_tokens.insert(text.clone(), token);
        (text, serial)
    }

    /// Writes and remembers an access token. Only the emulator can verify it: work tokens look like JWTs
    /// without a usable signature, personal ones are opaque.
    fn access_token(&mut self, record: AccessToken, user: Option<&User>) -> String {
        let text = if record.tenant == PERSONAL_TENANT {
            format!("EwB{}", random::text::<450>())
        } else {
            let header = json!({
                "typ": "JWT", "nonce": random::text::<32>(), "alg": "RS256",
                "kid": self.keys.signing(&record.tenant).kid,
            });
            let mut claims = Map::new();
            let mut put = |name: &str, value: Value| claims.insert(name.to_owned(), value);
            put("aud", json!(record.resource));
            put("iss", json!(format!("{}/{}/", self.base, record.tenant)));
            put("iat", json!(record.issued_at.secs()));
            put("nbf", json!(record.issued_at.secs()));
            put("exp", json!(record.expires_at.secs()));
            put("appid", json!(record.client_id));
            put("tid", json!(record.tenant));
            put("ver", json!("1.0"));
            put("uti", json!(random::text::<16>()));
            match user {
                Some(user) => {
                    put("idtyp", json!("user"));
                    put("oid", json!(user.oid));
                    put("upn", json!(user.upn));
                    let names: Vec<_> = record.scopes.iter().map(|scope| scope.name.as_str()).collect();
                    put("scp", json!(names.join(" ")));
                    put("emu_user", json!(user.upn));
                }
                None => {
                    put("idtyp", json!("app"));
                    put("roles", json!(["Mail.Read"]));
                    put("emu_user", Value::Null);
                }
            }
            if record.cae {
                put("xms_cc", json!(["cp1"]));
            }
            put("emu_serial", json!(record.serial));
            put("emu_family", json!(record.family));
            put("emu_generation", json!(record.generation));
            format!(
                "{}.{}.{}",
                URL_SAFE_NO_PAD.encode(header.to_string()),
                encode(&claims),
                random::text::<256>()
            )
        };
        self.access_tokens.insert(text.clone(), record);
        text
    }

    fn access_token_life(&self, cae: bool) -> Duration {
        Duration::from_secs(match self.settings.token_lifetime_seconds {
            Some(fixed) => fixed,
            None if cae => random::between(20 * 3600, 28 * 3600),
            None => random::between(3600, 5400),
        })
    }

    fn write_life(&self, answer: &mut Map<String, Value>, life: Duration, cae: bool) {
        let number = |seconds: u64| {
            if self.settings.expires_in_as_string { json!(seconds.to_string()) } else { json!(seconds) }
        };
        answer.insert("expires_in".into(), number(life.as_secs()));
        answer.insert("ext_expires_in".into(), number(life.as_secs()));
        if cae {
            answer.insert("refresh_in".into(), number(life.as_secs() / 2));
        }
    }

    /// Returns the scopes of the answer: all that were granted for the resource, never `offline_access`.
    fn scopes_granted(&self, due: &Delegation, named: &Scopes) -> Vec<Scope> {
        let identity =
            due.granted.iter().filter(|scope| scope.is_identity() && scope.name != "offline_access");
        let identity: Vec<_> = if due.resource == GRAPH { identity.cloned().collect() } else { Vec::new() };
        identity.into_iter().chain(named.iter().cloned()).collect()
    }

    fn write_scopes(&self, scopes: &[Scope], asked_bare: bool) -> String {
        let style = self.settings.scope_style;
        // Bare names mean Graph; scopes of another resource stay in full unless the style says otherwise.
        let short = |scope: &Scope| match style {
            ScopeStyle::Short => true,
            ScopeStyle::AsAsked => asked_bare && scope.resource == GRAPH,
            ScopeStyle::Full => false,
        };
        let mut written: Vec<String> =
            scopes.iter().map(|scope| if short(scope) { scope.name.clone() } else { scope.full() }).collect();
        if self.settings.vary_scopes && !written.is_empty() {
            let turn = random::between(0, written.len() as u64 - 1);
            written.rotate_left(usize::try_from(turn).unwrap_or(0));
            for scope in &mut written {
                let at = scope.rfind('/').map_or(0, |slash| slash + 1);
                let name = &scope[at..];
                *scope = match random::between(0, 2) {
                    0 => format!("{}{}", &scope[..at], name.to_lowercase()),
                    1 => format!("{}{}", &scope[..at], name.to_uppercase()),
                    _ => scope.clone(),
                };
            }
        }
        written.join(" ")
    }
}

/// Returns `client_info`: the home account, as MSAL reads it.
pub(crate) fn client_info(user: &User) -> String {
    URL_SAFE_NO_PAD.encode(json!({ "uid": user.oid, "utid": user.tenant }).to_string())
}

/// Returns the `sub` of a user for one app; every app sees another one.
pub(crate) fn pairwise(client_id: &str, user: &User) -> String {
    URL_SAFE_NO_PAD
        .encode(digests::sha256(format!("sub:{client_id}:{}:{}", user.tenant, user.oid).as_bytes()))
}

fn encode(object: &Map<String, Value>) -> String {
    URL_SAFE_NO_PAD.encode(Value::Object(object.clone()).to_string())
}
