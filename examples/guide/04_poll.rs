//! Step 04, poll(2): `cargo run --example guide_04`, and `docs/guide/04.md`.

mod arguments;

#[cfg(not(unix))]
fn main() {
    eprintln!("this step needs poll(2), which only Unix has: go on with step 06");
}
#[cfg(unix)]
use unix::main;
#[cfg(unix)]
mod unix {
    use std::io::{self, ErrorKind, Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsFd;

    use nix::errno::Errno;
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

    pub fn main() -> io::Result<()> {
        let listener = TcpListener::bind(crate::arguments::address())?;
        listener.set_nonblocking(true)?;
        println!("listening on tcp://{}", listener.local_addr()?);
        let mut streams: Vec<TcpStream> = Vec::new();
        loop {
            // The fault: this list is made, copied to the kernel and searched for each event.
            let readable = |fd| PollFd::new(fd, PollFlags::POLLIN);
            let mut fds = vec![readable(listener.as_fd())];
            fds.extend(streams.iter().map(|stream| readable(stream.as_fd())));
            match poll(&mut fds, PollTimeout::NONE) {
                Err(Errno::EINTR) => continue,
                polled => polled?,
            };
            let ready: Vec<bool> = fds.iter().map(|fd| fd.any() == Some(true)).collect();
            let mut each = ready[1..].iter();
            streams.retain_mut(|stream| !each.next().unwrap() || echo(stream).unwrap_or(false));
            // An error of accept(2) is no reason to end: step 11 has more of it.
            if ready[0]
                && let Ok((stream, _)) = listener.accept()
            {
                stream.set_nonblocking(true)?;
                streams.push(stream);
            }
        }
    }

    /// Makes one read and writes back. Returns whether the connection stays open.
    fn echo(stream: &mut TcpStream) -> io::Result<bool> {
        let mut buffer = [0; 4096];
        let count = match stream.read(&mut buffer) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(true),
            read => read?,
        };
        stream.write_all(&buffer[..count])?;
        Ok(count > 0)
    }
}
