//! A plain tokio echo server on a single-threaded runtime. `tokio tcp|udp ADDRESS`

#![forbid(unsafe_code)]

use std::env;
use std::io;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::runtime::Builder;

fn main() -> io::Result<()> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let runtime = Builder::new_current_thread().enable_io().build()?;
    match arguments[..] {
        ["tcp", address] => runtime.block_on(serve_streams(address)),
        ["udp", address] => runtime.block_on(serve_datagrams(address)),
        _ => Err(io::Error::other("usage: tokio tcp|udp ADDRESS")),
    }
}

async fn serve_streams(address: &str) -> io::Result<()> {
    let listener = TcpListener::bind(address).await?;
    loop {
        let (stream, _) = listener.accept().await?;
        tokio::spawn(echo(stream));
    }
}

async fn echo(mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let count = stream.read(&mut buffer).await?;
        if count == 0 {
            return Ok(());
        }
        stream.write_all(&buffer[..count]).await?;
    }
}

async fn serve_datagrams(address: &str) -> io::Result<()> {
    let socket = UdpSocket::bind(address).await?;
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let (count, peer) = socket.recv_from(&mut buffer).await?;
        socket.send_to(&buffer[..count], peer).await?;
    }
}
