//! What was done, in numbers: events by outcome, and how long they took. Plain fields, written
//! by the one task that owns them; anyone who wants to see them is given a copy.

use std::time::Duration;

/// Upper bounds of a [`Histogram`]'s buckets, in seconds.
pub(crate) const BOUNDS_SECONDS: [f64; 20] = [
    0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.02, 0.03, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5,
    5.0, 10.0, 60.0, 300.0, 1_800.0,
];

/// What was done for one table, in a session.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct TableTally {
    /// Events that a queue took.
    pub delivered: u64,
    /// Events put aside, also behind one of their aggregate.
    pub parked: u64,
    /// From the commit to the confirm.
    pub to_confirm: Histogram,
}

/// How long events took, counted by bucket.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Histogram {
    buckets: [u64; BOUNDS_SECONDS.len() + 1],
    sum_seconds: f64,
}

/// How long one took, with its bucket: several histograms take it in.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Took {
    seconds: f64,
    bucket: usize,
}

impl From<Duration> for Took {
    fn from(took: Duration) -> Self {
        let seconds = took.as_secs_f64();
        Self { seconds, bucket: BOUNDS_SECONDS.partition_point(|bound| *bound < seconds) }
    }
}

impl Histogram {
    /// Takes one in.
    pub(crate) fn observe(&mut self, took: Took) {
        if let Some(count) = self.buckets.get_mut(took.bucket) {
            *count += 1;
        }
        self.sum_seconds += took.seconds;
    }

    /// How many there were.
    pub(crate) fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// All of them together, in seconds.
    pub(crate) fn sum_seconds(&self) -> f64 {
        self.sum_seconds
    }

    /// How many took at most so long: each bound in seconds, the last infinite.
    pub(crate) fn cumulative(&self) -> impl Iterator<Item = (f64, u64)> {
        let bounds = BOUNDS_SECONDS.into_iter().chain([f64::INFINITY]);
        let mut sum = 0;
        bounds.zip(self.buckets).map(move |(bound, count)| {
            sum += count;
            (bound, sum)
        })
    }

    /// So many seconds a share of them took at most, from 0 to 1; read between the bounds of a
    /// bucket as if they were spread over it evenly. `None` where there are none.
    #[allow(clippy::cast_precision_loss)] // an estimate
    pub(crate) fn quantile(&self, share: f64) -> Option<f64> {
        let wanted = share * self.count() as f64;
        let (mut below, mut low) = (0.0, 0.0);
        for (high, upto) in self.cumulative() {
            let upto = upto as f64;
            if upto >= wanted && upto > below {
                let part = (wanted - below) / (upto - below);
                return Some(if high.is_finite() { low + part * (high - low) } else { low });
            }
            (below, low) = (upto, high);
        }
        None
    }

    /// What came since `before`, which is an earlier state of this one.
    #[must_use]
    pub(crate) fn since(&self, before: &Self) -> Self {
        let mut since = *self;
        for (count, before) in since.buckets.iter_mut().zip(before.buckets) {
            *count = count.saturating_sub(before);
        }
        since.sum_seconds = (self.sum_seconds - before.sum_seconds).max(0.0);
        since
    }

    /// Adds another one's.
    pub(crate) fn add(&mut self, other: &Self) {
        for (count, other) in self.buckets.iter_mut().zip(other.buckets) {
            *count += other;
        }
        self.sum_seconds += other.sum_seconds;
    }
}

/// What became of the events of one table, or of the messages of one prefix.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct SourceTally {
    /// Messages that a queue took.
    pub delivered: u64,
    /// Events put aside, also behind one of their aggregate.
    pub parked: u64,
}

impl From<TableTally> for SourceTally {
    fn from(TableTally { delivered, parked, .. }: TableTally) -> Self {
        Self { delivered, parked }
    }
}

impl SourceTally {
    /// Adds what another session did.
    pub(crate) fn add(&mut self, other: &Self) {
        self.delivered += other.delivered;
        self.parked += other.parked;
    }
}

/// What a session has done.
#[derive(Debug, Clone, Default)]
pub(crate) struct SessionTally {
    /// In all.
    pub all: Tally,
    /// Of each table.
    pub by_source: Vec<(String, SourceTally)>,
    /// By where events went: `exchange:NAME` or `stream:NAME`.
    pub by_destination: Vec<(String, SourceTally)>,
}

