// Chapter 01: one client at a time.
//
// The thread sleeps in accept, recv and send, whichever comes next. All that
// the server knows of a client stands on the stack of serve_client: the
// descriptor, the buffer, and how far it got. The price: while it sleeps for
// one client, it is deaf to all others.

#include <sys/socket.h>

#include <array>
#include <cerrno>
#include <chrono>
#include <cstddef>
#include <span>
#include <system_error>
#include <thread>
#include <utility>

#include "chapters/server.hpp"
#include "common/error.hpp"
#include "common/socket.hpp"

namespace {

// In this chapter a connection is nothing but its descriptor.
using Conn = net::Fd;

// What an I/O call gives: n bytes were moved, and then the error happened, if
// one is set. End of stream is an error too: net::eof().
struct Result {
  std::size_t n = 0;
  std::error_code error;
};

// Sleeps until the client has sent something; gets at least 1 byte or an error.
Result read_some(const Conn& client, std::span<char> buffer) {
  for (;;) {
    const ssize_t n = ::recv(client.get(), buffer.data(), buffer.size(), 0);
    if (n > 0) return {static_cast<std::size_t>(n), {}};
    if (n == 0) return {0, net::eof()};
    if (errno != EINTR) return {0, net::last_error()};
  }
}

// Sleeps until the kernel has taken every byte, which it may do in pieces.
// MSG_NOSIGNAL: a client that has gone is an error here, not a signal that
// ends the server.
Result write_all(const Conn& client, std::span<const char> bytes) {
  std::size_t sent = 0;
  while (sent < bytes.size()) {
    const auto rest = bytes.subspan(sent);
    const ssize_t n =
        ::send(client.get(), rest.data(), rest.size(), MSG_NOSIGNAL);
    if (n >= 0) {
      sent += static_cast<std::size_t>(n);
    } else if (errno != EINTR) {
      return {sent, net::last_error()};
    }
  }
  return {sent, {}};
}

void serve_client(Conn client) {
  std::array<char, 4096> buffer;
  for (;;) {
    const auto [n, error] = read_some(client, buffer);
    if (error) return;
    const auto [written, failure] =
        write_all(client, std::span(buffer).first(n));
    if (failure) return;
  }
}

}  // namespace

void serve(net::Fd listener) {
  for (;;) {
    Conn client(::accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC));
    if (client) {
      serve_client(std::move(client));
    } else if (errno != EINTR && errno != ECONNABORTED) {
      if (!net::is_listening(listener)) return;
      // No descriptor or no memory: trying again at once would spin.
      std::this_thread::sleep_for(std::chrono::milliseconds(100));
    }
  }
}
