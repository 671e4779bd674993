#pragma once

#include <sys/eventfd.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <mutex>
#include <utility>
#include <vector>

#include "common/error.hpp"
#include "common/fd.hpp"

// Hands items from any thread to a loop that sleeps in epoll_wait. The mutex
// guards the items; the eventfd is the bell that wakes the loop.
template <typename Item>
class Mailbox {
 public:
  Mailbox()
      : bell_(net::check(::eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC), "eventfd")) {
  }

  // Readable while there may be items.
  int fd() const { return bell_.get(); }

  // By any thread.
  void put(Item item) {
    std::unique_lock lock(mutex_);
    items_.push_back(std::move(item));
    const bool first = items_.size() == 1;
    lock.unlock();
    // The others are taken along: whoever put the first one rings for all.
    if (first) ring();
  }

  // By the loop's thread. All there are, in the order of put; maybe none.
  std::vector<Item> take() {
    // First the bell, then the items. The other way round, an item that came
    // in between would lie there with its bell silenced: a lost wakeup.
    std::uint64_t rings = 0;
    if (::read(bell_.get(), &rings, sizeof rings) < 0 && errno != EAGAIN) {
      net::throw_errno("read", "eventfd");
    }
    const std::lock_guard lock(mutex_);
    return std::exchange(items_, {});
  }

 private:
  void ring() {
    const std::uint64_t once = 1;
    net::check(::write(bell_.get(), &once, sizeof once), "write", "eventfd");
  }

  net::Fd bell_;
  std::mutex mutex_;
  std::vector<Item> items_;
};