/// What was done.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Tally {
    /// Messages published.
    pub published: u64,
    /// Messages that a queue took.
    pub delivered: u64,
    /// Events that an earlier session had settled.
    pub repeated: u64,
    /// Rows inserted with their mark already set: settled without being published.
    pub came_marked: u64,
    /// Rows that the rule of their table leaves out.
    pub left_out: u64,
    /// Messages that no queue took.
    pub returned: u64,
    /// Messages that the broker did not take.
    pub nacked: u64,
    /// Messages over which the broker closed the channel.
    pub closed: u64,
    /// Events that make no message: unreadable, or over a limit.
    pub unreadable: u64,
    /// Events put aside because they were refused.
    pub parked: u64,
    /// Events put aside behind one of their aggregate.
    pub queued: u64,
    /// Tries of parked events.
    pub retried: u64,
    /// Events that the dead-letter exchange took.
    pub dead_lettered: u64,
    /// Marks written.
    pub marked: u64,
    /// Marks given up; the rows stay as they were.
    pub unmarked: u64,
    /// Rows of relations that are no outbox table, and changes that are not inserts.
    pub ignored: u64,
    /// Messages with the prefix of an event that are not transactional, and so are none.
    pub not_transactional: u64,
    /// From commit to being handed to the broker's connection.
    pub to_publish: Histogram,
    /// From commit to the broker's confirm; of events that came by the stream or the list of a
    /// catch-up, not of parked ones, whose age is that of the fault.
    pub to_confirm: Histogram,
}

impl Tally {
    /// Adds what another session did.
    pub(crate) fn add(&mut self, other: &Self) {
        for (mine, theirs) in [
            (&mut self.published, other.published),
            (&mut self.delivered, other.delivered),
            (&mut self.repeated, other.repeated),
            (&mut self.came_marked, other.came_marked),
            (&mut self.left_out, other.left_out),
            (&mut self.returned, other.returned),
            (&mut self.nacked, other.nacked),
            (&mut self.closed, other.closed),
            (&mut self.unreadable, other.unreadable),
            (&mut self.parked, other.parked),
            (&mut self.queued, other.queued),
            (&mut self.retried, other.retried),
            (&mut self.dead_lettered, other.dead_lettered),
            (&mut self.marked, other.marked),
            (&mut self.unmarked, other.unmarked),
            (&mut self.ignored, other.ignored),
            (&mut self.not_transactional, other.not_transactional),
        ] {
            *mine += theirs;
        }
        self.to_publish.add(&other.to_publish);
        self.to_confirm.add(&other.to_confirm);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn histogram(millis: &[u64]) -> Histogram {
        let mut histogram = Histogram::default();
        for millis in millis {
            histogram.observe(Duration::from_millis(*millis).into());
        }
        histogram
    }

    #[test]
    fn a_duration_falls_into_the_first_bucket_that_holds_it() {
        let counts = histogram(&[0, 1, 2, 2_000_000]).cumulative().collect::<Vec<_>>();
        assert_eq!(counts[0], (0.0005, 1));
        assert_eq!(counts[1], (0.001, 2), "a bound belongs to its bucket");
        assert_eq!(counts[2], (0.002, 3));
        assert_eq!(counts[19], (1_800.0, 3));
        assert_eq!(counts[20], (f64::INFINITY, 4));
    }

    #[test]
    fn quantiles_lie_within_their_bucket() {
        assert_eq!(Histogram::default().quantile(0.5), None);
        let all = histogram(&[4; 100]);
        let median = all.quantile(0.5).unwrap();
        assert!((0.003..=0.005).contains(&median), "{median}");
        let mut mixed = histogram(&[4; 98]);
        mixed.add(&histogram(&[700; 2]));
        assert!(mixed.quantile(0.9).unwrap() <= 0.005);
        assert!(mixed.quantile(0.99).unwrap() > 0.5);
        assert_eq!(histogram(&[5_000_000]).quantile(1.0), Some(1_800.0), "the last bound");
    }

    #[test]
    fn what_came_since_is_the_difference() {
        let before = histogram(&[4, 700]);
        let mut after = before;
        after.observe(Duration::from_millis(40).into());
        assert_eq!(after.since(&before).count(), 1);
        assert!((after.since(&before).sum_seconds() - 0.04).abs() < 1e-9);
    }
}
