// A batch of one event has none that could get stale.

#pragma once

#include <sys/epoll.h>

#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <utility>

#include "common/error.hpp"
#include "common/fd.hpp"

class Clients {
 public:
  // Gets a client's descriptor and what epoll reported on it. May add and drop
  // any client, itself too.
  using Attend = std::function<void(int fd, std::uint32_t events)>;

  // From now on the client is watched, edge-triggered.
  void add(net::Fd client) {
    const int fd = client.get();
    epoll_event event{EPOLLIN | EPOLLRDHUP | EPOLLET, {.fd = fd}};
    net::check(::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, fd, &event),
               "epoll_ctl");
    clients_[fd] = std::move(client);
  }

  // The client has no turn any more, and its connection is closed: epoll takes
  // its event back.
  void drop(int fd) { clients_.erase(fd); }

  // Waits, at most so long, for an event. The client that it is about has its
  // turn.
  void round(std::chrono::milliseconds limit, const Attend& attend) {
    epoll_event event;
    const int n =
        ::epoll_wait(epoll_.get(), &event, 1, static_cast<int>(limit.count()));
    if (n > 0) attend(event.data.fd, event.events);
  }

 private:
  net::Fd epoll_{net::check(::epoll_create1(EPOLL_CLOEXEC), "epoll_create1")};
  std::map<int, net::Fd> clients_;
};
