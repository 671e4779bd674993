#pragma once

#include <sys/select.h>

#include <bitset>
#include <cstddef>
#include <span>
#include <vector>

// What select has to know of a client.
struct Client {
  int fd = -1;              // 0 or greater
  std::size_t pending = 0;  // bytes read and not yet sent
};

// Collects in bitsets, whose set() throws where FD_SET destroys, and copies
// from the top down: the first bit met is the highest.
inline int interest_sets(int listener, std::span<const Client> clients,
                         fd_set& to_read, fd_set& to_write,
                         std::vector<int>& refused) {
  std::bitset<FD_SETSIZE> reading;
  std::bitset<FD_SETSIZE> writing;
  reading.set(static_cast<std::size_t>(listener));
  for (const Client& client : clients) {
    const auto number = static_cast<std::size_t>(client.fd);
    if (number >= reading.size()) {
      refused.push_back(client.fd);
    } else {
      (client.pending > 0 ? writing : reading).set(number);
    }
  }
  FD_ZERO(&to_read);
  FD_ZERO(&to_write);
  int nfds = 0;
  for (int fd = FD_SETSIZE - 1; fd >= 0; --fd) {
    const auto number = static_cast<std::size_t>(fd);
    if (reading[number]) FD_SET(fd, &to_read);
    if (writing[number]) FD_SET(fd, &to_write);
    if (nfds == 0 && (reading[number] || writing[number])) nfds = fd + 1;
  }
  return nfds;
}
