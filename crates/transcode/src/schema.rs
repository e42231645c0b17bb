//! The descriptors of one service as it published them: methods, their REST bindings, and the message types behind them.
//!
//! Lives here: linking a descriptor set into its own pool, reading `google.api.http` and `idempotency_level` from the raw option bytes.
//! Does not: routing between services (`routes`), or anything per request.
//! Invariants: one pool per schema, so two services may each own a `common.proto`; options are read from raw bytes, because typed descriptor
//! messages drop extensions.

use std::sync::Arc;

use prost_reflect::{DescriptorPool, MessageDescriptor};

use crate::plan::MethodPlan;

/// A linked descriptor set. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Schema {
    pool: DescriptorPool,
    methods: Arc<[Arc<MethodPlan>]>,
    problems: Arc<[RuleProblem]>,
}

/// Why a descriptor set was refused as a whole.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SchemaError {
    /// The bytes are not a `FileDescriptorSet`; sending them again cannot succeed.
    #[error("descriptor set cannot be decoded: {reason}")]
    Malformed {
        /// What the decoder said.
        reason: String,
    },
    /// A file does not link: something it names is missing or clashes.
    #[error("{file}: {reason} (in {symbol})")]
    Link {
        /// The file with the fault.
        file: String,
        /// The message, field, method … of that file at fault, or the file again.
        symbol: String,
        /// What is wrong with it, naming what is missing.
        reason: String,
    },
}

/// A REST binding that was left out because it cannot be served; the method's other bindings stand.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{method}: {kind} {template:?}: {reason}")]
pub struct RuleProblem {
    /// Full name of the method, `package.Service.Method`.
    pub method: String,
    /// HTTP method of the rule, `GET`.
    pub kind: String,
    /// The template as annotated.
    pub template: String,
    /// Why it cannot be served.
    pub reason: String,
}

/// Facts about a gRPC method that do not depend on how it is called.
#[derive(Debug)]
pub struct Method {
    pub(crate) service: String,
    pub(crate) name: String,
    pub(crate) full_name: String,
    pub(crate) grpc_path: String,
    pub(crate) input: MessageDescriptor,
    pub(crate) output: MessageDescriptor,
    pub(crate) streaming: Streaming,
    pub(crate) idempotency: Idempotency,
}

/// Which sides of a method send more than one message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Streaming {
    /// One message each way.
    Unary,
    /// Many requests, one reply.
    Client,
    /// One request, many replies.
    Server,
    /// Many each way.
    Bidi,
}

/// `idempotency_level` of a method: whether calling it again is harmless.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Idempotency {
    /// Nothing is promised.
    #[default]
    Unknown,
    /// It only reads.
    NoSideEffects,
    /// Twice is as once.
    Idempotent,
}

impl Schema {
    /// Links an encoded `google.protobuf.FileDescriptorSet`. Files may come in any order; the well-known types, `google/api/{http,annotations,
    /// httpbody}.proto` and `google/rpc/{status,error_details}.proto` are supplied where a file imports them and the set lacks them.
    ///
    /// # Errors
    /// `SchemaError` if the bytes cannot be decoded or a file does not link. A REST binding that cannot be served is no error: see `problems`.
    pub fn decode(set: &[u8]) -> Result<Self, SchemaError> {
        let _ = set;
        todo!()
    }

    /// Links encoded `FileDescriptorProto`s, as server reflection and the registry hand them out.
    ///
    /// # Errors
    /// As `decode`.
    pub fn from_files<F: AsRef<[u8]>>(files: impl IntoIterator<Item = F>) -> Result<Self, SchemaError> {
        let _ = files.into_iter().count();
        todo!()
    }

    /// Returns the full names of the services in the set.
    pub fn services(&self) -> impl Iterator<Item = String> + '_ {
        self.pool.services().map(|it| it.full_name().to_owned())
    }

    /// Returns every way to call every method: first its plain binding `POST /package.Service/Method`, then its `google.api.http` ones.
    pub fn plans(&self) -> &[Arc<MethodPlan>] {
        &self.methods
    }

    /// Returns the REST bindings that were left out, with reasons.
    pub fn problems(&self) -> &[RuleProblem] {
        &self.problems
    }

    /// Returns the pool, for reflection.
    pub fn pool(&self) -> &DescriptorPool {
        &self.pool
    }
}

impl Method {
    /// Returns the full service name, `package.Service`.
    pub fn service(&self) -> &str {
        &self.service
    }

    /// Returns the method's own name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns `package.Service.Method`.
    pub fn full_name(&self) -> &str {
        &self.full_name
    }

    /// Returns `/package.Service/Method`, the `:path` of a call.
    pub fn grpc_path(&self) -> &str {
        &self.grpc_path
    }

    /// Returns the request type.
    pub fn input(&self) -> &MessageDescriptor {
        &self.input
    }

    /// Returns the reply type.
    pub fn output(&self) -> &MessageDescriptor {
        &self.output
    }

    /// Returns which sides stream.
    pub fn streaming(&self) -> Streaming {
        self.streaming
    }

    /// Returns whether the method may be called again.
    pub fn idempotency(&self) -> Idempotency {
        self.idempotency
    }
}

impl Streaming {
    /// Returns whether the client may send several messages.
    pub fn client(self) -> bool {
        matches!(self, Self::Client | Self::Bidi)
    }

    /// Returns whether the server may send several messages.
    pub fn server(self) -> bool {
        matches!(self, Self::Server | Self::Bidi)
    }
}
