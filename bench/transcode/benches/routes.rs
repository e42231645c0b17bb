//! What a table of routes costs to load, and one of them to find.
//!
//! Lives here: services by the hundred, each with a descriptor set of its own as instances register them. Does not:
//! what the table answers (unit tests beside the code).

use std::hint::black_box;
use std::time::Duration;

use anyhow::ensure;
use protox::Compiler;
use protox::file::{ChainFileResolver, File, FileResolver, GoogleFileResolver};
use weft_bench::figures::Figure;
use weft_transcode::{Lookup, RouteTable, Schema};

/// Services of each table; every one has four methods with a route each.
const SIZES: [usize; 3] = [5, 50, 500];

const HTTP: &str = include_str!("../../../proto/google/api/http.proto");
const ANNOTATIONS: &str = include_str!("../../../proto/google/api/annotations.proto");

struct Files(String);

impl FileResolver for Files {
    fn open_file(&self, name: &str) -> Result<File, protox::Error> {
        match name {
            "service.proto" => File::from_source(name, &self.0),
            "google/api/http.proto" => File::from_source(name, HTTP),
            "google/api/annotations.proto" => File::from_source(name, ANNOTATIONS),
            _ => Err(protox::Error::file_not_found(name)),
        }
    }
}

pub(crate) fn measure(rounds: usize, length: Duration) -> anyhow::Result<()> {
    println!("\nroutes, each service with 4 and a descriptor set of its own");
    for services in SIZES {
        let sets: Vec<Vec<u8>> = (0..services).map(set).collect::<Result<_, _>>()?;
        let (mut linking, mut building, mut finding) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..rounds {
            let start = crate::processor();
            let schemas: Vec<Schema> = sets.iter().map(|it| Schema::decode(it)).collect::<Result<_, _>>()?;
            linking.push((crate::processor() - start).as_secs_f64() * 1e3);
            let start = crate::processor();
            let table =
                schemas.iter().enumerate().fold(RouteTable::builder(), |table, (at, it)| table.add(it, at)).build();
            building.push((crate::processor() - start).as_secs_f64() * 1e3);
            ensure!(table.problems().is_empty(), "a route was left out");
            let paths: Vec<String> =
                (0..64).map(|it| format!("/v1/area{}/things/some-id:check", it * 7 % services)).collect();
            let find =
                || paths.iter().filter(|it| matches!(black_box(table.lookup("POST", it)), Lookup::Found(_))).count();
            ensure!(find() == paths.len(), "a route was not found");
            finding.push(crate::time(length, &find) * 1e3 / paths.len() as f64);
        }
        let figures = [&linking, &building, &finding].map(|it| Figure::of(it));
        let [Some(linking), Some(building), Some(finding)] = figures else { continue };
        println!(
            "  {:5} routes: ms to link {linking}, ms to build the table {building}, ns to find one {finding}",
            services * 4
        );
    }
    Ok(())
}

fn set(number: usize) -> anyhow::Result<Vec<u8>> {
    let source = format!(
        r#"syntax = "proto3";
        package area{number}.v1;
        import "google/api/annotations.proto";
        message Thing {{ string id = 1; string name = 2; repeated string notes = 3; map<string, string> labels = 4; }}
        message ThingRequest {{ string id = 1; Thing thing = 2; int32 page = 3; }}
        message ThingList {{ repeated Thing things = 1; }}
        service Things {{
          rpc Get(ThingRequest) returns (Thing) {{ option (google.api.http) = {{ get: "/v1/area{number}/things/{{id}}" }}; }}
          rpc List(ThingRequest) returns (ThingList) {{ option (google.api.http) = {{ get: "/v1/area{number}/things" }}; }}
          rpc Update(ThingRequest) returns (Thing) {{ option (google.api.http) = {{ patch: "/v1/area{number}/things/{{id}}" body: "thing" }}; }}
          rpc Check(ThingRequest) returns (Thing) {{ option (google.api.http) = {{ post: "/v1/area{number}/things/{{id}}:check" body: "*" }}; }}
        }}"#
    );
    let mut files = ChainFileResolver::new();
    files.add(Files(source));
    files.add(GoogleFileResolver::new());
    let mut compiler = Compiler::with_file_resolver(files);
    compiler.include_imports(true).open_file("service.proto")?;
    Ok(compiler.encode_file_descriptor_set())
}
