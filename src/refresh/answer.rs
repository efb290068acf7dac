//! Applies an answer of the authority to a connection. Pure.

use std::time::Duration;

use super::due;
use super::kept::{drop_oldest, is_in_place_of};
use super::plan::Want;
use super::uti::unverified_uti;
use crate::authority::TokenAnswer;
use crate::domain::connection::{Attempt, Status};
use crate::domain::digest::sha256_hex;
use crate::domain::grant::Grant;
use crate::domain::scope::{ScopeNaming, ScopeSet};
use crate::domain::secret::RefreshToken;
use crate::domain::time::Timestamp;
use crate::domain::token::{Freshness, HeldToken, nobody};
use crate::repository::{Connection, Unstored};

/// The connection after the grant worked. `attempts`: failed tries before, which are stored with it.
pub(super) fn renewed(
    naming: &ScopeNaming,
    before: &Connection,
    want: &Want,
    attempts: Vec<Attempt>,
    answer: TokenAnswer,
    now: Timestamp,
) -> Connection {
    let granted =
        granted_after(naming, before.profile.scopes_granted(), want.resource.as_deref(), &answer.scopes);
    let profile = before.profile.clone().remembering(attempts);
    let profile = profile.refreshed(Some(granted), &answer.remarks, now);
    let profile = profile.stating(answer.refresh_token_ends_at);
    let mut token = held_token(answer, want.resource.clone());
    if let Some(claims) = &want.claims {
        token.answers_claims = Some(claims.digest().to_owned());
        // Scopes beyond those of a plain refresh are of no use to others, or too much.
        let is_everybodys = claims.is_met_by_any_new_token(now);
        token.got_for = (!is_everybodys).then(|| want.by.clone().unwrap_or_else(nobody));
    }
    let mut tokens: Vec<HeldToken> = before
        .tokens
        .iter()
        .filter(|held| !is_in_place_of(&token, held) && held.expires_at > now)
        .cloned()
        .collect();
    tokens.push(token);
    drop_oldest(&mut tokens);
    Connection { revision: before.revision, profile, tokens }
}

/// An answer's access token, as a connection keeps it.
pub(crate) fn held_token(answer: TokenAnswer, resource: Option<String>) -> HeldToken {
    let digest = sha256_hex(answer.access_token.expose().as_bytes());
    // Any number that differs from token to token will do to spread renewals.
    let jitter = f64::from(u8::from_str_radix(&digest[..2], 16).unwrap_or(128)) / 255.0;
    let refresh_at = match answer.refresh_in {
        Some(after) => answer.requested_at.plus(after),
        None => due::renew_at(answer.requested_at, answer.expires_in, jitter),
    };
    HeldToken {
        digest,
        uti: unverified_uti(&answer.access_token),
        issued_at: answer.requested_at,
        expires_at: answer.requested_at.plus(answer.expires_in),
        refresh_at: Some(refresh_at),
        scopes: answer.scopes,
        resource,
        answers_claims: None,
        got_for: None,
        cae: answer.cae,
        access_token: answer.access_token,
    }
}

/// The granted scopes after an answer. At Entra an answer speaks of one resource and lists all that is
/// consented for it; elsewhere an answer may narrow what was granted, never widen it (RFC 6749 §6).
pub(crate) fn granted_after(
    naming: &ScopeNaming,
    before: &[String],
    resource: Option<&str>,
    answered: &[String],
) -> Vec<String> {
    let words = |words: &[String]| naming.scopes_lossy(words.iter().map(String::as_str));
    let (before, answered) = (words(before), words(answered));
    let after: ScopeSet = match naming {
        ScopeNaming::Entra { .. } => before
            .iter()
            .filter(|scope| scope.resource() != resource)
            .chain(answered.iter())
            .cloned()
            .collect(),
        ScopeNaming::Plain => answered.iter().filter(|scope| before.contains(scope)).cloned().collect(),
    };
    after.to_words()
}

/// The scopes that a refresh asks for: those granted for the wanted resource, with the sign-in's own scopes
/// where the authority does not list them among the granted ones (Entra leaves out `offline_access`).
pub(super) fn scopes_to_ask(naming: &ScopeNaming, connection: &Connection, want: &Want) -> ScopeSet {
    let words = |words: &[String]| naming.scopes_lossy(words.iter().map(String::as_str));
    let mut scopes = words(connection.profile.scopes_granted()).of_resource(want.resource.as_deref());
    if matches!(naming, ScopeNaming::Entra { .. }) {
        for scope in words(connection.profile.scopes_requested()).iter().filter(|scope| scope.is_openid()) {
            scopes.insert(scope.clone());
        }
    }
    scopes
}

