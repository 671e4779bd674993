// Belief: whatever ends a stream is passed on as its end.
// Fails: one of the two resets and the other is silent
// Message: a reset gives back both descriptors

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

// One direction, until its end, which is passed on, or an error.
inline void copy(rt::Conn& from, rt::Conn& to) {
  std::array<char, 16384> buffer;
  for (;;) {
    const auto [n, error] = from.read(buffer);
    if (error || to.write(std::span(buffer).first(n)).error) break;
  }
  to.close_write();
}

inline void relay(rt::Conn client, const net::Address& backend) {
  rt::Dialed server = rt::dial(backend);
  if (server.error) return;
  const rt::Handle request = rt::go([&] { copy(client, server.conn); });
  copy(server.conn, client);
  // It uses what stands on this stack.
  request.join();
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
