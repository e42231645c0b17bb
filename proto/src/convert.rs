//! Conversions between wire types and `weft-model`: parse once, at the edge.
//!
//! Lives here: `TryFrom` into the model with the field path of what is wrong, `From` back. Does not: status codes.
//! Unknown enum values: a status is read as NOT_SERVING, a protocol is refused, a removal reason is read as EXPIRED.

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc, time::Duration};

use model::Invalid;
use weft_model as model;

use crate::weft::{discovery::v1 as discovery, model::v1 as pb};

const MAX_METADATA: usize = 64;

impl TryFrom<pb::Transport> for model::Transport {
    type Error = Invalid;

    fn try_from(it: pb::Transport) -> Result<Self, Invalid> {
        match it.kind {
            Some(pb::transport::Kind::Plaintext(_)) => Ok(Self::Plaintext),
            Some(pb::transport::Kind::Tls(tls)) => Ok(Self::Tls { server_name: tls.server_name }),
            Some(pb::transport::Kind::Mtls(mtls)) => {
                Ok(Self::Mtls { identity: mtls.identity.parse().map_err(|e: Invalid| e.within("mtls.identity"))? })
            }
            None => Err(Invalid::new("kind", "set one of plaintext, tls, mtls")),
        }
    }
}

impl From<&model::Transport> for pb::Transport {
    fn from(it: &model::Transport) -> Self {
        let kind = match it {
            model::Transport::Plaintext => pb::transport::Kind::Plaintext(pb::transport::Plaintext {}),
            model::Transport::Tls { server_name } => {
                pb::transport::Kind::Tls(pb::transport::Tls { server_name: server_name.clone() })
            }
            model::Transport::Mtls { identity } => {
                pb::transport::Kind::Mtls(pb::transport::Mtls { identity: identity.to_string() })
            }
        };
        Self { kind: Some(kind) }
    }
}

impl TryFrom<pb::Endpoint> for model::Endpoint {
    type Error = Invalid;

    fn try_from(it: pb::Endpoint) -> Result<Self, Invalid> {
        let protocol = match pb::Protocol::try_from(it.protocol) {
            Ok(pb::Protocol::Unspecified | pb::Protocol::H2) => model::Protocol::H2,
            Ok(pb::Protocol::H1) => model::Protocol::H1,
            Ok(pb::Protocol::Tcp) => model::Protocol::Tcp,
            Err(_) => return Err(Invalid::new("protocol", format!("{} is not known here", it.protocol))),
        };
        let address = address(&it.address).map_err(|e| e.within("address"))?;
        let transport = it.transport.ok_or_else(|| Invalid::new("transport", "is required"))?;
        Ok(Self { address, transport: transport.try_into().map_err(|e: Invalid| e.within("transport"))?, protocol })
    }
}

impl From<&model::Endpoint> for pb::Endpoint {
    fn from(it: &model::Endpoint) -> Self {
        let protocol = match it.protocol {
            model::Protocol::H2 => pb::Protocol::H2,
            model::Protocol::H1 => pb::Protocol::H1,
            model::Protocol::Tcp => pb::Protocol::Tcp,
        };
        Self { address: it.address.to_string(), transport: Some((&it.transport).into()), protocol: protocol.into() }
    }
}

fn address(text: &str) -> Result<SocketAddr, Invalid> {
    let address: SocketAddr = text
        .parse()
        .map_err(|_| Invalid::new("", format!("{text:?} is no IP literal with a port, like 10.0.0.7:7300")))?;
    if address.port() == 0 || address.ip().is_unspecified() {
        return Err(Invalid::new("", format!("{text:?} cannot be dialled: it needs a certain IP and a port above 0")));
    }
    if matches!(address, SocketAddr::V6(it) if it.scope_id() != 0) {
        return Err(Invalid::new("", format!("{text:?} names an interface of one machine, and no URI takes that")));
    }
    Ok(address)
}

impl From<pb::Status> for model::Status {
    fn from(it: pb::Status) -> Self {
        match it {
            pb::Status::Starting => Self::Starting,
            pb::Status::Serving => Self::Serving,
            pb::Status::Unspecified | pb::Status::NotServing => Self::NotServing,
            pb::Status::Draining => Self::Draining,
            pb::Status::Crashed => Self::Crashed,
        }
    }
}

