#pragma once

#include <sys/socket.h>

#include <array>
#include <cerrno>
#include <cstddef>
#include <string_view>

// False: the client has gone.
inline bool send_back(int socket, std::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t n = ::send(socket, bytes.data(), bytes.size(), MSG_NOSIGNAL);
    if (n < 0 && errno != EINTR) return false;
    if (n > 0) bytes.remove_prefix(static_cast<std::size_t>(n));
  }
  return true;
}

// What chapter 01 does for a client: sends back what it sends, until it has
// finished or the connection is broken. Does not close the socket.
inline void echo_until_end(int socket) {
  std::array<char, 4096> buffer;
  for (;;) {
    const ssize_t n = ::recv(socket, buffer.data(), buffer.size(), 0);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return;
    if (!send_back(socket, {buffer.data(), static_cast<std::size_t>(n)}))
      return;
  }
}
