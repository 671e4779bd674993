// Belief: whoever starts a thread joins it right away.
// Fails: a client is silent
// Message: a silent client delays nobody
#pragma once

#include <sys/socket.h>

#include <cerrno>
#include <chrono>
#include <thread>
#include <utility>

#include "chapters/server.hpp"
#include "common/fd.hpp"
#include "common/socket.hpp"
#include "exercises/01-blocking/given/echo.hpp"

void serve(net::Fd listener) {
  for (;;) {
    const net::Fd fd(::accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC));
    if (fd) {
      std::thread thread([&fd] { echo_until_end(fd.get()); });
      thread.join();
    } else if (errno != EINTR && errno != ECONNABORTED) {
      if (!net::is_listening(listener)) return;
      std::this_thread::sleep_for(std::chrono::milliseconds(100));
    }
  }
}
