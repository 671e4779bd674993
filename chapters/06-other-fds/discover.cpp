// Finds an echo server on the local network and prints its address.

#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "chapters/06-other-fds/discovery.hpp"
#include "common/error.hpp"
#include "common/options.hpp"
#include "common/socket.hpp"

namespace {

using std::chrono::milliseconds;
using Clock = std::chrono::steady_clock;

// A datagram may be lost, and nobody says so: it is asked again.
constexpr milliseconds ask_again{100};

net::Fd broadcaster() {
  net::Fd socket(
      net::check(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0), "socket"));
  const int on = 1;
  net::check(
      ::setsockopt(socket.get(), SOL_SOCKET, SO_BROADCAST, &on, sizeof on),
      "setsockopt SO_BROADCAST");
  return socket;
}

void ask(const net::Fd& socket, const net::Address& everybody) {
  net::check(::sendto(socket.get(), question.data(), question.size(), 0,
                      everybody.get(), everybody.length),
             "sendto", everybody.text());
}

// Takes one datagram: the server's address, if it is an answer.
std::optional<net::Address> take_answer(const net::Fd& socket) {
  std::array<char, 64> words;
  net::Address from;
  from.length = sizeof from.storage;
  // With MSG_TRUNC the result is the whole length: what was cut is no answer.
  const ssize_t n = ::recvfrom(
      socket.get(), words.data(), words.size(), MSG_DONTWAIT | MSG_TRUNC,
      reinterpret_cast<sockaddr*>(&from.storage), &from.length);
  if (n < 0 || n > std::ssize(words)) return {};
  const std::string_view datagram(words.data(), static_cast<std::size_t>(n));
  const std::optional<std::uint16_t> port = port_in(datagram);
  if (!port) return {};
  reinterpret_cast<sockaddr_in&>(from.storage).sin_port = htons(*port);
  return from;
}

std::optional<net::Address> discover(const net::Address& everybody,
                                     milliseconds patience) {
  const net::Fd socket = broadcaster();
  const auto end = Clock::now() + patience;
  auto next = Clock::now();
  for (auto now = next; now < end; now = Clock::now()) {
    if (now >= next) {
      ask(socket, everybody);
      next = now + ask_again;
    }
    const auto left = ceil<milliseconds>(std::min(next, end) - now);
    pollfd entry{socket.get(), POLLIN, 0};
    net::check(::poll(&entry, 1, static_cast<int>(left.count())), "poll");
    if (const auto found = take_answer(socket)) return found;
  }
  return {};
}

}  // namespace

int main(int argc, char** argv) {
  std::string host = loopback_broadcast;
  std::uint16_t port = discovery_port;
  milliseconds patience{1000};
  net::Options options("[--host ADDRESS] [--port NUMBER] [--wait TIME]",
                       "Finds an echo server and prints its address.");
  options.text("--host", "broadcast address to ask at", host);
  options.number("--port", "port to ask at", 1, 65535, port);
  options.time("--wait", "how long to wait for an answer", milliseconds(1),
               std::chrono::hours(1), patience);
  return net::run_program(
      argc, argv, options, [&](const std::vector<std::string>& words) {
        if (!words.empty()) {
          throw net::UsageError("unexpected argument '" + words[0] + "'");
        }
        const net::Address everybody = net::resolve(host, port);
        const auto server = discover(everybody, patience);
        if (!server) {
          throw std::runtime_error("no answer from " + everybody.text() +
                                   " in " + net::text_of(patience));
        }
        if (std::puts(server->text().c_str()) < 0 || std::fflush(stdout) != 0) {
          net::throw_errno("write", "standard output");
        }
        return 0;
      });
}
