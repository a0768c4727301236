//! Postgres and AMQP URLs.

use std::time::Duration;

use super::super::TlsMode;
use super::*;

fn server(url: &str) -> super::super::Server {
    Try::both().env(&[("DATABASE_URL", url), ("USER", "me")]).load().postgres.audit
}

#[test]
fn postgres_urls() {
    for (url, host, port, user, password, database) in [
        ("postgres://u:p@h:6000/d", "h", 6000, "u", "p", "d"),
        ("postgresql://u@h/d", "h", 5432, "u", "", "d"),
        ("postgres://h", "h", 5432, "me", "", "me"),
        ("postgres://u@h", "h", 5432, "u", "", "u"),
        ("postgres:///d", "localhost", 5432, "me", "", "d"),
        ("postgres://u@/d", "localhost", 5432, "u", "", "d"),
        ("postgres://:6000/d", "localhost", 6000, "me", "", "d"),
        ("postgres://u@[::1]:6000/d", "::1", 6000, "u", "", "d"),
        ("postgres://u%40x:p%2F%25w@h/a%20b", "h", 5432, "u@x", "p/%w", "a b"),
        ("postgres://u@%2Frun%2Fpg/d", "/run/pg", 5432, "u", "", "d"),
        ("postgres://u@/d?host=/run/pg&port=6000", "/run/pg", 6000, "u", "", "d"),
        ("postgres://h/?user=u&password=p&dbname=d", "h", 5432, "u", "p", "d"),
    ] {
        let server = server(url);
        assert_eq!((&*server.host, server.port), (host, port), "{url}");
        assert_eq!((&*server.user, server.password.expose()), (user, password), "{url}");
        assert_eq!(server.database, database, "{url}");
        assert_eq!(server.tls.mode, TlsMode::Disable, "{url}");
    }
}

/// As libpq pairs them: what psql reaches by a text, a relay reaches by it.
#[test]
fn several_hosts() {
    let tried = |url: &str, ports: &str| {
        let tried = Try::both().env(&[("DATABASE_URL", url), ("USER", "me"), ("PGPORT", ports)]);
        let audit = tried.load().postgres.audit;
        audit
            .hosts()
            .map(|host| format!("{}:{}", host.name, host.port))
            .collect::<Vec<_>>()
            .join(" ")
    };
    for (url, ports, hosts) in [
        ("postgres://a,b/d", "", "a:5432 b:5432"),
        ("postgres://u:p@a:1,b:2/d", "", "a:1 b:2"),
        ("postgres://a,b:2/d", "9", "a:5432 b:2"),
        ("postgres://a:1,b/d", "9", "a:1 b:5432"),
        ("postgres://a,b/d", "7", "a:7 b:7"),
        ("postgres://a,b/d", "7,8", "a:7 b:8"),
        ("postgres://a,b/d?port=7", "", "a:7 b:7"),
        ("postgres:///d?host=a,b&port=7,", "", "a:7 b:5432"),
        ("postgres:///d?host=/run/pg,b", "", "/run/pg:5432 b:5432"),
        ("postgres://[::1]:1,[::2]/d", "", "::1:1 ::2:5432"),
        ("postgres://u@a:1,/d", "", "a:1 localhost:5432"),
    ] {
        assert_eq!(tried(url, ports), hosts, "{url} {ports}");
    }
    let postgres = |env: &[(&str, &str)]| Try::both().env(env).load().postgres;
    let variables =
        [("PGHOST", "a,b"), ("PGPORT", "1,2"), ("PGUSER", "u"), ("DATABASE_URL", "postgres:///d")];
    let of_variables = postgres(&variables);
    assert_eq!(crate::postgres::address(&of_variables.audit), "a:1,b:2/d");
    // The stream's, where its URL leaves them out.
    let stream = |own: &str| {
        let env =
            [("DATABASE_URL", "postgres://u@a:1,b:2/d"), ("PGOUTBOX_POSTGRES__STREAM_URL", own)];
        crate::postgres::address(&postgres(&env).stream)
    };
    assert_eq!(stream("postgres://s:p@/d"), "a:1,b:2/d");
    assert_eq!(stream("postgres://s:p@c,d/d"), "c:1,d:2/d");
    assert_eq!(stream("postgres://s:p@c:9/d"), "c:9/d");
    let differ = [("DATABASE_URL", "postgres://u@a,b/d"), ("PGPORT", "1,2,3")];
    assert!(Try::both().env(&differ).fault().contains("PGPORT: names 2 hosts and 3 ports"));
}

