//! What `check` finds of a stream.

use std::collections::BTreeSet;

use anyhow::Result;
use harness::rabbitmq::Permissions;

use crate::check::Checks as _;
use crate::setting::Setting;

#[tokio::test]
async fn a_stream_that_takes_messages_and_one_that_does_not() -> Result<()> {
    let (rabbitmq, setting) = Setting::streaming("events").await?;
    let checked = setting.check().await?;
    assert_eq!(checked.code, Some(0), "{checked}");
    assert!(checked.of("broker-stream", "good", "events").is_some(), "{checked}");
    checked.has_not("exchange-binding");
    let missing = setting.clone().set("tables.0.stream", "else.where");
    let checked = missing.check().await?;
    assert_eq!(checked.errors(), BTreeSet::from(["broker-stream-missing"]), "{checked}");
    missing.carry_out(checked.has("broker-stream-missing", "error")).await?;
    missing.check().await?.has_not("broker-stream-missing");
    let (vhost, user) = (&setting.vhost, format!("u{}", setting.vhost));
    rabbitmq
        .add_user(&user, "secret", vhost, Permissions { read: ".*", ..Permissions::NONE })
        .await?;
    let login = format!("{user}:secret");
    let url = rabbitmq.url_as(&login, rabbitmq.port(), vhost);
    let least = setting.clone().set("amqp.url", &url);
    let checked = least.check().await?;
    checked.has("broker-stream-permission", "error");
    assert_eq!(checked.errors().len(), 1, "{checked}");
    // To write to the stream, and nothing else.
    rabbitmq
        .add_user(&user, "secret", vhost, Permissions { write: "^events$", ..Permissions::NONE })
        .await?;
    assert_eq!(least.check().await?.code, Some(0));
    let nobody = setting.set("amqp.stream_port", &rabbitmq.port().to_string());
    let checked = nobody.check().await?;
    checked.has("broker-stream-connection", "error");
    assert_eq!(checked.errors().len(), 1, "{checked}");
    Ok(())
}
