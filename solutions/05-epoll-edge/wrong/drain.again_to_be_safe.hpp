// Belief: who asks once too often loses nothing.
// Fails: more than one block has come
// Message: nothing is left to be read now

#pragma once

#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstddef>
#include <functional>
#include <string_view>

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

// Reads a non-blocking stream socket on which an edge was reported. `wary`: an
// end of it was reported too, now or earlier. Reads at most `budget` bytes.
inline Next drain(int fd, bool wary, std::size_t budget, const Sink& sink) {
  std::array<char, block_size> block;
  while (budget > 0) {
    const std::size_t asked = std::min(budget, block.size());
    const ssize_t n = ::recv(fd, block.data(), asked, 0);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return errno == EAGAIN ? Next::Wait : Next::Broken;
    if (n == 0) return Next::Ended;
    const auto got = static_cast<std::size_t>(n);
    sink({block.data(), got});
    if (got < asked && !wary) return Next::Again;
    budget -= got;
  }
  return Next::Again;
}
