//! `[webhooks.NAME]`.

use super::context::{Leaf, Section};
use super::sections::WebhookConfig;
use super::spec::nearest;
use super::url::HttpUrl;
use crate::domain::notice::NoticeKind;

/// Reads one webhook.
pub(super) fn webhook(section: &Section<'_>, known_apps: &[&str]) -> Option<WebhookConfig> {
    let allow_private = section.bool("allow_private");
    let url = section.text("url").and_then(|leaf| url(&leaf, allow_private == Some(true)));
    let known: Vec<&str> = NoticeKind::ALL.iter().map(|kind| kind.as_str()).collect();
    let apps = listed(section, "apps", known_apps, "there is no such app");
    let events = listed(section, "events", &known, "there is no such event");
    if let (Some(url), Some(leaf)) = (&url, section.text("ca_file"))
        && !url.is_https()
    {
        leaf.warning("has no effect: only a `url` at `https://` shows a certificate");
    }
    Some(WebhookConfig {
        url: url?,
        secret_file: section.path("secret_file")?,
        apps,
        events,
        ca_file: section.path("ca_file"),
        allow_private: allow_private?,
    })
}

fn url(leaf: &Leaf<'_, &str>, allow_private: bool) -> Option<HttpUrl> {
    match HttpUrl::parse(leaf.value) {
        Err(error) => {
            leaf.mistake(error.to_string());
            None
        }
        Ok(url) if url.is_https() || (allow_private && url.is_private_on_the_way()) => Some(url),
        Ok(_) => {
            leaf.mistake(
                "must be https; http is for this machine only, together with `allow_private = true`",
            );
            None
        }
    }
}

/// Reads a list of known words; `None` if it is left out, which means all of them.
fn listed(section: &Section<'_>, key: &str, known: &[&str], problem: &str) -> Option<Vec<String>> {
    if !section.has(key) {
        return None;
    }
    section.not_empty(key, "leave it out for all of them");
    let leaves = section.texts(key);
    for leaf in leaves.iter().filter(|leaf| !known.contains(&leaf.value)) {
        leaf.mistake_near(problem, nearest(leaf.value, known.iter().copied()));
    }
    Some(leaves.iter().map(|leaf| leaf.value.to_owned()).collect())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::path::Path;

    use crate::config::load;

    fn read(section: &str) -> Result<String, Vec<String>> {
        let text = format!(
            "[apps.a]\nclient_id = \"c\"\nauthority = \"https://login.example\"\nprovider = \
             \"openid\"\nscopes = [\"openid\"]\n[webhooks.product]\n{section}\n"
        );
        let loaded = load(&text, &BTreeMap::new(), Path::new("/etc/tokenward/t.toml"));
        match loaded {
            Ok(loaded) => Ok(format!("{:?}", loaded.config.webhooks["product"])),
            Err(errors) => Err(errors.mistakes.iter().map(ToString::to_string).collect()),
        }
    }

    #[test]
    fn a_webhook_is_https_and_names_apps_and_events_that_there_are() {
        const FILE: &str = "secret_file = \"s\"\n";
        assert!(read(&format!("url = \"https://hooks.example/in\"\n{FILE}")).is_ok());
        let all = format!("url = \"https://h/\"\n{FILE}apps = [\"a\"]\nevents = [\"connection.deleted\"]");
        assert!(read(&all).is_ok());
        let local = format!("url = \"http://127.0.0.1:9/\"\n{FILE}");
        assert!(read(&format!("{local}allow_private = true")).is_ok());
        for (section, expected) in [
            (local.as_str(), "must be https"),
            ("url = \"http://h/\"\nsecret_file = \"s\"\nallow_private = true", "must be https"),
            ("secret_file = \"s\"", "url"),
            ("url = \"https://h/\"", "secret_file"),
            ("url = \"https://h/\"\nsecret_file = \"s\"\napps = [\"b\"]", "there is no such app"),
            ("url = \"https://h/\"\nsecret_file = \"s\"\napps = []", "must not be empty"),
            (
                "url = \"https://h/\"\nsecret_file = \"s\"\nevents = [\"connection.deletd\"]",
                "connection.deleted",
            ),
        ] {
            let mistakes = read(section).expect_err(section);
            assert_eq!(mistakes.len(), 1, "{mistakes:?}");
            assert!(mistakes[0].contains(expected), "{} does not say {expected}", mistakes[0]);
        }
    }
}
