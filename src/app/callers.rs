//! The configured callers and admins.

use std::collections::BTreeMap;
use std::sync::Arc;

use arc_swap::ArcSwap;

use super::apps::PreparedApps;
use super::findings::{By, Findings};
use super::issuers::InstalledIssuers;
use super::reading::public_file;
use super::rules::build_rule;
use crate::callers::client_assertion::{self, ClientKeyUse};
use crate::callers::jwt::{Issuers, JwtMatch};
use crate::callers::{CallerSetup, Callers, CallersError, Identity, KeyUse, LiveCallers, UnixUser, key_file};
use crate::config::{self, Authenticate, Config, JwtConfig};
use crate::domain::id::CallerName;
use crate::domain::time::Clock;
use crate::keyring::{Hashed, Keyring};
use crate::policy::{CallerPolicy, Rule};

/// The callers and admins in force.
pub(super) struct Roster {
    pub(super) callers: LiveCallers,
    pub(super) admins: LiveCallers,
    issuers: ArcSwap<InstalledIssuers>,
}

impl Roster {
    pub(super) fn new(issuers: InstalledIssuers, callers: Callers, admins: Callers) -> Self {
        let live = |callers| Arc::new(ArcSwap::from_pointee(callers));
        let issuers = ArcSwap::from_pointee(issuers);
        Roster { callers: live(callers), admins: live(admins), issuers }
    }

    /// Replaces the callers and admins in force, and keeps what is known of those that stay.
    pub(super) fn succeed_by(&self, issuers: InstalledIssuers, callers: Callers, admins: Callers) {
        self.issuers.store(Arc::new(issuers));
        self.callers.store(Arc::new(callers.succeeding(&self.callers.load())));
        self.admins.store(Arc::new(admins.succeeding(&self.admins.load())));
    }

    /// The issuers of their JWTs.
    pub(super) fn issuers(&self) -> Arc<InstalledIssuers> {
        self.issuers.load_full()
    }

    /// Checks the files of API keys. If a file does not answer, its known keys stay in force.
    pub(super) async fn check_key_files(&self, clock: &dyn Clock) {
        for of_these in [self.callers.load_full(), self.admins.load_full()] {
            of_these.check_key_files(clock).await;
        }
    }

    /// Every API key, with when it was used last.
    pub(super) fn key_uses(&self) -> Vec<KeyUse> {
        let mut uses = self.callers.load().key_uses();
        uses.extend(self.admins.load().key_uses());
        uses
    }

    /// Every key by which callers sign their own assertions, with when it was used last.
    pub(super) fn client_key_uses(&self) -> Vec<ClientKeyUse> {
        self.callers.load().client_key_uses()
    }

    /// Sealing keys that lines of API keys from before 0.2 still need, each with the names of those API keys.
    pub(super) async fn sealing_keys_in_use(&self, clock: &dyn Clock) -> Hashed {
        self.check_key_files(clock).await;
        let now = clock.now();
        let mut hashed = self.callers.load().sealing_keys_in_use(now);
        for (id, names) in self.admins.load().sealing_keys_in_use(now) {
            hashed.entry(id).or_default().extend(names);
        }
        hashed
    }
}

/// Callers and admins.
type Both = (Callers, Callers);

/// Place in the configuration of each identity, by whose it is.
type IdentityKeys = BTreeMap<(CallerName, Identity), String>;

/// Whose tokens each way of a caller takes, with the caller.
type Taken = Vec<(CallerName, JwtMatch)>;

/// Builds all callers and admins. `None` if one of them is wrong, or if there is no keyring. Rules for apps
/// that could not be built are judged once these can.
pub(super) fn build(
    config: &Config,
    apps: &PreparedApps,
    issuers: &InstalledIssuers,
    keyring: Option<&Arc<Keyring>>,
    by: &By<'_>,
    findings: &mut Findings<'_>,
) -> Option<Both> {
    let issuers: Issuers =
        issuers.iter().map(|(name, installed)| (name.clone(), installed.issuer.clone())).collect();
    let mistakes = findings.mistakes();
    let (mut identities, mut taken) = (IdentityKeys::new(), Taken::new());
    let mut callers = Vec::new();
    for (name, caller) in &config.callers {
        let key = format!("callers.{name}");
        let rules = caller.allow.iter().enumerate();
        let rules: Vec<Rule> = rules
            .filter_map(|(at, rule)| build_rule(&format!("{key}.allow[{at}]"), rule, apps, findings))
            .collect();
        let ways = &caller.authenticate;
        let setup = setup(&key, name, ways, rules, keyring, by, (&mut identities, &mut taken), findings);
        callers.extend(setup.map(|setup| CallerSetup {
            rate_limit: caller.rate_limit,
            connection_rate_limit: caller.connection_rate_limit,
            ..setup
        }));
    }
    let callers = known(callers, &issuers, keyring, &identities, by, findings);
    let (mut identities, mut taken) = (IdentityKeys::new(), Taken::new());
    let mut admins = Vec::new();
    for (name, admin) in &config.admins {
        let key = format!("admins.{name}");
        let ways = &admin.authenticate;
        let setup = setup(&key, name, ways, Vec::new(), keyring, by, (&mut identities, &mut taken), findings);
        admins.extend(setup);
    }
    let admins = known(admins, &issuers, keyring, &identities, by, findings);
    let (callers, admins) = (callers?, admins?);
    (findings.mistakes() == mistakes).then_some((callers, admins))
}

