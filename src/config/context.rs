//! Reading of the checked tree for `build`. Each value knows its key and position, to report a mistake.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use time::OffsetDateTime;

use super::check::{instant, join};
use super::mistakes::{Finding, Place, Topic};
use super::spec::parse_duration;
use super::tree::{Entries, Node, Value};
use super::url::HttpUrl;

/// Shared by all functions: the base of relative paths, and the findings so far.
pub(super) struct Context {
    base: PathBuf,
    mistakes: RefCell<Vec<Finding>>,
    warnings: RefCell<Vec<Finding>>,
}

impl Context {
    pub(super) fn new(base: &Path, mistakes: Vec<Finding>) -> Self {
        Self { base: base.to_owned(), mistakes: RefCell::new(mistakes), warnings: RefCell::default() }
    }

    pub(super) fn mistake(&self, finding: Finding) {
        self.mistakes.borrow_mut().push(finding);
    }

    pub(super) fn warn(&self, finding: Finding) {
        self.warnings.borrow_mut().push(finding);
    }

    pub(super) fn into_findings(self) -> (Vec<Finding>, Vec<Finding>) {
        (self.mistakes.into_inner(), self.warnings.into_inner())
    }
}

/// One table of the tree.
#[derive(Clone)]
pub(super) struct Section<'a> {
    context: &'a Context,
    entries: &'a Entries,
    place: Place,
    path: String,
}

/// One value of the tree, with its position for messages.
pub(super) struct Leaf<'a, T> {
    pub(super) value: T,
    context: &'a Context,
    place: Place,
    path: String,
}

impl<'a, T> Leaf<'a, T> {
    pub(super) fn mistake(&self, problem: impl Into<String>) {
        self.mistake_near(problem, None);
    }

    pub(super) fn mistake_near(&self, problem: impl Into<String>, nearest: Option<String>) {
        self.context.mistakes.borrow_mut().push(Finding {
            place: self.place.clone(),
            key: self.path.clone(),
            problem: problem.into(),
            nearest,
            topic: Topic::Other,
        });
    }

    /// A mistake about something that others have words for.
    pub(super) fn mistake_about(&self, topic: Topic, problem: impl Into<String>) {
        self.context.mistakes.borrow_mut().push(Finding {
            place: self.place.clone(),
            key: self.path.clone(),
            problem: problem.into(),
            nearest: None,
            topic,
        });
    }

    pub(super) fn warning(&self, problem: impl Into<String>) {
        self.context.warnings.borrow_mut().push(Finding {
            place: self.place.clone(),
            key: self.path.clone(),
            problem: problem.into(),
            nearest: None,
            topic: Topic::Other,
        });
    }

    pub(super) fn with<U>(&self, value: U) -> Leaf<'a, U> {
        Leaf { value, context: self.context, place: self.place.clone(), path: self.path.clone() }
    }

    /// Returns its key, with all keys above it.
    pub(super) fn path(&self) -> &str {
        &self.path
    }

    /// Returns true if the value comes from the user and not from the defaults.
    pub(super) fn is_given(&self) -> bool {
        !matches!(self.place, Place::Absent(_) | Place::AbsentBeside(_))
    }
}

impl<'a> Section<'a> {
    /// Makes the section of the whole file.
    pub(super) fn root(context: &'a Context, entries: &'a Entries) -> Self {
        Section { context, entries, place: Place::File(0), path: String::new() }
    }

