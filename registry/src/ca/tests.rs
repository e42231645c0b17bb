//! The authority on a clock that the test moves: files, certificates, roots, revocations. Tokens have a file of their own.

use std::{
    os::unix::fs::PermissionsExt,
    sync::atomic::{AtomicU64, Ordering},
};

use proptest::prelude::*;
use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair, SanType};
use tempfile::TempDir;
use weft_identity::{KeyRequest, Refusal, Trust};

use super::*;

mod tokens;

const MINUTE: Duration = Duration::from_secs(60);
const LIFE: Duration = Duration::from_secs(3_600);

/// A wall clock that a test moves; starts in 2027.
#[derive(Clone, Default)]
struct Hand(Arc<AtomicU64>);

impl Hand {
    fn now(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH
            + Duration::from_secs(1_800_000_000)
            + Duration::from_millis(self.0.load(Ordering::SeqCst))
    }

    fn advance(&self, by: Duration) {
        self.0.fetch_add(millis_of(by), Ordering::SeqCst);
    }

    fn clock(&self) -> Clock {
        let hand = self.clone();
        Arc::new(move || hand.now())
    }
}

struct Fixture {
    dir: TempDir,
    hand: Hand,
    ca: Ca,
}

impl Fixture {
    fn new() -> Self {
        let (dir, hand) = (tempfile::tempdir().unwrap(), Hand::default());
        let ca = Ca::open(&settings(&dir), hand.clock()).unwrap();
        Self { dir, hand, ca }
    }

    fn again(&self) -> Result<Ca, Error> {
        Ca::open(&settings(&self.dir), self.hand.clock())
    }

    fn id(&self, service: &str) -> SpiffeId {
        self.ca.domain().service(&service.parse().unwrap())
    }

    fn issue(&self) -> Issued {
        self.ca.sign(KeyRequest::generate().unwrap().csr(), &self.id("users")).unwrap()
    }

    /// What a process thinks that took its bundle at an earlier time.
    fn judged_by(&self, bundle: &Bundle, issued: &Issued) -> Result<(), Refusal> {
        let trust = Trust::new(bundle.clone(), self.ca.trusted().revocations, self.hand.clock()).unwrap();
        trust.admit(&issued.chain).map(drop)
    }

    /// Lets time pass, as the registry's own task sees it.
    fn pass(&self, time: Duration) {
        self.hand.advance(time);
        self.ca.refresh().unwrap();
    }

    fn file(&self) -> PathBuf {
        self.dir.path().join("ca/ca.json")
    }
}

fn settings(dir: &TempDir) -> Settings {
    Settings {
        dir: dir.path().join("ca"),
        trust_domain: "weft.local".parse().unwrap(),
        life: LIFE,
        advertise: vec!["https://127.0.0.1:7100".into()],
        kubernetes: None,
    }
}

/// Two registries share the directory: one revokes while the other renews, as fast as it can.
#[test]
fn no_renewal_escapes_a_revocation() {
    let dir = tempfile::tempdir().unwrap();
    let open = || Ca::open(&settings(&dir), Arc::new(weft_runtime::clock::wall)).unwrap();
    let (revokes, renews) = (open(), open());
    for round in 0..20 {
        let id = revokes.domain().service(&format!("users-{round}").parse().unwrap());
        let csr = KeyRequest::generate().unwrap();
        let first = renews.sign(csr.csr(), &id).unwrap().leaf;
        let (began, begun) = std::sync::mpsc::channel();
        let last = std::thread::scope(|scope| {
            let renewing = scope.spawn(|| {
                let mut held = first;
                loop {
                    match renews.renew(csr.csr(), &held) {
                        Ok(issued) => held = issued.leaf,
                        Err(SignError::Revoked { .. }) => return held,
                        Err(other) => panic!("{other}"),
                    }
                    began.send(()).ok(); // the main thread waits for the first only
                }
            });
            begun.recv().unwrap();
            revokes.revoke(&Revoke::Identity(id.clone())).unwrap();
            renewing.join().unwrap()
        });
        assert!(revokes.trusted().revocations.covers(&last), "round {round}: issued {:?}", last.serial.issued_at());
    }
}

#[tokio::test]
async fn the_operators_token_follows_the_root_that_signs() {
    let it = Fixture::new();
    it.ca.keep_operator_token(vec![]).unwrap();
    let pin = || {
        let text = std::fs::read_to_string(it.dir.path().join("ca/operator.token")).unwrap();
        it.ca.check_token(text.trim()).unwrap();
        text.parse::<weft_identity::token::Token>().unwrap().pin()
    };
    let own = OwnIdentity::new(&it.ca).unwrap();
    let old = pin();
    let (new, signs_from) = it.ca.rotate(Some(MINUTE)).unwrap();
    assert_eq!(pin(), old, "it does not sign yet");
    it.hand.advance(signs_from.duration_since(it.hand.now()).unwrap());
    tokio::select! {
        () = own.run() => panic!("it runs until dropped"),
        () = async {
            let until = tokio::time::Instant::now() + Duration::from_secs(20);
            while pin() != new {
                assert!(tokio::time::Instant::now() < until, "the token leads to a root that does not sign any more");
                tokio::time::sleep(Duration::from_millis(10)).await; // between two looks
            }
        } => {}
    }
}

