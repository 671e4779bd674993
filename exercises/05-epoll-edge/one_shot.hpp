// Write: a pool of threads that share one epoll.

#pragma once

#include <functional>

#include "common/fd.hpp"
#include "common/testing/todo.hpp"

// One turn of a client on which something was reported. It reads and answers
// as much as it likes, and it may leave bytes unread. False: the client has
// gone. Does not throw. Two threads may have turns of two clients at a time.
using Turn = std::function<bool(int fd)>;

// Takes a listening TCP socket and serves its clients with so many threads,
// the caller's among them, until the socket is shut down. Then the turns that
// have begun are finished, and serve returns when all threads have ended. It
// leaves no descriptor open.
//
// - The threads share one epoll: each waits there for whom to serve next.
// - A client has one turn at a time, whatever it does in the meantime: it may
//   send more, finish or reset.
// - Bytes that came during a turn, or that it has left, bring another turn.
// - A client never waits while a thread is idle.
// - The clients' sockets are non-blocking. serve closes who has gone, and does
//   not arm it again.
// - Out of descriptors: the clients that are there are served, no thread spins,
//   and whoever waits in the queue is served when somebody has left.
inline void serve(net::Fd listener, unsigned threads, const Turn& turn) {
  TODO("the pool; begin with the function that each of the threads runs");
}
