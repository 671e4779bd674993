// Belief: the end comes when the next question is due.
// Fails: there is less time than between two questions
// Message: the end does not wait for a question

#pragma once

#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>
#include <string>
#include <string_view>
#include <system_error>

#include "common/error.hpp"
#include "common/fd.hpp"
#include "common/socket.hpp"

// What is said on the wire, a datagram each, with nothing before or behind it.
inline constexpr std::string_view question = "where is echo?";
inline constexpr std::string_view answer_start = "echo is at port ";

inline constexpr std::chrono::milliseconds ask_again{100};
inline constexpr int datagrams_a_call = 64;

inline net::Fd open_udp() {
  return net::Fd(net::check(
      ::socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0),
      "socket"));
}

// Who has said what. A datagram that is longer than all that can be meant comes
// cut, one byte too long.
struct Said {
  std::array<char, answer_start.size() + 6> bytes;
  std::size_t size = 0;
  net::Address by;

  std::string_view words() const { return {bytes.data(), size}; }
};

// False: nothing was there, or an error; errno says which.
inline bool receive(const net::Fd& socket, Said& said) {
  sockaddr_storage& by = said.by.storage;
  said.by.length = sizeof by;
  const ssize_t n =
      ::recvfrom(socket.get(), said.bytes.data(), said.bytes.size(), 0,
                 reinterpret_cast<sockaddr*>(&by), &said.by.length);
  said.size = n < 0 ? 0 : static_cast<std::size_t>(n);
  return n >= 0;
}

inline net::Fd open_responder(std::uint16_t port) {
  net::Fd fd = open_udp();
  // Bound to an address of this machine it would get what is sent to that
  // address, and a broadcast is not.
  const net::Address all = net::resolve("0.0.0.0", port);
  net::check(::bind(fd.get(), all.get(), all.length), "bind", all.text());
  return fd;
}

inline void answer(const net::Fd& responder, std::uint16_t tcp_port) {
  const std::string words =
      std::string(answer_start) + std::to_string(tcp_port);
  for (int i = 0; i < datagrams_a_call; ++i) {
    Said said;
    if (!receive(responder, said)) {
      if (errno == EAGAIN) return;
    } else if (said.words() == question) {
      // An answer that cannot be sent is a lost one, as any other may be lost.
      ::sendto(responder.get(), words.data(), words.size(), 0, said.by.get(),
               said.by.length);
    }
  }
}

// 0 if this is no answer.
inline std::uint16_t port_in(std::string_view words) {
  if (!words.starts_with(answer_start)) return 0;
  words.remove_prefix(answer_start.size());
  if (words.starts_with('0')) return 0;
  std::uint16_t port = 0;
  const char* end = words.data() + words.size();
  const auto [rest, error] = std::from_chars(words.data(), end, port);
  return error == std::errc() && rest == end ? port : std::uint16_t{0};
}

inline net::Address with_port(const net::Address& host, std::uint16_t port) {
  sockaddr_in address{};
  std::memcpy(&address, &host.storage, sizeof address);
  address.sin_port = htons(port);
  net::Address result;
  std::memcpy(&result.storage, &address, sizeof address);
  result.length = sizeof address;
  return result;
}

inline std::optional<net::Address> discover(const net::Address& broadcast,
                                            std::chrono::milliseconds limit) {
  using Clock = std::chrono::steady_clock;
  const net::Fd fd = open_udp();
  const int on = 1;
  net::check(::setsockopt(fd.get(), SOL_SOCKET, SO_BROADCAST, &on, sizeof on),
             "setsockopt SO_BROADCAST");
  const auto deadline = Clock::now() + limit;
  auto next = Clock::now();
  for (auto now = next;; now = Clock::now()) {
    if (now >= next) {
      if (now >= deadline) return std::nullopt;
      // One that cannot be sent is a lost one.
      ::sendto(fd.get(), question.data(), question.size(), 0, broadcast.get(),
               broadcast.length);
      next = now + ask_again;
    }
    const auto left = std::max(next - now, Clock::duration::zero());
    pollfd entry{fd.get(), POLLIN, 0};
    // Whatever it says, receive will say more.
    ::poll(&entry, 1,
           static_cast<int>(ceil<std::chrono::milliseconds>(left).count()));
    // One datagram, then a look at the clock.
    Said said;
    if (!receive(fd, said)) continue;
    if (const auto port = port_in(said.words()))
      return with_port(said.by, port);
  }
}
