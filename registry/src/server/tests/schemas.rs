//! Descriptor sets on their way in and out, and whose names are whose.

use bytes::Bytes;
use prost_reflect::DescriptorPool;
use weft_proto::weft::{
    discovery::v1::{Claim, ClaimsRequest, ClaimsResponse, claim::Refused},
    model::v1::ServiceInfo,
    registry::v1::{MoveClaimRequest, ReleaseClaimRequest},
};

use super::*;

fn files(set: &[u8]) -> Vec<Bytes> {
    DescriptorPool::decode(set).unwrap().files().map(|f| f.encode_to_vec().into()).collect()
}

impl World {
    async fn put(&mut self, set: &[u8]) -> Bytes {
        self.put_files(files(set)).await
    }

    async fn put_files(&mut self, files: Vec<Bytes>) -> Bytes {
        let request = PutDescriptorsRequest { files, ..Default::default() };
        self.registry.put_descriptors(request).await.unwrap().into_inner().digest
    }

    async fn info(&mut self, service: &str) -> ServiceInfo {
        let list = self.discovery.list(ListRequest { service: service.into() }).await.unwrap().into_inner();
        list.services[0].info.clone().unwrap()
    }

    async fn claims(&mut self) -> ClaimsResponse {
        self.discovery.claims(ClaimsRequest {}).await.unwrap().into_inner()
    }

    async fn claim(&mut self, name: &str) -> Option<Claim> {
        self.claims().await.claims.into_iter().find(|claim| claim.name == name)
    }

    async fn move_claim(&mut self, name: &str, to: &str) -> Result<Vec<String>, Status> {
        let request = MoveClaimRequest { name: name.into(), to: to.into() };
        Ok(self.registry.move_claim(request).await?.into_inner().moved)
    }

    async fn release_claim(&mut self, name: &str) -> Result<Vec<String>, Status> {
        let request = ReleaseClaimRequest { name: name.into() };
        Ok(self.registry.release_claim(request).await?.into_inner().released)
    }

    async fn offers(&mut self, service: &str) -> Vec<String> {
        self.info(service).await.grpc_services.into_iter().map(|s| s.name).collect()
    }
}

fn carrying(instance: Instance, digest: &Bytes) -> Instance {
    Instance { descriptor_digest: digest.clone(), ..instance }
}

#[tokio::test(start_paused = true)]
async fn a_set_is_asked_for_once_stored_once_and_given_back_as_it_came() {
    let mut world = World::new().await;
    let set = weft_proto::descriptors::SHOP_USERS;
    let digest: Bytes = crate::schema::link(files(set), Default::default()).unwrap().digest.0.to_vec().into();
    let ask = MissingDescriptorsRequest { digests: vec![digest.clone()] };
    let missing = world.registry.missing_descriptors(ask.clone()).await.unwrap().into_inner().digests;
    assert_eq!(missing, std::slice::from_ref(&digest));
    world.register(carrying(users(1), &digest)).await.unwrap();
    assert_eq!(world.offers("users").await, [] as [&str; 0], "the bytes are not there yet");
    assert_eq!(world.put(set).await, digest);
    assert_eq!(world.put(set).await, digest);
    let missing = world.registry.missing_descriptors(ask).await.unwrap().into_inner().digests;
    assert_eq!(missing, [] as [Bytes; 0]);
    assert_eq!(world.offers("users").await, ["shop.users.v1.Users"]);
    for asked in [Bytes::new(), digest.clone()] {
        let request = DescriptorsRequest { service: "users".into(), digest: asked };
        let answer = world.discovery.descriptors(request).await.unwrap().into_inner();
        assert_eq!(answer.digest, digest);
        let mut expected = files(set);
        expected.sort();
        let mut got = answer.files;
        got.sort();
        assert_eq!(got, expected);
    }
}

#[tokio::test(start_paused = true)]
async fn a_name_belongs_to_the_first_service_that_claimed_it() {
    let mut world = World::new().await;
    let digest = world.put(weft_proto::descriptors::SHOP_USERS).await;
    let first = world.register(carrying(users(1), &digest)).await.unwrap();
    world.register(carrying(instance("impostor", 2), &digest)).await.unwrap();
    assert_eq!(world.offers("users").await, ["shop.users.v1.Users"]);
    assert_eq!(world.offers("impostor").await, [] as [&str; 0]);
    assert!(world.metrics.encode().contains("weft_registry_claims_refused_total 1"));
    world.deregister(&id(1), first.epoch).await.unwrap();
    world.register(carrying(instance("impostor", 3), &digest)).await.unwrap();
    assert_eq!(world.offers("impostor").await, [] as [&str; 0], "a claim outlives its instances");
}

