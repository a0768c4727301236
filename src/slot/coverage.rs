//! Whether the publication still brings every outbox table into the stream.

use tokio_postgres::Client;

use super::coverage_row::{CoverageRow, UnstreamedParts};
use super::{Finding, pitfalls, tables_json};
use crate::config::{Config, Table};
use crate::error::Fault;
use crate::postgres::sql;
use crate::postgres::{self, column, query};

/// By what the publication covers the configured tables. Two of them that are equal say that
/// nothing was dropped and made again in between.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Coverage {
    /// Oid of the publication.
    pub publication: u32,
    /// Another with each change of the publication: one that was taken back leaves nothing else.
    pub version: Option<String>,
    /// What of the publication matters to no row: its owner, whether generated columns come.
    pub aside: (Option<u32>, Option<bool>),
    /// Name of the publication, for the text of a fault.
    pub name: String,
    /// Rows of partitions come under the root's name and oid.
    pub is_via_root: bool,
    /// One for each configured table, in their order.
    pub tables: Vec<Membership>,
}

/// By what one table is in the publication.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Membership {
    /// The table, qualified and quoted.
    pub table: String,
    /// Oid of the table.
    pub relation: u32,
    /// The table is partitioned.
    pub is_partitioned: bool,
    /// It was made when it was in the publication already, by its schema or as all tables are.
    pub is_older: bool,
    /// The transaction that both made it and put it in.
    pub made_with: Option<String>,
    /// The last transaction that may have given it its name, or its schema, since it was made.
    pub named_by: Option<String>,
    /// Its own entry (`pg_publication_rel`), where it has one.
    pub member: Option<u32>,
    /// Another with each change of that entry; of the table, where it has none.
    pub member_version: Option<String>,
    /// Its schema's entry (`pg_publication_namespace`), where that has one.
    pub member_schema: Option<u32>,
    /// What it is a partition of, and the entries of these.
    pub part_of: Option<String>,
    /// A digest of the row filter.
    pub row_filter: Option<String>,
    /// The column list's numbers.
    pub column_list: Option<String>,
}

/// Asks whether the publication covers every configured table and publishes inserts: the one
/// cheap question that a running relay repeats. Only a position that was received before the
/// question was asked is proven by its answer.
///
/// # Errors
/// Definite, with the SQL that helps, where the publication does not cover a table; or the server
/// cannot be asked.
pub(crate) async fn coverage(client: &Client, config: &Config) -> Result<Coverage, Fault> {
    let answers = ask(client, config).await?;
    let findings = findings(config, &answers);
    match (Finding::fault(&findings), compile(config, &answers)) {
        (None, Some(coverage)) => Ok(coverage),
        (Some(fault), _) => Err(fault),
        (None, None) => Err(Fault::transient("the catalog changed while it was read")),
    }
}

/// Keeps by what the tables are covered ([`Digest::number`]); 0: rows passed by the slot.
pub(crate) async fn record_coverage(
    client: &Client,
    slot: &str,
    coverage: i64,
) -> Result<(), Fault> {
    let coverage = coverage.to_string();
    let variables = [("slot", slot), ("coverage", coverage.as_str())];
    postgres::execute(client, &sql::render(sql::PROGRESS_RECORD_COVERAGE, &variables)?).await
}

impl Coverage {
    /// What is another in a later answer: rows may have passed by the slot in between.
    pub(crate) fn change(&self, later: &Self) -> Option<String> {
        let name = &self.name;
        if self.name != later.name || self.publication != later.publication {
            return Some(format!("publication \"{name}\" was dropped and made again"));
        }
        if self.is_via_root != later.is_via_root {
            return Some(format!("publish_via_partition_root of publication \"{name}\" changed"));
        }
        // One that was found and is gone leaves nothing to be looked for.
        let tables = self.tables.iter().filter_map(|it| Some((it, later.find(&it.table)?)));
        let change = tables.filter_map(|(before, after)| Some((before, before.change(after)?)));
        if let Some((before, what)) = change.into_iter().next() {
            return Some(format!("{}: {what} in publication \"{name}\"", before.table));
        }
        (self.version != later.version).then(|| format!("publication \"{name}\" was altered"))
    }

    fn find(&self, table: &str) -> Option<&Membership> {
        self.tables.iter().find(|it| it.table == table)
    }

    /// The tables of a later answer that are not in this one.
    pub(crate) fn news<'a>(&'a self, later: &'a Self) -> impl Iterator<Item = &'a Membership> {
        later.tables.iter().filter(|it| self.find(&it.table).is_none())
    }

