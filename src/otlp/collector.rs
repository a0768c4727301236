//! The collector's end: one connection, kept as long as it lives.

use std::sync::Arc;

use http_body_util::{BodyExt, Full, Limited};
use hyper::Request;
use hyper::body::Bytes;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::{CONTENT_TYPE, HOST, HeaderName, HeaderValue, USER_AGENT};
use hyper_util::rt::TokioIo;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceResponse;
use prost::Message;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tracing::debug;

use super::span::{self, SpanServer};
use crate::config::{Otlp, TlsMode};
use crate::core::span::Span;
use crate::error::{Fault, table};
use crate::tls;
use crate::within::in_time;

/// The most that is read of an answer.
const LARGEST: usize = 64 << 10;
/// The most that is repeated of what a collector says.
const WORDS: usize = 200;
/// Answers after which the same may be sent once more.
const LATER: [u16; 4] = [429, 502, 503, 504];
/// Answers to who shows a token that does not hold any more.
const UNKNOWN: [u16; 2] = [401, 403];
/// What goes over the wire.
const PROTOBUF: &str = "application/x-protobuf";

/// Where spans go.
pub(super) struct Collector {
    otlp: Otlp,
    tls: Option<TlsConnector>,
    connection: Option<SendRequest<Full<Bytes>>>,
}

/// The collector took a batch, but for some that it rejected.
pub(super) struct Acceptance {
    pub(super) rejected: usize,
    pub(super) why: String,
}

/// Why a batch was not taken.
pub(super) struct Failure {
    pub(super) what: String,
    pub(super) hint: String,
    /// The same may be sent once more.
    pub(super) is_transient: bool,
}

impl Failure {
    fn new(what: String, hint: &str, is_transient: bool) -> Self {
        Self { what, hint: hint.to_owned(), is_transient }
    }

    pub(super) fn rejected(count: usize, why: &str) -> Self {
        let why: String = why.chars().filter(|c| !c.is_control()).take(WORDS).collect();
        let what = format!("it rejected {count} of a batch, and says: {why}");
        Self::new(what, "see the collector's log", false)
    }

    fn status(code: u16) -> Self {
        let hint = match code {
            401 | 403 => "set what it asks for in otlp.headers",
            404 | 405 => {
                "it has no OTLP over HTTP there: see its receiver's path; otlp.endpoint gets /v1/traces put behind it, otlp.traces_endpoint does not"
            }
            415 => "it takes no protobuf: have its receiver take OTLP over HTTP in binary form",
            _ => "see the collector's log",
        };
        Self::new(format!("it answers {code}"), hint, LATER.contains(&code))
    }
}

/// What a collector answers that took a batch.
fn accepted(answer: Bytes) -> Acceptance {
    let partial = ExportTraceServiceResponse::decode(answer).ok().and_then(|a| a.partial_success);
    let partial = partial.unwrap_or_default();
    let rejected = usize::try_from(partial.rejected_spans).unwrap_or(0);
    Acceptance { rejected, why: partial.error_message }
}

/// Any bytes as that answer: what is repeated of it has its bounds, and does nothing to a log.
pub(crate) fn read_anything(bytes: &[u8]) {
    let Acceptance { rejected, why } = accepted(Bytes::copy_from_slice(bytes));
    let Failure { what: said, .. } = Failure::rejected(rejected, &why);
    assert!(!said.chars().any(char::is_control) && said.chars().count() < 2 * WORDS);
}

type Error = Box<dyn std::error::Error + Send + Sync>;

impl Collector {
    /// # Errors
    /// A file of certificates cannot be read any more.
    pub(super) fn new(otlp: &Otlp) -> Result<Self, Fault> {
        let tls = match otlp.tls.mode {
            TlsMode::Disable => None,
            _ => Some(TlsConnector::from(Arc::new(tls::client_config(&otlp.tls)?))),
        };
        Ok(Self { otlp: otlp.clone(), tls, connection: None })
    }

    /// For the log.
    pub(super) fn url(&self) -> String {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        format!("{scheme}://{}{}", self.authority(), self.otlp.path)
    }

    fn authority(&self) -> String {
        let Otlp { host, port, .. } = &self.otlp;
        if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
    }

