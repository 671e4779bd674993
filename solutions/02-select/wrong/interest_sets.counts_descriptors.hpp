// Belief: nfds is the number of descriptors, as its name says.
// Fails: some clients have bytes pending
// Message: nfds is the highest descriptor plus 1
#pragma once

#include <sys/select.h>

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
                         fd_set& to_read, fd_set& to_write,
                         std::vector<int>& refused) {
  FD_ZERO(&to_read);
  FD_ZERO(&to_write);
  FD_SET(listener, &to_read);
  int count = 1;
  for (const Client& client : clients) {
    // The limit is on the number, not on how many there are: FD_SET beyond it
    // writes to memory behind the set.
    if (client.fd >= FD_SETSIZE) {
      refused.push_back(client.fd);
      continue;
    }
    FD_SET(client.fd, client.pending == 0 ? &to_read : &to_write);
    ++count;
  }
  return count;
}
