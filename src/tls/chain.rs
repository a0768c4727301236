//! The certificates that a server shows: how long they are good, and why they are not trusted.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
};
use x509_cert::Certificate;
use x509_cert::der::Decode;
use x509_cert::ext::pkix::SubjectAltName;
use x509_cert::ext::pkix::name::GeneralName;

use super::{Verifier, certificates, roots};
use crate::config::{Tls, TlsMode};
use crate::error::{Fault, Handshake, table};

/// The end of a certificate is worth a warning this long before, or for a tenth of its life.
const SOON: Duration = Duration::from_secs(14 * 24 * 60 * 60);
/// What a certificate is called that cannot be read.
const UNREADABLE: &str = "a certificate that cannot be read";

/// What is wrong with a chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ChainFault {
    /// The connection is refused over it; else it will be some day.
    pub is_error: bool,
    /// Which certificate, and why.
    pub what: String,
    /// How to fix it.
    pub hint: String,
}

/// Takes whatever a server shows, and keeps it to be looked at.
#[derive(Debug)]
pub(crate) struct ChainRecorder {
    chain: Mutex<Vec<CertificateDer<'static>>>,
    any: Verifier,
}

impl ChainRecorder {
    /// What the server showed, its own certificate first.
    pub(crate) fn chain(&self) -> Vec<CertificateDer<'static>> {
        self.chain.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// As [`client_config`](super::client_config), for a handshake after which nothing is said.
pub(crate) fn recording(tls: &Tls) -> Result<(ClientConfig, Arc<ChainRecorder>), Fault> {
    let lenient = Tls { mode: TlsMode::Require, ..tls.clone() };
    let mut config = super::client_config(&lenient)?;
    let recorder =
        Arc::new(ChainRecorder { chain: Mutex::default(), any: Verifier::of_anybody(provider()) });
    let verifier: Arc<dyn ServerCertVerifier> = Arc::<ChainRecorder>::clone(&recorder);
    config.dangerous().set_certificate_verifier(verifier);
    Ok((config, recorder))
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

impl ServerCertVerifier for ChainRecorder {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let shown = std::iter::once(end_entity).chain(intermediates);
        *self.chain.lock().unwrap_or_else(PoisonError::into_inner) =
            shown.map(|certificate| certificate.clone().into_owned()).collect();
        self.any.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.any.verify_tls12_signature(message, cert, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.any.verify_tls13_signature(message, cert, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.any.supported_verify_schemes()
    }
}

/// Reads certificates as a server would have shown them, whatever they are: for the fuzzer. Who is trusted stands in a
/// file of few: to read the system's takes longer than all else.
pub(crate) fn read_anything(bytes: &[u8], ca_file: &Path) {
    let shown: Vec<CertificateDer<'_>> =
        bytes.split(|byte| *byte == 0xFF).map(CertificateDer::from).collect();
    let whole = [CertificateDer::from(bytes)];
    let ca_file = Some(ca_file.to_owned());
    let tls = Tls { mode: TlsMode::VerifyFull, ca_file, ..Tls::default() };
    for shown in [&shown[..], &whole] {
        drop(troubles(shown, &tls, "db.example", "postgres.ca_file", Timestamp::UNIX_EPOCH));
    }
}

/// What the connection would stumble over, and what it will soon. `ca_setting` is the setting
/// that names the authorities.
pub(crate) fn troubles(
    shown: &[CertificateDer<'_>],
    tls: &Tls,
    host: &str,
    ca_setting: &str,
    now: Timestamp,
) -> Vec<ChainFault> {
    let is_verified = matches!(tls.mode, TlsMode::VerifyCa | TlsMode::VerifyFull);
    let mut troubles: Vec<_> = shown
        .iter()
        .filter_map(|der| out_of_date(&CertificateFacts::of(der), is_verified, now))
        .collect();
    if is_verified && !troubles.iter().any(|trouble| trouble.is_error) {
        troubles.extend(untrusted(shown, tls, host, ca_setting, now));
    }
    troubles
}

/// The same of the certificate that we show.
///
/// # Errors
/// The file of the client certificate cannot be read, or is not PEM.
pub(crate) fn own_troubles(tls: &Tls, now: Timestamp) -> Result<Vec<ChainFault>, Fault> {
    let Some(path) = &tls.cert_file else { return Ok(Vec::new()) };
    let shown = certificates(path)?;
    Ok(shown.iter().filter_map(|der| out_of_date(&CertificateFacts::of(der), true, now)).collect())
}

/// Until when the whole of a chain is good.
pub(crate) fn good_until(shown: &[CertificateDer<'_>]) -> Option<Timestamp> {
    shown.iter().filter_map(|der| CertificateFacts::of(der).ends).min()
}

fn untrusted(
    shown: &[CertificateDer<'_>],
    tls: &Tls,
    host: &str,
    ca_setting: &str,
    now: Timestamp,
) -> Option<ChainFault> {
    let trouble = |what: String, hint: String| Some(ChainFault { is_error: true, what, hint });
    let (server, intermediates) = shown.split_first()?;
    let roots = match roots(tls.ca_file.as_deref()) {
        Ok(roots) => roots,
        Err(fault) => return trouble(fault.what, fault.hint),
    };
    let trusted = match &tls.ca_file {
        Some(path) => format!("{}, which holds {}", path.display(), subjects(&roots)),
        None => "the system's authorities".to_owned(),
    };
    let verifier = match Verifier::of(tls, provider()) {
        Ok(verifier) => verifier,
        Err(fault) => return trouble(fault.what, fault.hint),
    };
    let name = match ServerName::try_from(host.to_owned()) {
        Ok(name) => name,
        Err(_) => {
            return trouble(
                format!("{host:?} is not a name that a certificate can have"),
                "connect by a host name or an IP address".to_owned(),
            );
        }
    };
    let seconds = u64::try_from(now.as_second()).unwrap_or(0);
    let at = UnixTime::since_unix_epoch(Duration::from_secs(seconds));
    let error = verifier.verify_server_cert(server, intermediates, &name, &[], at).err()?;
    let read = CertificateFacts::of(server);
    let last = CertificateFacts::of(shown.last().unwrap_or(server));
    match error {
        Error::InvalidCertificate(
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
        ) => trouble(
            format!("its certificate {} is for {}, not for {host}", read.subject, read.names()),
            "connect by one of these names, or give the server a certificate for this one"
                .to_owned(),
        ),
        Error::InvalidCertificate(CertificateError::UnknownIssuer) => trouble(
            format!(
                "its certificate {} comes from nobody who is trusted: what it shows ends with an \
                 issuer {}, and trusted is {trusted}",
                read.subject, last.issuer
            ),
            format!(
                "name the file with that issuer's certificate: {ca_setting}; or, where that issuer is \
                 itself between the server and a trusted one, have the server show it too"
            ),
        ),
        Error::InvalidCertificate(error) => trouble(
            format!("its certificate {} is not good: {error:?}", read.subject),
            "give the server another certificate".to_owned(),
        ),
        Error::Other(error) => trouble(
            format!("its certificate {} is not good: {error}", read.subject),
            table::handshake(Handshake::Unusable, None).hint.to_owned(),
        ),
        error => trouble(error.to_string(), "give the server another certificate".to_owned()),
    }
}

fn subjects(roots: &RootCertStore) -> String {
    let subject = |anchor: &rustls::pki_types::TrustAnchor<'_>| {
        // The anchor keeps what is inside of the sequence.
        let name = rustls::pki_types::Der::from(anchor.subject.as_ref().to_vec());
        let mut der = vec![0x30];
        match name.len() {
            short @ 0..0x80 => der.push(u8::try_from(short).unwrap_or(0)),
            long @ 0x80..0x100 => der.extend([0x81, u8::try_from(long).unwrap_or(0)]),
            long => {
                let [.., high, low] = long.to_be_bytes();
                der.extend([0x82, high, low]);
            }
        }
        der.extend_from_slice(&name);
        x509_cert::name::Name::from_der(&der)
            .map_or_else(|_| UNREADABLE.to_owned(), |name| name.to_string())
    };
    roots.roots.iter().map(subject).collect::<Vec<_>>().join("; ")
}

fn out_of_date(read: &CertificateFacts, is_refused: bool, now: Timestamp) -> Option<ChainFault> {
    let (subject, begins, ends) = (&read.subject, read.begins?, read.ends?);
    let renew = "renew it, and have the server load the new one".to_owned();
    if ends <= now {
        let what = format!("certificate {subject} expired at {ends:.0}");
        return Some(ChainFault { is_error: is_refused, what, hint: renew });
    }
    if now < begins {
        return Some(ChainFault {
            is_error: is_refused,
            what: format!(
                "certificate {subject} is not good before {begins:.0}; it is {now:.0} here"
            ),
            hint: "set the clock of this machine, or of the one that made the certificate"
                .to_owned(),
        });
    }
    let life = ends.duration_since(begins).unsigned_abs();
    let left = ends.duration_since(now).unsigned_abs();
    (left < SOON.min(life / 10)).then(|| ChainFault {
        is_error: false,
        what: format!(
            "certificate {subject} expires at {ends:.0}, in {}",
            crate::text::span(Duration::from_secs(left.as_secs() / 3600 * 3600))
        ),
        hint: renew,
    })
}

/// What is shown of a certificate.
struct CertificateFacts {
    subject: String,
    issuer: String,
    names: Vec<String>,
    begins: Option<Timestamp>,
    ends: Option<Timestamp>,
}

impl CertificateFacts {
    fn of(der: &CertificateDer<'_>) -> Self {
        let Ok(certificate) = Certificate::from_der(der) else {
            let unreadable = || UNREADABLE.to_owned();
            let (subject, issuer) = (unreadable(), unreadable());
            return Self { subject, issuer, names: Vec::new(), begins: None, ends: None };
        };
        let read = &certificate.tbs_certificate;
        let time = |time: &x509_cert::time::Time| {
            let seconds = i64::try_from(time.to_unix_duration().as_secs()).ok()?;
            Timestamp::from_second(seconds).ok()
        };
        let names = read.get::<SubjectAltName>().ok().flatten();
        Self {
            subject: read.subject.to_string(),
            issuer: read.issuer.to_string(),
            names: names
                .map_or_else(Vec::new, |(_, names)| names.0.iter().filter_map(shown).collect()),
            begins: time(&read.validity.not_before),
            ends: time(&read.validity.not_after),
        }
    }

    fn names(&self) -> String {
        if self.names.is_empty() { "no host".to_owned() } else { self.names.join(", ") }
    }
}

fn shown(name: &GeneralName) -> Option<String> {
    match name {
        GeneralName::DnsName(name) => Some(name.to_string()),
        GeneralName::IpAddress(octets) => match octets.as_bytes() {
            &[a, b, c, d] => Some(std::net::Ipv4Addr::new(a, b, c, d).to_string()),
            bytes => <[u8; 16]>::try_from(bytes)
                .ok()
                .map(|six| std::net::Ipv6Addr::from(six).to_string()),
        },
        _ => None,
    }
}
