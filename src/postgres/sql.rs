//! The SQL files and their variables.
//!
//! A file is what an operator runs with `psql -v name=value -f file`, and what the code runs
//! after [`render`]: the same bytes, so they cannot drift. Variables are psql's own:
//! `:"name"` an identifier, `:'name'` a literal. psql's bare `:name` is used for one only, which
//! the server itself wrote: `:filter`, an expression ([`ROW_FILTER`]).

use postgres_protocol::escape::{escape_identifier, escape_literal};

use crate::error::Fault;

macro_rules! files {
    ($($name:ident = $file:literal, $about:literal;)*) => {
        $(#[doc = $about] pub(crate) const $name: &str = include_str!(concat!("../../sql/", $file));)*
    };
}

files! {
    OUTBOX = "outbox.sql", "The default outbox table.";
    SCHEMA = "schema.sql", "pgoutbox's own tables.";
    ENQUEUE = "enqueue.sql", "The function `pgoutbox.enqueue`.";
    ENQUEUE_KNOWN = "enqueue_known.sql", "Whether that function is there as it should be.";
    PUBLICATION = "publication.sql", "The publication, with its first table.";
    PUBLICATION_TABLE = "publication_table.sql", "One more table in the publication.";
    SLOT = "slot.sql", "The replication slot.";
    SLOT_FAILOVER = "slot_failover.sql", "The replication slot, as a failover slot.";
    SLOT_KNOWN = "slot_known.sql", "Whether a name was ever the slot of a relay.";
    CATCH_UP = "catch_up.sql", "A catch-up under way.";
    CATCH_UP_BEGIN = "catch_up_begin.sql", "Says that a slot is about to be recreated.";
    CATCH_UP_OPEN = "catch_up_open.sql", "Sees the tables where the new slot's stream begins.";
    ATTACHED = "attached.sql", "Partitions that were made or attached lately.";
    ATTACHED_WAITING = "attached_waiting.sql", "Whether one of them holds rows that wait since before.";
    CATCH_UP_WAITING = "catch_up_waiting.sql", "The rows of one table that wait.";
    CATCH_UP_LIST = "catch_up_list.sql", "Numbers the rows that wait.";
    CATCH_UP_KEEP = "catch_up_keep.sql", "Keeps those whole that their id does not tell apart.";
    CATCH_UP_LISTED = "catch_up_listed.sql", "The list is whole.";
    ROW_FILTER = "row_filter.sql", "Which rows of a table the publication has.";
    CATCH_UP_FETCH = "catch_up_fetch.sql", "The next rows of one table on the list.";
    CATCH_UP_ROW = "catch_up_row.sql", "Which row of the list a number is.";
    CATCH_UP_FINISH = "catch_up_finish.sql", "A catch-up is over.";
    CATCH_UP_SWEEP = "catch_up_sweep.sql", "Takes a list away that is done with.";
    BLOCKERS = "blockers.sql", "Who keeps a slot from being created.";
    ROLES = "roles.sql", "The two roles.";
    GRANTS_UPDATE = "grants_update.sql", "What a mark by UPDATE needs.";
    GRANTS_DELETE = "grants_delete.sql", "What a mark by DELETE needs.";
    GRANTS_SIDE_TABLE = "grants_side_table.sql", "What a mark in `pgoutbox.relayed` needs.";
    GRANTS_CATCH_UP = "grants_catch_up.sql", "What reading rows from the table needs.";
    GRANTS_TYPE = "grants_type.sql", "What casting an id to its type needs.";
    GRANTS_PARKED = "grants_parked.sql", "What showing the tries of parked events needs.";
    UNINSTALL = "uninstall.sql", "Drops slot, publication and schema.";
    SERVER = "server.sql", "What of the server matters.";
    SLOT_STATE = "slot_state.sql", "The slot as the server sees it.";
    CHECK_PUBLICATION = "check_publication.sql", "Whether the publication covers the tables.";
    CHECK_ELSEWHERE = "check_elsewhere.sql", "Tables of the same name in other schemas.";
    CHECK_TABLE = "check_table.sql", "One table's kind and what makes its marks expensive.";
    CHECK_ID_INDEX = "check_id_index.sql", "Whether marks find their rows by an index.";
    CHECK_ID = "check_id.sql", "Whether the id tells rows apart.";
    CHECK_COLUMNS = "check_columns.sql", "A table's columns as the stream shows them.";
    CHECK_PITFALLS = "check_pitfalls.sql", "What would keep rows out of the stream, or marks out of rows.";
    CHECK_MARK_ROW = "check_mark_row.sql", "A row to try a mark on.";
    CHECK_MARK_UPDATE = "check_mark_update.sql", "Tries a mark.";
    CHECK_MARK_DELETE = "check_mark_delete.sql", "Tries to remove a row.";
    CHECK_PRIVILEGES = "check_privileges.sql", "What the connected role may do to a table.";
    CHECK_SCHEMA = "check_schema.sql", "Whether pgoutbox's own tables are there.";
    CHECK_SERVER = "check_server.sql", "What else `check` looks at.";
    CHECK_PUBLICATION_AGE = "check_publication_age.sql", "What may be too new for the slot.";
    CHECK_SLOT_USER = "check_slot_user.sql", "Who reads the slot.";
    CHECK_RETURNED = "check_returned.sql", "Events that no queue took.";
    CHECK_STREAM_ROLE = "check_stream_role.sql", "Whether a role may stream.";
    OTHER_TABLES = "other_tables.sql", "Strangers in the publication.";
    PARTITION_ROOT = "partition_root.sql", "What a relation is a partition of.";
    PROGRESS = "progress.sql", "The slot's row of progress.";
    TABLE_PAGES = "table_pages.sql", "How large a table is.";
    ID_TYPE = "id_type.sql", "The type of a table's id column.";
    MARK_UPDATE = "mark_update.sql", "Marks rows.";
    MARK_UPDATE_WITHIN = "mark_update_within.sql", "Marks rows of partitions of some time.";
    MARK_UPDATE_UNLOCKED = "mark_update_unlocked.sql", "Marks rows that nobody holds a lock on.";
    MARK_DELETE = "mark_delete.sql", "Removes rows.";
    MARK_DELETE_WITHIN = "mark_delete_within.sql", "Removes rows of partitions of some time.";
    MARK_DELETE_UNLOCKED = "mark_delete_unlocked.sql", "Removes rows that nobody holds a lock on.";
    MARK_SIDE_TABLE = "mark_side_table.sql", "Marks rows in `pgoutbox.relayed`.";
    STILL_UNMARKED = "still_unmarked.sql", "Rows that wait for their mark.";
    STILL_THERE = "still_there.sql", "Rows that wait to be removed.";
    RECORD_REACH = "record_reach.sql", "Says how far the slot is settled where nothing else is written.";
    COVERAGE = "coverage.sql", "By what the publication covered the tables.";
    RECORD_COVERAGE = "record_coverage.sql", "Remembers by what the publication covers the tables.";
    CATCH_UP_ORPHANS = "catch_up_orphans.sql", "Rows of the list whose table is gone.";
    OUTBOXES_KEPT = "outboxes_kept.sql", "Tables that were read as outboxes.";
    RECORD_OUTBOXES = "record_outboxes.sql", "Remembers which tables are read as outboxes.";
    FORGET_COVERAGE = "forget_coverage.sql", "What passed by the slot is taken for published.";
    FORGET_PROGRESS = "forget_progress.sql", "The row is of a history that is gone.";
    RECORD_PROGRESS = "record_progress.sql", "Writes how far the events are settled.";
    RECORD_FAULT = "record_fault.sql", "Says what the relay waits for.";
    CLEAR_FAULT = "clear_fault.sql", "Events are delivered again.";
    RECALL_PROGRESS = "recall_progress.sql", "How far the slot is settled, on disk, and what it waits for.";
    PARK = "park.sql", "Puts an event aside.";
    PARK_DELIVERED = "park_delivered.sql", "Parked events that were delivered.";
    PARK_NOTED = "park_noted.sql", "Those of them that had been discarded meanwhile.";
    PARK_KEPT = "park_kept.sql", "The same, where their marks are still to be written.";
    PARK_UNMARKED = "park_unmarked.sql", "Which of them still wait for their marks.";
    PARK_MARKED = "park_marked.sql", "Those of them that wait no longer.";
    PARKED_STILL = "parked_still.sql", "Of written outcomes, those that a lock was in the way of.";
    PARKED_FREE = "parked_free.sql", "Whether nobody has a lock on all of the parking.";
    LOCKED_BY = "locked_by.sql", "Who has locked rows of a table.";
    PARK_WITHDRAWN = "park_withdrawn.sql", "Parked events that were taken, and not sent.";
    PARK_REFUSED = "park_refused.sql", "A parked event that was refused again.";
    PARKED_DUE = "parked_due.sql", "Parked events whose time has come.";
    PARKED_CLAIM = "parked_claim.sql", "Takes the next parked event of an aggregate.";
    PARKED_FIRST = "parked_first.sql", "Which parked event of an aggregate is the next.";
    PARKED_CLAIM_ALONE = "parked_claim_alone.sql", "Takes parked events that nobody waits for.";
    PARKED_UNCLAIMED = "parked_unclaimed.sql", "What an earlier relay took is open again.";
    PARKED_HELD = "parked_held.sql", "The aggregates that wait.";
    PARKED_OPEN = "parked_open.sql", "How many parked events there are, by state and reason.";
    PARKED_NEXT = "parked_next.sql", "Until the next parked event is due, and who paused the relay.";
    PAUSED = "paused.sql", "Who paused the relay.";
    SET = "set.sql", "Sets something for the session.";
    PAUSE = "pause.sql", "Inserts the pause row.";
    RESUME = "resume.sql", "Deletes the pause row.";
    PARKED_AHEAD = "parked_ahead.sql", "Parked events that the stream brings again.";
    PARKED_WAITING = "parked_waiting.sql", "The aggregates of which anything waits.";
    PARKED_AMONG = "parked_among.sql", "Which of some events are parked.";
    PARKED_COLUMNS = "parked_columns.sql", "Where a row shows its tries.";
    PARKED_ROW_ATTEMPT = "parked_row_attempt.sql", "Rows show how often they were tried.";
    PARKED_ROW_LAST_ERROR = "parked_row_last_error.sql", "Rows show why they failed.";
    PARKED_ROW_FAILED_AT = "parked_row_failed_at.sql", "Rows show when they failed.";
    DELIVERED_ROW_FAILED_AT = "delivered_row_failed_at.sql", "Rows that failed no longer.";
    PARKED_LIST = "parked_list.sql", "Parked events, by what is asked for.";
    OUTBOX_ROW = "outbox_row.sql", "Whether a row is there, and marked.";
    PARKED_ROW = "parked_row.sql", "The row of one parked event.";
    PARKED_NEIGHBOURS = "parked_neighbours.sql", "What of its aggregate one waits behind.";
    PARKED_RETRY = "parked_retry.sql", "Has parked events tried again.";
    PARKED_DISCARD = "parked_discard.sql", "Gives parked events up.";
    PARKED_REPLAYED = "parked_replayed.sql", "Notes that they were replayed after all.";
    REPLAY_SELECT = "replay_select.sql", "Finds the rows to replay.";
    REPLAY_UNDATED = "replay_undated.sql", "Rows that have no time of commit.";
    REPLAY_FETCH = "replay_fetch.sql", "The next of them.";
    REPLAY_MARKS = "replay_marks.sql", "Which of the rows that records were made of are there.";
    REPLAY_ROWS = "replay_rows.sql", "Rows to replay, whole.";
    HORIZON = "horizon.sql", "Up to where everything has ended.";
    HORIZON_FLUSH = "horizon_flush.sql", "Has the WAL flushed and read up to here.";
    HORIZON_PASSED = "horizon_passed.sql", "Whether the slot has passed an LSN.";
    TABLE_LEAVES = "table_leaves.sql", "The tables that hold a table's rows.";
    RECONCILE = "reconcile.sql", "Rows that are neither marked nor parked.";
    LEDGER = "ledger.sql", "What became of a table's rows.";
    LEDGER_PARKED = "ledger_parked.sql", "Parked events by state.";
    GRANTS_RECONCILE = "grants_reconcile.sql", "What reconciliation reads.";
    GRANTS_REPLAY = "grants_replay.sql", "What a replay reads.";
    WAL_POSITION = "wal_position.sql", "Where the WAL ends.";
    OUTBOX_PARTITIONED = "outbox_partitioned.sql", "The default outbox table, in partitions.";
    HEAP = "heap.sql", "The tables that hold the rows.";
    GRANTS_PRUNE = "grants_prune.sql", "What pruning needs.";
    TURN = "turn.sql", "A turn that only one process may have at a time.";
    PRUNE_UPDATE = "prune_update.sql", "A batch of rows marked long ago.";
    PRUNE_SIDE_TABLE = "prune_side_table.sql", "A batch of marks made long ago, and their rows.";
    PRUNE_PARKED = "prune_parked.sql", "Records of events done with long ago.";
    PRUNE_PARKED_LIST = "prune_parked_list.sql", "Which records of events are done with long ago.";
    PRUNE_ROW = "prune_row.sql", "The id of the row at a place.";
    PRUNE_CONSTRAINT = "prune_constraint.sql", "A constraint's definition.";
    PARTITIONS = "partitions.sql", "A table's partitions with their bounds.";
    PARTITION_CREATE = "partition_create.sql", "One partition.";
    PARTITION_KEPT = "partition_kept.sql", "Whether a partition holds a row that must stay.";
    PARTITION_KEPT_SIDE_TABLE = "partition_kept_side_table.sql", "The same by `pgoutbox.relayed`.";
    PARTITION_KEPT_DELETE = "partition_kept_delete.sql", "The same where rows go when delivered.";
    PARTITION_DETACH = "partition_detach.sql", "Takes a partition out of its table.";
    PARTITION_DETACH_CONCURRENTLY = "partition_detach_concurrently.sql", "The same, while nobody waits.";
    PARTITION_COMMENT = "partition_comment.sql", "What a table that is detached was.";
    PARTITION_FINALIZE = "partition_finalize.sql", "Ends a detach that was cut short.";
    PARTITION_DETACHED = "partition_detached.sql", "Partitions detached and not dropped.";
    PARTITION_LOCK = "partition_lock.sql", "Keeps everybody from a detached partition.";
    PARTITION_DROP = "partition_drop.sql", "Drops a detached partition.";
    PARTITION_ATTACH = "partition_attach.sql", "Puts a detached partition back.";
    GUARD_SAMPLE = "guard_sample.sql", "What the guard over the WAL looks at.";
    WAL_ON_DISK = "wal_on_disk.sql", "How much WAL there is on the server's disk.";
    HOLDERS = "holders.sql", "Who keeps `restart_lsn` from moving.";
    RECORD_GUARD = "record_guard.sql", "Says how the guard finds the WAL.";
    GUARD = "guard.sql", "How the guard last found the WAL.";
    DROP_SLOT = "drop_slot.sql", "Drops a slot before its WAL fills the disk.";
    SNAPSHOT_XMIN = "snapshot_xmin.sql", "Which transactions have ended.";
}

/// Puts the values of its variables into a file.
///
/// # Errors
/// A variable without a value, or a value without its variable: either is a slip of the
/// caller's, and running the rest would be worse.
pub(crate) fn render(sql: &str, variables: &[(&str, &str)]) -> Result<String, Fault> {
    let mut out = String::with_capacity(sql.len() + 64);
    let mut used = vec![false; variables.len()];
    let mut rest = sql;
    while let Some(token) = Token::next(rest) {
        let (text, after) = rest.split_at(token.len());
        rest = after;
        let Token::Variable(name, quote, _) = token else {
            out.push_str(text);
            continue;
        };
        let at = variables.iter().position(|(known, _)| *known == name);
        let Some((at, (_, value))) = at.and_then(|at| Some((at, variables.get(at)?))) else {
            return Err(slip(format!("the SQL variable \"{name}\" has no value")));
        };
        if let Some(used) = used.get_mut(at) {
            *used = true;
        }
        match quote {
            Quote::Identifier => out.push_str(&escape_identifier(value)),
            Quote::Literal => out.push_str(&escape_literal(value)),
            Quote::Bare => out.push_str(value),
        }
    }
    match variables.iter().zip(used).find(|(_, used)| !used) {
        Some(((name, _), _)) => Err(slip(format!("the SQL has no variable \"{name}\""))),
        None => Ok(out),
    }
}

/// [`render`] with only those of the variables that the file has.
///
/// # Errors
/// A variable without a value.
pub(crate) fn render_some(sql: &str, variables: &[(&str, &str)]) -> Result<String, Fault> {
    let used: Vec<_> = variables.iter().filter(|(name, _)| has(sql, name)).copied().collect();
    render(sql, &used)
}

/// A file has this variable.
pub(crate) fn has(sql: &str, name: &str) -> bool {
    let is_bare = name == FILTER && sql.contains(&format!(":{FILTER}"));
    is_bare || sql.contains(&format!(":\"{name}\"")) || sql.contains(&format!(":'{name}'"))
}

/// The one variable that stands as it is.
const FILTER: &str = "filter";

fn slip(what: String) -> Fault {
    Fault::definite(what, "this is a defect of pgoutbox: please report it")
}

/// An identifier as it stands in SQL.
pub(crate) fn identifier(name: &str) -> String {
    escape_identifier(name)
}

/// A literal as it stands in SQL.
pub(crate) fn literal(value: &str) -> String {
    escape_literal(value)
}

/// A table as it stands in SQL, with its schema.
pub(crate) fn qualified(schema: &str, name: &str) -> String {
    format!("{}.{}", escape_identifier(schema), escape_identifier(name))
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Quote {
    Identifier,
    Literal,
    /// As it is.
    Bare,
}

/// As much of SQL's lexer as telling variables from text, strings and comments takes. The
/// numbers are lengths in bytes.
enum Token<'a> {
    Plain(usize),
    Variable(&'a str, Quote, usize),
}

impl<'a> Token<'a> {
    fn len(&self) -> usize {
        match self {
            Self::Plain(len) | Self::Variable(_, _, len) => *len,
        }
    }

    fn next(sql: &'a str) -> Option<Self> {
        let first = sql.chars().next()?;
        let plain = |len: Option<usize>| Some(Self::Plain(len.unwrap_or(sql.len())));
        match first {
            '-' if sql.starts_with("--") => plain(sql.find('\n')),
            '/' if sql.starts_with("/*") => plain(comment(sql)),
            '\'' => plain(quoted(sql, '\'', false)),
            '"' => plain(quoted(sql, '"', false)),
            '$' => plain(dollar_quoted(sql)),
            // A cast; taken whole, so that its second colon begins no variable.
            ':' if sql.starts_with("::") => plain(Some(2)),
            ':' => Some(Self::variable(sql).unwrap_or(Self::Plain(1))),
            _ if is_word(first) => plain(Some(word(sql))),
            _ => plain(Some(first.len_utf8())),
        }
    }

    fn variable(sql: &'a str) -> Option<Self> {
        let (sign, quote) = match sql.get(1..2)? {
            "\"" => ('"', Quote::Identifier),
            "'" => ('\'', Quote::Literal),
            _ => {
                let (word, after) = sql.get(1..)?.split_at_checked(FILTER.len())?;
                let is_it = word == FILTER && !after.starts_with(is_word);
                return is_it.then_some(Self::Variable(word, Quote::Bare, FILTER.len() + 1));
            }
        };
        let name = sql.get(2..)?.split(sign).next()?;
        let is_name = !name.is_empty() && name.chars().all(is_word);
        let len = name.len() + 3;
        (is_name && sql.len() >= len).then_some(Self::Variable(name, quote, len))
    }
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// A word, with the dollar signs in it, and with its string where it is an `E'…'`.
fn word(sql: &str) -> usize {
    let len = sql.find(|c| !is_word(c) && c != '$').unwrap_or(sql.len());
    let (text, after) = sql.split_at(len);
    if text.eq_ignore_ascii_case("e") && after.starts_with('\'') {
        return quoted(after, '\'', true).map_or(sql.len(), |string| len + string);
    }
    len
}

/// A doubled quote needs no care: it ends one string and begins the next.
fn quoted(sql: &str, quote: char, has_escapes: bool) -> Option<usize> {
    let mut chars = sql.char_indices().skip(1);
    while let Some((at, c)) = chars.next() {
        if c == '\\' && has_escapes {
            chars.next();
        } else if c == quote {
            return Some(at + 1);
        }
    }
    None
}

fn dollar_quoted(sql: &str) -> Option<usize> {
    let tag = sql.get(1..)?.find('$').and_then(|end| sql.get(..end + 2));
    let is_tag = |tag: &&str| {
        let name = tag.trim_matches('$');
        name.chars().all(is_word) && !name.starts_with(|c: char| c.is_ascii_digit())
    };
    match tag.filter(is_tag) {
        Some(tag) => sql.get(tag.len()..)?.find(tag).map(|end| end + 2 * tag.len()),
        None => Some(1),
    }
}

/// Comments nest.
fn comment(sql: &str) -> Option<usize> {
    let mut depth = 0_usize;
    let mut at = 0;
    while let Some(rest) = sql.get(at..).filter(|rest| !rest.is_empty()) {
        if rest.starts_with("/*") {
            depth += 1;
            at += 2;
        } else if rest.starts_with("*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return Some(at);
            }
        } else {
            at += rest.chars().next().map_or(1, char::len_utf8);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn rendered(sql: &str) -> String {
        render(sql, &[("x", "it's \"x\"")]).unwrap()
    }

    #[test]
    fn quotes_identifiers_and_literals() {
        assert_eq!(rendered(r#"a :"x" b"#), r#"a "it's ""x""" b"#);
        assert_eq!(rendered("a :'x'::text"), "a 'it''s \"x\"'::text");
    }

    #[test]
    fn leaves_everything_else_alone() {
        for plain in [
            "1::text",
            "a[1:2]",
            "'a :\"no\" b'",
            "'it''s :''no'' so'",
            r#"E'\' :"no" '"#,
            r#""a :'no' b""#,
            "-- :\"no\"\n",
            "/* :\"no\" /* nested */ :'no' */",
            "$$ :\"no\" $$",
            "$do$ $$ :'no' $$ $do$",
            "a$b$ $1",
            "x := 'y'",
            "é :: ü",
        ] {
            assert_eq!(
                rendered(&format!("{plain} :'x'")),
                format!("{plain} {}", literal("it's \"x\""))
            );
        }
    }

    #[test]
    fn unterminated_ends_are_left_alone() {
        for plain in ["'a", "\"a", "/* a", "$$ a", "E'a\\", ":\"", ":'x", ":", "$", "-- a"] {
            assert_eq!(render(plain, &[]).unwrap(), plain);
        }
    }

    #[test]
    fn wants_exactly_its_variables() {
        assert!(render(":'x'", &[]).unwrap_err().what.contains("\"x\" has no value"));
        assert!(render("1", &[("x", "1")]).unwrap_err().what.contains("no variable \"x\""));
    }

    /// Takes a quoted token apart again, by the server's rules.
    fn unquote(sql: &str) -> String {
        let sql = sql.trim_start();
        let (is_escaped, sql) = sql.strip_prefix('E').map_or((false, sql), |sql| (true, sql));
        let quote = sql.chars().next().unwrap();
        let inner = sql[1..sql.len() - 1].replace(&format!("{quote}{quote}"), &quote.to_string());
        if is_escaped { inner.replace(r"\\", r"\") } else { inner }
    }

    proptest! {
        #[test]
        fn any_name_comes_back(name in "\\PC*") {
            let variables = [("x", name.as_str())];
            prop_assert_eq!(&unquote(&render(":\"x\"", &variables).unwrap()), &name);
            prop_assert_eq!(&unquote(&render(":'x'", &variables).unwrap()), &name);
            // One token, so that nothing after it changes its meaning.
            let again = render(&render(":\"x\" :'x'", &variables).unwrap(), &[]).unwrap();
            prop_assert_eq!(again, render(":\"x\" :'x'", &variables).unwrap());
        }

        #[test]
        fn any_text_ends(text in "\\PC*") {
            let _ = render(&text, &[]);
        }
    }
}
