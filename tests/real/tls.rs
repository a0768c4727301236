//! TLS to both servers, with certificates of authorities of our own.

use std::path::PathBuf;

use anyhow::{Context, Result};
use harness::certs::{Authority, Pair};
use harness::postgres::{self, Auth, Postgres};
use harness::rabbitmq::{self, Permissions, RabbitMq};
use tempfile::TempDir;
use tokio::sync::OnceCell;

use crate::bare::arrived;
use crate::setting::{PATIENCE, Setting};

const PASSWORD: &str = "tls: sécret/@";
/// In no certificate, though the server answers there.
const OTHER_HOST: &str = "127.0.0.2";

/// One Postgres and one RabbitMQ with TLS for all tests of this file.
pub struct Servers {
    pub postgres: Postgres,
    pub rabbitmq: RabbitMq,
    files: TempDir,
}

static SERVERS: OnceCell<Servers> = OnceCell::const_new();

impl Servers {
    async fn start() -> Result<Self> {
        let (ours, theirs) = (Authority::new("ours")?, Authority::new("theirs")?);
        let files = tempfile::tempdir()?;
        let write = |name: &str, text: &str| std::fs::write(files.path().join(name), text);
        let pair = |name: &str, pair: &Pair| {
            write(&format!("{name}.crt"), &pair.cert)?;
            write(&format!("{name}.key"), &pair.key)
        };
        write("ours.pem", ours.pem())?;
        write("theirs.pem", theirs.pem())?;
        write("password", &format!("{PASSWORD}\n"))?;
        pair("holder", &ours.client("holder")?)?;
        pair("stranger", &theirs.client("holder")?)?;
        let server = ours.server(&["localhost", "127.0.0.1"])?;
        // The test's own connections go without TLS, as another role.
        let hba = [
            "hostssl all encrypted 127.0.0.0/8 scram-sha-256",
            "hostssl all hashed 127.0.0.0/8 md5",
            "hostssl all holder 127.0.0.0/8 cert",
            "host all encrypted,hashed,holder all reject",
        ];
        let tls = postgres::ServerTls { pair: server.clone(), ca: ours.pem().to_owned() };
        let postgres = Postgres::start(postgres::Options {
            auth: Auth::Scram,
            tls: Some(tls),
            hba: hba.map(str::to_owned).into(),
            conf: vec![format!("listen_addresses = '127.0.0.1,{OTHER_HOST}'")],
            ..Default::default()
        });
        let tls = rabbitmq::ServerTls { pair: server, ca: ours.pem().to_owned() };
        let rabbitmq = RabbitMq::start(rabbitmq::Options {
            tls: Some(tls),
            spare_vhosts: 8,
            has_streams: true,
            ..Default::default()
        });
        let (postgres, rabbitmq) = tokio::try_join!(postgres, rabbitmq)?;
        let roles = format!(
            "CREATE ROLE encrypted SUPERUSER LOGIN PASSWORD '{PASSWORD}'; CREATE ROLE holder SUPERUSER LOGIN;
             SET password_encryption = md5; CREATE ROLE hashed SUPERUSER LOGIN PASSWORD '{PASSWORD}'"
        );
        postgres.execute("postgres", &roles).await?;
        Ok(Self { postgres, rabbitmq, files })
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.files.path().join(name)
    }

    /// Made without TLS; each test then says how the relay connects.
    pub async fn setting(&self) -> Result<Setting> {
        let (database, vhost) =
            (self.postgres.create_database().await?, self.rabbitmq.add_vhost().await?);
        let (database_url, amqp_url) = (self.postgres.url(&database), self.rabbitmq.url(&vhost));
        let setting = Setting::with(database, vhost, database_url, amqp_url);
        setting.init().await?;
        Ok(setting)
    }

    pub fn postgres_url(&self, role: &str, host: &str, setting: &Setting) -> String {
        format!("postgres://{role}@{host}:{}/{}", self.postgres.port(), setting.database)
    }
}

