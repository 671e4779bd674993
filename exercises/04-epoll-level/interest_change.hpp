// Fill: tell the kernel what a client is waited for, when that changes.

#pragma once

#include <sys/epoll.h>

#include <cstddef>
#include <cstdint>

#include "common/testing/todo.hpp"

struct Client {
  int fd = -1;
  std::size_t pending = 0;     // bytes to be sent to it
  bool finished = false;       // has sent all it will ever say
  std::uint32_t interest = 0;  // what the kernel was last told; 0: no entry
};

// Makes the kernel's list true again after something has happened to the
// client. The list is level-triggered, and an event carries the client's
// descriptor in data.fd.
//
// - A client with bytes pending is waited for to write them, finished or not,
//   and is not read meanwhile.
// - A client with nothing pending is waited for to read, unless it has
//   finished. Then it has no entry in the list.
// - The kernel is not called if it knows already.
//
// False: the kernel has refused and knows what it knew before. The next call
// tries again.
inline bool change_interest(int epoll, Client& client) {
  TODO("compare what the kernel was told with what is true now");
}
