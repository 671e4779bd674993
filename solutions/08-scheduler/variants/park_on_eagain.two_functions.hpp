// Waiting apart from calling, as in chapter 08.

#pragma once

#include <sys/socket.h>

#include <cerrno>
#include <cstddef>
#include <span>
#include <system_error>
#include <utility>

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

// Parks until a call is worth a try. The error: `closed`.
inline std::error_code wait(Descriptor& descriptor) {
  if (!descriptor.closed && !descriptor.ready) park(descriptor);
  return descriptor.closed ? closed : std::error_code();
}

// One call that did not say EAGAIN; -1 and the error if it failed.
inline std::pair<ssize_t, std::error_code> attempt(Descriptor& descriptor,
                                                   std::span<char> buffer) {
  for (;;) {
    if (const std::error_code error = wait(descriptor)) return {-1, error};
    const ssize_t n = ::recv(descriptor.fd, buffer.data(), buffer.size(), 0);
    if (n >= 0) return {n, {}};
    if (errno == EAGAIN) {
      descriptor.ready = false;
    } else if (errno != EINTR) {
      return {-1, net::last_error()};
    }
  }
}

// Gets at least one byte, or net::eof(), or `closed`, or the error of the call.
inline Result read_some(Descriptor& descriptor, std::span<char> buffer) {
  if (buffer.empty())
    return {0, descriptor.closed ? closed : std::error_code()};
  const auto [n, error] = attempt(descriptor, buffer);
  if (error) return {0, error};
  if (n == 0) return {0, net::eof()};
  const auto got = static_cast<std::size_t>(n);
  descriptor.ready = got == buffer.size() || descriptor.wary;
  return {got, {}};
}
