//! The other end: asks a running pgoutbox on this machine.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Bytes;
use hyper::header::{AUTHORIZATION, HOST};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use crate::config::Http;
use crate::error::{Fault, Kind};
use crate::within::in_time;

/// The most that is read of an answer.
const LARGEST: usize = 4 << 20;

/// Where the process with these settings can be asked; `None` where it cannot.
pub(crate) fn address(http: &Http) -> Option<SocketAddr> {
    let mut address = http.address.filter(|address| address.port() != 0)?;
    match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => address.set_ip(Ipv4Addr::LOCALHOST.into()),
        IpAddr::V6(ip) if ip.is_unspecified() => address.set_ip(Ipv6Addr::LOCALHOST.into()),
        _ => {}
    }
    Some(address)
}

/// Asks for `path`, and gives the answer's code and text.
///
/// # Errors
/// Nobody answers there in time, which is a timeout, or nobody is there, or HTTP is off.
pub(crate) async fn get(
    http: &Http,
    path: &str,
    patience: Duration,
) -> Result<(u16, String), Fault> {
    let address = address(http).ok_or_else(|| Fault::transient("http.address names no port"))?;
    let failed = |why: String| Fault::transient(format!("http://{address}{path}: {why}"));
    match in_time(patience, ask(http, address, path)).await {
        Some(Ok((code, text))) => Ok((code.as_u16(), text)),
        Some(Err(error)) => Err(failed(error.to_string())),
        None => Err(failed("no answer in time".to_owned()).kind(Kind::Timeout)),
    }
}

type Error = Box<dyn std::error::Error + Send + Sync>;

async fn ask(http: &Http, address: SocketAddr, path: &str) -> Result<(StatusCode, String), Error> {
    let stream = TcpStream::connect(address).await?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let mut request = Request::get(path).header(HOST, address.to_string());
    if let Some(token) = &http.token {
        request = request.header(AUTHORIZATION, format!("Bearer {}", token.expose().trim()));
    }
    let exchange = async {
        let answer = sender.send_request(request.body(Empty::<Bytes>::new())?).await?;
        let code = answer.status();
        let body = Limited::new(answer.into_body(), LARGEST).collect().await?.to_bytes();
        Ok::<_, Error>((code, String::from_utf8_lossy(&body).into_owned()))
    };
    tokio::pin!(exchange);
    tokio::select! {
        told = &mut exchange => told,
        // It may end a moment before what it brought is read.
        _ = connection => exchange.await,
    }
}
