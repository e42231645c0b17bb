//! The rules between the flags, and what a file must be.

use std::{fs, os::unix::fs::PermissionsExt, path::PathBuf};

use clap::Parser;
use tempfile::TempDir;

use super::*;

#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    join: JoinArgs,
}

/// A token of ours for users of a registry at 127.0.0.1:7100. Its signature is nobody's, which a holder does not look at.
const OURS: &str = concat!(
    "e30.",
    "eyJpc3MiOiJ3ZWZ0LmxvY2FsIiwic3ViIjoic3BpZmZlOi8vd2VmdC5sb2NhbC9ucy9kZWZhdWx0L3N2Yy91c2VycyIsImF1ZCI6IndlZnQtcmVnaXN0cnki",
    "LCJpYXQiOjEsImV4cCI6MiwianRpIjoidDEiLCJ1cmwiOlsiaHR0cHM6Ly8xMjcuMC4wLjE6NzEwMCJdLCJyb290IjoiMTExMTExMTExMTExMTExMTExMTEx",
    "MTExMTExMTExMTExMTExMTExMTExMTExMTExMTExMTExMTExMTExMTExMSJ9",
    ".c2ln"
);

fn file(dir: &TempDir, text: &str, mode: u32) -> PathBuf {
    let path = dir.path().join("token");
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    path
}

fn load(flags: &[&str]) -> Result<Way, String> {
    let cli = Cli::try_parse_from([&["weft"], flags].concat()).map_err(|e| e.to_string())?;
    cli.join.load().map_err(|e| e.to_string())
}

fn secured(flags: &[&str]) -> Credential {
    match load(flags).unwrap() {
        Way::Secured(credential) => *credential,
        Way::Plaintext(urls) => panic!("{urls} in plaintext"),
    }
}

#[test]
fn a_token_of_ours_says_where_to_go_unless_told_otherwise() {
    let dir = tempfile::tempdir().unwrap();
    let path = file(&dir, &format!("{OURS}\n"), 0o600);
    let path = path.to_str().unwrap();
    let credential = secured(&["--token-file", path]);
    assert_eq!(credential.registries().to_string(), "https://127.0.0.1:7100");
    assert_eq!((credential.secret(), credential.pin().to_string()), (OURS, "1".repeat(64)));
    assert!(!format!("{credential:?}").contains("c2ln"), "the string is a secret");
    let elsewhere = secured(&["--token-file", path, "--registry", "registry.weft:7100"]);
    assert_eq!(elsewhere.registries().to_string(), "https://registry.weft:7100");
}

#[test]
fn a_token_that_others_can_read_is_refused_with_the_cure() {
    let dir = tempfile::tempdir().unwrap();
    let path = file(&dir, OURS, 0o640);
    let said = load(&["--token-file", path.to_str().unwrap()]).unwrap_err();
    assert!(said.contains("mode 640") && said.contains(&format!("chmod 600 {}", path.display())), "{said}");
}

#[test]
fn a_token_that_is_written_is_its_owners_alone_and_replaces_the_one_before() {
    let dir = tempfile::tempdir().unwrap();
    let path = file(&dir, "old", 0o644);
    write_token(&path, OURS).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(read_token(&path).unwrap().text(), OURS);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "nothing else is left");
}

#[test]
fn a_token_of_somebody_else_is_taken_as_it_is_with_a_pin() {
    let dir = tempfile::tempdir().unwrap();
    let path = file(&dir, "header.claims.signature\n", 0o644);
    let path = path.to_str().unwrap();
    let said = load(&["--token-file", path, "--registry", "https://r:7100"]).unwrap_err();
    assert!(said.contains("readable by others"), "it is one of ours until the flags say otherwise: {said}");
    let pin = "2".repeat(64);
    let flags =
        ["--token-file", path, "--registry", "https://r:7100", "--registry-pin", &pin, "--trust-domain", "shop"];
    let credential = secured(&flags);
    assert_eq!((credential.secret(), credential.pin().to_string()), ("header.claims.signature", pin));
    assert_eq!(credential.registry().as_str(), "spiffe://shop/ns/weft/svc/registry");
    fs::write(path, "another.of.it").unwrap();
    assert_eq!(credential.fresh().secret(), "another.of.it", "the kubelet replaces it");
}

#[test]
fn a_pin_in_a_file_is_read_again_with_the_token() {
    let dir = tempfile::tempdir().unwrap();
    let (token, pin) = (file(&dir, "a.projected.token", 0o644), dir.path().join("root"));
    let args = ["--registry", "https://r:7100", "--token-file", token.to_str().unwrap(), "--registry-pin-file"];
    let flags = [&args[..], &[pin.to_str().unwrap()]].concat();
    let said = load(&flags).unwrap_err();
    assert!(said.contains("--registry-pin-file") && said.contains("weft identity root"), "{said}");
    fs::write(&pin, "none\n").unwrap();
    assert!(load(&flags).unwrap_err().contains("64 hex digits"));
    let twos = "2".repeat(64);
    fs::write(&pin, format!("{twos}\n")).unwrap();
    let credential = secured(&flags);
    assert_eq!((credential.secret(), credential.pin().to_string()), ("a.projected.token", twos.clone()));
    fs::write(&pin, "3".repeat(64)).unwrap();
    assert_eq!(credential.fresh().pin().to_string(), "3".repeat(64), "the root was replaced");
    let both = [&flags[..], &["--registry-pin", &twos]].concat();
    assert!(load(&both).unwrap_err().contains("--registry-pin"));
}

#[test]
fn what_does_not_go_together_is_refused_with_the_cure() {
    let dir = tempfile::tempdir().unwrap();
    let (ours, none) = (file(&dir, OURS, 0o600), dir.path().join("none"));
    let (ours, none) = (ours.to_str().unwrap(), none.to_str().unwrap());
    let cases: [(&[&str], &str); 7] = [
        (&[], "--token-file"),
        (&["--registry", "https://r:7100"], "weft token create"),
        (&["--registry", "r:7100"], "weft token create"),
        (&["--registry", "http://r:7100", "--token-file", ours], "https://"),
        (&["--token-file", none], "none"),
        (&["--token-file", ours, "--token-fd", "3"], "--token-fd"),
        (&["--token-file", ours, "--registry-pin", &"2".repeat(64)], "--registry"),
    ];
    for (flags, says) in cases {
        let said = load(flags).unwrap_err();
        assert!(said.contains(says), "{flags:?}: {said}");
    }
    assert!(matches!(load(&["--registry", "http://r:7100"]), Ok(Way::Plaintext(_))));
}
