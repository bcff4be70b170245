//! Unix sockets: the promises of TCP, and the socket file.

#![cfg(unix)]

use std::cell::{Cell, RefCell};
use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
#[cfg(target_os = "linux")]
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
#[cfg(target_os = "linux")]
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

#[cfg(target_os = "linux")]
use crate::common::mode_of;
use crate::common::{Directory, LIMIT, accept, random_bytes, run_until_idle, turn_until};
use mio_echo::{Config, ConfigBuilder, Endpoint, Server};

fn config_at(path: &Path) -> ConfigBuilder {
    Config::builder().endpoint(Endpoint::Unix(path.to_owned()))
}

fn bind(config: ConfigBuilder) -> std::io::Result<Server> {
    Server::bind(config.build().unwrap())
}

/// A client whose reads and writes time out.
fn connect(path: &Path) -> UnixStream {
    let stream = UnixStream::connect(path).unwrap();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    stream.set_write_timeout(Some(LIMIT)).unwrap();
    stream
}

/// A server with one connection, and its client.
fn connected(directory: &Directory) -> (Server, UnixStream) {
    let path = directory.file("socket");
    let mut server = bind(config_at(&path)).unwrap();
    let client = accept(&mut server, || connect(&path));
    (server, client)
}

/// Makes turns until `count` bytes are received.
fn receive(server: &mut Server, client: &mut UnixStream, count: usize) -> Vec<u8> {
    client.set_nonblocking(true).unwrap();
    let (mut echoed, mut buffer) = (Vec::new(), vec![0; count]);
    turn_until(server, |_| {
        match client.read(&mut buffer[..count - echoed.len()]) {
            Ok(size) => echoed.extend_from_slice(&buffer[..size]),
            Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
        }
        echoed.len() == count
    });
    client.set_nonblocking(false).unwrap();
    echoed
}

#[test]
fn half_close_gets_every_byte_then_eof() {
    let directory = Directory::new();
    let path = directory.file("socket");
    let mut server = bind(config_at(&path).buffer_size(4096)).unwrap();
    let handle = server.shutdown_handle();
    let service = thread::spawn(move || {
        server.run().unwrap();
        server.stats()
    });
    let bytes = random_bytes(3_000_000);
    let (client, mut reader) = (connect(&path), Vec::new());
    thread::scope(|scope| {
        let mut writer = client.try_clone().unwrap();
        let bytes = &bytes;
        scope.spawn(move || {
            writer.write_all(bytes).unwrap();
            writer.shutdown(Shutdown::Write).unwrap();
        });
        (&client).read_to_end(&mut reader).unwrap();
    });
    assert!(reader == bytes);
    handle.shutdown().unwrap();
    let stats = service.join().unwrap();
    assert_eq!(
        (stats.accepted, stats.closed.peer_closed, stats.bytes_sent),
        (1, 1, 3_000_000)
    );
}

#[test]
fn write_blocked_connection_holds_one_pipe() {
    let directory = Directory::new();
    let (mut server, mut client) = connected(&directory);
    let bytes = random_bytes(8 << 20);
    client.set_nonblocking(true).unwrap();
    let mut sent = 0;
    while let Ok(count) = client.write(&bytes[sent..]) {
        sent += count;
        run_until_idle(&mut server);
    }
    assert!(
        sent < bytes.len(),
        "more bytes are needed to fill the buffers"
    );
    let stats = server.stats();
    assert!(
        stats.bytes_received - stats.bytes_sent <= 256 * 1024,
        "more than one pipe is pending"
    );
    client.shutdown(Shutdown::Write).unwrap();
    let echoed = receive(&mut server, &mut client, sent);
    assert!(echoed == bytes[..sent]);
}

/// A read stops short behind a message that carries descriptors (unix(7)), and no event announces the
/// bytes behind it.
#[cfg(target_os = "linux")]
#[test]
fn received_descriptors_do_not_wedge_a_connection() {
    use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
    use std::io::IoSlice;
    use std::os::fd::AsRawFd;

    let directory = Directory::new();
    let (mut server, mut client) = connected(&directory);
    let fd = client.as_raw_fd();
    for (bytes, descriptors) in [(&b"one"[..], &[0, 0][..]), (b"two", &[]), (b"three", &[0])] {
        let rights = [ControlMessage::ScmRights(descriptors)];
        let rights = if descriptors.is_empty() {
            &[][..]
        } else {
            &rights
        };
        let bytes = [IoSlice::new(bytes)];
        sendmsg::<()>(fd, &bytes, rights, MsgFlags::empty(), None).unwrap();
    }
    client.write_all(b"four").unwrap();
    // The client does not read yet: that makes room, which is an event.
    turn_until(&mut server, |server| server.stats().bytes_sent == 15);
    assert_eq!(receive(&mut server, &mut client, 15), b"onetwothreefour");
    run_until_idle(&mut server);
    // The end of the stream behind such a message.
    sendmsg::<()>(
        fd,
        &[IoSlice::new(b"!")],
        &[ControlMessage::ScmRights(&[0])],
        MsgFlags::empty(),
        None,
    )
    .unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    turn_until(&mut server, |server| server.stats().closed.peer_closed == 1);
    assert_eq!(receive(&mut server, &mut client, 1), b"!");
}

