// Belief: what was taken in part has to be sent again as a whole.
// Fails: the kernel takes a little at a time and signals interrupt it
// Message: no byte is sent twice
#pragma once

#include <cerrno>
#include <cstddef>
#include <span>

#include "common/error.hpp"
#include "exercises/01-blocking/given/send_parts.hpp"

inline Result send_all(int socket, std::span<const char> head,
                       std::span<const char> body) {
  const std::size_t all = head.size() + body.size();
  while (all > 0) {
    const ssize_t n = send_parts(socket, head, body, MSG_NOSIGNAL);
    if (n >= 0 && static_cast<std::size_t>(n) == all) return {all, {}};
    if (n < 0 && errno != EINTR) return {0, net::last_error()};
  }
  return {0, {}};
}
