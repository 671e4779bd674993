// Write: find the clients that have been silent for too long, with the timeout
// of epoll_wait and no timer for each.

#pragma once

#include <chrono>
#include <vector>

#include "common/testing/todo.hpp"

using Clock = std::chrono::steady_clock;

// The clients of a server and when they were last heard of. The loop asks for
// the timeout, waits, says who was heard of, and takes the silent ones:
//
//   epoll_wait(..., idle.timeout(Clock::now()))
//   idle.heard(fd, now)                          for each client that spoke
//   for (int fd : idle.take_silent(now)) ...     closes them
//
// The times that it is told never go back.
class IdleClients {
 public:
  explicit IdleClients(std::chrono::milliseconds limit) {
    TODO("what has to be known of each client, and in which order?");
  }

  // The client has come, or has said something.
  void heard(int fd, Clock::time_point now) { TODO("note the time"); }

  // The client has left, if it was there. The number may come again as another
  // client's.
  void left(int fd) { TODO("forget it"); }

  // How long epoll_wait may sleep until somebody has been silent for the whole
  // limit: milliseconds, a part counts as a whole one; 0 if that is so already;
  // -1 if nobody is there. More than an int holds is waited for in parts.
  int timeout(Clock::time_point now) const { TODO("until the next deadline"); }

  // Everybody who has been silent for the whole limit, the longest silent
  // first. They are forgotten.
  std::vector<int> take_silent(Clock::time_point now) { TODO("take them"); }
};
