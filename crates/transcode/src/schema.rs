//! The descriptors of one service as it published them: methods, their REST bindings, and the message types behind
//! them.
//!
//! Lives here: linking a descriptor set into its own pool, reading `google.api.http` and `idempotency_level` from the
//! raw option bytes, and putting rules from elsewhere in the place of annotations.
//! Does not: what is linked (`schema::files`, `schema::editions`), routing between services (`routes`), or anything per request.
//! Invariants: one pool per schema, so two services may each own a `common.proto`; options are read from raw bytes,
//! because typed descriptor messages drop extensions.

pub(crate) mod builtin;
pub(crate) mod editions;
mod files;
mod raw;

use std::collections::HashMap;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use prost::Message;
use prost_reflect::prost_types::{DescriptorProto, EnumDescriptorProto, FileDescriptorProto};
use prost_reflect::{DescriptorPool, Kind, MessageDescriptor, MethodDescriptor, ServiceDescriptor};

use weft_model::{HttpRule, Selector};

use crate::etag::TagStyle;
use crate::plan::{MethodPlan, Origin};
use crate::types::{TypeId, Types};
pub use editions::in_proto2;
use files::Files;

/// A linked descriptor set. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Schema {
    pool: DescriptorPool,
    plans: Arc<[Arc<MethodPlan>]>,
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
pub struct RuleProblem {
    /// Full name of the method, `package.Service.Method`.
    pub method: String,
    /// HTTP method of the rule, `GET`; empty if the whole rule is left out.
    pub kind: String,
    /// The template as it was written; empty if the whole rule is left out.
    pub template: String,
    /// Who says the rule.
    pub origin: Origin,
    /// Why it cannot be served, and what could.
    pub reason: String,
}

