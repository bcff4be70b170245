//! Restarts without a failed client, while clients connect, echo and close without a pause.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};

use crate::common::service::{Service, error_line, program};
use crate::common::systemd::activated;
use crate::common::{LIMIT, wait_until};

/// Clients at a time.
const CLIENTS: usize = 4;

/// Clients in threads.
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
            thread::spawn(move || shared.run_clients())
        };
        let threads = (0..CLIENTS).map(spawn).collect();
        Clients { shared, threads }
    }

    /// Waits until as many more clients have been served.
    fn wait_for(&self, more: u64) {
        let target = self.shared.served.load(Ordering::Relaxed) + more;
        wait_until(|| self.shared.served.load(Ordering::Relaxed) >= target);
    }

    /// Returns the number of served clients, and the errors.
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
    fn run_clients(&self) {
        while !self.is_over.load(Ordering::Relaxed) {
            match echo_hello(self.address) {
                Ok(()) => {
                    self.served.fetch_add(1, Ordering::Relaxed);
                }
                Err(error) => self.failures.lock().unwrap().push(error.to_string()),
            }
        }
    }
}

fn echo_hello(address: SocketAddr) -> io::Result<()> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(LIMIT))?;
    stream.write_all(b"hello")?;
    let mut echoed = [0; 5];
    stream.read_exact(&mut echoed)?;
    assert_eq!(&echoed, b"hello");
    Ok(())
}

/// Replaces the running service several times.
fn restart(
    address: SocketAddr,
    restarts: u32,
    mut running: Service,
    mut replace: impl FnMut(Service) -> Service,
) {
    let clients = Clients::start(address);
    for _ in 0..restarts {
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
fn socket_activation_restarts_without_failed_clients() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let start = || {
        let copy = listener.try_clone().unwrap();
        Service::launch(activated(vec![copy.into()], 1, ""))
    };
    // One ends before the next starts: meanwhile clients wait in the backlog.
    restart(address, 10, start(), |old| {
        old.stop();
        start()
    });
}

/// At five ports at once. Each restart takes a second, after which clients retransmit dropped SYNs.
#[test]
fn reuse_port_restarts_without_failed_clients() {
    thread::scope(|scope| {
        for _ in 0..5 {
            scope.spawn(restart_at_shared_port);
        }
    });
}

fn restart_at_shared_port() {
    let start = |endpoint: &str| Service::launch(program(&[endpoint, "--reuse-port"]));
    let mut first = start("tcp://127.0.0.1:0");
    let address = first.listens_at();
    // The next one listens before the old one stops.
    restart(address, 2, first, |old| {
        let mut new = start(&format!("tcp://{address}"));
        assert_eq!(new.listens_at(), address);
        old.stop();
        new
    });
}

/// A process that listened before its metrics did would reset the connections in its backlog.
#[test]
fn failed_starts_at_a_shared_port_fail_no_client() {
    let holder = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = format!("tcp://{}", holder.local_addr().unwrap());
    let mut running = Service::launch(program(&["tcp://127.0.0.1:0", "--reuse-port"]));
    let address = running.listens_at();
    let endpoint = format!("tcp://{address}");
    let failing = ["-q", &endpoint, "--reuse-port", "--metrics", &taken];
    restart(address, 20, running, |running| {
        let (line, status) = error_line(program(&failing));
        assert_eq!(status, Some(1), "{line}");
        assert!(line.contains("--metrics: cannot listen on"), "{line}");
        running
    });
}
