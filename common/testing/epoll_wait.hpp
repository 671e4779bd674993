#pragma once

#include <sys/epoll.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace testing {

// What the C library's epoll_wait does, for programs that put a function of
// their own in its place. Where the kernel has two calls, this is the one with
// the name that a reader looks for in whereabouts().
inline int system_epoll_wait(int epoll, epoll_event* events, int room,
                             int timeout) {
#ifdef SYS_epoll_wait
  return static_cast<int>(
      ::syscall(SYS_epoll_wait, epoll, events, room, timeout));
#else
  return static_cast<int>(
      ::syscall(SYS_epoll_pwait, epoll, events, room, timeout, nullptr, 0));
#endif
}

}  // namespace testing
