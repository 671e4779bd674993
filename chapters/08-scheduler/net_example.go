// The server with which this course began, as it stood in the article: to be
// read beside net_example.cpp, faults and all. `go run net_example.go` runs it.
//
// Not mended here: no error is looked at. Without a listener, Accept is called
// on nil. A client that has finished is read from again and again, as fast as
// the processor can. Nothing is ever closed.
package main

import (
	"fmt"
	"net"
)

func main() {
	ln, _ := net.Listen("tcp", ":8080")
	for {
		conn, _ := ln.Accept()
		go handleConnection(conn)
	}
}

func handleConnection(conn net.Conn) {
	buf := make([]byte, 1024)
	for {
		n, _ := conn.Read(buf) // does not block: without data the goroutine parks
		fmt.Println("Received:", string(buf[:n]))
	}
}
