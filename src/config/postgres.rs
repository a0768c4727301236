//! From settings to the two Postgres connections.

use std::path::PathBuf;
use std::time::Duration;

use super::address::encode;
use super::effective::EffectiveValues;
use super::origin::{ValueOrigin, secret_file};
use super::postgres_url::{PostgresUrl, VARIABLES, hosts, seconds, variable};
use super::problem::Problems;
use super::raw::Wrong;
use super::shards::application_name;
use super::source::Environment;
use super::ssl_mode::ssl_mode;
use super::tls::{Files, NamedValue};
use super::values::Values;
use super::{Host, OnSlotLoss, Place, Postgres, Renewal, Secret, Server, Shards, Tls, TlsMode};

const URL: &str = "postgres.url";
const STREAM_URL: &str = "postgres.stream_url";
/// libpq's word for the system's authorities.
const SYSTEM: &str = "system";

/// What the connections are put together from.
pub(crate) struct Assembly<'a> {
    pub(crate) values: &'a Values,
    pub(crate) env: &'a Environment<'a>,
    pub(crate) problems: &'a mut Problems,
    pub(crate) shown: &'a mut EffectiveValues,
}

impl Assembly<'_> {
    /// The section `[postgres]`.
    pub(crate) fn postgres(&mut self, is_needed: bool) -> Postgres {
        let values = self.values;
        let url = values.postgres_url(URL).unwrap_or_default();
        let audit = self.audit(&url, is_needed);
        if is_needed {
            self.libpqs_own(&url, &audit);
        }
        let stream = self.stream(&url, &audit);
        let text = |key: &str| values.text(key).unwrap_or_default();
        let shards = Shards {
            of: u16::try_from(values.number("postgres.shards")).unwrap_or(1).max(1),
            slot: text("postgres.slot"),
            publication: text("postgres.publication"),
            is_any: false,
            named: None,
        };
        Postgres {
            audit,
            stream,
            slot: shards.slot.clone(),
            publication: shards.publication.clone(),
            share: None,
            shards,
            on_slot_loss: match text("postgres.on_slot_loss").as_str() {
                "halt" => OnSlotLoss::Halt,
                _ => OnSlotLoss::CatchUp,
            },
            is_failover: values.flag("postgres.failover"),
            application_name: self.application_name(&url, &text("postgres.slot")),
            wal_sender_timeout: values.span("postgres.wal_sender_timeout"),
            connect_timeout: match url.connect_timeout {
                Some(timeout) if !values.is_set("postgres.connect_timeout") => {
                    let text = super::kind::span(timeout);
                    self.shown.set("postgres.connect_timeout", text, values.origin(URL));
                    timeout
                }
                _ => self.connect_timeout(),
            },
            check_interval: values.span("postgres.check_interval"),
            renewal: Renewal::default(),
        }
    }

    fn connect_timeout(&mut self) -> Duration {
        let (key, name) = ("postgres.connect_timeout", "PGCONNECT_TIMEOUT");
        let said = self.env.filled(name, self.problems).filter(|_| !self.values.is_set(key));
        match said.map(seconds) {
            None => {}
            Some(Ok(timeout)) => {
                self.shown.set(key, super::kind::span(timeout), name);
                return timeout;
            }
            Some(Err(Wrong { what, hint })) => self.problems.add(name, "", what, hint),
        }
        self.values.span(key)
    }

    /// Variables that psql would heed, and that would change something here. Those that only fill in what
    /// is missing are none where nothing is.
    fn libpqs_own(&mut self, url: &PostgresUrl, audit: &Server) {
        let is_whole = url.host.is_some() && url.user.is_some() && url.database.is_some();
        let has_password = !audit.password.expose().is_empty();
        for (name, parameter) in VARIABLES {
            let is_filler = match parameter {
                "service" | "servicefile" => is_whole,
                "passfile" => has_password,
                // A service brings it, and psql takes none otherwise.
                "hostaddr" => url.host.is_some(),
                _ => false,
            };
            let Some(value) = self.env.filled(name, self.problems).filter(|_| !is_filler) else {
                continue;
            };
            if let Err(Wrong { what, hint }) = variable(parameter, value) {
                self.problems.add(name, "", what, hint);
            }
        }
    }

    /// Distinct from any standby's: `synchronous_standby_names` goes by it.
    fn application_name(&mut self, url: &PostgresUrl, slot: &str) -> String {
        let key = "postgres.application_name";
        let said = self.url_or_setting(key, url.application_name.as_ref());
        said.or_else(|| self.values.text(key))
            .or_else(|| self.variable(key, "PGAPPNAME"))
            .unwrap_or_else(|| {
                let name = application_name(slot);
                self.shown.set(key, name.clone(), "default");
                name
            })
    }

    /// What a variable of libpq's says, where neither a setting nor the URL does.
    fn variable(&mut self, key: &str, name: &str) -> Option<String> {
        let said = self.env.filled(name, self.problems).filter(|said| said.len() <= 63)?;
        self.shown.set(key, said.to_owned(), name);
        Some(said.to_owned())
    }

    /// What the URL says, where no setting of its own does.
    fn url_or_setting(&mut self, key: &str, said: Option<&String>) -> Option<String> {
        let said = said.filter(|_| !self.values.is_set(key))?;
        self.shown.set(key, said.clone(), self.values.origin(URL));
        Some(said.clone())
    }

    fn audit(&mut self, url: &PostgresUrl, is_needed: bool) -> Server {
        let has_url = self.values.is_set(URL) || self.values.is_bad(URL);
        let mut origins: Vec<String> = Vec::new();
        if self.values.is_set(URL) {
            origins.push(self.values.origin(URL).to_string());
        }
        let mut fill = |given: &Option<String>, name: &str, problems: &mut Problems| {
            given.clone().or_else(|| {
                let text = self.env.filled(name, problems)?;
                origins.push(name.to_owned());
                Some(text.to_owned())
            })
        };
        let host = fill(&url.host, "PGHOST", self.problems);
        let user = fill(&url.user, "PGUSER", self.problems);
        let database = fill(&url.database, "PGDATABASE", self.problems);
        let port_text = fill(&url.port, "PGPORT", self.problems).unwrap_or_default();
        let is_known = has_url || host.is_some() || user.is_some() || database.is_some();
        if is_needed && !is_known {
            let hint = "export DATABASE_URL=postgres://user:password@host/database, or give \
                --database-url, or set postgres.url in the file";
            self.problems.add("", URL, "is not set: where is the outbox?", hint);
        }
        let user = fill(&user, "USER", self.problems);
        if is_needed && is_known && user.is_none() && !self.values.is_bad(URL) {
            let hint = "write postgres://user@…, or set PGUSER";
            self.problems.add("", URL, "no role is named", hint);
        }
        let user = user.unwrap_or_default();
        let host = host.unwrap_or_default();
        // Of a URL that names both it has been said.
        let (first, others) = hosts(&host, &port_text).unwrap_or_else(|Wrong { what, hint }| {
            let hint = if hint.is_empty() { "write PGPORT=5432".to_owned() } else { hint };
            self.problems.add("PGPORT", "", what, hint);
            (Host::local(), Vec::new())
        });
        let (password, password_place) = self.password(url);
        let server = Server {
            password,
            password_place,
            tls: self.tls((&first, &others), &PostgresUrl::default(), url),
            database: database.unwrap_or_else(|| user.clone()),
            host: first.name,
            port: first.port,
            others,
            user,
        };
        if is_known && !self.values.is_bad(URL) {
            self.shown.set(URL, shown_url(&server), origins.join(", "));
            let mode = mode_name(server.tls.mode);
            if !self.values.is_set("postgres.sslmode") {
                let origin = match (url.mode, self.env.filled("PGSSLMODE", self.problems)) {
                    (Some(_), _) => self.values.origin(URL).to_string(),
                    (None, Some(_)) => "PGSSLMODE".to_owned(),
                    (None, None) => "default".to_owned(),
                };
                self.shown.set("postgres.sslmode", mode, origin);
            }
        }
        server
    }

    fn password(&mut self, url: &PostgresUrl) -> (Secret, Place) {
        for (key, given) in [
            ("postgres.password", self.values.text("postgres.password")),
            (URL, url.password.clone()),
        ] {
            if let Some(password) = given {
                return (Secret::new(password), self.values.place(key));
            }
        }
        let variable = |name: &str, file| Place { name: name.to_owned(), file };
        if let Some(password) = self.env.filled("PGPASSWORD", self.problems) {
            return (Secret::new(password), variable("PGPASSWORD", None));
        }
        let Some(path) = self.env.filled("PGPASSWORD_FILE", self.problems) else {
            // Where one would be expected.
            let place = match self.values.is_set(URL) {
                true => self.values.place(URL),
                false => variable("DATABASE_URL", None),
            };
            return (Secret::default(), place);
        };
        let path = PathBuf::from(path);
        match secret_file(&path) {
            Ok(password) => (Secret::new(password), variable("PGPASSWORD_FILE", Some(path))),
            Err(what) => {
                self.problems.add("PGPASSWORD_FILE", "", what, "name a readable text file");
                (Secret::default(), variable("PGPASSWORD_FILE", None))
            }
        }
    }

    fn stream(&mut self, url: &PostgresUrl, audit: &Server) -> Server {
        let own = self.values.postgres_url(STREAM_URL).unwrap_or_default();
        let user = own.user.clone().unwrap_or_else(|| audit.user.clone());
        let given = self.values.text("postgres.stream_password");
        let (password, password_place) = match (given, own.password.clone()) {
            (Some(password), _) => {
                (Secret::new(password), self.values.place("postgres.stream_password"))
            }
            (None, Some(password)) => (Secret::new(password), self.values.place(STREAM_URL)),
            (None, None) if user == audit.user => {
                (audit.password.clone(), audit.password_place.clone())
            }
            // One role's password is not another's to try.
            (None, None) => (Secret::default(), self.values.place(STREAM_URL)),
        };
        let (first, others) = self.stream_hosts(&own, audit);
        let server = Server {
            tls: self.tls((&first, &others), &own, url),
            host: first.name,
            port: first.port,
            others,
            user,
            password,
            password_place,
            database: own.database.clone().unwrap_or_else(|| audit.database.clone()),
        };
        let is_sound = self.values.is_set(STREAM_URL) && !self.values.is_bad(URL);
        if is_sound {
            let origin = self.values.origin(STREAM_URL);
            if server.database != audit.database {
                let what = format!(
                    "names database {:?}, postgres.url {:?}",
                    server.database, audit.database
                );
                self.problems.add(&origin, STREAM_URL, what, "name the same database in both");
            }
            self.shown.set(STREAM_URL, shown_url(&server), origin);
        }
        server
    }

    /// What the stream's URL leaves out of hosts and ports is as in `postgres.url`.
    fn stream_hosts(&mut self, own: &PostgresUrl, audit: &Server) -> (Host, Vec<Host>) {
        let list = |texts: Vec<String>| texts.join(",");
        let names =
            own.host.clone().unwrap_or_else(|| list(audit.hosts().map(|it| it.name).collect()));
        let ports = own.port.clone().unwrap_or_else(|| {
            let ports: Vec<u16> = audit.hosts().map(|it| it.port).collect();
            match ports.iter().all(|port| *port == audit.port) {
                true => audit.port.to_string(),
                false => list(ports.iter().map(u16::to_string).collect()),
            }
        });
        hosts(&names, &ports).unwrap_or_else(|Wrong { what, hint }| {
            self.problems.add(self.values.origin(STREAM_URL), STREAM_URL, what, hint);
            (Host::local(), Vec::new())
        })
    }

    /// TLS of one connection. `own` are the stream's parameters, which beat the settings;
    /// the settings beat `url`'s; `PG*` fill what is left.
    fn tls(
        &mut self,
        (first, others): (&Host, &[Host]),
        own: &PostgresUrl,
        url: &PostgresUrl,
    ) -> Tls {
        let mode = self.mode(own, url);
        let files = Files {
            ca: self.file("ca_file", "sslrootcert", "PGSSLROOTCERT", [&own.ca_file, &url.ca_file]),
            cert: self.file("cert_file", "sslcert", "PGSSLCERT", [&own.cert_file, &url.cert_file]),
            key: self.file("key_file", "sslkey", "PGSSLKEY", [&own.key_file, &url.key_file]),
        };
        let is_filler = |origin: &ValueOrigin| matches!(origin, ValueOrigin::SharedEnv(name) if name.starts_with("PGSSL"));
        if first.is_socket() && others.iter().all(Host::is_socket) {
            // libpq ignores the variables for a socket; what was written for this server is
            // taken at its word.
            if let Some(mode) =
                mode.filter(|m| m.value != TlsMode::Disable && !is_filler(&m.origin))
            {
                let what = "asks for TLS, which a unix socket does not speak";
                self.problems.add(&mode.origin, &mode.name, what, "choose disable, or a host name");
            }
            return Tls::default();
        }
        let asked = mode.as_ref().map(|mode| mode.value);
        let implied = files.all().next().map(|_| TlsMode::VerifyFull);
        let mode_value = asked.or(implied).unwrap_or_default();
        if mode_value == TlsMode::Disable {
            for file in files.all().filter(|file| !is_filler(&file.origin)) {
                let what = "is set, but sslmode is disable";
                self.problems.add(
                    &file.origin,
                    &file.name,
                    what,
                    "choose verify-full, or take the file away",
                );
            }
            return Tls::default();
        }
        if let (TlsMode::Require, Some(ca)) = (mode_value, &files.ca) {
            let what = "is set, but sslmode require verifies nothing";
            self.problems.add(&ca.origin, &ca.name, what, "choose verify-full");
        }
        files.check(self.problems);
        let content = files.content();
        let path = |file: Option<NamedValue<PathBuf>>| file.map(|file| file.value);
        Tls {
            mode: mode_value,
            ca_file: path(files.ca),
            cert_file: path(files.cert),
            key_file: path(files.key),
            content,
        }
    }

    fn mode(&mut self, own: &PostgresUrl, url: &PostgresUrl) -> Option<NamedValue<TlsMode>> {
        let given = |value, origin, name: &str| NamedValue { value, origin, name: name.to_owned() };
        if let Some(mode) = own.mode {
            return Some(given(mode, self.values.origin(STREAM_URL), STREAM_URL));
        }
        let key = "postgres.sslmode";
        if let Some(mode) = self.values.ssl_mode(key) {
            return Some(given(mode, self.values.origin(key), key));
        }
        if let Some(mode) = url.mode {
            return Some(given(mode, self.values.origin(URL), URL));
        }
        let is_system = self.env.filled("PGSSLROOTCERT", self.problems) == Some(SYSTEM);
        let text =
            self.env.filled("PGSSLMODE", self.problems).or(is_system.then_some("verify-full"))?;
        match ssl_mode(text) {
            Ok(mode) => Some(given(mode, ValueOrigin::SharedEnv("PGSSLMODE".to_owned()), "")),
            Err(Wrong { what, hint }) => {
                self.problems.add("PGSSLMODE", "", what, hint);
                None
            }
        }
    }

    fn file(
        &mut self,
        name: &str,
        parameter: &str,
        env: &str,
        [own, url]: [&Option<String>; 2],
    ) -> Option<NamedValue<PathBuf>> {
        let given = |path: &str, origin: ValueOrigin, name: String| NamedValue {
            value: origin.resolve(path),
            origin,
            name,
        };
        let of_url = |path: &str, key: &str| {
            let name = format!("{key}, {parameter}");
            given(path, self.values.origin(key), name)
        };
        if let Some(path) = own {
            return Some(of_url(path, STREAM_URL));
        }
        let key = format!("postgres.{name}");
        if let Some(path) = self.values.text(&key) {
            return Some(given(&path, self.values.origin(&key), key));
        }
        if let Some(path) = url {
            return Some(of_url(path, URL));
        }
        let path = self.env.filled(env, self.problems)?;
        if env == "PGSSLROOTCERT" && path == SYSTEM {
            return None;
        }
        Some(given(path, ValueOrigin::SharedEnv(env.to_owned()), String::new()))
    }
}

