//! A connection over a scripted stream, at times that the tests choose.

use super::*;

use std::collections::VecDeque;

use super::super::http::Resource;
use crate::near_valid::near_valid;

const ASK: &[u8] = b"GET /metrics HTTP/1.1\r\nHost: here\r\n\r\n";

/// The results of reads, and the sizes of writes, in this order. After the last one a call would
/// block.
#[derive(Default)]
struct Script {
    reads: VecDeque<Vec<u8>>,
    room: VecDeque<usize>,
    written: Vec<u8>,
    is_shut_down: bool,
}

impl Script {
    fn reads(pieces: &[&[u8]]) -> Self {
        Script {
            reads: pieces.iter().map(|piece| piece.to_vec()).collect(),
            ..Script::default()
        }
    }
}

impl Read for Script {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut bytes = self.reads.pop_front().ok_or(io::ErrorKind::WouldBlock)?;
        let rest = bytes.split_off(buffer.len().min(bytes.len()));
        if !rest.is_empty() {
            self.reads.push_front(rest);
        }
        buffer[..bytes.len()].copy_from_slice(&bytes);
        Ok(bytes.len())
    }
}

impl Write for Script {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        assert!(!self.is_shut_down);
        let room = self.room.pop_front().ok_or(io::ErrorKind::WouldBlock)?;
        let count = room.min(bytes.len());
        self.written.extend_from_slice(&bytes[..count]);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Stream for Script {
    fn shutdown_write(&mut self) -> io::Result<()> {
        self.is_shut_down = true;
        Ok(())
    }
}

fn connection(script: Script) -> (Connection<Script>, Instant) {
    let now = Instant::now();
    (Connection::new(script, now), now)
}

/// Makes turns until one has a result or the connection waits.
fn settle(connection: &mut Connection<Script>, now: Instant) -> Next {
    for _ in 0..100 {
        match connection.turn(now).unwrap() {
            Next::Wait(until) if until == now => {}
            next => return next,
        }
    }
    panic!("it spins");
}

/// Until when the connection waits for an event.
fn wait(connection: &mut Connection<Script>, now: Instant) -> Instant {
    match settle(connection, now) {
        Next::Wait(until) => until,
        other => panic!("{other:?}"),
    }
}

fn status(next: &Next) -> Option<Status> {
    match next {
        Next::Respond(request) => request.resource.err(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn turn_makes_one_read() {
    let (mut connection, now) = connection(Script::reads(&[&ASK[..10], &ASK[10..20], &ASK[20..]]));
    for left in [2, 1] {
        let next = connection.turn(now).unwrap();
        assert!(
            matches!(next, Next::Wait(until) if until == now),
            "{next:?}"
        );
        assert_eq!(connection.stream.reads.len(), left);
    }
    let Next::Respond(request) = connection.turn(now).unwrap() else {
        panic!("no request");
    };
    assert_eq!(request.resource, Ok(Resource::Metrics));
}

#[test]
fn head_is_read_up_to_its_limit() {
    let endless = vec![b'x'; 3 * MAX_HEAD];
    let (mut connection, now) = connection(Script::reads(&[&ASK[..1], &endless]));
    let next = settle(&mut connection, now);
    assert_eq!(status(&next).unwrap().0, Status::TOO_LARGE.0);
    assert_eq!(connection.stream.reads[0].len(), 2 * MAX_HEAD + 1);
}

#[test]
fn request_timeout_is_not_extended_by_more_bytes() {
    let (mut connection, start) = connection(Script::reads(&[&ASK[..1]]));
    for seconds in 0..5 {
        let now = start + Duration::from_secs(seconds);
        connection.stream.reads.push_back(vec![b'x']);
        assert_eq!(wait(&mut connection, now), start + REQUEST_TIMEOUT);
    }
    let next = settle(&mut connection, start + REQUEST_TIMEOUT);
    assert_eq!(status(&next), Some(Status::TIMEOUT));
}

/// It arrived in time, and the process was stopped meanwhile.
#[test]
fn request_that_waits_is_read_after_its_timeout() {
    for start in [0, 20] {
        let (mut connection, now) = connection(Script::reads(&[&ASK[..start]]));
        if start > 0 {
            wait(&mut connection, now);
        }
        connection.stream.reads = [ASK[start..].to_vec()].into();
        match connection.turn(now + 2 * REQUEST_TIMEOUT).unwrap() {
            Next::Respond(request) => assert_eq!(request.resource, Ok(Resource::Metrics)),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn end_of_stream_before_request() {
    let (mut silent, now) = connection(Script::reads(&[b""]));
    assert!(matches!(settle(&mut silent, now), Next::Close));
    let (mut half, now) = connection(Script::reads(&[&ASK[..20], b""]));
    assert_eq!(status(&settle(&mut half, now)), Some(Status::BAD_REQUEST));
}

#[test]
fn slow_client_gets_whole_response() {
    let (mut connection, now) = connection(Script::reads(&[]));
    let response: Vec<u8> = (0..=255).collect();
    connection.respond(response.clone(), now);
    for _ in 0..3 {
        assert_eq!(wait(&mut connection, now), now + REQUEST_TIMEOUT);
        assert!(!connection.stream.is_shut_down);
        connection.stream.room.extend([1, 84]);
    }
    // The last byte.
    connection.stream.room.push_back(84);
    let later = now + REQUEST_TIMEOUT / 2;
    assert_eq!(wait(&mut connection, later), later + LINGER_TIMEOUT);
    assert_eq!(connection.stream.written, response);
    assert!(connection.stream.is_shut_down);
}

#[test]
fn client_that_does_not_read_is_closed() {
    let (mut connection, now) = connection(Script::reads(&[]));
    connection.respond(vec![0; 100], now);
    connection.stream.room.push_back(10);
    assert_eq!(wait(&mut connection, now), now + REQUEST_TIMEOUT);
    connection.stream.room.push_back(10);
    let next = settle(&mut connection, now + REQUEST_TIMEOUT);
    assert!(matches!(next, Next::Close));
    assert_eq!(connection.stream.written.len(), 20);
}

#[test]
fn input_after_response_is_discarded_until_linger_timeout() {
    for (last, at) in [(&b""[..], Duration::ZERO), (b"more", LINGER_TIMEOUT)] {
        let endless = vec![b'x'; 2 * MAX_HEAD];
        let (mut connection, now) = connection(Script::reads(&[&endless]));
        connection.respond(vec![0; 10], now);
        connection.stream.room.push_back(10);
        assert_eq!(wait(&mut connection, now), now + LINGER_TIMEOUT);
        assert!(connection.stream.reads.is_empty());

        connection.stream.reads.push_back(last.to_vec());
        assert!(matches!(settle(&mut connection, now + at), Next::Close));
    }
}

#[test]
fn head_gets_the_status_it_deserves_in_any_pieces() {
    const METHOD: &[&str] = &["GET ", "HEAD ", "POST ", "get ", "\r\nGET "];
    const HOST: &[&str] = &["", "http://here", "HTTP://a:7", "http://here?", "http://"];
    const PATH: &[&str] = &["/metrics", "/healthz?a=/b", "/", "*", ""];
    const VERSION: &[&str] = &[" HTTP/1.1\r\n", " HTTP/1.0\n", " HTTP/2.0\r\n", "\r\n"];
    const HOSTS: &[&str] = &["", "Host: here\r\n", "host:[::1]:9007\n", "Host: a b\r\n"];
    const FIELDS: &[&str] = &["", "Host:\r\n", "A : a\r\n", "A: */*\r\n", " folded\r\n"];

    let groups = [METHOD, HOST, PATH, VERSION, HOSTS, FIELDS];
    let (many, long) = ("A: b\r\n".repeat(64), "x".repeat(MAX_HEAD));
    near_valid(&groups, |text, u| {
        let last = *u.choose(&["", "", &many, &many[6..], &long])?;
        let text = text.to_owned() + last + u.choose(&["\r\n", "\r\n", "\n", ""])?;
        let status = Request::parse(text.as_bytes()).map_or("", |it| {
            it.resource.map_or_else(|status| status.0, |_| "200")
        });
        match expected_status(&text) {
            Some(expected) => assert_eq!(status.get(..3), Some(expected)),
            // An incomplete head can be invalid.
            None => assert!(status.is_empty() || status.starts_with('4')),
        }
        let answer = |size| {
            let pieces = text.as_bytes().chunks(size).chain([&b""[..]]);
            let (mut connection, now) = connection(Script::reads(&pieces.collect::<Vec<_>>()));
            format!("{:?}", settle(&mut connection, now))
        };
        let size = 1 + u.int_in_range(text.len() / 20..=text.len())?;
        assert_eq!(answer(size), answer(text.len() + 1), "in pieces of {size}");
        Ok(())
    });
}

/// The status of a complete head by RFC 9112.
fn expected_status(head: &str) -> Option<&'static str> {
    let is_control = |it: char| it.is_ascii_control() && !['\t', '\n'].contains(&it);
    let is_of_token = |it: char| it.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(it);
    let is_of_host = |it: char| it.is_ascii_alphanumeric() || "-._~%!$&'()*+,;=:[]".contains(it);
    let is_token = |text: &str| !text.is_empty() && text.chars().all(is_of_token);

    let head = head.replace("\r\n", "\n");
    let (head, _) = head.trim_start_matches('\n').split_once("\n\n")?;
    let mut lines = head.split('\n');
    let first: Vec<&str> = lines.next()?.split(' ').collect();
    let fields: Option<Vec<_>> = lines.map(|line| line.split_once(':')).collect();
    let (&[method, target, "HTTP/1.0" | "HTTP/1.1"], Some(fields)) = (&first[..], fields) else {
        return Some("400");
    };
    let are_tokens = is_token(method) && fields.iter().all(|(name, _)| is_token(name));
    let hosts = fields.iter().filter(|it| it.0.eq_ignore_ascii_case("host"));
    let hosts: Vec<_> = hosts.map(|it| it.1.trim_matches([' ', '\t'])).collect();
    let min_hosts = usize::from(first[2] == "HTTP/1.1");
    let path = target.split('?').next()?;
    let (scheme, rest) = path.split_at_checked(7).unwrap_or_default();
    let path = match rest.split_once('/') {
        _ if !scheme.eq_ignore_ascii_case("http://") => path,
        Some((host, path)) if !host.is_empty() => &format!("/{path}"),
        _ => "",
    };
    Some(match method {
        _ if !are_tokens || head.contains(is_control) => "400",
        _ if target.is_empty() || target.contains('\t') => "400",
        _ if fields.len() > 64 => "431",
        _ if hosts.len() < min_hosts || hosts.len() > 1 => "400",
        _ if !hosts.concat().chars().all(is_of_host) => "400",
        _ if !["/metrics", "/healthz"].contains(&path) => "404",
        "GET" | "HEAD" => "200",
        _ => "405",
    })
}