#[tokio::test(start_paused = true)]
async fn a_service_declares_and_claims_nothing_of_what_it_merely_imports() {
    const ORDERS: &str = r#"
        syntax = "proto3";
        package orders.v1;
        import "shop/users/v1/users.proto";
        message Order { shop.users.v1.User buyer = 1; }
        service Orders { rpc Place(Order) returns (Order); }
    "#;
    let mut world = World::new().await;
    let orders = PutDescriptorsRequest {
        files: compiled(ORDERS),
        services: vec!["orders.v1.Orders".into()],
        ..Default::default()
    };
    let all = world.put_files(orders.files.clone()).await;
    let orders_set = world.registry.put_descriptors(orders.clone()).await.unwrap().into_inner().digest;
    assert_ne!(orders_set, all, "what is served is part of the set");
    world.register(carrying(instance("orders", 1), &orders_set)).await.unwrap();
    assert_eq!(world.offers("orders").await, ["orders.v1.Orders"], "first there, and yet");
    assert_eq!(world.claim(USER).await, None);

    let users_set = world.put(weft_proto::descriptors::SHOP_USERS).await;
    world.register(carrying(users(2), &users_set)).await.unwrap();
    assert_eq!(world.offers("users").await, ["shop.users.v1.Users"]);
    assert_eq!(world.claim(USER).await.unwrap().holder, "users.default");
    assert_eq!(world.info("orders").await.refused_claims, []);

    let ask = DescriptorsRequest { service: "orders".into(), ..Default::default() };
    let given = world.discovery.descriptors(ask).await.unwrap().into_inner();
    assert_eq!((given.digest, given.services), (orders_set, orders.services.clone()));
    let lie = PutDescriptorsRequest { services: vec!["orders.v1.Others".into()], ..orders };
    let refused = world.registry.put_descriptors(lie).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert_eq!(refused.get_error_details().bad_request().unwrap().field_violations[0].field, "services");
}

#[tokio::test(start_paused = true)]
async fn the_newest_set_of_a_serving_instance_is_the_one_given() {
    let mut world = World::new().await;
    let old = world.put(weft_proto::descriptors::SHOP_USERS).await;
    let new = world.put(weft_proto::descriptors::TESTKIT).await;
    world.register(carrying(users(1), &old)).await.unwrap();
    let starting = Instance { status: Health::Starting.into(), ..carrying(users(2), &new) };
    let lease = world.register(starting).await.unwrap();
    let ask = || DescriptorsRequest { service: "users".into(), ..Default::default() };
    assert_eq!(world.discovery.descriptors(ask()).await.unwrap().into_inner().digest, old);
    world.set_status(&id(2), lease.epoch, Health::Serving).await.unwrap();
    assert_eq!(world.discovery.descriptors(ask()).await.unwrap().into_inner().digest, new);
    assert_eq!(world.offers("users").await, ["shop.users.v1.Users", "weft.testkit.v1.Echo"]);
    world.deregister(&id(1), 0).await.unwrap();
    assert_eq!(world.offers("users").await, ["weft.testkit.v1.Echo"]);
}

/// A foreign service: one template of users under another variable's name, and things of its own.
const ACME: &str = r#"
    syntax = "proto3";
    package acme.v1;
    import "google/api/annotations.proto";
    message It { string name = 1; }
    service Api {
      rpc Steal(It) returns (It) {
        option (google.api.http) = { get: "/acme/users/{name}" additional_bindings { get: "/api/users/{name}" } };
      }
      rpc Own(It) returns (It) { option (google.api.http) = { get: "/acme" }; }
    }
"#;

