//! Answers requests.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, Limited, StreamBody};
use hyper::body::{Bytes, Incoming};
use hyper::header::{self, HeaderName, HeaderValue};
use hyper::{HeaderMap, Method, Request, Response, StatusCode};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use tokio::time::{Duration, Instant};
use tracing::{info, warn};

use super::access::{AccessRules, has_two_hosts, is_foreign};
use super::history::{History, STEP};
use super::parked::{self, Action, ParkedCache, ParkedQuery, ParkedSelection};
use super::ready::{self, Readiness};
use super::snapshot_cache::Looker;
use super::{console, event, events, status};
use crate::board::Board;
use crate::config::{Config, Http, Secret};
use crate::error::Fault;
use crate::observe::metrics::{self, Process};
use crate::within::in_time;

/// What is answered.
pub(super) type Reply = Response<UnsyncBoxBody<Bytes, Infallible>>;

/// Marks an answer that goes on for long.
#[derive(Debug, Clone, Copy)]
pub(super) struct LongLived;

/// Sent with every answer: nothing here is for caches, frames or other sites.
const HEADERS: [(HeaderName, &str); 5] = [
    (header::CACHE_CONTROL, "no-store"),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::X_FRAME_OPTIONS, "DENY"),
    (header::REFERRER_POLICY, "no-referrer"),
    (header::CONTENT_SECURITY_POLICY, "default-src 'none'; frame-ancestors 'none'"),
];

const TEXT: &str = "text/plain; charset=utf-8";
const HTML: &str = "text/html; charset=utf-8";
const JSON: &str = "application/json";
const METRICS: &str = "text/plain; version=0.0.4; charset=utf-8";
const EVENTS: &str = "text/event-stream";

/// The most that is read of a body.
const BODY_BYTES: usize = 64 << 10;
/// How long Postgres may take: the connection lives no longer.
const PATIENCE: Duration = Duration::from_secs(12);
/// How long the relay may take to look through its memory.
const SEEK: Duration = Duration::from_secs(1);
/// How often a token's file is looked into at most.
const LOOKS: Duration = Duration::from_secs(1);

/// Answers requests.
#[derive(Debug)]
pub(super) struct Desk {
    rules: AccessRules,
    http: Http,
    /// When the token's file was looked into.
    looked: Mutex<Instant>,
    board: Board,
    looker: Arc<Looker>,
    history: Arc<History>,
    parking: ParkedCache,
    listeners: Arc<Semaphore>,
}

impl Desk {
    pub(super) fn new(config: &Config, board: &Board, address: SocketAddr) -> Self {
        Self {
            rules: AccessRules::new(config.http.token.clone(), address),
            http: config.http.clone(),
            looked: Mutex::new(Instant::now()),
            board: board.clone(),
            looker: Arc::new(Looker::new(board.clone())),
            history: Arc::default(),
            parking: ParkedCache::default(),
            listeners: Arc::new(Semaphore::new(events::LISTENERS)),
        }
    }

    /// Takes the points of the last hour; never ends.
    pub(super) async fn remember(&self) {
        let mut steps = tokio::time::interval(STEP);
        loop {
            steps.tick().await;
            let snapshot = self.looker.look().await;
            self.history.take(self.looker.elapsed(), &snapshot);
        }
    }

    /// Looks into the token's file, now and then: a new token holds from then on.
    async fn renew_token(&self) {
        {
            let mut looked = self.looked.lock().unwrap_or_else(PoisonError::into_inner);
            if looked.elapsed() < LOOKS {
                return;
            }
            *looked = Instant::now();
        }
        if let Some(token) = self.http.token_now().await {
            self.rules.renew(token);
        }
    }