impl fmt::Display for RuleProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { method, kind, template, reason, .. } = self;
        if kind.is_empty() && template.is_empty() {
            write!(f, "{method}: {reason}")
        } else {
            write!(f, "{method}: {kind} {template:?}: {reason}")
        }
    }
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
    /// Input and output as the codec has them.
    pub(crate) types: Arc<Types>,
    pub(crate) input_type: TypeId,
    pub(crate) output_type: TypeId,
    pub(crate) streaming: Streaming,
    pub(crate) idempotency: Idempotency,
    /// How its service writes the tags of resources; shared by its methods, since one tells a tag and another takes it.
    pub(crate) tags: Arc<TagStyle>,
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
    /// Links an encoded `google.protobuf.FileDescriptorSet`. Files may come in any order; the well-known types,
    /// `google/api/{http,annotations, httpbody}.proto` and `google/rpc/{status,error_details}.proto` are supplied where
    /// a file imports them and the set lacks them.
    ///
    /// # Errors
    /// `SchemaError` if the bytes cannot be decoded or a file does not link. A REST binding that cannot be served is no
    /// error: see `problems`.
    pub fn decode(set: &[u8]) -> Result<Self, SchemaError> {
        Self::from_files(raw::FileSet::decode(set).map_err(malformed)?.file)
    }

    /// Links encoded `FileDescriptorProto`s, as server reflection and the registry hand them out.
    ///
    /// # Errors
    /// As `decode`.
    pub fn from_files<F: AsRef<[u8]>>(files: impl IntoIterator<Item = F>) -> Result<Self, SchemaError> {
        let files = Files::read(files)?;
        let set = raw::FileSet { file: files.encoded };
        let pool = linked(|pool| pool.decode_file_descriptor_set(set.encode_to_vec().as_slice()))?;
        let pool = pool.map_err(|error| SchemaError::Link {
            file: error.file().unwrap_or("descriptor set").to_owned(),
            symbol: symbol_at(&set, error.file(), error.path()),
            reason: error.to_string(),
        })?;
        check_maps(&pool)?;
        let types = Arc::new(Types::new(&pool, files.implicit));
        let mut plans = Vec::new();
        let mut problems = Vec::new();
        for service in pool.services().filter(|it| !files.supplied.contains(it.parent_file().name())) {
            let tags = Arc::<TagStyle>::default();
            for descriptor in service.methods() {
                let options = files.options.get(descriptor.full_name());
                let method = Method::new(&service, &descriptor, options, &types);
                let method = Arc::new(Method { tags: Arc::clone(&tags), ..method });
                plans.push(Arc::new(MethodPlan::plain(&method)));
                for rule in options.and_then(|it| it.http.as_ref()).into_iter().flat_map(rules) {
                    match bind_rule(&method, rule) {
                        Ok(plan) => plans.push(Arc::new(plan)),
                        Err(problem) => problems.push(problem),
                    }
                }
            }
        }
        Ok(Self { pool, plans: plans.into(), problems: problems.into() })
    }

    /// Returns the same with these rules: each stands in for all that the annotation of its method says, and the plain binding stays. Of several about
    /// one method the first counts. Costs a look at each plan, no linking.
    ///
    /// What cannot be served of a rule, or a method that is not there, is among `problems`; the annotation of a method with a rule does not come back
    /// for it.
    #[must_use]
    pub fn with_rules<'r>(&self, rules: impl IntoIterator<Item = &'r HttpRule>) -> Self {
        let mut left: HashMap<&str, &HttpRule> = HashMap::new();
        let mut order: Vec<&HttpRule> = Vec::new();
        for rule in rules {
            left.entry(rule.selector.as_str()).or_insert_with(|| {
                order.push(rule);
                rule
            });
        }
        let mut plans = Vec::with_capacity(self.plans.len());
        let mut problems: Vec<RuleProblem> =
            self.problems.iter().filter(|it| !left.contains_key(it.method.as_str())).cloned().collect();
        let mut bound: Vec<&str> = Vec::new();
        for plan in &*self.plans {
            let method = plan.method();
            let Some(rule) = left.get(method.full_name()).copied() else {
                plans.push(Arc::clone(plan));
                continue;
            };
            if !plan.is_plain() {
                continue; // what the rule stands in for
            }
            plans.push(Arc::clone(plan));
            bound.push(rule.selector.as_str());
            for binding in rule.bindings() {
                match MethodPlan::ruled(method, binding) {
                    Ok(plan) => plans.push(Arc::new(plan)),
                    Err(reason) => problems.push(RuleProblem {
                        method: method.full_name.clone(),
                        kind: binding.kind.as_str().to_owned(),
                        template: binding.template.to_string(),
                        origin: Origin::Rule,
                        reason,
                    }),
                }
            }
        }
        let unknown = order.iter().filter(|it| !bound.contains(&it.selector.as_str()));
        problems.extend(unknown.map(|rule| self.unknown(&rule.selector)));
        Self { pool: self.pool.clone(), plans: plans.into(), problems: problems.into() }
    }

    /// Returns whether the set declares a method.
    pub fn declares(&self, selector: &Selector) -> bool {
        self.plans.iter().any(|plan| plan.method().full_name() == selector.as_str())
    }

    /// What is wrong with a rule about a method that is not there, and which there are.
    fn unknown(&self, selector: &Selector) -> RuleProblem {
        let plain = || self.plans.iter().filter(|plan| plan.is_plain()).map(|plan| plan.method());
        let of_service = plain().filter(|it| it.service() == selector.grpc_service());
        let methods: Vec<&str> = of_service.map(|it| it.name()).collect();
        let mut services: Vec<&str> = plain().map(|it| it.service()).collect();
        services.dedup();
        let reason = match methods.as_slice() {
            [] => format!(
                "there is no gRPC service {}; {}",
                selector.grpc_service(),
                some_of("there are", services.into_iter())
            ),
            methods => format!(
                "{} has no method {}; {}",
                selector.grpc_service(),
                selector.method(),
                some_of("it has", methods.iter().copied())
            ),
        };
        let (method, origin) = (selector.as_str().to_owned(), Origin::Rule);
        RuleProblem { method, kind: String::new(), template: String::new(), origin, reason }
    }

    /// Returns the full names of the services in the set.
    pub fn services(&self) -> impl Iterator<Item = String> + '_ {
        self.pool.services().map(|it| it.full_name().to_owned())
    }

    /// Returns every way to call every method: first its plain binding `POST /package.Service/Method`, then its
    /// `google.api.http` ones.
    pub fn plans(&self) -> &[Arc<MethodPlan>] {
        &self.plans
    }

    /// Returns the REST bindings that were left out, with reasons.
    pub fn problems(&self) -> &[RuleProblem] {
        &self.problems
    }

    /// Returns the pool. Where nothing but options needs descriptor.proto, that file is a stand-in here.
    pub fn pool(&self) -> &DescriptorPool {
        &self.pool
    }
}

