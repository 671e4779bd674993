// Taken for used up before each call; the call has to show that more may be
// there.

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

// What a recv has shown: another one may bring something.
inline bool shows_more(ssize_t n, std::size_t asked, bool wary) {
  if (n < 0) return errno != EAGAIN;
  return n == 0 || wary || static_cast<std::size_t>(n) == asked;
}

// Gets at least one byte, or net::eof(), or `closed`, or the error of the call.
inline Result read_some(Descriptor& descriptor, std::span<char> buffer) {
  if (buffer.empty() && !descriptor.closed) return {};
  for (;;) {
    while (!descriptor.ready && !descriptor.closed) park(descriptor);
    if (descriptor.closed) return {0, closed};
    descriptor.ready = false;
    const ssize_t n = ::recv(descriptor.fd, buffer.data(), buffer.size(), 0);
    descriptor.ready = shows_more(n, buffer.size(), descriptor.wary);
    if (n > 0) return {static_cast<std::size_t>(n), {}};
    if (n == 0) return {0, net::eof()};
    if (errno != EAGAIN && errno != EINTR) return {0, net::last_error()};
  }
}
