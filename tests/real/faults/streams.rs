//! Streams that cannot be published to.

use anyhow::{Context, Result, ensure};
use harness::events::{event, events};
use harness::{free_port, stream};
use lapin::options::QueueDeleteOptions;

use super::{Asked, Fault, Scene, down, print};
use crate::setting::{PATIENCE, Setting};

pub const ALL: [Fault; 5] = [
    down("wrong port of RabbitMQ's streams", "broker-stream-connection"),
    down("RabbitMQ's stream plugin stopped", "broker-stream-connection"),
    down("stream deleted under load", "broker-stream-missing"),
    down("no right to write to the stream", "broker-stream-permission"),
    Fault { cause: "broker-stream-name", ..down("another publisher under the relay's name", "") },
];

const STREAM: &str = "events";
/// What the broker closes where somebody turns the plugin off.
const STOP: &str = "application:stop(rabbitmq_stream).";
const START: &str = "application:ensure_all_started(rabbitmq_stream).";

fn fault(name: &str) -> Result<&'static Fault> {
    ALL.iter().find(|fault| fault.name == name).with_context(|| name.to_owned())
}

#[tokio::test]
async fn each_has_one_name() -> Result<()> {
    let (rabbitmq, setting) = Setting::streaming(STREAM).await?;
    let mut told = Vec::new();

    let nowhere = setting.clone().set("amqp.stream_port", &free_port()?.to_string());
    let scene = Scene::begin(&nowhere)?;
    told.push(scene.tells(fault("wrong port of RabbitMQ's streams")?).await?);
    scene.relay.kill9().await?;

    let scene = Scene::running(&setting).await?;
    rabbitmq.ctl(&["eval", STOP]).await?;
    setting.insert(event(1, "t")).await?;
    let said = scene.tells(fault("RabbitMQ's stream plugin stopped")?).await;
    rabbitmq.ctl(&["eval", START]).await?;
    told.push(said?);
    scene.is_ready().await?;

    let vhost = setting.vhost.as_str();
    setting.insert(events(2..=200, "t").each()).await?;
    setting.channel().await?.queue_delete(STREAM.into(), QueueDeleteOptions::default()).await?;
    setting.insert(event(201, "t")).await?;
    told.push(scene.tells(fault("stream deleted under load")?).await?);
    setting.program.succeed(&["init", "--declare"]).await?;
    scene.is_ready().await?;

    let write = ["set_permissions", "-p", vhost, "guest"];
    rabbitmq.ctl(&[&write[..], &[".*", "^none$", ".*"]].concat()).await?;
    rabbitmq.ctl(&["eval", STOP]).await?;
    rabbitmq.ctl(&["eval", START]).await?;
    setting.insert(event(202, "t")).await?;
    let said = scene.tells(fault("no right to write to the stream")?).await;
    rabbitmq.ctl(&[&write[..], &[".*", ".*", ".*"]].concat()).await?;
    told.push(said?);
    scene.is_ready().await?;
    setting.all_marked().await?;

    // It stops: by itself this does not end. What it has left behind says why.
    let name =
        "SELECT concat_ws('/', 'pgoutbox', slot, system_identifier, timeline, publishing_epoch)
                  FROM pgoutbox.progress";
    let name: String = setting.ask(name).await?;
    stream::publish_as(rabbitmq.stream_port(), vhost, STREAM, &name, u64::MAX >> 2).await?;
    setting.insert(event(203, "t")).await?;
    scene.relay.wait_exit(PATIENCE).await.with_context(|| scene.relay.log())?;
    let taken = fault("another publisher under the relay's name")?;
    let first = Asked { setting: &scene.setting }.says(&["status"]).await?;
    ensure!(first.starts_with(&format!("down      fault, {}: ", taken.cause)), "{first}");
    print("streams", &told)
}
