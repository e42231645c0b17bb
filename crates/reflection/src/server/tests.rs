//! Conversations with the users service's set, and with two sets that own a file of one name.

use bytes::Bytes;
use prost_types::{DescriptorProto, FileDescriptorProto, ServiceDescriptorProto};

use super::*;
use crate::descriptors::RawSet;

const USERS: &[u8] = weft_proto::descriptors::SHOP_USERS;

fn of_users(sets: &[&[u8]], services: &[&str]) -> Result<Reflection, BadDescriptors> {
    Reflection::new(sets, services, CancellationToken::new())
}

fn talk(reflection: &Reflection) -> Conversation {
    Conversation::new(reflection)
}

fn users() -> Conversation {
    talk(&of_users(&[USERS], &["shop.users.v1.Users"]).unwrap())
}

fn files(answer: Answer) -> Vec<FileDescriptorProto> {
    match answer {
        Answer::FileDescriptorResponse(it) => {
            it.file_descriptor_proto.iter().map(|bytes| FileDescriptorProto::decode(&**bytes).unwrap()).collect()
        }
        other => panic!("expected files, got {other:?}"),
    }
}

fn names(answer: Answer) -> Vec<String> {
    files(answer).iter().map(|file| file.name().to_owned()).collect()
}

fn listed(talk: &mut Conversation) -> Vec<String> {
    match talk.answer(Some(&Question::ListServices(String::new()))) {
        Answer::ListServicesResponse(list) => list.service.into_iter().map(|it| it.name).collect(),
        other => panic!("expected a list, got {other:?}"),
    }
}

fn symbol(name: &str) -> Option<Question> {
    Some(Question::FileContainingSymbol(name.to_owned()))
}

#[test]
fn every_kind_of_symbol_leads_to_its_file() {
    for name in [
        "shop.users.v1.Users",
        "shop.users.v1.Users.GetUser",
        "shop.users.v1.User",
        "shop.users.v1.User.email",
        "google.api.http",
        "google.protobuf.FieldDescriptorProto.TYPE_DOUBLE",
        "google.protobuf.FieldDescriptorProto.Type.TYPE_DOUBLE",
        "grpc.health.v1.Health",
        "grpc.reflection.v1alpha.ServerReflection",
    ] {
        files(users().answer(symbol(name).as_ref()));
    }
    let unknown = users().answer(symbol("shop.users.v1.Nobody").as_ref());
    assert!(matches!(unknown, Answer::ErrorResponse(it) if it.error_code == Code::NotFound as i32));
    assert!(matches!(users().answer(None), Answer::ErrorResponse(it) if it.error_code == Code::InvalidArgument as i32));
}

#[test]
fn a_file_comes_with_its_imports_and_a_stream_carries_each_once() {
    let mut talk = users();
    let first = names(talk.answer(symbol("shop.users.v1.Users").as_ref()));
    assert_eq!(first[0], "shop/users/v1/users.proto");
    for import in ["google/api/annotations.proto", "google/api/http.proto", "google/protobuf/descriptor.proto"] {
        assert!(first.iter().any(|name| name == import), "{import} is not in {first:?}");
    }
    let again = names(talk.answer(symbol("shop.users.v1.User").as_ref()));
    assert_eq!(again, ["shop/users/v1/users.proto"]);
}

#[test]
fn custom_options_arrive() {
    let Answer::FileDescriptorResponse(it) = users().answer(symbol("shop.users.v1.Users").as_ref()) else {
        panic!("expected files");
    };
    let mut pool = prost_reflect::DescriptorPool::new();
    let set = RawSet { file: it.file_descriptor_proto.into_iter().map(Bytes::from).collect() }.encode_to_vec();
    pool.decode_file_descriptor_set(&*set).unwrap();
    let http = pool.get_extension_by_name("google.api.http").unwrap();
    let users = pool.get_service_by_name("shop.users.v1.Users").unwrap();
    assert!(users.methods().all(|method| method.options().has_extension(&http)));
}

