//! All kinds of input from outside, each with its properties.
//!
//! A fuzz target (`fuzz/`, `make fuzz`) tries a fuzzer's inputs. The tests here try every file of the
//! committed corpora, and small changes of them that are the same in every run. Each room states its
//! properties in `properties`.

use std::path::Path;
use std::sync::Arc;

use crate::listener::ClientTrust;
use crate::secret_file::{paste, shape};
use crate::system::SystemClock;
use crate::{
    api, authority, broker, callers, config, domain, keyring, listener, policy, public, relay, repository,
    store,
};

/// One kind of input.
pub struct Target {
    /// Name of its fuzz target and its corpus.
    pub name: &'static str,
    /// Panics if a property does not hold.
    pub check: fn(&[u8]),
}

macro_rules! targets {
    ($($name:ident => $check:path,)*) => {
        /// All kinds.
        pub const TARGETS: &[Target] = &[$(Target { name: stringify!($name), check: $check }),*];

        #[cfg(test)]
        mod corpus {
            $(#[test]
            fn $name() {
                super::tests::replay(stringify!($name));
            })*
        }
    };
}

targets! {
    api_key => callers::properties::a_presented_key_is_one_caller_s,
    callback => public::properties::a_callback_is_read_in_one_way,
    certificate => a_pem_file_is_refused_in_one_line,
    config => config::properties::a_configuration_is_taken_whole_or_refused_in_lines,
    cookies => public::properties::a_binding_is_one_cookie_s_value,
    credential => api::properties::a_credential_is_the_one_that_was_brought,
    cursor => repository::properties::a_cursor_is_one_that_was_given,
    discovery => authority::properties::documents::an_authority_s_document_leads_nowhere_else,
    environment => config::properties::an_environment_is_taken_whole_or_refused_in_lines,
    id_token => authority::properties::an_id_token_is_judged_by_its_claims,
    journal_entry => repository::properties::a_journal_entry_is_read_as_it_is_written,
    jwks => authority::properties::documents::a_key_set_loses_no_good_key,
    key_file => callers::properties::a_key_file_is_read_as_it_would_be_written,
    keyring_file => keyring::properties::a_key_file_is_read_as_it_is_written,
    names => domain::properties::what_is_accepted_is_canonical,
    path => api::properties::a_path_and_its_query_are_read_in_one_way,
    pattern => policy::properties::a_pattern_means_what_it_shows,
    pending => broker::properties::a_pending_record_is_read_as_it_is_written,
    record => store::properties::a_record_is_read_as_it_is_written,
    redis_answer => store::redis::properties::an_answer_is_read_in_bounds,
    refusal => authority::properties::documents::a_refusal_is_told_in_tame_words,
    relay => relay::properties::what_is_judged_is_what_is_sent,
    relay_answer => relay::properties::an_answer_changes_in_its_links_alone,
    relay_batch => relay::properties::a_batch_sends_what_was_judged,
    request_body => api::properties::a_body_asks_for_what_can_be,
    request_guard => listener::properties::a_stream_is_framed_in_one_way,
    sealed => keyring::properties::nothing_opens_but_what_was_sealed,
    sealed_fields => repository::properties::a_field_is_read_as_it_is_written,
    token_answer => authority::properties::no_refresh_token_is_lost,
    traceparent => listener::properties::a_request_has_one_plain_id,
    url => config::properties::a_url_is_read_alike_by_both_readers,
}

/// Panics if a PEM file breaks a parser, or if a refusal repeats its content. The input serves as a file, and
/// as changes (pairs of a position and the bits to flip) of a good credential.
fn a_pem_file_is_refused_in_one_line(input: &[u8]) {
    const GOOD: &[u8] = include_bytes!("../../tests/data/authority/keys/app-p256.pem");
    let mut changed = GOOD.to_vec();
    for (at, pair) in input.as_chunks::<2>().0.iter().enumerate() {
        let place = (usize::from(pair[0]) * 5 + at) % changed.len();
        changed[place] ^= pair[1];
    }
    let tls = |pem: &[u8], clients: Option<ClientTrust<'_>>| {
        let clock = Arc::new(SystemClock::new());
        listener::tls_settings(pem, pem, clients, true, clock).err().map(|fault| fault.to_string())
    };
    for pem in [input, &changed[..]] {
        let refusals = [
            authority::ClientCredential::certificate("fuzz", pem).err().map(|fault| fault.to_string()),
            tls(pem, None),
            tls(GOOD, Some(ClientTrust { ca_pem: pem, crl: None, required: false })),
            tls(GOOD, Some(ClientTrust { ca_pem: GOOD, crl: Some(pem), required: false })),
            shape::Misshapen::pem(pem, Path::new("app.pem")).map(|what| what.to_string()),
        ];
        for refusal in refusals.into_iter().flatten() {
            assert!(refusal.len() < 500 && !refusal.contains(char::is_control), "{refusal}");
        }
        let text = String::from_utf8_lossy(pem);
        for odd in [paste::odd_in_password(&text), paste::odd_in_client_secret(&text)].into_iter().flatten() {
            assert!(odd.to_string().len() < 100, "{odd}");
        }
        assert!(paste::suspicions(&text).len() <= 3);
    }
}

