//! The two roles that `init` makes, and the program as they run it.

use anyhow::Result;

use crate::setting::Setting;
use crate::shared;

impl Setting {
    /// The role whose connection streams.
    pub fn stream_role(&self) -> String {
        format!("{}_stream", self.database)
    }

    /// The role of all other connections.
    pub fn audit_role(&self) -> String {
        format!("{}_audit", self.database)
    }

    /// Sets up for both roles, on the shared Postgres; returns the program as they run it.
    pub async fn with_roles(&self) -> Result<Self> {
        let (stream, audit) = (self.stream_role(), self.audit_role());
        self.program
            .succeed(&["init", "--declare", "--stream-role", &stream, "--audit-role", &audit])
            .await?;
        let postgres = shared::postgres().await?;
        let url = |role: &str| postgres.url_as(role, postgres.port(), &self.database);
        Ok(self.clone().set("postgres.url", &url(&audit)).set("postgres.stream_url", &url(&stream)))
    }
}
