//! Scopes. At Entra, `Mail.Read` and `https://graph.microsoft.com/Mail.Read` are one scope, case is ignored,
//! and a scope belongs to one resource. Elsewhere a scope is just its text (RFC 6749 §3.3).

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use super::clouds::GRAPH_ID;

/// How an authority names its scopes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ScopeNaming {
    /// Entra: a bare name belongs to the Graph; a full URI is `{resource}/{name}`.
    Entra {
        /// The cloud's Graph, such as `https://graph.microsoft.com`, without a slash at the end.
        graph: String,
    },
    /// Any other authority: there are no resources, and the text is the scope.
    Plain,
}

/// One scope. It keeps the spelling it came in and is compared by its canonical form.
#[derive(Debug, Clone)]
pub struct Scope {
    canonical: Arc<str>,
    wire: Arc<str>,
    resource: Option<Arc<str>>,
}

/// Scopes that belong to the sign-in and to no resource (OpenID Connect Core §5.4, §11).
const OPENID_SCOPES: [&str; 6] = ["openid", "profile", "email", "offline_access", "address", "phone"];

/// Most scopes in one request: more than any token carries.
pub const MOST_SCOPES: usize = 128;

/// Longest scope: longer than any real one, shorter than any token.
pub const LONGEST_SCOPE: usize = 256;

impl ScopeNaming {
    /// Parses one scope. Returns `None` if the text is empty, has a character outside RFC 6749 §3.3, or is
    /// too long: a token sent in a scope's place must not be repeated in answers and logs as a missing scope.
    pub fn scope(&self, text: &str) -> Option<Scope> {
        if text.is_empty()
            || text.len() > LONGEST_SCOPE
            || !text.bytes().all(|byte| matches!(byte, 0x21 | 0x23..=0x5b | 0x5d..=0x7e))
        {
            return None;
        }
        let mut lower = text.to_ascii_lowercase();
        if let (ScopeNaming::Entra { graph }, Some(name)) = (self, of_graph_id(&lower)) {
            lower = format!("{}/{name}", graph.to_ascii_lowercase());
        }
        let (canonical, resource) = match self {
            // RFC 6749 section 3.3: case-sensitive strings.
            ScopeNaming::Plain => (text.to_owned(), None),
            ScopeNaming::Entra { .. } if OPENID_SCOPES.contains(&lower.as_str()) => (lower, None),
            ScopeNaming::Entra { graph } => match lower.rsplit_once('/') {
                Some((resource, _)) if lower.contains("://") => {
                    let (named, rest) = lower.split_at(resource.trim_end_matches('/').len());
                    let graph = graph.to_ascii_lowercase();
                    // A scope of the Graph may contain a slash, with or without its resource.
                    if named.strip_prefix(graph.as_str()).is_some_and(|below| below.starts_with('/')) {
                        (lower, Some(graph))
                    } else {
                        let resource = one_name(named).to_owned();
                        (format!("{resource}{rest}"), Some(resource))
                    }
                }
                _ => (format!("{graph}/{lower}").to_ascii_lowercase(), Some(graph.to_ascii_lowercase())),
            },
        };
        let scope =
            Scope { canonical: canonical.into(), wire: text.into(), resource: resource.map(Into::into) };
        Some(scope)
    }

    /// Parses a space-separated list and leaves out repetitions. `Err` holds the first bad one.
    pub fn scopes(&self, text: &str) -> Result<ScopeSet, String> {
        let mut set = ScopeSet::default();
        for word in text.split(' ').filter(|word| !word.is_empty()) {
            set.insert(self.scope(word).ok_or_else(|| word.to_owned())?);
        }
        Ok(set)
    }

    /// Like [`Self::scopes`], for a caller's list, which may have [`MOST_SCOPES`] at most.
    ///
    /// # Errors
    /// A sentence that says what is wrong.
    pub fn scopes_asked(&self, text: &str) -> Result<ScopeSet, String> {
        if text.split(' ').filter(|word| !word.is_empty()).count() > MOST_SCOPES {
            return Err(format!("names more than {MOST_SCOPES} scopes"));
        }
        self.scopes(text).map_err(|_| {
            "holds a character that no scope has (RFC 6749 section 3.3), or a word of more than 256"
                .to_owned()
        })
    }

