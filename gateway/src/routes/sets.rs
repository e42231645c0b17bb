//! Linked descriptor sets: what a service published, ready for routing and reflection.
//!
//! Lives here: linking, the raw files beside it, facts for static mode. Does not: fetching (`routes::keeper`), answering reflection (`protocol::reflection`).
//! Files stay raw bytes for reflection: custom options such as `google.api.http` reach the client as the service compiled them.

use std::collections::{HashMap, HashSet};

use bytes::Bytes;
use prost::Message;
use prost_reflect::{DescriptorPool, prost_types::FileDescriptorProto};
use weft_discovery::DescriptorSet;
use weft_model::{Digest, GrpcService, Method, ServiceInfo};
use weft_transcode::{Schema, SchemaError, schema::Idempotency};

/// The descriptors of one service.
#[derive(Debug)]
pub(crate) struct LinkedSet {
    digest: Digest,
    schema: Schema,
    raw: HashMap<String, Bytes>,
}

impl LinkedSet {
    /// Links the files of a service into a pool of their own.
    pub(crate) fn link(set: &DescriptorSet) -> Result<Self, SchemaError> {
        let name =
            |file: &Bytes| FileDescriptorProto::decode(file.as_ref()).unwrap_or_default().name.unwrap_or_default();
        Ok(Self {
            digest: set.digest(),
            schema: Schema::from_files(set.files())?,
            raw: set.files().map(|file| (name(file), file.clone())).collect(),
        })
    }

    pub(crate) fn digest(&self) -> Digest {
        self.digest
    }

    pub(crate) fn schema(&self) -> &Schema {
        &self.schema
    }

    pub(crate) fn pool(&self) -> &DescriptorPool {
        self.schema.pool()
    }

    /// Returns a file as the service published it; one that linking supplied is encoded from the pool.
    pub(crate) fn file(&self, name: &str) -> Option<Bytes> {
        let published = self.raw.get(name).cloned();
        published.or_else(|| Some(self.pool().get_file_by_name(name)?.encode_to_vec().into()))
    }

    /// Returns what the registry would say of a service with this set; `grpc.*` names are never claimed.
    pub(crate) fn info(&self) -> ServiceInfo {
        let mut services: Vec<GrpcService> = Vec::new();
        let mut seen = HashSet::new();
        for plan in self.schema.plans() {
            let method = plan.method();
            if method.service().starts_with("grpc.") || !seen.insert(method.full_name()) {
                continue;
            }
            let index = services.iter().position(|it| it.name == method.service()).unwrap_or_else(|| {
                services.push(GrpcService { name: method.service().to_owned(), methods: Vec::new() });
                services.len() - 1
            });
            services[index].methods.push(Method {
                name: method.name().to_owned(),
                client_streaming: method.streaming().client(),
                server_streaming: method.streaming().server(),
                idempotent: method.idempotency() != Idempotency::Unknown,
            });
        }
        ServiceInfo { grpc_services: services, descriptors: vec![self.digest] }
    }
}
