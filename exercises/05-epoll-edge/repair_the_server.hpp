// Repair: a server for epoll as many pages print it. It compiles, and a polite
// client is served. The test says what goes wrong with the others.

#pragma once

#include <fcntl.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>

#include "common/socket.hpp"

// A non-blocking socket that listens on the address, also while connections of
// the last run still have it. Throws std::system_error if it cannot.
inline net::Fd open_listener(const net::Address& address) {
  const int fd = ::socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
  ::bind(fd, address.get(), address.length);
  ::listen(fd, 128);
  return net::Fd(fd);
}

inline void watch(int epoll, int fd) {
  epoll_event event{EPOLLIN | EPOLLET, {.fd = fd}};
  ::epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event);
}

inline void echo(int fd) {
  char buffer[1024];
  for (;;) {
    const ssize_t n = ::read(fd, buffer, sizeof buffer);
    if (n < 0 && errno == EAGAIN) break;
    ::write(fd, buffer, static_cast<std::size_t>(n));
  }
}

// Echoes until the listener is shut down; then leaves no descriptor open. One
// thread, which sleeps in epoll_wait and only there. A client is read (by recv
// or read) after something was reported for it, not for one that had its
// number before. Who does not read its answers is not read on.
inline void serve(net::Fd listener) {
  const int epoll = ::epoll_create1(0);
  watch(epoll, listener.get());
  epoll_event events[128];
  for (;;) {
    const int n = ::epoll_wait(epoll, events, 128, -1);
    for (int i = 0; i < n; ++i) {
      const int fd = events[i].data.fd;
      if (fd == listener.get()) {
        const int client = ::accept(listener.get(), nullptr, nullptr);
        ::fcntl(client, F_SETFL, O_NONBLOCK);
        watch(epoll, client);
      } else {
        echo(fd);
      }
    }
  }
}
