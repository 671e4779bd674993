// Write: a room in which everybody hears what anybody says.

#pragma once

#include <cstddef>

#include "common/fd.hpp"
#include "common/testing/todo.hpp"

// What has been said and not yet taken by a guest may add up to this many
// bytes of the server's memory, for each guest.
inline constexpr std::size_t backlog_limit = std::size_t{1} << 20;

// Takes a listening TCP socket and serves its clients, the guests, with one
// thread and poll, until the socket is shut down. Then it returns and leaves
// no descriptor open. Throws std::system_error if a call fails that concerns
// no single guest.
//
// - What a guest says goes to all others in the room, not to itself. Bytes of
//   one guest arrive unchanged and in order; what one recv brought stays in
//   one piece between what others say.
// - A guest that reads slowly delays nobody. What it has not taken is kept for
//   it, up to backlog_limit. A guest that would need more is let go: its
//   connection is closed and what was kept is forgotten.
// - A guest that has finished talking (end of stream) still gets what was said
//   before, then the end of its stream. Until then it costs no rounds: the
//   server sleeps while nothing can be done.
// - A reset or another error ends that guest alone. SIGPIPE ends nobody.
// - Out of descriptors: those in the room go on talking, the server does not
//   spin, and whoever waits gets in when somebody has left.
inline void serve(net::Fd listener) {
  TODO("the room; chapters/03-poll/server.cpp is a good place to start from");
}