/// A mode's word.
pub(crate) fn mode_name(mode: TlsMode) -> &'static str {
    match mode {
        TlsMode::Disable => "disable",
        TlsMode::Require => "require",
        TlsMode::VerifyCa => "verify-ca",
        TlsMode::VerifyFull => "verify-full",
    }
}

/// A connection as a URL, its password masked.
fn shown_url(server: &Server) -> String {
    let login = match server.password.expose() {
        "" => encode(&server.user),
        _ => format!("{}:***", encode(&server.user)),
    };
    let database = encode(&server.database);
    let mode = mode_name(server.tls.mode);
    let list = |text: fn(Host) -> String| server.hosts().map(text).collect::<Vec<_>>().join(",");
    if server.hosts().any(|host| host.is_socket()) {
        let (names, ports) = (list(|host| host.name), list(|host| host.port.to_string()));
        // A socket speaks no TLS.
        let mode = match server.hosts().all(|host| host.is_socket()) {
            true => String::new(),
            false => format!("&sslmode={mode}"),
        };
        return format!("postgres://{login}@/{database}?host={names}&port={ports}{mode}");
    }
    let hosts = list(|Host { name, port }| match name.contains(':') {
        true => format!("[{name}]:{port}"),
        false => format!("{name}:{port}"),
    });
    format!("postgres://{login}@{hosts}/{database}?sslmode={mode}")
}
