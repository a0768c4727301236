//! libpq's `sslmode`.

use super::TlsMode;
use super::kind::SSL_MODES;
use super::raw::{Wrong, quote};

/// Reads an `sslmode`.
///
/// # Errors
/// The text is not an `sslmode`, or names one that falls back to plain text.
pub(crate) fn ssl_mode(text: &str) -> Result<TlsMode, Wrong> {
    match text {
        "disable" => Ok(TlsMode::Disable),
        "require" => Ok(TlsMode::Require),
        "verify-ca" => Ok(TlsMode::VerifyCa),
        "verify-full" => Ok(TlsMode::VerifyFull),
        "prefer" | "allow" => Err(Wrong::new(
            format!("sslmode {text} falls back to plain text in silence, so it protects nothing"),
            "choose verify-full, or disable where plain text is meant",
        )),
        _ => Err(Wrong::new(
            format!("{} is not an sslmode", quote(text)),
            format!("choose {}", SSL_MODES.join(", ")),
        )),
    }
}
