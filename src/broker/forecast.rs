//! Who will have to sign in again: walks over connections that bring what is known to
//! [`crate::domain::forecast`], which decides.
//!
//! An operator's question is answered by pages: each reads for a moment, and takes a place among operators'
//! walks. What the slow walk over everything (`app/stock.rs`) foresees on its way is kept, bounded, for
//! metrics and the console: so nothing is read for them alone.

use std::collections::BTreeMap;
use std::time::Duration;

use super::inspect::{PAGE, READ_FOR, WalkedPage};
use super::search::{Search, Walker};
use super::{App, Broker, Refusal};
use crate::authority::CredentialReport;
use crate::domain::connection::{Glimpse, Profile, Status};
use crate::domain::forecast::{
    ANNOUNCED, Announced, Certainty, Frequencies, IdleLife, Known, Reason, Row, Rows, Summary, Window,
    of_connection,
};
use crate::domain::id::{AppName, ConnectionKey, ConnectionName};
use crate::domain::scope::ScopeNaming;
use crate::domain::time::Timestamp;
use crate::policy::Lookup;
use crate::repository::{FiledUnder, Kind, RepositoryError};

/// How long Entra lets a refresh token live that is not used (refresh-tokens, configurable-token-lifetimes).
const ENTRA_IDLE_LIFE: Duration = Duration::from_secs(90 * 86_400);
/// How far the kept summary looks ahead.
const SUMMARY_AHEAD: Duration = Duration::from_secs(7 * 86_400);
/// Rows that a walk over everything collects, and those of them that are kept.
const MOST_WALKED: usize = 20_000;
const MOST_KEPT: usize = 100;
/// How long the summary is kept.
const KEPT: Duration = Duration::from_secs(30 * 86_400);

/// An operator's question.
#[derive(Debug, Clone)]
pub struct ForecastRequest {
    /// This app alone.
    pub app: Option<AppName>,
    /// This tenant alone.
    pub tenant: Option<String>,
    /// How far to look ahead.
    pub ahead: Duration,
    /// Where the page before ended: the app, and the name unless the app begins.
    pub after: Option<(AppName, Option<ConnectionName>)>,
}

/// A part of the answer.
#[derive(Debug)]
pub struct ForecastPage {
    /// From when to when.
    pub window: Window,
    /// What is foreseen of the connections that this page read. The same row may come with several pages.
    pub rows: Vec<Row>,
    /// How many connections were read.
    pub read: usize,
    /// Where the next page begins; `None` on the last.
    pub next: Option<(AppName, Option<ConnectionName>)>,
}

/// What is foreseen on the way of a walk over everything.
pub struct Foreseeing {
    rows: Rows,
    /// Of the app that the walk is at.
    frequencies: Option<(AppName, Frequencies)>,
}

impl Default for Foreseeing {
    fn default() -> Self {
        Foreseeing { rows: Rows::at_most(MOST_WALKED), frequencies: None }
    }
}

