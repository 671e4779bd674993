// Takes out first, and then reads until EAGAIN: as long as somebody has rung
// meanwhile, it looks again. It costs a read more each time.

#pragma once

#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
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

  // From the loop's thread: all that has come, the items of each thread in
  // their order. May be called without a reason; it does not wait.
  std::vector<T> take() {
    std::vector<T> taken;
    do {
      const std::lock_guard lock(mutex_);
      std::move(items_.begin(), items_.end(), std::back_inserter(taken));
      items_.clear();
    } while (silence());
    return taken;
  }

 private:
  void ring() {
    const std::uint64_t one = 1;
    net::check(::write(event_.get(), &one, sizeof one), "write");
  }
  // True if somebody had rung.
  bool silence() {
    std::uint64_t rings = 0;
    const ssize_t n = ::read(event_.get(), &rings, sizeof rings);
    if (n < 0 && errno != EAGAIN) net::throw_errno("read");
    return n > 0;
  }

  net::Fd event_{
      net::check(::eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC), "eventfd")};
  std::mutex mutex_;  // guards the items
  std::vector<T> items_;
};
