//! PEM files: what stock tools read.

use std::os::unix::fs::PermissionsExt;

use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use weft_identity::pem;

use weft_testkit::authority::{Authority, HOUR, Hand};

#[test]
fn exported_files_are_readable_again_and_the_key_is_its_owners_alone() {
    let ca = Authority::new("weft.local", &Hand::default());
    let dir = tempfile::tempdir().unwrap();
    for _ in 0..2 {
        let svid = ca.svid("users", HOUR);
        pem::export(dir.path(), &svid, &ca.bundle()).unwrap();
        let chain: Vec<_> =
            CertificateDer::pem_file_iter(dir.path().join(pem::CHAIN)).unwrap().map(Result::unwrap).collect();
        assert_eq!(chain, svid.chain());
        assert_eq!(CertificateDer::from_pem_file(dir.path().join(pem::BUNDLE)).unwrap(), ca.root);
        assert!(matches!(PrivateKeyDer::from_pem_file(dir.path().join(pem::KEY)), Ok(PrivateKeyDer::Pkcs8(_))));
    }
    let mode = |file| dir.path().join(file).metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(pem::KEY), 0o600);
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 3, "nothing but the three files");
}