#[test]
fn postgres_parameters() {
    let url = "postgres://u@h/d?sslmode=require&application_name=shop&connect_timeout=7";
    let postgres = Try::both().env(&[("DATABASE_URL", url)]).load().postgres;
    assert_eq!(postgres.audit.tls.mode, TlsMode::Require);
    assert_eq!(postgres.application_name, "shop");
    assert_eq!(postgres.connect_timeout, Duration::from_secs(7));
    // Settings of their own beat the URL's.
    let postgres = Try::both()
        .env(&[("DATABASE_URL", url)])
        .set("postgres.connect_timeout=8s")
        .set("postgres.sslmode=verify-full")
        .set("postgres.application_name=mine")
        .load()
        .postgres;
    assert_eq!(postgres.connect_timeout, Duration::from_secs(8));
    assert_eq!(postgres.audit.tls.mode, TlsMode::VerifyFull);
    assert_eq!(postgres.application_name, "mine");
    assert_eq!(server("postgres://u@h/d?sslrootcert=system").tls.mode, TlsMode::VerifyFull);
}

#[test]
fn wrong_postgres_urls() {
    for (url, what) in [
        ("h/d", "has no `://`"),
        ("mysql://h/d", "is not a postgres:// URL"),
        ("postgres://h:0/d", "percent-encoded"),
        ("postgres://h:70000/d", "percent-encoded"),
        ("postgres://::1/d", "must stand in `[`"),
        ("postgres://[::1/d", "has no `]`"),
        ("postgres://a,b/d?port=1,2,3", "names 2 hosts and 3 ports"),
        ("postgres://u:p@a:1,b:2/d?host=c", "names 1 hosts and 2 ports"),
        ("postgres://a,b:0/d", "percent-encoded"),
        ("postgres://a,b/d?port=1,x", "1 to 65535"),
        ("host=a,b dbname=d", "list of key=value pairs"),
        ("postgres://h/d/e", "after the database"),
        ("postgres://h/d?sslmode=prefer", "falls back to plain text"),
        ("postgres://h/d?sslmode=allow", "falls back to plain text"),
        (
            "postgres://h/d?channel_binding=require",
            "`channel_binding` with a value that cannot be honoured: the replication connection has none",
        ),
        ("postgres://h/d?connect_timeout=0", "1 to 300 seconds"),
        ("postgres://h/d?sslmode", "percent-encoded"),
        ("postgres://u:p#w@h/d", "percent-encoded"),
        ("postgres://u:%zz@h/d", "percent-encoded"),
        ("postgres://u:%ff@h/d", "UTF-8"),
        ("postgres://u:%00@h/d", "NUL"),
        ("postgres://u:p w@h/d", "space"),
    ] {
        let fault = Try::both().env(&[("DATABASE_URL", url)]).fault();
        assert!(fault.contains("DATABASE_URL: postgres.url: "), "{url}: {fault}");
        assert!(fault.contains(what), "{url}: {fault}");
        assert!(fault.starts_with("a setting is wrong"), "{url}: {fault}");
    }
}

