//! The receiver of a webhook: where it is, which notices it wants, and one request to it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, RETRY_AFTER, USER_AGENT};
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Empty, Full, Limited};
use parking_lot::Mutex;

use super::plan::Tried;
use super::signature::Secrets;
use super::wire::body;
use crate::domain::id::AppName;
use crate::domain::notice::Notice;
use crate::domain::time::{Clock, Timestamp};
use crate::outbound::{Obstacle, Resource, Settings, Silence, retry_after};

/// The longest exchange, from name resolution to the end of the answer.
const TIMEOUT: Duration = Duration::from_secs(15);
/// As much of an answer is read, so that its connection can be used again.
const ANSWER: usize = 16 * 1024;
/// How long it may be silent if it is only asked.
const PROBE: Duration = Duration::from_secs(10);
const AGENT: &str = concat!("tokenward/", env!("CARGO_PKG_VERSION"));
/// How long an earlier secret signs beside the one in its place.
const BEFORE: Duration = Duration::from_secs(24 * 3600);

/// Why an address cannot be a webhook's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EndpointFault {
    /// It leads into the network around this process.
    #[error(
        "is an address that is private, local or reserved: `allow_private = true` allows your own network"
    )]
    NotPublic,
}

/// Where a webhook's requests go.
pub struct Endpoint {
    url: String,
    way: Resource,
}

impl Endpoint {
    /// Makes the way to a URL. Nothing is sent yet.
    ///
    /// # Errors
    /// Its host is written as an address that is not allowed.
    pub fn new(url: String, settings: Settings, clock: Arc<dyn Clock>) -> Result<Self, EndpointFault> {
        if !settings.leads.allows_literal(&settings.host) {
            return Err(EndpointFault::NotPublic);
        }
        Ok(Endpoint { url, way: Resource::new(settings, clock) })
    }
}

/// Where the notices of a webhook go, and what signs them.
pub struct Target {
    /// The receiver.
    pub endpoint: Endpoint,
    /// What signs.
    pub secrets: Secrets,
}

/// A configured webhook.
pub struct Webhook {
    name: String,
    /// `None` while its files are wrong: its notices wait.
    target: Option<Target>,
    wants: Wants,
    /// When it was read.
    since: Timestamp,
    /// What signed before, and until when it still does.
    before: Mutex<Option<(Secrets, Timestamp)>>,
}

/// Which notices a webhook wants; `None` is all.
#[derive(Clone, Default)]
pub struct Wants {
    /// Of these apps.
    pub apps: Option<BTreeSet<AppName>>,
    /// Of these types.
    pub kinds: Option<BTreeSet<String>>,
}

/// What became of a request to a webhook.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The notice is delivered.
    Delivered,
    /// The endpoint answered 3xx or 4xx.
    Refused,
    /// It answered anything else.
    Failed,
    /// It did not answer.
    Unreachable,
}

impl Outcome {
    /// All of them.
    pub const ALL: [Outcome; 4] =
        [Outcome::Delivered, Outcome::Refused, Outcome::Failed, Outcome::Unreachable];

    /// The word in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Outcome::Delivered => "delivered",
            Outcome::Refused => "refused",
            Outcome::Failed => "failed",
            Outcome::Unreachable => "unreachable",
        }
    }
}

/// What an endpoint does that is asked without a notice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Probed {
    /// It answers with this status.
    Answers(u16),
    /// It does not answer. The text is for people.
    Unreached(Obstacle, String),
}

/// What became of one request, in words for metrics and for the log.
pub(super) struct Answered {
    pub(super) tried: Tried,
    pub(super) outcome: Outcome,
    pub(super) why: String,
}

impl Webhook {
    /// A webhook that was read at `since`. Without a target it is left out, and its notices wait.
    pub fn new(name: String, target: Option<Target>, wants: Wants, since: Timestamp) -> Self {
        Webhook { name, target, wants, since, before: Mutex::default() }
    }

    /// Whether nothing can be sent to it, because its files are wrong.
    pub fn is_left_out(&self) -> bool {
        self.target.is_none()
    }

    /// When it was read: if it is new, it begins then.
    pub(super) fn since(&self) -> Timestamp {
        self.since
    }

    /// Its name in the configuration.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Takes the place of the same webhook from before a reload: its secrets still sign for a while.
    pub fn succeed(&self, before: &Webhook, now: Timestamp) {
        let mut kept = before.before.lock().clone();
        if let Some(Target { secrets, .. }) = &before.target
            && self.target.as_ref().is_none_or(|target| target.secrets != *secrets)
        {
            tracing::info!(
                webhook = self.name,
                "the secret of a webhook is replaced; the one before signs beside it for a day"
            );
            kept = Some((secrets.clone(), now.plus(BEFORE)));
        }
        *self.before.lock() = kept;
    }

