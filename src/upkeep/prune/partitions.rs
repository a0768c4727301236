//! Partitions: made ahead, and dropped once each of their rows may go.

use std::time::Duration;

use tokio_postgres::Client;

use super::target::Target;
use super::{Order, TableReport, Trouble};
use crate::config::{AuditMode, Config, PartitionSpan};
use crate::core::partition::{self, Bounds};
use crate::error::{Fault, codes};
use crate::postgres::sql;
use crate::postgres::{column, execute, query};

/// How a table that is detached says what it was.
const DETACHED: &str = "pgoutbox detached this from relation ";

struct Part {
    oid: u32,
    schema: String,
    name: String,
    is_leaf: bool,
    is_default: bool,
    is_detaching: bool,
    lower: Option<i64>,
    upper: Option<i64>,
    /// This role may drop it.
    is_ours: bool,
    /// pgoutbox made it, so it may go.
    is_marked: bool,
}

/// A table's partitions; none, where it is not a table partitioned by time.
pub(super) struct Partitions {
    all: Vec<Part>,
    /// How much time a new one holds; `None` where they are somebody else's business.
    pub(super) span: Option<PartitionSpan>,
    now: i64,
    /// Rows of others are among ours: ours go one by one, and a partition once nothing is left.
    is_shared: bool,
}

impl Partitions {
    /// Whether its rows go with the whole of it, and not one by one.
    pub(super) fn is_dropped_whole(&self, schema: &str, name: &str) -> bool {
        !self.is_shared && self.whole().any(|part| part.schema == schema && part.name == name)
    }

    /// The same partitions, as `prune_side_table.sql` wants them.
    pub(super) fn dropped_whole(&self) -> String {
        let whole = self.whole().filter(|_| !self.is_shared);
        let oids: Vec<String> = whole.map(|part| part.oid.to_string()).collect();
        format!("{{{}}}", oids.join(","))
    }

    fn whole(&self) -> impl Iterator<Item = &Part> {
        self.all.iter().filter(|part| part.is_marked && part.is_leaf && !part.is_default)
    }

    /// Whether there is one that may be dropped, or was detached for it.
    pub(super) fn has_ours(&self) -> bool {
        self.span.is_some()
    }

    /// Partitions that look as if pgoutbox had made them, without its mark: left alone, which
    /// anyone who gave them these names may not expect.
    pub(super) fn unmarked(&self, target: &Target) -> Option<Trouble> {
        let is_like = |part: &&Part| {
            let span = partition::span_of(&target.table, &part.name);
            let bounds = part.lower.zip(part.upper);
            !part.is_marked
                && part.is_leaf
                && span.zip(bounds).is_some_and(|(span, (lower, upper))| {
                    partition::name(&target.table, span, lower) == part.name
                        && partition::ceiling(span, lower) == upper
                })
        };
        let like: Vec<&Part> = self.all.iter().filter(is_like).collect();
        let names: Vec<&str> = like.iter().map(|part| part.name.as_str()).collect();
        let title = target.title();
        let what = format!(
            "partitions of {title} that pgoutbox did not make are not dropped whole, their rows go one by one: {}",
            names.join(", ")
        );
        let sql = |part: &&Part| {
            let (schema, name) = (sql::identifier(&part.schema), sql::identifier(&part.name));
            format!("COMMENT ON TABLE {schema}.{name} IS {};", sql::literal(partition::MADE))
        };
        let hint: Vec<String> = like.iter().map(sql).collect();
        let hint = format!("to have them dropped: {}", hint.join(" "));
        let key = format!("{title} unmarked {}", names.join(","));
        (!like.is_empty()).then(|| Trouble::new(key, Fault::definite(what, hint)))
    }

    fn has_default(&self) -> bool {
        self.all.iter().any(|part| part.is_default)
    }
}

/// Looks at a table's partitions.
pub(super) async fn list(
    client: &Client,
    config: &Config,
    target: &Target,
) -> Result<Partitions, Fault> {
    let rows = query(client, &target.render(sql::PARTITION_LIST, &[])?).await?;
    let mut all = Vec::new();
    for row in &rows {
        all.push(Part {
            oid: column(row, "oid")?,
            schema: column(row, "schema")?,
            name: column(row, "name")?,
            is_leaf: column(row, "is_leaf")?,
            is_default: column(row, "is_default")?,
            is_detaching: column(row, "is_detaching")?,
            lower: column(row, "lower")?,
            upper: column(row, "upper")?,
            is_ours: column(row, "is_ours")?,
            is_marked: {
                let comment: Option<String> = column(row, "comment")?;
                comment.is_some_and(|text| {
                    text.starts_with(partition::MADE) || text.starts_with(DETACHED)
                })
            },
        });
    }
    let made = |part: &&Part| part.is_marked;
    let named = || {
        let mut made = all.iter().rev().filter(made);
        made.find_map(|part| partition::span_of(&target.table, &part.name))
    };
    let span = if all.is_empty() { None } else { config.prune.partition_span.or_else(named) };
    let clock = query(client, "SELECT extract(epoch FROM now())::bigint AS now").await?;
    let now = clock.first().map_or(Ok(0), |row| column(row, "now"))?;
    Ok(Partitions { all, span, now, is_shared: target.is_shared() })
}