impl Broker {
    /// Answers a part of an operator's question. It begins no read after [`READ_FOR`].
    ///
    /// # Errors
    /// Too many walks of operators are under way, among others.
    pub async fn forecast(&self, request: &ForecastRequest) -> Result<ForecastPage, Refusal> {
        if let Some(app) = &request.app {
            self.app(app)?;
        }
        let _place = self.before_long(self.walks.permit(&Walker::Operators)).await?;
        let now = self.deps.clock.now();
        let window = Window { now, until: now.plus(request.ahead) };
        let at_latest = self.deps.clock.monotonic().saturating_add(READ_FOR);
        let mut rows = Rows::new();
        if request.after.is_none() && request.tenant.is_none() {
            self.foresee_credentials(request.app.as_ref(), window)
                .into_iter()
                .for_each(|row| rows.insert(row));
        }
        let apps = self.apps();
        let (first, mut after) = request.after.clone().map_or((None, None), |(app, name)| (Some(app), name));
        let is_asked = |app: &AppName| {
            request.app.as_ref().is_none_or(|only| only == app)
                && first.as_ref().is_none_or(|first| app >= first)
        };
        let (mut read, mut is_first) = (0, true);
        for (name, app) in apps.iter().filter(|(app, _)| is_asked(app)) {
            // (The app where the page before ended may be gone.)
            let after = after.take().filter(|_| first.as_ref() == Some(name));
            if !std::mem::take(&mut is_first) && self.deps.clock.monotonic() >= at_latest {
                return Ok(ForecastPage {
                    window,
                    rows: rows.into_rows(),
                    read,
                    next: Some((name.clone(), None)),
                });
            }
            let frequencies = self.frequencies(name).await?;
            let mut search = Search::new(name.clone(), vec![Lookup::EVERYTHING], after);
            let is_wanted = |_: &ConnectionKey, seen: &Glimpse<'_>| {
                !matches!(seen.status(), Status::NeedsReauthorization(_))
                    && request
                        .tenant
                        .as_deref()
                        .is_none_or(|tenant| seen.tid().is_some_and(|tid| tid.eq_ignore_ascii_case(tenant)))
            };
            let before = read;
            while let Some(found) = search.next(&self.deps.repository, PAGE, Some(&is_wanted)).await? {
                for (connection, profile) in &found {
                    self.foresee(name, app, connection, profile, &frequencies, window, &mut rows);
                }
                read = before + search.read();
                if let Some(position) = search.position()
                    && self.deps.clock.monotonic() >= at_latest
                {
                    let next = Some((name.clone(), Some(position.clone())));
                    return Ok(ForecastPage { window, rows: rows.into_rows(), read, next });
                }
            }
        }
        Ok(ForecastPage { window, rows: rows.into_rows(), read, next: None })
    }

    /// Makes the cursor of a page. The name is sealed, as in lists; the app's is no secret to operators.
    pub fn forecast_cursor(&self, (app, name): &(AppName, Option<ConnectionName>)) -> String {
        match name {
            Some(name) => format!("{app}.{}", self.cursor(app, name)),
            None => app.to_string(),
        }
    }

    /// Reads such a cursor.
    pub fn read_forecast_cursor(&self, cursor: &str) -> Result<(AppName, Option<ConnectionName>), Refusal> {
        let (app, sealed) = cursor.split_once('.').map_or((cursor, None), |(app, name)| (app, Some(name)));
        let unknown = || Refusal::invalid("cursor", "is not one that was given for this list");
        let app = AppName::parse(app).map_err(|_| unknown())?;
        let name = sealed.map(|sealed| self.read_cursor(&app, sealed)).transpose()?;
        Ok((app, name))
    }

    /// Adds what is foreseen of a page of a walk over everything.
    pub async fn foresee_page(&self, page: &WalkedPage, foreseeing: &mut Foreseeing) {
        let (name, now) = (page.app(), self.deps.clock.now());
        let Ok(app) = self.app(name) else { return };
        if foreseeing.frequencies.as_ref().is_none_or(|(of, _)| of != name) {
            // Without them the rest is foreseen.
            let frequencies = self.frequencies(name).await.unwrap_or_default();
            foreseeing.frequencies = Some((name.clone(), frequencies));
        }
        let Some((_, frequencies)) = &foreseeing.frequencies else { return };
        let window = Window { now, until: now.plus(SUMMARY_AHEAD) };
        for (key, profile) in page.connections() {
            let rows = &mut foreseeing.rows;
            self.foresee(name, &app, &key.connection, profile, frequencies, window, rows);
        }
    }

    /// The walk is over: keeps what it foresaw, and returns it.
    pub async fn keep_forecast(&self, foreseeing: Foreseeing) -> Result<Summary, RepositoryError> {
        let now = self.deps.clock.now();
        let mut rows = foreseeing.rows;
        let window = Window { now, until: now.plus(SUMMARY_AHEAD) };
        self.foresee_credentials(None, window).into_iter().for_each(|row| rows.insert(row));
        let summary = rows.summary(now, MOST_KEPT);
        let only = FiledUnder::only();
        self.deps.repository.put_pending(Kind::Forecast, &only, &summary, now, KEPT).await?;
        Ok(summary)
    }

    /// What the last walk over everything foresaw, of whichever replica; `None` before the first one's end.
    pub async fn kept_forecast(&self) -> Result<Option<Summary>, RepositoryError> {
        let read = self.deps.repository.pending(Kind::Forecast, &FiledUnder::only()).await?;
        Ok(read.map(|read| read.value))
    }

    #[expect(clippy::too_many_arguments, reason = "a connection, what is known, and where it goes")]
    fn foresee(
        &self,
        name: &AppName,
        app: &App,
        connection: &ConnectionName,
        profile: &Profile,
        frequencies: &Frequencies,
        window: Window,
        rows: &mut Rows,
    ) {
        let tenant = profile.account().tid.as_deref();
        let limit = self.deps.engine.seen_idle_limit(name, tenant.unwrap_or_default());
        let is_entra = matches!(app.naming(), ScopeNaming::Entra { .. });
        let known = Known {
            idle_life: idle_life(is_entra, limit),
            renewals: self.deps.engine.renewals(limit),
            frequency: frequencies.of(tenant.unwrap_or_default()),
            announced: announced(is_entra),
        };
        for foreseen in of_connection(profile, &known, window) {
            rows.add(name, tenant, connection, foreseen);
        }
    }

    /// Apps whose last client credential ends.
    fn foresee_credentials(&self, only: Option<&AppName>, window: Window) -> Vec<Row> {
        let mut credentials: BTreeMap<AppName, Vec<CredentialReport>> = self.client_credentials();
        credentials.retain(|app, _| only.is_none_or(|only| only == app));
        let row = |(app, reports): (AppName, Vec<CredentialReport>)| {
            let (label, at) = last_end(&reports)?;
            (at < window.until).then(|| Row {
                app: app.to_string(),
                tenant: None,
                reason: Reason::CredentialEnds,
                certainty: Certainty::Certain,
                from: at,
                to: at,
                connections: 0,
                examples: Vec::new(),
                detail: Some(label.to_owned()),
            })
        };
        credentials.into_iter().filter_map(row).collect()
    }
}

/// The credential of an app that ends last, and when; `None` if one has no known end.
fn last_end(reports: &[CredentialReport]) -> Option<(&str, Timestamp)> {
    let works = |one: &&CredentialReport| !one.standing.is_retired && one.standing.rejection.is_none();
    let ends: Option<Vec<(Timestamp, &str)>> = reports
        .iter()
        .filter(works)
        // An assertion is renewed by somebody else.
        .map(|one| Some((one.standing.expires_at.filter(|_| one.kind != "federated")?, one.label.as_str())))
        .collect();
    ends?.into_iter().max().map(|(at, label)| (label, at))
}

fn idle_life(is_entra: bool, seen: Option<Duration>) -> Option<IdleLife> {
    let documented = is_entra.then_some(IdleLife { lasts: ENTRA_IDLE_LIFE, certainty: Certainty::Likely });
    let seen = seen.map(|lasts| IdleLife { lasts, certainty: Certainty::Possible });
    seen.or(documented)
}

fn announced(is_entra: bool) -> &'static [Announced] {
    if is_entra { ANNOUNCED } else { &[] }
}