#[test]
fn extensions_are_found_by_what_they_extend() {
    let (mut talk, extended) = (users(), "google.protobuf.MethodOptions".to_owned());
    let all = talk.answer(Some(&Question::AllExtensionNumbersOfType(extended.clone())));
    assert!(matches!(all, Answer::AllExtensionNumbersResponse(it) if it.extension_number == [72_295_728]));
    let one = pb::ExtensionRequest { containing_type: extended, extension_number: 72_295_728 };
    let file = names(talk.answer(Some(&Question::FileContainingExtension(one))));
    assert_eq!(file[0], "google/api/annotations.proto");
    let unknown = talk.answer(Some(&Question::AllExtensionNumbersOfType("no.Such".to_owned())));
    assert!(matches!(unknown, Answer::ErrorResponse(_)));
}

#[test]
fn exactly_what_is_served_is_listed() {
    assert_eq!(listed(&mut users()), [&COMMON[..], &["shop.users.v1.Users"]].concat());
}

#[test]
fn a_set_that_does_not_fit_is_refused() {
    assert!(matches!(of_users(&[b"no set"], &[]), Err(BadDescriptors::Encoding(_))));
    let missing = of_users(&[USERS], &["shop.posts.v1.Posts"]);
    assert!(matches!(missing, Err(BadDescriptors::Undescribed(name)) if name == "shop.posts.v1.Posts"));
    let mut set = RawSet::decode(USERS).unwrap();
    set.file.retain(|bytes| FileDescriptorProto::decode(&**bytes).unwrap().name() == "shop/users/v1/users.proto");
    let alone = of_users(&[&set.encode_to_vec()], &[]);
    assert!(matches!(alone, Err(BadDescriptors::MissingImport { .. })));
}

/// Two owners of `common.proto`; both say they offer `twice.S`.
struct Two([Arc<Descriptors>; 2]);

impl Two {
    fn new() -> Self {
        Self(["a", "b"].map(|package| {
            let common = FileDescriptorProto {
                name: Some("common.proto".into()),
                package: Some(package.into()),
                message_type: vec![DescriptorProto { name: Some("It".into()), ..Default::default() }],
                ..Default::default()
            };
            let service = FileDescriptorProto {
                name: Some(format!("{package}.proto")),
                package: Some("twice".into()),
                dependency: vec!["common.proto".into()],
                service: vec![ServiceDescriptorProto { name: Some("S".into()), ..Default::default() }],
                ..Default::default()
            };
            let files = [common, service].map(|file| Bytes::from(file.encode_to_vec()));
            Arc::new(Descriptors::of_files(files).unwrap())
        }))
    }
}

impl Sets for Two {
    fn services(&self) -> Vec<String> {
        vec!["twice.S".into(), "twice.S".into()]
    }

    fn sets(&self) -> Vec<Arc<Descriptors>> {
        self.0.to_vec()
    }

    fn owner(&self, symbol: &str) -> Option<Arc<Descriptors>> {
        (symbol == "twice.S").then(|| self.0[1].clone())
    }
}

#[test]
fn the_owner_is_asked_first_and_the_set_that_answered_last_goes_on() {
    let mut talk = talk(&Reflection::of(Two::new(), CancellationToken::new()));
    let common = || Some(Question::FileByFilename("common.proto".into()));
    let before = files(talk.answer(common().as_ref()));
    assert_eq!(before[0].package(), "a");
    assert_eq!(names(talk.answer(symbol("twice.S").as_ref())), ["b.proto", "common.proto"]);
    let after = files(talk.answer(common().as_ref()));
    assert_eq!(after[0].package(), "b");
}

#[test]
fn a_service_that_two_sets_describe_is_listed_once() {
    let mut talk = talk(&Reflection::of(Two::new(), CancellationToken::new()));
    assert_eq!(listed(&mut talk), [&COMMON[..], &["twice.S"]].concat());
}
