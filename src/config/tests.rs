//! What is accepted, what is not, and what is said of it.

use super::*;

fn error(builder: ConfigBuilder) -> ConfigError {
    builder.build().expect_err("an impossible value was taken")
}

#[test]
fn the_ends_of_every_range_are_taken() {
    for builder in [
        Config::builder()
            .backlog(1)
            .buffer_size(1)
            .max_connections(1),
        Config::builder()
            .backlog(65_535)
            .buffer_size(1 << 24)
            .max_connections(1_000_000_000),
        Config::builder().max_per_source(1),
        Config::builder().max_per_source(Config::DEFAULT_MAX_CONNECTIONS),
        Config::builder().drain_timeout(Duration::ZERO),
        Config::builder().drain_timeout(Duration::from_secs(86_400)),
        Config::builder().idle_timeout(Duration::ZERO),
        Config::builder().idle_timeout(Duration::from_secs(86_400)),
        Config::builder().write_timeout(Duration::ZERO),
        Config::builder().write_timeout(Duration::from_secs(86_400)),
        Config::builder().busy_poll(Duration::ZERO),
        Config::builder().busy_poll(Duration::from_secs(1)),
        Config::builder().unix_mode(0),
        Config::builder().unix_mode(0o777),
        Config::builder().endpoint(Endpoint::Unix("x".repeat(Config::UNIX_PATH_MAX).into())),
        Config::builder().endpoint(Endpoint::Abstract("x".repeat(Config::UNIX_PATH_MAX))),
    ] {
        builder.build().unwrap();
    }
}

#[test]
fn what_is_out_of_range_is_named() {
    let max = usize::MAX;
    assert_eq!(error(Config::builder().backlog(0)), ConfigError::Backlog(0));
    assert_eq!(
        error(Config::builder().backlog(65_536)),
        ConfigError::Backlog(65_536)
    );
    assert_eq!(
        error(Config::builder().buffer_size(0)),
        ConfigError::BufferSize(0)
    );
    assert_eq!(
        error(Config::builder().buffer_size(max)),
        ConfigError::BufferSize(max)
    );
    assert_eq!(
        error(Config::builder().max_connections(0)),
        ConfigError::MaxConnections(0)
    );
    assert_eq!(
        error(Config::builder().max_connections(max)),
        ConfigError::MaxConnections(max)
    );
    let forever = Duration::MAX;
    assert_eq!(
        error(Config::builder().drain_timeout(forever)),
        ConfigError::DrainTimeout(forever)
    );
    assert_eq!(
        error(Config::builder().idle_timeout(forever)),
        ConfigError::IdleTimeout(forever)
    );
    assert_eq!(
        error(Config::builder().write_timeout(forever)),
        ConfigError::WriteTimeout(forever)
    );
    assert_eq!(
        error(Config::builder().busy_poll(forever)),
        ConfigError::BusyPoll(forever)
    );
    assert_eq!(
        error(Config::builder().socket_buffer(4095)),
        ConfigError::SocketBuffer(4095)
    );
    assert_eq!(
        error(Config::builder().socket_buffer(max)),
        ConfigError::SocketBuffer(max)
    );
    assert_eq!(
        error(Config::builder().unix_mode(0o1000)),
        ConfigError::UnixMode(0o1000)
    );
}

#[test]
fn max_buffered_has_room_for_what_one_peer_may_need() {
    for (buffer_size, least) in [(1, 262_144), (1024 * 1024, 1_048_576)] {
        let builder = |bytes| {
            let builder = Config::builder().buffer_size(buffer_size);
            builder.max_buffered(bytes)
        };
        builder(least).build().unwrap();
        let bytes = least - 1;
        let error = error(builder(bytes));
        assert_eq!(error, ConfigError::MaxBuffered { bytes, least });
        assert!(error.to_string().contains(&least.to_string()), "{error}");
    }
}

#[test]
fn a_source_may_not_have_more_connections_than_all_may() {
    let builder = |count| Config::builder().max_connections(5).max_per_source(count);
    builder(5).build().unwrap();
    for count in [0, 6, usize::MAX] {
        let error = error(builder(count));
        assert_eq!(error, ConfigError::MaxPerSource { count, most: 5 });
        assert!(error.to_string().contains("choose 1 to 5"), "{error}");
    }
    let count = Config::DEFAULT_MAX_CONNECTIONS + 1;
    error(Config::builder().max_per_source(count));
}

