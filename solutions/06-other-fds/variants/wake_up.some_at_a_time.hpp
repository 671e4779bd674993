// Takes at most 64 items, so that the loop has time for others, and rings for
// the rest itself.

#pragma once

#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <iterator>
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

  // From any thread. An item that joins others need not wake the loop.
  void put(T item) {
    bool was_empty = false;
    {
      const std::lock_guard lock(mutex_);
      was_empty = items_.empty();
      items_.push_back(std::move(item));
    }
    if (was_empty) ring();
  }

  // From the loop's thread: what has come, the items of each thread in their
  // order. May be called without a reason; it does not wait.
  std::vector<T> take() {
    silence();
    std::vector<T> taken;
    const std::lock_guard lock(mutex_);
    const auto n = std::min<std::ptrdiff_t>(std::ssize(items_), 64);
    std::move(items_.begin(), items_.begin() + n, std::back_inserter(taken));
    items_.erase(items_.begin(), items_.begin() + n);
    if (!items_.empty()) ring();
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
  std::deque<T> items_;
};
