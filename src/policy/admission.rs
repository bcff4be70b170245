//! Which connections are taken in, so that those who are not meant to come, or come too often at
//! once, cost no more than the system's two calls.

use std::fmt;
use std::time::Instant;

use log::{debug, warn};

use crate::net::stream::Peer;
use crate::policy::allow_list::AllowList;
use crate::policy::log_throttle::Digest;
use crate::policy::sources::Sources;
use crate::stats::Stats;

/// Why a connection is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Denial {
    NotAllowed,
    TooManyFromSource,
}

impl fmt::Display for Denial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Denial::NotAllowed => "its address is in no network that is allowed",
            Denial::TooManyFromSource => "its source has as many connections as it may have",
        })
    }
}

/// The rules, and how much came of them.
#[derive(Debug)]
pub(crate) struct Admission {
    allowed: AllowList,
    /// Where there is a limit.
    sources: Option<Sources>,
    not_allowed: Digest,
    too_many_from_source: Digest,
}

impl Admission {
    pub(crate) fn new(allowed: AllowList, max_per_source: Option<usize>) -> Self {
        Admission {
            allowed,
            sources: max_per_source.map(Sources::new),
            not_allowed: Digest::default(),
            too_many_from_source: Digest::default(),
        }
    }

    /// Lets a peer in, who is to [leave](Admission::leave) some time; or says why not. Those of
    /// Unix sockets have no address: the file's permissions say who may connect.
    pub(crate) fn enter(&mut self, peer: Peer) -> Result<(), Denial> {
        let Peer::Tcp(address) = peer else {
            return Ok(());
        };
        if !self.allowed.has(address.ip()) {
            return Err(Denial::NotAllowed);
        }
        let sources = self.sources.as_mut();
        if sources.is_none_or(|sources| sources.enter(address)) {
            Ok(())
        } else {
            Err(Denial::TooManyFromSource)
        }
    }

    /// Says that the connection of one who was let in is no more.
    pub(crate) fn leave(&mut self, peer: Peer) {
        if let (Some(sources), Peer::Tcp(address)) = (&mut self.sources, peer) {
            sources.leave(address);
        }
    }

    /// Counts one that was refused, and logs it.
    pub(crate) fn note(&mut self, denial: Denial, peer: Peer, stats: &mut Stats, now: Instant) {
        stats.refused.count(denial);
        debug!("{peer}: refused: {denial}");
        let digest = match denial {
            Denial::NotAllowed => &mut self.not_allowed,
            Denial::TooManyFromSource => &mut self.too_many_from_source,
        };
        if let Some(count) = digest.count(now) {
            warn!("{count} connections refused, the last one from {peer}: {denial}");
        }
    }
}

#[cfg(test)]
impl Admission {
    /// How many sources it keeps a count of.
    pub(crate) fn sources(&self) -> usize {
        self.sources.as_ref().map_or(0, Sources::len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::time::Duration;

    use log::Level;

    use crate::policy::log_lines::logged;
    use crate::stats::Refused;

    fn admission(networks: &[&str], max_per_source: Option<usize>) -> Admission {
        let networks: Vec<_> = networks.iter().map(|it| it.parse().unwrap()).collect();
        Admission::new(AllowList::new(&networks), max_per_source)
    }

    fn tcp(address: &str) -> Peer {
        Peer::Tcp(address.parse().unwrap())
    }

    #[test]
    fn without_rules_everybody_is_let_in_as_often_as_they_come() {
        let mut admission = admission(&[], None);
        for _ in 0..100 {
            assert_eq!(admission.enter(tcp("192.0.2.1:1")), Ok(()));
        }
        admission.leave(tcp("192.0.2.1:1"));
        assert_eq!(admission.sources(), 0);
    }

    #[test]
    fn who_is_not_allowed_is_not_counted_as_a_source() {
        let mut admission = admission(&["192.0.2.0/24"], Some(1));
        for _ in 0..2 {
            let outside = tcp("198.51.100.1:1");
            assert_eq!(admission.enter(outside), Err(Denial::NotAllowed));
        }
        assert_eq!(admission.sources(), 0);
        let inside = tcp("[::ffff:192.0.2.1]:1");
        assert_eq!(admission.enter(inside), Ok(()));
        let again = tcp("192.0.2.1:2");
        assert_eq!(admission.enter(again), Err(Denial::TooManyFromSource));
        admission.leave(inside);
        assert_eq!(admission.enter(again), Ok(()));
        assert_eq!(admission.sources(), 1);
    }

    #[test]
    fn unix_sockets_have_neither_networks_nor_sources() {
        let mut admission = admission(&["192.0.2.0/24"], Some(1));
        for number in [1, 1, 2] {
            assert_eq!(admission.enter(Peer::Unix(number)), Ok(()));
        }
        assert_eq!(admission.sources(), 0);
        admission.leave(Peer::Unix(1));
    }

    #[test]
    fn each_is_told_at_debug_and_of_each_reason_one_a_minute_is_a_warning() {
        use Denial::{NotAllowed, TooManyFromSource};

        let mut admission = admission(&[], None);
        let mut stats = Stats::default();
        let start = Instant::now();
        for (seconds, denial, warning) in [
            (0, NotAllowed, Some(1)),
            (0, TooManyFromSource, Some(1)),
            (1, NotAllowed, None),
            (2, NotAllowed, None),
            (59, TooManyFromSource, None),
            (60, NotAllowed, Some(3)),
            (90, TooManyFromSource, Some(2)),
        ] {
            let now = start + Duration::from_secs(seconds);
            let peer = tcp("192.0.2.1:7");
            let lines = logged(|| admission.note(denial, peer, &mut stats, now));
            let told = format!("192.0.2.1:7: refused: {denial}");
            let mut expected = vec![(Level::Debug, told)];
            expected.extend(warning.map(|count| {
                let line = "connections refused, the last one from 192.0.2.1:7";
                (Level::Warn, format!("{count} {line}: {denial}"))
            }));
            assert_eq!(lines, expected, "after {seconds} s");
        }
        let counted = Refused {
            not_allowed: 4,
            too_many_from_source: 3,
        };
        assert_eq!(stats.refused, counted);
        assert_eq!(stats.refused.total(), 7);
    }
}
