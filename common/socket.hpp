#pragma once

#include <sys/socket.h>

#include <cstdint>
#include <string>

#include "common/fd.hpp"

namespace net {

// An IPv4 or IPv6 address with a port, as the kernel wants it.
struct Address {
  sockaddr_storage storage{};
  socklen_t length = 0;

  const sockaddr* get() const {
    return reinterpret_cast<const sockaddr*>(&storage);
  }

  // "127.0.0.1:8080" or "[::1]:8080".
  std::string text() const;
};

// Looks a name or a numeric address up and returns its first answer.
// Throws std::runtime_error: "getaddrinfo HOST: Reason".
Address resolve(const std::string& host, std::uint16_t port);

// A socket that listens on the address: close-on-exec, blocking, backlog
// SOMAXCONN, with SO_REUSEADDR (a restart need not wait for the TIME_WAIT
// connections of the last run) and TCP_NODELAY (accepted sockets inherit it).
// Port 0 lets the kernel choose. Throws std::system_error with the failing
// call and the address.
Fd listen_on(const Address& address);

// A blocking, close-on-exec connection with TCP_NODELAY.
// Throws std::system_error with the failing call and the address.
Fd connect_to(const Address& address);

// The address a socket is bound to. Throws std::system_error.
Address local_address(const Fd& socket);

// False once a listener has been shut down. A server that stays out of
// descriptors has to ask: accept4 looks for a free number before it looks at
// the listener, and says EMFILE either way. Throws std::system_error.
bool is_listening(const Fd& socket);

// Sets O_NONBLOCK on the open file description, which duplicates of the
// descriptor share (dup(2)). Throws std::system_error.
void set_nonblocking(const Fd& fd);

}  // namespace net
