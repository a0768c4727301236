//! `init --dry-run` answers whether anything is missing: it prints that, and nothing where nothing is.

use anyhow::{Context, Result, ensure};
use harness::scenario::{QUICK, Scenario};
use lapin::options::QueueDeleteOptions;

use crate::setting::Setting;

/// What the two roles were given: how it is taken away, how it is given back, and whether they have it all the same.
const GIVEN: &str = "
    WITH role AS (SELECT oid, rolname FROM pg_roles WHERE rolname = ANY ($1)),
    given (object, privilege, role, name, has) AS (
        SELECT class.oid::regclass::text, acl.privilege_type, role.rolname, class.relname,
               format('has_table_privilege(%L, %s::oid, %L)', role.rolname, class.oid, acl.privilege_type)
          FROM pg_class AS class CROSS JOIN aclexplode(class.relacl) AS acl JOIN role ON role.oid = acl.grantee
         UNION ALL
        SELECT attrelid::regclass::text, format('%s (%I)', acl.privilege_type, attname), role.rolname, attname,
               format('has_column_privilege(%L, %s::oid, %s::int2, %L)', role.rolname, attrelid, attnum, acl.privilege_type)
          FROM pg_attribute CROSS JOIN aclexplode(attacl) AS acl JOIN role ON role.oid = acl.grantee
         UNION ALL
        SELECT format('SCHEMA %I', nspname), acl.privilege_type, role.rolname, nspname,
               format('has_schema_privilege(%L, %L, %L)', role.rolname, nspname, acl.privilege_type)
          FROM pg_namespace CROSS JOIN aclexplode(nspacl) AS acl JOIN role ON role.oid = acl.grantee
         UNION ALL
        SELECT format('FUNCTION %s', pg_proc.oid::regprocedure), acl.privilege_type, role.rolname, proname,
               format('has_function_privilege(%L, %s::oid, %L)', role.rolname, pg_proc.oid, acl.privilege_type)
          FROM pg_proc CROSS JOIN aclexplode(proacl) AS acl JOIN role ON role.oid = acl.grantee
         UNION ALL
        SELECT format('DATABASE %I', datname), acl.privilege_type, role.rolname, datname,
               format('has_database_privilege(%L, %L, %L)', role.rolname, datname, acl.privilege_type)
          FROM pg_database CROSS JOIN aclexplode(datacl) AS acl JOIN role ON role.oid = acl.grantee
         WHERE datname = current_database()
    )
    SELECT format('REVOKE %s ON %s FROM %I', privilege, object, role), format('GRANT %s ON %s TO %I', privilege, object, role),
           format('SELECT %s', has)
      FROM given ORDER BY object, privilege";

/// Nobody has it because everybody has.
const CLOSED: &str = "DO $$ BEGIN EXECUTE format('REVOKE CONNECT ON DATABASE %I FROM PUBLIC', current_database()); END $$;
    REVOKE USAGE ON SCHEMA public FROM PUBLIC; REVOKE EXECUTE ON ALL FUNCTIONS IN SCHEMA pgoutbox FROM PUBLIC";

