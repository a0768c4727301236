//! TLS as the settings ask for it, for Postgres and RabbitMQ alike.
//!
//! **Invariant:** it opens no connection: it makes what a connection is secured with.

pub(crate) mod chain;

pub(crate) use chain::read_anything;

use std::io;
use std::path::Path;
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_name;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{
    AlertDescription, CertificateError, ClientConfig, DigitallySignedStruct, Error, OtherError,
    RootCertStore, SignatureScheme,
};

use x509_cert::der::Decode;

use crate::config::{Tls, TlsMode};
use crate::error::{Fault, Handshake, Kind, Peer, table};

/// Installs the one crypto provider of the process: a dependency that brings a second one must not
/// leave the choice to rustls, which refuses to make it.
pub fn install_provider() {
    // Fails only where one is installed already, which is as well.
    let _ = rustls::crypto::ring::default_provider().install_default();
}

/// What a handshake failed over, if that is what an error is of: the errors below it are looked
/// through for what rustls says.
pub(crate) fn trouble(error: &(dyn std::error::Error + 'static)) -> Option<Handshake> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(error) = error.downcast_ref::<Error>() {
            return Some(handshake(error));
        }
        // What an IO error wraps is not what it calls its source.
        let wrapped = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        next = match wrapped {
            Some(wrapped) => Some(wrapped as &(dyn std::error::Error + 'static)),
            None => error.source(),
        };
    }
    None
}

fn handshake(error: &Error) -> Handshake {
    match error {
        Error::InvalidCertificate(error) => certificate(error),
        // The server's first bytes are of another protocol.
        Error::InvalidMessage(_) | Error::InappropriateMessage { .. } => Handshake::NotTls,
        Error::AlertReceived(alert) => match alert {
            AlertDescription::ProtocolVersion
            | AlertDescription::HandshakeFailure
            | AlertDescription::InsufficientSecurity => Handshake::Mismatch,
            AlertDescription::UnrecognisedName => Handshake::Name,
            _ => Handshake::Refused,
        },
        Error::PeerIncompatible(_) => Handshake::Mismatch,
        Error::Other(OtherError(error)) if error.is::<OldVersion>() => Handshake::Unusable,
        _ => Handshake::Other,
    }
}

fn certificate(error: &CertificateError) -> Handshake {
    match error {
        CertificateError::UnknownIssuer | CertificateError::BadSignature => Handshake::Untrusted,
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            Handshake::Name
        }
        CertificateError::Expired
        | CertificateError::ExpiredContext { .. }
        | CertificateError::NotValidYet
        | CertificateError::NotValidYetContext { .. } => Handshake::Expired,
        CertificateError::BadEncoding
        | CertificateError::InvalidPurpose
        | CertificateError::InvalidPurposeContext { .. }
        | CertificateError::Other(_) => Handshake::Unusable,
        _ => Handshake::Other,
    }
}

/// What rustls needs to know of one connection's TLS.
///
/// # Errors
/// A file that cannot be read or holds no certificate or key: before anything connects.
pub(crate) fn client_config(tls: &Tls) -> Result<ClientConfig, Fault> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| Fault::definite(format!("TLS cannot be set up: {error}"), ""))?;
    let verifier = Arc::new(Verifier::of(tls, provider)?);
    let builder = builder.dangerous().with_custom_certificate_verifier(verifier);
    match (&tls.cert_file, &tls.key_file) {
        (None, None) => Ok(builder.with_no_client_auth()),
        (Some(cert), Some(key)) => builder
            .with_client_auth_cert(certificates(cert)?, private_key(key)?)
            .map_err(|error| bad_file(cert, &format!("is no use with its key: {error}"))),
        _ => Err(Fault::usage(
            "a client certificate needs both cert_file and key_file",
            "name the other one too, or neither",
        )),
    }
}

