//! The messages that lapin has, from being queued to the broker's answer.
//!
//! lapin knows each as a future: first until its bytes are on the socket, then until its confirm
//! is there. Each is polled only when it said that it has moved on: a look through the whole
//! window for every few confirms would cost more than the confirms.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

use futures_util::task::AtomicWaker;
use lapin::{Confirmation, PublisherConfirm};
use tokio_util::sync::ReusableBoxFuture;

/// Queues a message, and ends once its bytes are on the socket.
pub(super) type Publishing = ReusableBoxFuture<'static, lapin::Result<PublisherConfirm>>;

/// A message in flight.
struct Slot {
    stage: Stage,
    bell: Bell,
}

enum Stage {
    /// Queued; the bytes are not yet on the socket.
    Publishing(Publishing),
    /// The broker has not answered yet.
    Confirming(PublisherConfirm),
    /// lapin did not take it.
    Failed(lapin::Error),
    /// The broker's answer was handed on.
    Resolved,
}

/// Rings when a message has moved on; used again for another one.
struct Bell {
    clapper: Arc<Clapper>,
    waker: Waker,
}

struct Clapper {
    number: AtomicU64,
    /// The oldest in flight: it wakes the task. One ack for many messages wakes it once.
    is_oldest: AtomicBool,
    rung: Arc<Rung>,
}

/// The messages that have moved on, in the order in which they did.
#[derive(Default)]
struct Rung {
    numbers: Mutex<Vec<u64>>,
    task: AtomicWaker,
}

impl Wake for Clapper {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.rung.push(self.number.load(Ordering::Acquire));
        if self.is_oldest.load(Ordering::Acquire) {
            self.rung.task.wake();
        }
    }
}

impl Rung {
    fn push(&self, number: u64) {
        self.numbers.lock().unwrap_or_else(PoisonError::into_inner).push(number);
    }

    /// Swaps the list for an empty one.
    fn take(&self, list: &mut Vec<u64>) {
        list.clear();
        std::mem::swap(&mut *self.numbers.lock().unwrap_or_else(PoisonError::into_inner), list);
    }
}

/// An answer of the broker to the message of that number.
pub(super) type Answer = (u64, Confirmation);

/// Answers of the broker.
#[derive(Debug, Default)]
pub(super) struct Answers {
    /// Seen before the rest.
    pub(super) seen: Vec<Answer>,
    /// Seen then: every answer that lapin knew before one of those `seen` is here or there, or
    /// was handed on before.
    pub(super) rest: Vec<Answer>,
}

/// All messages in flight, numbered from 0 in the order in which they were queued.
pub(super) struct Flight {
    slots: VecDeque<Slot>,
    /// Number of the message in the first slot.
    first: u64,
    /// The memory of futures that have ended, one and a half kilobytes each.
    spare: Vec<Publishing>,
    bells: Vec<Bell>,
    rung: Arc<Rung>,
    list: Vec<u64>,
    needs_pass: bool,
}

impl Flight {
    pub(super) fn new() -> Self {
        Self {
            slots: VecDeque::new(),
            first: 0,
            spare: Vec::new(),
            bells: Vec::new(),
            rung: Arc::default(),
            list: Vec::new(),
            needs_pass: false,
        }
    }

    /// Takes in the next message: polled once, which is what queues it.
    pub(super) fn push<F>(&mut self, publishing: F)
    where
        F: Future<Output = lapin::Result<PublisherConfirm>> + Send + 'static,
    {
        let number = self.first + u64::try_from(self.slots.len()).unwrap_or(u64::MAX);
        let bell = self.bells.pop().unwrap_or_else(|| Bell::new(&self.rung));
        bell.clapper.number.store(number, Ordering::Release);
        bell.clapper.is_oldest.store(self.slots.is_empty(), Ordering::Release);
        let mut publishing = match self.spare.pop() {
            Some(mut spare) => {
                spare.set(publishing);
                spare
            }
            None => ReusableBoxFuture::new(publishing),
        };
        let stage = match publishing.poll(&mut Context::from_waker(&bell.waker)) {
            Poll::Pending => Stage::Publishing(publishing),
            // lapin's thread was quicker; or it did not take it. Either way it is to be looked at.
            Poll::Ready(outcome) => {
                self.spare.push(publishing);
                self.rung.push(number);
                self.rung.task.wake();
                outcome.map_or_else(Stage::Failed, Stage::Confirming)
            }
        };
        self.slots.push_back(Slot { stage, bell });
    }

