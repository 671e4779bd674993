// Repair: worker threads hand results to a loop, and an eventfd wakes it.
//
// Nothing is missing here and it compiles. It works until two threads are in it
// at once. Then the loop may sleep while an item lies in the box.

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
  // For a loop to watch, level-triggered: readable when items are in the box.
  // It may once be readable with nothing in it; take() must end that.
  int fd() const { return event_.get(); }

  // From any thread. An item that joins others need not wake the loop.
  void put(T item) {
    if (is_empty()) ring();
    const std::lock_guard lock(mutex_);
    items_.push_back(std::move(item));
  }

  // From the loop's thread: all that has come, the items of each thread in
  // their order. May be called without a reason; it does not wait.
  std::vector<T> take() {
    std::unique_lock lock(mutex_);
    std::vector<T> taken = std::exchange(items_, {});
    lock.unlock();
    std::uint64_t rings = 0;
    const ssize_t n = ::read(event_.get(), &rings, sizeof rings);
    if (n < 0 && errno != EAGAIN) net::throw_errno("read");
    return taken;
  }

 private:
  bool is_empty() {
    const std::lock_guard lock(mutex_);
    return items_.empty();
  }
  void ring() {
    const std::uint64_t one = 1;
    net::check(::write(event_.get(), &one, sizeof one), "write");
  }

  net::Fd event_{
      net::check(::eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC), "eventfd")};
  std::mutex mutex_;  // guards the items
  std::vector<T> items_;
};