fn known(
    setups: Vec<CallerSetup>,
    issuers: &Issuers,
    keyring: Option<&Arc<Keyring>>,
    identities: &IdentityKeys,
    by: &By<'_>,
    findings: &mut Findings<'_>,
) -> Option<Callers> {
    let secrets = by.environment.secrets();
    let errors = match Callers::new(setups, issuers, keyring?.clone(), secrets, by.ports.clock.now()) {
        Ok(callers) => return Some(callers),
        Err(errors) => errors,
    };
    for error in errors {
        match &error {
            CallersError::SameIdentity { identity, second, .. } => {
                let key = identities.get(&(second.clone(), identity.clone())).cloned();
                findings.file(&key.unwrap_or_default(), error);
            }
            CallersError::SameName { caller } | CallersError::KeyFile { caller, .. } => {
                findings.file(&format!("callers.{caller}"), error);
            }
        }
    }
    None
}

#[expect(clippy::too_many_arguments, reason = "one caller's words, and what they are read with")]
fn setup(
    key: &str,
    name: &str,
    authenticate: &[Authenticate],
    rules: Vec<Rule>,
    keyring: Option<&Arc<Keyring>>,
    by: &By<'_>,
    (identities, taken): (&mut IdentityKeys, &mut Taken),
    findings: &mut Findings<'_>,
) -> Option<CallerSetup> {
    let name = CallerName::parse(name).map_err(|error| findings.value(key, error, None)).ok()?;
    let mut setup = CallerSetup {
        policy: CallerPolicy::new(name.clone(), rules),
        identities: Vec::new(),
        api_key_files: Vec::new(),
        jwts: Vec::new(),
        client_keys: Vec::new(),
        rate_limit: None,
        connection_rate_limit: None,
    };
    for (at, way) in authenticate.iter().enumerate() {
        let key = format!("{key}.authenticate[{at}]");
        let (word, identity) = match way {
            Authenticate::Spiffe(id) => ("spiffe", Identity::Spiffe(id.clone())),
            Authenticate::San(name) => ("san", Identity::San(name.clone())),
            Authenticate::UnixUser(config::UnixUser::Id(uid)) => ("unix_user", Identity::UnixUser(*uid)),
            Authenticate::UnixUser(config::UnixUser::Name(user)) => {
                match UnixUser::resolve(user, &by.environment.passwd) {
                    Ok(UnixUser { uid }) => ("unix_user", Identity::UnixUser(uid)),
                    Err(error) => {
                        findings.file(&format!("{key}.unix_user"), error);
                        continue;
                    }
                }
            }
            Authenticate::ApiKeys(path) => {
                let key = format!("{key}.api_keys");
                match key_file::list_as(path, &by.environment.secrets()) {
                    Ok(keys) => {
                        look_at_keys(&key, &name, path, &keys, keyring, by, findings);
                        setup.api_key_files.push(path.clone());
                    }
                    Err(error) => findings.file(&key, error),
                }
                continue;
            }
            Authenticate::ClientAssertion(path) => {
                let key = format!("{key}.client_assertion.jwks_file");
                let file = path.display();
                match public_file::read(path, &by.environment.secrets()) {
                    Ok(bytes) => match client_assertion::read_keys(&bytes) {
                        Ok(keys) => setup.client_keys.extend(keys),
                        Err(why) => findings.file(
                            &key,
                            format_args!("{file} is no JWK set (RFC 7517) of a caller's keys: {why}"),
                        ),
                    },
                    Err(problem) => findings.file(&key, problem),
                }
                continue;
            }
            Authenticate::Jwt(JwtConfig { issuer, subject, claims }) => {
                let wanted =
                    JwtMatch { issuer: issuer.clone(), subject: subject.clone(), claims: claims.clone() };
                let of_another =
                    |(caller, other): &&(CallerName, JwtMatch)| *other == wanted && *caller != name;
                if let Some((first, _)) = taken.iter().find(of_another) {
                    let problem =
                        format!("the same tokens are already `{first}`; a token can be one caller only");
                    findings.value(&format!("{key}.jwt"), problem, None);
                }
                taken.push((name.clone(), wanted.clone()));
                setup.jwts.push(wanted);
                continue;
            }
        };
        identities.entry((name.clone(), identity.clone())).or_insert(format!("{key}.{word}"));
        setup.identities.push(identity);
    }
    Some(setup)
}

fn look_at_keys(
    key: &str,
    caller: &CallerName,
    path: &std::path::Path,
    keys: &[key_file::KeyInfo],
    keyring: Option<&Arc<Keyring>>,
    by: &By<'_>,
    findings: &mut Findings<'_>,
) {
    let file = path.display();
    if keys.is_empty() {
        findings.warning(
            key,
            format_args!("{file} holds no key yet: `tokenward callers add-key {caller}` makes one"),
        );
    } else if !keys.iter().any(|one| one.is_live(by.ports.clock.now())) {
        findings.warning(key, format_args!("every key in {file} has expired"));
    }
    for one in keys {
        let Some(sealing_key) = &one.sealing_key else { continue };
        if keyring.is_some_and(|ring| ring.key(sealing_key).is_none()) {
            findings.warning(
                key,
                format_args!(
                    "the key `{}` in {file} is refused: the sealing key {sealing_key} that it was made with \
                     is gone",
                    one.id
                ),
            );
        }
    }
}
