// What the kernel was told is taken for what is likely, and its answer for what
// is true: MOD of what is not there says ENOENT, ADD of what is there EEXIST.
// So entries that somebody else has removed are put back.

#pragma once

#include <sys/epoll.h>

#include <cerrno>
#include <cstddef>
#include <cstdint>

struct Client {
  int fd = -1;
  std::size_t pending = 0;     // bytes to be sent to it
  bool finished = false;       // has sent all it will ever say
  std::uint32_t interest = 0;  // what the kernel was last told; 0: no entry
};

inline bool ask(int epoll, int change, const Client& client,
                std::uint32_t mask) {
  epoll_event event{mask, {.fd = client.fd}};
  return ::epoll_ctl(epoll, change, client.fd, &event) == 0;
}

// Makes the kernel's list true again after something has happened to the
// client. False: the kernel has refused and knows what it knew before.
inline bool change_interest(int epoll, Client& client) {
  std::uint32_t mask = client.finished ? 0U : EPOLLIN;
  if (client.pending > 0) mask = EPOLLOUT;
  if (mask == client.interest) return true;
  bool taken = false;
  if (mask == 0) {
    taken = ask(epoll, EPOLL_CTL_DEL, client, 0) || errno == ENOENT;
  } else {
    taken = ask(epoll, EPOLL_CTL_MOD, client, mask) ||
            (errno == ENOENT && ask(epoll, EPOLL_CTL_ADD, client, mask));
  }
  if (taken) client.interest = mask;
  return taken;
}
