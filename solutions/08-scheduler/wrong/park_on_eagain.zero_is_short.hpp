// Belief: 0 bytes are fewer than asked for, so nothing is left.
// Fails: the stream has ended
// Message: the end is told to each who reads

#pragma once

#include <sys/socket.h>

#include <cerrno>
#include <cstddef>
#include <span>
#include <system_error>

#include "common/error.hpp"

// What the runtime knows of a descriptor and its input.
struct Descriptor {
  int fd = -1;
  bool ready = true;    // a call is worth a try
  bool wary = false;    // more than bytes may stand behind a short read
  bool closed = false;  // by us; the number may be somebody else's by now
};

// Stops the goroutine that calls it until `ready` or `closed` is set.
void park(Descriptor& descriptor);

// n bytes were read, or the error is set.
struct Result {
  std::size_t n = 0;
  std::error_code error;
};

// The error of a call whose descriptor was closed before it or during it.
inline const std::error_code closed =
    std::make_error_code(std::errc::operation_canceled);

// Gets at least one byte, or net::eof(), or `closed`, or the error of the call.
inline Result read_some(Descriptor& descriptor, std::span<char> buffer) {
  if (descriptor.closed) return {0, closed};
  if (buffer.empty()) return {};
  for (;;) {
    if (!descriptor.ready) park(descriptor);
    if (descriptor.closed) return {0, closed};
    const ssize_t n = ::recv(descriptor.fd, buffer.data(), buffer.size(), 0);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0 && errno == EAGAIN) {
      descriptor.ready = false;
      continue;
    }
    if (n < 0) return {0, net::last_error()};
    const auto got = static_cast<std::size_t>(n);
    if (got < buffer.size() && !descriptor.wary) descriptor.ready = false;
    return {got, got == 0 ? net::eof() : std::error_code()};
  }
}
