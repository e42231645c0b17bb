//! weft.policy.v1 over gRPC: an operator's word about policies.
//!
//! Lives here: parsing, who may, what is logged of a change. Does not: what a change comes to (`policy`), versions (`catalog`).
//! A registry that speaks plaintext knows no operators and asks for none, wherever it listens: `access`.

use tonic::{Request, Response, Status};
use weft_model::{Invalid, Policy, PolicyName, ServiceName, Version};
use weft_proto::weft::policy::v1::{self as pb, apply_response, policies_server};

use crate::{
    ca,
    catalog::Catalog,
    policy::{Applied, Outcome},
    sources::status,
};

/// The service.
#[derive(Debug, Clone)]
pub(crate) struct Policies {
    pub(crate) catalog: Catalog,
    /// Who knows an operator; none: plaintext.
    pub(crate) operators: Option<ca::grpc::Identity>,
}

#[tonic::async_trait]
impl policies_server::Policies for Policies {
    async fn apply(&self, request: Request<pb::ApplyRequest>) -> Result<Response<pb::ApplyResponse>, Status> {
        self.operator(&request)?;
        let request = request.into_inner();
        let policies = request.policies.into_iter().enumerate().map(parse).collect::<Result<Vec<_>, _>>();
        let policies = policies.map_err(|e| status::invalid(&e))?;
        let expected = expected(request.expected_version);
        if request.dry_run {
            let now = &self.catalog.published().policies;
            let (_, would) = now.apply(&policies, expected, Version::default()).map_err(|e| status::change(&e))?;
            let applied = would.into_iter().map(to_wire).collect();
            return Ok(Response::new(pb::ApplyResponse { version: now.version().0, applied }));
        }
        let done = self.catalog.apply_policies(policies, expected).await.map_err(|e| status::change(&e))?;
        for it in done.policies.iter().filter(|it| it.outcome != Outcome::Unchanged) {
            tracing::info!(policy = %it.name, outcome = ?it.outcome, version = %it.version, "policy applied");
        }
        let applied = done.policies.into_iter().map(to_wire).collect();
        Ok(Response::new(pb::ApplyResponse { version: self.version().0, applied }))
    }

    async fn get(&self, request: Request<pb::GetRequest>) -> Result<Response<pb::GetResponse>, Status> {
        self.operator(&request)?;
        let name = name(&request.get_ref().name)?;
        let published = self.catalog.published();
        let policy = published.policies.get(&name);
        let policy = policy.ok_or_else(|| Status::not_found(format!("there is no policy {name}")))?;
        Ok(Response::new(pb::GetResponse { policy: Some(policy.as_ref().into()) }))
    }

    async fn list(&self, request: Request<pb::ListRequest>) -> Result<Response<pb::ListResponse>, Status> {
        self.operator(&request)?;
        let of = match request.get_ref().service.as_str() {
            "" => None,
            text => Some(text.parse::<ServiceName>().map_err(|e| status::invalid(&e.within("service")))?),
        };
        let published = self.catalog.published();
        let wanted = published.policies.all().filter(|it| of.as_ref().is_none_or(|of| it.service == *of));
        let policies = wanted.map(|it| it.as_ref().into()).collect();
        Ok(Response::new(pb::ListResponse { version: published.policies.version().0, policies }))
    }

    async fn delete(&self, request: Request<pb::DeleteRequest>) -> Result<Response<pb::DeleteResponse>, Status> {
        self.operator(&request)?;
        let request = request.into_inner();
        let name = name(&request.name)?;
        let expected = expected(request.expected_version);
        self.catalog.delete_policy(name.clone(), expected).await.map_err(|e| status::change(&e))?;
        tracing::info!(policy = %name, "policy deleted");
        Ok(Response::new(pb::DeleteResponse { version: self.version().0 }))
    }
}

impl Policies {
    fn operator<T>(&self, request: &Request<T>) -> Result<(), Status> {
        self.operators.as_ref().map_or(Ok(()), |authority| authority.operator(request))
    }

    /// Of the set as it is published: at least that of a change that was answered.
    fn version(&self) -> Version {
        self.catalog.published().policies.version()
    }
}

fn parse((index, it): (usize, pb::Policy)) -> Result<Policy, Invalid> {
    let policy = Policy::try_from(it).map_err(|e| e.within(&format!("policies[{index}]")))?;
    Ok(Policy { version: Version::default(), ..policy })
}

fn name(text: &str) -> Result<PolicyName, Status> {
    text.parse().map_err(|e: Invalid| status::invalid(&e.within("name")))
}

fn expected(version: u64) -> Option<Version> {
    (version > 0).then_some(Version(version))
}

fn to_wire(it: Applied) -> apply_response::Applied {
    let outcome = match it.outcome {
        Outcome::Created => apply_response::applied::Outcome::Created,
        Outcome::Changed => apply_response::applied::Outcome::Changed,
        Outcome::Unchanged => apply_response::applied::Outcome::Unchanged,
    };
    apply_response::Applied { name: it.name.to_string(), outcome: outcome.into(), version: it.version.0 }
}
