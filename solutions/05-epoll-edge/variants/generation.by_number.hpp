// A generation for each number instead of one for all: it counts how often the
// number has been given. It must outlive the client.

#pragma once

#include <sys/epoll.h>

#include <array>
#include <bit>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <utility>
#include <vector>

#include "common/error.hpp"
#include "common/fd.hpp"

struct Key {
  std::uint32_t number;
  std::uint32_t generation;
};

// One for each number that was ever given; only the client in it changes.
struct Slot {
  net::Fd client;
  std::uint32_t generation = 0;
};

class Clients {
 public:
  // Gets a client's descriptor and what epoll reported on it. May add and drop
  // any client, itself too.
  using Attend = std::function<void(int fd, std::uint32_t events)>;

  // From now on the client is watched, edge-triggered.
  void add(net::Fd client) {
    const int fd = client.get();
    const auto number = static_cast<std::uint32_t>(fd);
    if (number >= slots_.size()) slots_.resize(number + 1);
    const Key key{number, ++slots_[number].generation};
    epoll_event event{EPOLLIN | EPOLLRDHUP | EPOLLET,
                      {.u64 = std::bit_cast<std::uint64_t>(key)}};
    net::check(::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, fd, &event),
               "epoll_ctl");
    slots_[number].client = std::move(client);
  }

  // The client has no turn any more, and its connection is closed.
  void drop(int fd) { slots_.at(static_cast<std::size_t>(fd)).client = {}; }

  // Waits, at most so long, for events. Each client that they are about has
  // its turn; nobody has a turn for what happened to somebody else.
  void round(std::chrono::milliseconds limit, const Attend& attend) {
    std::array<epoll_event, 64> events;
    const int n = ::epoll_wait(epoll_.get(), events.data(), events.size(),
                               static_cast<int>(limit.count()));
    for (int i = 0; i < n; ++i) {
      const epoll_event& event = events[static_cast<std::size_t>(i)];
      const auto key = std::bit_cast<Key>(event.data.u64);
      const Slot& slot = slots_[key.number];
      if (!slot.client || slot.generation != key.generation) continue;
      attend(slot.client.get(), event.events);
    }
  }

 private:
  net::Fd epoll_{net::check(::epoll_create1(EPOLL_CLOEXEC), "epoll_create1")};
  std::vector<Slot> slots_;  // by number
};
