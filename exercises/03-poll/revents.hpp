// Fill: what to do with a client, from what poll reported on it.

#pragma once

#include <poll.h>

#include "common/testing/todo.hpp"

enum class Step {
  Nothing,  // wait again
  Read,     // the read gives bytes, the end of the stream or the error
  Write,    // the write takes bytes or gives the error
  Drop,     // neither call can move a byte any more; where Read is right too,
            // either will do
  Bug,      // no client can cause this, only a fault of the server
};

// The client is a socket or one end of a pipe. The server asks poll for
// POLLIN | POLLRDHUP, or for POLLOUT alone while it has something to send. It
// makes one step, then it calls poll again.
//
// - While poll reports input, the client is not dropped.
// - A client that has finished talking is answered.
// - What poll would report again in the next round, and for ever, is never
//   answered by Nothing: the server would spin.
// - The server does not put its own faults down to the client.
inline Step next_step(short revents) {
  TODO("choose the step; the order of the questions matters");
}
