//! The file of a Unix socket: created, taken over from a process that crashed, and removed.

use std::fs::{self, File, Metadata};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::UnixDatagram;
use std::path::{self, Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use log::{info, warn};
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
#[cfg(any(target_os = "linux", target_os = "android"))]
use nix::sys::stat::{Mode, fchmod};
use socket2::{SockAddr, Socket};

/// How long a start waits for the lock of a directory.
const LOCK_TIMEOUT: Duration = Duration::from_secs(1);

/// How long it sleeps between two tries.
const LOCK_INTERVAL: Duration = Duration::from_millis(5);

/// The file that a socket is bound to. Removed on drop, which has to be before the socket closes: until
/// then no other file can have the same inode number.
#[derive(Debug)]
pub(crate) struct SocketFile {
    /// Absolute, because the process may change its directory.
    path: PathBuf,
    id: Id,
}

/// Identifies a file, whatever its path: device and inode.
type Id = (u64, u64);

impl SocketFile {
    /// Binds the socket. Takes the place of a file that a crash left behind, for which it waits up to a
    /// second while another program has locked the directory.
    ///
    /// `mode` is the permissions of the file, from the moment it exists. The path is never given to
    /// chmod(2), which follows symbolic links: another user who may write to the directory could
    /// replace the file by a link to a file of this user.
    ///
    /// # Errors
    ///
    /// `InvalidInput` if the umask takes away bits of `mode`; `Unsupported` if a mode is given
    /// and the system is not Linux; `ResourceBusy` if the directory stays locked; and the errors of
    /// bind(2), lstat(2) and flock(2).
    pub(crate) fn bind(socket: &Socket, path: &Path, mode: Option<u32>) -> io::Result<Self> {
        let (address, absolute) = (SockAddr::unix(path)?, path::absolute(path)?);
        match mode {
            // On Linux the file gets the mode of the socket's own inode, less the umask (`unix_bind` in
            // the kernel's `net/unix/af_unix.c`). POSIX leaves the effect of `fchmod` on a socket open.
            #[cfg(any(target_os = "linux", target_os = "android"))]
            Some(mode) => fchmod(socket, Mode::from_bits_truncate(mode))?,
            #[cfg(not(any(target_os = "linux", target_os = "android")))]
            Some(_) => return Err(io::ErrorKind::Unsupported.into()),
            None => {}
        }
        match socket.bind(&address) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                take_over(socket, &address, path)?;
            }
            bound => bound?,
        }
        let metadata = fs::symlink_metadata(path)?;
        let file = SocketFile {
            id: id(&metadata),
            path: absolute,
        };
        if let Some(mode) = mode {
            check_mode(&metadata, mode)?;
        }
        Ok(file)
    }
}

/// Checks that the new file has the whole mode. The library cannot clear the umask itself, because
/// all threads of the process share it.
fn check_mode(file: &Metadata, wanted: u32) -> io::Result<()> {
    if !file.file_type().is_socket() {
        let message = "another file has replaced the socket file";
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, message));
    }
    let mode = file.mode() & 0o777;
    if mode == wanted {
        return Ok(());
    }
    let message = format!(
        "the umask, or a default ACL of the directory, reduces mode {wanted:04o} to {mode:04o}: \
         clear the umask while binding, or choose a mode that it allows"
    );
    Err(io::Error::new(io::ErrorKind::InvalidInput, message))
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let is_ours = fs::symlink_metadata(&self.path).is_ok_and(|file| id(&file) == self.id);
        if is_ours && let Err(error) = fs::remove_file(&self.path) {
            let path = self.path.display();
            warn!("unix:{path}: cannot remove the file: {error}");
        }
    }
}

fn id(file: &Metadata) -> Id {
    (file.dev(), file.ino())
}

/// Binds in the place of a file that a crash left behind.
///
/// Between the check and the removal another process could do the same, and its new file would be
/// removed. So the directory is locked meanwhile.
fn take_over(socket: &Socket, address: &SockAddr, path: &Path) -> io::Result<()> {
    let directory = File::open(Path::new(".").join(path.parent().unwrap_or(path)))?;
    let _lock = lock(directory)?;
    clear(path)?;
    socket.bind(address)
}

/// Locks a directory; see flock(2). Waits up to `LOCK_TIMEOUT`: a take-over, also that of another socket in
/// this directory, holds the lock for a few system calls. Any user who can read the directory can hold it
/// for longer.
fn lock(mut directory: File) -> io::Result<Flock<File>> {
    let deadline = Instant::now() + LOCK_TIMEOUT;
    loop {
        match Flock::lock(directory, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => return Ok(lock),
            Err((unlocked, Errno::EWOULDBLOCK)) if Instant::now() < deadline => {
                thread::sleep(LOCK_INTERVAL);
                directory = unlocked;
            }
            Err((_, Errno::EWOULDBLOCK)) => {
                let message = "another program keeps its directory locked: stop that program, or \
                               choose a directory that other users cannot read";
                return Err(io::Error::new(io::ErrorKind::ResourceBusy, message));
            }
            Err((_, errno)) => {
                let message = format!("cannot lock its directory: {errno}");
                return Err(io::Error::new(io::Error::from(errno).kind(), message));
            }
        }
    }
}

