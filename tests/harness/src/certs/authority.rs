//! The authority, which signs.

use anyhow::Result;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};

use super::Pair;

pub struct Authority {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    pub fn new(name: &str) -> Result<Authority> {
        let key = KeyPair::generate()?;
        let mut params = named(name, &[])?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let pem = params.self_signed(&key)?.pem();
        Ok(Authority { pem, issuer: Issuer::new(params, key) })
    }

    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// `names` are host names and IP addresses, such as `localhost` and `127.0.0.1`.
    pub fn server(&self, names: &[&str]) -> Result<Pair> {
        self.sign(named("server", names)?, ExtendedKeyUsagePurpose::ServerAuth)
    }

    /// The same, good until the beginning of this day (year, month, day).
    pub fn server_until(&self, names: &[&str], (year, month, day): (i32, u8, u8)) -> Result<Pair> {
        let mut params = named("server", names)?;
        params.not_after = rcgen::date_time_ymd(year, month, day);
        // Long enough for a certificate that is soon over to be one that was long good.
        params.not_before = rcgen::date_time_ymd(year - 1, month, day);
        self.sign(params, ExtendedKeyUsagePurpose::ServerAuth)
    }

    /// The common name is the user whom Postgres' `cert` and RabbitMQ's `EXTERNAL` see.
    pub fn client(&self, common_name: &str) -> Result<Pair> {
        self.sign(named(common_name, &[])?, ExtendedKeyUsagePurpose::ClientAuth)
    }

    /// Signed by itself, as `openssl req -x509` makes it: an authority's, and a server's.
    pub fn self_signed(names: &[&str]) -> Result<Pair> {
        let key = KeyPair::generate()?;
        let mut params = named("server", names)?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Ok(Pair { cert: params.self_signed(&key)?.pem(), key: key.serialize_pem() })
    }

    fn sign(&self, mut params: CertificateParams, usage: ExtendedKeyUsagePurpose) -> Result<Pair> {
        params.extended_key_usages = vec![usage];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        let key = KeyPair::generate()?;
        Ok(Pair { cert: params.signed_by(&key, &self.issuer)?.pem(), key: key.serialize_pem() })
    }
}

fn named(common_name: &str, names: &[&str]) -> Result<CertificateParams> {
    let names: Vec<String> = names.iter().map(|name| name.to_string()).collect();
    let mut params = CertificateParams::new(names)?;
    params.distinguished_name.push(DnType::CommonName, common_name);
    Ok(params)
}
