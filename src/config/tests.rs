//! Which settings are accepted, and the errors of the others.

use super::*;

fn error(builder: ConfigBuilder) -> ConfigError {
    builder.build().expect_err("accepted")
}

#[test]
fn settings_can_be_read_and_changed() {
    let second = Duration::from_secs(1);
    let config = Config::builder()
        .endpoint("unix:/a".parse().unwrap())
        .endpoint("127.0.0.1:1".parse().unwrap())
        .allow("10.0.0.0/8".parse().unwrap())
        .reuse_port(true)
        .unix_mode(0o600)
        .max_connections(3)
        .max_per_source(2)
        .drain_timeout(second)
        .zero_copy(ZeroCopy::Off);
    let config = config.build().unwrap();
    assert_eq!((config.endpoints().len(), config.allow().len()), (2, 1));
    assert!(config.reuse_port() && !config.dual_stack());
    assert_eq!(
        (config.unix_mode(), config.max_per_source()),
        (Some(0o600), Some(2))
    );
    assert_eq!(
        (config.drain_timeout(), config.zero_copy()),
        (second, ZeroCopy::Off)
    );
    assert_eq!(
        (config.max_connections(), config.max_turns()),
        (3, usize::MAX)
    );
    assert_eq!(config.to_builder().build(), Ok(config.clone()));
    let changed = config.to_builder().max_turns(5).build().unwrap();
    assert_ne!(changed, config);
    assert_eq!(changed.max_turns(), 5);
    let of_default = ConfigBuilder::default().build();
    assert_eq!(of_default, Ok(Config::default()));
}

#[test]
fn accepts_the_ends_of_every_range() {
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
        Config::builder().max_per_source(1_000_000_000),
        Config::builder().max_buffered(262_144),
        Config::builder()
            .buffer_size(1_000_000)
            .max_buffered(1_000_000),
        Config::builder().socket_buffer(4096),
        Config::builder().socket_buffer(1 << 30),
        Config::builder().drain_timeout(Duration::ZERO),
        Config::builder().drain_timeout(Duration::from_secs(86_400)),
        Config::builder().idle_timeout(Duration::ZERO),
        Config::builder().idle_timeout(Duration::from_secs(86_400)),
        Config::builder().write_timeout(Duration::ZERO),
        Config::builder().write_timeout(Duration::from_secs(86_400)),
        Config::builder().busy_poll(Duration::ZERO),
        Config::builder().busy_poll(Duration::from_secs(1)),
        Config::builder().unix_mode(0),
        Config::builder().max_turns(1),
        Config::builder().max_turns(usize::MAX),
        Config::builder().connection_events(0),
        Config::builder().connection_events(1_000_000),
        Config::builder().unix_mode(0o777),
        Config::builder().endpoint(Endpoint::Unix("x".repeat(Config::UNIX_PATH_MAX).into())),
        Config::builder().endpoint(Endpoint::Abstract(vec![b'x'; Config::UNIX_PATH_MAX])),
    ] {
        builder.build().unwrap();
    }
}

