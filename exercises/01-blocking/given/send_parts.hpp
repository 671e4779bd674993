#pragma once

#include <sys/socket.h>
#include <sys/uio.h>

#include <array>
#include <cstddef>
#include <span>
#include <system_error>

// What an I/O call gives: n bytes were moved, and then the error happened, if
// one is set.
struct Result {
  std::size_t n = 0;
  std::error_code error;
};

// One system call for two blocks of memory, head first. Returns what
// sendmsg(2) returns: how many bytes the kernel has taken of both together,
// often fewer than there are, or -1 and errno.
inline ssize_t send_parts(int socket, std::span<const char> head,
                          std::span<const char> body, int flags) {
  // iovec serves reading too, so its pointer is not to const.
  std::array<iovec, 2> parts{{{const_cast<char*>(head.data()), head.size()},
                              {const_cast<char*>(body.data()), body.size()}}};
  msghdr message{};
  message.msg_iov = parts.data();
  message.msg_iovlen = parts.size();
  return ::sendmsg(socket, &message, flags);
}