#[test]
fn registries_that_start_at_once_leave_one_operators_token() {
    let it = Fixture::new();
    let all: Vec<Ca> = (0..8).map(|_| it.again().unwrap()).collect();
    std::thread::scope(|scope| {
        for ca in &all {
            scope.spawn(|| ca.keep_operator_token(vec![]).unwrap());
        }
    });
    it.ca.refresh().unwrap();
    assert_eq!(it.ca.list_tokens().len(), 1);
    it.ca.check_token(std::fs::read_to_string(it.dir.path().join("ca/operator.token")).unwrap().trim()).unwrap();
}

#[test]
fn an_authority_is_made_once_and_its_files_are_its_owners_alone() {
    let it = Fixture::new();
    assert_eq!(it.again().unwrap().trusted(), it.ca.trusted());
    for entry in std::fs::read_dir(it.dir.path().join("ca")).unwrap() {
        let entry = entry.unwrap();
        assert_eq!(entry.metadata().unwrap().permissions().mode() & 0o777, 0o600, "{:?}", entry.path());
    }
    assert_eq!(it.dir.path().join("ca").metadata().unwrap().permissions().mode() & 0o777, 0o700);
}

#[test]
fn a_file_that_cannot_be_used_is_refused_and_left_alone() {
    let it = Fixture::new();
    let refused = |text: &str, mode| {
        std::fs::write(it.file(), text).unwrap();
        std::fs::set_permissions(it.file(), PermissionsExt::from_mode(mode)).unwrap();
        let error = it.again().unwrap_err();
        assert_eq!(std::fs::read_to_string(it.file()).unwrap(), text);
        error
    };
    let good = std::fs::read_to_string(it.file()).unwrap();
    assert!(matches!(refused(&good, 0o644), Error::Exposed { mode: 0o644, .. }));
    assert!(matches!(refused("{", 0o600), Error::Unreadable { .. }));
    assert!(matches!(refused(&good.replace("\"format\": 1", "\"format\": 9"), 0o600), Error::Newer { found: 9, .. }));
    assert!(matches!(refused(&good.replace("weft.local", "other.mesh"), 0o600), Error::OtherDomain { .. }));
    assert!(it.ca.rotate(None).is_err(), "a change is refused as well");
}

#[test]
fn a_vanished_file_is_not_made_anew_by_a_change() {
    let it = Fixture::new();
    std::fs::remove_file(it.file()).unwrap();
    assert!(matches!(it.ca.rotate(None), Err(Error::Vanished { .. })));
    assert!(!it.file().exists());
}

#[test]
fn only_the_public_key_of_a_request_counts() {
    let it = Fixture::new();
    let key = KeyPair::generate().unwrap();
    let mut wishes = CertificateParams::new(vec!["registry".to_owned()]).unwrap();
    wishes.subject_alt_names.push(SanType::URI("spiffe://weft.local/ns/weft/svc/registry".try_into().unwrap()));
    wishes.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    wishes.key_usages = vec![rcgen::KeyUsagePurpose::KeyCertSign];
    let issued = it.ca.sign(wishes.serialize_request(&key).unwrap().der(), &it.id("users")).unwrap();
    assert_eq!(issued.leaf.id, it.id("users"), "and the leaf keeps all rules of an SVID, or it would not be read");
    assert_eq!(it.judged_by(&it.ca.trusted().bundle, &issued), Ok(()));
    assert_eq!(issued.leaf.not_after, it.hand.now() + LIFE);
    let half = issued.leaf.half_life().duration_since(it.hand.now()).unwrap();
    assert!((LIFE / 2 - MINUTE..=LIFE / 2).contains(&half), "{half:?}");
    assert_eq!(issued.leaf.serial.issued_at(), Some(it.hand.now()));
}

