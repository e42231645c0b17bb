//! Server reflection for the whole mesh: which descriptor sets are asked, and in which order.
//!
//! Lives here: the live sets of the route table as reflection sees them. Does not: answering (`weft-reflection`), linking descriptors
//! (`routes::sets`), choosing who may ask.

use std::sync::Arc;

use weft_reflection::{Descriptors, Sets};

use crate::routes::{Table, keeper::Published};

/// `:path` of the v1 stream.
pub(crate) const V1: &str = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo";
/// `:path` of the v1alpha stream.
pub(crate) const V1ALPHA: &str = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo";

/// The sets of all services that are routed now.
pub(crate) struct MeshSets(pub(crate) Published);

impl Sets for MeshSets {
    fn services(&self) -> Vec<String> {
        let table = self.0.load();
        let services = table.iter().flat_map(|table| table.entries()).flat_map(|entry| &entry.info.grpc_services);
        services.map(|service| service.name.clone()).collect()
    }

    fn sets(&self) -> Vec<Arc<Descriptors>> {
        let table = self.0.load();
        let sets = table.iter().flat_map(|table| table.entries()).flat_map(|entry| &entry.sets);
        sets.map(|set| Arc::clone(set.files())).collect()
    }

    fn owner(&self, symbol: &str) -> Option<Arc<Descriptors>> {
        owner(self.0.load().as_deref()?, symbol)
    }
}

/// Of the service that owns a gRPC service, or the one a method's name starts with: the first set that declares the symbol.
fn owner(table: &Table, symbol: &str) -> Option<Arc<Descriptors>> {
    let owns = |name: &str| symbol.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'));
    let mut entries = table.entries().iter();
    let entry = entries.find(|entry| entry.info.grpc_services.iter().any(|service| owns(&service.name)))?;
    let files = entry.sets.iter().map(|set| set.files());
    files.clone().find(|files| files.declares(symbol)).or_else(|| files.clone().next()).cloned()
}
