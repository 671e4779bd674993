// Belief: select fails only because of signals.
// Fails: select fails
// Message: an error that is no signal is thrown
#pragma once

#include <sys/select.h>
#include <sys/time.h>

#include <algorithm>
#include <cerrno>
#include <chrono>

#include "common/error.hpp"
#include "exercises/02-select/given/world.hpp"

// The time from now to the deadline as select wants it, rounded up; zero if
// the deadline has passed.
inline timeval time_left(Clock::time_point deadline, Clock::time_point now) {
  using std::chrono::microseconds;
  using std::chrono::seconds;
  const auto left = std::max(std::chrono::ceil<microseconds>(deadline - now),
                             microseconds(0));
  const auto whole = std::chrono::floor<seconds>(left);
  return {whole.count(), (left - whole).count()};
}

// Waits until fd is readable. False: the deadline has passed and it is not.
// Throws std::system_error if select fails other than by a signal.
inline bool wait_readable(const World& world, int fd,
                          Clock::time_point deadline) {
  for (;;) {
    fd_set readable;
    FD_ZERO(&readable);
    FD_SET(fd, &readable);
    // Anew in every round: after an error the timeout is undefined (select(2)).
    timeval limit = time_left(deadline, world.now());
    const int n = world.select(fd + 1, &readable, &limit);
    if (n >= 0) return n > 0;
  }
}
