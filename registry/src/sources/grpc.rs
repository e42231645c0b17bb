//! weft.registry.v1 over gRPC: registrations, beats, drains, descriptor uploads.
//!
//! Lives here: parsing requests into changes, the task of each keep-alive stream. Does not: deciding (`catalog`).
//! A keep-alive stream answers one request before it reads the next; its leases get their grace however it ends.

use std::{pin::pin, time::Duration};

use tokio::{sync::mpsc, time::Instant};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::task::TaskTracker;
use tonic::{Request, Response, Status, Streaming};
use weft_identity::name;
use weft_model::{Epoch, Instance, InstanceId, Invalid, LeaseTtl, ServiceName};
use weft_proto::weft::registry::v1 as pb;
use weft_runtime::Shutdown;
use weft_transcode::template::Template;

use crate::{
    access::Access,
    catalog::{Applied, Beat, Catalog, Change, Health, StreamId, Verdict, Word},
    checks::Heard,
    drains::{self, Drains},
    schema::{self, SchemaError},
    sources::status,
};

/// Registrations in one message, and of those that leave.
const MOST_AT_ONCE: usize = 1_000;

/// The service.
#[derive(Debug, Clone)]
pub(crate) struct Registry {
    pub(crate) catalog: Catalog,
    pub(crate) drains: Drains,
    /// Told of every word of an owner, for TTL checks.
    pub(crate) heard: Heard,
    pub(crate) streams: TaskTracker,
    pub(crate) shutdown: Shutdown,
}

#[tonic::async_trait]
impl pb::registry_server::Registry for Registry {
    type KeepAliveStream = ReceiverStream<Result<pb::KeepAliveResponse, Status>>;

    async fn register(&self, request: Request<pb::RegisterRequest>) -> Result<Response<pb::RegisterResponse>, Status> {
        let access = Access::of(&request);
        let (instance, ttl) = self.admit(&access, request.into_inner())?;
        let id = instance.id;
        let applied = self.catalog.register(instance, ttl).await.map_err(|e| status::change(&e))?;
        Ok(Response::new(pb::RegisterResponse { lease: Some(lease(&id, ttl, &applied)) }))
    }

    async fn register_all(
        &self,
        request: Request<pb::RegisterAllRequest>,
    ) -> Result<Response<pb::RegisterAllResponse>, Status> {
        let access = Access::of(&request);
        let pb::RegisterAllRequest { requests, leaving } = request.into_inner();
        for (field, count) in [("requests", requests.len()), ("leaving", leaving.len())] {
            if count > MOST_AT_ONCE {
                let problem = format!("has {count} entries, at most {MOST_AT_ONCE}");
                return Err(status::invalid(&Invalid::new(field, problem)));
            }
        }
        let mut changes = Vec::with_capacity(leaving.len() + requests.len());
        let mut left = Vec::with_capacity(leaving.len());
        for it in &leaving {
            left.push(self.leaving(&access, it).map(|(id, word)| changes.push(Change::Deregister { id, word })));
        }
        let mut came = Vec::with_capacity(requests.len());
        for it in requests {
            came.push(self.admit(&access, it).map(|(instance, ttl)| {
                let fate = (instance.id, ttl);
                changes.push(Change::Register { instance: Box::new(instance), ttl });
                fate
            }));
        }
        let mut fates = self.catalog.change_all(changes).await.into_iter();
        let mut fate = || fates.next().expect("each that was asked for has an answer").map_err(|e| status::change(&e));
        let deregistered = left.into_iter().map(|it| it.and_then(|()| fate()));
        let deregistered = deregistered.map(|it| pb::Deregistered { outcome: Some(departure(it)) }).collect();
        let registered = came.into_iter().map(|it| it.and_then(|(id, ttl)| Ok(lease(&id, ttl, &fate()?))));
        let registered = registered.map(|it| pb::Registered { outcome: Some(outcome(it)) }).collect();
        Ok(Response::new(pb::RegisterAllResponse { registered, deregistered }))
    }

