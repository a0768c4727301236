//! Rows for an outbox table, as SQL.
//!
//! ```ignore
//! setting.insert(event(7, "good").of("a")).await?;
//! setting.insert(events(1..=300, "good").column("aggregate_id", "n % 7").each()).await?;
//! ```

use std::ops::RangeInclusive;

/// One row for each number `n`, which the columns' expressions may name.
#[derive(Clone, Debug)]
#[must_use = "they are inserted by `Setting::insert`"]
pub struct Events {
    table: String,
    numbers: RangeInclusive<i64>,
    columns: Vec<(String, String)>,
    is_each: bool,
}

/// One event, whose id is [`uuid`](crate::setting::uuid) of its number.
pub fn event(number: u32, topic: &str) -> Events {
    let number = i64::from(number);
    events(number..=number, topic)
}

/// Likewise, in one transaction.
pub fn events(numbers: RangeInclusive<i64>, topic: &str) -> Events {
    Events::new(numbers)
        .column("id", "('00000000-0000-0000-0000-' || lpad(n::text, 12, '0'))::uuid")
        .topic(topic)
        .column("payload", "'{}'")
}

/// So many events whose ids the table makes.
pub fn rows(count: i64, topic: &str) -> Events {
    Events::new(1..=count).topic(topic).column("payload", "'{}'")
}

/// Events whose payloads tell their numbers, and whose ids the table makes, each in a transaction of
/// its own.
pub fn counted(numbers: RangeInclusive<i64>) -> Events {
    Events::new(numbers)
        .topic("t")
        .column("payload", "jsonb_build_object('n', n)")
        .column("occurred_at", "clock_timestamp()")
        .each()
}

impl Events {
    fn new(numbers: RangeInclusive<i64>) -> Self {
        let table = "outbox_messages".to_owned();
        Self { table, numbers, columns: Vec::new(), is_each: false }
    }

    /// Of this aggregate.
    pub fn of(self, id: &str) -> Self {
        self.column("aggregate_type", "'order'").column("aggregate_id", &quoted(id))
    }

    /// Of this table.
    pub fn table(mut self, table: &str) -> Self {
        self.table = table.to_owned();
        self
    }

    /// A column and an SQL expression; the last one of a name counts.
    pub fn column(mut self, name: &str, expression: &str) -> Self {
        self.columns.retain(|(known, _)| known != name);
        self.columns.push((name.to_owned(), expression.to_owned()));
        self
    }

    pub fn topic(self, topic: &str) -> Self {
        self.column("topic", &quoted(topic))
    }

    /// Each in a transaction of its own.
    pub fn each(mut self) -> Self {
        self.is_each = true;
        self
    }

    /// All of them in one.
    pub fn at_once(mut self) -> Self {
        self.is_each = false;
        self
    }

    pub fn sql(&self) -> String {
        let Self { table, numbers, columns, is_each } = self;
        let (names, values): (Vec<_>, Vec<_>) =
            columns.iter().map(|(name, value)| (name.as_str(), value.as_str())).unzip();
        let (names, values) = (names.join(", "), values.join(", "));
        let (first, last) = (numbers.start(), numbers.end());
        if *is_each {
            format!(
                "DO $each$ BEGIN FOR n IN {first}..{last} LOOP
                     INSERT INTO {table} ({names}) VALUES ({values}); COMMIT;
                 END LOOP; END $each$"
            )
        } else {
            format!(
                "INSERT INTO {table} ({names}) SELECT {values} FROM generate_series({first}, {last}) AS n ORDER BY n.n"
            )
        }
    }
}

fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_one_row_with_its_number() {
        let sql = event(7, "it's").of("a").table("other").column("payload", "'1'").sql();
        assert_eq!(
            sql,
            "INSERT INTO other (id, topic, aggregate_type, aggregate_id, payload) \
             SELECT ('00000000-0000-0000-0000-' || lpad(n::text, 12, '0'))::uuid, 'it''s', 'order', 'a', '1' \
             FROM generate_series(7, 7) AS n ORDER BY n.n"
        );
        assert!(counted(1..=3).sql().contains("FOR n IN 1..3 LOOP"));
    }
}