#[cfg(target_os = "linux")]
#[test]
fn urgent_bytes_are_echoed_in_place() {
    use socket2::SockRef;

    let directory = Directory::new();
    let (mut server, mut client) = connected(&directory);
    client.write_all(b"ab").unwrap();
    // Linux before 5.15 has no urgent data on Unix sockets.
    if SockRef::from(&client).send_out_of_band(b"!").is_err() {
        return;
    }
    client.write_all(b"cd").unwrap();
    assert_eq!(receive(&mut server, &mut client, 5), b"ab!cd");
    run_until_idle(&mut server);
    assert_eq!(SockRef::from(&client).send_out_of_band(b"?").unwrap(), 1);
    assert_eq!(receive(&mut server, &mut client, 1), b"?");
}

#[test]
fn reset_does_not_affect_other_connections() {
    let directory = Directory::new();
    let (mut server, client) = connected(&directory);
    let mut other = accept(&mut server, || connect(&directory.file("socket")));
    // A close with unread bytes resets a Unix connection.
    (&client).write_all(b"hello").unwrap();
    turn_until(&mut server, |server| server.stats().bytes_sent == 5);
    drop(client);
    turn_until(&mut server, |server| server.stats().active == 1);
    other.write_all(b"still here").unwrap();
    assert_eq!(receive(&mut server, &mut other, 10), b"still here");
}

#[test]
fn socket_file_of_a_crashed_server_is_replaced() {
    let directory = Directory::new();
    let path = directory.file("socket");
    drop(UnixListener::bind(&path).unwrap());
    assert!(path.exists());
    let (_server, _client) = connected(&directory);
}

#[test]
fn socket_file_of_a_running_server_is_kept() {
    let directory = Directory::new();
    let path = directory.file("socket");
    let mut server = bind(config_at(&path)).unwrap();
    let error = bind(config_at(&path)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AddrInUse);
    let text = error.to_string();
    assert!(
        text.contains("in use") && text.contains("choose another path"),
        "{text}"
    );
    // The check of the other server has not connected.
    run_until_idle(&mut server);
    assert_eq!(server.stats().accepted, 0);
    let _client = accept(&mut server, || connect(&path));
}

#[test]
fn other_files_are_not_replaced() {
    let directory = Directory::new();
    let (file, link) = (directory.file("file"), directory.file("link"));
    fs::write(&file, "precious").unwrap();
    drop(UnixListener::bind(directory.file("stale")).unwrap());
    std::os::unix::fs::symlink(directory.file("stale"), &link).unwrap();
    for path in [&file, &link, &directory.file("")] {
        let error = bind(config_at(path)).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("choose another path"), "{text}");
    }
    assert_eq!(fs::read_to_string(&file).unwrap(), "precious");
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    assert!(directory.file("stale").exists());
}

#[test]
fn missing_directory_is_an_error_that_names_the_remedy() {
    let directory = Directory::new();
    let error = bind(config_at(&directory.file("no/socket"))).unwrap_err();
    assert!(
        error.to_string().contains("create the directory first"),
        "{error}"
    );
}

/// An attacker with write access to the directory replaces the socket file by a symbolic link as soon
/// as it appears.
#[cfg(target_os = "linux")]
#[test]
fn symbolic_link_in_place_of_the_socket_file_is_not_followed() {
    let directory = Directory::new();
    let (path, victim) = (directory.file("socket"), directory.file("victim"));
    fs::write(&victim, "secret").unwrap();
    fs::set_permissions(&victim, fs::Permissions::from_mode(0o600)).unwrap();
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| replace_by_link_until(&path, &victim, &done));
        for _ in 0..2_000 {
            // Succeeds, or fails because of the link.
            drop(bind(config_at(&path).unix_mode(0o700)));
            let _ = fs::remove_file(&path);
        }
        done.store(true, Ordering::Relaxed);
    });
    assert_eq!(mode_of(&victim), 0o600);
}

#[cfg(target_os = "linux")]
fn replace_by_link_until(path: &Path, victim: &Path, done: &AtomicBool) {
    let link = path.with_extension("link");
    while !done.load(Ordering::Relaxed) {
        if !link.is_symlink() {
            std::os::unix::fs::symlink(victim, &link).unwrap();
        }
        if fs::symlink_metadata(path).is_ok_and(|file| file.file_type().is_socket()) {
            fs::rename(&link, path).unwrap();
        }
    }
}

#[test]
fn shutdown_unlinks_the_socket_file_and_serves_pending_connections() {
    let directory = Directory::new();
    let path = directory.file("socket");
    let mut server = bind(config_at(&path)).unwrap();
    let mut pending = connect(&path);
    server.shutdown();
    assert!(!path.exists());
    pending.write_all(b"hello").unwrap();
    assert_eq!(receive(&mut server, &mut pending, 5), b"hello");
    drop(pending);
    turn_until(&mut server, |server| server.is_finished());

    drop(bind(config_at(&path)).unwrap());
    assert!(!path.exists(), "a dropped server has not unlinked it");
}

