#pragma once

#include <sys/epoll.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <utility>

#include "common/error.hpp"
#include "common/fd.hpp"

// A request is a line, the answer is the same line in capitals. A client whose
// request is longer than this is dropped.
inline constexpr std::size_t longest_request = 262'144;

// While an answer has not been sent whole the client is not read.
struct Client {
  net::Fd fd;
  std::string input;   // of a request that has come in part
  std::string output;  // answers, as far as they have not been sent
};

// The clients by descriptor, and the epoll, level-triggered, that waits for
// them. Whatever else is to be waited for can be added to it.
struct House {
  net::Fd epoll{net::check(::epoll_create1(EPOLL_CLOEXEC), "epoll_create1")};
  std::map<int, Client> clients;
};

inline void watch(const House& house, int change, int fd,
                  std::uint32_t interest) {
  epoll_event event{interest, {.fd = fd}};
  net::check(::epoll_ctl(house.epoll.get(), change, fd, &event), "epoll_ctl");
}

// Accepts one client. False: nobody waits. (Out of descriptors the loop spins;
// chapter 04 has the remedy.)
inline bool let_in(House& house, const net::Fd& listener) {
  net::Fd fd(::accept4(listener.get(), nullptr, nullptr,
                       SOCK_NONBLOCK | SOCK_CLOEXEC));
  if (!fd) return false;
  const int number = fd.get();
  watch(house, EPOLL_CTL_ADD, number, EPOLLIN);
  house.clients[number].fd = std::move(fd);
  return true;
}

// What follows is one client's turn. All return false if it has gone.

inline bool read_some(Client& client) {
  std::array<char, 65536> bytes;
  const ssize_t n = ::recv(client.fd.get(), bytes.data(), bytes.size(), 0);
  if (n < 0) return errno == EAGAIN || errno == EINTR;
  if (n == 0) return false;
  client.input.append(bytes.data(), static_cast<std::size_t>(n));
  const std::size_t whole = client.input.rfind('\n') + 1;
  client.output = client.input.substr(0, whole);
  std::transform(client.output.begin(), client.output.end(),
                 client.output.begin(),
                 [](unsigned char c) { return std::toupper(c); });
  client.input.erase(0, whole);
  return client.input.size() <= longest_request;
}

inline bool send_some(Client& client) {
  std::string& output = client.output;
  const ssize_t n =
      ::send(client.fd.get(), output.data(), output.size(), MSG_NOSIGNAL);
  if (n < 0) return errno == EAGAIN || errno == EINTR;
  output.erase(0, static_cast<std::size_t>(n));
  return true;
}

// Reads once, and sends once if there is anything to send. Drops the client if
// it has gone; does nothing if it is not there. What remains to be done will
// be reported.
inline void attend(House& house, int fd) {
  const auto found = house.clients.find(fd);
  if (found == house.clients.end()) return;
  Client& client = found->second;
  bool here = !client.output.empty() || read_some(client);
  if (here && !client.output.empty()) here = send_some(client);
  if (!here) {
    house.clients.erase(found);
  } else {
    watch(house, EPOLL_CTL_MOD, fd, client.output.empty() ? EPOLLIN : EPOLLOUT);
  }
}
