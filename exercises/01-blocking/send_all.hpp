#pragma once

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <span>

#include "common/error.hpp"
#include "common/testing/todo.hpp"
#include "exercises/01-blocking/given/send_parts.hpp"

// Sends all of head and then all of body through a blocking stream socket, and
// sleeps until the kernel has taken every byte.
//
// Returns how many bytes of both together the kernel has taken, and the error
// that ended it, if one did; the count is right then, too.
// - A signal that interrupts a call is no error.
// - A peer that has gone is an error and raises no SIGPIPE.
// - Nothing to send is no error, whatever has become of the peer.
// - If the kernel takes all at once, head and body leave in one segment.
inline Result send_all(int socket, std::span<const char> head,
                       std::span<const char> body) {
  TODO("call send_parts until nothing is left of either");
}