/// Removes the file of a socket, unless a process still has the socket.
fn clear(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Ok(file) if file.file_type().is_socket() => {}
        Ok(file) => {
            let message = if file.is_dir() {
                "it is a directory"
            } else {
                "a file that is not a socket is in the way"
            };
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, message));
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    }
    // Connecting a datagram socket to a stream socket fails with EPROTOTYPE, even if that does not
    // listen yet, and does not disturb it. ECONNREFUSED means that no process has the socket.
    match UnixDatagram::unbound()?.connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            let name = path.display();
            info!("unix:{name}: takes over the file of a process that is gone");
            fs::remove_file(path)
        }
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Err(error),
        _ => Err(io::ErrorKind::AddrInUse.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use socket2::{Domain, Type};

    /// A temporary directory, removed on drop.
    struct Directory(PathBuf);

    impl Directory {
        fn new(name: &str) -> Self {
            let name = format!("mio-echo-{name}-{}", std::process::id());
            let path = std::env::temp_dir().join(name);
            fs::create_dir(&path).unwrap();
            Directory(path)
        }

        fn socket(&self) -> PathBuf {
            self.0.join("socket")
        }
    }

    impl Drop for Directory {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn bind(path: &Path) -> io::Result<(SocketFile, Socket)> {
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
        Ok((SocketFile::bind(&socket, path, None)?, socket))
    }

    #[test]
    fn bound_socket_is_left_alone_before_it_listens() {
        let directory = Directory::new("bound");
        let path = directory.socket();
        let holder = bind(&path).unwrap();
        for _ in 0..2 {
            let error = bind(&path).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
            holder.1.listen(1).unwrap();
        }
        drop(holder);
        bind(&path).unwrap();
    }

    #[test]
    fn one_of_several_processes_takes_over() {
        let directory = Directory::new("race");
        let path = directory.socket();
        for _ in 0..200 {
            drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
            let bound = std::thread::scope(|scope| {
                let starts: Vec<_> = (0..4).map(|_| scope.spawn(|| bind(&path).ok())).collect();
                let bound = starts.into_iter().filter_map(|it| it.join().unwrap());
                bound.collect::<Vec<_>>()
            });
            assert_eq!(bound.len(), 1);
            let id_now = id(&fs::symlink_metadata(&path).unwrap());
            assert_eq!(
                bound[0].0.id, id_now,
                "its file was removed by another start"
            );
        }
    }

    /// They share the lock of the directory.
    #[test]
    fn sockets_in_one_directory_are_taken_over_at_the_same_time() {
        let directory = Directory::new("neighbours");
        let paths: Vec<_> = (0..6).map(|it| directory.0.join(it.to_string())).collect();
        for _ in 0..200 {
            for path in &paths {
                drop(std::os::unix::net::UnixListener::bind(path).unwrap());
            }
            thread::scope(|scope| {
                for path in &paths {
                    scope.spawn(|| bind(path).unwrap());
                }
            });
        }
    }

    #[test]
    fn lock_that_is_not_released_is_an_error() {
        let directory = Directory::new("locked");
        let path = directory.socket();
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        let held = lock(File::open(&directory.0).unwrap()).unwrap();
        let error = bind(&path).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ResourceBusy);
        assert!(error.to_string().contains("other users cannot read"));
        drop(held);
        bind(&path).unwrap();
    }

    #[test]
    fn datagram_socket_is_left_alone() {
        let directory = Directory::new("type");
        let path = directory.socket();
        let _datagrams = UnixDatagram::bind(&path).unwrap();
        let error = bind(&path).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
    }

    #[test]
    fn removes_only_the_file_that_it_created() {
        let directory = Directory::new("remove");
        let path = directory.socket();
        drop(bind(&path).unwrap());
        assert!(!path.exists());

        let first = bind(&path).unwrap();
        fs::remove_file(&path).unwrap();
        let second = bind(&path).unwrap();
        drop(first);
        assert!(path.exists(), "the file of another socket was removed");
        drop(second);
        assert!(!path.exists());
    }

    /// The process may change its directory meanwhile. This one does not: all tests share it.
    #[test]
    fn keeps_the_absolute_path() {
        let directory = Directory::new("absolute");
        let path = directory.socket();
        let here = std::env::current_dir().unwrap();
        let up: PathBuf = here.iter().skip(1).map(|_| "..").collect();
        let relative = up.join(path.strip_prefix("/").unwrap());
        let (file, _socket) = bind(&relative).unwrap();
        assert!(path.exists());
        assert!(file.path.is_absolute(), "{}", file.path.display());
    }
}