    /// Never fails: what is wrong with a request is an answer too.
    pub(super) async fn answer(
        &self,
        request: Request<Incoming>,
        remote: SocketAddr,
    ) -> Result<Reply, Infallible> {
        // A probe does not wait for a file.
        if !matches!(request.uri().path(), "/livez" | "/readyz") {
            self.renew_token().await;
        }
        let headers = request.headers();
        if has_two_hosts(headers) {
            return Ok(answer(StatusCode::BAD_REQUEST, TEXT, "name one host\n"));
        }
        if !self.rules.takes_host(headers, request.uri().host()) {
            let text = "this host name is not taken without http.token: ask 127.0.0.1\n";
            return Ok(answer(StatusCode::FORBIDDEN, TEXT, text));
        }
        let may_see = self.rules.may_see(headers);
        let is_reading = matches!(*request.method(), Method::GET | Method::HEAD);
        let path = request.uri().path().to_owned();
        Ok(match path.as_str() {
            "/pause" => self.pause(request, remote, true).await,
            "/resume" => self.pause(request, remote, false).await,
            "/parked/retry" => self.act(request, remote, Action::Retry).await,
            "/parked/discard" => self.act(request, remote, Action::Discard).await,
            "/" | "/livez" | "/readyz" | "/metrics" | "/status" | "/history" | "/events"
            | "/event" | "/parked"
                if !is_reading =>
            {
                not_allowed("GET, HEAD")
            }
            "/" => self.page(),
            "/livez" => self.live().await,
            "/readyz" => self.ready(may_see).await,
            "/metrics" | "/status" | "/history" | "/events" | "/event" | "/parked" if !may_see => {
                unauthorized()
            }
            "/metrics" => self.metrics().await,
            "/status" => self.status().await,
            "/history" => json_answer(StatusCode::OK, &self.history.json(self.looker.elapsed())),
            "/parked" => self.parked(request.uri().query().unwrap_or_default()).await,
            "/events" => self.events(),
            "/event" => self.event(request.uri().query().unwrap_or_default()).await,
            _ => answer(StatusCode::NOT_FOUND, TEXT, "there is no such page\n"),
        })
    }

    fn page(&self) -> Reply {
        let Some(page) = console::page(self.rules.has_token()) else {
            return answer(StatusCode::INTERNAL_SERVER_ERROR, TEXT, "no random bytes to be had\n");
        };
        let mut shown = answer(StatusCode::OK, HTML, page.html);
        if let Ok(policy) = HeaderValue::from_str(&page.policy) {
            shown.headers_mut().insert(header::CONTENT_SECURITY_POLICY, policy);
        }
        shown
    }

