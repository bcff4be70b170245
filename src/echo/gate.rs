//! When to accept, and when to let connections wait.

use std::time::{Duration, Instant};

/// Whether connections are accepted now, or wait in the system's queue.
///
/// While they wait nothing is asked of the system, and since an edge-triggered listener is not
/// announced again, something else has to reopen the gate: a connection that ends, or the time.
#[derive(Debug, Default)]
pub(crate) struct Gate {
    state: State,
    reopened: Option<Instant>,
}

#[derive(Debug, Default, Clone, Copy)]
enum State {
    #[default]
    Open,
    /// At the connection limit: until one ends.
    Full,
    /// Short of something: until a connection ends or it is time to try again.
    Short { retry: Instant },
}

impl Gate {
    /// After how long to try again when the system is short of something: others may have given
    /// it back, which nobody tells.
    const RETRY: Duration = Duration::from_millis(100);
    /// A pause that soon after another is of the same episode, which is one line in the log.
    const CALM: Duration = Duration::from_secs(60);

    pub(crate) fn is_open(&self) -> bool {
        matches!(self.state, State::Open)
    }

    /// When to open it again, unless something else does before.
    pub(crate) fn retry_at(&self) -> Option<Instant> {
        match self.state {
            State::Short { retry } => Some(retry),
            State::Open | State::Full => None,
        }
    }

    /// Closes it at the connection limit. Says whether an episode begins with this.
    pub(crate) fn close_when_full(&mut self, now: Instant) -> bool {
        self.state = State::Full;
        self.is_episode(now)
    }

    /// Closes it for want of descriptors or memory. Says whether an episode begins with this.
    pub(crate) fn close_for_a_while(&mut self, now: Instant) -> bool {
        self.state = State::Short {
            retry: now + Self::RETRY,
        };
        self.is_episode(now)
    }

    pub(crate) fn reopen(&mut self, now: Instant) {
        self.state = State::Open;
        self.reopened = Some(now);
    }

    fn is_episode(&self, now: Instant) -> bool {
        self.reopened
            .is_none_or(|at| now.saturating_duration_since(at) >= Self::CALM)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_in_a_row_are_one_episode() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut gate = Gate::default();
        assert!(gate.is_open());

        assert!(
            gate.close_when_full(at(0)),
            "the first pause begins an episode"
        );
        assert!(!gate.is_open());
        assert_eq!(
            gate.retry_at(),
            None,
            "at the limit only the end of a connection helps"
        );
        gate.reopen(at(1000));
        assert!(!gate.close_when_full(at(1000)), "the episode never ended");
        gate.reopen(at(1030));
        assert!(
            !gate.close_for_a_while(at(1060)),
            "half a minute is no calm"
        );
        assert_eq!(gate.retry_at(), Some(at(1060) + Gate::RETRY));
        gate.reopen(at(1061));
        assert!(
            gate.close_for_a_while(at(1061) + Gate::CALM),
            "an episode after a calm"
        );
    }
}
