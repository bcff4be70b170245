//! What all of a process shares: its limit on open files, and its umask. One test at a time.

#![cfg(unix)]

mod common;

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use mio::{Events, Poll, Token};
use mio_echo::Echo;
use nix::sys::resource::{Resource::RLIMIT_NOFILE, getrlimit, setrlimit};

fn alone() -> MutexGuard<'static, ()> {
    static PROCESS: Mutex<()> = Mutex::new(());
    PROCESS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Without descriptors, while no connection closes.
#[test]
fn accepting_is_retried_by_timer() {
    let _process = alone();
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

/// The modes of socket files.
#[cfg(target_os = "linux")]
mod umask {
    use std::io;
    use std::os::unix::net::UnixListener;
    use std::path::Path;
    use std::sync::MutexGuard;

    use mio_echo::{ConfigBuilder, Server};
    use nix::sys::stat::{Mode, umask};

    use crate::common::{self, Directory, mode_of};

    /// Each test sets it.
    fn with_umask(mask: u32) -> MutexGuard<'static, ()> {
        let process = super::alone();
        umask(Mode::from_bits_truncate(mask));
        process
    }

    fn config_at(path: &Path) -> ConfigBuilder {
        common::config_at(&format!("unix:{}", path.display()))
    }

    fn bind(config: ConfigBuilder) -> io::Result<Server> {
        Server::bind(config.build().unwrap())
    }

    #[test]
    fn socket_file_has_configured_mode() {
        let _process = with_umask(0);
        let directory = Directory::new();
        for mode in [0, 0o600, 0o660, 0o666, 0o777] {
            let path = directory.file(&format!("{mode:o}"));
            let _server = bind(config_at(&path).unix_mode(mode)).unwrap();
            assert_eq!(mode_of(&path), mode);
        }
    }

    #[test]
    fn replaced_socket_file_has_configured_mode() {
        let _process = with_umask(0);
        let directory = Directory::new();
        let path = directory.file("socket");
        drop(UnixListener::bind(&path).unwrap());
        let _server = bind(config_at(&path).unix_mode(0o640)).unwrap();
        assert_eq!(mode_of(&path), 0o640);
    }

    #[test]
    fn mode_beyond_the_umask_is_an_error() {
        let _process = with_umask(0o27);
        let directory = Directory::new();
        let path = directory.file("socket");
        let error = bind(config_at(&path).unix_mode(0o666)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
        let text = error.to_string();
        for part in ["umask", "0666 to 0640", "clear the umask"] {
            assert!(text.contains(part), "no {part:?} in {text}");
        }
        assert!(!path.exists(), "the file was not removed");

        let server = bind(config_at(&path).unix_mode(0o640)).unwrap();
        assert_eq!(mode_of(&path), 0o640);
        drop(server);
        let _server = bind(config_at(&path)).unwrap();
        assert_eq!(mode_of(&path), 0o750, "without a mode the umask decides");
    }

    #[test]
    fn abstract_name_ignores_mode() {
        let _process = with_umask(0o77);
        let name = format!("unix:@mio-echo test of the mode {}", std::process::id());
        bind(common::config_at(&name).unix_mode(0o666)).unwrap();
    }
}
