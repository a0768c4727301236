//! What `check` finds of a broker, and that what it prints helps.

use std::collections::BTreeSet;

use anyhow::{Context, Result};
use harness::rabbitmq::Permissions;
use harness::shared;
use lapin::options::QueueDeclareOptions;
use lapin::types::FieldTable;
use serde_json::Value;

use super::hint;
use crate::check::Checks as _;
use crate::setting::Setting;

#[tokio::test]
async fn what_the_broker_refuses() -> Result<()> {
    let setting = Setting::shared().await?;
    let rabbitmq = shared::rabbitmq().await?;
    let vhost = setting.vhost.clone();
    let user = format!("u{vhost}");
    let with = |login: &str, vhost: &str| {
        setting.clone().set("amqp.url", &rabbitmq.url_as(login, rabbitmq.port(), vhost))
    };
    let nowhere = with("guest:guest", &format!("{vhost}_2"));
    let checked = nowhere.check().await?;
    assert_eq!(checked.errors(), BTreeSet::from(["broker-vhost"]), "{checked}");
    run_ctl(checked.has("broker-vhost", "error")).await?;
    let checked = nowhere.check().await?;
    checked.has_not("broker-vhost");
    run_ctl(checked.has("broker-vhost-permission", "error")).await?;
    nowhere.check().await?.has_not("broker-vhost-permission");

    rabbitmq
        .add_user(&user, "secret", &vhost, Permissions { write: "^other$", ..Permissions::NONE })
        .await?;
    let least = with(&format!("{user}:secret"), &vhost);
    let checked = least.check().await?;
    assert_eq!(checked.errors(), BTreeSet::from(["exchange-permission"]), "{checked}");
    run_ctl(checked.has("exchange-permission", "error")).await?;
    // With the right to write to the exchange, and to nothing else.
    let checked = least.check().await?;
    assert_eq!(checked.code, Some(0), "{checked}");
    let wrong = with(&format!("{user}:PASSWORD"), &vhost);
    let checked = wrong.check().await?;
    assert_eq!(checked.errors(), BTreeSet::from(["broker-login"]), "{checked}");
    run_ctl(checked.has("broker-login", "error")).await?;
    assert_eq!(wrong.check().await?.code, Some(0));
    run_ctl_words(&["change_password", &user, "secret"]).await?;
    rabbitmq.ctl(&["clear_permissions", "-p", &vhost, &user]).await?;
    let checked = least.check().await?;
    assert_eq!(checked.errors(), BTreeSet::from(["broker-vhost-permission"]), "{checked}");
    run_ctl(checked.has("broker-vhost-permission", "error")).await?;
    least.check().await?.has_not("broker-vhost-permission");

    // Whose limit it is decides what raises it.
    let none = "{\"max-connections\": 0}";
    for limit in
        [vec!["set_user_limits", &user, none], vec!["set_vhost_limits", "-p", &vhost, none]]
    {
        rabbitmq.ctl(&limit).await?;
        let checked = least.check().await?;
        assert_eq!(checked.errors(), BTreeSet::from(["broker-connection-limit"]), "{checked}");
        run_ctl(checked.has("broker-connection-limit", "error")).await?;
        least.check().await?.has_not("broker-connection-limit");
    }

    let elsewhere = setting.clone().set("tables.0.exchange", "else.where");
    let checked = elsewhere.check().await?;
    assert_eq!(checked.errors(), BTreeSet::from(["exchange-missing"]), "{checked}");
    elsewhere.carry_out(checked.has("exchange-missing", "error")).await?;
    elsewhere.check().await?.has_not("exchange-missing");

    let queue = setting.clone().set("declare.queues.0.name", "events");
    queue.carry_out(queue.check().await?.has("queue-missing", "warning")).await?;
    let checked = queue.check().await?;
    checked.has_not("queue-missing");
    let cost = "to a topic exchange, that costs the broker";
    assert!(checked.of("queue", "good", cost).is_some(), "{checked}");
    let checked = queue.set("declare.exchange_type", "fanout").check().await?;
    assert!(checked.of("queue", "good", cost).is_none(), "{checked}");
    // One that another connection has for itself is not to be looked at.
    let channel = setting.channel().await?;
    let options = QueueDeclareOptions { durable: true, exclusive: true, ..Default::default() };
    channel.queue_declare("taken".into(), options, FieldTable::default()).await?;
    let taken = setting.clone().set("declare.queues.0.name", "taken").check().await?;
    run_ctl(taken.has("queue", "unknown")).await?;
    let by_row = setting.clone().set("tables.0.exchange", "{topic}").check().await?;
    run_ctl(by_row.has("exchange", "unknown")).await?;

    let large = setting.clone().set("amqp.max_message_bytes", "200MiB");
    let checked = large.check().await?;
    let repaired = hint(checked.has("broker-max-message-size", "warning"));
    let repaired =
        repaired.split("max_message_bytes = ").nth(1).and_then(|rest| rest.split(';').next());
    let repaired = repaired.context("no value")?.trim_matches('"');
    setting
        .clone()
        .set("amqp.max_message_bytes", repaired)
        .check()
        .await?
        .has_not("broker-max-message-size");
    let two = format!("amqp://guest:guest@127.0.0.1:1/,{}", setting.amqp_url);
    let one_is_enough = setting.clone().set("amqp.url", &two).check().await?;
    assert_eq!(one_is_enough.code, Some(0), "{one_is_enough}");
    one_is_enough.has("broker-connection", "warning");
    let none = setting.set("amqp.url", "amqp://guest:guest@127.0.0.1:1/").check().await?;
    assert_eq!(none.errors(), BTreeSet::from(["broker-connection"]), "{none}");
    none.has("broker-connection", "error");
    Ok(())
}

/// A `rabbitmqctl` command as it is printed.
async fn run_ctl(finding: &Value) -> Result<()> {
    let command = hint(finding).strip_prefix("rabbitmqctl ").context("no rabbitmqctl")?;
    let command = command.split("  -- ").next().unwrap_or_default();
    let words: Vec<_> = command.split(' ').map(|word| word.trim_matches('\'')).collect();
    run_ctl_words(&words).await
}

async fn run_ctl_words(words: &[&str]) -> Result<()> {
    shared::rabbitmq().await?.ctl(words).await?;
    Ok(())
}