    /// Parses a list and skips what is not a scope.
    pub fn scopes_lossy<'a>(&self, words: impl IntoIterator<Item = &'a str>) -> ScopeSet {
        words.into_iter().filter_map(|word| self.scope(word)).collect()
    }

    /// Returns the main resource of a connection with these scopes: the Graph if it is among them, otherwise
    /// the first. `None` outside Entra.
    pub fn primary_resource(&self, scopes: &ScopeSet) -> Option<String> {
        let ScopeNaming::Entra { graph } = self else { return None };
        let graph = graph.to_ascii_lowercase();
        let resources = scopes.resources();
        match resources.first() {
            Some(first) if !resources.contains(&graph.as_str()) => Some((*first).to_owned()),
            _ => Some(graph),
        }
    }

    /// Returns the canonical form of a resource that a caller named: lower case, without a slash or
    /// `/.default` at the end.
    pub fn resource(&self, text: &str) -> String {
        let lower = text.to_ascii_lowercase();
        let mut resource = lower.as_str();
        // Removes every repetition, so that a canonical form is its own canonical form.
        while let Some(shorter) = resource.strip_suffix("/.default").or_else(|| resource.strip_suffix('/')) {
            resource = shorter;
        }
        match self {
            ScopeNaming::Entra { graph } if resource == GRAPH_ID => graph.to_ascii_lowercase(),
            ScopeNaming::Entra { .. } => one_name(resource).to_owned(),
            ScopeNaming::Plain => resource.to_owned(),
        }
    }
}

/// Returns the scope's name if the lower-case text begins with the Graph's application id.
fn of_graph_id(lower: &str) -> Option<&str> {
    lower.strip_prefix(GRAPH_ID)?.strip_prefix('/').filter(|name| !name.is_empty())
}

/// Aliases of one service; the first name stands for all. Microsoft documents both names of Exchange Online
/// (the first for IMAP, POP and SMTP, the second for EWS), and Entra accepts either for the same service
/// principal.
const ALIASES: &[(&str, &str)] = &[("https://outlook.office.com", "https://outlook.office365.com")];

fn one_name(resource: &str) -> &str {
    ALIASES.iter().find(|(_, alias)| *alias == resource).map_or(resource, |(name, _)| name)
}

impl Scope {
    /// Returns the original spelling, as sent to the authority.
    pub fn wire(&self) -> &str {
        &self.wire
    }

    /// Returns its resource in lower case; `None` for the sign-in's own scopes and outside Entra.
    pub fn resource(&self) -> Option<&str> {
        self.resource.as_deref()
    }

    /// Returns the form that is compared.
    pub fn canonical(&self) -> &str {
        &self.canonical
    }

    /// Returns true for one of the sign-in's own scopes, which grant no right to a resource.
    pub fn is_openid(&self) -> bool {
        OPENID_SCOPES.contains(&&*self.canonical)
    }
}

impl PartialEq for Scope {
    fn eq(&self, other: &Self) -> bool {
        self.canonical == other.canonical
    }
}

impl Eq for Scope {}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.wire)
    }
}

/// A set of scopes, ordered by canonical form. Clones share it until one of them changes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ScopeSet(Arc<BTreeMap<Arc<str>, Scope>>);

impl ScopeSet {
    /// Adds a scope; of two spellings the first stays.
    pub fn insert(&mut self, scope: Scope) {
        Arc::make_mut(&mut self.0).entry(scope.canonical.clone()).or_insert(scope);
    }

    /// Returns true if the set has the scope, in any spelling.
    pub fn contains(&self, scope: &Scope) -> bool {
        self.0.contains_key(&scope.canonical)
    }

    /// Iterates in the order of canonical forms.
    pub fn iter(&self) -> impl Iterator<Item = &Scope> {
        self.0.values()
    }

    /// Returns true if the set is empty.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the number of scopes.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Returns the members of `self` that `other` lacks.
    pub fn missing_from(&self, other: &ScopeSet) -> ScopeSet {
        self.iter().filter(|scope| !other.contains(scope)).cloned().collect()
    }

    /// Returns the distinct resources, ordered.
    pub fn resources(&self) -> Vec<&str> {
        let mut resources: Vec<&str> = self.iter().filter_map(Scope::resource).collect();
        resources.sort_unstable();
        resources.dedup();
        resources
    }

    /// Returns the members that belong to `resource` or to no resource.
    pub fn of_resource(&self, resource: Option<&str>) -> ScopeSet {
        let is_of = |scope: &&Scope| scope.resource().is_none() || scope.resource() == resource;
        // (Mostly all are, and then the set is shared.)
        if self.iter().all(|scope| is_of(&scope)) {
            self.clone()
        } else {
            self.iter().filter(is_of).cloned().collect()
        }
    }

    /// Returns the space-separated list, as sent (RFC 6749 §3.3).
    pub fn wire(&self) -> String {
        let words: Vec<&str> = self.iter().map(Scope::wire).collect();
        words.join(" ")
    }

    /// Returns the spellings of all members.
    pub fn to_words(&self) -> Vec<String> {
        self.iter().map(|scope| scope.wire.to_string()).collect()
    }
}