#[test]
fn a_request_that_is_none_is_refused_by_name() {
    let it = Fixture::new();
    let problem = |csr: &[u8]| match it.ca.sign(csr, &it.id("users")) {
        Err(SignError::Invalid(invalid)) => invalid.to_string(),
        other => panic!("{other:?}"),
    };
    let good = KeyRequest::generate().unwrap().csr().to_vec();
    assert!(problem(b"").contains("PKCS #10"));
    assert!(problem(&[good.as_slice(), b"x"].concat()).contains("after its end"));
    assert!(problem(&vec![0; 17 << 10]).contains("16 KiB"));
    let mut unsigned = good.clone();
    *unsigned.last_mut().unwrap() ^= 1;
    assert!(problem(&unsigned).contains("signed"));
    for other in [&rcgen::PKCS_ECDSA_P384_SHA384, &rcgen::PKCS_ED25519] {
        let key = KeyPair::generate_for(other).unwrap();
        assert!(problem(CertificateParams::default().serialize_request(&key).unwrap().der()).contains("P-256"));
    }
    let elsewhere = it.ca.sign(&good, &"spiffe://other.mesh/ns/default/svc/users".parse().unwrap());
    assert!(matches!(elsewhere, Err(SignError::Foreign { .. })));
}

proptest! {
    #[test]
    fn any_bytes_are_refused_as_a_request_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        prop_assert!(issue::public_key(&bytes).is_err());
    }

    #[test]
    fn a_spoilt_request_never_yields_another_key(at in 0usize..1_000, bit in 0u8..8) {
        let csr = KeyRequest::generate().unwrap().csr().to_vec();
        let key = issue::public_key(&csr).unwrap();
        let mut spoilt = csr.clone();
        spoilt[at % csr.len()] ^= 1 << bit;
        prop_assert!(issue::public_key(&spoilt).is_err_and(|e| e.field() == "csr") || issue::public_key(&spoilt) == Ok(key));
    }
}

#[test]
fn a_new_root_is_published_before_it_signs_and_the_old_one_stays_until_its_leaves_are_gone() {
    let it = Fixture::new();
    let before = it.ca.trusted().bundle;
    it.ca.rotate(Some(10 * MINUTE)).unwrap();
    let both = it.ca.trusted().bundle;
    assert_eq!(both.roots().len(), 2);

    it.pass(9 * MINUTE);
    let by_old = it.issue();
    assert_eq!(it.judged_by(&before, &by_old), Ok(()), "only published: the old one signs");
    assert_eq!(by_old.chain.len(), 1);

    it.pass(MINUTE);
    let (by_new, only_new) = (it.issue(), Bundle::new(it.ca.domain().clone(), [both.roots()[1].clone()]).unwrap());
    assert_eq!(it.judged_by(&only_new, &by_old), Err(Refusal::UnknownAuthority));
    for bundle in [&both, &only_new, &before] {
        assert_eq!(it.judged_by(bundle, &by_new), Ok(()), "the last by the cross certificate, for who missed the news");
    }

    it.pass(LIFE);
    assert_eq!(it.ca.trusted().bundle.roots().len(), 2, "a clock may be behind by a minute");
    it.pass(MINUTE);
    assert_eq!(it.ca.trusted().bundle, only_new);
    assert_eq!(it.issue().chain.len(), 1, "nobody holds the old root alone any more");
}

#[test]
fn without_a_word_a_new_root_waits_for_half_a_life() {
    let it = Fixture::new();
    let (_, signs_from) = it.ca.rotate(None).unwrap();
    assert_eq!(signs_from, it.hand.now() + LIFE / 2);
}

#[test]
fn roots_rotated_twice_in_a_row_are_all_trusted_and_the_newest_signs() {
    let it = Fixture::new();
    let first = it.ca.trusted().bundle;
    it.ca.rotate(Some(MINUTE)).unwrap();
    it.ca.rotate(Some(2 * MINUTE)).unwrap();
    it.pass(3 * MINUTE);
    let (issued, all) = (it.issue(), it.ca.trusted().bundle);
    assert_eq!(all.roots().len(), 3);
    assert_eq!(it.judged_by(&first, &issued), Ok(()), "two crosses lead back to the first");
    it.pass(LIFE + 3 * MINUTE);
    assert_eq!(it.ca.trusted().bundle.roots(), &all.roots()[2..]);
    it.ca.rotate(Some(MINUTE)).unwrap();
    assert!(
        std::fs::read_to_string(it.file()).unwrap().matches("signs_from_ms").count() == 2,
        "the keys of the gone are gone"
    );
}

#[test]
fn a_life_that_is_made_shorter_does_not_cut_what_was_issued_before() {
    let it = Fixture::new();
    let long = it.issue();
    let short = Ca::open(&Settings { life: MINUTE, ..settings(&it.dir) }, it.hand.clock()).unwrap();
    short.rotate(Some(Duration::ZERO)).unwrap();
    it.hand.advance(30 * MINUTE);
    short.refresh().unwrap();
    assert_eq!(it.judged_by(&short.trusted().bundle, &long), Ok(()));
}

