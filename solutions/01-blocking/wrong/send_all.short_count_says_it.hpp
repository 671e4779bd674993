// Belief: a count that is too small tells the caller enough.
// Fails: the peer goes while bytes are on their way
// Message: a peer that has gone is an error
#pragma once

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <span>

#include "common/error.hpp"
#include "exercises/01-blocking/given/send_parts.hpp"

inline Result send_all(int socket, std::span<const char> head,
                       std::span<const char> body) {
  std::size_t sent = 0;
  while (!head.empty() || !body.empty()) {
    const ssize_t n = send_parts(socket, head, body, MSG_NOSIGNAL);
    if (n >= 0) {
      const auto taken = static_cast<std::size_t>(n);
      const std::size_t of_head = std::min(taken, head.size());
      head = head.subspan(of_head);
      body = body.subspan(taken - of_head);
      sent += taken;
    } else if (errno != EINTR) {
      return {sent, {}};
    }
  }
  return {sent, {}};
}
