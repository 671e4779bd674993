// Belief: MOD puts a client on the list if it is not there.
// Fails: a client is silent
// Message: the kernel takes a new client

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
  const int change = wanted == 0 ? EPOLL_CTL_DEL : EPOLL_CTL_MOD;
  epoll_event event{wanted, {.fd = client.fd}};  // MOD replaces the data too
  if (::epoll_ctl(epoll, change, client.fd, &event) < 0) return false;
  client.interest = wanted;
  return true;
}
