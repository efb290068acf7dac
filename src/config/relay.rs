//! Reading of `[apps.NAME.relay]`, and of what a rule has relayed.

use super::context::{Leaf, Section, private_url};
use super::sections::RelayConfig;
use super::url::HttpUrl;
use crate::relay::RelayRule;

/// Requests that Microsoft Graph takes at a time at one mailbox.
const MAILBOX_CONCURRENCY: u32 = 4;

/// Reads where callers' requests may be relayed to.
pub(super) fn relay(section: &Section<'_>) -> RelayConfig {
    let bases = section.section("bases");
    let bases =
        bases.iter().flat_map(|bases| bases.keys().filter_map(|name| Some((name, bases.text(name)?))));
    let base = |(name, leaf): (&str, Leaf<'_, &str>)| -> Option<(String, HttpUrl)> {
        let url = private_url(&leaf)?;
        if url.query().is_some() || url.path().ends_with('/') {
            leaf.mistake("must not hold a query (`?…`), nor a slash at its end");
            return None;
        }
        Some((name.to_owned(), url))
    };
    RelayConfig {
        bases: bases.filter_map(base).collect(),
        ca: section.path("ca"),
        mailbox_concurrency: section.number("mailbox_concurrency").unwrap_or(MAILBOX_CONCURRENCY),
    }
}

/// Reads a rule's `relay`, by the same grammar that judges requests.
pub(super) fn relayed(section: &Section<'_>) -> Vec<String> {
    let leaves = section.texts("relay");
    for leaf in &leaves {
        if let Err(fault) = RelayRule::parse(leaf.value) {
            leaf.mistake(fault.to_string());
        }
    }
    leaves.iter().map(|leaf| leaf.value.to_owned()).collect()
}