/// Whether a token of the connection lives that every caller may have.
pub(super) fn has_live_token(connection: &Connection, now: Timestamp) -> bool {
    let mut tokens = connection.tokens.iter().filter(|token| token.got_for.is_none());
    tokens.any(|token| token.freshness(now, Duration::ZERO) != Freshness::Expired)
}

/// The place of an unstored answer, if the connection changed during the call to the authority.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// On top of the stored state.
    OnTop,
    /// Nowhere: the store has this very grant, with another change on top. That is no promise that it lasts,
    /// so the stored state is stored once more.
    There,
    /// Nowhere: the stored state counts, and the answer is dropped.
    Nowhere,
}

/// Where the answer `ours` goes if the store has `stored`, with this grant.
///
/// On top of the stored state
/// - if that still has the grant that was used, and only a verdict or an operator's act came between: the
///   answer proves the
///   verdict wrong;
/// - if that has an earlier grant: the store has lost what was used, and the answer is the way back to it.
///
/// Otherwise (connected anew, renewed by another replica) the stored state wins.
pub(super) fn place(stored: &Connection, grant: Option<&Grant>, ours: &Unstored) -> Place {
    let has = |token: &RefreshToken| grant.is_some_and(|grant| grant.current == *token);
    let is_rotated = ours.grant.current != ours.used;
    if is_rotated && has(&ours.grant.current) {
        return Place::There;
    }
    let (theirs, ours_is) = (stored.grant_place(), ours.connection.grant_place());
    let used = ours_is.before();
    // An answer without a new refresh token is worth nothing beside a later stored answer.
    let is_nothing_new = !is_rotated && !theirs.is_before(&ours_is);
    // A verdict that destroyed the grant leaves only its place to compare.
    let is_destroyed = stored.profile.grant_destroyed() && theirs == used;
    let has_used = has(&ours.used) || is_destroyed;
    if theirs.is_before(&used) || (has_used && !is_nothing_new) { Place::OnTop } else { Place::Nowhere }
}

/// The connection of an answer that goes on top of `theirs`.
pub(super) fn on_top(mut ours: Connection, theirs: Connection) -> Connection {
    let succeeds = theirs.grant_place().is_before(&ours.grant_place());
    ours.tokens = newest_of_each(&theirs.tokens, std::mem::take(&mut ours.tokens), succeeds);
    if theirs.profile.sign_in() == ours.profile.sign_in() {
        // Theirs may be an answer without a new refresh token, which ours did not know.
        ours.profile = ours.profile.worked_after(theirs.profile.renewals());
    }
    if theirs.profile.status() == Status::Paused {
        // An answer does not undo an operator's act in between.
        ours.profile = ours.profile.paused();
    }
    ours.profile = ours.profile.ending_handles(theirs.profile.handles_over());
    ours
}

/// The tokens of an answer that goes on top of `theirs`: of each kind the one that lives longer. The answer's
/// own token, the last of `ours`, wins in any case if the answer `succeeds` theirs. (Each replica counts
/// lives by its own clock.)
fn newest_of_each(theirs: &[HeldToken], ours: Vec<HeldToken>, succeeds: bool) -> Vec<HeldToken> {
    let own = ours.last().filter(|_| succeeds).cloned();
    let is_own = |token: &HeldToken| own.as_ref().is_some_and(|own| is_in_place_of(own, token));
    let mut tokens: Vec<HeldToken> = theirs.to_vec();
    for token in ours {
        let is_own = is_own(&token);
        match tokens.iter_mut().find(|other| is_in_place_of(&token, other)) {
            Some(other) if is_own || other.expires_at < token.expires_at => *other = token,
            Some(_) => {}
            None => tokens.push(token),
        }
    }
    // It stays the last, since the answer may go on top of another state once more.
    if let Some(at) = tokens.iter().position(is_own) {
        let own = tokens.remove(at);
        tokens.push(own);
    }
    drop_oldest(&mut tokens);
    tokens
}

#[cfg(test)]
mod tests;