    /// Waits for answers.
    ///
    /// # Errors
    /// The channel or the connection has ended.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Answers, lapin::Error>> {
        // Before the list is taken: what rings from here on wakes us.
        self.rung.task.register(cx.waker());
        let mut answers = Answers::default();
        loop {
            self.look(&mut answers.seen)?;
            self.settle_oldest();
            // The new oldest may have rung before it was known to be that.
            if !answers.seen.is_empty() || self.needs_pass {
                break;
            }
            if self.is_quiet() {
                return Poll::Pending;
            }
        }
        self.look(&mut answers.rest)?;
        self.settle_oldest();
        // What the second look found, only the next one can vouch for.
        self.needs_pass = !answers.rest.is_empty();
        Poll::Ready(Ok(answers))
    }

    fn is_quiet(&self) -> bool {
        self.rung.numbers.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    /// Polls what has moved on.
    fn look(&mut self, answers: &mut Vec<Answer>) -> Result<(), lapin::Error> {
        let mut list = std::mem::take(&mut self.list);
        self.rung.take(&mut list);
        let outcome = list.iter().try_for_each(|number| {
            let index = number.checked_sub(self.first).and_then(|at| usize::try_from(at).ok());
            // A late ring of one that is done.
            let Some(slot) = index.and_then(|index| self.slots.get_mut(index)) else {
                return Ok(());
            };
            if let Poll::Ready(answer) = slot.poll(&mut self.spare) {
                answers.extend(answer?.map(|confirmation| (*number, confirmation)));
            }
            Ok(())
        });
        self.list = list;
        outcome
    }

    fn settle_oldest(&mut self) {
        while self.slots.front().is_some_and(|slot| matches!(slot.stage, Stage::Resolved)) {
            self.bells.extend(self.slots.pop_front().map(|slot| slot.bell));
            self.first += 1;
        }
        if let Some(oldest) = self.slots.front() {
            oldest.bell.clapper.is_oldest.store(true, Ordering::Release);
        }
    }

    /// The errors of all messages, the oldest first.
    pub(super) fn errors(&mut self) -> impl Iterator<Item = lapin::Error> {
        let spare = &mut self.spare;
        self.slots.iter_mut().filter_map(|slot| match slot.poll(spare) {
            Poll::Ready(Err(error)) => Some(error),
            _ => None,
        })
    }
}

impl Bell {
    fn new(rung: &Arc<Rung>) -> Self {
        let clapper = Arc::new(Clapper {
            number: AtomicU64::new(0),
            is_oldest: AtomicBool::new(false),
            rung: Arc::clone(rung),
        });
        let waker = Waker::from(Arc::clone(&clapper));
        Self { clapper, waker }
    }
}

impl Slot {
    /// The memory of a future that has ended goes to `spare`: at once, since what is on the
    /// socket and not confirmed is most of the window.
    fn poll(
        &mut self,
        spare: &mut Vec<Publishing>,
    ) -> Poll<Result<Option<Confirmation>, lapin::Error>> {
        let mut cx = Context::from_waker(&self.bell.waker);
        if let Stage::Publishing(publishing) = &mut self.stage {
            let Poll::Ready(outcome) = publishing.poll(&mut cx) else { return Poll::Pending };
            let stage = outcome.map_or_else(Stage::Failed, Stage::Confirming);
            if let Stage::Publishing(ended) = std::mem::replace(&mut self.stage, stage) {
                spare.push(ended);
            }
        }
        let outcome = match &mut self.stage {
            Stage::Confirming(confirm) => match Pin::new(confirm).poll(&mut cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(confirmation) => confirmation.map(Some),
            },
            Stage::Failed(error) => Err(error.clone()),
            Stage::Publishing(_) | Stage::Resolved => return Poll::Ready(Ok(None)),
        };
        self.stage = Stage::Resolved;
        Poll::Ready(outcome)
    }
}