impl From<model::Status> for pb::Status {
    fn from(it: model::Status) -> Self {
        match it {
            model::Status::Starting => Self::Starting,
            model::Status::Serving => Self::Serving,
            model::Status::NotServing => Self::NotServing,
            model::Status::Draining => Self::Draining,
            model::Status::Crashed => Self::Crashed,
        }
    }
}

impl From<discovery::removed::Reason> for model::RemovalReason {
    fn from(it: discovery::removed::Reason) -> Self {
        match it {
            discovery::removed::Reason::Deregistered => Self::Deregistered,
            discovery::removed::Reason::Drained => Self::Drained,
            discovery::removed::Reason::Forced => Self::Forced,
            discovery::removed::Reason::Unspecified | discovery::removed::Reason::Expired => Self::Expired,
        }
    }
}

impl From<model::RemovalReason> for discovery::removed::Reason {
    fn from(it: model::RemovalReason) -> Self {
        match it {
            model::RemovalReason::Deregistered => Self::Deregistered,
            model::RemovalReason::Drained => Self::Drained,
            model::RemovalReason::Forced => Self::Forced,
            model::RemovalReason::Expired => Self::Expired,
        }
    }
}

impl TryFrom<pb::Instance> for model::Instance {
    type Error = Invalid;

    fn try_from(it: pb::Instance) -> Result<Self, Invalid> {
        let status = it.status().into();
        let endpoint = it.endpoint.ok_or_else(|| Invalid::new("endpoint", "is required"))?;
        let locality = it.locality.unwrap_or_default();
        metadata_fits(&it.metadata)?;
        Ok(Self {
            id: it.id.parse().map_err(|e: Invalid| e.within("id"))?,
            service: it.service.parse().map_err(|e: Invalid| e.within("service"))?,
            epoch: model::Epoch(it.epoch),
            endpoint: endpoint.try_into().map_err(|e: Invalid| e.within("endpoint"))?,
            status,
            reason: it.reason,
            locality: model::Locality::new(locality.region, locality.zone, locality.sub_zone),
            weight: model::Weight::new(it.weight.max(1)).map_err(|e| e.within("weight"))?,
            metadata: it.metadata.into(),
            descriptors: digest(&it.descriptor_digest).map_err(|e| e.within("descriptor_digest"))?,
            check: it.check.map(TryInto::try_into).transpose().map_err(|e: Invalid| e.within("check"))?.map(Box::new),
        })
    }
}

fn metadata_fits(metadata: &BTreeMap<String, String>) -> Result<(), Invalid> {
    if metadata.len() > MAX_METADATA {
        return Err(Invalid::new("metadata", format!("has {} entries, at most {MAX_METADATA}", metadata.len())));
    }
    match metadata.iter().find(|(key, value)| key.len() > 128 || value.len() > 1024) {
        Some((key, _)) => {
            Err(Invalid::new(format!("metadata[{key}]"), "is longer than 128 (key) or 1,024 (value) bytes"))
        }
        None => Ok(()),
    }
}

fn digest(bytes: &[u8]) -> Result<Option<model::Digest>, Invalid> {
    if bytes.is_empty() {
        return Ok(None);
    }
    let bytes =
        bytes.try_into().map_err(|_| Invalid::new("", format!("has {} bytes, a SHA-256 has 32", bytes.len())))?;
    Ok(Some(model::Digest(bytes)))
}

impl From<&model::Instance> for pb::Instance {
    fn from(it: &model::Instance) -> Self {
        Self {
            id: it.id.to_string(),
            service: it.service.full().to_owned(),
            endpoint: Some((&it.endpoint).into()),
            status: pb::Status::from(it.status).into(),
            reason: it.reason.clone(),
            locality: (it.locality != model::Locality::default()).then(|| pb::Locality {
                region: it.locality.region().to_owned(),
                zone: it.locality.zone().to_owned(),
                sub_zone: it.locality.sub_zone().to_owned(),
            }),
            weight: it.weight.get().into(),
            metadata: it.metadata.iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect(),
            descriptor_digest: it.descriptors.map(|d| d.0.to_vec().into()).unwrap_or_default(),
            check: it.check.as_deref().map(Into::into),
            epoch: it.epoch.0,
        }
    }
}

