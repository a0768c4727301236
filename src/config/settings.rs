//! Every setting, as data: one row each. Reading, unknown keys, `pgoutbox config` and the
//! `docs/settings.md` all follow from [`SETTINGS`].

use std::time::Duration;

use super::kind::{AUDIT_MODES, GUARD_POLICIES, PARTITION_SPANS, PRESETS, SINKS, ValueKind};
use Fallback::{Derived, Unset, Value};
use ValueKind::{
    AmqpUrl, Argument, Choice, Column, Constant, Count, ExchangeType, Field, File, Flag, HttpUrl,
    List, Listen, LogFilter, Name, PostgresUrl, Secret, Size, SlotName, Span, SslMode, Template,
    Text,
};

/// What holds where nobody sets anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fallback {
    /// Nothing.
    Unset,
    /// This, written as a variable would be.
    Value(&'static str),
    /// Something that follows from other settings: in words.
    Derived(&'static str),
}

/// One setting.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Setting {
    /// Dotted path in the file; `*` stands for an index, `?` for a name that the user gives.
    pub(crate) key: &'static str,
    /// What its value must look like.
    pub(crate) kind: ValueKind,
    /// What holds where nobody sets it.
    pub(crate) fallback: Fallback,
    /// A flag of its own, beside `--set`.
    pub(crate) flag: Option<&'static str>,
    /// A variable that other programs read too.
    pub(crate) shared_env: Option<&'static str>,
    /// What it means, in a line.
    pub(crate) doc: &'static str,
}

const fn setting(
    key: &'static str,
    kind: ValueKind,
    fallback: Fallback,
    doc: &'static str,
) -> Setting {
    Setting { key, kind, fallback, flag: None, shared_env: None, doc }
}

impl Setting {
    const fn flag(mut self, flag: &'static str) -> Self {
        self.flag = Some(flag);
        self
    }

    const fn shared_env(mut self, name: &'static str) -> Self {
        self.shared_env = Some(name);
        self
    }

    /// Name of its variable, with `*` where the index goes.
    pub(crate) fn env(&self) -> String {
        env_name(self.key)
    }
}

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

const fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

const fn mins(mins: u64) -> Duration {
    Duration::from_secs(60 * mins)
}

