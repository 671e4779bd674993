#pragma once

#include <sys/select.h>

#include <chrono>
#include <functional>

using Clock = std::chrono::steady_clock;

// What a wait needs of the world, so that a test can take the world's place.
struct World {
  std::function<Clock::time_point()> now = Clock::now;
  // select(2) with one set: returns how many are readable, 0 at the limit, or
  // -1 and errno. After an error the set is as it was, and the limit is
  // undefined.
  std::function<int(int nfds, fd_set* readable, timeval* limit)> select =
      [](int nfds, fd_set* readable, timeval* limit) {
        return ::select(nfds, readable, nullptr, nullptr, limit);
      };
};
