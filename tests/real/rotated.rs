//! Secrets in files that are written again while the relay runs: nobody sends a signal for it.

use std::path::Path;

use anyhow::{Context, Result};
use harness::http::request;
use harness::rabbitmq::Permissions;
use harness::wait_until;

use crate::bare::arrived;
use crate::setting::PATIENCE;
use crate::tls::servers;

/// As Kubernetes does it: the file under the name is another one from one moment to the next.
fn put(directory: &Path, name: &str, text: &str) -> Result<String> {
    let (new, file) = (directory.join(format!(".{name}")), directory.join(name));
    std::fs::write(&new, text)?;
    std::fs::rename(&new, &file)?;
    Ok(file.display().to_string())
}

/// The audit connection's password is in a file, the stream's role and password are in a URL's, the
/// broker's too, and the token.
#[tokio::test]
async fn secrets_are_read_again_at_each_login() -> Result<()> {
    let servers = servers().await?;
    let (postgres, rabbitmq) = (&servers.postgres, &servers.rabbitmq);
    let mut setting = servers.setting().await?;
    let (role, vhost) = (setting.database.clone(), setting.vhost.clone());
    let stream = |number: u8| format!("{role}_{number}");
    let of_role = async |name: &str, password: &str| {
        let sql = format!("CREATE ROLE {name} SUPERUSER LOGIN PASSWORD '{password}'");
        postgres.execute("postgres", &sql).await
    };
    of_role(&role, "first").await?;
    of_role(&stream(1), "s").await?;
    let user =
        async |password: &str| rabbitmq.add_user(&role, password, &vhost, Permissions::ALL).await;
    user("first").await?;
    let stream_url =
        |number| postgres.url_as(&format!("{}:s", stream(number)), postgres.port(), &role);
    let amqp_url =
        |password: &str| rabbitmq.url_as(&format!("{role}:{password}"), rabbitmq.port(), &vhost);

    let files = tempfile::tempdir()?;
    let write = |name: &str, text: &str| put(files.path(), name, text);
    let password_file = write("pg", "first\n")?;
    let stream_file = write("stream", &stream_url(1))?;
    let amqp_file = write("amqp", &amqp_url("first"))?;
    let token_file = write("token", "first")?;
    let no_password = postgres.url_as(&role, postgres.port(), &role);
    for (key, value) in [
        ("postgres.url", &no_password),
        ("postgres.password_file", &password_file),
        ("postgres.stream_url_file", &stream_file),
        ("http.token_file", &token_file),
    ] {
        setting = setting.set(key, value);
    }
    setting.env("AMQP_URL", "");
    setting = setting.set("amqp.url_file", &amqp_file).set("session.backoff_max", "300ms");
    let consumer = setting.consumer().await?;
    let relay = setting.run()?;
    let address = relay.http(PATIENCE).await?;
    let enqueue = "SELECT pgoutbox.enqueue('t', '{}')";
    setting.sql(enqueue).await?;
    arrived(&consumer, 1).await.with_context(|| relay.log())?;

    // The servers know new ones before the files do: each failure names its file.
    setting.sql(&format!("ALTER ROLE {role} PASSWORD 'second'")).await?;
    let end = format!(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename LIKE '{role}%'"
    );
    setting.sql(&end).await?;
    let hint = format!("check user and password in {password_file}");
    relay.wait_for_log(&hint, PATIENCE).await?;
    // Empty for a moment: what was known before is tried on.
    write("pg", "")?;
    write("pg", "second\n")?;
    setting.sql(enqueue).await?;
    arrived(&consumer, 2).await.with_context(|| relay.log())?;

    // Another role, as Vault hands them out.
    of_role(&stream(2), "s").await?;
    setting.sql(&format!("ALTER ROLE {} NOLOGIN", stream(1))).await?;
    setting.sql(&end).await?;
    relay.wait_for_log("LOGIN", PATIENCE).await?;
    write("stream", &stream_url(2))?;
    setting.sql(enqueue).await?;
    arrived(&consumer, 3).await.with_context(|| relay.log())?;

    user("second").await?;
    rabbitmq.close_all_connections().await?;
    relay.wait_for_log(&format!("check user and password in {amqp_file}"), PATIENCE).await?;
    write("amqp", &amqp_url("second"))?;
    // The consumer's connection went as well: nobody takes the message, but its queue is there.
    setting.sql(enqueue).await?;
    setting.all_marked().await.with_context(|| relay.log())?;

    // A new token holds, and the old one no longer.
    let code = async |token: &str| {
        let header = format!("Bearer {token}");
        let headers = [("Authorization", header.as_str())];
        Ok::<_, anyhow::Error>(request(address, "GET", "/status", &headers, "").await?.code)
    };
    assert_eq!((code("first").await?, code("second").await?), (200, 401));
    write("token", "second")?;
    wait_until("the new token", PATIENCE, async || Ok(code("second").await? == 200)).await?;
    assert_eq!(code("first").await?, 401);
    assert!(!relay.log().contains("SIGHUP"), "{}", relay.log());
    relay.drain(PATIENCE).await
}

/// A certificate's file says nothing of itself in the settings, so its content is compared.
#[tokio::test]
async fn a_reload_takes_over_what_a_certificate_file_holds() -> Result<()> {
    let servers = servers().await?;
    let setting = servers.setting().await?;
    let authority = tempfile::NamedTempFile::new()?;
    std::fs::copy(servers.file("ours.pem"), authority.path())?;
    let url = servers.postgres_url("encrypted", "localhost", &setting);
    let mut setting = setting
        .set("postgres.url", &url)
        .set("postgres.ca_file", &authority.path().display().to_string());
    setting.program = setting.program.env("PGPASSWORD_FILE", servers.file("password"));
    let relay = setting.run()?;
    relay.reaches("running", PATIENCE).await?;
    relay.hangup()?;
    relay.wait_for_log("SIGHUP: no other setting has changed", PATIENCE).await?;
    let both = [
        std::fs::read_to_string(servers.file("ours.pem"))?,
        std::fs::read_to_string(servers.file("theirs.pem"))?,
    ];
    std::fs::write(authority.path(), both.concat())?;
    relay.hangup()?;
    relay.wait_for_log("changed=\"what a file holds\"", PATIENCE).await?;
    relay.wait_for_log("now running with the new configuration", PATIENCE).await?;
    relay.drain(PATIENCE).await
}