/// Most relays that an outbox is spread over: each of their walsenders reads all WAL.
pub(crate) const MOST_SHARDS: u16 = 64;

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// All settings, in the order in which they are shown.
#[rustfmt::skip]
pub(crate) const SETTINGS: &[Setting] = &[
    setting("postgres.url", PostgresUrl, Unset, "the database with the outbox; what it leaves out comes from `PGHOST`, `PGPORT`, `PGUSER`, `PGPASSWORD`, `PGDATABASE`, `PGSSLMODE`, `PGSSLROOTCERT`, `PGSSLCERT`, `PGSSLKEY`").flag("--database-url").shared_env("DATABASE_URL"),
    setting("postgres.password", Secret, Unset, "password, instead of the URL's; where neither says one, `PGPASSWORD` or `PGPASSWORD_FILE`"),
    setting("postgres.stream_url", PostgresUrl, Derived("`postgres.url`"), "the replication stream's own role, perhaps its own way to the same database; what it leaves out is as in `postgres.url`"),
    setting("postgres.stream_password", Secret, Unset, "password of `stream_url`'s role, instead of the URL's; the same role has the same password"),
    setting("postgres.sslmode", SslMode, Derived("`disable`; `verify-full` with a certificate file"), "how much TLS is asked of the server, instead of the URL's"),
    setting("postgres.ca_file", File, Derived("the system's"), "authorities to trust"),
    setting("postgres.cert_file", File, Unset, "client certificate"),
    setting("postgres.key_file", File, Unset, "key of the client certificate"),
    setting("postgres.slot", SlotName, Value("pgoutbox"), "logical replication slot").flag("--slot"),
    setting("postgres.publication", Name, Value("pgoutbox"), "publication").flag("--publication"),
    setting("postgres.shards", Count { min: 1, max: MOST_SHARDS as u64 }, Value("1"), "over how many relays the outbox is spread, each with a slot and a publication of its own, named after `slot` and `publication`, and a share of the aggregates; `pgoutbox reshard` changes it").flag("--shards"),
    setting("postgres.shard", Count { min: 0, max: MOST_SHARDS as u64 - 1 }, Unset, "which of them this is, from 0; where it is not set, `run` takes one that nobody has, and waits where each has its relay").flag("--shard"),
    setting("postgres.on_slot_loss", Choice(&["catch_up", "halt"]), Value("catch_up"), "what `run` does where its slot is gone or lost: make a new one and publish the rows that wait in the tables first, or stop; where a table has `audit.mode` none, or there are `[[messages]]`, `halt` unless it is set, since there is no record of which of their events wait"),
    setting("postgres.failover", Flag, Value("false"), "whether a slot made here is copied to standbys and outlives a failover; from Postgres 17 on"),
    setting("postgres.application_name", Text(63), Derived("`pgoutbox/<slot>`"), "name shown in `pg_stat_activity` and `pg_stat_replication`"),
    setting("postgres.wal_sender_timeout", Span { min: secs(1), max: mins(10) }, Value("10s"), "after which silence the server gives the stream up, and a standby can take the slot"),
    setting("postgres.connect_timeout", Span { min: ms(100), max: mins(5) }, Value("10s"), "bound on connect, TLS and authentication"),
    setting("postgres.check_interval", Span { min: ms(100), max: secs(60) }, Value("1s"), "how often the publication may be checked while WAL moves"),

    setting("amqp.url", AmqpUrl, Unset, "the brokers to try in turn; user and password default to `guest`, the virtual host to `/`").flag("--amqp-url").shared_env("AMQP_URL"),
    setting("amqp.password", Secret, Unset, "password, instead of the URLs'"),
    setting("amqp.auth", Choice(&["plain", "external"]), Value("plain"), "`external`: the client certificate is the login"),
    setting("amqp.ca_file", File, Unset, "authorities to trust instead of the system's; needs `amqps://`"),
    setting("amqp.cert_file", File, Unset, "client certificate"),
    setting("amqp.key_file", File, Unset, "key of the client certificate"),
    setting("amqp.heartbeat", ValueKind::Seconds { min: secs(1), max: secs(60) }, Value("5s"), "the connection is closed after twice this time without a word from the broker"),
    setting("amqp.connect_timeout", Span { min: ms(100), max: mins(5) }, Value("10s"), "bound on connect, TLS, login and opening the channel"),
    setting("amqp.confirm_timeout", Span { min: secs(2), max: mins(60) }, Value("30s"), "how long a message may wait for its confirm, the time of a broker's alarm not counted"),
    setting("amqp.blocked_timeout", Span { min: secs(1), max: mins(24 * 60) }, Value("10m"), "how long a broker's alarm may last before the session is ended"),
    setting("amqp.max_message_bytes", Size { min: KIB, max: 512 * MIB }, Value("16MiB"), "largest body that is published; 16MiB is RabbitMQ 4's own limit"),
    setting("amqp.connection_name", Text(255), Derived("`pgoutbox/<slot>`"), "name shown in RabbitMQ's list of connections"),
    setting("amqp.stream_addresses", List, Unset, "`host` or `host:port` of the stream protocol, where nodes are not reached under the address that they advertise: a load balancer before all of them, or each of them; tried until one leads to the leader, and no others are"),
    setting("amqp.stream_port", Count { min: 1, max: 65_535 }, Derived("5552; 5551 with `amqps://`"), "port of the stream protocol on the hosts of `amqp.url`, whose user, virtual host and TLS count there too"),

    setting("tables.*.preset", Choice(&PRESETS), Unset, "the library or relay that made the table: sets what follows, each of which can be set otherwise").flag("--preset"),
    setting("tables.*.schema", Name, Value("public"), "schema"),
    setting("tables.*.name", Text(127), Value("outbox_messages"), "table; `schema.table` where `schema` is not set"),
    setting("tables.*.pattern", Text(127), Unset, "instead of a name: every table `schema.table` that matches, such as `tenant_*.outbox`, where `*` stands for any characters; without a dot, of any schema; new ones are found while the relay runs"),
    setting("tables.*.sink", Choice(&SINKS), Value("exchange"), "where events go: `exchange`; `stream`: a RabbitMQ stream, by its own protocol, where the broker drops repeats; or `super_stream`: several of them, by aggregate; a relay may publish to both kinds"),
    setting("tables.*.stream", Text(250), Unset, "name of the stream, or of the super stream; `exchange` and `routing_key` are then what an AMQP consumer of it sees"),
    setting("tables.*.partitions", Count { min: 1, max: 64 }, Unset, "how many partitions the super stream has: an aggregate's events go to one of them; each is a stream with a connection of its own"),
    setting("tables.*.filter_value", Template, Unset, "filter value of the events of a stream, by which consumers ask for a part of it (RabbitMQ 3.13 and later): the first alternative whose columns are all set, up to 255 bytes"),
    setting("tables.*.exchange", Template, Value("outbox"), "exchange").flag("--exchange"),
    setting("tables.*.routing_key", Template, Value("{topic} | {aggregate_type}.{event_type}"), "routing key: the first alternative whose columns are all set"),
    setting("tables.*.content_type", Text(255), Value("application/json"), "content type where the row has none"),
    setting("tables.*.app_id", Text(255), Unset, "`app_id` of the messages"),
    setting("tables.*.mandatory", Flag, Value("true"), "whether RabbitMQ returns what no queue takes; `false` for exchanges of plugins that say so of what they deliver (delayed-message, deduplication): then what no queue takes is lost"),
    setting("tables.*.only.?", List, Unset, "only rows that hold one of these values in this field or column are published, such as `event_type = [\"order.paid\"]`"),
    setting("tables.*.except.?", List, Unset, "rows that hold one of these values there are not published; what a rule leaves out is not marked either, and nothing else sees it"),
    setting("tables.*.audit.mode", Choice(&AUDIT_MODES), Derived("`audit.mode`"), "how a delivered event of this table is marked"),
    setting("tables.*.mark.?", Constant, Unset, "a column that a marked row holds this value in, such as `status = \"DELIVERED\"`, `published = 1` or `sent_at = \"now()\"`; a row is marked where each of them does; takes precedence over `columns.relayed_at`"),
    setting("tables.*.failed.?", Constant, Unset, "a column that shows this value once the tries of a parked event have ended, such as `status = \"DEAD\"`; beside `columns.failed_at`, and until the event is delivered"),
    setting("tables.*.first_attempt", Count { min: 0, max: 1 }, Value("0"), "what `columns.attempt` holds before the first try: 1 where the library counts tries, 0 where it counts failures"),
    setting("tables.*.on_failure", Choice(&["park", "dead_letter", "block"]), Value("park"), "what becomes of an event that cannot be delivered: put aside and tried again, waited for, or sent to `dead_letter_exchange`"),
    setting("tables.*.hold_aggregate", Flag, Value("true"), "whether later events of its aggregate wait behind a parked one"),
    setting("tables.*.dead_letter_exchange", Text(255), Unset, "exchange for events that cannot be delivered, with the reason in headers"),
    setting("tables.*.dead_letter_routing_key", Text(255), Derived("the message's own"), "their routing key"),
    setting("tables.*.envelope.payload", Template, Unset, "a place in the JSON of a column, such as `{content.data}`: it is the payload, instead of `columns.payload` as a whole"),
    setting("tables.*.envelope.headers", Template, Unset, "the same of the object of headers, instead of `columns.headers`"),
    setting("tables.*.properties.content_type", Template, Unset, "takes precedence over the column and `content_type`"),
    setting("tables.*.properties.content_encoding", Template, Unset, "such as `gzip`; pgoutbox encodes nothing"),
    setting("tables.*.properties.correlation_id", Template, Unset, "takes precedence over the column"),
    setting("tables.*.properties.reply_to", Template, Unset, "the queue that answers go to"),
    setting("tables.*.properties.expiration", Template, Unset, "milliseconds after which the broker drops the message; dead-lettering applies"),
    setting("tables.*.properties.priority", Template, Unset, "0 to 255"),
    setting("tables.*.properties.type", Template, Unset, "takes precedence over `columns.event_type`, which still routes"),
    setting("tables.*.properties.timestamp", Template, Unset, "a time, or a number of seconds, milliseconds, microseconds or nanoseconds since 1970; takes precedence over `columns.occurred_at`; without it the commit's time"),
    setting("tables.*.properties.user_id", Template, Unset, "must be the user that pgoutbox logs in to the broker as: RabbitMQ refuses any other"),
    setting("tables.*.properties.app_id", Template, Unset, "takes precedence over `app_id`"),
    setting("tables.*.header_values", Choice(&["typed", "text"]), Value("typed"), "how the row's own headers are sent: by their types in JSON, or each as a text, for consumers that read nothing else"),
    setting("tables.*.headers.?", Field, Unset, "a header of this name; takes precedence over the row's own headers"),
    setting("tables.*.body.?", Field, Unset, "the body is a JSON object with a member of this name; dots in it, or tables in the file, nest"),
    setting("tables.*.events.?.exchange", Template, Unset, "exchange of events of this type; takes precedence over `exchange`"),
    setting("tables.*.events.?.routing_key", Template, Unset, "routing key of events of this type; takes precedence over `routing_key`"),
    setting("tables.*.cloudevents.mode", Choice(&["off", "binary", "structured"]), Value("off"), "CloudEvents 1.0: its attributes as headers (`binary`), or an event as JSON around the payload (`structured`)"),
    setting("tables.*.cloudevents.prefix", Choice(&["cloudEvents:", "cloudEvents_", "ce-"]), Value("cloudEvents:"), "of the attributes' headers in binary mode: the AMQP binding's, its other form, or that of the RabbitMQ binding"),
    setting("tables.*.cloudevents.source", Template, Derived("`/<schema>.<table>`"), "its attribute `source`, a URI reference"),
    setting("tables.*.cloudevents.type", Template, Value("{event_type}"), "its attribute `type`"),
    setting("tables.*.cloudevents.subject", Template, Value("{aggregate_id}"), "its attribute `subject`; left out where it is empty"),
    setting("tables.*.cloudevents.dataschema", Template, Unset, "its attribute `dataschema`, a URI"),
    setting("tables.*.cloudevents.extensions.?", Field, Unset, "an extension attribute: its name has lower-case letters and digits"),
    setting("tables.*.columns.id", Column, Value("id"), "the event's id, becomes `message_id`: uuid, text or bigint"),
    setting("tables.*.columns.message_id", Column, Unset, "becomes `message_id` instead of the id, which stays the row's key: what consumers know repeats by"),
    setting("tables.*.columns.aggregate_type", Column, Value("aggregate_type"), "type of the aggregate"),
    setting("tables.*.columns.aggregate_id", Column, Value("aggregate_id"), "id of the aggregate"),
    setting("tables.*.columns.event_type", Column, Value("event_type"), "becomes `type`"),
    setting("tables.*.columns.topic", Column, Value("topic"), "becomes the routing key"),
    setting("tables.*.columns.payload", Column, Value("payload"), "the body: jsonb, json, text or bytea"),
    setting("tables.*.columns.headers", Column, Value("headers"), "object of headers: jsonb or json"),
    setting("tables.*.columns.occurred_at", Column, Value("occurred_at"), "becomes `timestamp`: timestamptz or timestamp"),
    setting("tables.*.columns.correlation_id", Column, Value("correlation_id"), "becomes `correlation_id`"),
    setting("tables.*.columns.content_type", Column, Value("content_type"), "becomes `content_type`"),
    setting("tables.*.columns.traceparent", Column, Value("traceparent"), "becomes the header `traceparent`, unchanged, unless `headers` has one"),
    setting("tables.*.columns.tracestate", Column, Value("tracestate"), "becomes the header `tracestate`, likewise"),
    setting("tables.*.columns.relayed_at", Column, Value("relayed_at"), "the mark: timestamptz or timestamp; `mark` has other kinds"),
    setting("tables.*.columns.attempt", Column, Value("attempt"), "where the tries of a parked event are counted: integer or bigint"),
    setting("tables.*.columns.last_error", Column, Value("last_error"), "why its last try failed: text"),
    setting("tables.*.columns.failed_at", Column, Value("failed_at"), "when its tries ended: timestamptz or timestamp"),

    setting("messages.*.prefix", Text(255), Unset, "prefix of `pg_logical_emit_message`: transactional messages with this very prefix are events; the settings below are as for a table, over the members of an envelope"),
    setting("messages.*.sink", Choice(&SINKS), Value("exchange"), "where events go: `exchange`; `stream`: a RabbitMQ stream, by its own protocol, where the broker drops repeats; or `super_stream`: several of them, by aggregate; a relay may publish to both kinds"),
    setting("messages.*.stream", Text(250), Unset, "name of the stream, or of the super stream; `exchange` and `routing_key` are then what an AMQP consumer of it sees"),
    setting("messages.*.partitions", Count { min: 1, max: 64 }, Unset, "how many partitions the super stream has: an aggregate's events go to one of them; each is a stream with a connection of its own"),
    setting("messages.*.filter_value", Template, Unset, "filter value of the events of a stream, by which consumers ask for a part of it (RabbitMQ 3.13 and later): the first alternative whose members are all set, up to 255 bytes"),
    setting("messages.*.exchange", Template, Value("outbox"), "exchange"),
    setting("messages.*.routing_key", Template, Value("{topic} | {aggregate_type}.{event_type}"), "routing key: the first alternative whose members are all set"),
    setting("messages.*.content_type", Text(255), Value("application/json"), "content type where the envelope has none"),
    setting("messages.*.app_id", Text(255), Unset, "`app_id` of the messages"),
    setting("messages.*.mandatory", Flag, Value("true"), "whether RabbitMQ returns what no queue takes; `false` for exchanges of plugins that say so of what they deliver (delayed-message, deduplication): then what no queue takes is lost"),
    setting("messages.*.on_failure", Choice(&["park", "dead_letter", "block"]), Value("park"), "what becomes of an event that cannot be delivered: put aside and tried again, waited for, or sent to `dead_letter_exchange`"),
    setting("messages.*.hold_aggregate", Flag, Value("true"), "whether later events of its aggregate wait behind a parked one"),
    setting("messages.*.dead_letter_exchange", Text(255), Unset, "exchange for events that cannot be delivered, with the reason in headers"),
    setting("messages.*.dead_letter_routing_key", Text(255), Derived("the message's own"), "their routing key"),
    setting("messages.*.properties.content_type", Template, Unset, "takes precedence over the member and `content_type`"),
    setting("messages.*.properties.content_encoding", Template, Unset, "such as `gzip`; pgoutbox encodes nothing"),
    setting("messages.*.properties.correlation_id", Template, Unset, "takes precedence over the member"),
    setting("messages.*.properties.reply_to", Template, Unset, "the queue that answers go to"),
    setting("messages.*.properties.expiration", Template, Unset, "milliseconds after which the broker drops the message; dead-lettering applies"),
    setting("messages.*.properties.priority", Template, Unset, "0 to 255"),
    setting("messages.*.properties.type", Template, Unset, "takes precedence over the member `event_type`, which still routes"),
    setting("messages.*.properties.timestamp", Template, Unset, "a time, or seconds or milliseconds since 1970; takes precedence over the member `occurred_at`; without it the commit's time"),
    setting("messages.*.properties.user_id", Template, Unset, "must be the user that pgoutbox logs in to the broker as: RabbitMQ refuses any other"),
    setting("messages.*.properties.app_id", Template, Unset, "takes precedence over `app_id`"),
    setting("messages.*.header_values", Choice(&["typed", "text"]), Value("typed"), "how the envelope's own headers are sent: by their types in JSON, or each as a text, for consumers that read nothing else"),
    setting("messages.*.headers.?", Field, Unset, "a header of this name; takes precedence over the envelope's own headers"),
    setting("messages.*.body.?", Field, Unset, "the body is a JSON object with a member of this name; dots in it, or tables in the file, nest"),
    setting("messages.*.events.?.exchange", Template, Unset, "exchange of events of this type; takes precedence over `exchange`"),
    setting("messages.*.events.?.routing_key", Template, Unset, "routing key of events of this type; takes precedence over `routing_key`"),
    setting("messages.*.cloudevents.mode", Choice(&["off", "binary", "structured"]), Value("off"), "CloudEvents 1.0: its attributes as headers (`binary`), or an event as JSON around the payload (`structured`)"),
    setting("messages.*.cloudevents.prefix", Choice(&["cloudEvents:", "cloudEvents_", "ce-"]), Value("cloudEvents:"), "of the attributes' headers in binary mode: the AMQP binding's, its other form, or that of the RabbitMQ binding"),
    setting("messages.*.cloudevents.source", Template, Derived("`/message:<prefix>`"), "its attribute `source`, a URI reference"),
    setting("messages.*.cloudevents.type", Template, Value("{event_type}"), "its attribute `type`"),
    setting("messages.*.cloudevents.subject", Template, Value("{aggregate_id}"), "its attribute `subject`; left out where it is empty"),
    setting("messages.*.cloudevents.dataschema", Template, Unset, "its attribute `dataschema`, a URI"),
    setting("messages.*.cloudevents.extensions.?", Field, Unset, "an extension attribute: its name has lower-case letters and digits"),

    setting("window.messages", Count { min: 1, max: 65_535 }, Value("1000"), "messages published and not yet settled, at most"),
    setting("window.sizing", Choice(&["fixed", "adaptive"]), Value("fixed"), "`adaptive`: only as many messages as keep the broker busy are in flight, since a crash repeats them; `fixed`: as many as `window.messages`, as it always is where events go to streams, which drop repeats"),
    setting("window.bytes", Size { min: 64 * KIB, max: 4 * GIB }, Value("32MiB"), "bytes of their bodies; one larger message alone still passes"),
    setting("window.ordering", Choice(&["pipelined", "strict"]), Value("pipelined"), "`strict`: at most one message in flight per aggregate, so that not even a nack or a return lets a later event pass"),

    setting("audit.mode", Choice(&AUDIT_MODES), Value("update"), "how a delivered event is marked; `tables.N.audit.mode` says it for one table"),
    setting("audit.batch", Count { min: 1, max: 10_000 }, Value("500"), "most marks in one statement"),
    setting("audit.linger", Span { min: ms(0), max: secs(10) }, Value("50ms"), "how long a mark may wait for its batch to fill"),
    setting("audit.hold", Span { min: ms(100), max: mins(10) }, Value("10s"), "how long a mark that cannot be written holds the LSN"),
    setting("audit.give_up", Span { min: secs(1), max: mins(24 * 60) }, Value("5m"), "how long it is tried before it counts as missing"),

    setting("parking.max_attempts", Count { min: 1, max: 1_000_000 }, Value("20"), "tries of a parked event, the first one included, before it counts as failed; 20 take about an hour"),
    setting("parking.backoff_min", Span { min: ms(10), max: mins(60) }, Value("1s"), "pause before its second try; doubles with each"),
    setting("parking.backoff_max", Span { min: ms(10), max: mins(24 * 60) }, Value("5m"), "longest pause"),
    setting("parking.limit", Count { min: 1, max: 1_000_000 }, Value("100"), "how many refused events may be parked in a row, none delivered between them, before it looks like a failure of the whole system and the relay parks no more"),
    setting("parking.period", Span { min: secs(1), max: mins(24 * 60) }, Value("1m"), "after ten times this at the limit, with nothing delivered, as many more may be parked"),
    setting("parking.poll_interval", Span { min: ms(100), max: mins(10) }, Value("10s"), "how often the parking is looked at where no notification comes"),

    setting("reconcile.interval", Span { min: secs(1), max: mins(7 * 24 * 60) }, Value("10m"), "how often the outbox is searched for rows that are neither marked nor parked"),
    setting("reconcile.age", Span { min: secs(1), max: mins(7 * 24 * 60) }, Value("5m"), "how long after the relay has passed a row it counts as missing; not below `audit.give_up`, or a mark that is still tried counts too"),
    setting("reconcile.republish", Flag, Value("false"), "whether missing rows are sent once more, with `pgoutbox-replayed`; needs `SELECT` on the table"),

    setting("session.backoff_min", Span { min: ms(10), max: secs(60) }, Value("100ms"), "first pause after a failed session"),
    setting("session.backoff_max", Span { min: ms(10), max: mins(10) }, Value("10s"), "longest pause"),
    setting("session.drain_timeout", Span { min: ms(100), max: mins(60) }, Value("30s"), "how long a drain may take after SIGTERM"),

    setting("prune.keep", Span { min: secs(0), max: mins(10 * 365 * 24 * 60) }, Unset, "age of its mark after which a relayed row is deleted; unset: never"),
    setting("prune.interval", Span { min: ms(100), max: mins(24 * 60) }, Value("1m"), "how often a pass of pruning begins"),
    setting("prune.batch", Count { min: 1, max: 100_000 }, Value("1000"), "most rows that one statement deletes"),
    setting("prune.pause", Span { min: ms(0), max: mins(1) }, Value("50ms"), "pause between two such statements"),
    setting("prune.partitions_ahead", Count { min: 0, max: 1000 }, Value("3"), "how many partitions are made ahead of the present one"),
    setting("prune.partition_span", Choice(&PARTITION_SPANS), Derived("as in the partitions that pgoutbox made; where it made none, none are made"), "how much time a new partition holds, by the UTC calendar"),

    setting("guard.policy", Choice(&GUARD_POLICIES), Value("alert"), "what happens before retained WAL fills its limit: a line in the log, an exit, or the slot is dropped and the table is caught up from later"),
    setting("guard.interval", Span { min: ms(100), max: mins(10) }, Value("10s"), "how often the guard looks"),
    setting("guard.warn_at", Span { min: secs(0), max: mins(30 * 24 * 60) }, Value("1h"), "projected time until the limit that is worth a warning"),
    setting("guard.warn_percent", Count { min: 1, max: 100 }, Value("70"), "share of the limit that is worth a warning"),
    setting("guard.act_percent", Count { min: 1, max: 100 }, Value("90"), "share of the limit at which `guard.policy` is carried out"),
    setting("guard.disk_limit", Size { min: MIB, max: 1024 * 1024 * GIB }, Unset, "how much WAL the server's disk can hold, since SQL cannot ask; beside `max_slot_wal_keep_size`, the smaller room counts"),

    setting("http.address", Listen, Value("127.0.0.1:8976"), "where metrics, probes and the console are served; port 0 takes a free one, which the log names"),
    setting("http.token", Secret, Unset, "what metrics, status and console ask for as `Authorization: Bearer …`; without one they are open to anyone who reaches the address, and the console's actions are off"),

    setting("otlp.endpoint", HttpUrl, Unset, "collector that takes spans by OTLP over HTTP, usually on port 4318; `/v1/traces` is put behind it; unset or `off`: no spans").shared_env("OTEL_EXPORTER_OTLP_ENDPOINT"),
    setting("otlp.traces_endpoint", HttpUrl, Derived("`otlp.endpoint` with `/v1/traces`"), "the whole URL for spans, taken as it stands; takes precedence over `otlp.endpoint`").shared_env("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"),
    setting("otlp.headers", Secret, Unset, "headers of each request, such as `api-key=…,tenant=…`; values percent-encoded where they hold a comma").shared_env("OTEL_EXPORTER_OTLP_HEADERS"),
    setting("otlp.timeout", Span { min: ms(100), max: mins(1) }, Value("10s"), "bound on one request, connect and TLS included"),
    setting("otlp.ca_file", File, Derived("the system's"), "authorities to trust; needs `https://`").shared_env("OTEL_EXPORTER_OTLP_CERTIFICATE"),
    setting("otlp.service_name", Text(255), Value("pgoutbox"), "`service.name` of the spans").shared_env("OTEL_SERVICE_NAME"),

    setting("log.level", LogFilter, Value("info"), "how much is logged").flag("--log-level"),
    setting("log.format", Choice(&["text", "json"]), Value("text"), "form of a log line").flag("--log-format"),
    setting("log.events", Flag, Value("false"), "whether a line is logged for each event and what became of it, at level `info` of target `pgoutbox::events`"),
    setting("log.events_one_in", Count { min: 1, max: 1_000_000 }, Value("1"), "with `log.events`: the lines of one event in so many, all of one event or none"),

    setting("declare.exchange_type", ExchangeType, Value("topic"), "type of the exchange that `init --declare` declares"),
    setting("declare.queues.*.name", Text(255), Unset, "a queue that `init --declare` declares and binds"),
    setting("declare.queues.*.count", Count { min: 1, max: 1024 }, Value("1"), "how many such queues: `{n}` in name, bindings and arguments is the number of each, from 0"),
    setting("declare.queues.*.queue_type", Choice(&["quorum", "classic", "stream"]), Value("quorum"), "its type"),
    setting("declare.queues.*.bindings", List, Value("#"), "its binding keys"),
    setting("declare.queues.*.exchange", Text(255), Derived("the first table's"), "exchange that it is bound to"),
    setting("declare.queues.*.arguments.?", Argument, Unset, "an argument by RabbitMQ's name for it, such as `x-single-active-consumer` or `x-delivery-limit`"),
];

