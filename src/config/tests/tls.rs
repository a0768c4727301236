//! Certificates, and what is asked of a server.

use super::super::TlsMode;
use super::*;

/// A certificate and its key in one PEM.
pub(super) fn certificate() -> String {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    format!("{}{}", made.cert.pem(), made.signing_key.serialize_pem())
}

/// With `good.pem`, `other.pem` (certificate and key), `key.pem`, `empty.pem`, `junk.pem`.
pub(super) fn with_files() -> Try {
    let mut tried = Try::both();
    let good = certificate();
    let key = good.split_once("-----BEGIN PRIVATE").unwrap().1;
    let key = format!("-----BEGIN PRIVATE{key}");
    let junk = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n".to_owned();
    let files = [
        ("good.pem", good),
        ("other.pem", certificate()),
        ("key.pem", key),
        ("empty.pem", String::new()),
        ("junk.pem", junk),
    ];
    for (name, text) in files {
        let path = tried.path(name);
        std::fs::write(path, text).unwrap();
    }
    tried
}

#[test]
fn a_ca_or_a_certificate_means_verify_full() {
    let mut tried = with_files().file("[postgres]\nca_file = \"good.pem\"\n");
    let tls = tried.load().postgres.stream.tls;
    assert_eq!(tls.mode, TlsMode::VerifyFull);
    assert_eq!(tls.ca_file, Some(tried.path("good.pem")));
    let path = tried.path("good.pem");
    let path = path.to_str().unwrap();
    let url = format!(
        "postgres://u@h/d?sslmode=verify-ca&sslrootcert={path}&sslcert={path}&sslkey={path}"
    );
    let tls = Try::both().env(&[("DATABASE_URL", &url)]).load().postgres.audit.tls;
    assert_eq!(tls.mode, TlsMode::VerifyCa);
    assert!(tls.ca_file.is_some() && tls.cert_file.is_some() && tls.key_file.is_some());
    let tls = Try::both().env(&[("PGSSLROOTCERT", path)]).load().postgres.audit.tls;
    assert_eq!(tls.mode, TlsMode::VerifyFull);
}

#[test]
fn the_broker_takes_a_certificate_for_a_login() {
    let tried = with_files()
        .env(&[("AMQP_URL", "amqps://h/v?auth_mechanism=external")])
        .file("[amqp]\nca_file = \"good.pem\"\ncert_file = \"good.pem\"\nkey_file = \"key.pem\"\n");
    let broker = tried.load().amqp.brokers.remove(0);
    assert!(broker.is_external);
    assert_eq!((&*broker.user, broker.password.expose()), ("", ""));
    assert_eq!(broker.tls.mode, TlsMode::VerifyFull);
    assert!(broker.tls.cert_file.is_some());
}

#[test]
fn unusable_files_are_named() {
    let tried = with_files().env(&[("AMQP_URL", "amqps://h")]);
    for (text, what) in [
        ("ca_file = \"nowhere.pem\"", "ca_file: nowhere.pem cannot be read"),
        ("ca_file = \"empty.pem\"", "ca_file: empty.pem holds no certificate"),
        ("ca_file = \"key.pem\"", "ca_file: key.pem holds no certificate"),
        ("ca_file = \"junk.pem\"", "ca_file: junk.pem holds a bad certificate"),
        ("ca_file = \".\"", "cannot be read"),
        ("cert_file = \"good.pem\"", "cert_file: is set without its key"),
        ("key_file = \"good.pem\"", "key_file: is set without its certificate"),
        (
            "cert_file = \"good.pem\"\nkey_file = \"empty.pem\"",
            "key_file: empty.pem holds no private key",
        ),
        ("cert_file = \"good.pem\"\nkey_file = \"other.pem\"", "does not go with"),
    ] {
        for section in ["postgres", "amqp"] {
            let fault = tried.clone().file(&format!("[{section}]\n{text}\n")).fault();
            assert!(fault.contains(what), "{section}, {text}: {fault}");
            assert!(fault.contains("pgoutbox.toml:"), "{section}, {text}: {fault}");
            assert!(fault.starts_with("a setting is wrong"), "{section}, {text}: {fault}");
        }
    }
}

#[test]
fn files_that_would_not_be_used_are_refused() {
    let tried = with_files();
    let plain_broker = tried.clone().file("[amqp]\nca_file = \"good.pem\"\n");
    assert!(plain_broker.fault().contains("write amqps:// for every broker"));
    let disabled =
        tried.clone().file("[postgres]\nsslmode = \"disable\"\nca_file = \"good.pem\"\n");
    assert!(disabled.fault().contains("sslmode is disable"));
    let unverified =
        tried.clone().file("[postgres]\nsslmode = \"require\"\nca_file = \"good.pem\"\n");
    assert!(unverified.fault().contains("sslmode require verifies nothing"));
    // A variable of the environment is not meant for a URL that wants plain text.
    let filler = tried.env(&[
        ("PGSSLROOTCERT", "/nowhere.pem"),
        ("DATABASE_URL", "postgres://u@h/d?sslmode=disable"),
    ]);
    assert_eq!(filler.load().postgres.audit.tls.mode, TlsMode::Disable);
}
