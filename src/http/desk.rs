//! Answers requests.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{self, HeaderName, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use serde_json::{Value, json};

use super::guest::Rules;
use super::look::Looker;
use super::ready::{self, Readiness};
use super::status;
use crate::board::Board;
use crate::config::Config;
use crate::metrics::{self, Process};
use crate::snapshot::Facts;

/// What is answered.
pub(super) type Answer = Response<Full<Bytes>>;

/// Sent with every answer: nothing here is for caches, frames or other sites.
const HEADERS: [(HeaderName, &str); 5] = [
    (header::CACHE_CONTROL, "no-store"),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::X_FRAME_OPTIONS, "DENY"),
    (header::REFERRER_POLICY, "no-referrer"),
    (header::CONTENT_SECURITY_POLICY, "default-src 'none'; frame-ancestors 'none'"),
];

const TEXT: &str = "text/plain; charset=utf-8";
const JSON: &str = "application/json";
const METRICS: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Answers requests.
#[derive(Debug)]
pub(super) struct Desk {
    rules: Rules,
    looker: Arc<Looker>,
}

impl Desk {
    pub(super) fn new(config: &Config, board: &Board, address: SocketAddr) -> Self {
        let looker = Arc::new(Looker::new(board.clone(), Facts::of(config)));
        Self { rules: Rules::new(config.http.token.clone(), address), looker }
    }

    /// Never fails: what is wrong with a request is an answer too.
    pub(super) async fn answer(
        &self,
        request: Request<Incoming>,
        _remote: SocketAddr,
    ) -> Result<Answer, Infallible> {
        let headers = request.headers();
        if !self.rules.takes_host(headers) {
            let text = "this host name is not taken without http.token: ask 127.0.0.1\n";
            return Ok(answer(StatusCode::FORBIDDEN, TEXT, text));
        }
        let may_see = self.rules.may_see(headers);
        let path = request.uri().path();
        let is_known = matches!(path, "/livez" | "/readyz" | "/metrics" | "/status");
        if !is_known {
            return Ok(answer(StatusCode::NOT_FOUND, TEXT, "there is no such page\n"));
        }
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            let mut refused =
                answer(StatusCode::METHOD_NOT_ALLOWED, TEXT, "only GET and HEAD here\n");
            refused.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
            return Ok(refused);
        }
        Ok(match path {
            "/livez" => self.live().await,
            "/readyz" => self.ready(may_see).await,
            _ if !may_see => unauthorized(),
            "/metrics" => self.metrics().await,
            _ => json_answer(StatusCode::OK, &status::json(&*self.looker.look().await)),
        })
    }

    async fn live(&self) -> Answer {
        let snapshot = self.looker.look().await;
        let silent = ready::silent(&snapshot);
        let code = if silent.is_some() { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK };
        let told = json!({
            "is_alive": silent.is_none(),
            "state": snapshot.shown.state.name(),
            "silent_seconds": silent.map(|silent| silent.as_secs()),
        });
        json_answer(code, &told)
    }

    async fn ready(&self, may_see: bool) -> Answer {
        let readiness = Readiness::of(&*self.looker.look().await);
        let code = match readiness.is_ready() {
            true => StatusCode::OK,
            false => StatusCode::SERVICE_UNAVAILABLE,
        };
        json_answer(code, &readiness.json(may_see))
    }

    async fn metrics(&self) -> Answer {
        let snapshot = self.looker.look().await;
        answer(StatusCode::OK, METRICS, metrics::render(&snapshot, &Process::read()))
    }
}

fn unauthorized() -> Answer {
    let mut answer = answer(
        StatusCode::UNAUTHORIZED,
        TEXT,
        "http.token is set: show it as Authorization: Bearer …\n",
    );
    let scheme = HeaderValue::from_static("Bearer realm=\"pgoutbox\"");
    answer.headers_mut().insert(header::WWW_AUTHENTICATE, scheme);
    answer
}

fn json_answer(code: StatusCode, value: &Value) -> Answer {
    answer(code, JSON, format!("{value}\n"))
}

fn answer(code: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Answer {
    let mut answer = Response::new(Full::new(body.into()));
    *answer.status_mut() = code;
    let headers = answer.headers_mut();
    for (name, value) in HEADERS {
        headers.insert(name, HeaderValue::from_static(value));
    }
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    answer
}
