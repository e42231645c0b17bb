//! Every rule of `shop.users.v1.Users`, by a real client over a real connection, on each engine.
#![forbid(unsafe_code)]
#![expect(clippy::unwrap_used, reason = "a test may; clippy knows it only of functions marked as tests")]

use std::collections::BTreeSet;

use prost_types::FieldMask;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tonic::transport::Channel;
use tonic::{Code, Status};
use tonic_types::StatusExt;
use weft_proto::shop::users::v1 as pb;
use weft_proto::shop::users::v1::users_client::UsersClient;
use weft_store::Place;
use weft_testkit::database::Rows;
use weft_users::{Store, services};

/// A service in this process and a client of it; dropped, both go.
struct Shop {
    users: UsersClient<Channel>,
    _served: JoinSet<()>,
    _rows: Rows,
}

async fn shop(rows: Rows) -> Shop {
    let store = Store::open(&Place::named(rows.dir(), rows.url()).unwrap()).await.unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let mut served = JoinSet::new();
    served.spawn(async move { services(store).run(listener, weft::Shutdown::new()).await.unwrap() });
    Shop { users: UsersClient::connect(url).await.unwrap(), _served: served, _rows: rows }
}

impl Shop {
    async fn create(&mut self, name: &str, email: &str) -> Result<pb::User, Status> {
        let request = pb::CreateUserRequest { name: name.to_owned(), email: email.to_owned() };
        self.users.create_user(request).await.map(|answer| answer.into_inner())
    }

    async fn get(&mut self, id: &str) -> Result<pb::User, Status> {
        self.users.get_user(pb::GetUserRequest { id: id.to_owned() }).await.map(|answer| answer.into_inner())
    }

    async fn list(&mut self, page_size: i32, page_token: &str) -> Result<pb::ListUsersResponse, Status> {
        let request = pb::ListUsersRequest { page_size, page_token: page_token.to_owned() };
        self.users.list_users(request).await.map(|answer| answer.into_inner())
    }

    async fn update(&mut self, user: pb::User, mask: &[&str]) -> Result<pb::User, Status> {
        let paths = mask.iter().map(|path| (*path).to_owned()).collect();
        let request = pb::UpdateUserRequest { user: Some(user), update_mask: Some(FieldMask { paths }) };
        self.users.update_user(request).await.map(|answer| answer.into_inner())
    }

    async fn delete(&mut self, id: &str) -> Result<(), Status> {
        self.users.delete_user(pb::DeleteUserRequest { id: id.to_owned() }).await.map(|answer| answer.into_inner())
    }
}

fn code<T: std::fmt::Debug>(answer: Result<T, Status>) -> Code {
    answer.unwrap_err().code()
}

/// The fields that an INVALID_ARGUMENT complains of.
fn wrong_fields<T: std::fmt::Debug>(answer: Result<T, Status>) -> Vec<String> {
    let status = answer.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument, "{status}");
    let details = status.get_details_bad_request().unwrap();
    details.field_violations.into_iter().map(|it| it.field).collect()
}

/// An id of the right form that belongs to nobody.
const NOBODY: &str = "01890a5d-ac96-774b-bcce-b302099a8057";

weft_testkit::on_each_engine!(
    a_created_user_is_what_was_sent_with_an_id_and_times_and_can_be_read,
    an_address_belongs_to_one_user_however_it_is_written,
    all_that_is_wrong_is_said_at_once,
    an_unknown_id_is_not_found_whatever_its_form,
    an_update_changes_what_the_mask_names_and_nothing_else,
    without_a_mask_the_fields_that_are_set_change,
    a_deleted_user_is_gone_and_its_address_is_free,
    pages_give_each_user_once_oldest_first,
    a_page_stays_right_when_users_go_between_two_pages,
    a_page_has_50_users_unless_asked_otherwise,
    of_many_who_want_one_address_one_gets_it,
);

