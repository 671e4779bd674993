// Write: let a server stop properly when it is asked to.

#pragma once

#include <sys/epoll.h>

#include <array>
#include <chrono>
#include <utility>

#include "common/error.hpp"
#include "common/fd.hpp"
#include "common/socket.hpp"
#include "common/testing/todo.hpp"
#include "exercises/06-other-fds/given/lines.hpp"

// A server of lines, which is given to you except for its end. SIGTERM and
// SIGINT are requests to stop, also before run is called.
//
// - Who comes after that is refused. Who has come before it and waits in the
//   queue is let in and is a client like the others.
// - A client leaves as soon as it is between two requests: all that it has sent
//   by now has been read, no part of a request is left, and the last answer has
//   been sent whole. It sees the end of its stream, no reset. Sent whole means:
//   the kernel has all of it. Whether the client has it (SIOCOUTQ in the
//   lesson) is not asked here; nor is its own end waited for.
// - The others have the grace to get there, from the request to stop on,
//   whatever they do; it may be 0. Then they are cut off.
// - Another request to stop cuts them off at once. Those that have come before
//   the first one was noticed count as one with it.
// - While it waits it sleeps.
class Server {
 public:
  Server(net::Fd listener, std::chrono::milliseconds grace)
      : listener_(std::move(listener)), grace_(grace) {
    TODO("from here on the signals are taken");
    net::set_nonblocking(listener_);
    watch(house_, EPOLL_CTL_ADD, listener_.get(), EPOLLIN);
  }

  // True: all were finished, or have left by themselves. False: somebody was
  // cut off. Throws std::system_error.
  bool run() {
    for (;;) {
      std::array<epoll_event, 64> ready;
      const int n = ::epoll_wait(house_.epoll.get(), ready.data(), 64, -1);
      if (n < 0) net::rest_or_throw("epoll_wait");
      for (int i = 0; i < n; ++i) {
        const int fd = ready[static_cast<unsigned>(i)].data.fd;
        if (fd == listener_.get()) let_in(house_, listener_);
        attend(house_, fd);
      }
    }
  }

 private:
  net::Fd listener_;
  std::chrono::milliseconds grace_;
  House house_;
};