/// Parameters of libpq's, each with a value that is taken and one that is refused.
const LIBPQS: [(&str, &str, &str); 38] = [
    ("hostaddr", "", "10.0.0.1"),
    ("passfile", "", "/root/.pgpass"),
    ("service", "", "shop"),
    ("servicefile", "", "/etc/pg_service.conf"),
    ("options", "", "-c%20search_path=x"),
    ("channel_binding", "prefer", "require"),
    ("require_auth", "", "scram-sha-256"),
    ("requirepeer", "", "postgres"),
    ("target_session_attrs", "read-write", "standby"),
    ("load_balance_hosts", "random", "x"),
    ("sslnegotiation", "postgres", "direct"),
    ("sslcertmode", "allow", "require"),
    ("sslcompression", "0", "1"),
    ("sslcrl", "", "crl.pem"),
    ("sslcrldir", "", "crl"),
    ("sslsni", "1", "0"),
    ("ssl_min_protocol_version", "TLSv1.2", "TLSv1.3"),
    ("ssl_max_protocol_version", "TLSv1.3", "TLSv1.2"),
    ("requiressl", "0", "1"),
    ("gssencmode", "prefer", "require"),
    ("krbsrvname", "postgres", ""),
    ("gsslib", "gssapi", ""),
    ("gssdelegation", "0", ""),
    ("min_protocol_version", "3.0", "3.2"),
    ("max_protocol_version", "latest", "3.2"),
    ("client_encoding", "auto", "latin1"),
    ("sslpassword", "", "secret"),
    ("keepalives", "1", "0"),
    ("keepalives_idle", "10", "x"),
    ("keepalives_interval", "10", "x"),
    ("keepalives_count", "3", "x"),
    ("tcp_user_timeout", "0", "x"),
    ("fallback_application_name", "x", ""),
    ("replication", "", "database"),
    ("application_name", "shop", ""),
    ("connect_timeout", "5", "0"),
    ("sslrootcert", "system", ""),
    ("sslmode", "verify-full", "prefer"),
];

/// Every parameter of libpq's of Postgres 18: taken, or refused with its own reason; and so as a
/// variable.
#[test]
fn what_libpq_knows_is_understood_or_refused_by_name() {
    for (parameter, taken, refused) in LIBPQS {
        // Neither whole nor with a password: what fills in counts.
        let own = |value: &str| format!("postgres:///d?{parameter}={value}");
        let variable = super::super::postgres_url::VARIABLES;
        let variable = variable.iter().find(|(_, stands_for)| *stands_for == parameter);
        let of_env = |value: &str| {
            let value = value.replace("%20", " ");
            variable.map(|(name, _)| {
                Try::both().env(&[
                    ("DATABASE_URL", "postgres:///d"),
                    ("USER", "me"),
                    (name, &value),
                ])
            })
        };
        if !taken.is_empty() {
            Try::both().env(&[("DATABASE_URL", &own(taken)), ("USER", "me")]).load();
            if let Some(tried) = of_env(taken) {
                tried.load();
            }
        }
        if !refused.is_empty() {
            let fault = Try::both().env(&[("DATABASE_URL", &own(refused)), ("USER", "me")]).fault();
            assert!(
                fault.contains(parameter) || fault.contains("falls back"),
                "{parameter}: {fault}"
            );
            assert!(!fault.contains("does not know"), "{parameter}: {fault}");
            if let (Some(tried), Some((name, _))) = (of_env(refused), variable) {
                let fault = tried.fault();
                assert!(
                    fault.contains(&format!("{name}: is set, and cannot be honoured: ")),
                    "{parameter}: {fault}"
                );
            }
        }
    }
    // What nothing is missing for fills nothing in.
    for (name, value) in [("PGSERVICE", "shop"), ("PGPASSFILE", "/x"), ("PGHOSTADDR", "10.0.0.1")] {
        Try::both().env(&[("DATABASE_URL", "postgres://u:p@h/d"), (name, value)]).load();
    }
    let named =
        |pair| Try::both().env(&[("DATABASE_URL", "postgres://u@h/d"), pair]).load().postgres;
    assert_eq!(named(("PGAPPNAME", "shop")).application_name, "shop");
    assert_eq!(named(("PGCONNECT_TIMEOUT", "9")).connect_timeout, Duration::from_secs(9));
    assert_eq!(named(("PGSSLROOTCERT", "system")).audit.tls.mode, TlsMode::VerifyFull);
}