pub async fn servers() -> Result<&'static Servers> {
    SERVERS.get_or_try_init(Servers::start).await
}

/// TLS, and how it is refused.
trait Certified {
    fn file(self, key: &str, name: &str, servers: &Servers) -> Self;
    fn certificate(self, section: &str, name: &str, servers: &Servers) -> Self;
    /// An event gets through; `look` is asked meanwhile.
    async fn relays(&self, look: impl AsyncFnOnce() -> Result<()>) -> Result<()>;
    /// The relay says why it cannot connect, tries again, and never gives up.
    async fn is_refused(&self, told: &str, hint: &str) -> Result<()>;
}

impl Certified for Setting {
    fn file(self, key: &str, name: &str, servers: &Servers) -> Self {
        self.set(key, &servers.file(name).display().to_string())
    }

    fn certificate(self, section: &str, name: &str, servers: &Servers) -> Self {
        self.file(&format!("{section}.cert_file"), &format!("{name}.crt"), servers).file(
            &format!("{section}.key_file"),
            &format!("{name}.key"),
            servers,
        )
    }

    async fn relays(&self, look: impl AsyncFnOnce() -> Result<()>) -> Result<()> {
        let consumer = self.consumer().await?;
        let relay = self.run()?;
        self.sql("SELECT pgoutbox.enqueue('t', '{}')").await?;
        arrived(&consumer, 1).await.with_context(|| relay.log())?;
        look().await?;
        relay.drain(PATIENCE).await
    }

    async fn is_refused(&self, told: &str, hint: &str) -> Result<()> {
        let relay = self.clone().set("log.level", "info,pgoutbox=debug").run()?;
        let line = relay.wait_for_log("failures=3", PATIENCE).await?;
        assert!(line.contains(told) && line.contains(hint), "no {told:?}, {hint:?} in {line}");
        // The client libraries leave the telling to the relay, which knows how to fix it.
        assert!(!relay.log().contains(" ERROR "), "{}", relay.log());
        let first = relay.wait_for_log("failures=1", PATIENCE).await?;
        assert!(first.contains("WARN") && first.contains("again_in="), "{first}");
        relay.drain(PATIENCE).await
    }
}

#[tokio::test]
async fn postgres_is_verified_by_name_and_by_address() -> Result<()> {
    let servers = servers().await?;
    let ways =
        [("localhost", "PGPASSWORD_FILE"), ("127.0.0.1", "PGOUTBOX_POSTGRES__PASSWORD_FILE")];
    for (host, variable) in ways {
        let mut setting = servers.setting().await?;
        let url = servers.postgres_url("encrypted", host, &setting);
        // A certificate file asks for verify-full.
        setting = setting.set("postgres.url", &url).file("postgres.ca_file", "ours.pem", servers);
        setting.program = setting.program.env(variable, servers.file("password"));
        let encrypted = format!(
            "SELECT bool_and(ssl) AND count(*) >= 2 AND bool_or(backend_type = 'walsender')
               FROM pg_stat_ssl JOIN pg_stat_activity USING (pid)
              WHERE usename = 'encrypted' AND datname = '{}'",
            setting.database
        );
        setting
            .relays(async || setting.until("both connections encrypted", &encrypted).await)
            .await?;
        setting.program.succeed(&["check"]).await?;
    }
    Ok(())
}

