// Write: a TCP proxy in goroutines.

#pragma once

#include "common/fd.hpp"
#include "common/socket.hpp"
#include "common/testing/todo.hpp"
#include "rt/go.hpp"
#include "rt/net.hpp"

// Takes a listening TCP socket. For each client it connects to the backend and
// copies what either of the two sends to the other, until the listener is shut
// down. Then it returns, whoever is still there, and leaves no descriptor open.
//
// - Both directions at once: whoever speaks first, and however much.
// - The end of a stream is passed on, and the other direction goes on until it
//   has ended as well.
// - A reset, or any other error, ends this client and its connection to the
//   backend, and nothing else. So does a backend that refuses.
// - A client delays no other, not even while the backend has not answered yet.
// - Who does not read stops who sends. The proxy keeps a buffer for each
//   direction and no more.
// - Descriptors are given back as soon as both directions have ended. Out of
//   descriptors: the clients that are there are served, and whoever waits in
//   the queue is served when somebody has left. Who has been accepted and finds
//   no descriptor for the backend is let go. Meanwhile the proxy rests: it may
//   look every 100 ms whether there is one, no oftener.
//
// A goroutine has 256 KiB of stack. A buffer of 1 MiB on it steps over the
// guard as well: that is a SIGSEGV without the line that names the goroutine.
inline void proxy(net::Fd listener, const net::Address& backend) {
  TODO("rt::run, and in it the loop that accepts; a client is a goroutine");
}