fn broker(url: &str) -> super::super::Broker {
    Try::both().env(&[("AMQP_URL", url)]).load().amqp.brokers.remove(0)
}

#[test]
fn amqp_urls() {
    for (url, host, port, user, password, vhost) in [
        ("amqp://h", "h", 5672, "guest", "guest", "/"),
        ("amqp://h/", "h", 5672, "guest", "guest", "/"),
        ("amqp://h//", "h", 5672, "guest", "guest", "/"),
        ("amqp://h/%2f", "h", 5672, "guest", "guest", "/"),
        ("amqp://h/%2Fa", "h", 5672, "guest", "guest", "/a"),
        ("amqp://u:p@h:1/v", "h", 1, "u", "p", "v"),
        ("amqp://u@h/v", "h", 5672, "u", "", "v"),
        ("amqps://u:p%40w@h/v%20w", "h", 5671, "u", "p@w", "v w"),
        ("AMQP://127.0.0.1", "127.0.0.1", 5672, "guest", "guest", "/"),
    ] {
        let broker = broker(url);
        assert_eq!((&*broker.host, broker.port, &*broker.vhost), (host, port, vhost), "{url}");
        assert_eq!((&*broker.user, broker.password.expose()), (user, password), "{url}");
        let mode = if url.starts_with("amqps") { TlsMode::VerifyFull } else { TlsMode::Disable };
        assert_eq!(broker.tls.mode, mode, "{url}");
    }
}

#[test]
fn several_brokers() {
    let tried = Try::both().env(&[("AMQP_URL", "amqp://u:a,b@one/v, amqps://two,")]);
    let brokers = tried.load().amqp.brokers;
    let hosts: Vec<&str> = brokers.iter().map(|broker| &*broker.host).collect();
    assert_eq!(hosts, ["one", "two"]);
    assert_eq!(brokers[0].password.expose(), "a,b");
    let listed =
        Try::both().file("[amqp]\nurl = [\"amqp://one\", \"amqp://two\"]\npassword = \"same\"\n");
    let brokers = listed.load().amqp.brokers;
    assert_eq!(brokers.len(), 2);
    assert!(brokers.iter().all(|broker| broker.password.expose() == "same"));
}

#[test]
fn amqp_parameters() {
    let url = "amqp://h?heartbeat=5&connection_timeout=2500&auth_mechanism=plain";
    let amqp = Try::both().env(&[("AMQP_URL", url)]).load().amqp;
    assert_eq!(amqp.heartbeat, Duration::from_secs(5));
    assert_eq!(amqp.connect_timeout, Duration::from_millis(2500));
    assert!(!amqp.brokers[0].is_external);
    let amqp = Try::both().env(&[("AMQP_URL", url)]).set("amqp.heartbeat=6s").load().amqp;
    assert_eq!(amqp.heartbeat, Duration::from_secs(6));
}

#[test]
fn wrong_amqp_urls() {
    for (url, what) in [
        ("h", "has no `://`"),
        ("http://h", "is not an amqp:// or amqps:// URL"),
        ("amqp://", "names no host"),
        ("amqp:///v", "names no host"),
        ("amqp://[2001:db8::5]/v", "IPv6"),
        ("amqp://h/v/", "inside the virtual host"),
        ("amqp://h/a/b", "inside the virtual host"),
        ("amqp://a,b/v", "write each broker as a whole URL"),
        ("amqp://h?heartbeat=0", "heartbeat is not"),
        ("amqp://h?connection_timeout=1", "connection_timeout is not"),
        ("amqp://h?auth_mechanism=anonymous", "auth_mechanism is not"),
        ("amqp://h?cacertfile=x", "set amqp.ca_file"),
        ("amqp://h?frame_max=1", "`frame_max`, which pgoutbox does not know"),
        ("amqp://u:p/w@h", "percent-encoded"),
        ("amqp://u:p@w@h", "percent-encoded"),
    ] {
        let fault = Try::both().env(&[("AMQP_URL", url)]).fault();
        assert!(fault.contains("AMQP_URL: amqp.url: "), "{url}: {fault}");
        assert!(fault.contains(what), "{url}: {fault}");
        assert!(fault.starts_with("a setting is wrong"), "{url}: {fault}");
    }
}