impl TryFrom<pb::Check> for model::Check {
    type Error = Invalid;

    fn try_from(it: pb::Check) -> Result<Self, Invalid> {
        let interval = millis("interval_ms", it.interval_ms, 10_000, 100..=3_600_000)?;
        let usual = interval.min(Duration::from_secs(5)).as_millis().try_into().expect("at most 5,000");
        let timeout = millis("timeout_ms", it.timeout_ms, usual, 1..=3_600_000)?;
        let kind = it.kind.ok_or_else(|| Invalid::new("kind", "set one of grpc, http, tcp, ttl"))?;
        Ok(Self {
            kind: check_kind(kind)?,
            interval,
            timeout,
            unhealthy_after: if it.unhealthy_after == 0 { 3 } else { it.unhealthy_after },
            healthy_after: it.healthy_after.max(1),
        })
    }
}

fn check_kind(kind: pb::check::Kind) -> Result<model::CheckKind, Invalid> {
    let optional = |field: &str, text: &str| match text {
        "" => Ok(None),
        text => address(text).map(Some).map_err(|e| e.within(field)),
    };
    Ok(match kind {
        pb::check::Kind::Grpc(it) => {
            model::CheckKind::Grpc { service: it.service, address: optional("grpc.address", &it.address)? }
        }
        pb::check::Kind::Http(it) if !it.path.starts_with('/') => {
            return Err(Invalid::new("http.path", format!("{:?} does not start with /", it.path)));
        }
        pb::check::Kind::Http(it) => {
            model::CheckKind::Http { path: it.path, address: optional("http.address", &it.address)? }
        }
        pb::check::Kind::Tcp(it) => model::CheckKind::Tcp { address: optional("tcp.address", &it.address)? },
        pb::check::Kind::Ttl(it) => {
            model::CheckKind::Ttl { ttl: millis("ttl.ttl_ms", it.ttl_ms, 0, 1_000..=86_400_000)? }
        }
    })
}

fn millis(field: &str, ms: u32, default: u32, allowed: std::ops::RangeInclusive<u32>) -> Result<Duration, Invalid> {
    let ms = if ms == 0 { default } else { ms };
    if allowed.contains(&ms) {
        Ok(Duration::from_millis(ms.into()))
    } else {
        Err(Invalid::new(field, format!("{ms} is outside {} to {} ms", allowed.start(), allowed.end())))
    }
}

impl From<&model::Check> for pb::Check {
    fn from(it: &model::Check) -> Self {
        let text = |address: &Option<SocketAddr>| address.map(|a| a.to_string()).unwrap_or_default();
        let ms = |time: Duration| u32::try_from(time.as_millis()).unwrap_or(u32::MAX);
        let kind = match &it.kind {
            model::CheckKind::Grpc { service, address } => {
                pb::check::Kind::Grpc(pb::check::Grpc { service: service.clone(), address: text(address) })
            }
            model::CheckKind::Http { path, address } => {
                pb::check::Kind::Http(pb::check::Http { path: path.clone(), address: text(address) })
            }
            model::CheckKind::Tcp { address } => pb::check::Kind::Tcp(pb::check::Tcp { address: text(address) }),
            model::CheckKind::Ttl { ttl } => pb::check::Kind::Ttl(pb::check::Ttl { ttl_ms: ms(*ttl) }),
        };
        Self {
            kind: Some(kind),
            interval_ms: ms(it.interval),
            timeout_ms: ms(it.timeout),
            unhealthy_after: it.unhealthy_after,
            healthy_after: it.healthy_after,
        }
    }
}

/// Sets of which a method says that they lack it (model.proto, Method).
const MAX_MISSING: usize = 64;

impl From<&model::ServiceInfo> for pb::ServiceInfo {
    fn from(it: &model::ServiceInfo) -> Self {
        Self {
            grpc_services: it.grpc_services.iter().map(|grpc| grpc_service(grpc, &it.descriptors)).collect(),
            descriptor_digests: it.descriptors.iter().map(|d| d.0.to_vec().into()).collect(),
            refused_claims: it.refused.iter().map(Into::into).collect(),
        }
    }
}

