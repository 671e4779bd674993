// One step and what it says, apart from the loop around it.

#pragma once

#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstddef>
#include <functional>
#include <optional>
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

// What a recv has shown; nothing if only the next one can show more.
inline std::optional<Next> shown(ssize_t n, std::size_t asked, bool wary) {
  if (n == 0) return Next::Ended;
  if (n < 0 && errno == EINTR) return std::nullopt;
  if (n < 0) return errno == EAGAIN ? Next::Wait : Next::Broken;
  if (static_cast<std::size_t>(n) < asked && !wary) return Next::Wait;
  return std::nullopt;
}

// Reads a non-blocking stream socket on which an edge was reported. `wary`: an
// end of it was reported too, now or earlier. Reads at most `budget` bytes.
inline Next drain(int fd, bool wary, std::size_t budget, const Sink& sink) {
  std::array<char, block_size> block;
  std::optional<Next> next;
  while (!next) {
    if (budget == 0) return Next::Again;
    const std::size_t asked = std::min(budget, block.size());
    const ssize_t n = ::recv(fd, block.data(), asked, 0);
    next = shown(n, asked, wary);
    if (n <= 0) continue;
    sink({block.data(), static_cast<std::size_t>(n)});
    budget -= static_cast<std::size_t>(n);
  }
  return *next;
}
