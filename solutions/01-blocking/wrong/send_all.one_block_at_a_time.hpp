// Belief: two calls in a row are as good as one.
// Fails: a small head and its body travel together
// Message: head and body leave in one segment
#pragma once

#include <cerrno>
#include <cstddef>
#include <span>

#include "common/error.hpp"
#include "exercises/01-blocking/given/send_parts.hpp"

inline Result send_block(int socket, std::span<const char> block) {
  std::size_t sent = 0;
  while (sent < block.size()) {
    const ssize_t n = send_parts(socket, block.subspan(sent), {}, MSG_NOSIGNAL);
    if (n >= 0) {
      sent += static_cast<std::size_t>(n);
    } else if (errno != EINTR) {
      return {sent, net::last_error()};
    }
  }
  return {sent, {}};
}

inline Result send_all(int socket, std::span<const char> head,
                       std::span<const char> body) {
  const Result first = send_block(socket, head);
  if (first.error) return first;
  const Result second = send_block(socket, body);
  return {first.n + second.n, second.error};
}
