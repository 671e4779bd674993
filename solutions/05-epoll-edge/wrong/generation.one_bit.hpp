// Belief: two that follow each other differ, and that is enough.
// Fails: a number is given twice in one batch
// Message: nothing has happened to the second newcomer

#pragma once

#include <sys/epoll.h>

#include <array>
#include <bit>
#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <utility>

#include "common/error.hpp"
#include "common/fd.hpp"

// What an event carries: a number, which is given again, and a generation,
// which is not.
struct Key {
  int fd;
  std::uint32_t generation;
};

struct Client {
  net::Fd fd;
  std::uint32_t generation = 0;
};

class Clients {
 public:
  // Gets a client's descriptor and what epoll reported on it. May add and drop
  // any client, itself too.
  using Attend = std::function<void(int fd, std::uint32_t events)>;

  // From now on the client is watched, edge-triggered.
  void add(net::Fd client) {
    std::uint32_t& bit = bits_[client.get()];
    bit = 1 - bit;
    const Key key{client.get(), bit};
    epoll_event event{EPOLLIN | EPOLLRDHUP | EPOLLET,
                      {.u64 = std::bit_cast<std::uint64_t>(key)}};
    net::check(::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, key.fd, &event),
               "epoll_ctl");
    clients_[key.fd] = {std::move(client), key.generation};
  }

  // The client has no turn any more, and its connection is closed, at the
  // latest when the round is over.
  void drop(int fd) { clients_.erase(fd); }

  // Waits, at most so long, for events. Each client that they are about has
  // its turn; nobody has a turn for what happened to somebody else.
  void round(std::chrono::milliseconds limit, const Attend& attend) {
    std::array<epoll_event, 64> events;
    const int n = ::epoll_wait(epoll_.get(), events.data(), events.size(),
                               static_cast<int>(limit.count()));
    for (int i = 0; i < n; ++i) {
      const epoll_event& event = events[static_cast<std::size_t>(i)];
      const auto key = std::bit_cast<Key>(event.data.u64);
      if (is_there(key)) attend(key.fd, event.events);
    }
  }

 private:
  bool is_there(Key key) const {
    const auto found = clients_.find(key.fd);
    return found != clients_.end() &&
           found->second.generation == key.generation;
  }

  net::Fd epoll_{net::check(::epoll_create1(EPOLL_CLOEXEC), "epoll_create1")};
  std::map<int, Client> clients_;
  std::map<int, std::uint32_t> bits_;  // by number, of the last client
};