    async fn keep_alive(
        &self,
        request: Request<Streaming<pb::KeepAliveRequest>>,
    ) -> Result<Response<Self::KeepAliveStream>, Status> {
        let (out, answers) = mpsc::channel(1);
        let (catalog, shutdown) = (self.catalog.clone(), self.shutdown.clone());
        let access = Access::of(&request);
        let requests = request.into_inner();
        self.streams.spawn(async move {
            let stream = catalog.open_stream();
            let ended = keep_alive(&catalog, stream, &access, requests, &out, &shutdown).await;
            catalog.end_stream(stream).await; // first: a caller that does not read must not delay it
            if let Err(end) = ended {
                drop(out.send(Err(end)).await); // a caller that has gone needs no reason
            }
        });
        Ok(Response::new(ReceiverStream::new(answers)))
    }

    async fn deregister(
        &self,
        request: Request<pb::DeregisterRequest>,
    ) -> Result<Response<pb::DeregisterResponse>, Status> {
        let access = Access::of(&request);
        let (id, word) = self.leaving(&access, &request.into_inner())?;
        let applied = self.catalog.deregister(id, word).await.map_err(|e| status::change(&e))?;
        Ok(Response::new(pb::DeregisterResponse { version: applied.version.0 }))
    }

    async fn set_status(
        &self,
        request: Request<pb::SetStatusRequest>,
    ) -> Result<Response<pb::SetStatusResponse>, Status> {
        let access = Access::of(&request);
        let request = request.into_inner();
        let id = id(&request.id, "id")?;
        access.to_instance(&self.catalog, &id, Word::from(request.epoch))?;
        let (word, health) = (Word::from(request.epoch), Health::new(request.status().into(), request.reason));
        let applied = self.catalog.set_status(id, word, health).await.map_err(|e| status::change(&e))?;
        if word != Word::Operator {
            self.heard.note(id, Instant::now());
        }
        Ok(Response::new(pb::SetStatusResponse { version: applied.version.0 }))
    }

    async fn drain(&self, request: Request<pb::DrainRequest>) -> Result<Response<pb::DrainResponse>, Status> {
        let access = Access::of(&request);
        let request = request.into_inner();
        let id = id(&request.id, "id")?;
        access.to_instance(&self.catalog, &id, Word::from(request.epoch))?;
        let until = Instant::now() + drains::bound(request.at_most_ms);
        let applied = self.catalog.drain(id, Word::from(request.epoch)).await.map_err(|e| status::change(&e))?;
        let (service, version) = applied.service.ok_or_else(|| Status::internal("a drained instance has a service"))?;
        let drained = tokio::select! {
            drained = self.drains.drained(&service, &id, version, until) => drained,
            () = self.shutdown.draining() => return Err(Status::unavailable("the registry is leaving")),
        };
        tracing::info!(%service, instance = %id, acknowledged = drained.acknowledged, waiting = ?drained.waiting, "drained");
        Ok(Response::new(pb::DrainResponse {
            acknowledged: drained.acknowledged,
            waiting: drained.waiting,
            waited_for: drained.waited_for,
            version: version.0,
        }))
    }

    async fn missing_descriptors(
        &self,
        request: Request<pb::MissingDescriptorsRequest>,
    ) -> Result<Response<pb::MissingDescriptorsResponse>, Status> {
        let sets = &self.catalog.published().sets;
        let mut digests = request.into_inner().digests;
        for (index, bytes) in digests.iter().enumerate() {
            status::digest(bytes, &format!("digests[{index}]"))?;
        }
        digests.retain(|bytes| status::digest(bytes, "").is_ok_and(|digest| !sets.contains_key(&digest)));
        Ok(Response::new(pb::MissingDescriptorsResponse { digests }))
    }

    async fn put_descriptors(
        &self,
        request: Request<pb::PutDescriptorsRequest>,
    ) -> Result<Response<pb::PutDescriptorsResponse>, Status> {
        let access = Access::of(&request);
        access.to_anything()?;
        let pb::PutDescriptorsRequest { files, instance, service, services } = request.into_inner();
        let by = match instance.as_str() {
            "" => None,
            text => Some((id(text, "instance")?, service_name(&service, "service")?)),
        };
        if let Some((id, service)) = &by {
            access.to_service(service)?;
            if let Some(known) = self.catalog.published().service_of(id).filter(|known| *known != service) {
                return Err(status::invalid(&Invalid::new("service", format!("instance {id} is of {known}"))));
            }
        }
        let linked = self.streams.spawn_blocking(move || schema::link(files, services.into_iter().collect())).await;
        let set = match linked.map_err(|e| Status::internal(format!("linking: {e}")))? {
            Ok(set) => set,
            Err(error) => return Err(self.refuse_set(by, &error).await),
        };
        let digest = set.digest.0.to_vec().into();
        let by = by.map(|(id, _)| id);
        self.catalog.put_descriptors(set, by).await.map_err(|e| status::change(&e))?;
        Ok(Response::new(pb::PutDescriptorsResponse { digest }))
    }