#[test]
fn value_out_of_range_is_named_with_its_range() {
    let (max, long) = (usize::MAX, Duration::MAX);
    for (builder, name, range) in [
        (
            Config::builder().backlog(0),
            "backlog 0",
            "1 to 65535 connections",
        ),
        (
            Config::builder().backlog(65_536),
            "backlog 65536",
            "1 to 65535",
        ),
        (
            Config::builder().buffer_size(0),
            "buffer size 0",
            "1 to 16777216 bytes",
        ),
        (
            Config::builder().buffer_size(max),
            "buffer size",
            "1 to 16777216",
        ),
        (
            Config::builder().max_connections(0),
            "limit of connections 0",
            "1 to 1000000000",
        ),
        (
            Config::builder().max_connections(max),
            "limit of connections",
            "1 to",
        ),
        (
            Config::builder().max_per_source(0),
            "per source 0",
            "1 to 1000000000",
        ),
        (
            Config::builder().max_per_source(max),
            "per source",
            "1 to 1000000000",
        ),
        (
            Config::builder().max_buffered(262_143),
            "buffered bytes 262143",
            "at least 262144 bytes",
        ),
        (
            Config::builder()
                .buffer_size(1_000_000)
                .max_buffered(999_999),
            "buffered bytes 999999",
            "at least 1000000 bytes",
        ),
        (
            Config::builder().socket_buffer(4095),
            "socket buffer 4095",
            "4096 to 1073741824 bytes",
        ),
        (Config::builder().max_turns(0), "limit of turns 0", "1 to"),
        (
            Config::builder().connection_events(1_000_001),
            "room for connection events 1000001",
            "0 to 1000000",
        ),
        (
            Config::builder().socket_buffer(max),
            "socket buffer",
            "4096 to",
        ),
        (
            Config::builder().drain_timeout(long),
            "drain timeout",
            "0 to 86400s",
        ),
        (
            Config::builder().idle_timeout(long),
            "idle timeout",
            "0 to 86400s",
        ),
        (
            Config::builder().write_timeout(long),
            "write timeout",
            "0 to 86400s",
        ),
        (Config::builder().busy_poll(long), "busy poll", "0 to 1s"),
        (
            Config::builder().unix_mode(0o1000),
            "mode of Unix sockets 0o1000",
            "0 to 0o777",
        ),
    ] {
        let error = error(builder);
        assert!(matches!(error, ConfigError::OutOfRange { .. }), "{error:?}");
        let text = error.to_string();
        assert!(
            text.contains(name) && text.contains(&format!("choose {range}")),
            "{text}"
        );
    }
}

#[test]
fn allow_list_can_be_extended_and_replaced() {
    let network = |text: &str| text.parse::<Network>().unwrap();
    let (one, other) = (network("10.0.0.0/8"), network("::1"));
    let both = Config::builder().allow(one).allow(other).build().unwrap();
    assert_eq!(both.allow(), [one, other]);
    for networks in [&[other][..], &[]] {
        let builder = both.to_builder().allow_list(networks.iter().copied());
        assert_eq!(builder.build().unwrap().allow(), networks);
    }
}

/// Whether a peer can be in the list depends on sockets that may be inherited or adopted later.
#[test]
fn allow_list_may_have_any_family() {
    for endpoint in ["127.0.0.1:7", "[::1]:7", "unix:@echo"] {
        for network in ["10.0.0.0/8", "::1"] {
            let builder = Config::builder().endpoint(endpoint.parse().unwrap());
            builder.allow(network.parse().unwrap()).build().unwrap();
        }
    }
}

#[test]
fn optional_settings_can_be_removed() {
    let config = Config::builder()
        .max_per_source(1)
        .socket_buffer(4096)
        .unix_mode(0o600)
        .build()
        .unwrap();
    let removed = config
        .to_builder()
        .max_per_source(None)
        .socket_buffer(None)
        .unix_mode(None);
    assert_eq!(removed.build(), Ok(Config::default()));
}

#[test]
fn limit_per_source_may_be_above_that_of_all() {
    let config = Config::builder().max_per_source(5).build().unwrap();
    config.to_builder().max_connections(3).build().unwrap();
}

#[test]
fn rejects_path_with_zero_byte() {
    let endpoint = Endpoint::Unix("/run/echo\0sock".into());
    let error = error(Config::builder().endpoint(endpoint.clone()));
    assert_eq!(error, ConfigError::NulInPath(endpoint));
    assert_eq!(error.to_string().lines().count(), 1);
}

#[test]
fn rejects_long_path_with_the_maximum() {
    let long = "x".repeat(Config::UNIX_PATH_MAX + 1);
    for endpoint in [
        Endpoint::Unix(long.clone().into()),
        Endpoint::Abstract(long.into()),
    ] {
        let error = error(Config::builder().endpoint(endpoint.clone()));
        assert_eq!(error, ConfigError::LongPath(endpoint));
        #[cfg(target_os = "linux")]
        assert!(error.to_string().contains("107 bytes at most"), "{error}");
    }
}

#[test]
fn rejects_repeated_socket() {
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
