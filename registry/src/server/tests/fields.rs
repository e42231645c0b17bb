//! Bad input, field by field: INVALID_ARGUMENT with the path of the field.

use weft_proto::weft::model::v1::Locality;

use super::*;

fn field(status: &Status) -> String {
    assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
    let details = status.get_error_details();
    details.bad_request().expect("a BadRequest").field_violations[0].field.clone()
}

type Breaking = fn(&mut RegisterRequest);

#[tokio::test(start_paused = true)]
async fn register_names_the_field_that_is_wrong() {
    let mut world = World::new().await;
    let cases: [(&str, Breaking); 14] = [
        ("instance", |r| r.instance = None),
        ("ttl_ms", |r| r.ttl_ms = 999),
        ("instance.id", |r| r.instance.as_mut().unwrap().id = "1".into()),
        ("instance.service", |r| r.instance.as_mut().unwrap().service = "No Name".into()),
        ("instance.endpoint", |r| r.instance.as_mut().unwrap().endpoint = None),
        ("instance.endpoint.address", |r| endpoint(r).address = "users:80".into()),
        ("instance.endpoint.transport", |r| endpoint(r).transport = None),
        ("instance.endpoint.protocol", |r| endpoint(r).protocol = 9),
        ("instance.locality.zone", |r| locality(r).zone = "x".repeat(64)),
        ("instance.locality.sub_zone", |r| locality(r).sub_zone = "rack 1".into()),
        ("instance.weight", |r| r.instance.as_mut().unwrap().weight = 65_536),
        ("instance.descriptor_digest", |r| r.instance.as_mut().unwrap().descriptor_digest = vec![1; 31].into()),
        ("instance.metadata", |r| {
            r.instance.as_mut().unwrap().metadata = (0..65).map(|n| (n.to_string(), String::new())).collect();
        }),
        ("instance.check.kind", |r| r.instance.as_mut().unwrap().check = Some(Check::default())),
    ];
    for (expected, break_it) in cases {
        let mut request = RegisterRequest { instance: Some(users(1)), ttl_ms: 0 };
        break_it(&mut request);
        assert_eq!(field(&world.registry.register(request).await.unwrap_err()), expected);
    }
    world.users(1).await;
    assert_eq!(field(&world.register(instance("posts", 1)).await.unwrap_err()), "instance.service");
    assert_eq!(world.list().await.len(), 1, "nothing of the refused was kept");
}

fn locality(request: &mut RegisterRequest) -> &mut Locality {
    request.instance.as_mut().unwrap().locality.get_or_insert_default()
}

fn endpoint(request: &mut RegisterRequest) -> &mut Endpoint {
    request.instance.as_mut().unwrap().endpoint.as_mut().unwrap()
}

#[tokio::test(start_paused = true)]
async fn the_other_writes_name_the_field_that_is_wrong() {
    let mut world = World::new().await;
    assert_eq!(field(&world.deregister("x", 1).await.unwrap_err()), "id");
    assert_eq!(field(&world.set_status("", 1, Health::Serving).await.unwrap_err()), "id");
    let drain = DrainRequest { id: "x".into(), ..Default::default() };
    assert_eq!(field(&world.registry.drain(drain).await.unwrap_err()), "id");
    let missing = MissingDescriptorsRequest { digests: vec![vec![0; 32].into(), vec![0; 3].into()] };
    assert_eq!(field(&world.registry.missing_descriptors(missing).await.unwrap_err()), "digests[1]");
    let empty = PutDescriptorsRequest::default();
    assert_eq!(field(&world.registry.put_descriptors(empty).await.unwrap_err()), "files");
    let garbled = PutDescriptorsRequest { files: vec![vec![0xff].into()], ..Default::default() };
    assert_eq!(field(&world.registry.put_descriptors(garbled).await.unwrap_err()), "files[0]");
    let mut stream = world.keep_alive().await;
    let beat = |id: String| Beat { id, ..Default::default() };
    stream.beats.send(KeepAliveRequest { beats: vec![beat(id(1)), beat("x".into())] }).await.unwrap();
    assert_eq!(field(&stream.verdicts.message().await.unwrap_err()), "beats[1].id");
}

#[tokio::test(start_paused = true)]
async fn reads_name_the_field_that_is_wrong() {
    let mut world = World::new().await;
    let list = ListRequest { service: "No Name".into() };
    assert_eq!(field(&world.discovery.list(list).await.unwrap_err()), "service");
    let request =
        |service: &str, digest: &'static [u8]| DescriptorsRequest { service: service.into(), digest: digest.into() };
    assert_eq!(field(&world.discovery.descriptors(request("", b"")).await.unwrap_err()), "service");
    assert_eq!(field(&world.discovery.descriptors(request("users", b"short")).await.unwrap_err()), "digest");
    assert_eq!(world.discovery.descriptors(request("users", b"")).await.unwrap_err().code(), Code::NotFound);
    let mut nameless = world.watch("", &["*"]).await;
    assert_eq!(field(&nameless.answers.message().await.unwrap_err()), "watcher");
    let mut bad = world.watch("test", &["users", "@everything"]).await;
    assert_eq!(field(&bad.answers.message().await.unwrap_err()), "subscribe[1]");
    let mut later = world.watch("test", &["*"]).await;
    later.next().await;
    later.send(WatchRequest { unsubscribe: vec!["-".into()], ..Default::default() }).await;
    assert_eq!(field(&later.answers.message().await.unwrap_err()), "unsubscribe[0]");
}
