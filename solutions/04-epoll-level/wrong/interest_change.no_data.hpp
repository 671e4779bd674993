// Belief: the number was given to epoll_ctl, so the event carries it.
// Fails: a client talks and listens
// Message: an event carries the client's descriptor

#pragma once

#include <sys/epoll.h>

#include <cstddef>
#include <cstdint>

struct Client {
  int fd = -1;
  std::size_t pending = 0;     // bytes to be sent to it
  bool finished = false;       // has sent all it will ever say
  std::uint32_t interest = 0;  // what the kernel was last told; 0: no entry
};

inline std::uint32_t true_interest(const Client& client) {
  if (client.pending > 0) return EPOLLOUT;
  return client.finished ? 0U : EPOLLIN;
}

// Makes the kernel's list true again after something has happened to the
// client. False: the kernel has refused and knows what it knew before. The next
// call tries again.
inline bool change_interest(int epoll, Client& client) {
  const std::uint32_t wanted = true_interest(client);
  if (wanted == client.interest) return true;
  int change = EPOLL_CTL_MOD;
  if (client.interest == 0) change = EPOLL_CTL_ADD;
  // Not a mask of 0: errors and hang-ups are reported of every entry.
  if (wanted == 0) change = EPOLL_CTL_DEL;
  epoll_event event{wanted, {}};
  if (::epoll_ctl(epoll, change, client.fd, &event) < 0) return false;
  client.interest = wanted;
  return true;
}