    /// Whether a later answer differs by nothing but what matters to no row. To be asked of answers
    /// that follow each other closely: what was altered and altered back in between is not seen.
    pub(crate) fn differs_aside(&self, later: &Self) -> bool {
        let (version, aside) = (later.version.clone(), later.aside);
        self.aside != aside && Self { version, aside, ..self.clone() } == *later
    }

    /// Tables whose partitions come under names and oids of their own.
    pub(crate) fn leaves(&self) -> Vec<usize> {
        let tables = self.tables.iter().enumerate();
        let own = tables.filter(|(_, table)| table.is_partitioned && !self.is_via_root);
        own.map(|(number, _)| number).collect()
    }

    /// The same in two numbers: which tables are asked for, and how they are covered.
    pub(crate) fn digest(&self) -> Digest {
        let mut tables: Vec<_> = self.tables.iter().collect();
        tables.sort_by(|a, b| a.table.cmp(&b.table));
        let names = tables.iter().map(|table| table.table.as_str());
        let covered = tables.iter().map(|table| {
            let Membership { relation, member, member_schema, .. } = table;
            let Membership { member_version, part_of, row_filter, column_list, .. } = table;
            format!(
                "{relation} {member:?} {member_version:?} {member_schema:?} {part_of:?} \
                 {row_filter:?} {column_list:?}"
            )
        });
        let of = format!("{} {:?} {}", self.publication, self.version, self.is_via_root);
        let covered: Vec<_> = covered.chain([of]).collect();
        Digest { asked: asked(names, &self.name), covered: fnv(covered.iter().map(String::as_str)) }
    }
}

/// A [`Coverage`] in a form that can be kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Digest {
    /// Of the names.
    pub asked: u32,
    /// Of what covers them.
    pub covered: u32,
}

impl Digest {
    /// As it is kept; never 0.
    pub(crate) fn number(self) -> i64 {
        let number = (u64::from(self.asked) << 32) | u64::from(self.covered);
        number.max(1).cast_signed()
    }

    /// As it was kept.
    pub(crate) fn of(number: i64) -> Self {
        let half = |number: u64| u32::try_from(number & u64::from(u32::MAX)).unwrap_or(0);
        let number = number.cast_unsigned();
        Self { asked: half(number >> 32), covered: half(number) }
    }
}

/// Of which tables are asked for, by which publication: the names in order.
fn asked<'a>(tables: impl Iterator<Item = &'a str>, publication: &'a str) -> u32 {
    fnv(tables.chain([publication]))
}

/// The same of a configuration.
pub(super) fn asked_by(config: &Config) -> u32 {
    let tables = config.tables.iter().map(|table| sql::qualified(&table.schema, &table.name));
    let mut tables: Vec<_> = tables.collect();
    tables.sort();
    asked(tables.iter().map(String::as_str), &config.postgres.publication)
}

/// FNV-1a: the same in every version.
fn fnv<'a>(texts: impl Iterator<Item = &'a str>) -> u32 {
    let bytes = texts.flat_map(|text| text.bytes().chain([0]));
    bytes.fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}

impl Membership {
    fn change(&self, after: &Self) -> Option<&'static str> {
        if self.relation != after.relation {
            Some("was dropped and made again, and is now another table")
        } else if (self.member, self.member_schema) != (after.member, after.member_schema) {
            Some("was taken out and put back")
        } else if self.part_of != after.part_of {
            Some(
                "is a partition of something else, or what it is a partition of is covered differently",
            )
        } else if self.row_filter != after.row_filter {
            Some("has another row filter")
        } else if self.column_list != after.column_list {
            Some("has another column list")
        } else if self.member_version != after.member_version {
            Some("was altered")
        } else {
            None
        }
    }
}