/// Keys that hold a list of tables.
pub(crate) const LISTS: [&str; 3] = ["tables", "messages", "declare.queues"];

/// The setting of a key such as `tables.0.name`, or `tables.0.headers.tenant`.
pub(crate) fn find(key: &str) -> Option<&'static Setting> {
    let indexed = pattern(key);
    let is_named = |setting: &&Setting| name(setting, key).is_some();
    SETTINGS
        .iter()
        .find(|setting| setting.key == indexed)
        .or_else(|| SETTINGS.iter().find(is_named))
}

/// The name that a key has in the place of a setting's `?`. It may hold dots, as headers and
/// types of events do.
pub(crate) fn name<'k>(setting: &Setting, key: &'k str) -> Option<&'k str> {
    let (section, rest) = setting.key.split_once('?')?;
    let name = behind(section, key)?.strip_suffix(rest)?;
    Some(name).filter(|name| !name.is_empty())
}

/// What of a key stands behind a section such as `tables.*.headers.`.
fn behind<'k>(section: &str, key: &'k str) -> Option<&'k str> {
    let depth = section.matches('.').count();
    let (end, _) = key.match_indices('.').nth(depth.checked_sub(1)?)?;
    let (start, name) = key.split_at_checked(end + 1)?;
    (pattern(start) == section).then_some(name)
}

