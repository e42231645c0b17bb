//! Routes: from a request's authority and path to a service, and what is known of the method.
//!
//! Lives here: the names under which services are reached, methods and their handles. Does not: endpoints (`cluster`), templates of REST (gateway).
//! Order: a service named by the caller, then `:authority`, then the owner of the gRPC name in the path, then the static cluster that takes everything.
//! An `:authority` without a namespace means a service of the caller's own, then one of `default`.
//! Rebuilt only when the directory changes; a change of endpoints shares it.

use std::{collections::HashMap, sync::Arc};

use http::uri::Authority;
use weft_model::{Digest, ServiceInfo, ServiceName};

use crate::{
    Claims, Error, Metrics,
    metrics::{CallMetrics, OTHER},
};

/// The question after an app's health: nobody claims it, and every app has it. It is counted under its name, by which a probe finds itself again.
const HEALTH: &str = "/grpc.health.v1.Health/Check";

/// Place of a service in one `Routes` and the worlds that share it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Slot(usize);

impl Slot {
    pub(crate) fn index(self) -> usize {
        self.0
    }
}

/// What the stack knows of a method: facts, and metric handles resolved once.
#[derive(Debug)]
pub(crate) struct Method {
    /// `pkg.Service/Method`, or `_OTHER`.
    pub(crate) name: Arc<str>,
    pub(crate) idempotent: bool,
    /// One message each way. False if nobody says so.
    pub(crate) unary: bool,
    pub(crate) client: CallMetrics,
    pub(crate) server: CallMetrics,
}

/// Which instances of a service are called by a method.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Declared {
    /// All: each descriptor set that is known declares it, or it is none of the service's gRPC names.
    Everywhere,
    /// Those that carry none of the sets at this place of `Routes::lacking`.
    Except(usize),
    /// Those whose descriptor sets are not known: all others lack it.
    Nowhere,
}

/// A service that routes may name.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Named {
    pub(crate) name: ServiceName,
    pub(crate) info: Arc<ServiceInfo>,
    pub(crate) claims: Claims,
}

#[derive(Debug)]
pub(crate) struct Routes {
    /// Sorted by name; the index is the slot.
    services: Vec<Service>,
    slots: HashMap<ServiceName, Slot>,
    authorities: HashMap<Box<str>, Slot>,
    grpc: HashMap<Box<str>, Slot>,
    methods: HashMap<Box<str>, Known>,
    everything: Option<Slot>,
    health: Arc<Method>,
    other: Arc<Method>,
    built_from: Vec<Named>,
    home: Option<Box<str>>,
}

#[derive(Debug)]
struct Service {
    name: ServiceName,
    authority: Authority,
    /// The different sets of descriptor sets that lack a method of the service; nearly always empty.
    lacking: Vec<Box<[Digest]>>,
}

#[derive(Debug)]
struct Known {
    slot: Slot,
    method: Arc<Method>,
    declared: Declared,
}

impl Routes {
    /// `home` is the namespace of this process, if it has one.
    pub(crate) fn build(services: Vec<Named>, home: Option<&str>, metrics: &Metrics) -> Self {
        let method = |name: &str, idempotent, unary| {
            let name: Arc<str> = name.into();
            let (client, server) = (metrics.client(name.clone()), metrics.server(name.clone()));
            Arc::new(Method { name, idempotent, unary, client, server })
        };
        let mut it = Self {
            services: Vec::with_capacity(services.len()),
            slots: HashMap::new(),
            authorities: HashMap::new(),
            grpc: HashMap::new(),
            methods: HashMap::new(),
            everything: None,
            health: method(HEALTH.trim_start_matches('/'), false, true),
            other: method(OTHER, false, false),
            built_from: Vec::new(),
            home: home.map(Into::into),
        };
        for (index, Named { name, info, claims }) in services.iter().enumerate() {
            let slot = Slot(index);
            it.slots.insert(name.clone(), slot);
            it.authorities.insert(name.to_string().into(), slot);
            it.authorities.insert(name.full().into(), slot);
            it.authorities.insert(format!("{}.weft", name.full()).into(), slot);
            if *claims == Claims::Everything {
                it.everything.get_or_insert(slot);
            }
            let mut lacking: Vec<Box<[Digest]>> = Vec::new();
            for grpc in &info.grpc_services {
                // The registry keeps claims apart; where a file does not, the first by name wins.
                it.grpc.entry(grpc.name.as_str().into()).or_insert(slot);
                for fact in &grpc.methods {
                    let full = format!("{}/{}", grpc.name, fact.name);
                    let path = format!("/{full}");
                    let declared = declared(&mut lacking, &fact.missing_in);
                    let unary = !(fact.client_streaming || fact.server_streaming);
                    let known = || Known { slot, method: method(&full, fact.idempotent, unary), declared };
                    it.methods.entry(path.into()).or_insert_with(known);
                }
            }
            let authority = name.to_string().parse().expect("a service name is made of DNS labels");
            it.services.push(Service { name: name.clone(), authority, lacking });
        }
        for (index, Named { name, .. }) in services.iter().enumerate() {
            if Some(name.namespace()) == home {
                it.authorities.insert(name.name().into(), Slot(index)); // in the place of its namesake of `default`, too
            }
        }
        it.built_from = services;
        it
    }