    /// The request that brings these spans.
    pub(super) fn request<'a>(
        &self,
        spans: impl Iterator<Item = (&'a SpanServer, &'a Span)>,
    ) -> Bytes {
        let request = span::request(&self.otlp.service_name, spans, || fastrand::u64(..));
        request.encode_to_vec().into()
    }

    /// Sends a request, within the timeout.
    pub(super) async fn post(&mut self, body: Bytes) -> Result<Acceptance, Failure> {
        let patience = self.otlp.timeout;
        let outcome = in_time(patience, self.exchange(body)).await;
        let (code, answer) = match outcome {
            Some(Ok(answered)) => answered,
            Some(Err(error)) => return Err(self.unreachable(&error)),
            None => {
                self.connection = None;
                return Err(Failure::new(
                    format!("no answer within {}", crate::text::span(patience)),
                    "see whether the collector runs and keeps up; otlp.timeout is how long it may take",
                    true,
                ));
            }
        };
        if code != 200 {
            let mut failure = Failure::status(code);
            failure.is_transient |= UNKNOWN.contains(&code) && self.otlp.renew().await;
            return Err(failure);
        }
        Ok(accepted(answer))
    }

    fn unreachable(&self, error: &Error) -> Failure {
        let mut what = error.to_string();
        let mut cause = error.source();
        while let Some(deeper) = cause {
            what = format!("{what}: {deeper}");
            cause = deeper.source();
        }
        let hint = tls::trouble(error.as_ref()).map_or_else(
            || format!(
                "start a collector that takes OTLP over HTTP at {} (port 4317 is usually gRPC's, 4318 HTTP's), or set otlp.endpoint to where it is, or to off",
                self.authority()
            ),
            |failed| {
                let hint = table::handshake(failed, None).hint;
                hint.replace("the CA file", "otlp.ca_file")
            },
        );
        Failure { what, hint, is_transient: true }
    }

    /// The server may have closed a kept connection just now: that is no failure of its.
    async fn exchange(&mut self, body: Bytes) -> Result<(u16, Bytes), Error> {
        if let Some(connection) = self.connection.take()
            && !connection.is_closed()
            && let Ok(answer) = self.ask(connection, body.clone()).await
        {
            return Ok(answer);
        }
        let connection = self.connect().await?;
        self.ask(connection, body).await
    }

    async fn ask(
        &mut self,
        mut connection: SendRequest<Full<Bytes>>,
        body: Bytes,
    ) -> Result<(u16, Bytes), Error> {
        let mut request = Request::post(self.otlp.path.as_str())
            .header(HOST, self.authority())
            .header(USER_AGENT, concat!("pgoutbox/", env!("CARGO_PKG_VERSION")))
            .header(CONTENT_TYPE, PROTOBUF);
        for (name, value) in &self.otlp.headers {
            let mut value = HeaderValue::try_from(value.expose())?;
            value.set_sensitive(true);
            request = request.header(HeaderName::try_from(name)?, value);
        }
        connection.ready().await?;
        let answer = connection.send_request(request.body(Full::new(body))?).await?;
        let code = answer.status().as_u16();
        let answer = Limited::new(answer.into_body(), LARGEST).collect().await?.to_bytes();
        self.connection = Some(connection);
        Ok((code, answer))
    }

    async fn connect(&self) -> Result<SendRequest<Full<Bytes>>, Error> {
        let Otlp { host, port, .. } = &self.otlp;
        let stream = TcpStream::connect((host.as_str(), *port)).await?;
        stream.set_nodelay(true)?;
        Ok(match &self.tls {
            None => over(stream).await?,
            Some(tls) => {
                over(tls.connect(ServerName::try_from(host.clone())?, stream).await?).await?
            }
        })
    }
}

async fn over<S>(stream: S) -> Result<SendRequest<Full<Bytes>>, Error>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let (sender, connection) = handshake(TokioIo::new(stream)).await?;
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            debug!("a connection to the collector ended: {error}");
        }
    });
    Ok(sender)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_standard_names_is_sent_once_more() {
        for code in [429, 502, 503, 504] {
            assert!(Failure::status(code).is_transient, "{code}");
        }
        for code in [201, 301, 400, 401, 404, 413, 500, 501] {
            assert!(!Failure::status(code).is_transient, "{code}");
        }
    }

    #[test]
    fn what_a_collector_says_is_cut_and_on_one_line() {
        let what = Failure::rejected(3, &"a\n".repeat(1_000)).what;
        assert!(what.len() < 300 && !what.contains('\n'), "{what}");
    }
}
