//! One Postgres and one RabbitMQ per test process, for the tests that do not break servers.
//!
//! Each test takes a database ([`Postgres::create_database`]) and a virtual host ([`RabbitMq::add_vhost`]) of its own.
//! Slots are per server: a test that uses the default slot name must not share its Postgres with another such test,
//! so give each its own slot name. The reaper ends both servers after the last test.

use anyhow::Result;
use tokio::sync::OnceCell;

use crate::postgres::{self, Postgres};
use crate::rabbitmq::{self, RabbitMq};

static POSTGRES: OnceCell<Postgres> = OnceCell::const_new();
static RABBITMQ: OnceCell<RabbitMq> = OnceCell::const_new();

pub async fn postgres() -> Result<&'static Postgres> {
    POSTGRES.get_or_try_init(|| Postgres::start(postgres::Options::default())).await
}

pub async fn rabbitmq() -> Result<&'static RabbitMq> {
    let options = rabbitmq::Options { spare_vhosts: 16, ..Default::default() };
    RABBITMQ.get_or_try_init(|| RabbitMq::start(options)).await
}