impl Method {
    fn new(
        service: &ServiceDescriptor,
        method: &MethodDescriptor,
        options: Option<&raw::MethodOptions>,
        types: &Arc<Types>,
    ) -> Self {
        let id = |it: &MessageDescriptor| types.id(it.full_name()).expect("a pool holds the types of its own methods");
        Self {
            service: service.full_name().to_owned(),
            name: method.name().to_owned(),
            full_name: method.full_name().to_owned(),
            grpc_path: format!("/{}/{}", service.full_name(), method.name()),
            types: Arc::clone(types),
            input_type: id(&method.input()),
            output_type: id(&method.output()),
            input: method.input(),
            output: method.output(),
            streaming: match (method.is_client_streaming(), method.is_server_streaming()) {
                (false, false) => Streaming::Unary,
                (true, false) => Streaming::Client,
                (false, true) => Streaming::Server,
                (true, true) => Streaming::Bidi,
            },
            idempotency: match options.map(|it| it.idempotency_level) {
                Some(1) => Idempotency::NoSideEffects,
                Some(2) => Idempotency::Idempotent,
                _ => Idempotency::Unknown,
            },
            tags: Arc::default(),
        }
    }

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

/// Returns a pool that `link` filled, or its error. The linker panics at some sets that no compiler makes; what a service sends must not take the process
/// along.
///
/// # Errors
/// `SchemaError` if it panicked.
pub fn linked<E>(
    link: impl FnOnce(&mut DescriptorPool) -> Result<(), E>,
) -> Result<Result<DescriptorPool, E>, SchemaError> {
    // A pool that was left half filled is dropped.
    let attempt = AssertUnwindSafe(|| {
        let mut pool = DescriptorPool::new();
        link(&mut pool).map(|()| pool)
    });
    catch_unwind(attempt).map_err(|_| SchemaError::Link {
        file: "descriptor set".to_owned(),
        symbol: "descriptor set".to_owned(),
        reason: "it is none that a compiler makes".to_owned(),
    })
}

/// Refuses an entry of a map without a key or a value, which the linker takes and then expects to be there.
fn check_maps(pool: &DescriptorPool) -> Result<(), SchemaError> {
    let is_key =
        |kind: Kind| !matches!(kind, Kind::Double | Kind::Float | Kind::Bytes | Kind::Enum(_) | Kind::Message(_));
    let is_entry = |it: &MessageDescriptor| {
        let single = |number: u32| it.get_field(number).filter(|field| !field.is_list());
        single(1).is_some_and(|key| is_key(key.kind())) && single(2).is_some()
    };
    match pool.all_messages().find(|it| it.is_map_entry() && !is_entry(it)) {
        None => Ok(()),
        Some(entry) => Err(SchemaError::Link {
            file: entry.parent_file().name().to_owned(),
            symbol: entry.full_name().to_owned(),
            reason: "an entry of a map has a key, field 1, and a value, field 2".to_owned(),
        }),
    }
}

/// Returns a file that is supplied where a set lacks it, encoded.
pub fn supplied(name: &str) -> Option<Vec<u8>> {
    builtin::file(name)
}

fn malformed(error: prost::DecodeError) -> SchemaError {
    SchemaError::Malformed { reason: error.to_string() }
}

/// Returns a rule and its additional bindings; those of an additional binding do not count (http.proto: one level).
fn rules(rule: &raw::HttpRule) -> impl Iterator<Item = &raw::HttpRule> {
    std::iter::once(rule).chain(&rule.additional_bindings)
}

fn bind_rule(method: &Arc<Method>, rule: &raw::HttpRule) -> Result<MethodPlan, RuleProblem> {
    let (kind, template) = rule.pattern().unwrap_or_default();
    let refuse = |reason: String| RuleProblem {
        method: method.full_name.clone(),
        kind: kind.clone(),
        template: template.to_owned(),
        origin: Origin::Annotation,
        reason,
    };
    if kind.is_empty() {
        return Err(refuse("the rule names no HTTP method".to_owned()));
    }
    MethodPlan::bound(method, &kind, template, &rule.body, &rule.response_body).map_err(refuse)
}

/// Prints the first names of a list, as something to choose from.
pub(crate) fn some_of<'n>(there: &str, names: impl Iterator<Item = &'n str>) -> String {
    const SHOWN: usize = 8;
    let names: Vec<&str> = names.collect();
    match names.as_slice() {
        [] => format!("{there} none"),
        names if names.len() <= SHOWN => format!("{there} {}", names.join(", ")),
        names => format!("{there} {} and {} more", names[..SHOWN].join(", "), names.len() - SHOWN),
    }
}