pub(super) async fn ask(client: &Client, config: &Config) -> Result<Vec<CoverageRow>, Fault> {
    // Without tables, of one that there is not: what is asked of the publication is answered all the
    // same.
    let tables = if config.tables.is_empty() { "[[]]".to_owned() } else { tables_json(config) };
    let variables = [("publication", config.postgres.publication.as_str()), ("tables", &tables)];
    let rows = query(client, &sql::render(sql::CHECK_PUBLICATION, &variables)?).await?;
    rows.iter()
        .map(|row| {
            let is = |name| Ok(column::<Option<bool>>(row, name)?.unwrap_or(false));
            Ok(CoverageRow {
                publication: column(row, "publication")?,
                version: column(row, "publication_version")?,
                owner: column(row, "owner")?,
                member_version: column(row, "member_version")?,
                is_insert: is("inserts")?,
                is_insert_only: !(is("updates")? || is("deletes")? || is("truncates")?),
                is_via_root: is("is_via_root")?,
                has_generated: column(row, "has_generated")?,
                relation: column(row, "relation")?,
                is_covered: is("is_covered")?,
                is_partitioned: is("is_partitioned")?,
                is_partition: is("is_partition")?,
                is_table: is("is_table")?,
                is_temporary: is("is_temporary")?,
                is_unlogged: is("is_unlogged")?,
                is_all_tables: is("is_all_tables")?,
                is_older: is("is_older")?,
                made_with: column(row, "made_with")?,
                named_by: column(row, "named_by")?,
                elsewhere: Vec::new(),
                renamed: None,
                member: column(row, "member")?,
                member_schema: column(row, "member_schema")?,
                part_of: column(row, "part_of")?,
                is_filtered: is("is_filtered")?,
                row_filter: column(row, "row_filter")?,
                column_list: column(row, "column_list")?,
                parts: UnstreamedParts {
                    children: column(row, "children")?,
                    unlogged: column(row, "unlogged")?,
                    foreign: column(row, "foreign_leaves")?,
                },
            })
        })
        .collect()
}

/// The answers in a form that can be compared; `None` where something is missing.
pub(super) fn compile(config: &Config, answers: &[CoverageRow]) -> Option<Coverage> {
    let first = answers.first()?;
    let membership = |(table, answer): (&Table, &CoverageRow)| {
        Some(Membership {
            table: sql::qualified(&table.schema, &table.name),
            relation: answer.relation?,
            is_partitioned: answer.is_partitioned,
            is_older: answer.is_older,
            made_with: answer.made_with.clone(),
            named_by: answer.named_by.clone(),
            member: answer.member,
            member_version: answer.member_version.clone(),
            member_schema: answer.member_schema,
            part_of: answer.part_of.clone(),
            row_filter: answer.row_filter.clone(),
            column_list: answer.column_list.clone(),
        })
    };
    Some(Coverage {
        publication: first.publication?,
        version: first.version.clone(),
        aside: (first.owner, first.has_generated),
        name: config.postgres.publication.clone(),
        is_via_root: first.is_via_root,
        tables: config.tables.iter().zip(answers).map(membership).collect::<Option<_>>()?,
    })
}

/// What is wrong with the publication.
pub(super) fn findings(config: &Config, answers: &[CoverageRow]) -> Vec<Finding> {
    let name = &config.postgres.publication;
    let quoted = sql::identifier(name);
    let mut findings = Vec::new();
    let Some(first) = answers.first().filter(|answer| answer.publication.is_some()) else {
        let missing = Finding::error(
            "publication-missing",
            format!("publication \"{name}\" does not exist"),
            format!(
                "pgoutbox init  -- where slot \"{slot}\" exists, first: SELECT \
                 pg_drop_replication_slot({literal}); a slot cannot use a publication made after it",
                slot = config.postgres.slot,
                literal = sql::literal(&config.postgres.slot),
            ),
        );
        let tables = config.tables.iter().zip(answers);
        let of_tables = tables.flat_map(|(table, answer)| {
            no_table(table, answer).into_iter().chain(pitfalls::parts(table, answer))
        });
        return std::iter::once(missing).chain(of_tables).collect();
    };

    if !first.is_insert {
        findings.push(Finding::error(
            "publication-not-insert",
            format!("publication \"{name}\" does not publish inserts"),
            format!("ALTER PUBLICATION {quoted} SET (publish = 'insert');"),
        ));
    } else if !first.is_insert_only {
        findings.push(Finding::error(
            "publication-not-insert-only",
            format!("publication \"{name}\" publishes more than inserts: every mark would be sent"),
            format!("ALTER PUBLICATION {quoted} SET (publish = 'insert');"),
        ));
    }
    for (table, answer) in config.tables.iter().zip(answers) {
        findings.extend(table_finding(config, table, answer));
    }
    if findings.is_empty() {
        findings.push(Finding::good(
            "publication",
            format!("publication \"{name}\" publishes the inserts of every table"),
        ));
    }
    for (table, answer) in config.tables.iter().zip(answers) {
        findings.extend(pitfalls::parts(table, answer));
        if answer.is_partitioned && !answer.is_via_root {
            findings.push(Finding::warning(
                "publication-partition-root",
                format!(
                    "{}.{} is partitioned, and publication \"{name}\" sends its rows under the \
                     partitions' names: works, at a query for each partition",
                    table.schema, table.name
                ),
                format!(
                    "ALTER PUBLICATION {quoted} SET (publish_via_partition_root = true);  -- relay stopped"
                ),
            ));
        }
        // Its share may not stand there alone: what the filter lets pass is all that comes.
        if table.share.is_some() && answer.is_covered && !answer.is_filtered {
            findings.push(Finding::error(
                "shards-filter",
                format!(
                    "publication \"{name}\" has all rows of {}.{}, and is one of a share",
                    table.schema, table.name
                ),
                format!("DROP PUBLICATION {quoted}; SELECT pg_drop_replication_slot({}); then: pgoutbox init  -- relay stopped; it lists the rows that wait", sql::literal(&config.postgres.slot)),
            ));
        }
        // Whether that is what rule and share say, `check` looks at.
        if !answer.is_filtered || table.has_filter() {
            continue;
        }
        findings.push(Finding::warning(
            "publication-row-filter",
            format!(
                "publication \"{name}\" filters the rows of {}.{}: others are never relayed",
                table.schema, table.name
            ),
            format!("{}  -- if that is not meant; relay stopped", set_tables(config)),
        ));
    }
    findings
}

