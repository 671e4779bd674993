// Belief: accept says EINVAL when the listener has been shut down.
// Fails: it is stopped while it is out of descriptors
// Message: serve returns when its listener is shut down
#pragma once

#include <sys/socket.h>

#include <cerrno>
#include <chrono>
#include <list>
#include <mutex>
#include <system_error>
#include <thread>
#include <utility>

#include "chapters/server.hpp"
#include "common/fd.hpp"
#include "common/socket.hpp"
#include "exercises/01-blocking/given/echo.hpp"

// A client and its thread. It stays in the list until the thread is joined.
struct Visitor {
  net::Fd fd;  // closed by the thread, under the server's lock
  bool gone = false;
  std::thread thread;
};

// Owns all clients. The list belongs to the thread in run(); what a visitor's
// own thread changes, fd and gone, is guarded by the lock.
class Server {
 public:
  explicit Server(net::Fd listener) : listener_(std::move(listener)) {}

  void run() {
    while (accept_one()) join_the_gone();
    end_all();
  }

 private:
  // False: the listener has been shut down.
  bool accept_one() {
    net::Fd fd(::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC));
    if (fd) {
      add(std::move(fd));
    } else if (errno != EINTR && errno != ECONNABORTED) {
      if (errno == EINVAL) return false;
      std::this_thread::sleep_for(std::chrono::milliseconds(100));
    }
    return true;
  }

  void add(net::Fd fd) {
    Visitor& visitor = visitors_.emplace_back();
    visitor.fd = std::move(fd);
    try {
      visitor.thread = std::thread([this, &visitor] { attend(visitor); });
    } catch (const std::system_error&) {
      visitors_.pop_back();  // no thread: closed, and the client sees the end
    }
  }

  void attend(Visitor& visitor) {
    echo_until_end(visitor.fd.get());
    // Under the lock, so that end_all cannot shut down a number that has
    // become somebody else's.
    const std::lock_guard lock(mutex_);
    visitor.fd = net::Fd();
    visitor.gone = true;
  }

  void join_the_gone() {
    for (auto visitor = visitors_.begin(); visitor != visitors_.end();) {
      visitor = is_gone(*visitor) ? remove(visitor) : std::next(visitor);
    }
  }

  bool is_gone(const Visitor& visitor) {
    const std::lock_guard lock(mutex_);
    return visitor.gone;
  }

  std::list<Visitor>::iterator remove(std::list<Visitor>::iterator visitor) {
    visitor->thread.join();
    return visitors_.erase(visitor);
  }

  // close() would not wake a thread that sleeps in recv or send.
  void end_all() {
    {
      const std::lock_guard lock(mutex_);
      for (const Visitor& visitor : visitors_) {
        if (visitor.fd) ::shutdown(visitor.fd.get(), SHUT_RDWR);
      }
    }
    for (Visitor& visitor : visitors_) visitor.thread.join();
  }

  net::Fd listener_;
  std::mutex mutex_;
  std::list<Visitor> visitors_;  // a list: threads hold references into it
};

void serve(net::Fd listener) { Server(std::move(listener)).run(); }
