//! A certificate authority of our own, with server and client certificates, in PEM.

#[cfg(feature = "certs")]
mod authority;

#[cfg(feature = "certs")]
pub use authority::Authority;

#[derive(Clone, Debug)]
pub struct Pair {
    pub cert: String,
    /// PKCS#8.
    pub key: String,
}
