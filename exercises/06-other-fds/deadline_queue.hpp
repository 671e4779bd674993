// Write: many deadlines and one timerfd, armed for the nearest of them.

#pragma once

#include <chrono>
#include <vector>

#include "common/testing/todo.hpp"

using Clock = std::chrono::steady_clock;

// What is to happen when, each known by a number. A loop watches fd(),
// level-triggered:
//
//   deadlines.set(client, Clock::now() + 30s)    the client has come or spoken
//   deadlines.cancel(client)                     it has left
//   for (int id : deadlines.expired()) ...       when fd() was reported
//
// - There is one descriptor, whatever the number of deadlines.
// - The timer is armed for the nearest deadline, to the nanosecond, and
//   disarmed if there is none. It does not wake the loop for one that was
//   cancelled or moved to a later time.
// - The kernel is told when the nearest deadline becomes another one. What is
//   set, moved and cancelled behind it costs no system call.
// - What was cancelled or moved leaves nothing behind.
class Deadlines {
 public:
  Deadlines() { TODO("a timer of which clock?"); }

  // Readable when the nearest deadline has come.
  int fd() const { TODO("the timer's descriptor"); }

  // A new deadline, or a new time for an old one, earlier or later. The time
  // may be past, how far ever: then it is due at once.
  void set(int id, Clock::time_point when) { TODO("keep it, and arm"); }

  // Nothing happens if there is no such deadline.
  void cancel(int id) { TODO("forget it, and arm"); }

  // Those that are due, each once, the nearest first. They are forgotten, and
  // fd() is silent until the next one is due. May be called without a reason:
  // then it returns nothing, and it does not wait.
  std::vector<int> expired() { TODO("take those whose time has come"); }
};
