// Closer to chapter 03: poll only says that a call is worth a try. A hang-up
// is left to the read, which gives the rest and then 0.

#pragma once

#include <poll.h>

enum class Step {
  Nothing,  // wait again
  Read,     // the read gives bytes, the end of the stream or the error
  Write,    // the write takes bytes or gives the error
  Drop,     // neither call can move a byte any more
  Bug,      // no client can cause this, only a fault of the server
};

// The client is a socket or one end of a pipe. The server asks poll for
// POLLIN | POLLRDHUP, or for POLLOUT alone while it has something to send. It
// makes one step, then it calls poll again.
inline Step next_step(short revents) {
  if ((revents & POLLNVAL) != 0) return Step::Bug;
  if ((revents & POLLOUT) != 0) return Step::Write;
  const int worth_a_read = POLLIN | POLLHUP | POLLRDHUP;
  if ((revents & worth_a_read) != 0) return Step::Read;
  return (revents & POLLERR) != 0 ? Step::Drop : Step::Nothing;
}
