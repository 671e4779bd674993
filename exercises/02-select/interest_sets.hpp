#pragma once

#include <sys/select.h>

#include <cstddef>
#include <span>
#include <vector>

#include "common/testing/todo.hpp"

// What select has to know of a client.
struct Client {
  int fd = -1;              // 0 or greater
  std::size_t pending = 0;  // bytes read and not yet sent
};

// Fills both sets, whatever they held, for the next select.
//
// - The listener is to be read; its descriptor is below FD_SETSIZE.
// - A client with bytes pending is to be written, and not to be read: it gets
//   no new bytes before it has taken the old ones. Any other is to be read.
// - A client whose descriptor has no bit stands in neither set. Its descriptor
//   goes to the end of refused.
//
// Returns select's first argument: the highest descriptor in the sets plus 1.
inline int interest_sets(int listener, std::span<const Client> clients,
                         fd_set& to_read, fd_set& to_write,
                         std::vector<int>& refused) {
  TODO("fill the sets and find the highest descriptor");
}
