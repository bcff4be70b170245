//! The command line of all steps.

use std::env;
use std::net::{Ipv4Addr, SocketAddr};
use std::process;

const USAGE: &str = "usage: guide_NN [IP:PORT], by default 127.0.0.1:7007";

/// Returns the address to listen on. `--help` and wrong arguments end the program.
#[allow(dead_code, reason = "steps 04 and 05 do not run on every system")]
pub(crate) fn address() -> SocketAddr {
    let arguments: Vec<String> = env::args().skip(1).collect();
    if arguments == ["--help"] {
        println!("{USAGE}");
        process::exit(0);
    }
    let address = match &arguments[..] {
        [] => Some((Ipv4Addr::LOCALHOST, 7007).into()),
        [address] => address.parse().ok(),
        _ => None,
    };
    address.unwrap_or_else(|| {
        eprintln!("{USAGE}");
        process::exit(2);
    })
}
