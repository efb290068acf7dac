//! email-oauth2-proxy: its configuration, or its cache store, in which each account's section has a refresh
//! token encrypted with the account's password (PBKDF2, Fernet). The passwords are what mail programs log in
//! to the proxy with; one that is the same for all accounts opens them all.

use std::fs::File;
use std::io::{self, Read as _};
use std::num::NonZeroU32;
use std::vec::IntoIter;

use aws_lc_rs::cipher::{AES_128, DecryptionContext, PaddedBlockDecryptingKey, UnboundCipherKey};
use aws_lc_rs::iv::FixedLength;
use aws_lc_rs::{hmac, pbkdf2};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};
use zeroize::Zeroizing;

use super::Rows;
use crate::cli::Failure;
use crate::cli::import::row::{Foreign, Row};
use crate::domain::secret::RefreshToken;

/// Largest file: a section takes some 10 KiB.
const LARGEST: u64 = 64 * 1024 * 1024;
/// Rounds of PBKDF2 of tokens that do not say it.
const ROUNDS_BEFORE: u32 = 100_000;
/// More rounds than this are no such file.
const MOST_ROUNDS: u32 = 50_000_000;
/// Version, time, initialization vector and tag of a Fernet token.
const FERNET: (u8, usize, usize, usize) = (0x80, 8, 16, 32);

/// The accounts of a file.
pub(super) struct Accounts(IntoIter<Row>);

/// An account's section, as far as it is needed.
#[derive(Default)]
struct Section {
    name: String,
    line: u64,
    salt: Option<String>,
    rounds: Option<u32>,
    client_id: Option<String>,
    refresh_token: Option<String>,
}

impl Accounts {
    /// Reads a file whole, with the password.
    pub(super) fn read(file: File, password: &str) -> Result<Self, Failure> {
        let failed = |error: io::Error| Failure::failed(format!("cannot read the file: {error}"));
        if file.metadata().map_err(failed)?.len() > LARGEST {
            return Err(Failure::usage(
                "the file has more than 64 MiB, so it is no configuration of email-oauth2-proxy; if it is \
                 one, split it",
            ));
        }
        let mut text = Zeroizing::new(String::new());
        file.take(LARGEST).read_to_string(&mut text).map_err(failed)?;
        let sections = sections(&text);
        if sections.is_empty() {
            return Err(Failure::usage("the file has no account's section with a refresh_token"));
        }
        let row = |section: Section| Row { place: section.line, grant: grant(section, password) };
        Ok(Accounts(sections.into_iter().map(row).collect::<Vec<_>>().into_iter()))
    }
}

impl Rows for Accounts {
    fn next(&mut self) -> Result<Option<Row>, Failure> {
        Ok(self.0.next())
    }
}

/// The sections of accounts that have a refresh token, as Python's configparser writes them.
fn sections(text: &str) -> Vec<Section> {
    let mut all: Vec<Section> = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let line = line.trim_end();
        if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            all.push(Section { name: name.to_owned(), line: number as u64 + 1, ..Section::default() });
            continue;
        }
        let Some((key, value)) = line.split_once('=') else { continue };
        let Some(section) = all.last_mut() else { continue };
        let value = value.trim();
        match key.trim().to_ascii_lowercase().as_str() {
            "token_salt" => section.salt = Some(value.to_owned()),
            "token_iterations" => section.rounds = value.parse().ok(),
            "client_id" => section.client_id = Some(value.to_owned()),
            "refresh_token" => section.refresh_token = Some(value.to_owned()),
            _ => {}
        }
    }
    all.retain(|section| section.refresh_token.is_some());
    all
}

fn grant(section: Section, password: &str) -> Result<Foreign, String> {
    let salt = section.salt.ok_or("has no token_salt")?;
    let salt = STANDARD.decode(salt).map_err(|_| "has a token_salt that is none")?;
    let sealed = section.refresh_token.ok_or("has no refresh_token")?;
    let rounds = section.rounds.unwrap_or(ROUNDS_BEFORE);
    let opened = NonZeroU32::new(rounds)
        .filter(|rounds| rounds.get() <= MOST_ROUNDS)
        .and_then(|rounds| open(&sealed, &salt, rounds, password));
    let opened =
        opened.ok_or("does not open with this password: each account has the one of its mail program")?;
    Ok(Foreign { id: Some(section.name), client_id: section.client_id, ..Foreign::new(opened) })
}

/// Opens a Fernet token whose key is made of a password.
fn open(sealed: &str, salt: &[u8], rounds: NonZeroU32, password: &str) -> Option<RefreshToken> {
    let (version, time, iv, tag) = FERNET;
    let mut key = Zeroizing::new([0; 32]);
    pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, rounds, salt, password.as_bytes(), &mut *key);
    let bytes = URL_SAFE.decode(sealed).ok()?;
    let body = bytes.len().checked_sub(tag)?;
    let (signed, signature) = bytes.split_at(body);
    hmac::verify(&hmac::Key::new(hmac::HMAC_SHA256, &key[..16]), signed, signature).ok()?;
    let text = signed.get(1 + time + iv..)?;
    let vector: [u8; 16] = signed.get(1 + time..1 + time + iv)?.try_into().ok()?;
    if signed[0] != version {
        return None;
    }
    let mut text = Zeroizing::new(text.to_vec());
    let cipher = UnboundCipherKey::new(&AES_128, &key[16..]).ok()?;
    let cipher = PaddedBlockDecryptingKey::cbc_pkcs7(cipher).ok()?;
    let opened = cipher.decrypt(&mut text, DecryptionContext::Iv128(FixedLength::from(vector))).ok()?;
    std::str::from_utf8(opened).ok().map(RefreshToken::new)
}
