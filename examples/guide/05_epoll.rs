//! Step 05, epoll(7): `cargo run --example guide_05`, and `docs/guide/05.md`.

mod arguments;

#[cfg(not(target_os = "linux"))]
fn main() {
    eprintln!("this step needs epoll(7), which only Linux has: go on with step 06");
}
#[cfg(target_os = "linux")]
use linux::main;
#[cfg(target_os = "linux")]
mod linux {
    use std::collections::HashMap;
    use std::io::{self, ErrorKind, Read, Write};
    use std::net::{TcpListener, TcpStream};

    use nix::errno::Errno;
    use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

    pub fn main() -> io::Result<()> {
        let listener = TcpListener::bind(crate::arguments::address())?;
        listener.set_nonblocking(true)?;
        println!("listening on tcp://{}", listener.local_addr()?);
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        epoll.add(&listener, EpollEvent::new(EpollFlags::EPOLLIN, 0))?;
        let mut events = [EpollEvent::empty(); 256];
        let (mut streams, mut last) = (HashMap::new(), 0);
        loop {
            let count = match epoll.wait(&mut events, EpollTimeout::NONE) {
                Err(Errno::EINTR) => continue,
                count => count?,
            };
            for key in events[..count].iter().map(EpollEvent::data) {
                if key != 0 && !echo(streams.get_mut(&key).unwrap()).unwrap_or(false) {
                    streams.remove(&key); // close(2) also removes it from the epoll instance.
                } else if key == 0
                    && let Ok((stream, _)) = listener.accept()
                {
                    stream.set_nonblocking(true)?;
                    last += 1;
                    // The fault: an idle connection has room to write, so each wait returns at once.
                    let interest = EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT;
                    epoll.add(&stream, EpollEvent::new(interest, last))?;
                    streams.insert(last, stream);
                }
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
