//! Doors for the tests and benches of this repository. Nothing here is stable, and nothing here is
//! for anybody else.

pub use crate::config::docs_markdown as settings_markdown;
pub use crate::tls::install_provider;

/// See `crate::config`.
pub mod config {
    pub use crate::config::{
        Audit, AuditMode, ColumnRef, Columns, Config, Flags, Needs, OnFailure, Parking, Sources,
        Table, Template, load,
    };

    /// The columns of all fields, by the name of each.
    pub fn columns(of: impl FnMut(&'static str) -> ColumnRef) -> Columns {
        Columns::each(of)
    }
}

/// See `crate::core`.
pub mod core {
    /// See `crate::core::event`.
    pub mod event {
        pub use crate::core::event::{ChangeLsn, Event, Position, PublishingPlace, Refusal, Row};

        /// See `crate::core::event::envelope`.
        pub mod envelope {
            pub use crate::core::event::envelope::{Shape, read};
        }

        /// See `crate::core::event::pgoutput`.
        pub mod pgoutput {
            pub use crate::core::event::pgoutput::{
                Cell, Column, Message, RelationMessage, StoredRow, Tuple, decode,
            };
        }

        /// See `crate::core::event::relation`.
        pub mod relation {
            pub use crate::core::event::relation::Mapping;
        }
    }

    /// See `crate::core::message`.
    pub mod message {
        pub use crate::core::message::{COMMIT_LSN_HEADER, INDEX_HEADER, Limits, Message};
    }

    /// See `crate::core::parked`.
    pub mod parked {
        pub use crate::core::parked::{
            Aggregate, Ahead, Attempt, AttemptOutcome, Due, Head, Park, ParkedRow, ParkedState,
            ParkingBatch, Schedule,
        };
    }

    /// See `crate::core::relay`.
    pub mod relay {
        pub use crate::core::relay::{
            CatchUpCursor, Effect, End, Input, KnownName, LookAhead, LookedAhead, Memory, Naming,
            Relay, Resolution, Rules,
        };

        /// See `crate::core::relay::marks`.
        pub mod marks {
            pub use crate::core::relay::marks::{
                Batch, Extent, Left, Mark, MarkError, UnwrittenMark, Why, WrittenBatch,
            };
        }

        /// See `crate::core::relay::window`.
        pub mod window {
            pub use crate::core::relay::window::{
                Answer, DeliveryOutcome, InFlight, Return, Window,
            };
        }
    }
}

/// See `crate::observe::metrics`.
pub mod metrics {
    pub use crate::observe::metrics::{METRICS, MetricKind, docs_markdown};
}

/// See `crate::operator`.
pub mod operator {
    pub use crate::operator::{DiscardReport, discard, pause, resume, retry};
}

/// See `crate::postgres`.
pub mod postgres {
    pub use crate::postgres::outbox_table::OutboxTable;
    pub use crate::postgres::parking::ParkingStore;
    pub use crate::postgres::{Role, connect, query};
}

/// See `crate::rabbitmq::publisher`.
pub mod publisher {
    pub use crate::rabbitmq::publisher::{Publisher, Signal};
}

/// See `crate::rabbitmq::stream`.
pub mod stream {
    pub use crate::rabbitmq::stream::confirmed_by;
}

/// See `crate::slot`.
pub mod slot {
    pub use crate::slot::{Finding, NAMES, Severity, preflight};

    /// See `crate::slot::catch_up`.
    pub mod catch_up {
        pub use crate::slot::catch_up::{
            CatchUp, Patience, ensure_slot, fetch, finish, pending, prepare,
        };
    }
}

/// See `crate::text`.
pub mod text {
    pub use crate::text::is_harmful;
}

/// What reads bytes from a network, given any.
pub mod network {
    /// A Postgres server's.
    pub use crate::wal::read_anything as postgres;

    /// A broker's.
    pub fn broker(bytes: &[u8]) {
        crate::rabbitmq::publisher::read_anything(bytes);
    }

    /// Certificates, where those in a file are trusted.
    pub fn certificates(bytes: &[u8], ca_file: &std::path::Path) {
        crate::tls::read_anything(bytes, ca_file);
    }

    /// A collector of spans.
    pub fn collector(bytes: &[u8]) {
        crate::otlp::read_anything(bytes);
    }

    /// A request to the console.
    pub fn request(bytes: &[u8]) {
        crate::observe::http::read_any_request(bytes);
    }

    /// The query of a request to the console.
    pub fn query(bytes: &[u8]) {
        crate::observe::http::read_anything(&String::from_utf8_lossy(bytes));
    }
}

/// See `crate::upkeep::reconcile`.
pub mod reconcile {
    use crate::board::Board;
    use crate::config::Config;
    use crate::upkeep::reconcile::{self, Reconciler};

    /// Beside no session.
    pub fn spawn(config: &Config) -> Reconciler {
        reconcile::spawn(config, &Board::new())
    }
}