fn grpc_service(it: &model::GrpcService, sets: &[model::Digest]) -> pb::GrpcService {
    let place = |missing: &model::Digest| {
        let at = sets.iter().take(MAX_MISSING).position(|digest| digest == missing)?;
        u32::try_from(at).ok()
    };
    let method = |m: &model::Method| pb::Method {
        name: m.name.clone(),
        client_streaming: m.client_streaming,
        server_streaming: m.server_streaming,
        idempotent: m.idempotent,
        missing_in: m.missing_in.iter().filter_map(place).collect(),
    };
    pb::GrpcService { name: it.name.clone(), methods: it.methods.iter().map(method).collect() }
}

impl From<&model::RefusedClaim> for pb::RefusedClaim {
    fn from(it: &model::RefusedClaim) -> Self {
        Self { name: it.name.clone(), holder: it.holder.full().to_owned(), method: it.method.clone() }
    }
}

impl TryFrom<pb::ServiceInfo> for model::ServiceInfo {
    type Error = Invalid;

    fn try_from(it: pb::ServiceInfo) -> Result<Self, Invalid> {
        let mut descriptors = Vec::with_capacity(it.descriptor_digests.len());
        for (index, bytes) in it.descriptor_digests.iter().enumerate() {
            let field = format!("descriptor_digests[{index}]");
            descriptors
                .push(digest(bytes).map_err(|e| e.within(&field))?.ok_or_else(|| Invalid::new(field, "is empty"))?);
        }
        let mut refused = Vec::with_capacity(it.refused_claims.len());
        for (index, claim) in it.refused_claims.into_iter().enumerate() {
            let holder = claim.holder.parse();
            let holder = holder.map_err(|e: Invalid| e.within("holder").within(&format!("refused_claims[{index}]")))?;
            refused.push(model::RefusedClaim { name: claim.name, holder, method: claim.method });
        }
        let grpc_services = it.grpc_services.into_iter().map(|grpc| model_grpc_service(grpc, &descriptors)).collect();
        Ok(Self { grpc_services, descriptors, refused })
    }
}

/// A place that no set has is one we were not told of: it says nothing.
fn model_grpc_service(it: pb::GrpcService, sets: &[model::Digest]) -> model::GrpcService {
    let set = |place: u32| sets.get(usize::try_from(place).ok()?).copied();
    let method = |m: pb::Method| model::Method {
        name: m.name,
        client_streaming: m.client_streaming,
        server_streaming: m.server_streaming,
        idempotent: m.idempotent,
        missing_in: m.missing_in.into_iter().filter_map(set).collect(),
    };
    model::GrpcService { name: it.name, methods: it.methods.into_iter().map(method).collect() }
}

/// Returns the complete update of one service, as a first answer or a list carries it.
pub fn service_update_full(it: &model::ServiceSnapshot) -> discovery::ServiceUpdate {
    discovery::ServiceUpdate {
        name: it.name.full().to_owned(),
        base: 0,
        body: Some(discovery::service_update::Body::Full(discovery::Full {
            instances: it.instances.values().map(|i| i.as_ref().into()).collect(),
        })),
        authoritative: it.authoritative,
        info: Some(it.info.as_ref().into()),
        policies: Some(crate::service_policies(&it.policies)),
        version: it.version.0,
    }
}

