//! The table from HTTP method and path to the method to call.
//!
//! Lives here: building the table from many schemas, looking up a raw path, saying what is wrong with the set of routes. Does not: decoding
//! what a variable matched (`bind`).
//! Invariants: at the leftmost segment where two templates differ, a literal beats `*` and `*` beats `**`, among the bindings of the request's HTTP
//! method; what was added first keeps a service name or a template; the path is matched undecoded.

use std::sync::Arc;

use crate::plan::MethodPlan;
use crate::schema::Schema;

/// Routes of many services. `T` says whose a route is; the table only hands it back.
#[derive(Debug)]
pub struct RouteTable<T> {
    _owners: Vec<T>,
}

/// Collects schemas for a `RouteTable`. Order matters: the first to claim a name or a template keeps it.
#[derive(Debug)]
pub struct RouteTableBuilder<T> {
    _owners: Vec<T>,
}

/// What a path leads to.
#[derive(Debug, Clone)]
pub enum Lookup<T> {
    /// Call this.
    Found(Match<T>),
    /// The path exists for other methods, named here in alphabetical order: 405 with `Allow`.
    MethodNotAllowed {
        /// Values for the `Allow` header.
        allow: Vec<String>,
    },
    /// No template matches: 404.
    NotFound,
}

/// A matched route.
#[derive(Debug, Clone)]
pub struct Match<T> {
    /// What to call and how to bind it.
    pub plan: Arc<MethodPlan>,
    /// What the schema was added with.
    pub owner: T,
    /// What the template's variables matched, undecoded, in the order of the template.
    pub variables: PathVariables,
}

/// Raw values of a template's variables.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PathVariables(pub(crate) Vec<String>);

/// Something about the set of routes that an operator should know; the table works without what it names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RouteProblem<T> {
    /// A second schema brings a service name that is taken; none of its methods are routed.
    Service {
        /// Full name of the service.
        service: String,
        /// Whose it stays.
        kept: T,
        /// Who else claimed it.
        refused: T,
    },
    /// A binding matches exactly the paths of an earlier one of the same HTTP method; the later one is left out.
    Binding {
        /// HTTP method.
        http_method: String,
        /// Template of the later binding.
        template: String,
        /// Full name of the method that keeps the paths.
        kept_method: String,
        /// Whose that is.
        kept: T,
        /// Full name of the method that lost.
        refused_method: String,
        /// Whose that is.
        refused: T,
    },
}

impl<T: Clone> RouteTable<T> {
    /// Returns a builder with nothing in it.
    pub fn builder() -> RouteTableBuilder<T> {
        todo!()
    }

    /// Returns what `path` leads to for an HTTP method (upper case). `path` is as on the wire, undecoded, without the query string.
    pub fn lookup(&self, http_method: &str, path: &str) -> Lookup<T> {
        let _ = (http_method, path);
        todo!()
    }

    /// Returns the method at `/package.Service/Method` and its owner, for native gRPC, gRPC-Web and Connect.
    pub fn method(&self, grpc_path: &str) -> Option<(&Arc<MethodPlan>, &T)> {
        let _ = grpc_path;
        todo!()
    }

    /// Returns the owner of a gRPC service name.
    pub fn service(&self, full_name: &str) -> Option<&T> {
        let _ = full_name;
        todo!()
    }

    /// Returns every routed binding with its owner, in the order added.
    pub fn plans(&self) -> impl Iterator<Item = (&Arc<MethodPlan>, &T)> {
        std::iter::empty()
    }

    /// Returns what was left out while building, with reasons.
    pub fn problems(&self) -> &[RouteProblem<T>] {
        todo!()
    }
}

impl<T: Clone> RouteTableBuilder<T> {
    /// Adds all services of a schema for `owner`. `grpc.*` services (health, reflection) are never routed.
    #[must_use]
    pub fn add(self, schema: &Schema, owner: T) -> Self {
        let _ = (schema, owner);
        todo!()
    }

    /// Adds one service of a schema, by full name; nothing if the schema lacks it.
    #[must_use]
    pub fn add_service(self, schema: &Schema, service: &str, owner: T) -> Self {
        let _ = (schema, service, owner);
        todo!()
    }

    /// Returns the table.
    pub fn build(self) -> RouteTable<T> {
        todo!()
    }
}