    pub(super) fn wants(&self, notice: &Notice) -> bool {
        let Wants { apps, kinds } = &self.wants;
        apps.as_ref().is_none_or(|apps| apps.contains(&notice.app))
            && kinds.as_ref().is_none_or(|kinds| kinds.contains(notice.kind.as_ref()))
    }

    /// Asks the endpoint without a notice, by the way that these have: by HEAD, which changes nothing. What
    /// it answers says little, but that there is an answer says much. `None` if it is left out.
    pub async fn probe(&self, clock: &Arc<dyn Clock>) -> Option<Probed> {
        let Target { endpoint, .. } = self.target.as_ref()?;
        let request = Request::builder()
            .method(Method::HEAD)
            .uri(&endpoint.url)
            .header(USER_AGENT, AGENT)
            .body(Empty::new().map_err(Into::into).boxed_unsync())
            .expect("the URL was checked, and the fields are plain");
        let silence = Silence::new(PROBE, Arc::clone(clock));
        Some(match endpoint.way.probe(request, &silence).await {
            Ok(status) => Probed::Answers(status.as_u16()),
            Err((obstacle, fault)) => Probed::Unreached(obstacle, fault.to_string()),
        })
    }

    /// Sends a notice once. `None` if it is left out.
    pub(super) async fn deliver(&self, notice: &Notice, clock: &Arc<dyn Clock>) -> Option<Answered> {
        let Target { endpoint, secrets } = self.target.as_ref()?;
        let now = clock.now();
        let before = self.before.lock().clone().filter(|(_, until)| now < *until);
        let secrets = match &before {
            Some((before, _)) => secrets.and_before(before),
            None => secrets.clone(),
        };
        let body = body(notice);
        let seconds = now.unix_seconds();
        let signature = secrets.sign(&notice.id, seconds, &body);
        let request = Request::builder()
            .method(Method::POST)
            .uri(&endpoint.url)
            .header(CONTENT_TYPE, "application/json")
            .header(USER_AGENT, AGENT)
            .header("webhook-id", &notice.id)
            .header("webhook-timestamp", seconds)
            .header("webhook-signature", signature)
            .body(Full::new(Bytes::from(body)).map_err(Into::into).boxed_unsync());
        let request = request.expect("the URL was checked, and the fields are plain");
        let silence = Silence::new(TIMEOUT, Arc::clone(clock));
        let exchange = async {
            let answer = endpoint.way.send(request, &silence).await?;
            let (head, body) = answer.into_parts();
            // (What it says is of no use.)
            let _read = Limited::new(body, ANSWER).collect().await;
            Ok::<_, crate::outbound::ResourceFault>(head)
        };
        let answered = tokio::select! {
            biased;
            answered = exchange => answered,
            () = clock.sleep(TIMEOUT) => Err(silence.fault()),
        };
        Some(match answered {
            Ok(head) => {
                let after = head.headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok());
                judge(head.status, after.and_then(|value| retry_after(value, clock.now())))
            }
            Err(fault) => {
                Answered { tried: Tried::Failed(None), outcome: Outcome::Unreachable, why: fault.to_string() }
            }
        })
    }
}

/// Judges an answer. Only 2xx takes a notice; a redirect is not followed.
fn judge(status: StatusCode, after: Option<Duration>) -> Answered {
    let (tried, outcome) = match status {
        status if status.is_success() => (Tried::Taken, Outcome::Delivered),
        StatusCode::GONE => (Tried::Gone, Outcome::Refused),
        status if status.is_redirection() || status.is_client_error() => {
            (Tried::Failed(after), Outcome::Refused)
        }
        _ => (Tried::Failed(after), Outcome::Failed),
    };
    Answered { tried, outcome, why: format!("it answered {}", status.as_u16()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_success_takes_a_notice() {
        let after = Some(Duration::from_secs(7));
        for (status, tried, outcome) in [
            (200, Tried::Taken, Outcome::Delivered),
            (204, Tried::Taken, Outcome::Delivered),
            (301, Tried::Failed(after), Outcome::Refused),
            (307, Tried::Failed(after), Outcome::Refused),
            (400, Tried::Failed(after), Outcome::Refused),
            (401, Tried::Failed(after), Outcome::Refused),
            (410, Tried::Gone, Outcome::Refused),
            (429, Tried::Failed(after), Outcome::Refused),
            (500, Tried::Failed(after), Outcome::Failed),
            (503, Tried::Failed(after), Outcome::Failed),
        ] {
            let answered = judge(StatusCode::from_u16(status).expect("a status"), after);
            assert_eq!((answered.tried, answered.outcome), (tried, outcome), "{status}");
        }
    }
}
