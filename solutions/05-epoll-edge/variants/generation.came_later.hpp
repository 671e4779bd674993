// A batch is older than whoever comes while it is being looked at. So the
// generation is the round, and the event need not carry it.

#pragma once

#include <sys/epoll.h>

#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <utility>

#include "common/error.hpp"
#include "common/fd.hpp"

struct Client {
  net::Fd fd;
  std::uint64_t came_in = 0;  // which round
};

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
    clients_[fd] = {std::move(client), round_};
  }

  // The client has no turn any more, and its connection is closed.
  void drop(int fd) { clients_.erase(fd); }

  // Waits, at most so long, for events. Each client that they are about has
  // its turn; nobody has a turn for what happened to somebody else.
  void round(std::chrono::milliseconds limit, const Attend& attend) {
    std::array<epoll_event, 64> events;
    const int n = ::epoll_wait(epoll_.get(), events.data(), events.size(),
                               static_cast<int>(limit.count()));
    ++round_;
    for (int i = 0; i < n; ++i) {
      const epoll_event& event = events[static_cast<std::size_t>(i)];
      const auto found = clients_.find(event.data.fd);
      if (found == clients_.end() || found->second.came_in == round_) continue;
      attend(event.data.fd, event.events);
    }
  }

 private:
  net::Fd epoll_{net::check(::epoll_create1(EPOLL_CLOEXEC), "epoll_create1")};
  std::map<int, Client> clients_;
  std::uint64_t round_ = 0;  // that began last
};
