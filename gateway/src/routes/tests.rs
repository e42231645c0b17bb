//! Tables of services with several descriptor sets, and of services that were refused what they claim.

use protox::file::{ChainFileResolver, DescriptorSetFileResolver, File, FileResolver};
use weft_discovery::DescriptorSet;
use weft_model::{GrpcService, RefusedClaim};

use super::*;

struct Text(String);

impl FileResolver for Text {
    fn open_file(&self, name: &str) -> Result<File, protox::Error> {
        if name == "it.proto" { File::from_source(name, &self.0) } else { Err(protox::Error::file_not_found(name)) }
    }
}

/// A set with one service of these methods, each with its rule.
fn set(package: &str, methods: &[(&str, &str)]) -> Arc<LinkedSet> {
    let rule = |(name, rule): &(&str, &str)| {
        format!("rpc {name}(It) returns (It) {{ option (google.api.http) = {{ {rule} }}; }}")
    };
    let methods: String = methods.iter().map(rule).collect();
    let text = format!(
        "syntax = \"proto3\"; package {package}; import \"google/api/annotations.proto\";
         message It {{ string id = 1; }} service Api {{ {methods} }}"
    );
    let mut resolver = ChainFileResolver::new();
    resolver.add(Text(text));
    resolver.add(DescriptorSetFileResolver::decode(weft_proto::descriptors::SHOP_USERS).unwrap());
    let mut compiler = protox::Compiler::with_file_resolver(resolver);
    compiler.include_imports(true).open_file("it.proto").unwrap();
    let set = DescriptorSet::from_encoded_set(&compiler.encode_file_descriptor_set()).unwrap();
    Arc::new(LinkedSet::link(&set).unwrap())
}

fn entry(name: &str, package: &str, sets: Vec<Arc<LinkedSet>>, refused: &[(&str, &str)]) -> Entry {
    let refused = refused.iter().map(|(name, holder)| RefusedClaim {
        name: (*name).to_owned(),
        holder: holder.parse().unwrap(),
        method: format!("{package}.Api/It"),
    });
    let info = ServiceInfo {
        grpc_services: vec![GrpcService { name: format!("{package}.Api"), methods: Vec::new() }],
        refused: refused.collect(),
        ..ServiceInfo::default()
    };
    Entry { name: name.parse().unwrap(), info: Arc::new(info), sets }
}

fn table(entries: Vec<Entry>) -> Table {
    Table::build(entries, Scopes::default(), &Meters::new(&weft_runtime::Metrics::default()))
}

/// Service and method that a path leads to.
fn leads(table: &Table, http_method: &str, path: &str) -> Option<(String, String)> {
    match table.rest(http_method, path) {
        Rest::Found(found) => Some((found.service.to_string(), found.plan.method().name().to_owned())),
        Rest::MethodNotAllowed(_) | Rest::NotFound => None,
    }
}

fn to(service: &str, method: &str) -> Option<(String, String)> {
    Some((service.to_owned(), method.to_owned()))
}

#[test]
fn a_method_is_bound_by_the_first_set_that_declares_it_and_none_is_left_out() {
    let old = set("a.v1", &[("Both", "get: \"/old/both\""), ("Gone", "get: \"/gone\"")]);
    let new = set("a.v1", &[("Both", "get: \"/new/both\""), ("New", "get: \"/new\"")]);
    let table = table(vec![entry("a", "a.v1", vec![new, old], &[])]);
    assert_eq!(leads(&table, "GET", "/new/both"), to("a", "Both"));
    assert_eq!(leads(&table, "GET", "/old/both"), None, "the newest says how it is called");
    assert_eq!(leads(&table, "GET", "/new"), to("a", "New"));
    assert_eq!(leads(&table, "GET", "/gone"), to("a", "Gone"), "instances that have it are still there");
    assert_eq!(leads(&table, "POST", "/a.v1.Api/Gone"), to("a", "Gone"));
    assert_eq!(table.problems(), [""; 0]);
}

#[test]
fn what_the_registry_refused_a_service_is_not_routed_to_it_even_if_it_came_first() {
    let rule = "get: \"/x/{id}\" additional_bindings { get: \"/y\" }";
    let (thief, owner) = (set("t.v1", &[("It", rule)]), set("o.v1", &[("It", "get: \"/x/{id}\"")]));
    let entries =
        vec![entry("thief", "t.v1", vec![thief], &[("GET /x/*", "owner")]), entry("owner", "o.v1", vec![owner], &[])];
    let table = table(entries);
    assert_eq!(leads(&table, "GET", "/x/1"), to("owner", "It"));
    assert_eq!(leads(&table, "GET", "/y"), to("thief", "It"), "the rest of it serves");
    assert_eq!(table.problems(), ["GET /x/* belongs to owner; that of t.v1.Api/It of thief is not routed"]);
}

#[test]
fn no_template_takes_the_grpc_path_of_another_service() {
    let thief = set("t.v1", &[("It", "post: \"/o.v1.Api/It\" body: \"*\"")]);
    let owner = set("o.v1", &[("It", "get: \"/o\"")]);
    let table = table(vec![entry("thief", "t.v1", vec![thief], &[]), entry("owner", "o.v1", vec![owner], &[])]);
    assert_eq!(leads(&table, "POST", "/o.v1.Api/It"), to("owner", "It"));
    assert_eq!(table.problems().len(), 1);
}
