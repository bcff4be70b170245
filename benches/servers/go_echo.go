// A plain echo server on Go's package net, with a goroutine for each connection.
//
// Usage: go_echo tcp|udp HOST PORT
package main

import (
	"io"
	"log"
	"net"
	"os"
)

func main() {
	if len(os.Args) != 4 {
		log.Fatal("usage: go_echo tcp|udp HOST PORT")
	}
	address := net.JoinHostPort(os.Args[2], os.Args[3])
	serve := serveStreams
	if os.Args[1] == "udp" {
		serve = serveDatagrams
	}
	log.Fatal(serve(address))
}

func serveStreams(address string) error {
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	for {
		connection, err := listener.Accept()
		if err != nil {
			return err
		}
		go echo(connection)
	}
}

// Go sets TCP_NODELAY itself, and copies from socket to socket with splice(2) on Linux.
func echo(connection net.Conn) {
	defer connection.Close()
	// An error ends this connection alone.
	_, _ = io.Copy(connection, connection)
}

func serveDatagrams(address string) error {
	socket, err := net.ListenPacket("udp", address)
	if err != nil {
		return err
	}
	buffer := make([]byte, 64*1024)
	for {
		count, peer, err := socket.ReadFrom(buffer)
		if err != nil {
			return err
		}
		// A reply that cannot be sent is lost, as datagrams are.
		_, _ = socket.WriteTo(buffer[:count], peer)
	}
}
