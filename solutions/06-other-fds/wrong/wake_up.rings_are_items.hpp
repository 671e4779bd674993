// Belief: each item has rung, so without an item nobody has.
// Fails: a worker puts while the loop takes
// Message: when all has been taken it is silent

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

template <typename T>
class Mailbox {
 public:
  // For a loop to watch, level-triggered: readable when items have come that
  // nobody has taken.
  int fd() const { return event_.get(); }

  // From any thread.
  void put(T item) {
    {
      const std::lock_guard lock(mutex_);
      items_.push_back(std::move(item));
    }
    ring();
  }

  // From the loop's thread: all that has come, the items of each thread in
  // their order. May be called without a reason; it does not wait.
  std::vector<T> take() {
    {
      const std::lock_guard lock(mutex_);
      if (items_.empty()) return {};
    }
    silence();
    std::vector<T> taken;
    const std::lock_guard lock(mutex_);
    taken.swap(items_);
    return taken;
  }

 private:
  void ring() {
    const std::uint64_t one = 1;
    net::check(::write(event_.get(), &one, sizeof one), "write");
  }
  void silence() {
    std::uint64_t rings = 0;
    const ssize_t n = ::read(event_.get(), &rings, sizeof rings);
    if (n < 0 && errno != EAGAIN) net::throw_errno("read");
  }

  net::Fd event_{
      net::check(::eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC), "eventfd")};
  std::mutex mutex_;  // guards the items
  std::vector<T> items_;
};
