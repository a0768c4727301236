//! TLS as the settings ask for it, for Postgres and RabbitMQ alike.

pub mod chain;

use std::io;
use std::path::Path;
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{
    AlertDescription, CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore,
    SignatureScheme,
};

use crate::config::{Tls, TlsMode};
use crate::error::{Fault, Handshake, Kind, Peer, table};

/// Installs the one crypto provider of the process. Two are compiled in by way of
/// dependencies, and rustls refuses to choose.
pub fn install_provider() {
    // Fails only where one is installed already, which is as well.
    let _ = rustls::crypto::ring::default_provider().install_default();
}

/// What a handshake failed over, if that is what an error is of: the errors below it are looked
/// through for what rustls says.
pub fn trouble(error: &(dyn std::error::Error + 'static)) -> Option<Handshake> {
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
pub fn client_config(tls: &Tls) -> Result<ClientConfig, Fault> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| Fault::definite(format!("TLS cannot be set up: {error}"), ""))?;
    let builder = match tls.mode {
        TlsMode::Disable | TlsMode::Require => builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Verifier { chain: None, provider })),
        TlsMode::VerifyCa => {
            let chain = WebPkiServerVerifier::builder_with_provider(
                Arc::new(roots(tls.ca_file.as_deref())?),
                Arc::clone(&provider),
            )
            .build()
            .map_err(|error| Fault::definite(format!("TLS authorities: {error}"), ""))?;
            builder.dangerous().with_custom_certificate_verifier(Arc::new(Verifier {
                chain: Some(chain),
                provider,
            }))
        }
        TlsMode::VerifyFull => builder.with_root_certificates(roots(tls.ca_file.as_deref())?),
    };
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
        .mend(table::entry(Kind::Tls(Handshake::File), Peer::Postgres).hint)
}

/// Verifies less than rustls likes to: the chain without the name (`verify-ca`), or nothing
/// (`require`). Either way the server must hold the key of the certificate it shows.
#[derive(Debug)]
struct Verifier {
    chain: Option<Arc<WebPkiServerVerifier>>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let Some(chain) = &self.chain else {
            return Ok(ServerCertVerified::assertion());
        };
        // The name is checked last, so an error about it means that the chain was good.
        match chain.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now) {
            Err(Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) => Ok(ServerCertVerified::assertion()),
            verdict => verdict,
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