    async fn live(&self) -> Reply {
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

    async fn ready(&self, may_see: bool) -> Reply {
        let readiness = Readiness::of(&*self.looker.look().await);
        let code = match readiness.is_ready() {
            true => StatusCode::OK,
            false => StatusCode::SERVICE_UNAVAILABLE,
        };
        json_answer(code, &readiness.json(may_see))
    }

    async fn status(&self) -> Reply {
        let snapshot = self.looker.look().await;
        json_answer(StatusCode::OK, &status::json(&snapshot, self.history.recent()))
    }

    async fn metrics(&self) -> Reply {
        let snapshot = self.looker.look().await;
        answer(StatusCode::OK, METRICS, metrics::render(&snapshot, &Process::read()))
    }

    fn events(&self) -> Reply {
        let Ok(place) = self.listeners.clone().try_acquire_owned() else {
            let text = format!(
                "{} listen already, and no more can: /status says the same once\n",
                events::LISTENERS
            );
            return answer(StatusCode::SERVICE_UNAVAILABLE, TEXT, text);
        };
        let told = events::stream(self.looker.clone(), self.history.clone(), place);
        let mut lasting = answer(StatusCode::OK, EVENTS, "");
        *lasting.body_mut() = StreamBody::new(told).boxed_unsync();
        lasting.extensions_mut().insert(LongLived);
        lasting
    }

    async fn parked(&self, query: &str) -> Reply {
        let Some(query) = ParkedQuery::read(query) else {
            let text = "after=, behind=, reason=, table= and text= choose parked events\n";
            return answer(StatusCode::BAD_REQUEST, TEXT, text);
        };
        let Some(config) = self.board.in_force() else { return of_postgres(None) };
        of_postgres(in_time(PATIENCE, self.parking.list(&config, query)).await)
    }

    /// Where an event stands; with `memory`, only what the relay itself has of it.
    async fn event(&self, query: &str) -> Reply {
        let Some(wanted) = event::EventQuery::read(query) else {
            let text = "name an event: /event?id=…, at most 255 bytes\n";
            return answer(StatusCode::BAD_REQUEST, TEXT, text);
        };
        let held = self.board.seek(&wanted.id, SEEK).await.unwrap_or_default();
        if wanted.is_memory {
            return json_answer(StatusCode::OK, &json!(held));
        }
        let Some(config) = self.board.in_force() else { return of_postgres(None) };
        of_postgres(in_time(PATIENCE, event::look(&config, wanted.id, held)).await)
    }

    /// Does what somebody in the console has confirmed.
    async fn act(&self, request: Request<Incoming>, remote: SocketAddr, action: Action) -> Reply {
        let mut which: ParkedSelection = match self.asked(request, remote).await {
            Ok(which) => which,
            Err(refused) => return refused,
        };
        if let Err(wrong) = which.check() {
            return answer(StatusCode::BAD_REQUEST, TEXT, format!("{wrong}\n"));
        }
        which.note = noted(remote, &which.note);
        let Some(config) = self.board.in_force() else { return of_postgres(None) };
        let acted = in_time(PATIENCE, self.parking.act(&config, action, &which)).await;
        log(remote, &format!("{action:?} {:?}", which.seqs), acted.as_ref());
        of_postgres(acted)
    }

    async fn pause(
        &self,
        request: Request<Incoming>,
        remote: SocketAddr,
        is_paused: bool,
    ) -> Reply {
        let Note { note } = match self.asked(request, remote).await {
            Ok(note) => note,
            Err(refused) => return refused,
        };
        let note = noted(remote, &note);
        let Some(config) = self.board.in_force() else { return of_postgres(None) };
        let acted = in_time(PATIENCE, parked::pause(&config, is_paused, &note)).await;
        log(remote, if is_paused { "pause" } else { "resume" }, acted.as_ref());
        of_postgres(acted)
    }

    /// What an action is asked to do, of one who may.
    async fn asked<T: DeserializeOwned>(
        &self,
        request: Request<Incoming>,
        remote: SocketAddr,
    ) -> Result<T, Reply> {
        if *request.method() != Method::POST {
            return Err(not_allowed("POST"));
        }
        let headers = request.headers();
        if !self.rules.has_token() {
            let text = "nothing can be changed from here without http.token\n";
            return Err(answer(StatusCode::FORBIDDEN, TEXT, text));
        }
        if is_foreign(headers) {
            let text = "a page of another origin asks: nothing can be changed from there\n";
            return Err(answer(StatusCode::FORBIDDEN, TEXT, text));
        }
        if !self.rules.may_act(headers) {
            let path = request.uri().path();
            warn!(%remote, path, "an action of the console was refused: it showed no token");
            return Err(unauthorized());
        }
        let is_json = headers
            .get(header::CONTENT_TYPE)
            .is_some_and(|value| value.as_bytes().starts_with(JSON.as_bytes()));
        if !is_json {
            let text = "send application/json\n";
            return Err(answer(StatusCode::UNSUPPORTED_MEDIA_TYPE, TEXT, text));
        }
        let Ok(body) = Limited::new(request.into_body(), BODY_BYTES).collect().await else {
            let text = "over 64 KiB, or broken off\n";
            return Err(answer(StatusCode::PAYLOAD_TOO_LARGE, TEXT, text));
        };
        serde_json::from_slice(&body.to_bytes())
            .map_err(|wrong| answer(StatusCode::BAD_REQUEST, TEXT, format!("{wrong}\n")))
    }
}

/// Any bytes as a request: lines of headers, and a body behind an empty one. Nobody may act who does not show the token.
pub(crate) fn read_any_request(bytes: &[u8]) {
    const TOKEN: &str = "s3cret";
    let rules = AccessRules::new(Some(Secret::new(TOKEN)), ([127, 0, 0, 1], 1).into());
    let at = bytes.windows(2).position(|two| two == b"\n\n");
    let (head, body) = bytes.split_at(at.unwrap_or(bytes.len()));
    let mut headers = HeaderMap::new();
    for line in head.split(|byte| *byte == b'\n') {
        let mut parts = line.splitn(2, |byte| *byte == b':');
        let (name, value) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
        let name = HeaderName::from_bytes(name);
        if let (Ok(name), Ok(value)) = (name, HeaderValue::from_bytes(value.trim_ascii())) {
            headers.append(name, value);
        }
    }
    if rules.may_act(&headers) {
        let shown = headers.get(header::AUTHORIZATION).map(HeaderValue::as_bytes);
        assert!(shown.is_some_and(|shown| shown.ends_with(TOKEN.as_bytes())));
    }
    let (host, foreign) = (rules.takes_host(&headers, None), is_foreign(&headers));
    let _ = (host, foreign, has_two_hosts(&headers));
    let _ = serde_json::from_slice::<Note>(body.trim_ascii());
    if let Ok(which) = serde_json::from_slice::<ParkedSelection>(body.trim_ascii()) {
        assert!(which.check().is_err() || !which.seqs.is_empty());
    }
}

/// Why, for the record.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Note {
    #[serde(default)]
    note: String,
}