/// Whether settings stand below a key.
pub(crate) fn is_section(key: &str) -> bool {
    let section = format!("{}.", pattern(key));
    SETTINGS.iter().any(|setting| {
        let named = setting.key.split_once('?').map(|(section, _)| section);
        let is_below_name = |named: &str| behind(named, key).is_some();
        setting.key.starts_with(&section) || named.is_some_and(is_below_name)
    })
}

/// A key with `*` for its indices.
pub(crate) fn pattern(key: &str) -> String {
    // One way to write each index, or one table would have several keys.
    let is_index = |part: &str| part.parse::<u16>().is_ok_and(|index| index.to_string() == part);
    let parts: Vec<&str> =
        key.split('.').map(|part| if is_index(part) { "*" } else { part }).collect();
    parts.join(".")
}

/// The variable of a key: `postgres.slot` is set by `PGOUTBOX_POSTGRES__SLOT`.
pub(crate) fn env_name(key: &str) -> String {
    format!("PGOUTBOX_{}", key.replace('.', "__").to_ascii_uppercase())
}

/// The known key most like an unknown one, with its indices, if any is near.
pub(crate) fn nearest(key: &str) -> Option<String> {
    let wanted = pattern(&key.to_ascii_lowercase().replace('-', "_"));
    let last = |key: &str| key.rsplit('.').next().unwrap_or_default().to_owned();
    let likeness = |setting: &Setting| {
        let whole = strsim::normalized_damerau_levenshtein(setting.key, &wanted);
        // `slot` alone, or in the wrong section, means `postgres.slot`.
        let is_same_name = last(setting.key) == last(&wanted);
        whole + if is_same_name { 0.5 } else { 0.0 }
    };
    let best = SETTINGS.iter().max_by(|a, b| likeness(a).total_cmp(&likeness(b)))?;
    if likeness(best) < 0.6 {
        return None;
    }
    let mut indices = key.split('.').filter(|part| part.bytes().all(|b| b.is_ascii_digit()));
    let parts: Vec<&str> = best
        .key
        .split('.')
        .map(|part| match part {
            "*" => indices.next().unwrap_or("0"),
            "?" => key.rsplit('.').next().unwrap_or_default(),
            part => part,
        })
        .collect();
    Some(parts.join("."))
}
