//! The servers that are compared.

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Transport {
    Tcp,
    Udp,
}

pub(crate) struct Server {
    /// Name on the command line and in `results.json`.
    pub(crate) name: &'static str,
    /// Name in tables and charts.
    pub(crate) title: &'static str,
    /// Command line: the name of a program in `Programs` and its arguments, with PORT for the port.
    tcp: &'static str,
    /// The same for UDP.
    udp: Option<&'static str>,
    /// What it is made of, by its name in the versions of `Programs`.
    pub(crate) library: &'static str,
    /// Another name in `Programs` that it needs.
    pub(crate) needs: Option<&'static str>,
    /// Whether the load generator can measure its CPU time and memory: it takes a single process ID.
    pub(crate) single_process: bool,
    /// The workloads in which it takes part; empty means all.
    pub(crate) only: &'static [&'static str],
}

/// Why the load generator cannot measure a server.
pub(crate) const PROCESS_PER_CONNECTION: &str = "a process for each connection";

/// Name of the server to which the others are compared.
pub(crate) const BASELINE: &str = "mio-echo";

/// The common values of most servers.
const DEFAULTS: Server = Server {
    name: "",
    title: "",
    tcp: "",
    udp: None,
    library: "mio-echo",
    needs: None,
    single_process: true,
    only: &[],
};

pub(crate) const SERVERS: &[Server] = &[
    Server {
        name: BASELINE,
        title: "mio-echo",
        tcp: "mio-echo -q tcp://127.0.0.1:PORT",
        udp: Some("mio-echo -q udp://127.0.0.1:PORT"),
        ..DEFAULTS
    },
    Server {
        name: "mio-echo-busy-poll",
        title: "mio-echo --busy-poll 50us",
        tcp: "mio-echo -q --busy-poll 50us tcp://127.0.0.1:PORT",
        only: &["1x64B", "ping"],
        ..DEFAULTS
    },
    Server {
        name: "mio-echo-copying",
        title: "mio-echo --zero-copy off",
        tcp: "mio-echo -q --zero-copy off tcp://127.0.0.1:PORT",
        only: &["8x64KiBx4", "1x64KiBx8"],
        ..DEFAULTS
    },
    Server {
        name: "epoll",
        title: "bare epoll loop",
        tcp: "epoll tcp 127.0.0.1:PORT",
        udp: Some("epoll udp 127.0.0.1:PORT"),
        library: "rustc",
        ..DEFAULTS
    },
    Server {
        name: "tokio",
        title: "tokio, one thread",
        tcp: "tokio tcp 127.0.0.1:PORT",
        udp: Some("tokio udp 127.0.0.1:PORT"),
        library: "tokio",
        ..DEFAULTS
    },
    Server {
        name: "naive-mio",
        title: "naive mio",
        tcp: "naive-mio tcp 127.0.0.1:PORT",
        library: "mio",
        ..DEFAULTS
    },
    Server {
        name: "libuv",
        title: "C with libuv",
        tcp: "libuv_echo tcp 127.0.0.1 PORT",
        udp: Some("libuv_echo udp 127.0.0.1 PORT"),
        library: "libuv",
        ..DEFAULTS
    },
    Server {
        name: "io_uring",
        title: "C with io_uring",
        tcp: "uring_echo tcp 127.0.0.1 PORT",
        library: "liburing",
        ..DEFAULTS
    },
    Server {
        name: "go",
        title: "Go net",
        tcp: "go_echo tcp 127.0.0.1 PORT",
        udp: Some("go_echo udp 127.0.0.1 PORT"),
        library: "go",
        ..DEFAULTS
    },
    Server {
        name: "socat",
        title: "socat",
        // A process writes to and reads from the same pipe, so it can block on a full pipe that only it
        // could empty. Larger writes make that more likely, so keep the default block size (-b 8192).
        tcp: "socat TCP-LISTEN:PORT,bind=127.0.0.1,fork,reuseaddr,nodelay,backlog=1024 PIPE",
        single_process: false,
        library: "socat",
        ..DEFAULTS
    },
    Server {
        name: "asyncio",
        title: "Python asyncio",
        tcp: "python3 servers/asyncio_echo.py asyncio tcp 127.0.0.1 PORT",
        udp: Some("python3 servers/asyncio_echo.py asyncio udp 127.0.0.1 PORT"),
        library: "python3",
        ..DEFAULTS
    },
    Server {
        name: "uvloop",
        title: "Python uvloop",
        tcp: "python3 servers/asyncio_echo.py uvloop tcp 127.0.0.1 PORT",
        udp: Some("python3 servers/asyncio_echo.py uvloop udp 127.0.0.1 PORT"),
        needs: Some("uvloop"),
        library: "uvloop",
        ..DEFAULTS
    },
];

impl Server {
    /// Returns the command line, or `None` if the server does not support the transport.
    pub(crate) fn command(&self, transport: Transport) -> Option<&'static str> {
        match transport {
            Transport::Tcp => Some(self.tcp),
            Transport::Udp => self.udp,
        }
    }

    /// Returns the name of its program in `Programs`.
    pub(crate) fn program(&self) -> &'static str {
        self.tcp.split(' ').next().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn server_names_are_unique() {
        for (index, server) in SERVERS.iter().enumerate() {
            assert!(SERVERS[..index].iter().all(|it| it.name != server.name));
        }
        assert!(SERVERS.iter().any(|it| it.name == BASELINE));
    }

    #[test]
    fn commands_contain_program_and_port() {
        for server in SERVERS {
            let commands = [Transport::Tcp, Transport::Udp].map(|it| server.command(it));
            for command in commands.into_iter().flatten() {
                assert!(command.contains("PORT"), "{command}");
                assert!(command.starts_with(server.program()), "{command}");
            }
        }
    }
}
