// An atomic flag in place of the look into the box. It is lowered after the
// read, so a ring that it stands for has not been silenced, and before the
// items are taken out, so what comes later rings again.

#pragma once

#include <sys/eventfd.h>
#include <unistd.h>

#include <atomic>
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

  // From any thread. An item that joins others need not wake the loop.
  void put(T item) {
    {
      const std::lock_guard lock(mutex_);
      items_.push_back(std::move(item));
    }
    if (!rung_.exchange(true)) ring();
  }

  // From the loop's thread: all that has come, the items of each thread in
  // their order. May be called without a reason; it does not wait.
  std::vector<T> take() {
    silence();
    rung_ = false;
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
  std::atomic<bool> rung_ = false;  // and not silenced since
};