async fn a_created_user_is_what_was_sent_with_an_id_and_times_and_can_be_read(rows: Rows) {
    let mut shop = shop(rows).await;
    let request = pb::CreateUserRequest { name: "Ada".to_owned(), email: "Ada@Example.com".to_owned() };
    let answer = shop.users.create_user(request).await.unwrap();
    assert_eq!(answer.metadata().get("weft-http-status").unwrap(), "201");
    let user = answer.into_inner();
    assert_eq!((user.name.as_str(), user.email.as_str()), ("Ada", "Ada@Example.com"));
    assert!(user.create_time.is_some() && user.create_time == user.update_time);
    assert_eq!(shop.get(&user.id).await.unwrap(), user);
}

async fn an_address_belongs_to_one_user_however_it_is_written(rows: Rows) {
    let mut shop = shop(rows).await;
    shop.create("Ada", "ada@example.com").await.unwrap();
    assert_eq!(code(shop.create("Eve", "ada@example.com").await), Code::AlreadyExists);
    assert_eq!(code(shop.create("Eve", "ADA@Example.com").await), Code::AlreadyExists);
    let bob = shop.create("Bob", "bob@example.com").await.unwrap();
    let taking = pb::User { email: "Ada@example.com".to_owned(), ..bob.clone() };
    assert_eq!(code(shop.update(taking, &["email"]).await), Code::AlreadyExists);
    assert_eq!(shop.get(&bob.id).await.unwrap(), bob);
    let own_again = pb::User { email: "BOB@example.com".to_owned(), ..bob };
    assert_eq!(shop.update(own_again, &["email"]).await.unwrap().email, "BOB@example.com");
}

async fn all_that_is_wrong_is_said_at_once(rows: Rows) {
    let mut shop = shop(rows).await;
    assert_eq!(wrong_fields(shop.create("", "").await), ["name", "email"]);
    assert_eq!(wrong_fields(shop.create("Ada", "nowhere").await), ["email"]);
    assert_eq!(wrong_fields(shop.create(&"a".repeat(201), "ada@example.com").await), ["name"]);
    assert_eq!(wrong_fields(shop.list(-1, "no token").await), ["page_size", "page_token"]);
    let user = pb::User { name: " ".to_owned(), ..Default::default() };
    let all = ["user.name", "user.email", "update_mask"];
    assert_eq!(wrong_fields(shop.update(user, &["name", "email", "id"]).await), all);
    let without = shop.users.update_user(pb::UpdateUserRequest::default()).await;
    assert_eq!(wrong_fields(without), ["user"]);
    assert!(shop.list(0, "").await.unwrap().users.is_empty(), "nothing was stored");
}

async fn an_unknown_id_is_not_found_whatever_its_form(rows: Rows) {
    let mut shop = shop(rows).await;
    for id in [NOBODY, "1", "", "\0", "'; DROP TABLE users; --", &"x".repeat(10_000)] {
        assert_eq!(code(shop.get(id).await), Code::NotFound, "{id:.40}");
        assert_eq!(code(shop.delete(id).await), Code::NotFound, "{id:.40}");
        let user = pb::User { id: id.to_owned(), name: "Ada".to_owned(), ..Default::default() };
        assert_eq!(code(shop.update(user.clone(), &["name"]).await), Code::NotFound, "{id:.40}");
        assert_eq!(code(shop.update(pb::User { name: String::new(), ..user }, &[]).await), Code::NotFound, "{id:.40}");
    }
}

async fn an_update_changes_what_the_mask_names_and_nothing_else(rows: Rows) {
    let mut shop = shop(rows).await;
    let ada = shop.create("Ada", "ada@example.com").await.unwrap();
    let sent = pb::User { name: "Countess".to_owned(), email: "c@example.com".to_owned(), ..ada.clone() };

    let named = shop.update(sent.clone(), &["name"]).await.unwrap();
    assert_eq!((named.name.as_str(), named.email.as_str()), ("Countess", "ada@example.com"));
    assert_eq!(named.create_time, ada.create_time);
    let (before, after) = (ada.update_time.unwrap(), named.update_time.unwrap());
    assert!((after.seconds, after.nanos) > (before.seconds, before.nanos));

    let both = shop.update(sent, &["name", "email"]).await.unwrap();
    assert_eq!(both.email, "c@example.com");
    assert_eq!(shop.get(&ada.id).await.unwrap(), both);
}

