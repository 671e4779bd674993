#pragma once

#include <sys/socket.h>

#include <cerrno>
#include <chrono>
#include <condition_variable>
#include <list>
#include <mutex>
#include <system_error>
#include <thread>
#include <utility>

#include "chapters/server.hpp"
#include "common/fd.hpp"
#include "common/socket.hpp"
#include "exercises/01-blocking/given/echo.hpp"

struct Visitor {
  net::Fd fd;
  std::thread thread;
};

// Whoever leaves joins the one who left before, so that at most one thread at
// a time has ended and is not joined. When the very last has been joined, all
// have: it ended after joining its predecessor, which did the same.
class Server {
 public:
  explicit Server(net::Fd listener) : listener_(std::move(listener)) {}

  void run() {
    while (accept_one()) continue;
    std::unique_lock lock(mutex_);
    for (const Visitor& each : visitors_) ::shutdown(each.fd.get(), SHUT_RDWR);
    changed_.wait(lock, [this] { return visitors_.empty(); });
    lock.unlock();
    if (last_to_leave_.joinable()) last_to_leave_.join();
  }

 private:
  // False: the listener has been shut down.
  bool accept_one() {
    net::Fd fd(::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC));
    if (fd) {
      add(std::move(fd));
    } else if (errno != EINTR && errno != ECONNABORTED) {
      if (!net::is_listening(listener_)) return false;
      std::this_thread::sleep_for(std::chrono::milliseconds(100));
    }
    return true;
  }

  void add(net::Fd fd) {
    // Held until the thread is stored: it may leave before it is.
    const std::lock_guard lock(mutex_);
    const auto visitor = visitors_.insert(visitors_.end(), Visitor{});
    visitor->fd = std::move(fd);
    try {
      visitor->thread = std::thread([this, visitor] { attend(visitor); });
    } catch (const std::system_error&) {
      visitors_.erase(visitor);
    }
  }

  void attend(std::list<Visitor>::iterator self) {
    echo_until_end(self->fd.get());
    std::unique_lock lock(mutex_);
    std::thread before = std::exchange(last_to_leave_, std::move(self->thread));
    visitors_.erase(self);
    changed_.notify_one();
    lock.unlock();
    if (before.joinable()) before.join();
  }

  net::Fd listener_;
  std::mutex mutex_;  // guards all below
  std::condition_variable changed_;
  std::list<Visitor> visitors_;
  std::thread last_to_leave_;
};

void serve(net::Fd listener) { Server(std::move(listener)).run(); }