    /// Whether building from these would give the same.
    pub(crate) fn same(&self, services: &[Named], home: Option<&str>) -> bool {
        let same = |(a, b): (&Named, &Named)| {
            a.name == b.name && a.claims == b.claims && (Arc::ptr_eq(&a.info, &b.info) || a.info == b.info)
        };
        let alike = self.built_from.len() == services.len() && self.built_from.iter().zip(services).all(same);
        alike && self.home.as_deref() == home
    }

    pub(crate) fn slot(&self, service: &ServiceName) -> Option<Slot> {
        self.slots.get(service).copied()
    }

    pub(crate) fn name(&self, slot: Slot) -> &ServiceName {
        &self.services[slot.0].name
    }

    /// What goes upstream as `:authority` when the caller sent none.
    pub(crate) fn authority(&self, slot: Slot) -> &Authority {
        &self.services[slot.0].authority
    }

    /// Facts of the method, of whichever service: the same path means the same method.
    pub(crate) fn method(&self, path: &str) -> &Arc<Method> {
        match self.methods.get(path) {
            Some(known) => &known.method,
            None if path == HEALTH => &self.health,
            None => &self.other,
        }
    }

    /// By which sets of descriptor sets the instances of a service have to be told apart.
    pub(crate) fn lacking(&self, slot: Slot) -> &[Box<[Digest]>] {
        &self.services[slot.0].lacking
    }

    /// Which instances of a service may be called by a path.
    pub(crate) fn declared(&self, slot: Slot, path: &str) -> Declared {
        match self.methods.get(path) {
            Some(known) if known.slot == slot => known.declared,
            Some(_) => Declared::Everywhere,
            None if grpc_service(path).and_then(|name| self.grpc.get(name)) == Some(&slot) => Declared::Nowhere,
            None => Declared::Everywhere,
        }
    }

    /// The service a call goes to.
    ///
    /// Where there is none: an authority of a service's form and without a port gets UNAVAILABLE, since that service may still register, and so does every call
    /// before the first snapshot; else UNIMPLEMENTED, since nobody in the mesh claims the gRPC name.
    pub(crate) fn route(&self, authority: Option<&str>, path: &str) -> Result<Slot, Error> {
        let by_authority = || self.authorities.get(without_port(authority?)).copied();
        let by_method = || self.methods.get(path).map(|known| known.slot);
        let by_grpc_name = || self.grpc.get(grpc_service(path)?).copied();
        let found = by_authority().or_else(by_method).or_else(by_grpc_name).or(self.everything);
        found.ok_or_else(|| {
            let may_register = authority.filter(|a| ServiceName::from_authority(a).is_some() && !a.contains(':'));
            match may_register {
                Some(name) => Error::UnknownService { name: name.to_owned() },
                None if self.services.is_empty() => Error::UnknownService { name: path.to_owned() },
                None => Error::NoRoute { path: path.to_owned() },
            }
        })
    }
}

/// Methods that the same sets lack share a place.
fn declared(lacking: &mut Vec<Box<[Digest]>>, missing_in: &[Digest]) -> Declared {
    if missing_in.is_empty() {
        return Declared::Everywhere;
    }
    let known = lacking.iter().position(|sets| **sets == *missing_in);
    Declared::Except(known.unwrap_or_else(|| {
        lacking.push(missing_in.into());
        lacking.len() - 1
    }))
}

fn without_port(authority: &str) -> &str {
    match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|b| b.is_ascii_digit()) => host,
        _ => authority,
    }
}

/// `pkg.Service` of `/pkg.Service/Method`.
fn grpc_service(path: &str) -> Option<&str> {
    path.strip_prefix('/')?.split_once('/').map(|(service, _)| service)
}