/// Returns one entry of the directory.
pub fn directory_entry(name: &model::ServiceName, info: &Arc<model::ServiceInfo>) -> discovery::directory::Entry {
    discovery::directory::Entry { name: name.full().to_owned(), info: Some(info.as_ref().into()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn instance() -> pb::Instance {
        pb::Instance {
            id: "0197a1b2-0000-7000-8000-000000000001".into(),
            service: "users.default".into(),
            endpoint: Some(pb::Endpoint {
                address: "127.0.0.1:7300".into(),
                transport: Some((&model::Transport::Plaintext).into()),
                protocol: pb::Protocol::H2.into(),
            }),
            status: pb::Status::Serving.into(),
            weight: 3,
            check: Some(pb::Check {
                kind: Some(pb::check::Kind::Http(pb::check::Http { path: "/healthz".into(), address: String::new() })),
                interval_ms: 500,
                timeout_ms: 200,
                unhealthy_after: 2,
                healthy_after: 1,
            }),
            ..Default::default()
        }
    }

    #[test]
    fn an_instance_survives_the_way_through_the_model() {
        let model = model::Instance::try_from(instance()).unwrap();
        assert_eq!(pb::Instance::from(&model), instance());
    }

    #[test]
    fn what_is_wrong_is_named_by_its_path() {
        let broken = |breaking: fn(&mut pb::Instance)| {
            let mut it = instance();
            breaking(&mut it);
            model::Instance::try_from(it).unwrap_err().field().to_owned()
        };
        assert_eq!(broken(|i| i.id = "x".into()), "id");
        assert_eq!(broken(|i| i.service = "Users".into()), "service");
        assert_eq!(broken(|i| i.endpoint = None), "endpoint");
        assert_eq!(broken(|i| i.endpoint.as_mut().unwrap().address = "localhost:1".into()), "endpoint.address");
        assert_eq!(broken(|i| i.endpoint.as_mut().unwrap().address = "0.0.0.0:80".into()), "endpoint.address");
        assert_eq!(broken(|i| i.endpoint.as_mut().unwrap().address = "[fe80::1%3]:80".into()), "endpoint.address");
        assert_eq!(broken(|i| i.endpoint.as_mut().unwrap().transport = None), "endpoint.transport");
        assert_eq!(broken(|i| i.endpoint.as_mut().unwrap().protocol = 77), "endpoint.protocol");
        assert_eq!(broken(|i| i.weight = 70_000), "weight");
        assert_eq!(broken(|i| i.descriptor_digest = vec![1u8].into()), "descriptor_digest");
        assert_eq!(broken(|i| i.check.as_mut().unwrap().kind = None), "check.kind");
        assert_eq!(broken(|i| i.check.as_mut().unwrap().interval_ms = 1), "check.interval_ms");
        assert_eq!(broken(|i| i.check.as_mut().unwrap().timeout_ms = 3_600_001), "check.timeout_ms");
    }

    #[test]
    fn facts_of_a_service_survive_the_way_and_a_place_without_a_set_says_nothing() {
        let (old, new) = (model::Digest([1; 32]), model::Digest([2; 32]));
        let method = |name: &str, missing_in| model::Method {
            name: name.into(),
            client_streaming: false,
            server_streaming: false,
            idempotent: true,
            missing_in,
        };
        let grpc = model::GrpcService {
            name: "shop.posts.v1.Posts".into(),
            methods: vec![method("Get", vec![]), method("Count", vec![old])],
        };
        let refused = model::RefusedClaim {
            name: "GET /api/users/*".into(),
            holder: "users".parse().unwrap(),
            method: "shop.posts.v1.Posts/Get".into(),
        };
        let info =
            model::ServiceInfo { grpc_services: vec![grpc], descriptors: vec![new, old], refused: vec![refused] };
        let mut wire = pb::ServiceInfo::from(&info);
        assert_eq!(wire.grpc_services[0].methods[1].missing_in, [1]);
        assert_eq!(model::ServiceInfo::try_from(wire.clone()).unwrap(), info);
        wire.grpc_services[0].methods[1].missing_in.push(7);
        assert_eq!(model::ServiceInfo::try_from(wire).unwrap(), info);
    }

    #[test]
    fn an_unknown_status_does_not_take_calls() {
        let it = pb::Instance { status: 99, ..instance() };
        assert_eq!(model::Instance::try_from(it).unwrap().status, model::Status::NotServing);
    }

    #[test]
    fn raw_descriptor_sets_keep_custom_options() {
        let pool = prost_reflect::DescriptorPool::decode(crate::descriptors::SHOP_USERS).unwrap();
        let http = pool.get_extension_by_name("google.api.http").unwrap();
        let users = pool.get_service_by_name("shop.users.v1.Users").unwrap();
        assert!(users.methods().all(|m| m.options().has_extension(&http)));
    }
}
