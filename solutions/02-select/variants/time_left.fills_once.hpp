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
  // Filled once: another call is made only after an error, and then the set is
  // as it was (select(2)).
  fd_set readable;
  FD_ZERO(&readable);
  FD_SET(fd, &readable);
  for (;;) {
    timeval limit = time_left(deadline, world.now());
    const int n = world.select(fd + 1, &readable, &limit);
    if (n >= 0) return n > 0;
    if (errno != EINTR) net::throw_errno("select");
  }
}
