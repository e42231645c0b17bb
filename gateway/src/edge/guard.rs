//! What a call meets at the edge, in order, and what one that is refused is told.
//!
//! Lives here: the order, refusals whatever the protocol. Does not: what a kind does (`edge::authentication`, `edge::rate_limit`), a refusal's shape on
//! the wire (`protocol`), preflights of browsers, which come before any of this (`edge::cors`).
//! The size of the head, authentication, rules about claims, rate limits, then rules about headers: a limit can count by caller, and who may not call takes
//! nothing from who may.

use std::{sync::Arc, time::Duration};

use http::{HeaderMap, HeaderValue, StatusCode, header};
use weft_model::PolicyName;
use weft_traffic::Code;

use crate::edge::{authentication::Client, call::Call, policies::EdgePlan};

/// Why a call does not become one of the mesh.
#[derive(Debug)]
pub(crate) struct Refusal {
    pub(crate) code: Code,
    /// Names policy and rule, for people.
    pub(crate) message: String,
    /// As the access log names it; none where nobody refused, as when an issuer's keys are out of reach.
    pub(crate) by: Option<By>,
    /// What HTTP has another status for than that of the code.
    http: Option<StatusCode>,
    /// `WWW-Authenticate` or `Retry-After`.
    told: Option<Told>,
}

/// Policy and rule that refused a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct By {
    pub(crate) policy: PolicyName,
    pub(crate) rule: Arc<str>,
}

#[derive(Debug)]
enum Told {
    Challenge(HeaderValue),
    RetryAfter(Duration),
}

impl Refusal {
    /// Who calls is not known.
    pub(crate) fn unauthenticated(by: By, why: &str, challenge: HeaderValue) -> Self {
        let message = format!("{why}: policy {}, rule {}", by.policy, by.rule);
        Self { code: Code::Unauthenticated, message, by: Some(by), http: None, told: Some(Told::Challenge(challenge)) }
    }

    /// Who calls is known, and may not.
    pub(crate) fn forbidden(by: By, who: &str) -> Self {
        let message = format!("{who} may not call this: policy {}, rule {}", by.policy, by.rule);
        Self { code: Code::PermissionDenied, message, by: Some(by), http: None, told: None }
    }

    /// Too many calls.
    pub(crate) fn limited(by: By, wait: Duration) -> Self {
        let message = format!("too many calls: policy {}, rule {}", by.policy, by.rule);
        Self { code: Code::ResourceExhausted, message, by: Some(by), http: None, told: Some(Told::RetryAfter(wait)) }
    }

    /// It cannot be found out who calls.
    pub(crate) fn unavailable(message: String) -> Self {
        Self { code: Code::Unavailable, message, by: None, http: None, told: None }
    }

    /// What a call brings is too large.
    pub(crate) fn too_large(by: By, http: StatusCode, what: &str) -> Self {
        let message = format!("{what}: policy {}, rule {}", by.policy, by.rule);
        Self { code: Code::ResourceExhausted, message, by: Some(by), http: Some(http), told: None }
    }

    /// The status of a REST answer, if it is not that of the code.
    pub(crate) fn http(&self) -> Option<StatusCode> {
        self.http
    }

    /// Writes what HTTP has headers for.
    pub(crate) fn write(&self, headers: &mut HeaderMap) {
        match &self.told {
            Some(Told::Challenge(challenge)) => drop(headers.insert(header::WWW_AUTHENTICATE, challenge.clone())),
            Some(Told::RetryAfter(wait)) => {
                let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
                headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds.max(1)));
            }
            None => {}
        }
    }
}

/// Lets a call pass or refuses it; notes in the call what its answer says to browsers, and who refused it. Takes from the head what is meant for the
/// gateway, and writes what the service is to know. One that passes may make kept answers untrue when it ends. Returns who calls, as far as that was found out.
pub(crate) async fn admit(
    edge: Option<&Arc<EdgePlan>>,
    headers: &mut HeaderMap,
    call: &mut Call,
) -> Result<Client, Refusal> {
    let Some(edge) = edge else { return Ok(Client::Nobody) };
    call.cors = edge.cors.as_ref().map(|it| it.grant(headers));
    call.headers = edge.headers.clone();
    let admitted = pass(edge, headers, call).await;
    match &admitted {
        Ok(_) => call.may_write(edge.writes.clone()),
        Err(refusal) => call.refused.clone_from(&refusal.by),
    }
    admitted
}

async fn pass(edge: &EdgePlan, headers: &mut HeaderMap, call: &Call) -> Result<Client, Refusal> {
    if let Some(limits) = &edge.limits_of_size {
        limits.check_head(call.uri(), headers)?;
    }
    let client = match &edge.caller {
        Some(caller) => caller.admit(headers, call.peer.as_deref()).await?,
        None => Client::Nobody,
    };
    for limit in &edge.limits {
        limit.take(&client, call.caller).await?;
    }
    if let Some(rules) = &edge.headers {
        rules.ask(headers);
    }
    Ok(client)
}
