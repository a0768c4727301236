//! The tables: those that work in every mode, and those that are refused by name.
//!
//! In their SQL `{t}` is the table, `{n}` the number of a row, `{c}` and `{v}` the usual columns and
//! their values, `{rest}` the usual columns with their types.

/// A table that works.
#[derive(Clone)]
pub struct Case {
    /// What it is about; the `app_id` of its messages, and the id of its one aggregate.
    pub name: &'static str,
    pub schema: &'static str,
    pub table: &'static str,
    /// Of `[[tables]]`.
    pub set: &'static [(&'static str, &'static str)],
    pub ddl: &'static str,
    /// Inserts one row.
    pub insert: &'static str,
    /// The id of its message.
    pub id: &'static str,
    /// The body of its message.
    pub body: &'static str,
}

const BODY: &str = r#"{"n": {n}}"#;
const INSERT: &str = "INSERT INTO {t} (id, {c}) VALUES ('{n}', {v})";

const fn case(name: &'static str, ddl: &'static str) -> Case {
    Case {
        name,
        schema: "public",
        table: name,
        set: &[],
        ddl,
        insert: INSERT,
        id: "{n}",
        body: BODY,
    }
}

/// Its id is of a type of its own.
const fn with_id(
    name: &'static str,
    ddl: &'static str,
    insert: &'static str,
    id: &'static str,
) -> Case {
    Case { insert, id, ..case(name, ddl) }
}

/// Its payload is of a type of its own.
const fn with_payload(
    name: &'static str,
    ddl: &'static str,
    insert: &'static str,
    body: &'static str,
) -> Case {
    Case { insert, body, ..case(name, ddl) }
}

pub fn works() -> Vec<Case> {
    [ids(), payloads(), fields(), marks(), names(), pieces(), beside()].concat()
}

/// What a marked row holds is of a kind of its own, where rows carry their marks.
const fn with_mark(
    name: &'static str,
    ddl: &'static str,
    set: &'static [(&'static str, &'static str)],
) -> Case {
    Case { set, ..case(name, ddl) }
}

fn marks() -> Vec<Case> {
    vec![
        with_mark(
            "mark_status",
            "CREATE TABLE {t} (id bigint PRIMARY KEY, occurred_at timestamptz DEFAULT now(),
                status text NOT NULL DEFAULT 'PENDING' CHECK (status IN ('PENDING', 'DELIVERED')), {rest})",
            &[("mark.status", "DELIVERED")],
        ),
        with_mark(
            "mark_status_and_time",
            "CREATE TABLE {t} (id bigint PRIMARY KEY, status varchar(20) DEFAULT 'Scheduled', sent timestamp, {rest})",
            &[("mark.status", "It's \"sent\""), ("mark.sent", "now()")],
        ),
        with_mark(
            "mark_smallint",
            "CREATE TABLE {t} (id bigint PRIMARY KEY, occurred_at bigint DEFAULT 1700000000000,
                published smallint DEFAULT 0, {rest}); CREATE INDEX ON {t} (published, id)",
            &[("mark.published", "1")],
        ),
        with_mark(
            "mark_boolean",
            "CREATE TABLE {t} (id bigint PRIMARY KEY, occurred_at timestamp DEFAULT now(),
                dispatched boolean NOT NULL DEFAULT false, {rest})",
            &[("mark.dispatched", "true")],
        ),
        with_mark(
            "mark_enum",
            "CREATE SCHEMA \"My-Marks\"; CREATE TYPE \"My-Marks\".\"A State\" AS ENUM ('new one', 'sent one');
             CREATE TABLE {t} (id bigint PRIMARY KEY, occurred_at timestamptz DEFAULT now(),
                \"the state\" \"My-Marks\".\"A State\" NOT NULL DEFAULT 'new one', {rest})",
            &[("mark.the state", "sent one")],
        ),
        with_mark(
            "mark_domain",
            "CREATE DOMAIN state_of AS text NOT NULL DEFAULT 'waits';
             CREATE TABLE {t} (id bigint PRIMARY KEY, occurred_at timestamptz DEFAULT now(), state state_of, {rest})",
            &[("mark.state", "went")],
        ),
        with_mark(
            "mark_char",
            "CREATE TABLE {t} (id bigint PRIMARY KEY, occurred_at timestamptz DEFAULT now(), state char(10) DEFAULT 'new', {rest})",
            &[("mark.state", "sent")],
        ),
        with_mark(
            "mark_of_a_partition",
            "CREATE TABLE {t} (id bigint, occurred_at timestamptz DEFAULT now(), state integer DEFAULT 0, {rest},
                PRIMARY KEY (id, occurred_at)) PARTITION BY RANGE (occurred_at);
             CREATE TABLE mark_of_a_partition_all PARTITION OF {t} FOR VALUES FROM ('2020-01-01') TO ('2099-01-01')",
            &[("mark.state", "7"), ("mark.relayed_at", "now()")],
        ),
    ]
}

