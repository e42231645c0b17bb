//! Faults on the path of a call: the gateway, the endpoint that an instance registered, the admin addresses of both, sidecars that stand still.
//!
//! Lives here: those faults. Does not: what a run says (`check`). An instance that registers by API may say what it likes of its addresses.

use std::{collections::BTreeSet, fs, process::Command};

use http::Method;
use rustix::process::Signal;
use weft_identity::pem;
use weft_model::metadata;
use weft_proto::weft::{
    model::v1::Instance,
    registry::v1::{RegisterRequest, registry_client::RegistryClient},
};
use weft_testkit::{
    authority::{Authority, HOUR, Hand},
    http::send,
    mesh::{App, Mesh},
    process::Process,
    wait,
};

use super::{Named, SOON};
use crate::ALONE;

#[tokio::test]
async fn sidecars_that_stand_still_are_all_named_in_the_time_of_one() {
    let _shared = ALONE.read().await;
    let test = "sidecars_that_stand_still_are_all_named_in_the_time_of_one";
    let Some(mut mesh) = Mesh::start(test, &[App::Users; 4]).await else { return };
    let named = Named::of(&mut mesh).await;
    for member in &mesh.members[1..] {
        member.sidecar.signal(Signal::STOP);
    }
    let checked = named.check().await;
    checked.shows(["WEFT0406"]); // and within its bound
    let named: BTreeSet<_> = checked.subjects("WEFT0406").into_iter().collect();
    assert_eq!(named, ["users-2", "users-3", "users-4"].into());
    for member in &mesh.members[1..] {
        member.sidecar.signal(Signal::CONT);
    }
}

#[tokio::test]
async fn a_gateway_without_routes_is_told_from_one_that_is_down() {
    let _shared = ALONE.read().await;
    let test = "a_gateway_without_routes_is_told_from_one_that_is_down";
    let Some(mut mesh) = Mesh::start(test, &[App::Users]).await else { return };
    let named = Named::of(&mut mesh).await;
    // It follows a registry that is not there.
    let mut command = Command::new(mesh.weft());
    command.args(["gateway", "--listen", "127.0.0.1:0", "--registry", "http://127.0.0.1:1", "--log-format", "json"]);
    command.current_dir(mesh.dir());
    let mut idle = Process::spawn("gateway", command).unwrap();
    let (at, admin) = (idle.address("http").await, idle.address("admin").await);
    let named = named.with("--gateway", format!("http://{at}")).with("--gateway-admin", admin.to_string());
    named.check().await.shows(["WEFT0502"]);
}

#[tokio::test]
async fn a_gateway_that_speaks_tls_alone_is_asked_by_tls() {
    let _shared = ALONE.read().await;
    let test = "a_gateway_that_speaks_tls_alone_is_asked_by_tls";
    let Some(mut mesh) = Mesh::start(test, &[App::Users]).await else { return };
    let named = Named::of(&mut mesh).await;
    let authority = Authority::new("shop.example", &Hand::default());
    pem::export(mesh.dir(), &authority.svid("shop", HOUR), &authority.bundle()).expect("the directory can be written");
    let tls = format!("[tls]\ncertificates = [{{ chain = \"{}\", key = \"{}\" }}]\n", pem::CHAIN, pem::KEY);
    let clients = format!("client_authorities = \"{}\"\n", pem::BUNDLE);
    let optional = format!("{tls}{clients}client_certificates = \"optional\"\n");
    for (config, reached) in [(tls.clone(), 1), (optional, 1), (tls + &clients, 0)] {
        let file = mesh.dir().join("gateway.toml");
        fs::write(&file, config).expect("the directory can be written");
        let mut gateway = mesh.add_gateway_with(&["--config", &file.to_string_lossy()]);
        let (at, admin) = (gateway.address("http").await, gateway.address("admin").await);
        let ready = || async { Some(send(admin, Method::GET, "/readyz", "").await.ok()?.status.is_success()) };
        wait::until("the gateway to have routes", SOON, || async { ready().await?.then_some(()) }).await;
        let named = named.with("--gateway-admin", admin.to_string());
        // Without a scheme, as `weft up` tells it, and with it.
        for url in [at.to_string(), format!("https://{at}")] {
            let checked = named.with("--gateway", url).check().await;
            checked.shows([]);
            for id in ["WEFT0501", "WEFT0502", "WEFT0601", "WEFT0602"] {
                assert_eq!(checked.well(id), reached, "{id}: {:#}", checked.report);
            }
        }
        named.with("--gateway", format!("http://{at}")).check().await.shows(["WEFT0501"]);
    }
}

#[tokio::test]
async fn an_admin_address_of_another_gateway_is_found_by_what_it_does_not_count() {
    let _shared = ALONE.read().await;
    let test = "an_admin_address_of_another_gateway_is_found_by_what_it_does_not_count";
    let Some(mut mesh) = Mesh::start(test, &[App::Users]).await else { return };
    let named = Named::of(&mut mesh).await;
    let mut other = mesh.add_gateway();
    let admin = other.address("admin").await;
    let checked = named.with("--gateway-admin", admin.to_string()).check().await;
    checked.shows(["WEFT0602"]);
    assert!(checked.detail("WEFT0602").contains(&format!("{admin}/metrics counts 0 of 1")), "{:#}", checked.report);
}

/// Lists an instance of a service `mirror` that stands for another one, with these differences.
async fn mirror(mesh: &Mesh, of: &Instance, number: u8, address: &str, admin: &str) {
    let mut mirror = of.clone();
    mirror.id = format!("01890a5d-ac96-774b-bcce-b302099a80{number:02}");
    "mirror".clone_into(&mut mirror.service);
    mirror.descriptor_digest.clear();
    address.clone_into(&mut mirror.endpoint.as_mut().expect("it is reachable").address);
    mirror.metadata.insert(metadata::SLOT.to_owned(), format!("mirror-{number}"));
    mirror.metadata.insert(metadata::ADMIN.to_owned(), admin.to_owned());
    let request = RegisterRequest { instance: Some(mirror), ttl_ms: 600_000 };
    RegistryClient::new(mesh.registry_channel()).register(request).await.expect("an operator may list anything");
}

#[tokio::test]
async fn an_endpoint_that_nobody_listens_at_and_an_admin_address_of_somebody_else_have_each_their_id() {
    let _shared = ALONE.read().await;
    let test = "an_endpoint_that_nobody_listens_at_and_an_admin_address_of_somebody_else_have_each_their_id";
    let Some(mut mesh) = Mesh::start(test, &[App::Users]).await else { return };
    let named = Named::of(&mut mesh).await;
    let users = mesh.instances().await.remove(0);
    let there = users.endpoint.as_ref().unwrap().address.clone();
    let sidecar = mesh.members[0].sidecar.address("admin").await.to_string();
    let registry = mesh.registry.as_mut().unwrap().address("admin").await.to_string();
    mirror(&mesh, &users, 1, "127.0.0.1:1", &sidecar).await;
    mirror(&mesh, &users, 2, &there, &registry).await;
    let checked = wait::until("the gateway to have heard of both", SOON, || async {
        let checked = named.check().await;
        (checked.subjects("WEFT0601") == ["mirror-1"]).then_some(checked)
    })
    .await;
    checked.shows(["WEFT0407", "WEFT0601", "WEFT0603"]);
    assert_eq!(checked.subjects("WEFT0407"), ["mirror.default"], "nobody knows what it serves");
    assert_eq!(checked.subjects("WEFT0603"), ["mirror-2"]);
    assert_eq!(checked.well("WEFT0601"), 2, "{:#}", checked.report);
}