/// Otherwise a client could connect after the last accept(2). Each accepted connection is logged; the
/// logger looks for the file at that moment, in the thread of this test only.
#[test]
fn shutdown_unlinks_the_socket_file_before_it_accepts_the_last() {
    thread_local! {
        static PATH: RefCell<Option<PathBuf>> = const { RefCell::new(None) };
        static EXISTED: Cell<Option<bool>> = const { Cell::new(None) };
    }
    struct FileCheck;
    impl log::Log for FileCheck {
        fn enabled(&self, _: &log::Metadata<'_>) -> bool {
            PATH.with_borrow(Option::is_some)
        }
        fn log(&self, record: &log::Record<'_>) {
            if self.enabled(record.metadata()) && record.args().to_string().contains(": opened") {
                let exists = |path: &PathBuf| path.exists();
                EXISTED.set(PATH.with_borrow(|path| path.as_ref().map(exists)));
            }
        }
        fn flush(&self) {}
    }
    log::set_logger(&FileCheck).unwrap();
    log::set_max_level(log::LevelFilter::Debug);

    let directory = Directory::new();
    let path = directory.file("socket");
    let mut server = bind(config_at(&path)).unwrap();
    let _pending = connect(&path);
    PATH.set(Some(path));
    server.shutdown();
    assert_eq!(server.stats().accepted, 1);
    assert_eq!(EXISTED.get(), Some(false));
}

/// Linux queues one connection more than the backlog.
#[cfg(target_os = "linux")]
#[test]
fn backlog_limits_the_queue_of_pending_connections() {
    use socket2::{Domain, SockAddr, Socket, Type};

    let directory = Directory::new();
    let path = directory.file("socket");
    let _server = bind(config_at(&path).backlog(10)).unwrap();
    let address = SockAddr::unix(&path).unwrap();
    let clients: Vec<Socket> = (0..12)
        .map(|_| Socket::new(Domain::UNIX, Type::STREAM, None).unwrap())
        .collect();
    let (last, first) = clients.split_last().unwrap();
    for client in first {
        client.set_nonblocking(true).unwrap();
        client.connect(&address).unwrap();
    }
    last.set_nonblocking(true).unwrap();
    let full = last.connect(&address).unwrap_err();
    assert_eq!(full.kind(), ErrorKind::WouldBlock);
}

#[test]
fn bind_error_unlinks_the_files_bound_before() {
    let directory = Directory::new();
    let (path, file) = (directory.file("socket"), directory.file("file"));
    fs::write(&file, "").unwrap();
    bind(config_at(&path).endpoint(Endpoint::Unix(file))).unwrap_err();
    assert!(!path.exists());
}

#[test]
fn socket_file_of_another_server_is_not_unlinked() {
    let directory = Directory::new();
    let path = directory.file("socket");
    let server = bind(config_at(&path)).unwrap();
    fs::remove_file(&path).unwrap();
    let _other = UnixListener::bind(&path).unwrap();
    drop(server);
    assert!(path.exists());
}

#[cfg(target_os = "linux")]
#[test]
fn abstract_name_is_served_and_freed() {
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::net::SocketAddr;

    let name = format!("mio-echo test {}", std::process::id());
    let endpoint: Endpoint = format!("unix:@{name}").parse().unwrap();
    let config = || Config::builder().endpoint(endpoint.clone());
    let mut server = bind(config()).unwrap();
    assert_eq!(server.endpoints()[0], endpoint);
    let error = bind(config()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AddrInUse);

    let address = SocketAddr::from_abstract_name(&name).unwrap();
    let mut client = UnixStream::connect_addr(&address).unwrap();
    client.write_all(b"hello").unwrap();
    assert_eq!(receive(&mut server, &mut client, 5), b"hello");
    drop(server);
    bind(config()).unwrap();
}

#[cfg(target_os = "linux")]
#[test]
fn abstract_name_of_any_bytes_is_served() {
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::net::SocketAddr;

    let name = [&std::process::id().to_ne_bytes()[..], b"\xff\0mio-echo"].concat();
    let config = Config::builder().endpoint(Endpoint::Abstract(name.clone()));
    let mut server = bind(config).unwrap();
    let address = SocketAddr::from_abstract_name(&name).unwrap();
    let mut client = UnixStream::connect_addr(&address).unwrap();
    client.write_all(b"hello").unwrap();
    assert_eq!(receive(&mut server, &mut client, 5), b"hello");

    // The name of a socket that is handed over is not changed either.
    let listener = UnixListener::bind_addr(
        &SocketAddr::from_abstract_name([&name[..], b"2"].concat()).unwrap(),
    );
    let socket = mio_echo::BoundSocket::new(listener.unwrap()).unwrap();
    assert_eq!(
        *socket.endpoint(),
        Endpoint::Abstract([&name[..], b"2"].concat())
    );
}