/// A named authority replaces the system's: who names one means that one.
fn roots(ca_file: Option<&Path>) -> Result<RootCertStore, Fault> {
    let mut roots = RootCertStore::empty();
    if let Some(path) = ca_file {
        for certificate in certificates(path)? {
            roots.add(certificate).map_err(|error| bad_file(path, &error.to_string()))?;
        }
        return Ok(roots);
    }
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if roots.is_empty() {
        return Err(Fault::definite(
            "this machine has no certificate authorities to verify a server with",
            "install them (Debian: apt install ca-certificates), or name a CA file",
        ));
    }
    Ok(roots)
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, Fault> {
    let found: Vec<_> = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect)
        .map_err(|error| bad_file(path, &format!("cannot be read as PEM: {error}")))?;
    if found.is_empty() { Err(bad_file(path, "holds no certificate")) } else { Ok(found) }
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, Fault> {
    PrivateKeyDer::from_pem_file(path)
        .map_err(|error| bad_file(path, &format!("cannot be read as a PEM key: {error}")))
}

/// Transient: the files were good when the settings were read, so this one is being renewed.
fn bad_file(path: &Path, what: &str) -> Fault {
    Fault::transient(format!("TLS file {} {what}", path.display()))
        .kind(Kind::Tls(Handshake::File))
        .hint(table::entry(Kind::Tls(Handshake::File), Peer::Postgres).hint)
}

/// Verifies as `sslmode` asks for: the chain and the name, the chain alone (`verify-ca`), or nothing
/// (`require`). Either way the server must hold the key of the certificate it shows.
///
/// A certificate that stands in the CA file itself needs no chain, as with OpenSSL: the one that a
/// server has signed for itself is often an authority's too, which webpki takes for no server's.
#[derive(Debug)]
struct Verifier {
    chain: Option<Arc<WebPkiServerVerifier>>,
    named: Vec<CertificateDer<'static>>,
    is_any_name: bool,
    provider: Arc<CryptoProvider>,
}

impl Verifier {
    fn of(tls: &Tls, provider: Arc<CryptoProvider>) -> Result<Self, Fault> {
        if matches!(tls.mode, TlsMode::Disable | TlsMode::Require) {
            return Ok(Self::of_anybody(provider));
        }
        let roots = Arc::new(roots(tls.ca_file.as_deref())?);
        let chain = WebPkiServerVerifier::builder_with_provider(roots, Arc::clone(&provider))
            .build()
            .map_err(|error| Fault::definite(format!("TLS authorities: {error}"), ""))?;
        let named = tls.ca_file.as_deref().map(certificates).transpose()?.unwrap_or_default();
        let is_any_name = tls.mode == TlsMode::VerifyCa;
        Ok(Self { chain: Some(chain), named, is_any_name, provider })
    }

    fn of_anybody(provider: Arc<CryptoProvider>) -> Self {
        Self { chain: None, named: Vec::new(), is_any_name: true, provider }
    }

    /// One that is trusted by itself: in its time, and under its name.
    fn verify_named(
        server: &CertificateDer<'_>,
        name: &ServerName<'_>,
        now: UnixTime,
    ) -> Result<(), Error> {
        let read = x509_cert::Certificate::from_der(server)
            .map_err(|_| Error::InvalidCertificate(CertificateError::BadEncoding))?;
        let validity = read.tbs_certificate.validity;
        if now.as_secs() < validity.not_before.to_unix_duration().as_secs() {
            return Err(Error::InvalidCertificate(CertificateError::NotValidYet));
        }
        if now.as_secs() > validity.not_after.to_unix_duration().as_secs() {
            return Err(Error::InvalidCertificate(CertificateError::Expired));
        }
        verify_server_name(&ParsedCertificate::try_from(server)?, name)
    }
}

/// It cannot even be used to check that the server holds its key.
#[derive(Debug)]
struct OldVersion;

impl std::fmt::Display for OldVersion {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("it is of X.509 version 1 or 2: version 3 is needed")
    }
}

impl std::error::Error for OldVersion {}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let read = x509_cert::Certificate::from_der(end_entity);
        if read.is_ok_and(|read| read.tbs_certificate.version != x509_cert::Version::V3) {
            return Err(Error::Other(OtherError(Arc::new(OldVersion))));
        }
        let Some(chain) = &self.chain else {
            return Ok(ServerCertVerified::assertion());
        };
        // The name is checked last, so an error about it means that the chain was good.
        let verified = if self.named.contains(end_entity) {
            Self::verify_named(end_entity, server_name, now)
        } else {
            let (shown, name) = (intermediates, server_name);
            chain.verify_server_cert(end_entity, shown, name, ocsp_response, now).map(drop)
        };
        match verified {
            Err(Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) if self.is_any_name => Ok(ServerCertVerified::assertion()),
            verified => verified.map(|()| ServerCertVerified::assertion()),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        rustls::crypto::verify_tls12_signature(
            message,
            cert,
            signature,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        rustls::crypto::verify_tls13_signature(
            message,
            cert,
            signature,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
