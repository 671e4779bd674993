// One thread at a time waits, the leader. It takes the client out of epoll,
// then leaves the waiting to the next thread. (An interest of 0 would not do:
// hang-up and error are reported all the same.)

#pragma once

#include <sys/epoll.h>
#include <sys/socket.h>

#include <cerrno>
#include <chrono>
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

// Whoever is not in epoll belongs to one thread.
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
  bool arm(int fd);

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
  if (!arm(listener_.get())) net::throw_errno("epoll_ctl");
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

// Who is ready now belongs to this thread; -1 if nobody is.
inline int Pool::next() {
  const std::lock_guard lock(waiting_);
  epoll_event event;
  const int n = ::epoll_wait(epoll_.get(), &event, 1, -1);
  if (n < 0) net::rest_or_throw("epoll_wait");
  if (n <= 0) return -1;
  // Whoever armed it held the lock: what that thread did is over by now.
  const std::lock_guard armed(mutex_);
  ::epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, event.data.fd, nullptr);
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
      arm(fd);
      if (!listening) return;
    } else if (!turn_(fd) || !arm(fd)) {
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
  if (!arm(fd)) drop(fd);
}

// Closed under the lock: the number may be given again at once, and its next
// owner must not find this entry.
inline void Pool::drop(int fd) {
  const std::lock_guard lock(mutex_);
  clients_.erase(fd);
}

inline bool Pool::arm(int fd) {
  const std::lock_guard lock(mutex_);
  epoll_event event{EPOLLIN, {.fd = fd}};
  return ::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, fd, &event) == 0;
}

inline void serve(net::Fd listener, unsigned threads, const Turn& turn) {
  Pool(std::move(listener), turn).run(threads);
}
