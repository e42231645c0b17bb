//! Certificates that live for seconds and a root that is replaced, under load: no call may fail. Inventory: rotation.
//!
//! Lives here: the load, what is seen of the certificates meanwhile. Does not: how a process renews (`weft-discovery`), how long a root lives on.

use std::{collections::BTreeSet, time::Duration};

use tokio::{task::JoinSet, time::Instant};
use weft_identity::{Bundle, Leaf, Revocations, RootPin, Trust};
use weft_testkit::{
    load::{self, Report},
    mesh::{App, Mesh, Options},
    outside, secure,
};

use crate::{
    ALONE,
    reliability::{RATE, four_reads_to_one_write},
};

/// How long the load goes on, and how long a certificate lives: it is renewed at half of that, and a little later. The old root leaves two and a
/// half lives after the new one is made: half a life until that one signs, one for the last certificate of the old one, one for clocks.
fn rhythm() -> (Duration, u32) {
    match outside::soak() {
        Some(length) => (length, 20),
        None => (Duration::from_secs(45), 8),
    }
}

#[tokio::test]
async fn certificates_and_the_root_change_under_load_and_no_call_fails_soak() {
    let _alone = ALONE.write().await;
    let test = "certificates_and_the_root_change_under_load_and_no_call_fails_soak";
    let (span, life) = rhythm();
    let options = Options { registry: vec!["--certificate-life".into(), life.to_string()], ..Options::default() };
    let Some(mut mesh) = Mesh::start_as(test, &[App::Users, App::Users], options).await else { return };
    let mut inbound = Vec::new();
    for member in &mut mesh.members {
        inbound.push(member.sidecar.address("inbound").await);
    }
    let old = RootPin::of(&mesh.operator().trusted().await.unwrap().0.roots()[0]);

    let call = four_reads_to_one_write(mesh.gateway_at()).await;
    let mut load: JoinSet<Report> = JoinSet::new();
    load.spawn(load::run(mesh.gateway_at(), RATE, span, call));
    let end = Instant::now() + span;
    let (mut seen, mut rotated, mut by_new, mut alone) = (BTreeSet::new(), None, false, false);
    while Instant::now() < end {
        tokio::time::sleep(Duration::from_millis(250)).await; // between two looks
        for at in &inbound {
            // Asks for the handshake only: what is shown is shown to anybody.
            let Ok(stream) = secure::connect_as(secure::stranger(None), *at).await else { continue };
            let chain = stream.get_ref().1.peer_certificates().expect("a server shows a certificate").to_vec();
            seen.insert((*at, Leaf::read(&chain[0]).unwrap().serial));
            by_new |= rotated.as_ref().is_some_and(|trust: &Trust| trust.admit(&chain).is_ok());
        }
        if rotated.is_some() && !alone {
            // By the operator's token as its file holds it now: the first one leads to the root that leaves.
            let (bundle, _) = mesh.operator().fresh().trusted().await.unwrap();
            alone = bundle.roots().len() == 1;
            assert!(!alone || RootPin::of(&bundle.roots()[0]) != old, "the new root stays");
        }
        if rotated.is_none() && Instant::now() + span * 3 / 4 > end {
            let (pin, _) = mesh.operator().rotate_root(None).await.unwrap();
            let (bundle, _) = mesh.operator().trusted().await.unwrap();
            let new = bundle.roots().iter().filter(|root| RootPin::of(root) == pin).cloned();
            let new = Bundle::new(bundle.domain().clone(), new).unwrap();
            rotated = Some(Trust::new(new, Revocations::default(), secure::clock()).unwrap());
            assert_ne!(pin, old);
        }
    }
    let report = load.join_next().await.unwrap().unwrap();
    println!("certificates of {life} s and a new root for {span:?}: {report}; {} certificates seen", seen.len());
    assert!(report.failed().is_empty(), "{report}");
    // Renewed between 0.5 and 0.6 of a life; the first of each is no renewal.
    let least = (span.as_secs_f64() / (f64::from(life) * 0.6) - 1.0).floor() as usize;
    for at in &inbound {
        let certificates = seen.iter().filter(|(of, _)| of == at).count();
        assert!(certificates > least, "{at} showed {certificates} certificates, and {least} renewals were due");
    }
    assert!(alone, "the old root did not leave while the load ran");
    assert!(by_new, "no sidecar showed a certificate of the new root");
}
