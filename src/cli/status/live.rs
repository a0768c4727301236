//! What a running process says of itself, where one with our `http.address` runs here.

use std::time::Duration;

use serde_json::Value;

use super::page::Page;
use crate::config::Config;
use crate::error::Kind;
use crate::observe::http::client;
use crate::text::span_seconds;

const PATIENCE: Duration = Duration::from_secs(5);
/// What helps where it does not answer.
const RESTART: &str = "the process hangs, or is stopped: look at it (ps, its log), and restart it";
/// Streams that are shown.
const STREAMS: usize = 16;

/// Why it is not ready, or what needs a look.
pub(in crate::cli) struct LiveReason<'a> {
    pub(in crate::cli) code: &'a str,
    /// As `check` calls it; may be empty.
    pub(in crate::cli) cause: &'a str,
    pub(in crate::cli) what: &'a str,
    pub(in crate::cli) hint: &'a str,
}

/// What the process says.
pub(in crate::cli) enum Live {
    /// Its `/status`.
    Told(Value),
    /// It wants a token that we do not have.
    Closed,
    /// It takes connections at this address, and answers none: what is wrong.
    Silent(String),
    /// Nobody is there, or a relay of another slot.
    None,
}

impl Live {
    pub(in crate::cli) async fn ask(config: &Config) -> Self {
        match client::get(&config.http, "/status", PATIENCE).await {
            Ok((200, text)) => match serde_json::from_str::<Value>(&text) {
                Ok(told)
                    if told.get("slot_name") == Some(&config.postgres.slot.as_str().into()) =>
                {
                    Self::Told(told)
                }
                _ => Self::None,
            },
            Ok((401, _)) => Self::Closed,
            Err(fault) if fault.kind == Kind::Timeout => Self::Silent(format!(
                "the process at http.address takes connections and answers none: {}",
                fault.what
            )),
            _ => Self::None,
        }
    }

    /// A relay of our slot runs here.
    pub(super) fn runs(&self) -> bool {
        match self {
            Self::Told(told) => told.get("state").and_then(Value::as_str) != Some("stopped"),
            Self::Closed => true,
            Self::Silent(_) | Self::None => false,
        }
    }

    /// It does not say that anything keeps it from delivering.
    pub(super) fn is_ready(&self) -> bool {
        match self {
            Self::Told(told) => told.get("is_ready").and_then(Value::as_bool) != Some(false),
            Self::Silent(_) => false,
            Self::Closed | Self::None => true,
        }
    }

    /// It says what it is at.
    pub(super) fn is_told(&self) -> bool {
        matches!(self, Self::Told(_))
    }

    /// Code and words of the first of a list of reasons.
    pub(in crate::cli) fn first(&self, list: &str) -> Option<LiveReason<'_>> {
        let told = match self {
            Self::Told(told) => told,
            // Nobody else can say so: the name is the one that it would have, if it could.
            Self::Silent(what) if list == "/reasons" => {
                return Some(LiveReason { code: "loop_silent", cause: "", what, hint: RESTART });
            }
            Self::Silent(_) | Self::Closed | Self::None => return None,
        };
        let reason = told.pointer(list)?.as_array()?.first()?;
        let part = |name: &str| reason.get(name).and_then(Value::as_str).unwrap_or_default();
        Some(LiveReason {
            code: part("code"),
            cause: part("cause"),
            what: part("what"),
            hint: part("hint"),
        })
    }

    /// Null where nothing answered.
    pub(super) fn json(&self) -> Value {
        match self {
            Self::Told(told) => told.clone(),
            Self::Silent(_) | Self::Closed | Self::None => Value::Null,
        }
    }

    pub(super) fn print(&self, page: &mut Page) {
        match self {
            Self::Told(told) => tell(page, told),
            Self::Closed => page.say("relay     runs here, and wants http.token to say more"),
            Self::Silent(what) => {
                page.say(format_args!("relay     {what}\n          hint: {RESTART}"));
            }
            Self::None => {}
        }
    }
}

