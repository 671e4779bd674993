// Belief: the kernel takes everything it is given.
// Fails: the kernel takes a little at a time and signals interrupt it
// Message: every byte arrives, in order
#pragma once

#include <cerrno>
#include <cstddef>
#include <span>

#include "common/error.hpp"
#include "exercises/01-blocking/given/send_parts.hpp"

inline Result send_all(int socket, std::span<const char> head,
                       std::span<const char> body) {
  for (;;) {
    const ssize_t n = send_parts(socket, head, body, MSG_NOSIGNAL);
    if (n >= 0) return {static_cast<std::size_t>(n), {}};
    if (errno != EINTR) return {0, net::last_error()};
  }
}
