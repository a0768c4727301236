//! The walsender: what of the WAL is sent, in the bytes of pgoutput.

use super::*;
use crate::pgoutput;

/// As the server says a time.
pub(crate) fn micros(at: u64) -> i64 {
    700_000_000_000_000 + i64::try_from(at * 1_000).unwrap()
}

/// What the server sends.
#[derive(Debug, Clone)]
pub(crate) enum Frame {
    /// Bytes of pgoutput, and what they are.
    Data(Bytes, What),
    /// A keepalive.
    KeepAlive { wal_end: u64, is_reply_requested: bool },
}

/// What the bytes of a frame mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum What {
    /// The event of this place.
    Event(usize),
    /// A commit that ends here.
    Commit(u64),
    /// A relation.
    Relation(u32),
    /// Something else.
    Rest,
}

/// A walsender and what it has sent that nobody has read.
pub(crate) struct Walsender {
    pub(super) next: usize,
    pub(crate) sent: u64,
    pub(super) announced: BTreeMap<Table, u8>,
    pub(crate) queue: VecDeque<Frame>,
}

impl Walsender {
    /// Decodes and sends the next transaction, or passes over what is not a transaction.
    pub(crate) fn send(&mut self, postgres: &Postgres, script: &Script) -> bool {
        match postgres.transactions.get(self.next) {
            Some(transaction) if transaction.end_lsn <= postgres.flushed => {
                self.next += 1;
                self.send_transaction(postgres, transaction, script);
                self.sent = transaction.end_lsn;
                true
            }
            _ => {
                self.sent = postgres.flushed;
                false
            }
        }
    }

    pub(crate) fn keepalive(&mut self, is_reply_requested: bool) {
        self.queue.push_back(Frame::KeepAlive { wal_end: self.sent, is_reply_requested });
    }

    fn data(&mut self, bytes: Bytes, what: What) {
        self.queue.push_back(Frame::Data(bytes, what));
    }

    fn send_transaction(
        &mut self,
        postgres: &Postgres,
        transaction: &Transaction,
        script: &Script,
    ) {
        let Transaction { commit_lsn, committed_at, end_lsn, xid, is_skipped, rows } = transaction;
        let is_empty = rows.is_empty() || *is_skipped;
        if is_empty && !postgres.sends_empty {
            return;
        }
        let commit_time = micros(*committed_at);
        self.data(pgoutput::begin(*commit_lsn, commit_time, *xid), What::Rest);
        if !is_empty {
            for (place, row) in rows {
                if row.table.is_message() {
                    self.message(*place, row);
                } else {
                    self.announce(row, script);
                    self.insert(*place, row);
                }
                if script.one_in(20) {
                    self.keepalive(false);
                }
                if script.one_in(30) {
                    self.aside(script);
                }
            }
        }
        self.data(pgoutput::commit(*commit_lsn, *end_lsn, commit_time), What::Commit(*end_lsn));
    }

    fn announce(&mut self, row: &Row, script: &Script) {
        let is_known = self.announced.get(&row.table) == Some(&row.shape);
        if is_known && !script.one_in(25) {
            return;
        }
        self.announced.insert(row.table, row.shape);
        // A table that the relay knows by its oid may have had another name.
        let is_renamed = row.table == Table::Known && row.shape == 2;
        let name = if is_renamed { "outbox_old" } else { row.table.name() };
        let relation = pgoutput::relation(row.table.oid(), name, &row.columns());
        self.data(relation, What::Relation(row.table.oid()));
    }

    fn insert(&mut self, place: Option<usize>, row: &Row) {
        let insert = pgoutput::insert(row.table.oid(), &row.columns());
        self.data(insert, place.map_or(What::Rest, What::Event));
    }

    fn message(&mut self, place: Option<usize>, row: &Row) {
        let members = row.columns().into_iter().filter_map(|(name, type_oid, value)| {
            let value = value?;
            let is_member = !matches!(name, "note" | "exchange" | "relayed_at");
            let is_json = type_oid == 3_802;
            is_member.then(|| match is_json {
                true => format!("\"{name}\": {value}"),
                false => format!("\"{name}\": \"{value}\""),
            })
        });
        let content = format!("{{{}}}", members.collect::<Vec<_>>().join(", "));
        let mut bytes = BytesMut::new();
        bytes.put_u8(b'M');
        bytes.put_u8(1);
        bytes.put_u64(7);
        bytes.put_slice(row.table.name().as_bytes());
        bytes.put_u8(0);
        bytes.put_u32(u32::try_from(content.len()).unwrap());
        bytes.put_slice(content.as_bytes());
        self.data(bytes.freeze(), place.map_or(What::Rest, What::Event));
    }

    /// What a server may send besides.
    fn aside(&mut self, script: &Script) {
        let mut bytes = BytesMut::new();
        match script.within(0..3) {
            0 => {
                bytes.put_slice(b"M\0\0\0\0\0\0\0\0\x09orders\0");
                bytes.put_u32(3);
                bytes.put_slice(b"abc");
            }
            1 => bytes.put_slice(b"O\0\0\0\0\0\0\0\x09elsewhere\0"),
            _ => bytes.put_slice(b"U\0\0\x4e\x24N\0\x01n"),
        }
        self.data(bytes.freeze(), What::Rest);
    }
}
