// Belief: who cannot be watched is left out, and that is that.
// Fails: descriptors go up to FD_SETSIZE and beyond
// Message: a descriptor without a bit is reported
#pragma once

#include <sys/select.h>

#include <algorithm>
#include <cstddef>
#include <span>
#include <vector>

// What select has to know of a client.
struct Client {
  int fd = -1;              // 0 or greater
  std::size_t pending = 0;  // bytes read and not yet sent
};

// Fills both sets, whatever they held, for the next select. A client whose
// descriptor has no bit goes to the end of refused.
//
// Returns select's first argument: the highest descriptor in the sets plus 1.
inline int interest_sets(int listener, std::span<const Client> clients,
                         fd_set& to_read, fd_set& to_write, std::vector<int>&) {
  FD_ZERO(&to_read);
  FD_ZERO(&to_write);
  FD_SET(listener, &to_read);
  int highest = listener;
  for (const Client& client : clients) {
    if (client.fd >= FD_SETSIZE) continue;
    FD_SET(client.fd, client.pending == 0 ? &to_read : &to_write);
    highest = std::max(highest, client.fd);
  }
  return highest + 1;
}
