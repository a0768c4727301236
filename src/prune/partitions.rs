//! Partitions: made ahead, and dropped once each of their rows may go.

use std::time::Duration;

use tokio_postgres::Client;

use super::target::Target;
use super::{Order, TableReport};
use crate::config::{AuditMode, Config, PartitionSpan};
use crate::error::Fault;
use crate::partition::{self, Bounds};
use crate::postgres::{column, execute, query};
use crate::sql;

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
    is_ours: bool,
}

/// A table's partitions; none, where it is no table partitioned by time.
pub(super) struct Parts {
    all: Vec<Part>,
    /// How much time a new one holds; `None` where they are somebody else's business.
    pub(super) span: Option<PartitionSpan>,
    now: i64,
}

impl Parts {
    /// Whether its rows go with the whole of it, and not one by one.
    pub(super) fn is_dropped_whole(&self, schema: &str, name: &str) -> bool {
        let is_it = |part: &&Part| part.schema == schema && part.name == name;
        self.span.is_some() && self.all.iter().find(is_it).is_some_and(|part| !part.is_default)
    }

    /// As `prune_side_table.sql` wants it.
    pub(super) fn default_partition(&self) -> u32 {
        if self.span.is_none() {
            return 0;
        }
        // 1 is an oid that no partition has.
        self.all.iter().find(|part| part.is_default).map_or(1, |part| part.oid)
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
) -> Result<Parts, Fault> {
    let rows = query(client, &target.render(sql::PARTITIONS, &[])?).await?;
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
        });
    }
    let named = || all.iter().rev().find_map(|part| partition::span_of(&target.table, &part.name));
    let span = if all.is_empty() { None } else { config.prune.partition_span.or_else(named) };
    let clock = query(client, "SELECT extract(epoch FROM now())::bigint AS now").await?;
    let now = clock.first().map_or(Ok(0), |row| column(row, "now"))?;
    Ok(Parts { all, span, now })
}

/// Makes what `prune.partitions_ahead` asks for.
pub(super) async fn make(
    client: &Client,
    config: &Config,
    target: &Target,
    parts: &Parts,
    order: Order,
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
            report.troubles.push(fault);
            continue;
        }
        report.made.push(name);
    }
    Ok(())
}

/// The inner error is this partition's own: the default one holds rows of its time, or a right is
/// missing.
async fn create(
    client: &Client,
    target: &Target,
    name: &str,
    bounds: Bounds,
) -> Result<Result<(), Fault>, Fault> {
    let (lower, upper) = (partition::bound(bounds.0), partition::bound(bounds.1));
    let names = [("partition", name), ("lower", lower.as_str()), ("upper", &upper)];
    let sql = target.render(sql::PARTITION_CREATE, &names)?;
    let Err(error) = execute(client, &sql).await else { return Ok(Ok(())) };
    execute(client, "ROLLBACK").await?;
    let what = format!("partition {name} of {} could not be made: {}", target.title(), error.what);
    let mend = if error.what.contains("42501") {
        "run `pgoutbox prune` as the table's owner from time to time, or GRANT that role to this one"
    } else if error.what.contains("23514") {
        "the default partition holds rows of that time: nothing is lost, they go one by one"
    } else {
        "it is tried again at the next pass; until then its rows go to the default partition, if there is one"
    };
    Ok(Err(Fault::new(error.class, what, mend)))
}

/// Drops partitions that ended before `keep` and hold no row that must stay.
pub(super) async fn drop_old(
    client: &Client,
    config: &Config,
    target: &Target,
    parts: &Parts,
    order: Order,
    keep: Duration,
    report: &mut TableReport,
) -> Result<(), Fault> {
    let work = Work { client, config, target, keep, has_default: parts.has_default() };
    if !order.is_dry {
        work.finish_earlier(report).await?;
    }
    let cutoff = parts.now.saturating_sub(i64::try_from(keep.as_secs()).unwrap_or(i64::MAX));
    for part in &parts.all {
        let (Some(lower), Some(upper)) = (part.lower, part.upper) else { continue };
        if part.is_default || !part.is_leaf || part.schema != target.schema || upper > cutoff {
            continue;
        }
        // A look that holds up nobody: most partitions that must stay are found here.
        if !part.is_detaching && work.is_kept(&part.name).await? {
            report.kept.push(part.name.clone());
        } else if !part.is_ours {
            report.troubles.push(not_owner(target, &part.name));
        } else if order.is_dry {
            report.dropped.push(part.name.clone());
        } else {
            work.drop_one(part, (lower, upper), report).await?;
        }
    }
    Ok(())
}

fn not_owner(target: &Target, name: &str) -> Fault {
    Fault::definite(
        format!("partition {name} of {} is not this role's to drop", target.title()),
        "run `pgoutbox prune` as the table's owner from time to time, or GRANT that role to this one",
    )
}

struct Work<'a> {
    client: &'a Client,
    config: &'a Config,
    target: &'a Target,
    keep: Duration,
    has_default: bool,
}

impl Work<'_> {
    async fn is_kept(&self, name: &str) -> Result<bool, Fault> {
        let seconds = self.keep.as_secs_f64().to_string();
        let sql = match self.config.audit.mode {
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
            if let Err(fault) = outcome {
                execute(self.client, "ROLLBACK").await?;
                let what = format!("partition {} could not be detached: {}", part.name, fault.what);
                let mend = "somebody uses the table in a long transaction; it is tried again at the next pass";
                report.troubles.push(Fault::new(fault.class, what, mend));
                return Ok(());
            }
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
                self.finish(&name, (lower, upper), report).await?;
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
        let outcome = async {
            execute(self.client, &self.target.render(sql::PARTITION_LOCK, &names)?).await?;
            let is_kept = self.is_kept(name).await?;
            if !is_kept {
                execute(self.client, &self.target.render(sql::PARTITION_DROP, &names)?).await?;
            }
            execute(self.client, "COMMIT").await?;
            Ok(is_kept)
        };
        let is_kept = match outcome.await {
            Ok(is_kept) => is_kept,
            Err(fault) => {
                execute(self.client, "ROLLBACK").await?;
                return Err(fault);
            }
        };
        if !is_kept {
            report.dropped.push(name.to_owned());
            return Ok(());
        }
        let (lower, upper) = (partition::bound(bounds.0), partition::bound(bounds.1));
        let names = [("partition", name), ("lower", lower.as_str()), ("upper", &upper)];
        execute(self.client, &self.target.render(sql::PARTITION_ATTACH, &names)?).await?;
        report.kept.push(name.to_owned());
        Ok(())
    }
}
