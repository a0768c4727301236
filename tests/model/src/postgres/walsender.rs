//! The walsender: what of the WAL is sent, in the bytes of pgoutput.

use super::*;

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
    /// Decodes and sends the next transaction, or passes over what is no transaction.
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

    fn data(&mut self, bytes: BytesMut, what: What) {
        self.queue.push_back(Frame::Data(bytes.freeze(), what));
    }

    fn send_transaction(
        &mut self,
        postgres: &Postgres,
        transaction: &Transaction,
        script: &Script,
    ) {
        let Transaction { commit_lsn, end_lsn, xid, is_skipped, rows } = transaction;
        let is_empty = rows.is_empty() || *is_skipped;
        if is_empty && !postgres.sends_empty {
            return;
        }
        let commit_time: i64 = 700_000_000_000_000 + i64::from(*xid);
        let mut begin = BytesMut::new();
        begin.put_u8(b'B');
        begin.put_u64(*commit_lsn);
        begin.put_i64(commit_time);
        begin.put_u32(*xid);
        self.data(begin, What::Rest);
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
        let mut commit = BytesMut::new();
        commit.put_u8(b'C');
        commit.put_u8(0);
        commit.put_u64(*commit_lsn);
        commit.put_u64(*end_lsn);
        commit.put_i64(commit_time);
        self.data(commit, What::Commit(*end_lsn));
    }

    fn announce(&mut self, row: &Row, script: &Script) {
        let is_known = self.announced.get(&row.table) == Some(&row.shape);
        if is_known && !script.one_in(25) {
            return;
        }
        self.announced.insert(row.table, row.shape);
        let columns = row.columns();
        let mut bytes = BytesMut::new();
        bytes.put_u8(b'R');
        bytes.put_u32(row.table.oid());
        bytes.put_slice(b"public\0");
        // A table that the relay knows by its oid may have had another name.
        let is_renamed = row.table == Table::Known && row.shape == 2;
        bytes.put_slice(if is_renamed { b"outbox_old" } else { row.table.name().as_bytes() });
        bytes.put_slice(b"\0d");
        bytes.put_u16(u16::try_from(columns.len()).unwrap());
        for (name, oid, _) in columns {
            bytes.put_u8(u8::from(name == "id"));
            bytes.put_slice(name.as_bytes());
            bytes.put_u8(0);
            bytes.put_u32(oid);
            bytes.put_i32(-1);
        }
        self.data(bytes, What::Relation(row.table.oid()));
    }

    fn insert(&mut self, place: Option<usize>, row: &Row) {
        let columns = row.columns();
        let mut bytes = BytesMut::new();
        bytes.put_u8(b'I');
        bytes.put_u32(row.table.oid());
        bytes.put_u8(b'N');
        bytes.put_u16(u16::try_from(columns.len()).unwrap());
        for (_, _, value) in columns {
            match value {
                None => bytes.put_u8(b'n'),
                Some(value) => {
                    bytes.put_u8(b't');
                    bytes.put_u32(u32::try_from(value.len()).unwrap());
                    bytes.put_slice(value.as_bytes());
                }
            }
        }
        self.data(bytes, place.map_or(What::Rest, What::Event));
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
        self.data(bytes, place.map_or(What::Rest, What::Event));
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
        self.data(bytes, What::Rest);
    }
}
