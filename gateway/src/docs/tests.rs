//! Documents of large tables.

use std::sync::atomic::{AtomicU64, Ordering};

use protox::file::{ChainFileResolver, DescriptorSetFileResolver, File, FileResolver};
use weft_discovery::DescriptorSet;
use weft_transcode::Settings;

use super::*;
use crate::{
    edge::{metrics::Meters, policies::Scopes},
    routes::{Entry, sets::LinkedSet},
};

const SERVICES: usize = 500;
const METHODS: usize = 4;

struct Text(String);

impl FileResolver for Text {
    fn open_file(&self, name: &str) -> Result<File, protox::Error> {
        if name == "it.proto" { File::from_source(name, &self.0) } else { Err(protox::Error::file_not_found(name)) }
    }
}

fn entry(at: usize) -> Entry {
    let method = |it: usize| {
        format!(
            "rpc Do{it}(It) returns (It) {{ option (google.api.http) = {{ post: \"/s{at}/do{it}/{{id}}\" body: \"*\" }}; }}"
        )
    };
    let methods: String = (0..METHODS).map(method).collect();
    let text = format!(
        "syntax = \"proto3\"; package s{at}.v1; import \"google/api/annotations.proto\";
         message Part {{ string name = 1; repeated int64 sizes = 2; }}
         message It {{ string id = 1; Part part = 2; map<string, Part> parts = 3; bool flag = 4; }} service Api {{ {methods} }}"
    );
    let mut resolver = ChainFileResolver::new();
    resolver.add(Text(text));
    resolver.add(DescriptorSetFileResolver::decode(weft_proto::descriptors::SHOP_USERS).unwrap());
    let mut compiler = protox::Compiler::with_file_resolver(resolver);
    compiler.include_imports(true).open_file("it.proto").unwrap();
    let set = DescriptorSet::from_encoded_set(&compiler.encode_file_descriptor_set()).unwrap();
    let set = LinkedSet::link(&set).unwrap();
    Entry { name: format!("s{at}").parse().unwrap(), info: Arc::new(set.info()), sets: vec![Arc::new(set)] }
}

#[tokio::test(flavor = "current_thread")]
async fn two_thousand_routes_are_described_once_while_the_thread_that_asks_goes_on() {
    let entries = (0..SERVICES).map(entry).collect();
    let table = Arc::new(Table::build(entries, Scopes::default(), &Meters::new(&weft_runtime::Metrics::default())));
    let codec = Codec::new(Settings::default());
    let turns = AtomicU64::new(0);
    let began = tokio::time::Instant::now();
    let ask = || documents_of(&table, &codec, "large", 1024);
    let asked = async { tokio::join!(ask(), ask()) };
    let others = async {
        loop {
            turns.fetch_add(1, Ordering::Relaxed);
            task::yield_now().await;
        }
    };
    let (first, second) = tokio::select! {
        both = asked => both,
        () = others => unreachable!("it has no end"),
    };
    let (first, second) = (first.unwrap(), second.unwrap());
    assert!(Arc::ptr_eq(&first, &second), "made once");
    println!("{} bytes of JSON, {} of YAML in {:?}", first.json.body.len(), first.yaml.body.len(), began.elapsed());
    assert!(turns.load(Ordering::Relaxed) > 100, "the thread stood still while the document was made");
    let document: serde_json::Value = serde_json::from_slice(&first.json.body).unwrap();
    assert_eq!(document["paths"].as_object().unwrap().len(), SERVICES * METHODS);
    assert_eq!(document["components"]["schemas"].as_object().unwrap().len(), SERVICES * 2 + 2);
}
