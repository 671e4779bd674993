// Belief: the client asks and the backend answers, by turns.
// Fails: the backend speaks first
// Message: who speaks first is heard

#pragma once

#include <array>
#include <chrono>
#include <span>
#include <system_error>
#include <utility>

#include "common/fd.hpp"
#include "common/socket.hpp"
#include "rt/go.hpp"
#include "rt/net.hpp"
#include "rt/time.hpp"

// One piece. False: there will be no more.
inline bool copy(rt::Conn& from, rt::Conn& to) {
  std::array<char, 16384> buffer;
  const auto [n, error] = from.read(buffer);
  return !error && !to.write(std::span(buffer).first(n)).error;
}

inline void relay(rt::Conn client, const net::Address& backend) {
  rt::Dialed server = rt::dial(backend);
  if (server.error) return;
  while (copy(client, server.conn) && copy(server.conn, client)) {
  }
}

inline void proxy(net::Fd listener, const net::Address& backend) {
  rt::run([&] {
    auto [clients, error] = rt::Listener::adopt(std::move(listener));
    if (error) throw std::system_error(error, "epoll_ctl");
    for (;;) {
      rt::Accepted accepted = clients.accept();
      if (accepted.error == rt::closed) return;
      if (accepted.error) {
        // No descriptor: the client waits in the queue, and we for one to go.
        rt::sleep(std::chrono::milliseconds(100));
        continue;
      }
      rt::go([client = std::move(accepted.conn), &backend]() mutable {
        relay(std::move(client), backend);
      });
    }
  });
}
