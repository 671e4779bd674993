// Belief: each turn ends with arming, and who has gone is closed after it.
// Fails: clients come and go
// Message: who has gone is not armed

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

// Whoever is reported is silent until it is armed again. So the listener and
// each client belong to the one thread that epoll has told.
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
  bool arm(int change, int fd);

  net::Fd listener_;
  const Turn& turn_;
  net::Fd epoll_;
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

// Who is reported next; -1 if nobody is. One at a time: a second one would wait
// for the first one's turn while another thread sleeps.
inline int Pool::next() {
  epoll_event event;
  const int n = ::epoll_wait(epoll_.get(), &event, 1, -1);
  if (n < 0) net::rest_or_throw("epoll_wait");
  // Whoever armed it held the lock: what that thread did is over by now. The
  // kernel has seen to it, but the language does not know the kernel.
  const std::lock_guard lock(mutex_);
  return n > 0 ? event.data.fd : -1;
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
    } else {
      const bool stays = turn_(fd);
      if (!arm(EPOLL_CTL_MOD, fd) || !stays) drop(fd);
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

// The next thing to happen is reported, once; so is what has happened already.
inline bool Pool::arm(int change, int fd) {
  const std::lock_guard lock(mutex_);
  epoll_event event{EPOLLIN | EPOLLONESHOT, {.fd = fd}};
  return ::epoll_ctl(epoll_.get(), change, fd, &event) == 0;
}

inline void serve(net::Fd listener, unsigned threads, const Turn& turn) {
  Pool(std::move(listener), turn).run(threads);
}
