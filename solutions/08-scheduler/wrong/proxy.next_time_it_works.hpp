// Belief: an accept that fails is tried again.
// Fails: it is out of descriptors
// Message: the proxy rests while it has no descriptor

#pragma once

#include <array>
#include <span>
#include <system_error>
#include <utility>

#include "common/fd.hpp"
#include "common/socket.hpp"
#include "rt/go.hpp"
#include "rt/net.hpp"

// One direction, until its end, which is passed on, or an error.
inline void copy(rt::Conn& from, rt::Conn& to) {
  std::array<char, 16384> buffer;
  for (;;) {
    const auto [n, error] = from.read(buffer);
    if (error == rt::eof && !to.close_write()) return;
    if (error || to.write(std::span(buffer).first(n)).error) break;
  }
  // The other direction may wait for one who is silent. This wakes it.
  from.close();
  to.close();
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
      if (accepted.error) continue;
      rt::go([client = std::move(accepted.conn), &backend]() mutable {
        relay(std::move(client), backend);
      });
    }
  });
}
