//! The certificates of both sides of a connection.

use jiff::Timestamp;

use super::greeting::Greeting;
use crate::config::{Tls, TlsMode};
use crate::slot::{Finding, Severity};
use crate::tls::chain::{self, ChainFault};

const SERVER: &str = "tls-certificate";
const CLIENT: &str = "tls-client-certificate";
/// What a connection is called that one of them has ended.
const ENDED: [&str; 3] = [SERVER, "postgres-connection", "broker-connection"];

/// What is wrong with those that the server showed, and with our own. `section` is the settings'.
pub(super) fn findings(
    place: &str,
    host: &str,
    tls: &Tls,
    section: &str,
    greeting: &Greeting,
) -> Vec<Finding> {
    if tls.mode == TlsMode::Disable {
        return Vec::new();
    }
    let now = Timestamp::now();
    let ca_setting = format!("{section}.ca_file");
    let mut findings: Vec<_> = chain::troubles(&greeting.chain, tls, host, &ca_setting, now)
        .into_iter()
        .map(|trouble| finding(SERVER, place, trouble))
        .collect();
    match chain::own_troubles(tls, now) {
        Ok(troubles) => {
            let place = format!("{section}.cert_file, for {place}");
            findings.extend(troubles.into_iter().map(|trouble| finding(CLIENT, &place, trouble)));
        }
        Err(fault) => findings.push(Finding::error(CLIENT, fault.what, fault.hint)),
    }
    match chain::good_until(&greeting.chain) {
        Some(ends) if findings.is_empty() => {
            let verified = match tls.mode {
                TlsMode::VerifyFull => "verified",
                TlsMode::VerifyCa => "verified but for its name",
                TlsMode::Require | TlsMode::Disable => "not verified",
            };
            let what =
                format!("{place} shows a certificate ({verified}) that is good until {ends:.0}");
            findings.push(Finding::good(SERVER, what));
        }
        _ => {}
    }
    findings
}

/// What else was found of a server with these certificates: not what the connection that they ended says of
/// it, since they say it better.
pub(super) fn before(certificates: &[Finding], found: Vec<Finding>) -> Vec<Finding> {
    let is_refused = certificates.iter().any(|finding| finding.severity == Severity::Error);
    let is_of_it = |finding: &Finding| ENDED.contains(&finding.name);
    found.into_iter().filter(|finding| !(is_refused && is_of_it(finding))).collect()
}

fn finding(
    name: &'static str,
    place: &str,
    ChainFault { is_error, what, hint }: ChainFault,
) -> Finding {
    let severity = if is_error { Severity::Error } else { Severity::Warning };
    Finding::error(name, format!("{place}: {what}"), hint).with_severity(severity)
}