fn tell(page: &mut Page, told: &Value) {
    let at = |path: &str| told.pointer(path).filter(|value| !value.is_null());
    let text = |path: &str| at(path).and_then(Value::as_str).unwrap_or_default();
    let number = |path: &str| at(path).and_then(Value::as_f64);
    let count = |path: &str| at(path).and_then(Value::as_u64).unwrap_or(0);
    let since = number("/state_seconds").unwrap_or(0.0).floor();
    page.say(format_args!("relay     {} for {}: {}", text("/state"), span(since), text("/why")));
    for list in ["/reasons", "/degraded"] {
        for reason in at(list).and_then(Value::as_array).into_iter().flatten() {
            let part = |name: &str| reason.get(name).and_then(Value::as_str).unwrap_or_default();
            // What the line above says already.
            if part("what") != text("/why") {
                page.say(format_args!("          {}", part("what")));
            }
            if let Some(lasted) = reason.get("lasted_seconds").and_then(Value::as_f64) {
                page.say(format_args!("          for {}", span_seconds(lasted)));
            }
            if !part("hint").is_empty() {
                page.say(format_args!("          hint: {}", part("hint")));
            }
        }
    }
    if let (Some(rate), Some(left)) =
        (number("/catch_up/per_second"), number("/catch_up/left_seconds"))
    {
        page.say(format_args!("catch-up  {rate:.0} rows/s, {} left", span_seconds(left)));
    }
    let rate = number("/recent/delivered_per_second");
    let rate = rate.map(|rate| format!("{rate:.1} events/s now, ")).unwrap_or_default();
    page.say(format_args!("events    {rate}{} delivered in all", count("/events/delivered")));
    let recent = ("/recent/p50_seconds", "/recent/p99_seconds", "now");
    let all =
        ("/commit_to_confirm/p50_seconds", "/commit_to_confirm/p99_seconds", "since the start");
    let known = [recent, all].into_iter().find(|(median, ..)| at(median).is_some());
    if let Some((median, most, when)) = known {
        let seconds = |path: &str| number(path).map_or_else(|| "unknown".to_owned(), span);
        page.say(format_args!(
            "latency   commit to confirm {when}: median {}, 99 % {}",
            seconds(median),
            seconds(most)
        ));
    }
    streams(page, told);
    if at("/relay").is_some() {
        let oldest = number("/relay/unsettled_seconds");
        let oldest = oldest.map(|oldest| format!(", the oldest {} old", span(oldest)));
        page.say(format_args!(
            "window    {} of {} messages, {} of {}{}",
            count("/relay/window_messages"),
            count("/relay/window_size"),
            bytesize::ByteSize(count("/relay/window_bytes")),
            bytesize::ByteSize(count("/window/limit_bytes")),
            oldest.unwrap_or_default()
        ));
    }
}

/// The connection to each stream, as far as they fit.
fn streams(page: &mut Page, told: &Value) {
    let all = told.get("destinations").and_then(Value::as_array).into_iter().flatten();
    let all: Vec<_> = all.filter(|one| one.get("stream").is_some_and(Value::is_object)).collect();
    let text = |one: &Value, path: &str| {
        one.pointer(path).and_then(Value::as_str).unwrap_or_default().to_owned()
    };
    for (number, one) in all.iter().take(STREAMS).enumerate() {
        page.say(format_args!(
            "{:<10}{}: led by {}, {} in flight, confirmed up to id {}",
            if number == 0 { "streams" } else { "" },
            text(one, "/name"),
            text(one, "/stream/leader"),
            one.pointer("/stream/in_flight").and_then(Value::as_u64).unwrap_or(0),
            text(one, "/stream/confirmed_id")
        ));
    }
    if all.len() > STREAMS {
        page.say(format_args!("          and {} more: --json has all", all.len() - STREAMS));
    }
    if let Some(publisher) =
        all.iter().map(|one| text(one, "/stream/publisher")).find(|it| !it.is_empty())
    {
        page.say(format_args!("          published to as {publisher}"));
    }
}

/// Seconds for people, to three figures.
fn span(seconds: f64) -> String {
    if seconds >= 10.0 {
        let whole = Duration::try_from_secs_f64(seconds.round()).unwrap_or_default();
        return crate::text::span(whole);
    }
    match seconds {
        0.0 => "0s".to_owned(),
        _ if seconds < 1e-3 => format!("{:.0}us", seconds * 1e6),
        _ if seconds < 1.0 => format!("{:.1}ms", seconds * 1e3),
        _ => format!("{seconds:.1}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::span;

    #[test]
    fn seconds_for_people() {
        for (seconds, told) in [
            (0.0, "0s"),
            (0.000_42, "420us"),
            (0.002_13, "2.1ms"),
            (1.25, "1.2s"),
            (75.2, "1m 15s"),
            (7200.0, "2h"),
        ] {
            assert_eq!(span(seconds), told);
        }
    }
}