#[test]
fn a_network_is_allowed_where_a_peer_could_be_in_one() {
    let build = |endpoints: &[&str], networks: &[&str], dual_stack| {
        let mut builder = Config::builder().dual_stack(dual_stack);
        for text in endpoints {
            builder = builder.endpoint(text.parse().unwrap());
        }
        for text in networks {
            builder = builder.allow(text.parse().unwrap());
        }
        builder.build().map(|config| config.allow.len())
    };
    for (endpoints, networks, dual_stack) in [
        (&[][..], &["10.0.0.0/8"][..], false),
        (&[], &["::1"], false),
        (&["127.0.0.1:7"], &["::1", "::ffff:127.0.0.1"], false),
        (&["[::]:7"], &["10.0.0.0/8"], true),
        (&["[::]:7", "udp://0.0.0.0:7"], &["10.0.0.0/8"], false),
        (&["unix:@echo", "[::1]:7"], &["::1"], false),
    ] {
        let count = networks.len();
        assert_eq!(build(endpoints, networks, dual_stack), Ok(count));
    }
    for (endpoints, networks, dual_stack) in [
        (&["[::]:7"][..], &["10.0.0.0/8", "192.0.2.1"][..], false),
        (&["0.0.0.0:7"], &["::/0"], true),
        (&["unix:@echo"], &["0.0.0.0/0", "::/0"], true),
        (&["unix:@echo", "[::]:7"], &["10.0.0.0/8"], false),
    ] {
        let result = build(endpoints, networks, dual_stack);
        assert_eq!(result, Err(ConfigError::AllowedFamily), "{endpoints:?}");
    }
}

#[test]
fn a_path_has_no_zero_byte() {
    let endpoint = Endpoint::Unix("/run/echo\0sock".into());
    let error = error(Config::builder().endpoint(endpoint.clone()));
    assert_eq!(error, ConfigError::NulInPath(endpoint));
    assert_eq!(error.to_string().lines().count(), 1);
}

#[test]
fn a_path_that_is_too_long_is_told_how_long_it_may_be() {
    let long = "x".repeat(Config::UNIX_PATH_MAX + 1);
    for endpoint in [
        Endpoint::Unix(long.clone().into()),
        Endpoint::Abstract(long),
    ] {
        let error = error(Config::builder().endpoint(endpoint.clone()));
        assert_eq!(error, ConfigError::LongPath(endpoint));
        #[cfg(target_os = "linux")]
        assert!(error.to_string().contains("107 bytes at most"), "{error}");
    }
}

#[test]
fn a_socket_may_be_there_once() {
    let build = |dual_stack: bool, endpoints: [&str; 2]| {
        let mut builder = Config::builder().dual_stack(dual_stack);
        for text in endpoints {
            builder = builder.endpoint(text.parse().unwrap());
        }
        builder.build()
    };
    for (dual_stack, endpoints, repeated) in [
        (false, ["127.0.0.1:7", "127.0.0.1:7"], "tcp://127.0.0.1:7"),
        (
            false,
            ["127.0.0.1:7", "udp://127.0.0.1:7"],
            "udp://127.0.0.1:7",
        ),
        (false, ["unix:@a", "unix:@a"], "unix:@a"),
        (true, ["0.0.0.0:7", "tcp://[::]:7"], "tcp://0.0.0.0:7"),
    ] {
        assert_eq!(
            build(dual_stack, endpoints),
            Err(ConfigError::RepeatedEndpoint(repeated.parse().unwrap()))
        );
    }
    for (dual_stack, endpoints) in [
        (false, ["tcp://127.0.0.1:7", "udp://127.0.0.1:7"]),
        (false, ["127.0.0.1:7", "[::1]:7"]),
        (false, ["0.0.0.0:7", "[::]:7"]),
        (true, ["127.0.0.1:0", "127.0.0.1:0"]),
    ] {
        assert_eq!(build(dual_stack, endpoints).unwrap().endpoints.len(), 2);
    }
}

#[test]
fn without_an_endpoint_it_is_the_default_one() {
    let config = Config::builder().build().unwrap();
    assert_eq!(config, Config::default());
    assert_eq!(config.or_default_endpoint().endpoints, [Endpoint::DEFAULT]);
    let endpoint: Endpoint = "unix:@a".parse().unwrap();
    let config = Config::builder().endpoint(endpoint.clone()).build();
    assert_eq!(config.unwrap().or_default_endpoint().endpoints, [endpoint]);
}