fn ids() -> Vec<Case> {
    vec![
        case("id_bigint", "CREATE TABLE {t} (id bigint PRIMARY KEY, {rest})"),
        case("id_smallint", "CREATE TABLE {t} (id smallint PRIMARY KEY, {rest})"),
        with_id(
            "id_identity",
            "CREATE TABLE {t} (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, {rest})",
            "INSERT INTO {t} ({c}) VALUES ({v})",
            "{n}",
        ),
        case("id_text", "CREATE TABLE {t} (id text PRIMARY KEY, {rest})"),
        with_id(
            "id_odd",
            "CREATE TABLE {t} (id text PRIMARY KEY, {rest})",
            "INSERT INTO {t} (id, {c}) VALUES (E'a \"b\" ''c'' \\\\d %s {x} \u{fc}\u{20ac} $1 :\"x\"\\t{n}', {v})",
            "a \"b\" 'c' \\d %s {x} \u{fc}\u{20ac} $1 :\"x\"\t{n}",
        ),
        case("id_varchar", "CREATE TABLE {t} (id varchar(40) PRIMARY KEY, {rest})"),
        case("id_char", "CREATE TABLE {t} (id char(20) PRIMARY KEY, {rest})"),
        case(
            "id_domain_char",
            "CREATE DOMAIN code AS char(12); CREATE TABLE {t} (id code PRIMARY KEY, {rest})",
        ),
        with_id(
            "id_uuid",
            "CREATE TABLE {t} (id uuid PRIMARY KEY, {rest})",
            "INSERT INTO {t} (id, {c}) VALUES ('00000000-0000-0000-0000-00000000000{n}', {v})",
            "00000000-0000-0000-0000-00000000000{n}",
        ),
        with_id(
            "id_domain_uuid",
            "CREATE DOMAIN key AS uuid NOT NULL; CREATE DOMAIN key_of_key AS key;
             CREATE TABLE {t} (id key_of_key PRIMARY KEY, {rest})",
            "INSERT INTO {t} (id, {c}) VALUES ('00000000-0000-0000-0000-00000000000{n}', {v})",
            "00000000-0000-0000-0000-00000000000{n}",
        ),
        with_id(
            "id_numeric",
            "CREATE TABLE {t} (id numeric PRIMARY KEY, {rest})",
            "INSERT INTO {t} (id, {c}) VALUES (123456789012345678901234567890.{n}0, {v})",
            "123456789012345678901234567890.{n}0",
        ),
        with_id(
            "id_enum",
            "CREATE TYPE \"An Enum\" AS ENUM ('no 1', 'no 2', 'no 3', 'no 4', 'no 5', 'no 6');
             CREATE TABLE {t} (id \"An Enum\" PRIMARY KEY, {rest})",
            "INSERT INTO {t} (id, {c}) VALUES ('no {n}', {v})",
            "no {n}",
        ),
        with_id(
            "id_citext",
            "CREATE SCHEMA \"My-Types\"; CREATE EXTENSION citext SCHEMA \"My-Types\";
             CREATE TABLE {t} (id \"My-Types\".citext PRIMARY KEY, {rest})",
            "INSERT INTO {t} (id, {c}) VALUES ('No{n}', {v})",
            "No{n}",
        ),
        with_id(
            "id_ltree",
            "CREATE SCHEMA \"A \"\"Quoted\"\" One\"; CREATE EXTENSION ltree SCHEMA \"A \"\"Quoted\"\" One\";
             CREATE DOMAIN trail AS \"A \"\"Quoted\"\" One\".ltree;
             CREATE TABLE {t} (id trail PRIMARY KEY, {rest})",
            "INSERT INTO {t} (id, {c}) VALUES ('a.b.n{n}', {v})",
            "a.b.n{n}",
        ),
        case("id_name", "CREATE TABLE {t} (id name PRIMARY KEY, {rest})"),
        case("id_int", "CREATE TABLE {t} (id int PRIMARY KEY, {rest})"),
        case("id_char_any", "CREATE TABLE {t} (id bpchar PRIMARY KEY, {rest})"),
        with_id(
            "id_domain_enum",
            "CREATE TYPE level AS ENUM ('at 1', 'at 2', 'at 3', 'at 4', 'at 5', 'at 6'); CREATE DOMAIN rank AS level;
             CREATE TABLE {t} (id rank PRIMARY KEY, {rest})",
            "INSERT INTO {t} (id, {c}) VALUES ('at {n}', {v})",
            "at {n}",
        ),
        with_id(
            "id_domain_citext",
            "CREATE DOMAIN handle AS \"My-Types\".citext CHECK (VALUE <> ''); CREATE DOMAIN own_handle AS handle;
             CREATE TABLE {t} (id own_handle PRIMARY KEY, {rest})",
            "INSERT INTO {t} (id, {c}) VALUES ('No{n}', {v})",
            "No{n}",
        ),
        with_id(
            "id_domain_numeric",
            "CREATE DOMAIN amount AS numeric(20, 3); CREATE TABLE {t} (id amount PRIMARY KEY, {rest})",
            "INSERT INTO {t} (id, {c}) VALUES (-1234567890.{n}, {v})",
            "-1234567890.{n}00",
        ),
        with_id(
            "id_generated",
            "CREATE TABLE {t} (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), n bigint, {rest});
             CREATE FUNCTION numbered() RETURNS trigger LANGUAGE plpgsql AS
                 $$ BEGIN NEW.id := lpad(NEW.n::text, 32, '0'); RETURN NEW; END $$;
             CREATE TRIGGER numbers BEFORE INSERT ON {t} FOR EACH ROW EXECUTE FUNCTION numbered()",
            "INSERT INTO {t} (n, {c}) VALUES ({n}, {v})",
            "00000000-0000-0000-0000-00000000000{n}",
        ),
        case("id_collated", "CREATE TABLE {t} (id text COLLATE \"C\" PRIMARY KEY, {rest})"),
        with_id(
            "id_nondeterministic",
            "CREATE COLLATION nobodys_case (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
             CREATE TABLE {t} (id text COLLATE nobodys_case PRIMARY KEY, {rest})",
            "INSERT INTO {t} (id, {c}) VALUES ('No{n}', {v})",
            "No{n}",
        ),
        case("id_deferrable", "CREATE TABLE {t} (id bigint PRIMARY KEY DEFERRABLE INITIALLY DEFERRED, {rest})"),
        case("id_unique", "CREATE TABLE {t} (id bigint NOT NULL, {rest}); CREATE UNIQUE INDEX ON {t} (id)"),
        case("id_no_index", "CREATE TABLE {t} (id bigint NOT NULL, {rest})"),
    ]
}

fn payloads() -> Vec<Case> {
    vec![
        with_payload(
            "payload_bytea",
            "CREATE TABLE {t} (id int PRIMARY KEY, topic text, payload bytea, aggregate_type text, aggregate_id text, relayed_at timestamptz)",
            "INSERT INTO {t} (id, {c}) VALUES ({n}, '{topic}', '\\x0068ff{n}{n}', 'kind', '{name}')",
            "\\x0068ff{n}{n}",
        ),
        with_payload(
            "payload_domain_bytea",
            "CREATE DOMAIN bytes AS bytea CHECK (octet_length(VALUE) < 1000); CREATE DOMAIN more_bytes AS bytes;
             CREATE TABLE {t} (id int PRIMARY KEY, topic text, payload more_bytes, aggregate_type text, aggregate_id text, relayed_at timestamptz)",
            "INSERT INTO {t} (id, {c}) VALUES ({n}, '{topic}', '\\x0068ff{n}{n}', 'kind', '{name}')",
            "\\x0068ff{n}{n}",
        ),
        with_payload(
            "payload_domain_jsonb",
            "CREATE DOMAIN document AS jsonb;
             CREATE TABLE {t} (id int PRIMARY KEY, topic text, payload document, aggregate_type text, aggregate_id text, relayed_at timestamptz)",
            "INSERT INTO {t} (id, {c}) VALUES ({n}, {v})",
            BODY,
        ),
        with_payload(
            "payload_json",
            "CREATE TABLE {t} (id int PRIMARY KEY, topic text, payload json, aggregate_type text, aggregate_id text, relayed_at timestamptz)",
            "INSERT INTO {t} (id, {c}) VALUES ({n}, '{topic}', '{ \"n\" :{n}, \"n\":1e400 }', 'kind', '{name}')",
            "{ \"n\" :{n}, \"n\":1e400 }",
        ),
        with_payload(
            "payload_text",
            "CREATE DOMAIN words AS text;
             CREATE TABLE {t} (id int PRIMARY KEY, topic text, payload words, aggregate_type text, aggregate_id text, relayed_at timestamptz)",
            "INSERT INTO {t} (id, {c}) VALUES ({n}, '{topic}', '\\x{n} is text ', 'kind', '{name}')",
            "TEXT:\\x{n} is text ",
        ),
        with_payload(
            "payload_char",
            "CREATE TABLE {t} (id int PRIMARY KEY, topic text, payload char(8), aggregate_type text, aggregate_id text, relayed_at timestamptz)",
            "INSERT INTO {t} (id, {c}) VALUES ({n}, '{topic}', 'n {n}', 'kind', '{name}')",
            "n {n}     ",
        ),
        with_payload(
            "payload_xml",
            "CREATE TABLE {t} (id int PRIMARY KEY, topic text, payload xml, aggregate_type text, aggregate_id text, relayed_at timestamptz)",
            "INSERT INTO {t} (id, {c}) VALUES ({n}, '{topic}', '<n>{n}</n>', 'kind', '{name}')",
            "<n>{n}</n>",
        ),
        with_payload(
            "payload_hstore",
            "CREATE SCHEMA kept; CREATE EXTENSION hstore SCHEMA kept;
             CREATE TABLE {t} (id int PRIMARY KEY, topic text, payload kept.hstore, aggregate_type text, aggregate_id text, relayed_at timestamptz)",
            "INSERT INTO {t} (id, {c}) VALUES ({n}, '{topic}', 'n=>{n}', 'kind', '{name}')",
            "\"n\"=>\"{n}\"",
        ),
        with_payload(
            "payload_composite",
            "CREATE TYPE pair AS (a int, b text);
             CREATE TABLE {t} (id int PRIMARY KEY, topic text, payload pair, aggregate_type text, aggregate_id text, relayed_at timestamptz)",
            "INSERT INTO {t} (id, {c}) VALUES ({n}, '{topic}', ROW({n}, 'b c'), 'kind', '{name}')",
            "({n},\"b c\")",
        ),
        with_payload(
            "payload_enum",
            "CREATE TYPE news AS ENUM ('new 1', 'new 2', 'new 3', 'new 4', 'new 5', 'new 6');
             CREATE TABLE {t} (id int PRIMARY KEY, topic text, payload news, aggregate_type text, aggregate_id text, relayed_at timestamptz)",
            "INSERT INTO {t} (id, {c}) VALUES ({n}, '{topic}', 'new {n}', 'kind', '{name}')",
            "new {n}",
        ),
    ]
}

fn fields() -> Vec<Case> {
    vec![
        Case {
            insert: "INSERT INTO {t} (id, {c}, occurred_at, headers) VALUES ({n}, {v}, '2026-01-0{n} 12:00+02', '{\"a\": 1.5}')",
            ..case(
                "times_of_domains",
                "CREATE DOMAIN moment AS timestamptz; CREATE DOMAIN titles AS jsonb;
                 CREATE TABLE {t} (id int PRIMARY KEY, topic text, payload jsonb, aggregate_type text, aggregate_id text,
                     occurred_at moment, headers titles, relayed_at moment)",
            )
        },
        Case {
            insert: "INSERT INTO {t} (id, {c}, occurred_at) VALUES ({n}, {v}, 170000000000{n})",
            ..case(
                "times_as_numbers",
                "CREATE DOMAIN millis AS bigint;
                 CREATE TABLE {t} (id int PRIMARY KEY, topic text, payload jsonb, aggregate_type text, aggregate_id text,
                     occurred_at millis, relayed_at timestamp)",
            )
        },
        case(
            "fields_of_char",
            "CREATE TABLE {t} (id int PRIMARY KEY, topic char(30), payload jsonb, aggregate_type char(9),
                 aggregate_id char(40), relayed_at timestamptz)",
        ),
        case(
            "fields_of_domains",
            "CREATE DOMAIN label AS varchar(60); CREATE DOMAIN short_label AS label;
             CREATE TABLE {t} (id int PRIMARY KEY, topic short_label, payload jsonb, aggregate_type name,
                 aggregate_id short_label, relayed_at timestamptz)",
        ),
    ]
}

fn names() -> Vec<Case> {
    const LONG: &str = "a_name_of_sixty_three_bytes_which_is_the_most_that_postgres_has";
    vec![
        Case {
            schema: "Sch\"ema.X %s",
            table: "We\"ird 'tbl' :\"id\" %I",
            set: &[
                ("columns.id", "Event \"Id\""),
                ("columns.payload", "Pay(load"),
                ("columns.topic", "a.b"),
                ("columns.relayed_at", "re'layed :'at'"),
                ("columns.occurred_at", "when?"),
            ],
            ddl: "CREATE SCHEMA \"Sch\"\"ema.X %s\";
                 CREATE TABLE {t} (\"Event \"\"Id\"\"\" bigint PRIMARY KEY, \"a.b\" text, \"Pay(load\" jsonb,
                     aggregate_type text, aggregate_id text, \"when?\" timestamptz DEFAULT now(),
                     \"re'layed :'at'\" timestamptz)",
            insert: "INSERT INTO {t} (\"Event \"\"Id\"\"\", \"a.b\", \"Pay(load\", aggregate_type, aggregate_id) VALUES ({n}, {v})",
            ..case("names_odd", "")
        },
        Case {
            schema: "order",
            table: "select",
            set: &[
                ("columns.id", "table"),
                ("columns.payload", "from"),
                ("columns.topic", "user"),
                ("columns.relayed_at", "where"),
                ("columns.aggregate_id", "group"),
            ],
            ddl: "CREATE SCHEMA \"order\";
                 CREATE TABLE {t} (\"table\" uuid PRIMARY KEY, \"user\" text, \"from\" jsonb, aggregate_type text,
                     \"group\" text, \"where\" timestamptz)",
            insert: "INSERT INTO {t} (\"table\", \"user\", \"from\", aggregate_type, \"group\") VALUES ('00000000-0000-0000-0000-00000000000{n}', {v})",
            id: "00000000-0000-0000-0000-00000000000{n}",
            ..case("names_reserved", "")
        },
        Case {
            table: LONG,
            set: &[("columns.id", "an_id_of_sixty_three_bytes_which_is_the_most_that_postgres_has_")],
            ddl: "CREATE TABLE {t} (an_id_of_sixty_three_bytes_which_is_the_most_that_postgres_has_ bigint PRIMARY KEY, {rest})",
            insert: "INSERT INTO {t} (an_id_of_sixty_three_bytes_which_is_the_most_that_postgres_has_, {c}) VALUES ({n}, {v})",
            ..case("names_long", "")
        },
        Case {
            schema: "\u{dc}bersicht",
            table: "Ereignisse \u{20ac} \u{4e8b}\u{4ef6}",
            set: &[("columns.id", "n\u{fa}mero"), ("columns.relayed_at", "\u{1f422}")],
            ddl: "CREATE SCHEMA \"\u{dc}bersicht\";
                 CREATE TABLE {t} (\"n\u{fa}mero\" bigint PRIMARY KEY, topic text, payload jsonb, aggregate_type text,
                     aggregate_id text, \"\u{1f422}\" timestamptz)",
            insert: "INSERT INTO {t} (\"n\u{fa}mero\", {c}) VALUES ({n}, {v})",
            ..case("names_unicode", "")
        },
    ]
}

fn pieces() -> Vec<Case> {
    const KEYED: &str = "INSERT INTO {t} (id, k, {c}) VALUES ({n}, {n}, {v})";
    vec![
        Case {
            insert: KEYED,
            ..case(
                "parts_list",
                "CREATE TABLE {t} (id int, k int, {rest}, PRIMARY KEY (id, k)) PARTITION BY LIST (k);
                 CREATE TABLE parts_list_1 PARTITION OF {t} FOR VALUES IN (1, 3);
                 CREATE TABLE parts_list_rest PARTITION OF {t} DEFAULT",
            )
        },
        Case {
            insert: KEYED,
            ..case(
                "parts_hash",
                "CREATE TABLE {t} (id int, k int, {rest}, PRIMARY KEY (id)) PARTITION BY HASH (id);
                 CREATE TABLE parts_hash_0 PARTITION OF {t} FOR VALUES WITH (MODULUS 2, REMAINDER 0);
                 CREATE TABLE parts_hash_1 PARTITION OF {t} FOR VALUES WITH (MODULUS 2, REMAINDER 1)",
            )
        },
        Case {
            insert: KEYED,
            ..case(
                "parts_of_parts",
                "CREATE SCHEMA \"Leaves of \"\"it\"\"\";
                 CREATE TABLE {t} (id int, k int, {rest}, PRIMARY KEY (id, k)) PARTITION BY RANGE (k);
                 CREATE TABLE \"Leaves of \"\"it\"\"\".low PARTITION OF {t} FOR VALUES FROM (0) TO (4) PARTITION BY LIST (id);
                 CREATE TABLE \"Leaves of \"\"it\"\"\".\"low odd\" PARTITION OF \"Leaves of \"\"it\"\"\".low FOR VALUES IN (1, 3);
                 CREATE TABLE \"Leaves of \"\"it\"\"\".low_even PARTITION OF \"Leaves of \"\"it\"\"\".low DEFAULT;
                 CREATE TABLE parts_high (gone int, payload jsonb, k int NOT NULL, relayed_at timestamptz, aggregate_id text,
                     topic text, id int NOT NULL, aggregate_type text);
                 ALTER TABLE parts_high DROP COLUMN gone;
                 ALTER TABLE {t} ATTACH PARTITION parts_high FOR VALUES FROM (4) TO (100)",
            )
        },
        Case {
            set: &[("columns.payload", "Pay(load")],
            insert: "INSERT INTO {t} (id, k, topic, \"Pay(load\", aggregate_type, aggregate_id) VALUES ({n}, {n}, {v})",
            ..case(
                "parts_by_expression",
                "CREATE TABLE {t} (id int, k int, topic text, \"Pay(load\" jsonb, aggregate_type text, aggregate_id text,
                     relayed_at timestamptz) PARTITION BY LIST ((k % 2));
                 CREATE TABLE parts_even PARTITION OF {t} FOR VALUES IN (0);
                 CREATE TABLE parts_odd PARTITION OF {t} FOR VALUES IN (1)",
            )
        },
        Case {
            insert: "INSERT INTO {t} (id, occurred_at, {c}) VALUES ({n}, '2026-01-0{n}', {v})",
            ..case(
                "parts_by_time",
                "CREATE TABLE {t} (id int, occurred_at timestamptz, {rest}, PRIMARY KEY (id, occurred_at))
                     PARTITION BY RANGE (occurred_at);
                 CREATE TABLE parts_early PARTITION OF {t} FOR VALUES FROM ('2026-01-01') TO ('2026-01-03');
                 CREATE TABLE parts_late PARTITION OF {t} FOR VALUES FROM ('2026-01-03') TO ('2027-01-01')",
            )
        },
        Case {
            insert: "CREATE TABLE parts_fresh_{n} PARTITION OF {t} FOR VALUES IN ({n});
                 INSERT INTO {t} (id, k, {c}) VALUES ({n}, {n}, {v})",
            ..case(
                "parts_fresh",
                "CREATE TABLE {t} (id int, k int, {rest}, PRIMARY KEY (id, k)) PARTITION BY LIST (k)",
            )
        },
        // As pg_partman does it: out of the default partition into one of its own.
        Case {
            insert: "INSERT INTO {t} (id, k, {c}) VALUES ({n}, {n}, {v});
                 CREATE TABLE parts_moved_{n} (LIKE {t} INCLUDING ALL);
                 WITH moved AS (DELETE FROM parts_moved_rest WHERE k = {n} RETURNING *)
                     INSERT INTO parts_moved_{n} SELECT * FROM moved;
                 ALTER TABLE {t} ATTACH PARTITION parts_moved_{n} FOR VALUES IN ({n})",
            ..case(
                "parts_moved",
                "CREATE TABLE {t} (id int, k int, {rest}, PRIMARY KEY (id, k)) PARTITION BY LIST (k);
                 CREATE TABLE parts_moved_rest PARTITION OF {t} DEFAULT",
            )
        },
        case(
            "inherits_from_another",
            "CREATE TABLE ancestor (id int, topic text, note text);
             CREATE TABLE {t} (id int PRIMARY KEY, payload jsonb, aggregate_type text, aggregate_id text, relayed_at timestamptz)
                 INHERITS (ancestor)",
        ),
        case(
            "typed",
            "CREATE TYPE an_event AS (id int, topic text, payload jsonb, aggregate_type text, aggregate_id text, relayed_at timestamptz);
             CREATE TABLE {t} OF an_event (PRIMARY KEY (id))",
        ),
        case(
            "columns_gone_and_generated",
            "CREATE TABLE {t} (gone int, id int PRIMARY KEY, {rest}, also_gone text,
                 twice int GENERATED ALWAYS AS (id * 2) STORED);
             ALTER TABLE {t} DROP COLUMN gone, DROP COLUMN also_gone;
             ALTER TABLE {t} ADD COLUMN late text DEFAULT 'late'",
        ),
    ]
}

fn beside() -> Vec<Case> {
    vec![
        Case {
            body: r#"{"n": {n}, "by": "trigger"}"#,
            ..case(
                "triggers",
                "CREATE TABLE {t} (id int PRIMARY KEY, {rest}, touched timestamptz, told int DEFAULT 0);
                 CREATE TABLE told (id int);
                 CREATE FUNCTION fill() RETURNS trigger LANGUAGE plpgsql AS
                     $$ BEGIN NEW.payload := NEW.payload || '{\"by\": \"trigger\"}'; RETURN NEW; END $$;
                 CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS
                     $$ BEGIN NEW.touched := now(); RETURN NEW; END $$;
                 CREATE FUNCTION tell() RETURNS trigger LANGUAGE plpgsql AS
                     $$ BEGIN INSERT INTO told VALUES (coalesce(NEW.id, OLD.id)); RETURN NULL; END $$;
                 CREATE FUNCTION pass() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN OLD; END $$;
                 CREATE TRIGGER one BEFORE INSERT ON {t} FOR EACH ROW EXECUTE FUNCTION fill();
                 CREATE TRIGGER two BEFORE UPDATE ON {t} FOR EACH ROW EXECUTE FUNCTION touch();
                 CREATE TRIGGER three AFTER INSERT OR UPDATE OR DELETE ON {t} FOR EACH ROW EXECUTE FUNCTION tell();
                 CREATE TRIGGER four BEFORE DELETE ON {t} FOR EACH ROW EXECUTE FUNCTION pass()",
            )
        },
        case(
            "references_both_ways",
            "CREATE TABLE their_kind (name text PRIMARY KEY); INSERT INTO their_kind VALUES ('kind');
             CREATE TABLE {t} (id int PRIMARY KEY, topic text, payload jsonb, aggregate_type text REFERENCES their_kind,
                 aggregate_id text, relayed_at timestamptz);
             CREATE TABLE receipts (event int REFERENCES {t} ON DELETE CASCADE);
             CREATE TABLE notes (event int REFERENCES {t} ON DELETE SET NULL)",
        ),
        case(
            "row_security",
            "CREATE TABLE {t} (id int PRIMARY KEY, {rest});
             CREATE POLICY none ON {t} USING (false);
             ALTER TABLE {t} ENABLE ROW LEVEL SECURITY; ALTER TABLE {t} FORCE ROW LEVEL SECURITY",
        ),
        case(
            "indexes",
            "CREATE TABLE {t} (id int PRIMARY KEY, {rest});
             CREATE INDEX ON {t} ((payload ->> 'n'), lower(topic));
             CREATE INDEX ON {t} (id) WHERE relayed_at IS NULL;
             CREATE UNIQUE INDEX ON {t} (id, coalesce(relayed_at, '-infinity'));
             CREATE EXTENSION btree_gist;
             ALTER TABLE {t} ADD EXCLUDE USING gist (id WITH =)",
        ),
        case(
            "another_publication",
            "CREATE TABLE {t} (id int PRIMARY KEY, {rest}); CREATE PUBLICATION others FOR TABLE {t}",
        ),
        case("identity_full", "CREATE TABLE {t} (id int NOT NULL, {rest}); ALTER TABLE {t} REPLICA IDENTITY FULL"),
        case(
            "checked",
            "CREATE TABLE {t} (id int PRIMARY KEY CHECK (id > 0), {rest}, CHECK (relayed_at IS NULL OR relayed_at > '2020-01-01'))",
        ),
    ]
}

/// A table that is refused, by `init` and by `check`.
pub struct Refused {
    pub name: &'static str,
    /// In which modes; none: in all.
    pub modes: &'static [&'static str],
    pub ddl: &'static str,
    /// One row is there.
    pub insert: &'static str,
    /// Of `[[tables]]`.
    pub set: &'static [(&'static str, &'static str)],
    pub finding: &'static str,
}

const fn refused(name: &'static str, finding: &'static str, ddl: &'static str) -> Refused {
    Refused { name, modes: &[], ddl, insert: "", set: &[], finding }
}

/// By what writes marks.
const fn in_mode(modes: &'static [&'static str], refused: Refused) -> Refused {
    Refused { modes, ..refused }
}

