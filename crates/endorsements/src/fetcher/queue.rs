//! What waits to be fetched. Pure: the time comes in as a value.

use super::{FetchConfig, Wanted};
use std::{
    collections::{HashMap, VecDeque},
    time::{Duration, Instant},
};
use tracing::debug;

/// The most answers "there is none" that are kept.
const MAX_ABSENT: usize = 4096;

/// What the thread does next.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    End,
    Fetch(Wanted),
    /// Until something changes, or for this long.
    Sleep(Option<Duration>),
}

#[derive(Debug)]
pub(super) struct Queue {
    config: FetchConfig,
    /// First come, first served, after revocation lists.
    waiting: VecDeque<Wanted>,
    /// Everything that waits or is being fetched, and when it was last asked for: each thing once,
    /// however many ask.
    asked: HashMap<Wanted, Instant>,
    /// What the service does not have, and until when that is believed.
    absent: HashMap<Wanted, Instant>,
    resume: Option<Instant>,
    closed: bool,
}

impl Queue {
    pub(super) fn new(config: FetchConfig) -> Self {
        Self {
            config,
            waiting: VecDeque::new(),
            asked: HashMap::new(),
            absent: HashMap::new(),
            resume: None,
            closed: false,
        }
    }

    /// Adds something that is not there yet; says whether it did.
    pub(super) fn schedule(&mut self, wanted: Wanted, now: Instant) -> bool {
        if self.absent.get(&wanted).is_some_and(|until| now < *until) {
            return false;
        }
        if let Some(asked) = self.asked.get_mut(&wanted) {
            *asked = now;
            return false;
        }
        // One for each product line, and every node of it may wait for it. Certificates are for as many
        // chips as strangers make up.
        let is_list = matches!(wanted, Wanted::List(_));
        if !is_list && self.waiting.len() >= self.config.queue {
            metrics::counter!("endorsement_queue_full_total").increment(1);
            debug!(%wanted, "queue is full");
            return false;
        }
        self.asked.insert(wanted, now);
        match is_list {
            true => self.waiting.push_front(wanted),
            false => self.waiting.push_back(wanted),
        }
        true
    }

    /// What to do now. What is to be fetched stays asked for until it is settled.
    pub(super) fn step(&mut self, now: Instant) -> Step {
        if self.closed {
            return Step::End;
        }
        self.forget_abandoned(now);
        if self.waiting.is_empty() {
            return Step::Sleep(None);
        }
        if let Some(resume) = self.resume.filter(|resume| now < *resume) {
            return Step::Sleep(Some(resume - now));
        }
        match self.waiting.pop_front() {
            Some(wanted) => Step::Fetch(wanted),
            None => Step::Sleep(None),
        }
    }

    /// It was fetched.
    pub(super) fn done(&mut self, wanted: Wanted) {
        self.asked.remove(&wanted);
    }

    /// It was not fetched, and is tried again after what came since.
    pub(super) fn again(&mut self, wanted: Wanted, now: Instant) {
        if self.is_abandoned(&wanted, now) {
            self.asked.remove(&wanted);
        } else {
            self.waiting.push_back(wanted);
        }
    }

    /// The service does not have it.
    pub(super) fn absent(&mut self, wanted: Wanted, now: Instant) {
        self.asked.remove(&wanted);
        self.absent.retain(|_, until| now < *until);
        // Beyond the bound it may be asked for again: the interval still holds.
        if self.absent.len() < MAX_ABSENT {
            self.absent.insert(wanted, now + self.config.absent);
        }
    }

    /// Nothing is fetched before.
    pub(super) fn pause_until(&mut self, resume: Instant) {
        self.resume = Some(resume);
    }

    pub(super) fn close(&mut self) {
        self.closed = true;
    }

    fn forget_abandoned(&mut self, now: Instant) {
        while let Some(wanted) = self.waiting.front().copied()
            && self.is_abandoned(&wanted, now)
        {
            self.waiting.pop_front();
            self.asked.remove(&wanted);
        }
    }

