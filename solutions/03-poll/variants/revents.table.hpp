// The order as data: the first row that matches decides.

#pragma once

#include <poll.h>

#include <algorithm>
#include <array>

enum class Step {
  Nothing,  // wait again
  Read,     // the read gives bytes, the end of the stream or the error
  Write,    // the write takes bytes or gives the error
  Drop,     // neither call can move a byte any more
  Bug,      // no client can cause this, only a fault of the server
};

struct Rule {
  int flags;
  Step step;
};

inline constexpr std::array rules{
    Rule{POLLNVAL, Step::Bug},
    Rule{POLLIN, Step::Read},
    Rule{POLLOUT, Step::Write},
    Rule{POLLRDHUP | POLLHUP | POLLERR, Step::Drop},
};

// The client is a socket or one end of a pipe. The server asks poll for
// POLLIN | POLLRDHUP, or for POLLOUT alone while it has something to send. It
// makes one step, then it calls poll again.
inline Step next_step(short revents) {
  const auto* rule = std::find_if(
      rules.begin(), rules.end(),
      [&](const Rule& candidate) { return (revents & candidate.flags) != 0; });
  return rule == rules.end() ? Step::Nothing : rule->step;
}
