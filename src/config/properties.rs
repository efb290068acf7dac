//! Properties of every text that is given as a configuration.

use std::collections::BTreeMap;
use std::path::Path;

use super::{HttpUrl, changed_sections, load};
use crate::authority::properties::documents::host_and_port_of;

/// Panics if a text is read in two ways, if it is refused without a position, or if a refusal shows a secret.
pub fn a_configuration_is_taken_whole_or_refused_in_lines(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    let (none, path) = (BTreeMap::new(), Path::new("/etc/tokenward/t.toml"));
    let read = load(&text, &none, path);
    match &read {
        Ok(loaded) => {
            let again = load(&text, &none, path).expect("it was taken before");
            assert!(*loaded == again, "the same text is read in two ways");
            assert_eq!(changed_sections(&loaded.config, &again.config), Vec::<&str>::new());
            let marked = load(&format!("\u{feff}{text}"), &none, path);
            assert!(
                text.starts_with('\u{feff}') || marked.is_ok(),
                "a byte order mark makes it another text"
            );
        }
        Err(errors) => {
            let said = errors.to_string();
            assert!(!said.is_empty());
            // Each message is one line that begins with its position.
            for line in said.lines() {
                assert!(
                    line.starts_with("/etc/tokenward/t.toml:") || line.starts_with("environment "),
                    "{line:?}"
                );
                assert!(!line.contains(|c: char| c.is_control() && c != '\t'), "{line:?}");
            }
        }
    }
    // A secret written where none is allowed, after any other content.
    for place in ["\nclient_secret = \"hunter2-canary\"\n", "\n[store]\npassword = \"hunter2-canary\"\n"] {
        if let Err(errors) = load(&format!("{text}{place}"), &none, path) {
            assert!(!errors.to_string().contains("hunter2-canary"), "{errors}");
        }
    }
}

/// Panics if environment variables are read in two ways, or if a good file is refused because of them without
/// a line that says so. Each line is a variable.
pub fn an_environment_is_taken_whole_or_refused_in_lines(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    let pairs = text.lines().filter_map(|line| line.split_once('='));
    let environment: BTreeMap<String, String> =
        pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    let path = Path::new("/etc/tokenward/t.toml");
    match load(include_str!("../../config/embedded.toml"), &environment, path) {
        Ok(loaded) => {
            let again = load(include_str!("../../config/embedded.toml"), &environment, path);
            assert!(again.is_ok_and(|again| again == loaded), "the same environment is read in two ways");
        }
        Err(errors) => {
            for line in errors.to_string().lines() {
                assert!(
                    line.starts_with("/etc/tokenward/t.toml:") || line.starts_with("environment "),
                    "{line:?}"
                );
                assert!(!line.contains(|c: char| c.is_control() && c != '\t'), "{line:?}");
            }
        }
    }
}

/// Panics if the configuration accepts a URL that the HTTP client sends to another host.
pub fn a_url_is_read_alike_by_both_readers(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    let called = host_and_port_of(&text);
    let Ok(url) = HttpUrl::parse(&text) else { return };
    assert_eq!((url.as_str(), url.to_string()), (&*text, text.clone().into_owned()));
    assert!(
        !url.host().is_empty()
            && !url.host().contains(|c: char| c.is_ascii_uppercase() || "@#?/\\%".contains(c))
    );
    assert!(url.path().is_empty() || url.path().starts_with('/'), "{}", url.path());
    let of_loopback =
        |host: &str| host == "localhost" || host.parse().is_ok_and(|ip: std::net::IpAddr| ip.is_loopback());
    assert_eq!(url.is_loopback(), of_loopback(url.host()));
    if let Some((host, port)) = called {
        assert_eq!((url.host(), url.port()), (host.as_str(), port), "{text}");
    }
    let other: http::Uri = text.parse().expect("what we take is a URI for everyone");
    let host = other.host().map(|host| host.trim_matches(['[', ']']).to_ascii_lowercase());
    assert_eq!(host.as_deref(), Some(url.host()), "{text}");
}
