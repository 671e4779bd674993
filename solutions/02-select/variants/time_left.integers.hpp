#pragma once

#include <sys/select.h>
#include <sys/time.h>

#include <cerrno>
#include <chrono>
#include <cstdint>

#include "common/error.hpp"
#include "exercises/02-select/given/world.hpp"

// The same with plain numbers, and a wait that calls itself.
inline timeval time_left(Clock::time_point deadline, Clock::time_point now) {
  const std::int64_t left = std::chrono::nanoseconds(deadline - now).count();
  if (left <= 0) return {0, 0};
  const std::int64_t micro = (left - 1) / 1'000 + 1;
  return {micro / 1'000'000, micro % 1'000'000};
}

inline bool wait_readable(const World& world, int fd,
                          Clock::time_point deadline) {
  timeval limit = time_left(deadline, world.now());
  fd_set readable{};
  FD_SET(fd, &readable);
  const int n = world.select(fd + 1, &readable, &limit);
  if (n >= 0) return n > 0;
  if (errno != EINTR) net::throw_errno("select");
  return wait_readable(world, fd, deadline);
}
