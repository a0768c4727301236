//! The console's page: one answer, with style and script in it. It holds no data: the script
//! fetches it, with the token where one is asked for.

use rustls::crypto::SecureRandom;

const PAGE: &str = include_str!("page.html");
const STYLE: &str = include_str!("style.css");
const SCRIPT: &str = include_str!("script.js");

/// The page, and the policy that lets it run its own script and nothing else.
pub(super) struct ConsolePage {
    pub(super) html: String,
    pub(super) policy: String,
}

/// Makes the page; `None` where the system gives no random bytes.
pub(super) fn page(has_actions: bool) -> Option<ConsolePage> {
    let mut bytes = [0_u8; 16];
    random().fill(&mut bytes).ok()?;
    let nonce: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    let html = PAGE
        .replace("{actions}", if has_actions { "on" } else { "off" })
        .replace("{nonce}", &nonce)
        .replace("{style}", STYLE)
        .replace("{script}", SCRIPT);
    let policy = format!(
        "default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; \
         connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; \
         frame-ancestors 'none'; require-trusted-types-for 'script'"
    );
    Some(ConsolePage { html, policy })
}

fn random() -> &'static dyn SecureRandom {
    rustls::crypto::ring::default_provider().secure_random
}
