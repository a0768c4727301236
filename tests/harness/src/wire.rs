//! One of the relay's connections, through a proxy.

use anyhow::Result;

use crate::proxy::Proxy;
use crate::setting::Setting;
use crate::shared;

/// Which connection.
#[derive(Clone, Copy, Debug)]
pub enum Wire {
    Stream,
    Audit,
    Amqp,
}

impl Setting {
    /// That connection goes through a proxy; the others to the servers that all tests share.
    pub async fn through(&mut self, wire: Wire) -> Result<Proxy> {
        let (postgres, rabbitmq) = tokio::try_join!(shared::postgres(), shared::rabbitmq())?;
        let (port, variable, url) = match wire {
            Wire::Stream => {
                (postgres.port(), "PGOUTBOX_POSTGRES__STREAM_URL", self.database_url.clone())
            }
            Wire::Audit => (postgres.port(), "DATABASE_URL", self.database_url.clone()),
            Wire::Amqp => (rabbitmq.port(), "AMQP_URL", self.amqp_url.clone()),
        };
        let proxy = Proxy::start(port).await?;
        self.env("PGOUTBOX_POSTGRES__STREAM_URL", &self.database_url.clone());
        self.env(variable, &proxy.url(&url));
        Ok(proxy)
    }
}
