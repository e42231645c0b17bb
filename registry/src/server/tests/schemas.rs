//! Descriptor sets on their way in and out, and whose names are whose.

use bytes::Bytes;
use prost_reflect::DescriptorPool;

use super::*;

fn files(set: &[u8]) -> Vec<Bytes> {
    DescriptorPool::decode(set).unwrap().files().map(|f| f.encode_to_vec().into()).collect()
}

impl World {
    async fn put(&mut self, set: &[u8]) -> Bytes {
        let request = PutDescriptorsRequest { files: files(set) };
        self.registry.put_descriptors(request).await.unwrap().into_inner().digest
    }

    async fn offers(&mut self, service: &str) -> Vec<String> {
        let list = self.discovery.list(ListRequest { service: service.into() }).await.unwrap().into_inner();
        let info = list.services[0].info.clone().unwrap();
        info.grpc_services.into_iter().map(|s| s.name).collect()
    }
}

fn carrying(instance: Instance, digest: &Bytes) -> Instance {
    Instance { descriptor_digest: digest.clone(), ..instance }
}

#[tokio::test(start_paused = true)]
async fn a_set_is_asked_for_once_stored_once_and_given_back_as_it_came() {
    let mut world = World::new().await;
    let set = weft_proto::descriptors::SHOP_USERS;
    let digest: Bytes = crate::schema::link(files(set)).unwrap().digest.0.to_vec().into();
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
