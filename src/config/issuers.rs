//! The issuers of callers' JWTs, and which of their tokens are whose.

use std::collections::BTreeMap;

use serde_json::{Map, Value as Json};

use super::context::{Leaf, Section};
use super::sections::{AppConfig, IssuerConfig, IssuerKeysConfig, JwtConfig};
use super::spec::nearest;
use super::tree::{Entries, Value};
use super::url::HttpUrl;
use crate::domain::clouds::{is_audience_of_app, is_graph_audience};

/// Reads one `[issuers.NAME]`.
pub(super) fn issuer(section: &Section<'_>, apps: &BTreeMap<String, AppConfig>) -> Option<IssuerConfig> {
    if let Some(audience) = section.text("audience") {
        check_audience(section, &audience, apps);
    }
    Some(IssuerConfig {
        keys: keys(section)?,
        issuer: section.string("issuer")?,
        audience: section.string("audience")?,
        max_ttl: section.duration("max_ttl")?,
    })
}

/// Refuses an audience by which the tokens of others, or for others, would be callers' credentials.
fn check_audience(section: &Section<'_>, audience: &Leaf<'_, &str>, apps: &BTreeMap<String, AppConfig>) {
    if let Some((name, _)) = apps.iter().find(|(_, app)| is_audience_of_app(audience.value, &app.client_id)) {
        audience.mistake(format!(
            "names the app `{name}`, so every user's id_token would be a caller's credential: \
             register tokenward itself as an API, and use that one's"
        ));
    } else if is_graph_audience(audience.value) {
        audience.mistake("is Microsoft Graph's: whoever is given a token for it could come as a caller");
    } else if section.text("issuer").is_some_and(|issuer| issuer.value == audience.value) {
        audience.warning(
            "is the issuer itself: tokens that pods send to the API server would count here, and whoever \
             sees one could come as that caller; project a token with an audience of its own",
        );
    }
}

fn keys(section: &Section<'_>) -> Option<IssuerKeysConfig> {
    if let Some(file) = section.path("jwks_file") {
        for key in ["jwks_url", "ca_file", "token_file"] {
            if let Some(leaf) = section.text(key) {
                leaf.mistake("is not used beside `jwks_file`: keep one of the two");
            }
        }
        return Some(IssuerKeysConfig::File(file));
    }
    let (leaf, is_found) = match section.text("jwks_url") {
        Some(leaf) => (leaf, false),
        None => (section.text("issuer")?, true),
    };
    let no_discovery = match is_found {
        true => "; a name that is no such URL needs `jwks_file` or `jwks_url`",
        false => "",
    };
    let url = match HttpUrl::parse(leaf.value) {
        Ok(url) if url.is_private_on_the_way() => url,
        Ok(_) => {
            leaf.mistake(format!("must be https; http is for this machine only{no_discovery}"));
            return None;
        }
        Err(error) => {
            leaf.mistake(format!("{error}{no_discovery}"));
            return None;
        }
    };
    if !url.is_https() {
        leaf.warning("is plain http, which is for tests on this machine only");
    } else if let Some(token) = section.text("token_file")
        && section.text("ca_file").is_none()
    {
        token.mistake(
            "needs `ca_file` beside it: the token goes wherever the discovery document leads, so only a \
             server of your own certificate authority may be asked",
        );
    }
    if is_found && url.query().is_some() {
        leaf.mistake("must not have a query");
    }
    Some(IssuerKeysConfig::Fetched {
        jwks_url: section.string("jwks_url"),
        ca_file: section.path("ca_file"),
        token_file: section.path("token_file"),
    })
}

/// Reads one `jwt = { … }`.
pub(super) fn jwt(section: &Section<'_>, known_issuers: &[&str]) -> Option<JwtConfig> {
    let issuer = section.text("issuer");
    if let Some(leaf) = &issuer
        && !known_issuers.contains(&leaf.value)
    {
        let near = nearest(leaf.value, known_issuers.iter().copied());
        leaf.mistake_near("there is no such issuer: it is the name of a section `[issuers.NAME]`", near);
    }
    let claims = match section.node("claims").map(|leaf| &leaf.value.value) {
        Some(Value::Table(entries)) => json(entries),
        _ => Map::new(),
    };
    let subject = section.text("subject");
    if let Some(leaf) = &subject
        && leaf.value.contains('*')
    {
        leaf.warning("is compared to the letter: `*` stands for no other text here");
    }
    if subject.is_none() && claims.is_empty() && !section.has_wrong_keys() {
        section
            .itself()
            .mistake("needs `subject` or `claims`: without one every token of the issuer would do");
    }
    Some(JwtConfig {
        issuer: issuer?.value.to_owned(),
        subject: subject.map(|leaf| leaf.value.to_owned()),
        claims,
    })
}

/// Converts claims, which were checked.
fn json(entries: &Entries) -> Map<String, Json> {
    let value = |value: &Value| match value {
        Value::String(text) => Json::from(text.as_str()),
        Value::Integer(number) => Json::from(*number),
        Value::Bool(value) => Json::from(*value),
        Value::Table(members) => Json::Object(json(members)),
        _ => Json::Null,
    };
    entries.iter().map(|(name, entry)| (name.clone(), value(&entry.node.value))).collect()
}