/// Read to the letter these have the password's end for a database, a virtual host, a host or
/// a key, all of which are shown.
#[test]
fn an_unescaped_password_is_not_taken_for_a_name() {
    for login in ["u:12/S3CRET", "u:12?host=S3CRET", "u:12?S3CRET=1", "u:@S3CRET", "u#S3CRET"] {
        for (name, scheme) in [("DATABASE_URL", "postgres"), ("AMQP_URL", "amqp")] {
            let fault = Try::both().env(&[(name, &format!("{scheme}://{login}@h/n"))]).fault();
            assert!(fault.contains("percent-encoded"), "{login}: {fault}");
            assert!(!fault.contains("S3CRET"), "{login}: {fault}");
        }
    }
}

/// As services hand them out.
#[test]
fn parameters_of_libpq_that_change_nothing_are_taken() {
    for query in [
        "sslmode=require&channel_binding=prefer",
        "target_session_attrs=read-write&gssencmode=disable&sslsni=1",
        "target_session_attrs=primary&load_balance_hosts=random",
        "keepalives=1&keepalives_idle=30&keepalives_interval=10&keepalives_count=3&tcp_user_timeout=0",
        "sslnegotiation=postgres&sslcertmode=allow&sslcompression=0",
        "ssl_min_protocol_version=TLSv1.2&client_encoding=UTF8&fallback_application_name=psql",
    ] {
        let url = format!("postgres://u@h/d?{query}");
        assert!(crate::config::postgres_url::PostgresUrl::parse(&url).is_ok(), "{query}");
    }
}

/// Each with the reason of this very parameter, and never passed over.
#[test]
fn parameters_of_libpq_that_cannot_be_honoured_are_refused_with_their_reason() {
    for (query, why) in [
        ("channel_binding=require", "the replication connection has none"),
        ("target_session_attrs=standby", "the primary's slot"),
        ("target_session_attrs=prefer-standby", "the primary's slot"),
        ("sslnegotiation=direct", "Postgres' own way"),
        ("gssencmode=require", "GSSAPI"),
        ("sslsni=0", "always sent"),
        ("sslcertmode=require", "client certificate"),
        ("ssl_min_protocol_version=TLSv1.3", "TLS 1.2 and 1.3"),
        ("keepalives=0", "dead server"),
        ("keepalives_idle=x", "not a number"),
        ("load_balance_hosts=x", "neither disable nor random"),
        ("client_encoding=latin1", "UTF-8"),
        ("options=-csearch_path%3Dx", "sets what its connections need"),
        ("hostaddr=10.0.0.1", "looked up"),
        ("passfile=/x", "files of libpq's"),
        ("service=x", "files of libpq's"),
        ("sslcrl=/x", "revoked"),
        ("sslpassword=x", "keys with a password"),
        ("require_auth=scram-sha-256", "cannot be promised"),
        ("replication=database", "pgoutbox's to say"),
        ("nonsense=1", "does not know"),
    ] {
        let url = format!("postgres://u@h/d?{query}");
        let wrong = crate::config::postgres_url::PostgresUrl::parse(&url).expect_err(query);
        let said = wrong.what.as_str();
        assert!(said.contains(why), "{query}: {said}");
        assert!(!wrong.hint.is_empty(), "{query}");
    }
}