struct Text(&'static str);

impl protox::file::FileResolver for Text {
    fn open_file(&self, name: &str) -> Result<protox::file::File, protox::Error> {
        match name {
            "text.proto" => protox::file::File::from_source(name, self.0),
            _ => Err(protox::Error::file_not_found(name)),
        }
    }
}

fn compiled(text: &'static str) -> Vec<Bytes> {
    let mut resolver = protox::file::ChainFileResolver::new();
    resolver.add(Text(text));
    resolver.add(protox::file::DescriptorSetFileResolver::decode(weft_proto::descriptors::SHOP_USERS).unwrap());
    let mut compiler = protox::Compiler::with_file_resolver(resolver);
    compiler.include_imports(true).open_file("text.proto").unwrap();
    weft_proto::descriptors::split(&compiler.encode_file_descriptor_set()).unwrap()
}

const USER: &str = "GET /api/users/*";

#[tokio::test(start_paused = true)]
async fn a_template_belongs_to_the_first_service_whatever_its_variables_are_called() {
    let mut world = World::new().await;
    let (users_set, acme_set) = (world.put_files(shop_users()).await, world.put_files(compiled(ACME)).await);
    let users = world.register(carrying(users(1), &users_set)).await.unwrap();
    let before = world.info("users").await;
    world.register(carrying(instance("acme", 2), &acme_set)).await.unwrap();

    assert_eq!(world.offers("acme").await, ["acme.v1.Api"], "all else of it serves");
    let refused = world.info("acme").await.refused_claims;
    assert_eq!(refused.len(), 1, "{refused:?}");
    assert_eq!((refused[0].name.as_str(), refused[0].holder.as_str()), (USER, "users.default"));
    assert_eq!(world.info("users").await, before, "nothing changes for users");
    let claim = world.claim(USER).await.unwrap();
    let acme = Refused { claimant: "acme.default".into(), method: "acme.v1.Api/Steal".into() };
    assert_eq!(
        claim,
        Claim {
            name: USER.into(),
            holder: "users.default".into(),
            placed: false,
            holder_present: true,
            refused: vec![acme]
        }
    );
    assert_eq!(world.claim("GET /acme/users/*").await.unwrap().holder, "acme.default");
    assert!(world.metrics.encode().contains("weft_registry_claims_refused_total 1"));

    world.deregister(&id(1), users.epoch).await.unwrap();
    let claim = world.claim(USER).await.unwrap();
    assert!(claim.holder == "users.default" && !claim.holder_present, "{claim:?}");
}

fn shop_users() -> Vec<Bytes> {
    weft_proto::descriptors::split(weft_proto::descriptors::SHOP_USERS).unwrap()
}

#[tokio::test(start_paused = true)]
async fn an_operator_moves_a_name_and_its_templates_with_it() {
    let mut world = World::new().await;
    let set = world.put_files(shop_users()).await;
    world.register(carrying(users(1), &set)).await.unwrap();
    world.register(carrying(instance("people", 2), &set)).await.unwrap();
    let refused = world.info("people").await.refused_claims;
    assert_eq!(refused.len(), 1, "a name that is refused as a whole is told once: {refused:?}");

    let moved = world.move_claim("shop.users.v1.Users", "people").await.unwrap();
    assert_eq!(moved.len(), 6, "the name and five templates: {moved:?}");
    assert_eq!(world.offers("people").await, ["shop.users.v1.Users"]);
    assert_eq!(world.info("people").await.refused_claims, []);
    assert_eq!(world.offers("users").await, [] as [&str; 0]);
    assert_eq!(world.info("users").await.refused_claims.len(), 1);
    let claim = world.claim(USER).await.unwrap();
    assert!(claim.holder == "people.default" && claim.placed, "{claim:?}");

    assert_eq!(world.move_claim("get /api/users/{anything}", "elsewhere").await.unwrap(), [USER]);
    assert_eq!(world.info("people").await.refused_claims[0].holder, "elsewhere.default");
    for (name, to) in [("", "users"), ("/api/users", "users"), ("GET /a/{", "users"), ("a.B", "Users")] {
        assert_eq!(world.move_claim(name, to).await.unwrap_err().code(), Code::InvalidArgument, "{name:?} {to:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_claim_of_a_service_that_is_gone_is_released_to_who_was_refused_it() {
    let mut world = World::new().await;
    let set = world.put_files(shop_users()).await;
    let users = world.register(carrying(users(1), &set)).await.unwrap();
    world.register(carrying(instance("people", 2), &set)).await.unwrap();
    let name = "shop.users.v1.Users";
    let held = world.release_claim(name).await.unwrap_err();
    assert_eq!(held.code(), Code::FailedPrecondition, "its holder would take it again");
    assert!(held.message().contains("users") && held.message().contains("move"), "{held}");
    assert_eq!(world.release_claim("a.Stranger").await.unwrap_err().code(), Code::NotFound);

    world.deregister(&id(1), users.epoch).await.unwrap();
    assert_eq!(world.release_claim(name).await.unwrap().len(), 6);
    assert_eq!(world.offers("people").await, [name]);
    assert_eq!(world.claim(USER).await.unwrap().holder, "people.default");
}

#[tokio::test(start_paused = true)]
async fn of_two_versions_side_by_side_a_method_says_which_lacks_it() {
    const ONE: &str = r#"
        syntax = "proto3";
        package two.v1;
        message It {}
        service Api { rpc Both(It) returns (It); rpc Gone(It) returns (It); }
    "#;
    const TWO: &str = r#"
        syntax = "proto3";
        package two.v1;
        message It {}
        service Api { rpc Both(It) returns (It); rpc New(It) returns (It); }
    "#;
    let mut world = World::new().await;
    let (one, two) = (world.put_files(compiled(ONE)).await, world.put_files(compiled(TWO)).await);
    let old = world.register(carrying(instance("two", 1), &one)).await.unwrap();
    let missing = |info: &ServiceInfo| -> Vec<(String, Vec<u32>)> {
        info.grpc_services[0].methods.iter().map(|method| (method.name.clone(), method.missing_in.clone())).collect()
    };
    assert_eq!(missing(&world.info("two").await), [("Both".into(), vec![]), ("Gone".into(), vec![])]);
    world.register(carrying(instance("two", 2), &two)).await.unwrap();
    let info = world.info("two").await;
    assert_eq!(info.descriptor_digests, [two, one], "the newest first");
    assert_eq!(missing(&info), [("Both".into(), vec![]), ("New".into(), vec![1]), ("Gone".into(), vec![0])]);
    world.deregister(&id(1), old.epoch).await.unwrap();
    assert_eq!(missing(&world.info("two").await), [("Both".into(), vec![]), ("New".into(), vec![])]);
}

#[tokio::test(start_paused = true)]
async fn sets_that_nobody_carries_are_bounded_at_once() {
    let mut world = World::new().await;
    let mut digests = Vec::new();
    for n in 0..70 {
        let name = Some(format!("file{n}.proto"));
        let file = prost_reflect::prost_types::FileDescriptorProto { name, ..Default::default() };
        digests.push(world.put_files(vec![prost::Message::encode_to_vec(&file).into()]).await);
    }
    let missing = MissingDescriptorsRequest { digests: digests.clone() };
    let missing = world.registry.missing_descriptors(missing).await.unwrap().into_inner().digests;
    assert_eq!(missing, digests[..6], "the oldest are gone, before any tick");
}

#[tokio::test(start_paused = true)]
async fn a_set_is_offered_for_an_instance_of_its_service_only() {
    let mut world = World::new().await;
    world.users(1).await;
    let files = shop_users();
    let put = PutDescriptorsRequest { files, instance: id(1), service: "posts".into(), ..Default::default() };
    let refused = world.registry.put_descriptors(put).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert!(refused.message().contains("users"), "{refused}");
}

#[tokio::test(start_paused = true)]
async fn a_refused_set_is_told_until_its_instance_offers_a_good_one() {
    let mut world = World::new().await;
    let put = |files| PutDescriptorsRequest { files, instance: id(1), service: "users".into(), services: vec![] };
    let mut lacking = shop_users();
    lacking.remove(0);
    let refused = world.registry.put_descriptors(put(lacking)).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    world.register(users(1)).await.unwrap();
    let told = world.claims().await.refused_sets;
    assert_eq!(told.len(), 1, "{told:?}");
    assert_eq!((told[0].service.as_str(), told[0].instance.as_str()), ("users.default", id(1).as_str()));
    assert!(refused.message().contains(&told[0].problem), "{refused} {told:?}");
    world.registry.put_descriptors(put(shop_users())).await.unwrap();
    assert_eq!(world.claims().await.refused_sets, []);
}