/// Makes what `prune.partitions_ahead` asks for.
pub(super) async fn make(
    client: &Client,
    config: &Config,
    target: &Target,
    parts: &Partitions,
    order: Order<'_>,
    report: &mut TableReport,
) -> Result<(), Fault> {
    let Some(span) = parts.span else { return Ok(()) };
    let there: Vec<_> = parts
        .all
        .iter()
        .filter(|part| !part.is_default)
        .map(|part| (part.lower, part.upper))
        .collect();
    for bounds in partition::missing(span, parts.now, config.prune.partitions_ahead, &there) {
        let name = partition::name(&target.table, span, bounds.0);
        if !order.is_dry
            && let Err(fault) = create(client, target, &name, bounds).await?
        {
            report.troubles.push(Trouble::new(format!("{} {name}", target.title()), fault));
            continue;
        }
        report.made.push(name);
    }
    Ok(())
}

/// A file that makes a partition of a table, with what it is to hold.
fn bounded(target: &Target, file: &str, name: &str, bounds: Bounds) -> Result<String, Fault> {
    let (lower, upper) = (partition::bound(bounds.0), partition::bound(bounds.1));
    let names = [
        ("partition", name),
        ("lower", lower.as_str()),
        ("upper", &upper),
        ("comment", partition::MADE),
    ];
    target.render(file, &names)
}

/// The inner error is this partition's own: the default one holds rows of its time, or a right is
/// missing.
async fn create(
    client: &Client,
    target: &Target,
    name: &str,
    bounds: Bounds,
) -> Result<Result<(), Fault>, Fault> {
    let sql = bounded(target, sql::PARTITION_CREATE, name, bounds)?;
    let Err(error) = execute(client, &sql).await else { return Ok(Ok(())) };
    execute(client, "ROLLBACK").await?;
    let what = format!("partition {name} of {} could not be made: {}", target.title(), error.what);
    let hint = if error.is_code(codes::INSUFFICIENT_PRIVILEGE) {
        "run `pgoutbox prune` as the table's owner from time to time, or GRANT that role to this one"
    } else if error.is_code(codes::CHECK_VIOLATION) {
        "the default partition holds rows of that time: nothing is lost, they go one by one"
    } else {
        "look into Postgres' log for it; its rows go to the default partition meanwhile, if there is one"
    };
    Ok(Err(Fault::new(error.class, what, hint)))
}

/// Drops partitions that ended before `keep` and hold no row that must stay.
pub(super) async fn drop_old(
    client: &Client,
    target: &Target,
    parts: &Partitions,
    order: Order<'_>,
    keep: Duration,
    report: &mut TableReport,
) -> Result<(), Fault> {
    let work = Work { client, target, keep, has_default: parts.has_default() };
    if !order.is_dry {
        work.finish_earlier(report).await?;
    }
    let cutoff = parts.now.saturating_sub(i64::try_from(keep.as_secs()).unwrap_or(i64::MAX));
    for part in parts.whole() {
        let (Some(lower), Some(upper)) = (part.lower, part.upper) else { continue };
        if part.schema != target.schema || upper > cutoff {
            continue;
        }
        let outcome = work.one(part, (lower, upper), order, report).await;
        work.part(&part.name, outcome, report).await?;
    }
    Ok(())
}

fn not_owner() -> Fault {
    Fault::definite(
        "it is not this role's to drop",
        "run `pgoutbox prune` as the table's owner from time to time, or GRANT that role to this one",
    )
}

struct Work<'a> {
    client: &'a Client,
    target: &'a Target,
    keep: Duration,
    has_default: bool,
}

