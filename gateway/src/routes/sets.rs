//! Linked descriptor sets: what a service published, ready for routing and reflection.
//!
//! Lives here: linking, the raw files beside it, facts for static mode. Does not: fetching (`routes::keeper`), answering reflection (`weft-reflection`).
//! Files stay raw bytes for reflection: custom options such as `google.api.http` reach the client as the service compiled them.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, PoisonError},
};

use bytes::Bytes;
use prost::Message;
use prost_reflect::prost_types::FileDescriptorProto;
use weft_discovery::DescriptorSet;
use weft_model::{Digest, GrpcService, HttpRule, Method, ServiceInfo};
use weft_reflection::Descriptors;
use weft_transcode::{
    Schema, SchemaError,
    schema::{Idempotency, supplied},
};

/// The descriptors of one service.
#[derive(Debug)]
pub(crate) struct LinkedSet {
    digest: Digest,
    schema: Schema,
    files: Arc<Descriptors>,
    /// With the rules that were asked for last.
    ruled: Mutex<Option<(Vec<HttpRule>, Schema)>>,
}

impl LinkedSet {
    /// Links the files of a service into a pool of their own.
    pub(crate) fn link(set: &DescriptorSet) -> Result<Self, SchemaError> {
        let schema = Schema::from_files(set.files())?;
        let files = Arc::new(index(&schema, set));
        Ok(Self { digest: set.digest(), files, schema, ruled: Mutex::default() })
    }

    pub(crate) fn digest(&self) -> Digest {
        self.digest
    }

    pub(crate) fn schema(&self) -> &Schema {
        &self.schema
    }

    /// Returns the schema with these rules. Asked for the same again it has the same plans, by which answers are kept: a table that changes elsewhere
    /// costs none of them.
    pub(crate) fn ruled(&self, rules: &[&HttpRule]) -> Schema {
        let mut last = self.ruled.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((known, schema)) = &*last
            && known.iter().eq(rules.iter().copied())
        {
            return schema.clone();
        }
        let schema = self.schema.with_rules(rules.iter().copied());
        *last = Some((rules.iter().map(|it| (*it).clone()).collect(), schema.clone()));
        schema
    }

    /// Returns the files, for reflection.
    pub(crate) fn files(&self) -> &Arc<Descriptors> {
        &self.files
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
                missing_in: Vec::new(),
            });
        }
        ServiceInfo { grpc_services: services, descriptors: vec![self.digest], refused: Vec::new() }
    }
}

/// Files as the service published them; those that linking supplied as they were supplied.
fn index(schema: &Schema, set: &DescriptorSet) -> Descriptors {
    let name = |file: &Bytes| FileDescriptorProto::decode(file.as_ref()).unwrap_or_default().name.unwrap_or_default();
    let published: HashMap<String, &Bytes> = set.files().map(|file| (name(file), file)).collect();
    let files = schema.pool().files().map(|file| match published.get(file.name()) {
        Some(published) => Bytes::clone(published),
        None => supplied(file.name()).unwrap_or_else(|| file.encode_to_vec()).into(),
    });
    Descriptors::of_files(files).expect("what links can be read and has its imports")
}
