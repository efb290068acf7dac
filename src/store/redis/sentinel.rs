//! Finds the primary by asking the sentinels.
//!
//! All are asked at once, each over a connection of its own that ends with its answer. A dead one costs at
//! most [`super::Sentinels::answer_timeout`], and nothing as long as more than half of all agree. If they do
//! not agree, those that know of the latest failover count. The sentinels number their failovers
//! (`config-epoch`), and one that was cut off still names the earlier primary, which may still call itself
//! one (F4). The named server is asked for its role before it is used.
//!
//! A sentinel's user needs `+sentinel|get-master-addr-by-name +sentinel|master`. A user without the second
//! works too; then the role alone decides between two answers.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use ::redis::aio::MultiplexedConnection;
use ::redis::{AsyncConnectionConfig, RedisConnectionInfo, RedisError};

use super::access::Access;
use super::asking::until_enough;
use super::config::Sentinels;
use super::failure::refusal;
use super::meter::LIMITS;
use super::tls::RedisTls;
use super::wire::dial;
use crate::domain::time::Clock;

/// A server to talk to, and the failover that made it the primary.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) host: String,
    pub(super) port: u16,
    /// 0 if no failover was counted.
    pub(super) epoch: u64,
}

impl Place {
    pub(super) fn is_same_server(&self, other: &Place) -> bool {
        (&self.host, self.port) == (&other.host, other.port)
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

/// The result of asking the sentinels.
pub(super) struct Survey {
    /// The primary; several only if sentinels that know of the same failover disagree, most named first.
    /// Never empty.
    pub(super) primaries: Vec<Place>,
    /// Whether more than half of all sentinels name the first.
    pub(super) agreed: bool,
}

/// Asks all sentinels. The error has each one's answer. An agreement of more than half is enough, unless they
/// know less than `known`, the latest known failover: just after one, most may not have learnt of it.
pub(super) async fn survey(
    access: &Access,
    sentinels: &Sentinels,
    known: u64,
    clock: &dyn Clock,
) -> Result<Survey, String> {
    let asked = sentinels.addresses.iter().map(|(host, port)| async move {
        let name = format!("sentinel {host}:{port}");
        tokio::select! {
            biased;
            answer = access.by_tls(Some(&name), |tls| {
                ask(access, sentinels, tls, &name, (host, *port))
            }) => answer,
            () = clock.sleep(sentinels.answer_timeout) => {
                Err(format!("no answer within {:?}", sentinels.answer_timeout))
            }
        }
    });
    let answers = until_enough(asked, |answers| {
        let named: Vec<&Place> = named(answers).filter(|place| place.epoch >= known).collect();
        let agree = |place: &Place| named.iter().filter(|other| place.is_same_server(other)).count();
        named.iter().any(|place| agree(place) >= sentinels.majority())
    })
    .await;
    let primaries = latest(named(&answers));
    if let Some(first) = primaries.first() {
        let votes = named(&answers).filter(|place| place.is_same_server(first)).count();
        return Ok(Survey { agreed: votes >= sentinels.majority(), primaries });
    }
    let said: Vec<String> = sentinels
        .addresses
        .iter()
        .zip(&answers)
        .filter_map(|((host, port), answer)| match answer {
            Some(Err(cause)) => Some(format!("{host}:{port}: {cause}")),
            _ => None,
        })
        .collect();
    Err(format!("no sentinel names the primary `{}`: {}", sentinels.primary, said.join("; ")))
}

fn named(answers: &[Option<Result<Place, String>>]) -> impl Iterator<Item = &Place> + Clone {
    answers.iter().flatten().flatten()
}

/// The servers named by those that know of the latest failover, each once, the most named first.
fn latest<'a>(named: impl Iterator<Item = &'a Place> + Clone) -> Vec<Place> {
    let epoch = named.clone().map(|place| place.epoch).max();
    let mut ranked: Vec<(usize, Place)> = Vec::new();
    for place in named.filter(|place| Some(place.epoch) == epoch) {
        match ranked.iter_mut().find(|(_, known)| known.is_same_server(place)) {
            Some((votes, _)) => *votes += 1,
            None => ranked.push((1, place.clone())),
        }
    }
    ranked.sort_by_key(|(votes, _)| std::cmp::Reverse(*votes)); // stable: the configured order between equals
    ranked.into_iter().map(|(_, place)| place).collect()
}

async fn ask(
    access: &Access,
    sentinels: &Sentinels,
    tls: Option<Arc<RedisTls>>,
    name: &str,
    (host, port): (&str, u16),
) -> Result<Place, String> {
    let mut wire = dial(tls.as_deref(), host, port, LIMITS).await?;
    if let Some(login) = &access.sentinel_password {
        login.say(Some(name), true, &mut *wire).await?;
    }
    let settings = AsyncConnectionConfig::new().set_response_timeout(Some(sentinels.answer_timeout));
    let info = RedisConnectionInfo::default().set_skip_set_lib_name();
    let user = sentinels.username.as_deref().unwrap_or("default");
    let words = |error: RedisError| refusal(&error, user);
    let (mut commands, driver) =
        MultiplexedConnection::new_with_config(&info, wire, settings).await.map_err(words)?;
    let conversation = async {
        let (mut where_is, mut details) = (::redis::cmd("SENTINEL"), ::redis::cmd("SENTINEL"));
        where_is.arg("GET-MASTER-ADDR-BY-NAME").arg(&sentinels.primary);
        details.arg("MASTER").arg(&sentinels.primary);
        let mut beside = commands.clone();
        let (address, details) = tokio::join!(
            where_is.query_async::<Option<(String, u16)>>(&mut commands),
            details.query_async::<HashMap<String, String>>(&mut beside)
        );
        let (host, port) =
            address.map_err(words)?.ok_or_else(|| "it knows no primary of that name".to_owned())?;
        let epoch = details.ok().and_then(|details| details.get("config-epoch")?.parse().ok());
        Ok(Place { host, port, epoch: epoch.unwrap_or(0) })
    };
    tokio::select! {
        biased;
        answer = conversation => answer,
        () = driver => Err("it hung up".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_who_know_of_the_latest_failover_count_and_then_the_most() {
        let place = |host: &str, epoch| Place { host: host.to_owned(), port: 6379, epoch };
        for (named, expected) in [
            (vec![], vec![]),
            (vec![place("a", 0)], vec!["a"]),
            (vec![place("a", 1), place("b", 2), place("a", 1)], vec!["b"]),
            (vec![place("a", 2), place("b", 2), place("b", 2)], vec!["b", "a"]),
            (vec![place("a", 0), place("b", 0)], vec!["a", "b"]),
            (vec![place("a", 3), place("a", 2)], vec!["a"]),
        ] {
            let found: Vec<String> = latest(named.iter()).into_iter().map(|place| place.host).collect();
            assert_eq!(found, expected, "{named:?}");
        }
    }
}
