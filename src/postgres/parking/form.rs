//! In which form an event is parked: as it is, or, where the server refuses that, with less.

/// How much of an event is parked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Form {
    Whole,
    /// Its error in ASCII: the broker's words may hold what the database's encoding has not.
    Plain,
    /// Without its id and its aggregate's, so that nothing waits behind it after a restart.
    WithoutKeys,
    /// Without its row too: it can only be looked up in the outbox.
    WithoutCells,
}

impl Form {
    pub(super) const LESSER: [(Self, &'static str); 3] = [
        (Self::Plain, "with its error in ASCII"),
        (Self::WithoutKeys, "without its id and its aggregate's"),
        (Self::WithoutCells, "without its row"),
    ];

    /// Postgres has no NUL in a text.
    pub(super) fn text(self, text: &str) -> String {
        match self {
            Self::Whole => text.replace('\0', "\u{FFFD}"),
            _ => text.escape_default().to_string(),
        }
    }
}
