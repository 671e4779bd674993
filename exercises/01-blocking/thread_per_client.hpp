#pragma once

#include <sys/socket.h>

#include <thread>

#include "chapters/server.hpp"
#include "common/fd.hpp"
#include "common/socket.hpp"
#include "common/testing/todo.hpp"
#include "exercises/01-blocking/given/echo.hpp"

// An echo server with a thread for each client, until the listener is shut
// down.
//
// - A client is served by echo_until_end on a thread of its own. When it has
//   finished its connection is closed and its thread ends, at once.
// - Threads that have ended give their stacks back, at the latest when the next
//   client is accepted.
// - No descriptor for a client: the server rests, at most 100 ms at a time.
//   Whoever waits in the queue is served once a client has left.
// - No thread for a client: its connection is closed; the others are served.
// - When the listener is shut down all connections are ended. serve returns
//   after the last thread has ended; no descriptor is left open.
void serve(net::Fd listener) { TODO("accept clients and give each a thread"); }
