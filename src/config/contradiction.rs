//! Settings that are sound alone and not together.

use std::collections::BTreeMap;

use super::kind::span;
use super::origin::ValueOrigin;
use super::problem::Problems;
use super::raw::quote;
use super::values::Values;
use super::{
    ColumnRef, Columns, Config, GuardPolicy, OnFailure, OnSlotLoss, Piece, Property, Table,
    Template,
};

/// Reports every contradiction.
pub(crate) fn check(config: &Config, values: &Values, problems: &mut Problems) {
    let mut check = Check { values, problems };
    check.durations(config);
    check.upkeep(config);
    for (index, table) in config.tables.iter().enumerate() {
        check.table(&format!("tables.{index}"), table);
        check.user_id(&format!("tables.{index}"), table);
    }
    for (index, source) in config.messages.iter().enumerate() {
        check.user_id(&format!("messages.{index}"), source);
    }
    check.slot_loss(config);
    check.same_table(config);
    check.table_flags(config);
    check.same_prefix(config);
    check.sinks(config);
    check.queues(config);
    check.token(config);
}

struct Check<'a> {
    values: &'a Values,
    problems: &'a mut Problems,
}

impl Check<'_> {
    /// Reports a contradiction between keys, naming first the one that somebody set.
    fn clash(&mut self, keys: [&str; 2], what: impl Into<String>, hint: &str) {
        if keys.iter().any(|key| self.values.is_bad(key)) {
            return;
        }
        let [first, second] = keys;
        let is_second = !self.values.is_set(first) && self.values.is_set(second);
        let key = if is_second { second } else { first };
        self.problems.add(self.values.origin(key), key, what, hint);
    }

    /// RabbitMQ closes the channel over another user's name.
    fn user_id(&mut self, key: &str, table: &Table) {
        let said = table.message.properties.iter().find(|(it, _)| *it == Property::UserId);
        let said = said.and_then(|(_, template)| template.fixed());
        let user = table.message.broker_user.as_deref();
        if let (Some(said), Some(user)) = (said, user)
            && said != user
        {
            let key = format!("{key}.properties.user_id");
            let what = format!(
                "is {}, and pgoutbox logs in to the broker as {}",
                quote(said),
                quote(user)
            );
            self.clash(
                [&key, "amqp.url"],
                what,
                "RabbitMQ takes no user_id but the connection's own",
            );
        }
    }

    fn durations(&mut self, config: &Config) {
        let audit = &config.audit;
        let session = &config.session;
        if audit.linger >= audit.hold {
            let [linger, hold] = [audit.linger, audit.hold].map(span);
            let what = format!("audit.linger ({linger}) is not below audit.hold ({hold})");
            let hint = "a mark would be given up before it is tried: lower linger";
            self.clash(["audit.linger", "audit.hold"], what, hint);
        }
        if audit.hold > audit.give_up {
            let [hold, give_up] = [audit.hold, audit.give_up].map(span);
            let what = format!("audit.hold ({hold}) is above audit.give_up ({give_up})");
            self.clash(["audit.hold", "audit.give_up"], what, "lower hold or raise give_up");
        }
        let parking = &config.parking;
        if parking.backoff_min > parking.backoff_max {
            let [min, max] = [parking.backoff_min, parking.backoff_max].map(span);
            let what = format!("parking.backoff_min ({min}) is above parking.backoff_max ({max})");
            let keys = ["parking.backoff_min", "parking.backoff_max"];
            self.clash(keys, what, "lower backoff_min or raise backoff_max");
        }
        if config.has_marks() && config.reconcile.age < audit.give_up {
            let [age, give_up] = [config.reconcile.age, audit.give_up].map(span);
            let what = format!("reconcile.age ({age}) is below audit.give_up ({give_up})");
            let hint = "a mark that is still tried would count as missing, and its event be sent \
                once more: raise age or lower give_up";
            self.clash(["reconcile.age", "audit.give_up"], what, hint);
        }
        if session.backoff_min > session.backoff_max {
            let [min, max] = [session.backoff_min, session.backoff_max].map(span);
            let what = format!("session.backoff_min ({min}) is above session.backoff_max ({max})");
            let keys = ["session.backoff_min", "session.backoff_max"];
            self.clash(keys, what, "lower backoff_min or raise backoff_max");
        }
        if config.amqp.heartbeat.saturating_mul(2) > config.amqp.confirm_timeout {
            let [heartbeat, confirm] =
                [config.amqp.heartbeat, config.amqp.confirm_timeout].map(span);
            let what = format!(
                "amqp.confirm_timeout ({confirm}) is below twice amqp.heartbeat ({heartbeat})"
            );
            let hint = "a dead broker is to be noticed before its confirms are overdue: raise \
                confirm_timeout or lower heartbeat";
            self.clash(["amqp.confirm_timeout", "amqp.heartbeat"], what, hint);
        }
    }

    fn upkeep(&mut self, config: &Config) {
        let has_no_marks = !config.has_marks();
        if has_no_marks && config.prune.keep.is_some() && config.messages.is_empty() {
            let what =
                "is set, but audit.mode none leaves nothing that says which rows were relayed";
            let hint = "choose another audit.mode, or take prune.keep away";
            self.clash(["prune.keep", "audit.mode"], what, hint);
        }
        if has_no_marks && config.guard.policy == GuardPolicy::DropSlot {
            let what = "drops the slot, but audit.mode none leaves nothing to catch up by";
            let hint = "choose another audit.mode, or guard.policy alert or stop";
            self.clash(["guard.policy", "audit.mode"], what, hint);
        }
        if has_no_marks && config.reconcile.republishes {
            let what =
                "is true, but audit.mode none leaves nothing that says which rows are missing";
            let hint = "choose another audit.mode, or take reconcile.republish away";
            self.clash(["reconcile.republish", "audit.mode"], what, hint);
        }
        let is_halting = config.postgres.on_slot_loss == OnSlotLoss::Halt && !has_no_marks;
        if is_halting && config.guard.policy == GuardPolicy::DropSlot {
            let what = "drops the slot, but postgres.on_slot_loss halt makes no new one";
            let hint = "choose on_slot_loss catch_up, or guard.policy alert or stop";
            self.clash(["guard.policy", "postgres.on_slot_loss"], what, hint);
        }
        let (warn, act) = (config.guard.warn_percent, config.guard.act_percent);
        if warn > act {
            let what = format!("guard.warn_percent ({warn}) is above guard.act_percent ({act})");
            let keys = ["guard.warn_percent", "guard.act_percent"];
            self.clash(keys, what, "warn before acting: lower warn_percent");
        }
    }

    fn table(&mut self, key: &str, table: &Table) {
        let column = |name: &str| format!("{key}.columns.{name}");
        let is_literal = self.values.is_set(&format!("{key}.schema"));
        if table.is_pattern {
            // What it stands for, Postgres has.
        } else if table.schema.is_empty() || table.name.is_empty() {
            let name = format!("{key}.name");
            self.clash([&name, &name], "names no schema or no table", "write schema.table");
        } else if table.schema.len() > 63 || table.name.len() > 63 {
            let name = format!("{key}.name");
            self.clash([&name, &name], "is over 63 bytes", "Postgres has no longer names");
        } else if !is_literal && table.name.contains('.') {
            let name = format!("{key}.name");
            let hint = "write schema.table; where the table's name has a dot, set schema too";
            self.clash([&name, &name], "has more than one dot", hint);
        }
        let columns = &table.columns;
        for (name, is_empty) in
            [("id", columns.id.name.is_empty()), ("payload", columns.payload.name.is_empty())]
        {
            if is_empty {
                let hint = "name the column: no message can do without";
                self.clash([&column(name), &column(name)], "is empty", hint);
            }
        }
        self.mark(key, table);
        self.written(key, table);
        self.template(&format!("{key}.exchange"), &table.exchange, columns);
        self.template(&format!("{key}.routing_key"), &table.routing_key, columns);
        if let Some(template) = table.stream.as_ref().and_then(|sink| sink.filter_value.as_ref()) {
            self.template(&format!("{key}.filter_value"), template, columns);
        }
    }

    /// What a marked row holds is written to columns of its own.
    fn mark(&mut self, key: &str, table: &Table) {
        let column = |name: &str| format!("{key}.columns.{name}");
        let (own, names) = (format!("{key}.audit.mode"), table.mark.names().collect::<Vec<_>>());
        let mode = if self.values.is_set(&own) { own.as_str() } else { "audit.mode" };
        if table.is_marked_in_rows() && names.iter().any(|name| name.is_empty()) {
            let hint = "name the column, or choose audit.mode side_table, delete or none";
            let what = "is empty, but audit.mode update writes the mark there";
            self.clash([&column("relayed_at"), mode], what, hint);
        }
        let by_hand = |name: &&&str| {
            let set = format!("{key}.mark.{name}");
            self.values.is_set(&set) && !self.values.is_preset(&set)
        };
        if let Some(name) = names.iter().find(by_hand).filter(|_| !table.is_marked_in_rows()) {
            let what = format!(
                "says what a marked row holds, but audit.mode {} writes no mark there",
                table.audit_mode.name()
            );
            let hint = "choose audit.mode update, or take [tables.mark] away";
            self.clash([&format!("{key}.mark.{name}"), mode], what, hint);
        }
        let fields = table.columns.fields();
        let is_mark =
            |column: &ColumnRef| !column.name.is_empty() && names.contains(&column.name.as_str());
        if let Some((name, same)) = fields.iter().find(|(_, other)| is_mark(other)) {
            let what = format!("is the same column as {name}: marks would overwrite it");
            let mark = format!("{key}.mark.{}", same.name);
            let mark = if self.values.is_set(&mark) { mark } else { column("relayed_at") };
            self.clash([&mark, &column(name)], what, "give the mark a column of its own");
        }
    }

    /// The tries of a parked event are written to columns of their own: anywhere else they would
    /// pass for a mark, or change what is published.
    fn written(&mut self, key: &str, table: &Table) {
        let columns = &table.columns;
        let marks: Vec<_> = table
            .mark
            .names()
            .map(|name| ColumnRef { name: name.to_owned(), is_explicit: false })
            .collect();
        let tries = [
            ("attempt", &columns.attempt),
            ("last_error", &columns.last_error),
            ("failed_at", &columns.failed_at),
        ];
        let mut others: Vec<_> = columns.fields().to_vec();
        others.extend(marks.iter().map(|column| ("relayed_at", column)));
        for (name, column) in tries {
            let same = others
                .iter()
                .find(|(_, other)| !column.name.is_empty() && other.name == column.name);
            if let Some((other, _)) = same {
                let what = format!(
                    "is the same column as {other}: tries of parked events would overwrite it"
                );
                let keys = [format!("{key}.columns.{name}"), format!("{key}.columns.{other}")];
                let hint = "give it a column of its own, or none: \"\"";
                self.clash([&keys[0], &keys[1]], what, hint);
            }
            others.push((name, column));
        }
    }

    /// A template none of whose alternatives can ever win.
    fn template(&mut self, key: &str, template: &Template, columns: &Columns) {
        let fields = columns.fields();
        let is_gone = |piece: &Piece| match piece {
            Piece::Column(name) | Piece::Hash(name, _) => {
                fields.iter().any(|(field, column)| field == name && column.name.is_empty())
            }
            Piece::Text(_) => false,
        };
        let is_dead = |alternative: &Vec<Piece>| alternative.iter().any(is_gone);
        if !template.0.is_empty() && template.0.iter().all(is_dead) {
            let what = "every alternative needs a field that the table has no column for";
            self.clash([key, key], what, "add an alternative of fixed text or other columns");
        }
    }

    fn same_table(&mut self, config: &Config) {
        let mut seen: BTreeMap<(&str, &str), usize> = BTreeMap::new();
        for (index, table) in config.tables.iter().enumerate() {
            let first = *seen.entry((&table.schema, &table.name)).or_insert(index);
            if first != index {
                let name = format!("tables.{index}.name");
                let what =
                    format!("is {}.{}, as tables.{first} is already", table.schema, table.name);
                self.clash([&name, &name], what, "name each table once");
            }
        }
    }

    /// The default gives way to the mode; what somebody asked for does not.
    fn slot_loss(&mut self, config: &Config) {
        let key = "postgres.on_slot_loss";
        let is_asked =
            self.values.is_set(key) && config.postgres.on_slot_loss == OnSlotLoss::CatchUp;
        if is_asked && config.tables.is_empty() {
            let what = "is catch_up, but there is no table to catch up from: messages have no rows";
            self.clash([key, key], what, "choose on_slot_loss halt");
        } else if is_asked && !config.has_marks() {
            let what =
                "is catch_up, but with audit.mode = none there is no record of what was delivered";
            let hint = "choose audit.mode update, side_table or delete, or on_slot_loss halt";
            self.clash([key, "audit.mode"], what, hint);
        }
    }

    fn same_prefix(&mut self, config: &Config) {
        let mut seen: BTreeMap<&str, usize> = BTreeMap::new();
        for (index, source) in config.messages.iter().enumerate() {
            let first = *seen.entry(&source.name).or_insert(index);
            if first != index && !source.name.is_empty() {
                let prefix = format!("messages.{index}.prefix");
                let what = format!("is {}, as messages.{first} has already", quote(&source.name));
                self.clash([&prefix, &prefix], what, "name each prefix once");
            }
        }
    }

    /// What a stream takes the place of.
    fn sinks(&mut self, config: &Config) {
        let keys = (0..config.tables.len()).map(|index| format!("tables.{index}"));
        let keys = keys.chain((0..config.messages.len()).map(|index| format!("messages.{index}")));
        let mut seen: BTreeMap<&str, (String, usize)> = BTreeMap::new();
        for (key, source) in keys.zip(config.sources()) {
            if let Some(sink) = &source.stream {
                let (name, count) = (format!("{key}.stream"), sink.partitions.len());
                let (first, same) = seen.entry(&sink.name).or_insert_with(|| (name.clone(), count));
                if *same != count {
                    let what = format!(
                        "is {} with another number of partitions than in {first}",
                        quote(&sink.name)
                    );
                    self.clash([&name, first], what, "give it the same number each time");
                }
            }
            let is_letter = matches!(source.on_failure, OnFailure::DeadLetter { .. });
            if source.stream.is_some() && is_letter {
                let what = "is dead_letter, but a stream has no dead-letter exchange";
                let [key, sink] = ["on_failure", "sink"].map(|name| format!("{key}.{name}"));
                self.clash([&key, &sink], what, "choose on_failure park or block");
            }
        }
    }

    /// Such a flag says nothing of which table is meant.
    fn table_flags(&mut self, config: &Config) {
        for (flag, name) in [("--exchange", "exchange"), ("--preset", "preset")] {
            let origin = self.values.origin(&format!("tables.0.{name}"));
            if config.tables.len() > 1 && origin == ValueOrigin::Flag(flag.to_owned()) {
                let what = "there is more than one table";
                let hint = format!("write --set tables.N.{name}=NAME");
                self.problems.add(origin, "", what, hint);
            }
        }
    }

    /// An empty one would be a password that everybody knows.
    fn token(&mut self, config: &Config) {
        let key = "http.token";
        if config.http.token.as_ref().is_some_and(|token| token.expose().trim().is_empty()) {
            self.clash([key, key], "is empty", "take it away, or write: openssl rand -hex 32");
        }
    }

    fn queues(&mut self, config: &Config) {
        let mut seen: BTreeMap<String, usize> = BTreeMap::new();
        for (index, queue) in config.declare.each() {
            let name = format!("declare.queues.{index}.name");
            let first = *seen.entry(queue.name.clone()).or_insert(index);
            if first != index && !queue.name.is_empty() {
                let what = format!("is {:?}, as declare.queues.{first} is already", queue.name);
                self.clash([&name, &name], what, "name each queue once");
            }
        }
        for (index, queue) in config.declare.queues.iter().enumerate() {
            let key = format!("declare.queues.{index}");
            let (name, count) = (format!("{key}.name"), format!("{key}.count"));
            if queue.count > 1 && !queue.name.contains("{n}") && !queue.name.is_empty() {
                let what = "has no {n} for the number of each";
                self.clash([&name, &count], what, "such as name = \"orders.{n}\"");
            }
            let exchange = config.sources().next().and_then(|table| table.exchange.fixed());
            if queue.exchange.is_none() && exchange.is_none() && !queue.bindings.is_empty() {
                let exchange = format!("{key}.exchange");
                let what = "is not set, and the first table's exchange depends on its rows";
                self.clash([&exchange, "tables.0.exchange"], what, "name the exchange to bind to");
            }
        }
    }
}
