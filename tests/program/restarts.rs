//! Restarts under clients that connect, talk and close without a pause: none of them fails.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};

use crate::common::service::{Service, program};
use crate::common::systemd::activated;
use crate::common::{LIMIT, wait_until};

const RESTARTS: u32 = 10;

/// How many clients there are at a time.
const CLIENTS: usize = 4;

/// Clients that come one after the other, several at a time.
struct Clients {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

struct Shared {
    address: SocketAddr,
    is_over: AtomicBool,
    served: AtomicU64,
    failures: std::sync::Mutex<Vec<String>>,
}

impl Clients {
    fn start(address: SocketAddr) -> Self {
        let shared = Arc::new(Shared {
            address,
            is_over: AtomicBool::new(false),
            served: AtomicU64::new(0),
            failures: std::sync::Mutex::default(),
        });
        let spawn = |_| {
            let shared = Arc::clone(&shared);
            thread::spawn(move || shared.come_and_go())
        };
        let threads = (0..CLIENTS).map(spawn).collect();
        Clients { shared, threads }
    }

    /// Waits until that many more have been served.
    fn wait_for(&self, more: u64) {
        let target = self.shared.served.load(Ordering::Relaxed) + more;
        wait_until(|| self.shared.served.load(Ordering::Relaxed) >= target);
    }

    /// How many were served, and what went wrong.
    fn stop(self) -> (u64, Vec<String>) {
        self.shared.is_over.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.join().unwrap();
        }
        let failures = std::mem::take(&mut *self.shared.failures.lock().unwrap());
        (self.shared.served.load(Ordering::Relaxed), failures)
    }
}

impl Shared {
    fn come_and_go(&self) {
        while !self.is_over.load(Ordering::Relaxed) {
            match talk(self.address) {
                Ok(()) => {
                    self.served.fetch_add(1, Ordering::Relaxed);
                }
                Err(error) => self.failures.lock().unwrap().push(error.to_string()),
            }
        }
    }
}

fn talk(address: SocketAddr) -> io::Result<()> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(LIMIT))?;
    stream.write_all(b"hello")?;
    let mut echoed = [0; 5];
    stream.read_exact(&mut echoed)?;
    assert_eq!(&echoed, b"hello");
    Ok(())
}

/// Has `replace` put another service in the place of the one that runs, again and again.
fn restart(address: SocketAddr, mut running: Service, mut replace: impl FnMut(Service) -> Service) {
    let clients = Clients::start(address);
    for _ in 0..RESTARTS {
        clients.wait_for(100);
        running = replace(running);
    }
    clients.wait_for(100);
    let (served, failures) = clients.stop();
    running.stop();
    eprintln!("{served} served, {} failed", failures.len());
    assert_eq!(failures, Vec::<String>::new(), "{served} served");
}

#[test]
fn with_activation_no_client_fails() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let start = || {
        let copy = listener.try_clone().unwrap();
        Service::launch(activated(vec![copy.into()], 1, ""))
    };
    // One ends before the next begins: whoever comes meanwhile waits.
    restart(address, start(), |old| {
        old.stop();
        start()
    });
}

#[test]
fn with_a_shared_port_no_client_fails() {
    let start = |endpoint: &str| Service::launch(program(&[endpoint, "--reuse-port"]));
    let mut first = start("tcp://127.0.0.1:0");
    let address = first.listens_at();
    // The next one listens before the old one ends.
    restart(address, first, |old| {
        let mut new = start(&format!("tcp://{address}"));
        assert_eq!(new.listens_at(), address);
        old.stop();
        new
    });
}