pub(super) fn table_finding(
    config: &Config,
    table: &Table,
    answer: &CoverageRow,
) -> Option<Finding> {
    let publication = &config.postgres.publication;
    let quoted = sql::identifier(publication);
    let name = sql::qualified(&table.schema, &table.name);
    if let Some(none) = no_table(table, answer) {
        return Some(none);
    }
    if !answer.is_covered && answer.is_partition && answer.is_via_root {
        return Some(Finding::error(
            "publication-partition-root",
            format!(
                "{}.{} is a partition, and publication \"{publication}\" sends its rows under the \
                 name of the table it is part of",
                table.schema, table.name
            ),
            "name the partitioned table in the configuration: [[tables]]",
        ));
    }
    if !answer.is_covered {
        return Some(Finding::error(
            "publication-without-table",
            format!("publication \"{publication}\" does not cover {}.{}", table.schema, table.name),
            format!("ALTER PUBLICATION {quoted} ADD TABLE {name};"),
        ));
    }
    None
}

/// Not there, or nothing that can be in a publication: to say that it is not in ours would help nothing.
fn no_table(table: &Table, answer: &CoverageRow) -> Option<Finding> {
    if let Some(missing) = table_missing(table, answer) {
        return Some(missing);
    }
    if !answer.is_table {
        let what = format!("{}.{} is not a table", table.schema, table.name);
        let hint = "name a table in the configuration: only tables are in the WAL";
        return Some(Finding::error("table-kind", what, hint));
    }
    answer.is_temporary.then(|| {
        Finding::error(
            "table-temporary",
            format!("{}.{} is temporary: its rows are not in the WAL", table.schema, table.name),
            "name an ordinary table in the configuration: [[tables]]",
        )
    })
}

/// The configured tables, whole: no row filter, no column list.
pub(super) fn set_tables(config: &Config) -> String {
    let tables = config.tables.iter().map(|table| sql::qualified(&table.schema, &table.name));
    let publication = sql::identifier(&config.postgres.publication);
    format!("ALTER PUBLICATION {publication} SET TABLE {};", tables.collect::<Vec<_>>().join(", "))
}

fn table_missing(table: &Table, answer: &CoverageRow) -> Option<Finding> {
    if answer.relation.is_some() {
        return None;
    }
    let what = format!("table {}.{} does not exist", table.schema, table.name);
    // `init` would make another one beside it.
    Some(match (answer.elsewhere.first(), &answer.renamed) {
        (Some(first), _) => Finding::error(
            "table-missing",
            format!("{what}; there is {}", answer.elsewhere.join(", ")),
            format!("[[tables]] name = \"{first}\"  -- or make a new one: pgoutbox init"),
        ),
        (None, Some(renamed)) => Finding::error(
            "table-missing",
            format!(
                "{what}; the publication has {renamed}, which is not configured: was it renamed?"
            ),
            format!(
                "ALTER TABLE {renamed} RENAME TO {};  -- or give its name in the configuration: [[tables]]; a new, empty one is made by: pgoutbox init",
                sql::identifier(&table.name)
            ),
        ),
        (None, None) => Finding::error(
            "table-missing",
            what,
            "pgoutbox init  -- or name your table in the configuration: [[tables]]",
        ),
    })
}