    async fn move_claim(
        &self,
        request: Request<pb::MoveClaimRequest>,
    ) -> Result<Response<pb::MoveClaimResponse>, Status> {
        Access::of(&request).to_service(&name::operator())?;
        let request = request.into_inner();
        let (name, to) = (claim(&request.name)?, service_name(&request.to, "to")?);
        let applied = self.catalog.move_claim(name, to.clone()).await.map_err(|e| status::change(&e))?;
        tracing::info!(names = ?applied.claims, %to, "claims moved by an operator");
        Ok(Response::new(pb::MoveClaimResponse { version: applied.version.0, moved: applied.claims }))
    }

    async fn release_claim(
        &self,
        request: Request<pb::ReleaseClaimRequest>,
    ) -> Result<Response<pb::ReleaseClaimResponse>, Status> {
        Access::of(&request).to_service(&name::operator())?;
        let name = claim(&request.into_inner().name)?;
        let applied = self.catalog.release_claim(name).await.map_err(|e| status::change(&e))?;
        tracing::info!(names = ?applied.claims, "claims released by an operator");
        Ok(Response::new(pb::ReleaseClaimResponse { version: applied.version.0, released: applied.claims }))
    }
}

impl Registry {
    /// Reads what somebody wants to register, and whether they may. A living id is taken over by its own service only.
    fn admit(&self, access: &Access, request: pb::RegisterRequest) -> Result<(Instance, LeaseTtl), Status> {
        let ttl = ttl(request.ttl_ms).map_err(|e| status::invalid(&e))?;
        let instance = request.instance.ok_or_else(|| Invalid::new("instance", "is required"));
        let instance = instance
            .and_then(|it| Instance::try_from(it).map_err(|e| e.within("instance")))
            .map_err(|e| status::invalid(&e))?;
        // Only here: what a store or another registry holds already is read as it is.
        instance.locality.check().map_err(|e| status::invalid(&e.within("instance.locality")))?;
        access.to_service(&instance.service)?;
        instance.check.as_ref().map_or(Ok(()), |check| access.to_check(check))?;
        access.to_instance(&self.catalog, &instance.id, Word::Owner(instance.epoch))?;
        Ok((instance, ttl))
    }

    /// Reads who wants to leave, and whether the caller may say so.
    fn leaving(&self, access: &Access, request: &pb::DeregisterRequest) -> Result<(InstanceId, Word), Status> {
        let (id, word) = (id(&request.id, "id")?, Word::from(request.epoch));
        access.to_instance(&self.catalog, &id, word)?;
        Ok((id, word))
    }

    /// Notes it for whoever asks, and returns what the caller is told.
    async fn refuse_set(&self, by: Option<(InstanceId, ServiceName)>, error: &SchemaError) -> Status {
        let service = by.as_ref().map(|(_, service)| tracing::field::display(service));
        tracing::warn!(service, error = %error, "descriptor set refused");
        if let Some((id, service)) = by {
            drop(self.catalog.refuse_set(id, service, error.to_string()).await); // a registry that leaves forgets it anyway
        }
        status::schema(error)
    }
}

/// Reads the name of a claim: a REST template may come with its variables.
fn claim(text: &str) -> Result<String, Status> {
    let invalid = |problem: String| status::invalid(&Invalid::new("name", problem));
    match text.split_once(' ') {
        Some((method, template)) => {
            let template: Template =
                template.trim().parse().map_err(|e| invalid(format!("{template:?} is no template: {e}")))?;
            Ok(template.claim(&method.to_ascii_uppercase()))
        }
        None if text.starts_with('/') => Err(invalid(format!("{text:?} lacks its HTTP method, like GET {text}"))),
        None if text.is_empty() => Err(invalid("is required".to_owned())),
        None => Ok(text.to_owned()),
    }
}