#[tokio::test]
async fn postgres_of_another_authority_or_name_is_refused() -> Result<()> {
    let servers = servers().await?;
    let setting = servers.setting().await?;
    let with = |host: &str| {
        let url = servers.postgres_url("encrypted", host, &setting);
        let mut with = setting.clone().set("postgres.url", &url);
        with.program = with.program.env("PGPASSWORD_FILE", servers.file("password"));
        with
    };
    with("localhost")
        .file("postgres.ca_file", "theirs.pem", servers)
        .is_refused("UnknownIssuer", "check the CA file")
        .await?;
    let other = with(OTHER_HOST).file("postgres.ca_file", "ours.pem", servers);
    other.is_refused("not valid for name", "a name that the server's certificate holds").await?;
    // The server takes no plain text from this role.
    with("localhost")
        .set("postgres.sslmode", "disable")
        .is_refused("no encryption", "pg_hba.conf")
        .await?;
    // Whoever asks for less gets less.
    with(OTHER_HOST)
        .set("postgres.sslmode", "verify-ca")
        .file("postgres.ca_file", "ours.pem", servers)
        .relays(async || Ok(()))
        .await?;
    with(OTHER_HOST).set("postgres.sslmode", "require").relays(async || Ok(())).await
}

/// As `psql` takes it: the certificate that a server has signed for itself is its own authority.
#[tokio::test]
async fn a_self_signed_certificate_is_its_own_authority() -> Result<()> {
    let own = Authority::self_signed(&["localhost"])?;
    let postgres = Postgres::start(postgres::Options {
        tls: Some(postgres::ServerTls { pair: own.clone(), ca: own.cert.clone() }),
        conf: vec![format!("listen_addresses = '127.0.0.1,{OTHER_HOST}'")],
        ..Default::default()
    })
    .await?;
    let vhost = servers().await?.rabbitmq.add_vhost().await?;
    let database = postgres.create_database().await?;
    let (database_url, amqp_url) = (postgres.url(&database), servers().await?.rabbitmq.url(&vhost));
    let setting = Setting::of(database, vhost, database_url, amqp_url).await?;
    let file = tempfile::NamedTempFile::new()?;
    std::fs::write(file.path(), &own.cert)?;
    let with = |host: &str, mode: &str| {
        let url = format!("postgres://postgres@{host}:{}/{}", postgres.port(), setting.database);
        let with = setting.clone().set("postgres.url", &url).set("postgres.sslmode", mode);
        with.set("postgres.ca_file", &file.path().display().to_string())
    };
    for (host, mode) in [("localhost", "verify-full"), (OTHER_HOST, "verify-ca")] {
        let setting = with(host, mode);
        setting.relays(async || Ok(())).await.with_context(|| mode.to_owned())?;
        let check = setting.program.output(&["check"]).await?;
        let told = String::from_utf8_lossy(&check.stdout).into_owned();
        assert!(told.contains("shows a certificate (verified"), "{told}");
    }
    let hint = "a name that the server's certificate holds";
    with(OTHER_HOST, "verify-full").is_refused("not valid for name", hint).await?;
    // Version 1, which OpenSSL still makes of a request: no client's key check takes it here.
    for (name, text) in [("server.crt", V1_CERT), ("server.key", V1_KEY)] {
        std::fs::write(postgres.data().join(name), text)?;
    }
    setting.sql("SELECT pg_reload_conf()").await?;
    let old = with("localhost", "verify-full");
    std::fs::write(file.path(), V1_CERT)?;
    old.is_refused("version 3 is needed", "X.509 version 3").await?;
    let check = old.program.output(&["check"]).await?;
    let told = String::from_utf8_lossy(&check.stdout).into_owned();
    assert!(told.contains("version 3 is needed"), "{told}");
    Ok(())
}

