//! A broker that goes away, blocks, hangs or lets nobody in.

use anyhow::{Context, Result};
use harness::events::event;

use super::{Fault, Scene, down, print};
use crate::setting::Setting;

pub const ALL: [Fault; 6] = [
    down("RabbitMQ down", "broker-connection"),
    Fault { code: "broker_blocked", ..down("memory alarm of RabbitMQ", "broker-blocked") },
    Fault { code: "broker_blocked", ..down("disk alarm of RabbitMQ", "broker-blocked") },
    down("connection limit of the virtual host", "broker-connection-limit"),
    down("password changed at RabbitMQ", "broker-login"),
    down("RabbitMQ frozen", "broker-connection"),
];

#[tokio::test]
async fn each_has_one_name() -> Result<()> {
    let (rabbitmq, setting) = Setting::own_rabbitmq().await?;
    let _consumer = setting.consumer().await?;
    // The shipped heartbeat; a confirm that does not come is noticed by it.
    let scene = Scene::running(&setting).await?;
    let mut told = Vec::new();
    for (number, fault) in (1..).zip(&ALL) {
        let vhost = setting.vhost.as_str();
        match fault.name {
            "RabbitMQ down" => rabbitmq.stop().await?,
            "memory alarm of RabbitMQ" => rabbitmq.memory_alarm(true).await?,
            "disk alarm of RabbitMQ" => rabbitmq.disk_alarm(true).await?,
            "connection limit of the virtual host" => {
                let limit = "{\"max-connections\": 0}";
                rabbitmq.ctl(&["set_vhost_limits", "-p", vhost, limit]).await?;
                rabbitmq.close_all_connections().await?;
            }
            "password changed at RabbitMQ" => {
                rabbitmq.ctl(&["change_password", "guest", "x"]).await?;
                rabbitmq.close_all_connections().await?;
            }
            _ => rabbitmq.sigstop()?,
        }
        setting.insert(event(number, "t")).await?;
        let said = scene.tells(fault).await;
        // Whatever was said, the broker is the next test's too.
        match fault.name {
            "RabbitMQ down" => rabbitmq.start_again().await?,
            "memory alarm of RabbitMQ" => rabbitmq.memory_alarm(false).await?,
            "disk alarm of RabbitMQ" => rabbitmq.disk_alarm(false).await?,
            "connection limit of the virtual host" => {
                rabbitmq.ctl(&["clear_vhost_limits", "-p", vhost]).await?;
            }
            "password changed at RabbitMQ" => {
                rabbitmq.ctl(&["change_password", "guest", "guest"]).await?;
            }
            _ => rabbitmq.sigcont()?,
        }
        told.push(said?);
        scene.is_ready().await.with_context(|| fault.name)?;
    }
    scene.relay.kill9().await?;
    print("broker", &told)
}