/// Checks an input of this kind.
///
/// # Panics
/// A property does not hold for it, or there is no such kind.
pub fn check(name: &str, input: &[u8]) {
    let target = TARGETS.iter().find(|target| target.name == name);
    (target.unwrap_or_else(|| panic!("no target is called {name}")).check)(input);
}

#[cfg(test)]
pub(crate) mod tests {
    use std::collections::BTreeSet;
    use std::path::{Path, PathBuf};

    use super::*;
    use crate::domain::random::{Random, random_bytes};
    use crate::testkit::SeededRandom;

    /// Most changes of one file; a long one gets fewer.
    const ROUNDS: usize = 400;
    const BYTES: usize = 60_000;

    fn folder(name: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz").join(name)
    }

    /// Returns the inputs that a fuzzer starts from.
    pub(crate) fn corpus(name: &str) -> Vec<(PathBuf, Vec<u8>)> {
        let entries = std::fs::read_dir(folder("corpus").join(name)).expect("a corpus");
        let mut files: Vec<PathBuf> = entries.map(|entry| entry.expect("an entry").path()).collect();
        files.sort();
        files.into_iter().map(|file| (file.clone(), std::fs::read(&file).expect("an input"))).collect()
    }

    pub(super) fn replay(name: &str) {
        let random = SeededRandom::new(1);
        let all = corpus(name);
        assert!(all.len() >= 5, "a fuzzer has little to begin with: {}", all.len());
        for (file, input) in &all {
            let told = std::panic::catch_unwind(|| check(name, input));
            assert!(told.is_ok(), "{}", file.display());
            for _ in 0..ROUNDS.min(BYTES / (input.len() + 1)).max(4) {
                let (_, other) = &all[index(&random, all.len())];
                let changed = changed(input, other, &random);
                let told = std::panic::catch_unwind(|| check(name, &changed));
                assert!(told.is_ok(), "a change of {}: {}", file.display(), changed.escape_ascii());
            }
        }
    }

    fn index(random: &dyn Random, below: usize) -> usize {
        usize::try_from(u64::from_le_bytes(random_bytes(random)) % (below.max(1) as u64)).expect("small")
    }

    /// Returns a small change: something removed, doubled, inserted, flipped, or taken from another input.
    pub(crate) fn changed(input: &[u8], other: &[u8], random: &dyn Random) -> Vec<u8> {
        const PIECES: [&[u8]; 20] = [
            b"null",
            b"\"\"",
            b"{}",
            b"[",
            b"1e400",
            b"-1",
            b"\\ud800",
            b"\xff",
            b"\0",
            b",",
            b"}",
            b"\"",
            b"\r\n",
            b"%2e%2e",
            b"/../",
            b"=",
            b"&",
            b"18446744073709551616",
            b"\xe2\x80\xae",
            b"refresh_token\":\"R9\",",
        ];
        let mut bytes = input.to_vec();
        for _ in 0..=index(random, 2) {
            let at = index(random, bytes.len() + 1);
            let end = (at + 1 + index(random, 9)).min(bytes.len());
            match index(random, 6) {
                0 => bytes.truncate(at),
                1 => drop(bytes.splice(at..at, PIECES[index(random, PIECES.len())].iter().copied())),
                2 => drop(bytes.splice(at..end, [])),
                3 => drop(bytes.splice(at..at, bytes[at..end].to_vec())),
                4 => {
                    let from = index(random, other.len() + 1);
                    let to = (from + index(random, 40)).min(other.len());
                    drop(bytes.splice(at..at, other[from..to].iter().copied()));
                }
                _ => {
                    if let Some(byte) = bytes.get_mut(at) {
                        *byte ^= 1 << index(random, 8);
                    }
                }
            }
        }
        bytes
    }

    /// `make fuzz` or these tests would miss a kind without its fuzz target or its corpus, or one of these
    /// without its kind.
    #[test]
    fn every_kind_has_its_fuzz_target_and_its_corpus() {
        let kinds: BTreeSet<String> = TARGETS.iter().map(|target| target.name.to_owned()).collect();
        let names = |place: &str| -> BTreeSet<String> {
            let entries = std::fs::read_dir(folder(place)).expect("a folder");
            let name = |entry: std::io::Result<std::fs::DirEntry>| {
                entry.expect("an entry").path().file_stem().expect("a name").to_string_lossy().into_owned()
            };
            entries.map(name).collect()
        };
        assert_eq!(kinds, names("fuzz_targets"));
        assert_eq!(kinds, names("corpus"));
        let manifest = std::fs::read_to_string(folder("Cargo.toml")).expect("a manifest");
        for name in &kinds {
            let path = format!("[[bin]]\nname = \"{name}\"\npath = \"fuzz_targets/{name}.rs\"\n");
            assert!(manifest.contains(&path), "fuzz/Cargo.toml lacks {name}");
            let target = std::fs::read_to_string(folder("fuzz_targets").join(format!("{name}.rs")));
            let checks = format!("check(\"{name}\", input)");
            assert!(target.expect("a target").contains(&checks), "{name} checks another kind");
        }
        assert_eq!(manifest.matches("[[bin]]").count(), kinds.len());
    }
}
