//! Descriptor sets on their way to the registry and back.

use std::time::Duration;

use bytes::Bytes;
use tonic::{Code, Status};
use weft_discovery::{BadDescriptors, DescriptorSet};
use weft_model::{Digest, InstanceId, ServiceName};
use weft_proto::weft::{discovery::v1 as discovery, registry::v1 as registry};

use crate::fake::{Fake, soon};

const WITHIN: Duration = Duration::from_secs(10);

fn users() -> DescriptorSet {
    DescriptorSet::from_encoded_set(weft_proto::descriptors::SHOP_USERS).unwrap().serving(names())
}

fn names() -> Vec<String> {
    vec!["shop.users.v1.Users".to_owned()]
}

fn digest(set: &DescriptorSet) -> Bytes {
    Bytes::copy_from_slice(&set.digest().0)
}

#[tokio::test]
async fn only_a_set_that_the_registry_lacks_is_sent() {
    let mut fake = Fake::start().await;
    let (registries, set) = (fake.registries(), users());
    let serve = async {
        let call = soon("a question", fake.missing.recv()).await.unwrap();
        assert_eq!(call.request.digests, [digest(&set)]);
        call.answer(Ok(registry::MissingDescriptorsResponse { digests: vec![digest(&set)] }));
        let call = soon("the set", fake.puts.recv()).await.unwrap();
        assert_eq!(call.request.services, names());
        assert_eq!(DescriptorSet::new(call.request.files.clone()).unwrap().serving(names()), set);
        let offered_by = (call.request.instance.clone(), call.request.service.as_str());
        assert_eq!(offered_by, (INSTANCE.to_string(), "users.default"));
        call.answer(Ok(registry::PutDescriptorsResponse { digest: digest(&set) }));
        let call = soon("a question", fake.missing.recv()).await.unwrap();
        call.answer(Ok(registry::MissingDescriptorsResponse::default()));
    };
    let store = async {
        registries.store_descriptors(&set, &INSTANCE, &service(), WITHIN).await.unwrap();
        registries.store_descriptors(&set, &INSTANCE, &service(), WITHIN).await.unwrap();
    };
    tokio::join!(serve, store);
    assert!(fake.puts.try_recv().is_err());
}

const INSTANCE: InstanceId = InstanceId::from_bytes([1; 16]);

fn service() -> ServiceName {
    "users".parse().unwrap()
}

#[tokio::test]
async fn a_refused_set_is_the_callers_to_know() {
    let mut fake = Fake::start().await;
    let (registries, set, service) = (fake.registries(), users(), service());
    let serve = async {
        let call = soon("a question", fake.missing.recv()).await.unwrap();
        call.answer(Err(Status::invalid_argument("users.proto: shop.users.v1.User is missing")));
    };
    let (stored, ()) = tokio::join!(registries.store_descriptors(&set, &INSTANCE, &service, WITHIN), serve);
    assert_eq!(stored.unwrap_err().code(), Some(Code::InvalidArgument));
}

#[tokio::test]
async fn a_fetched_set_must_be_the_one_asked_for() {
    let mut fake = Fake::start().await;
    let (registries, set, users_name) = (fake.registries(), users(), "users".parse().unwrap());
    for asked in [None, Some(set.digest()), Some(Digest([7; 32]))] {
        let serve = async {
            let call = soon("a question", fake.descriptors.recv()).await.unwrap();
            assert_eq!(call.request.service, "users.default");
            let files = set.files().cloned().collect();
            call.answer(Ok(discovery::DescriptorsResponse { digest: digest(&set), files, services: names() }));
        };
        let (fetched, ()) = tokio::join!(registries.descriptors(&users_name, asked, WITHIN), serve);
        match asked {
            Some(digest) if digest != set.digest() => assert!(matches!(fetched, Err(BadDescriptors::Other { .. }))),
            Some(_) | None => assert_eq!(fetched.unwrap(), set),
        }
    }
}