impl Work<'_> {
    /// What one partition stands in the way of itself with: the others go on.
    async fn part(
        &self,
        name: &str,
        outcome: Result<(), Fault>,
        report: &mut TableReport,
    ) -> Result<(), Fault> {
        let Err(mut fault) = outcome else { return Ok(()) };
        if self.client.is_closed() {
            return Err(fault);
        }
        execute(self.client, "ROLLBACK").await?;
        let key = format!("{}.{name}: {}", self.target.schema, fault.what);
        fault.what = format!("partition {name} of {}: {}", self.target.title(), fault.what);
        report.troubles.push(Trouble::new(key, fault));
        Ok(())
    }

    async fn one(
        &self,
        part: &Part,
        bounds: Bounds,
        order: Order<'_>,
        report: &mut TableReport,
    ) -> Result<(), Fault> {
        // A look that holds up nobody: most partitions that must stay are found here.
        if !part.is_detaching && self.is_kept(&part.name).await? {
            report.kept.push(part.name.clone());
        } else if !part.is_ours {
            return Err(not_owner());
        } else if order.is_dry {
            report.dropped.push(part.name.clone());
        } else {
            self.drop_one(part, bounds, report).await?;
        }
        Ok(())
    }

    async fn is_kept(&self, name: &str) -> Result<bool, Fault> {
        let seconds = self.keep.as_secs_f64().to_string();
        let sql = match self.target.audit_mode {
            AuditMode::Update => sql::PARTITION_KEPT,
            AuditMode::SideTable => sql::PARTITION_KEPT_SIDE_TABLE,
            AuditMode::Delete => sql::PARTITION_KEPT_DELETE,
            AuditMode::None => return Ok(true),
        };
        let sql = self.target.render(sql, &[("partition", name), ("seconds", &seconds)])?;
        let rows = query(self.client, &sql).await?;
        rows.first().map_or(Ok(true), |row| column(row, "is_kept"))
    }

    /// Detached first, and looked at once more when nobody can write to it: what was committed
    /// since the first look is found then, and the partition put back.
    async fn drop_one(
        &self,
        part: &Part,
        bounds: Bounds,
        report: &mut TableReport,
    ) -> Result<(), Fault> {
        let comment = format!("{DETACHED}{} {} {}", self.target.relation, bounds.0, bounds.1);
        let names = [("partition", part.name.as_str()), ("comment", &comment)];
        let steps: &[&str] = if part.is_detaching {
            &[sql::PARTITION_FINALIZE]
        } else if self.has_default {
            // Postgres refuses CONCURRENTLY.
            &[sql::PARTITION_DETACH]
        } else {
            &[sql::PARTITION_COMMENT, sql::PARTITION_DETACH_CONCURRENTLY]
        };
        for step in steps {
            let outcome = execute(self.client, &self.target.render(step, &names)?).await;
            outcome.map_err(|fault| {
                let what = format!("it could not be detached: {}", fault.what);
                Fault::new(fault.class, what, fault.hint)
            })?;
        }
        self.finish(&part.name, bounds, report).await
    }

    /// What an earlier pass detached and left.
    async fn finish_earlier(&self, report: &mut TableReport) -> Result<(), Fault> {
        let prefix = format!("{DETACHED}{} ", self.target.relation);
        let like = format!("{prefix}%");
        let sql = self.target.render(sql::PARTITION_DETACHED, &[("comment", &like)])?;
        for row in query(self.client, &sql).await? {
            let (name, comment): (String, String) =
                (column(&row, "name")?, column(&row, "comment")?);
            let mut numbers = comment.trim_start_matches(&prefix).split(' ').map(str::parse);
            if let (Some(Ok(lower)), Some(Ok(upper))) = (numbers.next(), numbers.next()) {
                let outcome = self.finish(&name, (lower, upper), report).await;
                self.part(&name, outcome, report).await?;
            }
        }
        Ok(())
    }

    async fn finish(
        &self,
        name: &str,
        bounds: Bounds,
        report: &mut TableReport,
    ) -> Result<(), Fault> {
        let names = [("partition", name)];
        execute(self.client, "BEGIN").await?;
        execute(self.client, &self.target.render(sql::PARTITION_LOCK, &names)?).await?;
        let is_kept = self.is_kept(name).await?;
        if !is_kept {
            execute(self.client, &self.target.render(sql::PARTITION_DROP, &names)?).await?;
        }
        execute(self.client, "COMMIT").await?;
        if !is_kept {
            report.dropped.push(name.to_owned());
            return Ok(());
        }
        self.attach(name, bounds).await?;
        report.kept.push(name.to_owned());
        Ok(())
    }

    async fn attach(&self, name: &str, bounds: Bounds) -> Result<(), Fault> {
        let sql = bounded(self.target, sql::PARTITION_ATTACH, name, bounds)?;
        execute(self.client, &sql).await.map_err(|fault| {
            let (lower, upper) = (partition::bound(bounds.0), partition::bound(bounds.1));
            let [schema, table, name] =
                [&self.target.schema, &self.target.table, name].map(sql::identifier);
            let what = format!(
                "it was detached, holds rows that must stay, and cannot be attached again: {}",
                fault.what
            );
            let hint = format!(
                "make it as its table is, and attach it: ALTER TABLE {schema}.{table} ATTACH PARTITION {schema}.{name} FOR VALUES FROM ('{lower}') TO ('{upper}'); or move its rows: INSERT INTO {schema}.{table} SELECT * FROM {schema}.{name}; rows that come in with relayed_at set are not published again"
            );
            Fault::new(fault.class, what, hint)
        })
    }
}
