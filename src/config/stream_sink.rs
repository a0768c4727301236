//! The streams that a source's events go to.

use std::sync::Arc;

use super::Template;
use super::problem::Problems;
use super::values::Values;

/// The stream, or the super stream, that a source's events go to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamSink {
    /// Its name.
    pub name: Arc<str>,
    /// Of a super stream its partitions, in their order; of a stream itself.
    pub partitions: Arc<[Arc<str>]>,
    /// Events are spread over partitions by their aggregate.
    pub is_super: bool,
    /// By what consumers ask for a part of the events, a template. Default none.
    pub filter_value: Option<Template>,
}

impl From<&str> for StreamSink {
    /// A stream of this name.
    fn from(name: &str) -> Self {
        let name: Arc<str> = name.into();
        let partitions = [Arc::clone(&name)].into();
        Self { partitions, name, is_super: false, filter_value: None }
    }
}

impl StreamSink {
    /// A super stream of this name, whose partitions are called as `rabbitmq-streams add_super_stream` calls
    /// them.
    pub(crate) fn partitioned(name: &str, count: u64) -> Self {
        let partitions = (0..count).map(|number| format!("{name}-{number}").into());
        let partitions = partitions.collect();
        Self { name: name.into(), partitions, is_super: true, filter_value: None }
    }
}

/// `sink`, with what belongs to it; `None`: an exchange.
pub(super) fn stream_sink(
    values: &Values,
    key: &str,
    problems: &mut Problems,
) -> Option<StreamSink> {
    let [name_key, count_key, filter_key] =
        ["stream", "partitions", "filter_value"].map(|name| format!("{key}.{name}"));
    let sink = values.text(&format!("{key}.sink")).unwrap_or_default();
    let (is_super, is_stream) = (sink == "super_stream", sink != "exchange" && !sink.is_empty());
    let mut wrong = |key: &str, is_wanted: bool, hint: &str| {
        let what = match is_wanted {
            true => "is not set".to_owned(),
            false => format!(
                "is set, but the sink is {}",
                if is_stream { "one stream" } else { "an exchange" }
            ),
        };
        problems.add(values.origin(key), key, what, hint);
    };
    let (has_name, has_count) = (values.is_set(&name_key), values.is_set(&count_key));
    if is_stream && !has_name && !values.is_bad(&name_key) {
        wrong(&name_key, true, "name the stream, as the sink asks for one");
    }
    if !is_stream && has_name {
        wrong(&name_key, false, "set sink = \"stream\" beside it, or take it away");
    }
    if is_super && !has_count && !values.is_bad(&count_key) {
        let hint = "say how many: as many consumers can work beside each other; it can only be changed once nothing is in flight";
        wrong(&count_key, true, hint);
    }
    if !is_super && has_count {
        wrong(&count_key, false, "set sink = \"super_stream\" beside it, or take it away");
    }
    if !is_stream && values.is_set(&filter_key) {
        wrong(&filter_key, false, "set sink = \"stream\" beside it, or take it away");
    }
    let name = values.text(&name_key).filter(|_| is_stream)?;
    let sink = match is_super {
        true => StreamSink::partitioned(&name, values.size(&count_key)?),
        false => name.as_str().into(),
    };
    Some(StreamSink { filter_value: values.optional_template(&filter_key), ..sink })
}
