//! What is compared.

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Transport {
    Tcp,
    Udp,
}

pub(crate) struct Server {
    /// On the command line and in the results.
    pub(crate) name: &'static str,
    /// In tables and charts.
    pub(crate) title: &'static str,
    /// How it is started: a program that `Programs` knows, and its arguments,
    /// with PORT in place of the port.
    tcp: &'static str,
    udp: Option<&'static str>,
    /// What it needs besides the program.
    pub(crate) needs: Option<&'static str>,
    /// Whether it is one process, of which the load generator can tell processor time and memory.
    pub(crate) is_one_process: bool,
    /// The workloads that it is for; all, if there are none.
    pub(crate) only: &'static [&'static str],
}

/// The one that the others are compared with.
pub(crate) const BASELINE: &str = "mio-echo";

/// What most have in common.
const PLAIN: Server = Server {
    name: "",
    title: "",
    tcp: "",
    udp: None,
    needs: None,
    is_one_process: true,
    only: &[],
};

pub(crate) const SERVERS: &[Server] = &[
    Server {
        name: BASELINE,
        title: "mio-echo",
        tcp: "mio-echo -q tcp://127.0.0.1:PORT",
        udp: Some("mio-echo -q udp://127.0.0.1:PORT"),
        ..PLAIN
    },
    Server {
        name: "mio-echo-busy-poll",
        title: "mio-echo --busy-poll 50us",
        tcp: "mio-echo -q --busy-poll 50us tcp://127.0.0.1:PORT",
        only: &["1x64B", "ping"],
        ..PLAIN
    },
    Server {
        name: "mio-echo-copying",
        title: "mio-echo --zero-copy off",
        tcp: "mio-echo -q --zero-copy off tcp://127.0.0.1:PORT",
        only: &["8x64KiBx4", "1x64KiBx8"],
        ..PLAIN
    },
    Server {
        name: "epoll",
        title: "bare epoll loop",
        tcp: "epoll tcp 127.0.0.1:PORT",
        udp: Some("epoll udp 127.0.0.1:PORT"),
        ..PLAIN
    },
    Server {
        name: "tokio",
        title: "tokio, one thread",
        tcp: "tokio tcp 127.0.0.1:PORT",
        udp: Some("tokio udp 127.0.0.1:PORT"),
        ..PLAIN
    },
    Server {
        name: "naive-mio",
        title: "naive mio",
        tcp: "naive-mio tcp 127.0.0.1:PORT",
        ..PLAIN
    },
    Server {
        name: "socat",
        title: "socat",
        // It can come to wait for room in its pipe, which nobody but itself could make; the sooner, the
        // more it writes at a time. So it has its default (-b).
        tcp: "socat TCP-LISTEN:PORT,bind=127.0.0.1,fork,reuseaddr,nodelay,backlog=1024 PIPE",
        is_one_process: false,
        ..PLAIN
    },
    Server {
        name: "asyncio",
        title: "Python asyncio",
        tcp: "python3 servers/asyncio_echo.py asyncio tcp 127.0.0.1 PORT",
        udp: Some("python3 servers/asyncio_echo.py asyncio udp 127.0.0.1 PORT"),
        ..PLAIN
    },
    Server {
        name: "uvloop",
        title: "Python uvloop",
        tcp: "python3 servers/asyncio_echo.py uvloop tcp 127.0.0.1 PORT",
        udp: Some("python3 servers/asyncio_echo.py uvloop udp 127.0.0.1 PORT"),
        needs: Some("uvloop"),
        ..PLAIN
    },
];

impl Server {
    /// How it is started, if it has that transport.
    pub(crate) fn command(&self, transport: Transport) -> Option<&'static str> {
        match transport {
            Transport::Tcp => Some(self.tcp),
            Transport::Udp => self.udp,
        }
    }

    pub(crate) fn program(&self) -> &'static str {
        self.tcp.split(' ').next().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn server_names_are_unique() {
        for (place, server) in SERVERS.iter().enumerate() {
            assert!(SERVERS[..place].iter().all(|it| it.name != server.name));
        }
        assert!(SERVERS.iter().any(|it| it.name == BASELINE));
    }

    #[test]
    fn each_command_has_a_place_for_the_port() {
        for server in SERVERS {
            let commands = [Transport::Tcp, Transport::Udp].map(|it| server.command(it));
            for command in commands.into_iter().flatten() {
                assert!(command.contains("PORT"), "{command}");
                assert!(command.starts_with(server.program()), "{command}");
            }
        }
    }
}
