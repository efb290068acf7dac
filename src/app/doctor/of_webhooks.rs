//! The judgement of webhooks. Pure. No caller waits for one; an error here is what does not pass by itself.

use std::time::Duration;

use super::facts::WebhookFacts;
use super::finding::{Code, Report, Severity, fault};
use crate::config::Mistake;
use crate::notices::Probed;
use crate::outbound::Obstacle;
use crate::secret_file::fix::{Parted, parted};

/// A receiver that restarts fails for less.
const LONG: Duration = Duration::from_secs(600);
const GONE: u16 = 410;

pub(super) fn judge(webhook: &WebhookFacts, report: &mut Report) {
    let WebhookFacts { name, host, way_out, probed, heard } = webhook;
    let subject = format!("webhook {name}");
    let is_gone =
        matches!(probed, Probed::Answers(GONE)) || heard.as_ref().is_some_and(|heard| heard.is_gone);
    let failing = heard.as_ref().filter(|heard| heard.lasts >= LONG);
    let state = match (probed, is_gone, failing) {
        (Probed::Unreached(..), ..) => "IS NOT REACHED".to_owned(),
        (_, true, _) => "SAYS THAT IT IS GONE".to_owned(),
        (_, _, Some(heard)) => format!("TAKES NO EVENTS since {}", heard.since.rfc3339()),
        (Probed::Answers(_), ..) => format!("{host} answers, {way_out}"),
    };
    report.see("webhook", &subject, state);
    if let Probed::Unreached(obstacle, why) = probed {
        return not_reached(webhook, *obstacle, why, &subject, report);
    }
    if is_gone {
        report.find(
            (Severity::Error, Code::WebhookGone),
            &subject,
            fault::CONFIGURATION,
            "its receiver answers 410: it says that it is gone for good, and is tried once an hour",
            format!(
                "take [webhooks.{name}] out of the configuration, or set `webhooks.{name}.url` to where \
                 events are taken now"
            ),
        );
    } else if let Some(heard) = failing {
        report.find(
            (Severity::Warning, Code::WebhookFailing),
            &subject,
            fault::RECEIVER,
            format!("it has taken no event since {}: {}", heard.since.rfc3339(), heard.why),
            "see the receiver's log for what it refuses; after 401 or 403, compare its secret with \
             `secret_file`. Events are kept for three days",
        );
    }
}

fn not_reached(webhook: &WebhookFacts, obstacle: Obstacle, why: &str, subject: &str, report: &mut Report) {
    let WebhookFacts { name, host, way_out, .. } = webhook;
    let (severity, code, fault, what, fix) = match obstacle {
        Obstacle::Name => (
            Severity::Error,
            Code::WebhookUnresolved,
            fault::CONFIGURATION,
            format!("the name {host} does not resolve on this machine: {why}"),
            format!("correct the host of `webhooks.{name}.url`, or the name service of this machine"),
        ),
        Obstacle::Address => (
            Severity::Error,
            Code::WebhookNotPublic,
            fault::CONFIGURATION,
            format!("{host} leads to no public address, and nothing is sent there: {why}"),
            format!(
                "if it is in your own network, set `webhooks.{name}.allow_private = true`; addresses of \
                 cloud metadata services (169.254.0.0/16) are never allowed"
            ),
        ),
        Obstacle::Certificate => (
            Severity::Error,
            Code::WebhookCertificate,
            fault::RECEIVER,
            format!("the certificate of {host} is not trusted: {why}"),
            format!(
                "set `webhooks.{name}.ca_file` to the certificate of the authority that issued it, or have \
                 it replaced, if its names or its time are wrong"
            ),
        ),
        Obstacle::Other => (
            Severity::Warning,
            Code::WebhookUnreachable,
            fault::RECEIVER,
            format!("the receiver gives no answer: {why} ({way_out})"),
            "see whether it runs, and whether this machine may connect to it; a proxy is named in \
             `[outbound]`. Events are kept for three days"
                .to_owned(),
        ),
    };
    report.find((severity, code), subject, fault, what, fix);
}

/// Whether a key of the configuration names a file of a webhook.
pub(super) fn is_of_a_file(key: &str) -> bool {
    key.starts_with("webhooks.") && (key.ends_with(".secret_file") || key.ends_with(".ca_file"))
}

/// A file without which a webhook is left out.
pub(super) fn judge_file(warning: &Mistake, report: &mut Report) {
    let words = warning.to_string();
    let is_secret = warning.key.ends_with(".secret_file");
    let fix = if is_secret {
        "write `whsec_` and 24 to 64 random bytes in base64 to it, and the same to the receiver"
    } else {
        "write the certificates of the receiver's authority to it, in PEM"
    };
    let Parted { what, fix, is_of_access } =
        parted(&words).unwrap_or(Parted { what: &words, fix, is_of_access: false });
    let (code, fault) = match (is_of_access, is_secret) {
        (true, _) => (Code::FilePermissions, fault::FILES),
        (false, true) => (Code::WebhookSecret, fault::CONFIGURATION),
        (false, false) => (Code::WebhookCertificate, fault::CONFIGURATION),
    };
    report.find((Severity::Error, code), &warning.key, fault, what, fix);
}

#[cfg(test)]
mod tests {
    use super::super::facts::HeardOfWebhook;
    use super::*;
    use crate::domain::time::Timestamp;

    fn found(probed: Probed, heard: Option<(bool, u64)>) -> Option<(&'static str, &'static str)> {
        let heard = heard.map(|(is_gone, seconds)| HeardOfWebhook {
            is_gone,
            since: Timestamp::from_unix_seconds(1_796_040_000),
            lasts: Duration::from_secs(seconds),
            why: "it answered 503".to_owned(),
        });
        let webhook = WebhookFacts {
            name: "product".to_owned(),
            host: "hooks.example".to_owned(),
            way_out: "directly".to_owned(),
            probed,
            heard,
        };
        let mut report = Report::default();
        judge(&webhook, &mut report);
        assert!(report.findings.len() <= 1 && report.seen.len() == 1, "{report:?}");
        report.findings.first().map(|one| (one.severity.as_str(), one.code.as_str()))
    }

    #[test]
    fn what_keeps_a_webhook_from_its_events_is_told_apart() {
        let unreached = |obstacle| Probed::Unreached(obstacle, "why".to_owned());
        let error = |code| Some(("error", code));
        let rows = [
            (Probed::Answers(200), None, None),
            // Who refuses a HEAD may take events.
            (Probed::Answers(405), None, None),
            (Probed::Answers(500), None, None),
            (Probed::Answers(410), None, error("webhook_gone")),
            (Probed::Answers(405), Some((true, 5)), error("webhook_gone")),
            // One that restarts is back soon.
            (Probed::Answers(405), Some((false, 599)), None),
            (Probed::Answers(405), Some((false, 600)), Some(("warning", "webhook_failing"))),
            (unreached(Obstacle::Name), Some((false, 9999)), error("webhook_unresolved")),
            (unreached(Obstacle::Address), None, error("webhook_not_public")),
            (unreached(Obstacle::Certificate), None, error("webhook_certificate")),
            (unreached(Obstacle::Other), None, Some(("warning", "webhook_unreachable"))),
        ];
        for (at, (probed, heard, expected)) in rows.into_iter().enumerate() {
            assert_eq!(found(probed, heard), expected, "row {at}");
        }
    }
}
