//! A pipe between two splice(2) calls.

#[cfg(any(target_os = "linux", target_os = "android"))]
pub(crate) use linux::SystemPipe;
#[cfg(not(any(target_os = "linux", target_os = "android")))]
pub(crate) use none::SystemPipe;

#[cfg(any(target_os = "linux", target_os = "android"))]
mod linux {
    use std::fs;
    use std::io::{self, PipeReader, PipeWriter, Write};
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    use log::{debug, warn};
    use nix::fcntl::{FcntlArg, SpliceFFlags, fcntl, splice};
    use nix::libc::SIGPIPE;

    use crate::net::{Pipe, nonblocking};

    /// Capacity of a pipe in bytes, and so the most that one splice moves. The system's default of 64 KiB
    /// takes a third more CPU time per byte; more than this saves nothing.
    const SIZE: i32 = 256 * 1024;

    /// A pipe, and how much is in it.
    #[derive(Debug)]
    pub(crate) struct SystemPipe {
        reader: PipeReader,
        writer: PipeWriter,
        len: usize,
    }

    impl Pipe for SystemPipe {
        fn is_usable() -> bool {
            // Sending to a peer that is gone raises SIGPIPE, and splice(2) has no `MSG_NOSIGNAL`.
            let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
            if !ignores_sigpipe(&status) {
                debug!("no zero copy: /proc/self/status does not say that SIGPIPE is ignored");
                return false;
            }
            let trial = try_out();
            if let Err(error) = &trial {
                warn!("no zero copy: {error}; bytes are read and written instead");
            }
            trial.is_ok()
        }

        fn open() -> io::Result<Self> {
            let (reader, writer) = io::pipe()?;
            // Where that is too much for one user, it stays as large as the system makes it.
            let _ = fcntl(&writer, FcntlArg::F_SETPIPE_SZ(SIZE));
            Ok(SystemPipe {
                reader,
                writer,
                len: 0,
            })
        }

        fn len(&self) -> usize {
            self.len
        }
    }

    impl SystemPipe {
        pub(crate) fn fill(&mut self, from: &impl AsFd) -> io::Result<usize> {
            let flags = SpliceFFlags::SPLICE_F_NONBLOCK;
            let count = splice(from, None, &self.writer, None, SIZE as usize, flags)?;
            self.len += count;
            Ok(count)
        }

        pub(crate) fn drain(&mut self, to: &impl AsFd) -> io::Result<usize> {
            let flags = SpliceFFlags::SPLICE_F_NONBLOCK;
            let count = splice(&self.reader, None, to, None, self.len, flags)?;
            self.len -= count;
            Ok(count)
        }
    }

    /// Moves a byte through a pipe. A seccomp filter or an old kernel makes this fail.
    fn try_out() -> io::Result<()> {
        let (mut near, far) = UnixStream::pair()?;
        near.write_all(b"!")?;
        let mut pipe = SystemPipe::open()?;
        let moved = nonblocking(|| pipe.fill(&far)).and_then(|_| nonblocking(|| pipe.drain(&far)));
        match moved {
            Ok(Some(1)) => Ok(()),
            Ok(_) => Err(io::Error::other("splice(2) moved nothing")),
            Err(error) => Err(io::Error::other(format!("splice(2): {error}"))),
        }
    }

    /// `SigIgn` is a set of bits in hexadecimal, the lowest for signal 1; see `proc_pid_status(5)`.
    fn ignores_sigpipe(status: &str) -> bool {
        let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
        let ignored = ignored.and_then(|text| u64::from_str_radix(text.trim(), 16).ok());
        ignored.is_some_and(|signals| signals & (1 << (SIGPIPE - 1)) != 0)
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn reads_whether_sigpipe_is_ignored() {
            let status =
                |signals: &str| format!("SigBlk:\tffff\nSigIgn:\t{signals}\nSigCgt:\tffff\n");
            assert!(ignores_sigpipe(&status("0000000000001000")));
            assert!(ignores_sigpipe(&status("0000000000001006")));
            assert!(!ignores_sigpipe(&status("0000000000000006")));
            assert!(!ignores_sigpipe(&status("")));
            assert!(!ignores_sigpipe(""));
            assert!(SystemPipe::is_usable(), "the tests are a Rust program");
        }
    }
}

/// Other systems cannot splice sockets.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
mod none {
    use std::io;

    use crate::net::Pipe;

    #[derive(Debug)]
    pub(crate) enum SystemPipe {}

    impl Pipe for SystemPipe {
        fn is_usable() -> bool {
            false
        }

        fn open() -> io::Result<Self> {
            Err(io::ErrorKind::Unsupported.into())
        }

        fn len(&self) -> usize {
            match *self {}
        }
    }

    impl SystemPipe {
        pub(crate) fn fill<S>(&mut self, _from: &S) -> io::Result<usize> {
            match *self {}
        }

        pub(crate) fn drain<S>(&mut self, _to: &S) -> io::Result<usize> {
            match *self {}
        }
    }
}
