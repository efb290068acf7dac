//! Granted scopes that many connections have in common: read once, and shared in memory.

use std::collections::BTreeMap;

use parking_lot::Mutex;

use crate::domain::id::AppName;
use crate::domain::scope::{ScopeNaming, ScopeSet};

/// Different lists that are remembered for an app. Beyond that all are forgotten, and read anew.
const MOST: usize = 64;

/// The lists that were read.
#[derive(Default)]
pub(super) struct Granted(Mutex<BTreeMap<AppName, OfApp>>);

/// Those of one app, as its authority names scopes.
struct OfApp {
    naming: ScopeNaming,
    read: BTreeMap<Vec<String>, ScopeSet>,
}

impl Granted {
    /// These scopes of an app, as a set that its connections share.
    pub(super) fn of(&self, app: &AppName, naming: &ScopeNaming, words: &[String]) -> ScopeSet {
        let mut apps = self.0.lock();
        let new = || OfApp { naming: naming.clone(), read: BTreeMap::new() };
        let of_app = apps.entry(app.clone()).or_insert_with(new);
        if of_app.naming != *naming {
            *of_app = new();
        }
        if let Some(known) = of_app.read.get(words) {
            return known.clone();
        }
        let set = naming.scopes_lossy(words.iter().map(String::as_str));
        if of_app.read.len() >= MOST {
            of_app.read.clear();
        }
        of_app.read.insert(words.to_vec(), set.clone());
        set
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_read_as_its_app_s_authority_names_scopes_and_few_are_remembered() {
        let (granted, app) = (Granted::default(), AppName::parse("outlook").expect("a name"));
        let entra = ScopeNaming::Entra { graph: "https://graph.microsoft.com".into() };
        let words = ["Mail.Read".to_owned(), "openid".to_owned()];
        for _ in 0..2 {
            let set = granted.of(&app, &entra, &words);
            assert_eq!(set, entra.scopes_lossy(words.iter().map(String::as_str)));
        }
        // The app's authority is another one now.
        let set = granted.of(&app, &ScopeNaming::Plain, &words);
        assert_eq!(set, ScopeNaming::Plain.scopes_lossy(words.iter().map(String::as_str)));
        for number in 0..MOST * 2 {
            granted.of(&app, &ScopeNaming::Plain, &[number.to_string()]);
        }
        assert!(granted.0.lock().values().all(|of_app| of_app.read.len() <= MOST));
    }
}