/// Each right that `init` gives is missed once somebody takes it away.
async fn each_right_is_missed(setting: Setting) -> Result<()> {
    let (stream, audit) = (format!("{}_s", setting.database), format!("{}_a", setting.database));
    let init = ["init", "--stream-role", &stream, "--audit-role", &audit];
    let dry_run = [&init[..], &["--dry-run"]].concat();
    let dry = setting.program.succeed(&dry_run).await?;
    ensure!(dry.contains("CREATE ROLE"), "{dry}");
    setting.sql(CLOSED).await?;
    let made = setting.program.succeed(&init).await?;
    ensure!(made.contains(&format!("made    roles {stream} and {audit}")), "{made}");
    let dry = setting.program.succeed(&dry_run).await?;
    ensure!(dry.is_empty(), "nothing is missing: {dry}");
    let again = setting.program.succeed(&init).await?;
    ensure!(again.contains(&format!("found   roles {stream} and {audit}")), "{again}");

    let client = setting.client().await?;
    let given = client.query(GIVEN, &[&[&stream, &audit].as_slice()]).await?;
    ensure!(given.len() > 20, "{} rights", given.len());
    for row in given {
        let (take, give, has): (String, String, String) = (row.get(0), row.get(1), row.get(2));
        client.batch_execute(&take).await?;
        let dry = setting.program.succeed(&dry_run).await?;
        let has_it: bool = client.query_one(has.as_str(), &[]).await?.get(0);
        // One of a column goes without saying where the whole table may be read.
        ensure!(dry.is_empty() == has_it, "{take}: {dry}");
        client.batch_execute(&give).await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_right_of_marks_in_rows() -> Result<()> {
    let scenario = Scenario::with(QUICK).set("postgres.on_slot_loss", "halt");
    each_right_is_missed(scenario.set("prune.keep", "1d").setting().await?).await
}

#[tokio::test]
async fn a_right_of_marks_beside_rows() -> Result<()> {
    let scenario = Scenario::with(QUICK).set("audit.mode", "side_table");
    each_right_is_missed(scenario.setting().await?).await
}

#[tokio::test]
async fn a_right_of_rows_that_are_deleted() -> Result<()> {
    let scenario = Scenario::with(QUICK).set("audit.mode", "delete");
    each_right_is_missed(scenario.set("postgres.on_slot_loss", "halt").setting().await?).await
}

/// Each partition has its own rights.
#[tokio::test]
async fn a_partition_that_somebody_made() -> Result<()> {
    let setting = Setting::bare().await?;
    let (stream, audit) = (format!("{}_s", setting.database), format!("{}_a", setting.database));
    let init = ["init", "--partitioned", "--stream-role", &stream, "--audit-role", &audit];
    setting.program.succeed(&init).await?;
    let dry_run = [&init[..], &["--dry-run"]].concat();
    let dry = setting.program.succeed(&dry_run).await?;
    ensure!(dry.is_empty(), "{dry}");
    setting
        .sql("CREATE TABLE late PARTITION OF outbox_messages FOR VALUES FROM ('2001-01-01') TO ('2001-01-02')")
        .await?;
    let dry = setting.program.succeed(&dry_run).await?;
    ensure!(dry.contains("reconciliation"), "{dry}");
    setting.program.succeed(&init).await?;
    let dry = setting.program.succeed(&dry_run).await?;
    ensure!(dry.is_empty(), "{dry}");
    Ok(())
}

#[tokio::test]
async fn what_rabbitmq_lacks() -> Result<()> {
    let setting = Setting::bare().await?;
    let setting = setting
        .set("declare.queues.0.name", "orders")
        .set("declare.queues.0.bindings", "order.#")
        .set("declare.queues.1.name", "invoices")
        .set("declare.queues.1.queue_type", "classic");
    let dry_run = ["init", "--declare", "--dry-run"];
    let dry = setting.program.succeed(&dry_run).await?;
    for what in ["topic exchange outbox", "quorum queue orders", "classic queue invoices"] {
        ensure!(dry.contains(&format!("-- would declare {what}")), "no {what}: {dry}");
    }
    setting.program.succeed(&["init", "--declare"]).await?;
    let output = setting.program.output(&dry_run).await?;
    let (out, note) = (String::from_utf8(output.stdout)?, String::from_utf8(output.stderr)?);
    ensure!(output.status.success() && out.is_empty(), "{out}{note}");
    ensure!(note.contains("orders") && note.contains("a broker does not tell"), "{note}");
    let channel = setting.channel().await?;
    channel.queue_delete("orders".into(), QueueDeleteOptions::default()).await?;
    let dry = setting.program.succeed(&dry_run).await?;
    let line = dry.lines().next().context("nothing")?;
    ensure!(dry.lines().count() == 1 && line.contains("quorum queue orders"), "{dry}");
    Ok(())
}