fn service_name(text: &str, field: &str) -> Result<ServiceName, Status> {
    text.parse().map_err(|e: Invalid| status::invalid(&e.within(field)))
}

/// Answers beats until the caller or the registry leaves. An error ends the stream with a status.
async fn keep_alive(
    catalog: &Catalog,
    stream: StreamId,
    access: &Access,
    mut requests: Streaming<pb::KeepAliveRequest>,
    out: &mpsc::Sender<Result<pb::KeepAliveResponse, Status>>,
    shutdown: &Shutdown,
) -> Result<(), Status> {
    let (mut gone, mut draining) = (pin!(out.closed()), pin!(shutdown.draining())); // once: what all streams wait for has one lock
    loop {
        let request = tokio::select! {
            request = requests.message() => request?,
            () = &mut gone => return Ok(()),
            () = &mut draining => return Err(Status::unavailable("the registry is leaving; leases live on")),
        };
        let Some(request) = request else { return Ok(()) };
        let beats = request.beats.into_iter().enumerate().map(|(i, it)| beat(i, it)).collect::<Result<Vec<_>, _>>()?;
        for beat in &beats {
            access.to_instance(catalog, &beat.id, Word::Owner(beat.epoch))?;
        }
        let ids: Vec<InstanceId> = beats.iter().map(|b| b.id).collect();
        let every = catalog.beat_every(&ids);
        let verdicts = catalog.beats(stream, beats).await.map_err(|e| status::change(&e))?;
        let verdicts = ids.iter().zip(verdicts).map(|(id, verdict)| to_wire(*id, verdict)).collect();
        let answer = pb::KeepAliveResponse { verdicts, beat_every_ms: millis(every) };
        if out.send(Ok(answer)).await.is_err() {
            return Ok(());
        }
    }
}

fn beat(index: usize, it: pb::Beat) -> Result<Beat, Status> {
    let id = id(&it.id, &format!("beats[{index}].id"))?;
    let status = it.status().into();
    Ok(Beat { id, epoch: Epoch(it.epoch), health: Health::new(status, it.reason) })
}

fn to_wire(id: InstanceId, verdict: Verdict) -> pb::Verdict {
    use pb::verdict::Outcome;
    let (outcome, reason) = match verdict {
        Verdict::Renewed => (Outcome::Renewed, ""),
        Verdict::Unknown => (Outcome::Unknown, "there is no such lease, it may have run out; register again"),
        Verdict::Fenced => (Outcome::Fenced, "a newer registration holds the id; leave"),
        Verdict::Revoked => (Outcome::Revoked, "an operator removed the instance; run on, unlisted"),
    };
    pb::Verdict { id: id.to_string(), outcome: outcome.into(), reason: reason.to_owned() }
}

fn id(text: &str, field: &str) -> Result<InstanceId, Status> {
    text.parse().map_err(|e: Invalid| status::invalid(&e.within(field)))
}

fn ttl(ms: u32) -> Result<LeaseTtl, Invalid> {
    match ms {
        0 => Ok(LeaseTtl::DEFAULT),
        ms => LeaseTtl::new(Duration::from_millis(ms.into())).map_err(|e| e.within("ttl_ms")),
    }
}

fn lease(id: &InstanceId, ttl: LeaseTtl, applied: &Applied) -> pb::Lease {
    pb::Lease {
        instance_id: id.to_string(),
        epoch: applied.epoch.0,
        ttl_ms: millis(ttl.get()),
        beat_every_ms: millis(ttl.beat_every()),
    }
}

fn outcome(it: Result<pb::Lease, Status>) -> pb::registered::Outcome {
    match it {
        Ok(lease) => pb::registered::Outcome::Lease(lease),
        Err(status) => pb::registered::Outcome::Refused(status::as_message(&status)),
    }
}

fn departure(it: Result<Applied, Status>) -> pb::deregistered::Outcome {
    match it {
        Ok(applied) => pb::deregistered::Outcome::Version(applied.version.0),
        Err(status) => pb::deregistered::Outcome::Refused(status::as_message(&status)),
    }
}

fn millis(time: Duration) -> u32 {
    u32::try_from(time.as_millis()).unwrap_or(u32::MAX)
}