/// So is that of a broker.
#[tokio::test]
async fn a_broker_may_sign_its_certificate_itself() -> Result<()> {
    let (own, clients) = (Authority::self_signed(&["localhost"])?, Authority::new("clients")?);
    let tls = rabbitmq::ServerTls { pair: own.clone(), ca: clients.pem().to_owned() };
    let rabbitmq =
        RabbitMq::start(rabbitmq::Options { tls: Some(tls), ..Default::default() }).await?;
    let postgres = &servers().await?.postgres;
    let (vhost, database) = (rabbitmq.add_vhost().await?, postgres.create_database().await?);
    let (database_url, amqp_url) = (postgres.url(&database), rabbitmq.url(&vhost));
    let setting = Setting::of(database, vhost, database_url, amqp_url).await?;
    let files = tempfile::tempdir()?;
    let (file, holder) = (|name: &str| files.path().join(name), clients.client("holder")?);
    for (name, text) in
        [("own.pem", &own.cert), ("holder.crt", &holder.cert), ("holder.key", &holder.key)]
    {
        std::fs::write(file(name), text)?;
    }
    let with = |host: &str| {
        let url = rabbitmq.tls_url("guest:guest", host, &setting.vhost);
        let names = [
            ("amqp.ca_file", "own.pem"),
            ("amqp.cert_file", "holder.crt"),
            ("amqp.key_file", "holder.key"),
        ];
        let with = setting.clone().set("amqp.url", &url);
        names
            .into_iter()
            .fold(with, |with, (key, name)| with.set(key, &file(name).display().to_string()))
    };
    let good = with("localhost");
    good.relays(async || Ok(())).await?;
    good.program.succeed(&["check"]).await?;
    let hint = "a name that the server's certificate holds";
    with("127.0.0.1").is_refused("not valid for name", hint).await?;
    rabbitmq.show(&Pair { cert: V1_CERT.to_owned(), key: V1_KEY.to_owned() }).await?;
    std::fs::write(file("own.pem"), V1_CERT)?;
    good.is_refused("version 3 is needed", "X.509 version 3").await?;
    let check = good.program.output(&["check"]).await?;
    let told = String::from_utf8_lossy(&check.stdout).into_owned();
    assert!(told.contains("version 3 is needed"), "{told}");
    Ok(())
}

const V1_CERT: &str = "-----BEGIN CERTIFICATE-----
MIIBJDCBywIUZzQ8NRsjKNpAlxbIKPPKf/+cRFgwCgYIKoZIzj0EAwIwFDESMBAG
A1UEAwwJbG9jYWxob3N0MCAXDTI2MTEyOTIyMzAxNFoYDzIxMjYxMTA1MjIzMDE0
WjAUMRIwEAYDVQQDDAlsb2NhbGhvc3QwWTATBgcqhkjOPQIBBggqhkjOPQMBBwNC
AAR9ABtPIeqN7Rnf4VAaF3PC4cvaymrC6RrWN9OIpzShzBzVyHzwBAUMRO/yNI5P
AdlC8F0BvUKrT1lw4joKVaPRMAoGCCqGSM49BAMCA0gAMEUCIFSLzHIbKgTKqete
+hO6qK/zzVQFXP8scs0qlntK9T6fAiEA0K/Rf7ZePX15dRguGp55fwTwgxXJ5WwV
WUy7vTh6W6o=
-----END CERTIFICATE-----
";
/// Of these tests alone.
const V1_KEY: &str = "-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgI3QEmvI9k2C/v26I
Yh3CEabRT+FHJsAhrmpgv8q3XCihRANCAAR9ABtPIeqN7Rnf4VAaF3PC4cvaymrC
6RrWN9OIpzShzBzVyHzwBAUMRO/yNI5PAdlC8F0BvUKrT1lw4joKVaPR
-----END PRIVATE KEY-----
";

#[tokio::test]
async fn postgres_may_keep_md5_hashes_of_passwords() -> Result<()> {
    let servers = servers().await?;
    let mut setting = servers.setting().await?;
    let url = servers.postgres_url("hashed", "localhost", &setting);
    setting = setting.set("postgres.url", &url).file("postgres.ca_file", "ours.pem", servers);
    setting.program = setting.program.env("PGPASSWORD_FILE", servers.file("password"));
    setting.relays(async || Ok(())).await
}

