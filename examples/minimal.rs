//! The smallest echo service: `cargo run --example minimal`, then `nc 127.0.0.1 PORT`.

use std::error::Error;

use mio_echo::{Config, Server};

fn main() -> Result<(), Box<dyn Error>> {
    match std::env::args().nth(1).as_deref() {
        None => {}
        Some("--help") => {
            println!("usage: minimal, without arguments");
            return Ok(());
        }
        Some(_) => return Err("usage: minimal, without arguments".into()),
    }
    // Port 0 is a free one, which the system chooses.
    let config = Config::builder().endpoint("127.0.0.1:0".parse()?).build()?;
    let mut server = Server::bind(config)?;
    println!("listening on {}", server.endpoints()[0]);
    server.run()?;
    Ok(())
}
