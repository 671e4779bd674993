// A number that is still open is not given again: who is dropped is closed
// when the batch is over.

#pragma once

#include <sys/epoll.h>

#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <utility>
#include <vector>

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

  // The client has no turn any more. Its connection is closed at once, or
  // when the round is over.
  void drop(int fd) {
    if (in_round_) dropped_.push_back(std::move(clients_.at(fd)));
    clients_.erase(fd);
  }

  // Waits, at most so long, for events. Each client that they are about has
  // its turn; nobody has a turn for what happened to somebody else.
  void round(std::chrono::milliseconds limit, const Attend& attend) {
    std::array<epoll_event, 64> events;
    const int n = ::epoll_wait(epoll_.get(), events.data(), events.size(),
                               static_cast<int>(limit.count()));
    in_round_ = true;
    for (int i = 0; i < n; ++i) {
      const epoll_event& event = events[static_cast<std::size_t>(i)];
      const int fd = event.data.fd;
      if (clients_.contains(fd)) attend(fd, event.events);
    }
    in_round_ = false;
    dropped_.clear();
  }

 private:
  net::Fd epoll_{net::check(::epoll_create1(EPOLL_CLOEXEC), "epoll_create1")};
  std::map<int, net::Fd> clients_;
  bool in_round_ = false;
  std::vector<net::Fd> dropped_;  // in this round
};
