// The leanest echo loop over epoll, edge-triggered: the calls of chapter 05 and
// nothing else.
//
// It is what the chapters are measured against, not a server. It leaves out:
// bytes the kernel does not take at once (they are lost), more than one buffer
// of input at a time (the rest is never read), running out of descriptors, and
// an end.

#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>

#include "chapters/server.hpp"
#include "common/error.hpp"
#include "common/socket.hpp"

namespace {

std::array<char, 65536> buffer;

void watch(int epoll, int fd) {
  epoll_event event{EPOLLIN | EPOLLRDHUP | EPOLLET, {.fd = fd}};
  net::check(::epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event), "epoll_ctl");
}

void accept_clients(int epoll, int listener) {
  int client = 0;
  while ((client = ::accept4(listener, nullptr, nullptr, SOCK_NONBLOCK)) >= 0) {
    watch(epoll, client);
  }
}

void echo(int client) {
  const ssize_t n = ::recv(client, buffer.data(), buffer.size(), 0);
  if (n <= 0 || ::send(client, buffer.data(), static_cast<std::size_t>(n),
                       MSG_NOSIGNAL) <= 0) {
    ::close(client);
  }
}

}  // namespace

void serve(net::Fd listener) {
  net::set_nonblocking(listener);
  const int epoll = net::check(::epoll_create1(EPOLL_CLOEXEC), "epoll_create1");
  watch(epoll, listener.get());
  for (;;) {
    epoll_event events[128];
    const int n = ::epoll_wait(epoll, events, 128, -1);
    for (int i = 0; i < n; ++i) {
      if (events[i].data.fd == listener.get()) {
        accept_clients(epoll, listener.get());
      } else {
        echo(events[i].data.fd);
      }
    }
  }
}