fn noted(remote: SocketAddr, note: &str) -> String {
    format!("console, {}: {note}", remote.ip())
}

fn log(remote: SocketAddr, action: &str, acted: Option<&Result<Value, Fault>>) {
    match acted {
        Some(Ok(done)) => info!(%remote, action, %done, "an action of the console"),
        Some(Err(fault)) => warn!(%remote, action, "an action of the console failed: {fault}"),
        None => warn!(%remote, action, "an action of the console took too long"),
    }
}

fn of_postgres(told: Option<Result<Value, Fault>>) -> Reply {
    match told {
        Some(Ok(value)) => json_answer(StatusCode::OK, &value),
        Some(Err(fault)) => {
            let told = json!({"what": fault.what, "hint": fault.hint});
            json_answer(StatusCode::SERVICE_UNAVAILABLE, &told)
        }
        None => {
            let told = json!({"what": "Postgres did not answer in time", "hint": ""});
            json_answer(StatusCode::SERVICE_UNAVAILABLE, &told)
        }
    }
}

fn not_allowed(allowed: &'static str) -> Reply {
    let mut refused =
        answer(StatusCode::METHOD_NOT_ALLOWED, TEXT, format!("only {allowed} here\n"));
    refused.headers_mut().insert(header::ALLOW, HeaderValue::from_static(allowed));
    refused
}

fn unauthorized() -> Reply {
    let mut answer = answer(
        StatusCode::UNAUTHORIZED,
        TEXT,
        "http.token is set: show it as Authorization: Bearer …\n",
    );
    let scheme = HeaderValue::from_static("Bearer realm=\"pgoutbox\"");
    answer.headers_mut().insert(header::WWW_AUTHENTICATE, scheme);
    answer
}

fn json_answer(code: StatusCode, value: &Value) -> Reply {
    let value = crate::error::with_old_key(value.clone());
    answer(code, JSON, format!("{value}\n"))
}

fn answer(code: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Reply {
    let mut answer = Response::new(Full::new(body.into()).boxed_unsync());
    *answer.status_mut() = code;
    let headers = answer.headers_mut();
    for (name, value) in HEADERS {
        headers.insert(name, HeaderValue::from_static(value));
    }
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    answer
}
