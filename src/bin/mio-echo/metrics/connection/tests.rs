//! A connection over a stream that plays a script, at times that the tests make up.

use super::*;

use std::collections::VecDeque;

use super::super::http::Resource;

const ASK: &[u8] = b"GET /metrics HTTP/1.1\r\nHost: here\r\n\r\n";

/// What comes of reads, in this order, and how much there is room for in writes. Where nothing is
/// left, a call would block.
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

/// Gives it turns until it has nothing to do at once, or wants something.
fn settle(connection: &mut Connection<Script>, now: Instant) -> Next {
    for _ in 0..100 {
        match connection.turn(now).unwrap() {
            Next::Wait if connection.due().is_none() => {}
            next => return next,
        }
    }
    panic!("it spins");
}

fn status(next: &Next) -> Option<Status> {
    match next {
        Next::Answer(request) => request.wanted.err(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_turn_is_one_read() {
    let (mut connection, now) = connection(Script::reads(&[&ASK[..10], &ASK[10..20], &ASK[20..]]));
    for left in [2, 1] {
        assert!(matches!(connection.turn(now).unwrap(), Next::Wait));
        assert_eq!(connection.stream.reads.len(), left);
        assert_eq!(connection.due(), None, "there may be more");
    }
    let Next::Answer(request) = connection.turn(now).unwrap() else {
        panic!("it has asked");
    };
    assert_eq!(request.wanted, Ok(Resource::Metrics));
}

#[test]
fn no_more_is_read_of_a_head_than_it_may_have() {
    let endless = vec![b'x'; 3 * HEAD_MAX];
    let (mut connection, now) = connection(Script::reads(&[&ASK[..1], &endless]));
    let next = settle(&mut connection, now);
    assert_eq!(status(&next).unwrap().to_string(), "414 URI Too Long");
    assert_eq!(connection.stream.reads[0].len(), 2 * HEAD_MAX + 1);
}

#[test]
fn to_send_a_little_now_and_then_gives_no_more_time() {
    let (mut connection, start) = connection(Script::reads(&[&ASK[..1]]));
    for seconds in 0..5 {
        let now = start + Duration::from_secs(seconds);
        connection.wake();
        connection.stream.reads.push_back(vec![b'x']);
        assert!(matches!(settle(&mut connection, now), Next::Wait));
        assert_eq!(connection.due(), Some(start + PATIENCE));
    }
    connection.wake();
    let next = settle(&mut connection, start + PATIENCE);
    assert_eq!(status(&next), Some(Status::TIMEOUT));
}

#[test]
fn the_end_of_the_stream_is_no_question() {
    let (mut silent, now) = connection(Script::reads(&[b""]));
    assert!(matches!(settle(&mut silent, now), Next::Close));
    let (mut half, now) = connection(Script::reads(&[&ASK[..20], b""]));
    assert_eq!(status(&settle(&mut half, now)), Some(Status::BAD_REQUEST));
}

#[test]
fn a_slow_reader_gets_all_of_the_answer() {
    let (mut connection, now) = connection(Script::reads(&[]));
    let answer: Vec<u8> = (0..=255).collect();
    connection.answer(answer.clone(), now);
    for _ in 0..3 {
        assert!(matches!(settle(&mut connection, now), Next::Wait));
        assert_eq!(connection.due(), Some(now + PATIENCE), "it would spin");
        assert!(!connection.stream.is_shut_down);
        connection.stream.room.extend([1, 84]);
        connection.wake();
    }
    // The last byte.
    connection.stream.room.push_back(84);
    let later = now + PATIENCE / 2;
    assert!(matches!(settle(&mut connection, later), Next::Wait));
    assert_eq!(connection.stream.written, answer);
    assert!(connection.stream.is_shut_down);
    assert_eq!(connection.due(), Some(later + LINGER));
}

#[test]
fn who_does_not_read_is_given_up() {
    let (mut connection, now) = connection(Script::reads(&[]));
    connection.answer(vec![0; 100], now);
    connection.stream.room.push_back(10);
    assert!(matches!(settle(&mut connection, now), Next::Wait));
    connection.wake();
    connection.stream.room.push_back(10);
    let next = settle(&mut connection, now + PATIENCE);
    assert!(matches!(next, Next::Close));
    assert_eq!(connection.stream.written.len(), 20);
}

#[test]
fn what_comes_after_the_answer_is_discarded_for_a_while() {
    for (last, at) in [(&b""[..], Duration::ZERO), (b"more", LINGER)] {
        let endless = vec![b'x'; 2 * HEAD_MAX];
        let (mut connection, now) = connection(Script::reads(&[&endless]));
        connection.answer(vec![0; 10], now);
        connection.stream.room.push_back(10);
        assert!(matches!(settle(&mut connection, now), Next::Wait));
        assert!(connection.stream.reads.is_empty());
        assert_eq!(connection.due(), Some(now + LINGER));

        connection.wake();
        connection.stream.reads.push_back(last.to_vec());
        assert!(matches!(settle(&mut connection, now + at), Next::Close));
    }
}
