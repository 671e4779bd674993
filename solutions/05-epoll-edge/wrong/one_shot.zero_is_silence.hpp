// Belief: who is watched for nothing is not reported.
// Fails: a client resets during its turn
// Message: not even a reset brings a second thread

#pragma once

#include <sys/epoll.h>
#include <sys/socket.h>

#include <cerrno>
#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <mutex>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include "common/error.hpp"
#include "common/fd.hpp"
#include "common/socket.hpp"

// One turn of a client on which something was reported. False: it has gone.
using Turn = std::function<bool(int fd)>;

// Whoever is reported is watched for nothing until its turn is over.
class Pool {
 public:
  Pool(net::Fd listener, const Turn& turn);
  void run(unsigned threads);  // until the listener is shut down

 private:
  void work();
  int next();
  bool accept_clients();
  void add(net::Fd client);
  void drop(int fd);
  bool arm(int change, int fd, std::uint32_t interest = EPOLLIN);

  net::Fd listener_;
  const Turn& turn_;
  net::Fd epoll_;
  std::mutex waiting_;              // held by the thread that waits
  std::mutex mutex_;                // guards the arming and:
  std::map<int, net::Fd> clients_;  // by number
};

inline Pool::Pool(net::Fd listener, const Turn& turn)
    : listener_(std::move(listener)),
      turn_(turn),
      epoll_(net::check(::epoll_create1(EPOLL_CLOEXEC), "epoll_create1")) {
  net::set_nonblocking(listener_);
  if (!arm(EPOLL_CTL_ADD, listener_.get())) net::throw_errno("epoll_ctl");
}

inline void Pool::run(unsigned threads) {
  std::vector<std::jthread> others;
  try {
    while (others.size() + 1 < threads) {
      others.emplace_back([this] { work(); });
    }
  } catch (const std::system_error&) {
    // There are no more threads. Those that there are will do.
  }
  work();
}

// One thread at a time waits. Before the next one does, the client is silent.
inline int Pool::next() {
  const std::lock_guard lock(waiting_);
  epoll_event event;
  const int n = ::epoll_wait(epoll_.get(), &event, 1, -1);
  if (n < 0) net::rest_or_throw("epoll_wait");
  if (n <= 0) return -1;
  arm(EPOLL_CTL_MOD, event.data.fd, 0);
  return event.data.fd;
}

// What each thread does.
inline void Pool::work() {
  for (;;) {
    const int fd = next();
    if (fd < 0) continue;
    if (fd == listener_.get()) {
      const bool listening = accept_clients();
      // When it has been shut down this tells the next thread.
      arm(EPOLL_CTL_MOD, fd);
      if (!listening) return;
    } else if (!turn_(fd) || !arm(EPOLL_CTL_MOD, fd)) {
      drop(fd);
    }
  }
}

// False: the listener has been shut down.
inline bool Pool::accept_clients() {
  for (int i = 0; i < 64; ++i) {
    net::Fd client(::accept4(listener_.get(), nullptr, nullptr,
                             SOCK_NONBLOCK | SOCK_CLOEXEC));
    if (client) {
      add(std::move(client));
    } else if (errno == EAGAIN) {
      return true;
    } else if (errno != EINTR && errno != ECONNABORTED) {
      if (!net::is_listening(listener_)) return false;
      // No descriptor: the queue stays. The listener is not armed, so this
      // thread rests alone.
      std::this_thread::sleep_for(std::chrono::milliseconds(100));
      return true;
    }
  }
  return true;
}

// First the entry, then the kernel: from then on another thread may drop it.
inline void Pool::add(net::Fd client) {
  const int fd = client.get();
  {
    const std::lock_guard lock(mutex_);
    clients_[fd] = std::move(client);
  }
  if (!arm(EPOLL_CTL_ADD, fd)) drop(fd);
}

// Closed under the lock: the number may be given again at once, and its next
// owner must not find this entry.
inline void Pool::drop(int fd) {
  const std::lock_guard lock(mutex_);
  clients_.erase(fd);
}

inline bool Pool::arm(int change, int fd, std::uint32_t interest) {
  const std::lock_guard lock(mutex_);
  epoll_event event{interest, {.fd = fd}};
  return ::epoll_ctl(epoll_.get(), change, fd, &event) == 0;
}

inline void serve(net::Fd listener, unsigned threads, const Turn& turn) {
  Pool(std::move(listener), turn).run(threads);
}
