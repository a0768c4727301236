//! Certificate files, read at load: the TLS libraries' own errors come late and say little,
//! and one of them takes an unreadable authority for none (it then trusts only the system's).

use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::{fmt, fs};

use rustls::RootCertStore;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;

use super::origin::{ValueOrigin, cannot_read};
use super::problem::Problems;

/// A value with what it is called in an error.
#[derive(Debug, Clone)]
pub(crate) struct NamedValue<T> {
    pub(crate) value: T,
    pub(crate) origin: ValueOrigin,
    /// The key, or the variable or URL parameter.
    pub(crate) name: String,
}

/// What files held, to tell it from another.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct FileDigest(u64);

// By hand: one of the files is a key.
impl fmt::Debug for FileDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Content")
    }
}

/// The three files of one connection.
#[derive(Debug, Clone, Default)]
pub(crate) struct Files {
    pub(crate) ca: Option<NamedValue<PathBuf>>,
    pub(crate) cert: Option<NamedValue<PathBuf>>,
    pub(crate) key: Option<NamedValue<PathBuf>>,
}

impl Files {
    pub(crate) fn all(&self) -> impl Iterator<Item = &NamedValue<PathBuf>> {
        [&self.ca, &self.cert, &self.key].into_iter().flatten()
    }

    /// What they hold.
    pub(crate) fn content(&self) -> FileDigest {
        let mut hasher = DefaultHasher::new();
        for file in self.all() {
            fs::read(&file.value).unwrap_or_default().hash(&mut hasher);
        }
        FileDigest(hasher.finish())
    }

    /// Reads the files and reports what a connection would stumble over.
    pub(crate) fn check(&self, problems: &mut Problems) {
        if let Some(ca) = &self.ca {
            report(ca, authorities(&ca.value), problems);
        }
        let chain =
            self.cert.as_ref().and_then(|cert| report(cert, certificates(&cert.value), problems));
        let secret =
            self.key.as_ref().and_then(|key| report(key, private_key(&key.value), problems));
        match (&self.cert, &self.key) {
            (Some(cert), None) => alone(cert, "key", problems),
            (None, Some(key)) => alone(key, "certificate", problems),
            (Some(cert), Some(key)) => {
                if let (Some(chain), Some(secret)) = (chain, secret) {
                    let pair = CertifiedKey::from_der(chain, secret, &ring::default_provider());
                    if let Err(error) = pair {
                        let what = format!("does not go with {}: {error}", cert.name);
                        let hint = "name the key that the certificate was made for";
                        problems.add(&key.origin, &key.name, what, hint);
                    }
                }
            }
            (None, None) => {}
        }
    }
}

fn alone(file: &NamedValue<PathBuf>, other: &str, problems: &mut Problems) {
    let what = format!("is set without its {other}");
    problems.add(&file.origin, &file.name, what, "set both cert_file and key_file, or neither");
}

fn report<T>(
    file: &NamedValue<PathBuf>,
    read: Result<T, String>,
    problems: &mut Problems,
) -> Option<T> {
    read.map_err(|what| problems.add(&file.origin, &file.name, what, "name a readable PEM file"))
        .ok()
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    fs::read(path).map_err(|error| cannot_read(path, &error))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let certificates = CertificateDer::pem_slice_iter(&read(path)?)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| format!("{} is not PEM: {error}", path.display()))?;
    match certificates.is_empty() {
        true => Err(format!("{} holds no certificate", path.display())),
        false => Ok(certificates),
    }
}

fn authorities(path: &Path) -> Result<(), String> {
    let mut store = RootCertStore::empty();
    for certificate in certificates(path)? {
        store
            .add(certificate)
            .map_err(|error| format!("{} holds a bad certificate: {error}", path.display()))?;
    }
    Ok(())
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, String> {
    PrivateKeyDer::from_pem_slice(&read(path)?).map_err(|_| {
        format!("{} holds no private key (an encrypted one cannot be read)", path.display())
    })
}
