//! Virtual hosts and users, made by importing definitions: one `rabbitmqctl`, which costs a second of CPU, for many.

use anyhow::{Result, anyhow};
use serde_json::{Value, json};

use super::RabbitMq;

/// Regular expressions of RabbitMQ's three permissions.
#[derive(Clone, Copy, Debug)]
pub struct Permissions<'a> {
    pub configure: &'a str,
    pub write: &'a str,
    pub read: &'a str,
}

impl Permissions<'_> {
    pub const ALL: Permissions<'static> = Permissions { configure: ".*", write: ".*", read: ".*" };
    pub const NONE: Permissions<'static> = Permissions { configure: "^$", write: "^$", read: "^$" };
}

/// How many virtual hosts one import makes when the supply is used up.
const SUPPLY: usize = 8;

impl RabbitMq {
    /// A new virtual host with a unique name, where `guest` may do everything.
    pub async fn add_vhost(&self) -> Result<String> {
        let mut spare = self.spare_vhosts.lock().await;
        if spare.is_empty() {
            let names = unique_names(SUPPLY);
            self.import(&with_users(&names, json!([]))).await?;
            *spare = names;
        }
        spare.pop().ok_or_else(|| anyhow!("no virtual host was made"))
    }

    /// A user, or new permissions and a new password for one. His URL is [`RabbitMq::url_as`].
    pub async fn add_user(
        &self,
        name: &str,
        password: &str,
        vhost: &str,
        permissions: Permissions<'_>,
    ) -> Result<()> {
        self.import(&json!({
            "users": [{"name": name, "password": password, "tags": ""}],
            "permissions": [permission(name, vhost, permissions)],
        }))
        .await
    }

    async fn import(&self, definitions: &Value) -> Result<()> {
        let file = self.home.join(format!("import-{:08x}.json", fastrand::u32(..)));
        std::fs::write(&file, definitions.to_string())?;
        self.ctl(&["import_definitions", &file.display().to_string()]).await?;
        Ok(())
    }
}

/// What a node has from its first boot: without a definition of `guest` there would be no user at all.
pub(super) fn at_boot(spare_vhosts: &[String]) -> Value {
    let mut names = spare_vhosts.to_vec();
    names.push("/".to_owned());
    with_users(&names, json!([{"name": "guest", "password": "guest", "tags": "administrator"}]))
}

pub(super) fn unique_names(count: usize) -> Vec<String> {
    (0..count).map(|_| format!("t{:016x}", fastrand::u64(..))).collect()
}

fn with_users(vhosts: &[String], users: Value) -> Value {
    let permissions = vhosts.iter().map(|name| permission("guest", name, Permissions::ALL));
    json!({
        "users": users,
        "vhosts": vhosts.iter().map(|name| json!({"name": name})).collect::<Vec<_>>(),
        "permissions": permissions.collect::<Vec<_>>(),
    })
}

fn permission(
    user: &str,
    vhost: &str,
    Permissions { configure, write, read }: Permissions<'_>,
) -> Value {
    json!({"user": user, "vhost": vhost, "configure": configure, "write": write, "read": read})
}
