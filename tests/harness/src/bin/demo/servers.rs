//! The demo's servers: installed ones, run in private, or containers.

use std::any::Any;

use anyhow::{Context, Result};
use harness::postgres::{self, Postgres};
use harness::rabbitmq::{self, RabbitMq};

use crate::docker;

pub(crate) struct Servers {
    pub database_url: String,
    pub amqp_url: String,
    pub described: String,
    /// What keeps them alive.
    _servers: Box<dyn Any>,
}

const DATABASE: &str = "shop";

impl Servers {
    pub(crate) async fn start(containers: bool) -> Result<Servers> {
        let installed = postgres::installed().and_then(|_| rabbitmq::installed());
        let servers = match installed {
            Ok(_) if !containers => private().await,
            Err(_) | Ok(_) if docker::is_there() => in_containers().await,
            Err(missing) => Err(missing),
            Ok(_) => anyhow::bail!("no Docker engine answers"),
        }?;
        let admin = servers.database_url.replace(&format!("/{DATABASE}"), "/postgres");
        let admin = postgres::connect(&admin).await?;
        admin
            .batch_execute(&format!("CREATE DATABASE {DATABASE}"))
            .await
            .context("creating the database")?;
        Ok(servers)
    }
}

async fn private() -> Result<Servers> {
    let (postgres, rabbitmq) = tokio::try_join!(
        Postgres::start(postgres::Options::default()),
        RabbitMq::start(rabbitmq::Options::default())
    )?;
    Ok(Servers {
        database_url: postgres.url(DATABASE),
        amqp_url: rabbitmq.url("/"),
        described: format!(
            "private Postgres {} and RabbitMQ {}",
            postgres.version(),
            rabbitmq.version()
        ),
        _servers: Box::new((postgres, rabbitmq)),
    })
}

async fn in_containers() -> Result<Servers> {
    let postgres = docker::Container::start(
        5432,
        &["-e", "POSTGRES_HOST_AUTH_METHOD=trust", "postgres:17", "-c", "wal_level=logical"],
    )?;
    let rabbitmq = docker::Container::start(5672, &["rabbitmq:4"])?;
    let database_url = format!("postgres://postgres@127.0.0.1:{}/{DATABASE}", postgres.port());
    let amqp_url = format!("amqp://guest:guest@127.0.0.1:{}/%2f", rabbitmq.port());
    docker::wait_ready(&database_url.replace(DATABASE, "postgres"), &amqp_url).await?;
    Ok(Servers {
        database_url,
        amqp_url,
        described: "Postgres 17 and RabbitMQ 4 in containers".to_owned(),
        _servers: Box::new((postgres, rabbitmq)),
    })
}
