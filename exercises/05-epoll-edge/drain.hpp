// Fill: read a client after an edge, until nothing is left or its turn is over.

#pragma once

#include <cstddef>
#include <functional>
#include <string_view>

#include "common/testing/todo.hpp"

enum class Next {
  Wait,    // for the next edge: nothing is left
  Again,   // a turn in the next round, without waiting: more may be there
  Ended,   // the client has finished, and all it said has been read
  Broken,  // the connection has failed
};

// Gets what is read, block by block.
using Sink = std::function<void(std::string_view)>;

// One recv asks for so much at most.
inline constexpr std::size_t block_size = 4096;

// Reads, with ::recv, a non-blocking stream socket on which an edge was
// reported. `wary`: an end of it was reported too, now or earlier (EPOLLRDHUP,
// EPOLLHUP or EPOLLERR). Urgent data, EPOLLPRI, is left out here on purpose.
//
// - Bytes that were there before are not reported again. Wait is right only
//   when nothing is left.
// - A recv that brings less than it was asked for shows that nothing is left.
//   The next one could only say EAGAIN and is not made. Who is wary makes it:
//   behind the bytes the end may stand, and it is not reported again either.
// - At most `budget` bytes are read. When they are used up, others have their
//   turn.
// - A signal that interrupts a call changes nothing.
inline Next drain(int fd, bool wary, std::size_t budget, const Sink& sink) {
  TODO("call recv until nothing is left or the budget is used up");
}
