//! Out of file descriptors while no connection closes: a timer resumes accepting.
//!
//! The only test of its binary, because it lowers the limit of its process.

#![cfg(unix)]

mod common;

use std::time::{Duration, Instant};

use mio::{Events, Poll, Token};
use mio_echo::Echo;
use nix::sys::resource::{Resource::RLIMIT_NOFILE, getrlimit, setrlimit};

#[test]
fn accepting_is_retried_by_timer() {
    let mut poll = Poll::new().unwrap();
    let mut events = Events::with_capacity(16);
    let config = common::config().build().unwrap();
    let mut echo = Echo::new(config, poll.registry(), Token(0)).unwrap();
    let _client = common::connect(echo.endpoints()[0].address().unwrap());
    poll.poll(&mut events, Some(common::LIMIT)).unwrap();

    let (soft, hard) = getrlimit(RLIMIT_NOFILE).unwrap();
    setrlimit(RLIMIT_NOFILE, 3, hard).unwrap();
    let now = Instant::now();
    events.iter().for_each(|event| echo.handle(event));
    echo.run(now);
    assert_eq!((echo.stats().active, echo.stats().accept_pauses), (0, 1));
    let retry = echo.timeout(now).expect("nothing would wake the loop");
    assert!(Duration::ZERO < retry && retry <= Duration::from_secs(1));

    echo.run(now + retry);
    echo.run(now + retry);
    assert_eq!(echo.stats().accept_pauses, 2, "one attempt at each expiry");

    setrlimit(RLIMIT_NOFILE, soft, hard).unwrap();
    echo.run(now + retry * 2);
    echo.run(now + retry * 2);
    assert_eq!(echo.stats().active, 1);
    assert_eq!(echo.timeout(now + retry * 2), None);

    // Paused again: a shutdown accepts pending connections without waiting for the timer.
    let _another = common::connect(echo.endpoints()[0].address().unwrap());
    poll.poll(&mut events, Some(common::LIMIT)).unwrap();
    setrlimit(RLIMIT_NOFILE, 3, hard).unwrap();
    events.iter().for_each(|event| echo.handle(event));
    echo.run(now + retry * 2);
    assert_eq!((echo.stats().active, echo.stats().accept_pauses), (1, 3));
    setrlimit(RLIMIT_NOFILE, soft, hard).unwrap();
    echo.shutdown(now + retry * 2);
    assert_eq!(echo.stats().active, 2);
}