#[tokio::test]
async fn an_authority_corrected_while_it_tries_lets_the_relay_in() -> Result<()> {
    let servers = servers().await?;
    let mut setting = servers.setting().await?;
    let authority = tempfile::NamedTempFile::new()?;
    std::fs::copy(servers.file("theirs.pem"), authority.path())?;
    let url = servers.postgres_url("encrypted", "localhost", &setting);
    setting = setting
        .set("postgres.url", &url)
        .set("postgres.ca_file", &authority.path().display().to_string());
    setting.program = setting.program.env("PGPASSWORD_FILE", servers.file("password"));
    let consumer = setting.consumer().await?;
    setting.sql("SELECT pgoutbox.enqueue('t', '{}')").await?;
    let relay = setting.run()?;
    relay.is_down("fault", PATIENCE).await?;
    // Who renews a certificate may write its file in two steps.
    std::fs::write(authority.path(), "")?;
    relay.wait_for_log("holds no certificate", PATIENCE).await?;
    std::fs::copy(servers.file("ours.pem"), authority.path())?;
    arrived(&consumer, 1).await.with_context(|| relay.log())?;
    relay.drain(PATIENCE).await
}

#[tokio::test]
async fn postgres_knows_the_relay_by_its_certificate() -> Result<()> {
    let servers = servers().await?;
    let setting = servers.setting().await?;
    let url = servers.postgres_url("holder", "localhost", &setting);
    let setting = setting.set("postgres.url", &url).file("postgres.ca_file", "ours.pem", servers);
    setting.clone().certificate("postgres", "holder", servers).relays(async || Ok(())).await?;
    setting.is_refused("client certificate", "pg_hba.conf").await?;
    let stranger = setting.certificate("postgres", "stranger", servers);
    stranger.is_refused("UnknownCA", "check the client certificate").await
}

#[tokio::test]
async fn rabbitmq_with_an_authority_and_a_client_certificate() -> Result<()> {
    let servers = servers().await?;
    let rabbitmq = &servers.rabbitmq;
    let plain = servers.setting().await?;
    for host in ["localhost", "127.0.0.1"] {
        let url = rabbitmq.tls_url("guest:guest", host, &plain.vhost);
        let setting = plain.clone().set("amqp.url", &url).file("amqp.ca_file", "ours.pem", servers);
        let whole = setting.certificate("amqp", "holder", servers);
        whole.relays(async || Ok(())).await.context(host)?;
        whole.program.succeed(&["check"]).await?;
    }
    let url = rabbitmq.tls_url("guest:guest", "localhost", &plain.vhost);
    let setting = plain.set("amqp.url", &url);
    let wrong = setting.clone().file("amqp.ca_file", "theirs.pem", servers);
    wrong
        .certificate("amqp", "holder", servers)
        .is_refused("UnknownIssuer", "check the CA file")
        .await?;
    let certless = setting.file("amqp.ca_file", "ours.pem", servers);
    certless.is_refused("RabbitMQ at localhost", "check the client certificate").await
}

#[tokio::test]
async fn rabbitmq_takes_the_certificate_for_a_login() -> Result<()> {
    let servers = servers().await?;
    let rabbitmq = &servers.rabbitmq;
    let setting = servers.setting().await?;
    let vhost = setting.vhost.clone();
    let permissions = Permissions { write: "^outbox$", ..Permissions::NONE };
    // A password that nobody is told.
    rabbitmq.add_user("holder", "no use", &vhost, permissions).await?;
    let url = format!("amqps://localhost:{}/{vhost}", rabbitmq.tls_port());
    let setting = setting
        .set("amqp.url", &url)
        .set("amqp.auth", "external")
        .file("amqp.ca_file", "ours.pem", servers)
        .certificate("amqp", "holder", servers);
    setting
        .relays(async || {
            let connections = rabbitmq.ctl(&["list_connections", "vhost", "user", "ssl"]).await?;
            let ours: Vec<_> = connections.lines().filter(|line| line.contains(&vhost)).collect();
            assert!(ours.iter().any(|line| line.contains("holder\ttrue")), "{connections}");
            Ok(())
        })
        .await
}