pub fn refuses() -> Vec<Refused> {
    vec![
        refused(
            "id_composite",
            "column-type",
            "CREATE TYPE two AS (a int, b int); CREATE TABLE {t} (id two PRIMARY KEY, {rest})",
        ),
        refused(
            "id_domain_composite",
            "column-type",
            "CREATE TYPE three AS (a int); CREATE DOMAIN four AS three; CREATE TABLE {t} (id four NOT NULL, {rest})",
        ),
        refused("id_array", "column-type", "CREATE TABLE {t} (id int[] PRIMARY KEY, {rest})"),
        refused(
            "id_enum_array",
            "column-type",
            "CREATE TYPE mood AS ENUM ('good'); CREATE TABLE {t} (id mood[] PRIMARY KEY, {rest})",
        ),
        refused("id_range", "column-type", "CREATE TABLE {t} (id int4range PRIMARY KEY, {rest})"),
        refused("id_boolean", "column-type", "CREATE TABLE {t} (id boolean PRIMARY KEY, {rest})"),
        refused("id_jsonb", "column-type", "CREATE TABLE {t} (id jsonb PRIMARY KEY, {rest})"),
        refused("id_inet", "column-type", "CREATE TABLE {t} (id inet NOT NULL, {rest})"),
        refused("id_date", "column-type", "CREATE TABLE {t} (id date NOT NULL, {rest})"),
        refused("id_bytea", "column-type", "CREATE TABLE {t} (id bytea NOT NULL, {rest})"),
        refused("id_double", "column-type", "CREATE TABLE {t} (id float8 NOT NULL, {rest})"),
        refused("id_timestamptz", "column-type", "CREATE TABLE {t} (id timestamptz NOT NULL, {rest})"),
        refused("id_oid", "column-type", "CREATE TABLE {t} (id oid NOT NULL, {rest})"),
        refused("id_macaddr", "column-type", "CREATE TABLE {t} (id macaddr NOT NULL, {rest})"),
        refused("id_bits", "column-type", "CREATE TABLE {t} (id bit(8) NOT NULL, {rest})"),
        refused("id_interval", "column-type", "CREATE TABLE {t} (id interval NOT NULL, {rest})"),
        refused("id_money", "column-type", "CREATE TABLE {t} (id money NOT NULL, {rest})"),
        refused("id_json", "column-type", "CREATE TABLE {t} (id json NOT NULL, {rest})"),
        refused("id_tid_domain", "column-type", "CREATE DOMAIN network AS inet; CREATE TABLE {t} (id network NOT NULL, {rest})"),
        refused(
            "payload_boolean",
            "column-type",
            "CREATE TABLE {t} (id int PRIMARY KEY, topic text, payload boolean, relayed_at timestamptz)",
        ),
        refused(
            "payload_date",
            "column-type",
            "CREATE TABLE {t} (id int PRIMARY KEY, topic text, payload date, relayed_at timestamptz)",
        ),
        refused(
            "payload_uuid",
            "column-type",
            "CREATE TABLE {t} (id int PRIMARY KEY, topic text, payload uuid, relayed_at timestamptz)",
        ),
        refused(
            "payload_inet",
            "column-type",
            "CREATE TABLE {t} (id int PRIMARY KEY, topic text, payload inet, relayed_at timestamptz)",
        ),
        refused(
            "payload_builtin_range",
            "column-type",
            "CREATE TABLE {t} (id int PRIMARY KEY, topic text, payload int4range, relayed_at timestamptz)",
        ),
        refused(
            "payload_double",
            "column-type",
            "CREATE TABLE {t} (id int PRIMARY KEY, topic text, payload float8, relayed_at timestamptz)",
        ),
        refused("time_of_date", "column-type", "CREATE TABLE {t} (id int PRIMARY KEY, {rest}, occurred_at date)"),
        refused("time_of_numeric", "column-type", "CREATE TABLE {t} (id int PRIMARY KEY, {rest}, occurred_at numeric)"),
        refused("time_of_int", "column-type", "CREATE TABLE {t} (id int PRIMARY KEY, {rest}, occurred_at int)"),
        refused("time_of_double", "column-type", "CREATE TABLE {t} (id int PRIMARY KEY, {rest}, occurred_at float8)"),
        refused("time_of_day", "column-type", "CREATE TABLE {t} (id int PRIMARY KEY, {rest}, occurred_at timetz)"),
        refused("time_of_interval", "column-type", "CREATE TABLE {t} (id int PRIMARY KEY, {rest}, occurred_at interval)"),
        refused(
            "time_of_date_domain",
            "column-type",
            "CREATE DOMAIN birthday AS date; CREATE TABLE {t} (id int PRIMARY KEY, {rest}, occurred_at birthday)",
        ),
        refused(
            "payload_domain_array",
            "column-type",
            "CREATE DOMAIN list AS int[];
             CREATE TABLE {t} (id int PRIMARY KEY, topic text, payload list, relayed_at timestamptz)",
        ),
        refused(
            "payload_number",
            "column-type",
            "CREATE TABLE {t} (id int PRIMARY KEY, topic text, payload int, relayed_at timestamptz)",
        ),
        refused(
            "time_of_text",
            "column-type",
            "CREATE DOMAIN spoken AS text;
             CREATE TABLE {t} (id int PRIMARY KEY, {rest}, occurred_at spoken)",
        ),
        refused(
            "a_view",
            "table-kind",
            "CREATE TABLE behind (id int PRIMARY KEY, {rest}); CREATE VIEW {t} AS SELECT * FROM behind",
        ),
        refused(
            "a_materialized_view",
            "table-kind",
            "CREATE TABLE stored (id int PRIMARY KEY, {rest}); CREATE MATERIALIZED VIEW {t} AS SELECT * FROM stored",
        ),
        refused(
            "a_foreign_table",
            "table-kind",
            "CREATE EXTENSION file_fdw; CREATE SERVER files FOREIGN DATA WRAPPER file_fdw;
             CREATE FOREIGN TABLE {t} (id int, {rest}) SERVER files OPTIONS (filename '/dev/null')",
        ),
        refused("unlogged", "table-unlogged", "CREATE UNLOGGED TABLE {t} (id int PRIMARY KEY, {rest})"),
        refused(
            "unlogged_leaf",
            "table-unlogged",
            "CREATE TABLE {t} (id int PRIMARY KEY, {rest}) PARTITION BY RANGE (id);
             CREATE TABLE logged_leaf PARTITION OF {t} FOR VALUES FROM (0) TO (9);
             CREATE UNLOGGED TABLE leaf_not_logged PARTITION OF {t} DEFAULT",
        ),
        refused(
            "foreign_leaf",
            "partition-foreign",
            "CREATE SERVER more_files FOREIGN DATA WRAPPER file_fdw;
             CREATE TABLE {t} (id int NOT NULL, {rest}) PARTITION BY RANGE (id);
             CREATE TABLE near_leaf PARTITION OF {t} FOR VALUES FROM (0) TO (9);
             CREATE FOREIGN TABLE far_leaf PARTITION OF {t} DEFAULT SERVER more_files OPTIONS (filename '/dev/null')",
        ),
        refused(
            "with_children",
            "table-children",
            "CREATE TABLE {t} (id int PRIMARY KEY, {rest}); CREATE TABLE its_child () INHERITS ({t})",
        ),
        in_mode(
            &["update"],
            refused(
                "mark_by_default",
                "mark-default",
                "CREATE TABLE {t} (id int PRIMARY KEY, topic text, payload jsonb, relayed_at timestamptz DEFAULT now())",
            ),
        ),
        in_mode(
            &["update"],
            refused(
                "mark_required",
                "mark-default",
                "CREATE TABLE {t} (id int PRIMARY KEY, topic text, payload jsonb, relayed_at timestamptz NOT NULL)",
            ),
        ),
        in_mode(
            &["update"],
            refused(
                "mark_domain_default",
                "mark-default",
                "CREATE DOMAIN at_once AS timestamptz DEFAULT now();
                 CREATE TABLE {t} (id int PRIMARY KEY, topic text, payload jsonb, relayed_at at_once)",
            ),
        ),
        in_mode(
            &["update"],
            refused(
                "mark_missing",
                "column-missing",
                "CREATE TABLE {t} (id int PRIMARY KEY, topic text, payload jsonb)",
            ),
        ),
        in_mode(
            &["update"],
            refused(
                "mark_moves",
                "partition-key",
                "CREATE TABLE {t} (id int, {rest}) PARTITION BY LIST ((relayed_at IS NULL))",
            ),
        ),
        in_mode(
            &["update", "delete"],
            refused(
                "no_identity",
                "replica-identity-missing",
                "CREATE TABLE {t} (id int NOT NULL, {rest}); CREATE PUBLICATION everybodys FOR TABLE {t}",
            ),
        ),
        in_mode(
            &["update", "delete"],
            refused(
                "no_identity_in_leaf",
                "replica-identity-missing",
                "CREATE TABLE {t} (id int NOT NULL, {rest}) PARTITION BY RANGE (id);
                 CREATE TABLE leaf_without PARTITION OF {t} DEFAULT; CREATE PUBLICATION of_leaves FOR TABLE {t}",
            ),
        ),
        in_mode(
            &["update", "delete"],
            Refused {
                insert: "INSERT INTO {t} (id, topic, payload) VALUES (1, 't', '{}')",
                ..refused(
                    "swallowed_by_trigger",
                    "mark-swallowed",
                    "CREATE TABLE {t} (id int PRIMARY KEY, {rest});
                     CREATE FUNCTION swallow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$;
                     CREATE TRIGGER swallows BEFORE UPDATE OR DELETE ON {t} FOR EACH ROW EXECUTE FUNCTION swallow()",
                )
            },
        ),
        in_mode(
            &["update"],
            Refused {
                insert: "INSERT INTO {t} (id, topic, payload) VALUES (1, 't', '{}')",
                ..refused(
                    "undone_by_trigger",
                    "mark-swallowed",
                    "CREATE TABLE {t} (id int PRIMARY KEY, {rest});
                     CREATE FUNCTION undo() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN OLD; END $$;
                     CREATE TRIGGER undoes BEFORE UPDATE ON {t} FOR EACH ROW EXECUTE FUNCTION undo()",
                )
            },
        ),
        in_mode(
            &["update", "delete"],
            Refused {
                insert: "INSERT INTO {t} (id, topic, payload) VALUES (1, 't', '{}')",
                ..refused(
                    "raised_by_trigger",
                    "mark-fails",
                    "CREATE TABLE {t} (id int PRIMARY KEY, {rest});
                     CREATE FUNCTION raise_it() RETURNS trigger LANGUAGE plpgsql AS
                         $$ BEGIN RAISE EXCEPTION 'append only' USING ERRCODE = 'P0042'; END $$;
                     CREATE TRIGGER raises BEFORE UPDATE OR DELETE ON {t} FOR EACH ROW EXECUTE FUNCTION raise_it()",
                )
            },
        ),
        in_mode(
            &["update"],
            refused(
                "rule_instead",
                "mark-fails",
                "CREATE TABLE {t} (id int PRIMARY KEY, {rest}); CREATE RULE no AS ON UPDATE TO {t} DO INSTEAD NOTHING",
            ),
        ),
        in_mode(
            &["delete"],
            refused(
                "rule_instead_of_delete",
                "mark-fails",
                "CREATE TABLE {t} (id int PRIMARY KEY, {rest}); CREATE RULE no AS ON DELETE TO {t} DO INSTEAD NOTHING",
            ),
        ),
    ]
}