    fn is_abandoned(&self, wanted: &Wanted, now: Instant) -> bool {
        let asked = self.asked.get(wanted);
        asked.is_none_or(|asked| now.duration_since(*asked) > self.config.patience)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::EndorsementId;
    use snp::Product;

    const MILAN: Wanted = Wanted::Leaf(EndorsementId::vlek(Product::Milan));
    const GENOA: Wanted = Wanted::Leaf(EndorsementId::vlek(Product::Genoa));
    const TURIN: Wanted = Wanted::Leaf(EndorsementId::vlek(Product::Turin));
    const LIST: Wanted = Wanted::List(Product::Milan);

    const SECOND: Duration = Duration::from_secs(1);

    fn queue() -> (Queue, Instant) {
        let config = FetchConfig {
            queue: 2,
            ..FetchConfig::default()
        };
        (Queue::new(config), Instant::now())
    }

    #[test]
    fn each_thing_is_fetched_once_for_all_who_ask() {
        let (mut queue, now) = queue();
        assert!(queue.schedule(MILAN, now));
        assert!(!queue.schedule(MILAN, now));
        assert_eq!(queue.step(now), Step::Fetch(MILAN));
        // Still in flight.
        assert!(!queue.schedule(MILAN, now));
        assert_eq!(queue.step(now), Step::Sleep(None));
        queue.done(MILAN);
        assert!(queue.schedule(MILAN, now));
    }

    #[test]
    fn the_queue_is_bounded() {
        let (mut queue, now) = queue();
        assert!(queue.schedule(MILAN, now));
        assert!(queue.schedule(GENOA, now));
        assert!(!queue.schedule(TURIN, now));
        assert_eq!(queue.step(now), Step::Fetch(MILAN));
        assert!(queue.schedule(TURIN, now));
    }

    #[test]
    fn a_list_waits_for_no_certificates() {
        let (mut queue, now) = queue();
        queue.schedule(MILAN, now);
        queue.schedule(GENOA, now);
        assert!(queue.schedule(LIST, now), "although the queue is full");
        assert!(!queue.schedule(LIST, now));
        assert_eq!(queue.step(now), Step::Fetch(LIST));
        assert_eq!(queue.step(now), Step::Fetch(MILAN));
        // One that is not there now does not keep the certificates from being fetched.
        queue.again(LIST, now);
        assert_eq!(queue.step(now), Step::Fetch(GENOA));
        assert_eq!(queue.step(now), Step::Fetch(LIST));
    }

    #[test]
    fn a_pause_holds_for_everything() {
        let (mut queue, now) = queue();
        queue.schedule(MILAN, now);
        queue.pause_until(now + SECOND);
        queue.schedule(GENOA, now);
        assert_eq!(queue.step(now), Step::Sleep(Some(SECOND)));
        assert_eq!(queue.step(now + SECOND), Step::Fetch(MILAN));
    }

    #[test]
    fn what_failed_comes_after_what_waits() {
        let (mut queue, now) = queue();
        queue.schedule(MILAN, now);
        queue.schedule(GENOA, now);
        assert_eq!(queue.step(now), Step::Fetch(MILAN));
        queue.again(MILAN, now);
        assert_eq!(queue.step(now), Step::Fetch(GENOA));
        assert_eq!(queue.step(now), Step::Fetch(MILAN));
    }

    #[test]
    fn an_absent_thing_is_not_asked_for_again_at_once() {
        let (mut queue, now) = queue();
        queue.schedule(MILAN, now);
        queue.step(now);
        queue.absent(MILAN, now);
        let until = queue.config.absent;
        assert!(!queue.schedule(MILAN, now + until - SECOND));
        assert!(queue.schedule(MILAN, now + until));
    }

    #[test]
    fn what_nobody_wants_any_more_is_dropped() {
        let (mut queue, now) = queue();
        queue.schedule(MILAN, now);
        queue.schedule(GENOA, now);
        let late = now + queue.config.patience + SECOND;
        queue.schedule(GENOA, late);
        assert_eq!(queue.step(late), Step::Fetch(GENOA));
        queue.again(GENOA, late + queue.config.patience + SECOND);
        assert_eq!(queue.step(late), Step::Sleep(None));
    }

    #[test]
    fn closing_ends_whatever_waits() {
        let (mut queue, now) = queue();
        queue.schedule(MILAN, now);
        queue.pause_until(now + SECOND);
        queue.close();
        assert_eq!(queue.step(now), Step::End);
    }
}