#[test]
fn registries_that_share_a_directory_agree() {
    let it = Fixture::new();
    let other = it.again().unwrap();
    it.ca.rotate(Some(MINUTE)).unwrap();
    let (token, listed) = it.ca.create_token(Some(&"users".parse().unwrap()), None).unwrap();
    other.refresh().unwrap();
    assert_eq!(other.trusted(), it.ca.trusted());
    assert_eq!(other.check_token(&token).unwrap().id, listed.id);
    other.revoke_token(&listed.id).unwrap();
    other.rotate(Some(MINUTE)).unwrap();
    it.ca.refresh().unwrap();
    assert_eq!(
        it.ca.trusted().bundle.roots().len(),
        3,
        "a change is made on what the file holds, not on what was read before"
    );
    assert!(it.ca.check_token(&token).is_err());
}

#[test]
fn a_revoked_certificate_is_known_to_all_and_after_a_restart_and_forgotten_when_it_would_have_run_out() {
    let it = Fixture::new();
    let (revoked, other) = (it.issue(), it.issue());
    it.ca.revoke(&Revoke::Serial(revoked.leaf.serial.clone())).unwrap();
    let bundle = it.ca.trusted().bundle;
    assert_eq!(it.judged_by(&bundle, &revoked), Err(Refusal::Revoked));
    assert_eq!(it.judged_by(&bundle, &other), Ok(()));
    assert_eq!(it.again().unwrap().trusted().revocations, it.ca.trusted().revocations);
    it.pass(LIFE + 2 * MINUTE);
    assert!(it.ca.trusted().revocations.serials.is_empty());
}

#[test]
fn an_identity_is_revoked_with_all_it_holds_and_may_come_back() {
    let it = Fixture::new();
    let held = it.issue();
    it.ca.revoke(&Revoke::Identity(it.id("users"))).unwrap();
    let bundle = it.ca.trusted().bundle;
    assert_eq!(it.judged_by(&bundle, &held), Err(Refusal::Revoked));
    it.pass(Duration::from_millis(1));
    assert_eq!(it.judged_by(&bundle, &it.issue()), Ok(()));
    let foreign = Revoke::Identity("spiffe://other.mesh/x".parse().unwrap());
    assert!(matches!(it.ca.revoke(&foreign), Err(ChangeError::Invalid(_))));
}

#[test]
fn the_registry_signs_for_itself_and_shows_its_roots() {
    let it = Fixture::new();
    it.ca.rotate(Some(MINUTE)).unwrap();
    let own = OwnIdentity::new(&it.ca).unwrap().identity();
    assert_eq!(own.id().as_str(), "spiffe://weft.local/ns/weft/svc/registry");
    assert!(it.ca.trusted().bundle.roots().iter().all(|root| own.svid().chain().contains(root)));
}

#[tokio::test]
async fn the_registrys_own_certificate_follows_half_lives_and_roots() {
    let it = Fixture::new();
    let own = OwnIdentity::new(&it.ca).unwrap();
    let identity = own.identity();
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn(own.run());
    let renewed = async |seen| {
        tokio::time::timeout(Duration::from_secs(60), identity.rotated_since(seen))
            .await
            .expect("it is looked at every second");
        identity.rotations()
    };
    it.hand.advance(LIFE / 2 + MINUTE);
    let seen = renewed(0).await;
    it.ca.rotate(Some(Duration::ZERO)).unwrap();
    renewed(seen).await;
    assert_eq!(identity.trust().bundle(), it.ca.trusted().bundle);
    tasks.shutdown().await;
}

#[test]
fn the_registrys_own_certificate_names_its_hosts_and_nobody_elses_does() {
    use super::issue::Host;
    use x509_parser::{extensions::GeneralName, prelude::FromDer};
    assert_eq!(Host::of("https://registry.example:7100"), Some(Host::Name("registry.example".into())));
    assert_eq!(Host::of("https://[::1]:7100"), Some(Host::Ip("::1".parse().unwrap())));
    assert_eq!(Host::of("https://0.0.0.0:7100"), None, "nobody calls that");
    let it = Fixture::new();
    let names = |der: &[u8]| {
        let (_, read) = x509_parser::certificate::X509Certificate::from_der(der).unwrap();
        let names = read.subject_alternative_name().unwrap().unwrap().value.general_names.iter();
        let text = |it: &GeneralName<'_>| match it {
            GeneralName::URI(uri) => (*uri).to_owned(),
            GeneralName::DNSName(name) => (*name).to_owned(),
            GeneralName::IPAddress(ip) => format!("{ip:?}"),
            other => panic!("{other:?}"),
        };
        names.map(text).collect::<Vec<_>>()
    };
    let own = OwnIdentity::new(&it.ca).unwrap().identity();
    let registry = "spiffe://weft.local/ns/weft/svc/registry";
    assert_eq!(names(&own.svid().chain()[0]), [registry, "[127, 0, 0, 1]"]);
    assert_eq!(names(&it.issue().chain[0]), ["spiffe://weft.local/ns/default/svc/users"]);
}
