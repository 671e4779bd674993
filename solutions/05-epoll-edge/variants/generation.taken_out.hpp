// Who drops a client takes its event out of the batch.

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

  // The client has no turn any more, and its connection is closed.
  void drop(int fd) {
    for (std::size_t i = 0; i < size_; ++i) {
      if (batch_[i].data.fd == fd) batch_[i].data.fd = -1;
    }
    clients_.erase(fd);
  }

  // Waits, at most so long, for events. Each client that they are about has
  // its turn; nobody has a turn for what happened to somebody else.
  void round(std::chrono::milliseconds limit, const Attend& attend) {
    const int n = ::epoll_wait(epoll_.get(), batch_.data(),
                               static_cast<int>(batch_.size()),
                               static_cast<int>(limit.count()));
    size_ = n > 0 ? static_cast<std::size_t>(n) : 0;
    for (std::size_t i = 0; i < size_; ++i) {
      const epoll_event event = batch_[i];
      if (event.data.fd >= 0) attend(event.data.fd, event.events);
    }
  }

 private:
  net::Fd epoll_{net::check(::epoll_create1(EPOLL_CLOEXEC), "epoll_create1")};
  std::map<int, net::Fd> clients_;
  std::array<epoll_event, 64> batch_;
  std::size_t size_ = 0;  // of the batch
};