    /// Iterates over its keys, in order.
    pub(super) fn keys(&self) -> impl Iterator<Item = &'a str> {
        self.entries.keys().map(String::as_str)
    }

    /// Returns true if it has this key, written or by default.
    pub(super) fn has(&self, key: &str) -> bool {
        self.entries.contains_key(key)
    }

    /// Returns true if a mistake in this key has been reported.
    pub(super) fn is_wrong(&self, key: &str) -> bool {
        let key = join(&self.path, key);
        self.context.mistakes.borrow().iter().any(|finding| finding.key == key)
    }

    /// Returns true if a mistake in any of its keys has been reported.
    pub(super) fn has_wrong_keys(&self) -> bool {
        let within = format!("{}.", self.path);
        self.context.mistakes.borrow().iter().any(|finding| finding.key.starts_with(&within))
    }

    /// Returns a path that may be relative to the file's folder.
    pub(super) fn resolve(&self, path: &str) -> PathBuf {
        self.context.base.join(path)
    }

    pub(super) fn node(&self, key: &str) -> Option<Leaf<'a, &'a Node>> {
        let node = &self.entries.get(key)?.node;
        Some(Leaf {
            value: node,
            context: self.context,
            place: node.place.clone(),
            path: join(&self.path, key),
        })
    }

    pub(super) fn is_given(&self, key: &str) -> bool {
        self.node(key).is_some_and(|leaf| leaf.is_given())
    }

    /// Returns the table itself, for messages about it as a whole.
    pub(super) fn itself(&self) -> Leaf<'a, ()> {
        Leaf { value: (), context: self.context, place: self.place.clone(), path: self.path.clone() }
    }

    pub(super) fn text(&self, key: &str) -> Option<Leaf<'a, &'a str>> {
        let leaf = self.node(key)?;
        match &leaf.value.value {
            Value::String(text) => {
                Some(Leaf { value: text.as_str(), context: leaf.context, place: leaf.place, path: leaf.path })
            }
            _ => None,
        }
    }

    pub(super) fn string(&self, key: &str) -> Option<String> {
        self.text(key).map(|leaf| leaf.value.to_owned())
    }

    pub(super) fn path(&self, key: &str) -> Option<PathBuf> {
        self.text(key).map(|leaf| self.resolve(leaf.value))
    }

    pub(super) fn duration(&self, key: &str) -> Option<Duration> {
        parse_duration(self.text(key)?.value)
    }

    pub(super) fn bool(&self, key: &str) -> Option<bool> {
        match self.node(key)?.value.value {
            Value::Bool(value) => Some(value),
            _ => None,
        }
    }

    pub(super) fn number(&self, key: &str) -> Option<u32> {
        match self.node(key)?.value.value {
            Value::Integer(number) => u32::try_from(number?).ok(),
            _ => None,
        }
    }

    pub(super) fn ratio(&self, key: &str) -> Option<f64> {
        match self.node(key)?.value.value {
            Value::Float(number) => Some(number),
            Value::Integer(number) => u8::try_from(number?).ok().map(f64::from),
            _ => None,
        }
    }

    pub(super) fn instant(&self, key: &str) -> Option<OffsetDateTime> {
        match &self.node(key)?.value.value {
            Value::Datetime(datetime) => instant(datetime),
            _ => None,
        }
    }

    pub(super) fn address(&self, key: &str) -> Option<Leaf<'a, SocketAddr>> {
        let leaf = self.text(key)?;
        match leaf.value.parse::<SocketAddr>() {
            Ok(address) => {
                Some(Leaf { value: address, context: leaf.context, place: leaf.place, path: leaf.path })
            }
            Err(_) => {
                let port =
                    leaf.value.rsplit_once(':').map(|(_, port)| port).filter(|p| p.parse::<u16>().is_ok());
                leaf.mistake(format!(
                    "must be an IP address and a port, such as \"127.0.0.1:{0}\" for this machine or \
                     \"0.0.0.0:{0}\" for everyone",
                    port.unwrap_or("8080")
                ));
                None
            }
        }
    }

    /// Reads a value that must be one of a few words.
    pub(super) fn choice<T: Copy>(&self, key: &str, words: &[(&str, T)]) -> Option<T> {
        let leaf = self.text(key)?;
        words.iter().find(|(word, _)| *word == leaf.value).map(|(_, value)| *value)
    }

    pub(super) fn section(&self, key: &str) -> Option<Section<'a>> {
        let leaf = self.node(key)?;
        table_of(leaf.value, leaf.context, leaf.path)
    }

    /// Reads a list of tables.
    pub(super) fn sections(&self, key: &str) -> Vec<Section<'a>> {
        self.items(key).into_iter().filter_map(|leaf| table_of(leaf.value, leaf.context, leaf.path)).collect()
    }

    /// Reads a list of strings.
    pub(super) fn texts(&self, key: &str) -> Vec<Leaf<'a, &'a str>> {
        self.items(key)
            .into_iter()
            .filter_map(|leaf| match &leaf.value.value {
                Value::String(text) => Some(Leaf {
                    value: text.as_str(),
                    context: leaf.context,
                    place: leaf.place,
                    path: leaf.path,
                }),
                _ => None,
            })
            .collect()
    }

    pub(super) fn items(&self, key: &str) -> Vec<Leaf<'a, &'a Node>> {
        let Some(list) = self.node(key) else { return Vec::new() };
        let Value::List(items) = &list.value.value else { return Vec::new() };
        let leaf = |(index, node): (usize, &'a Node)| Leaf {
            value: node,
            context: self.context,
            place: node.place.clone(),
            path: format!("{}[{index}]", list.path),
        };
        items.iter().enumerate().map(leaf).collect()
    }

    /// Reports a list that is absent or without items. (What has been reported already is not said twice.)
    pub(super) fn required(&self, key: &str, why: &str) {
        let full = join(&self.path, key);
        let is_reported = |finding: &Finding| {
            let is_meant = finding.nearest.as_deref() == Some(key) && finding.key.starts_with(&self.path);
            finding.key == full || is_meant
        };
        if !self.has(key) && !self.context.mistakes.borrow().iter().any(is_reported) {
            let problem = format!("is required: {why}");
            let place = self.place.absent();
            self.context.mistake(Finding { place, key: full, problem, nearest: None, topic: Topic::Other });
        }
        self.not_empty(key, why);
    }

    /// Reports a list without items.
    pub(super) fn not_empty(&self, key: &str, why: &str) {
        if let Some(list) = self.node(key)
            && matches!(&list.value.value, Value::List(items) if items.is_empty())
        {
            list.mistake(format!("must not be empty: {why}"));
        }
    }

    /// Reads named tables.
    pub(super) fn map<T>(
        &self,
        key: &str,
        read: impl Fn(&str, &Section<'a>) -> Option<T>,
    ) -> BTreeMap<String, T> {
        let Some(map) = self.section(key) else { return BTreeMap::new() };
        let mut all = BTreeMap::new();
        for name in map.entries.keys() {
            if let Some(section) = map.section(name)
                && let Some(value) = read(name, &section)
            {
                all.insert(name.clone(), value);
            }
        }
        all
    }
}

fn table_of<'a>(node: &'a Node, context: &'a Context, path: String) -> Option<Section<'a>> {
    match &node.value {
        Value::Table(entries) => Some(Section { context, entries, place: node.place.clone(), path }),
        _ => None,
    }
}

/// Reports one of two keys that only make sense together.
pub(super) fn pair(section: &Section<'_>, one: &str, other: &str) {
    match (section.text(one), section.text(other)) {
        (Some(leaf), None) => leaf.mistake(format!("needs `{other}` beside it")),
        (None, Some(leaf)) => leaf.mistake(format!("needs `{one}` beside it")),
        _ => {}
    }
}

/// Reads a URL that is https, or http on this machine.
pub(super) fn private_url(leaf: &Leaf<'_, &str>) -> Option<HttpUrl> {
    match HttpUrl::parse(leaf.value) {
        Err(error) => {
            leaf.mistake(error.to_string());
            None
        }
        Ok(url) if !url.is_private_on_the_way() => {
            let problem = "must be https; http is for localhost, 127.0.0.1 and [::1] only";
            leaf.mistake_about(Topic::NotHttps, problem);
            None
        }
        Ok(url) => Some(url),
    }
}