async fn without_a_mask_the_fields_that_are_set_change(rows: Rows) {
    let mut shop = shop(rows).await;
    let ada = shop.create("Ada", "ada@example.com").await.unwrap();
    let only_email = pb::User { id: ada.id.clone(), email: "a@example.com".to_owned(), ..Default::default() };
    let updated = shop.update(only_email, &[]).await.unwrap();
    assert_eq!((updated.name.as_str(), updated.email.as_str()), ("Ada", "a@example.com"));
    let nothing = pb::User { id: ada.id, ..Default::default() };
    assert_eq!(shop.update(nothing, &[]).await.unwrap(), updated, "not even the time changes");
}

async fn a_deleted_user_is_gone_and_its_address_is_free(rows: Rows) {
    let mut shop = shop(rows).await;
    let ada = shop.create("Ada", "ada@example.com").await.unwrap();
    shop.delete(&ada.id).await.unwrap();
    assert_eq!(code(shop.get(&ada.id).await), Code::NotFound);
    assert_eq!(code(shop.delete(&ada.id).await), Code::NotFound);
    shop.create("Ada", "ada@example.com").await.unwrap();
}

async fn pages_give_each_user_once_oldest_first(rows: Rows) {
    let mut shop = shop(rows).await;
    let mut created = Vec::new();
    for number in 0..7 {
        created.push(shop.create("U", &format!("u{number}@example.com")).await.unwrap());
    }
    let (mut seen, mut token, mut sizes) = (Vec::new(), String::new(), Vec::new());
    loop {
        let page = shop.list(3, &token).await.unwrap();
        sizes.push(page.users.len());
        seen.extend(page.users);
        token = page.next_page_token;
        if token.is_empty() {
            break;
        }
    }
    assert_eq!(sizes, [3, 3, 1]);
    assert_eq!(seen, created);
    let exact = shop.list(7, "").await.unwrap();
    assert!(exact.users.len() == 7 && exact.next_page_token.is_empty(), "no empty page follows");
}

async fn a_page_stays_right_when_users_go_between_two_pages(rows: Rows) {
    let mut shop = shop(rows).await;
    for number in 0..4 {
        shop.create("U", &format!("u{number}@example.com")).await.unwrap();
    }
    let first = shop.list(2, "").await.unwrap();
    for user in &first.users {
        shop.delete(&user.id).await.unwrap();
    }
    let second = shop.list(2, &first.next_page_token).await.unwrap();
    let emails: Vec<_> = second.users.iter().map(|user| user.email.as_str()).collect();
    assert_eq!(emails, ["u2@example.com", "u3@example.com"]);
}

async fn a_page_has_50_users_unless_asked_otherwise(rows: Rows) {
    let mut shop = shop(rows).await;
    for number in 0..51 {
        shop.create("U", &format!("u{number}@example.com")).await.unwrap();
    }
    let page = shop.list(0, "").await.unwrap();
    assert_eq!(page.users.len(), 50);
    assert_eq!(shop.list(0, &page.next_page_token).await.unwrap().users.len(), 1);
    assert_eq!(shop.list(5_000, "").await.unwrap().users.len(), 51);
}

async fn of_many_who_want_one_address_one_gets_it(rows: Rows) {
    let shop = shop(rows).await;
    let mut racing = JoinSet::new();
    for _ in 0..32 {
        let mut users = shop.users.clone();
        let request = pb::CreateUserRequest { name: "Ada".to_owned(), email: "ada@example.com".to_owned() };
        racing.spawn(async move { users.create_user(request).await.map_or_else(|status| status.code(), |_| Code::Ok) });
    }
    let codes = racing.join_all().await;
    assert_eq!(codes.iter().filter(|code| **code == Code::Ok).count(), 1);
    assert_eq!(codes.iter().map(|code| *code as i32).collect::<BTreeSet<_>>().len(), 2, "{codes:?}");
}