/// Returns the full name of what `path` leads to in a file descriptor, or the file's name.
///
/// `path` is as in `SourceCodeInfo.Location`: field numbers of descriptor.proto alternating with indexes.
fn symbol_at(set: &raw::FileSet, file: Option<&str>, path: Option<&[i32]>) -> String {
    let (Some(name), Some(path)) = (file, path) else { return "descriptor set".to_owned() };
    let decoded = set.file.iter().filter_map(|it| FileDescriptorProto::decode(it.as_slice()).ok());
    let Some(file) = decoded.into_iter().find(|it| it.name() == name) else { return name.to_owned() };
    let mut symbol = file.package().to_owned();
    let mut push = |part: Option<&str>| {
        if let Some(part) = part {
            symbol = if symbol.is_empty() { part.to_owned() } else { format!("{symbol}.{part}") };
        }
    };
    match path {
        [3, at, ..] => return file.dependency.get(index(*at)).cloned().unwrap_or_else(|| name.to_owned()),
        [4, at, rest @ ..] => {
            file.message_type.get(index(*at)).into_iter().for_each(|it| message_symbol(it, rest, &mut push))
        }
        [5, at, rest @ ..] => {
            file.enum_type.get(index(*at)).into_iter().for_each(|it| enum_symbol(it, rest, &mut push))
        }
        [6, at, rest @ ..] => {
            let service = file.service.get(index(*at));
            push(service.map(|it| it.name()));
            if let [2, at, ..] = rest {
                push(service.and_then(|it| it.method.get(index(*at))).map(|it| it.name()));
            }
        }
        [7, at, ..] => push(file.extension.get(index(*at)).map(|it| it.name())),
        _ => return name.to_owned(),
    }
    symbol
}

fn message_symbol(message: &DescriptorProto, path: &[i32], push: &mut impl FnMut(Option<&str>)) {
    push(Some(message.name()));
    match path {
        [2, at, ..] => push(message.field.get(index(*at)).map(|it| it.name())),
        [3, at, rest @ ..] => {
            message.nested_type.get(index(*at)).into_iter().for_each(|it| message_symbol(it, rest, push))
        }
        [4, at, rest @ ..] => message.enum_type.get(index(*at)).into_iter().for_each(|it| enum_symbol(it, rest, push)),
        [6, at, ..] => push(message.extension.get(index(*at)).map(|it| it.name())),
        [8, at, ..] => push(message.oneof_decl.get(index(*at)).map(|it| it.name())),
        _ => {}
    }
}

fn enum_symbol(it: &EnumDescriptorProto, path: &[i32], push: &mut impl FnMut(Option<&str>)) {
    push(Some(it.name()));
    if let [2, at, ..] = path {
        push(it.value.get(index(*at)).map(|it| it.name()));
    }
}

fn index(at: i32) -> usize {
    usize::try_from(at).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests;