impl FromIterator<Scope> for ScopeSet {
    fn from_iter<I: IntoIterator<Item = Scope>>(scopes: I) -> Self {
        let mut set = BTreeMap::new();
        for scope in scopes {
            set.entry(scope.canonical.clone()).or_insert(scope);
        }
        ScopeSet(Arc::new(set))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entra() -> ScopeNaming {
        ScopeNaming::Entra { graph: "https://graph.microsoft.com".into() }
    }

    /// Found by the fuzz target `names`: two equal scopes had different resources.
    #[test]
    fn a_scope_of_the_graph_s_with_a_slash_is_of_the_graph_however_it_is_written() {
        let (bare, full) = (entra().scope("a/B"), entra().scope("https://graph.microsoft.com/A/b"));
        let (bare, full) = (bare.expect("a scope"), full.expect("a scope"));
        assert_eq!((&bare, bare.resource()), (&full, full.resource()));
        assert_eq!(bare.resource(), Some("https://graph.microsoft.com"));
    }

    #[test]
    fn bare_and_full_spelling_in_any_case_are_one_scope() {
        let naming = entra();
        let set = naming.scopes("Mail.Read https://graph.microsoft.com/mail.read MAIL.READ").expect("scopes");
        assert_eq!(set.len(), 1);
        assert_eq!(set.resources(), ["https://graph.microsoft.com"]);
    }

    #[test]
    fn resources_are_told_apart_and_openid_scopes_have_none() {
        let naming = entra();
        let set = naming
            .scopes("openid offline_access Mail.Read https://outlook.office.com/SMTP.Send api://x/Read")
            .expect("scopes");
        assert_eq!(set.resources(), ["api://x", "https://graph.microsoft.com", "https://outlook.office.com"]);
        let outlook = set.of_resource(Some("https://outlook.office.com"));
        assert_eq!(outlook.to_words(), ["https://outlook.office.com/SMTP.Send", "offline_access", "openid"]);
    }

    #[test]
    fn the_names_of_one_service_are_one_resource() {
        let naming = entra();
        let set = naming
            .scopes("https://outlook.office.com/SMTP.Send https://Outlook.Office365.com/smtp.send")
            .expect("scopes");
        assert_eq!((set.len(), set.resources()), (1, vec!["https://outlook.office.com"]));
        assert_eq!(set.wire(), "https://outlook.office.com/SMTP.Send", "as it came first");
        for text in [
            "https://outlook.office365.com/.default",
            "https://outlook.office365.com/",
            "https://outlook.office.com",
        ] {
            assert_eq!(naming.resource(text), "https://outlook.office.com");
        }
        assert_eq!(
            ScopeNaming::Plain.resource("https://outlook.office365.com"),
            "https://outlook.office365.com"
        );
        // Another service with a similar name.
        assert_eq!(naming.resource("https://outlook.office365.us"), "https://outlook.office365.us");
    }

    #[test]
    fn the_graph_s_application_id_is_its_name() {
        let (id, graph) = ("00000003-0000-0000-C000-000000000000", "https://graph.microsoft.com");
        for text in [id.to_owned(), format!("{id}/"), format!("{id}/.default")] {
            assert_eq!(entra().resource(&text), graph);
        }
        let scope = entra().scope(&format!("{id}/Mail.Read")).expect("a scope");
        assert_eq!(Some(&scope), entra().scope("mail.read").as_ref());
        assert_eq!((scope.resource(), scope.wire()), (Some(graph), &*format!("{id}/Mail.Read")));
        // A provider that has no Graph.
        assert_eq!(ScopeNaming::Plain.resource(id), id.to_ascii_lowercase());
    }

    #[test]
    fn a_caller_names_only_so_many() {
        let words = |count: usize| (0..count).map(|at| format!("s{at}")).collect::<Vec<_>>().join(" ");
        assert!(entra().scopes_asked(&words(MOST_SCOPES)).is_ok());
        assert!(
            entra().scopes_asked(&format!("a{}b", " ".repeat(MOST_SCOPES))).is_ok(),
            "spaces are no scopes"
        );
        assert!(
            entra().scopes_asked(&words(MOST_SCOPES + 1)).is_err_and(|why| why.contains("more than 128"))
        );
        assert!(entra().scopes_asked("a\"b").is_err_and(|why| why.contains("character")));
    }

    #[test]
    fn other_providers_scopes_have_no_resource() {
        let set = ScopeNaming::Plain.scopes("https://mail.google.com/ Calendar").expect("scopes");
        assert!(set.resources().is_empty());
        assert_eq!(set.len(), 2);
        // They are compared as written, including the sign-in's own.
        let scope = |text: &str| ScopeNaming::Plain.scope(text).expect("a scope");
        assert!(set.contains(&scope("Calendar")) && !set.contains(&scope("calendar")));
        assert!(scope("openid").is_openid() && !scope("OpenID").is_openid());
    }

    #[test]
    fn what_rfc_6749_forbids_is_refused_by_name() {
        for bad in ["a\"b", "a\\b", "a\tb", "ü"] {
            assert_eq!(entra().scopes(&format!("Mail.Read {bad}")), Err(bad.to_owned()));
        }
    }
}
