// Chapter 08: chapter 01 again, for thousands.
//
// The thread sleeps in epoll_wait, and only when no goroutine can run. What
// the server knows of a client stands on the stack of serve_client, as in
// chapter 01; there are as many such stacks as clients. The price: a goroutine
// gives way only where it waits. One that computes, or blocks in a call that
// is not the runtime's, stops all.

#include <array>
#include <chrono>
#include <span>
#include <system_error>
#include <utility>

#include "chapters/server.hpp"
#include "rt/go.hpp"
#include "rt/net.hpp"
#include "rt/time.hpp"

namespace {

using Conn = rt::Conn;

void serve_client(Conn client) {
  std::array<char, 4096> buffer;
  for (;;) {
    const auto [n, error] = client.read(buffer);
    if (error) return;
    const auto [written, failure] = client.write(std::span(buffer).first(n));
    if (failure) return;
  }
}

void accept_clients(const rt::Listener& listener) {
  for (;;) {
    auto [client, error] = listener.accept();
    if (error == rt::closed) return;  // it has been shut down
    if (error) {
      // No descriptor or no memory: trying again at once would spin.
      rt::sleep(std::chrono::milliseconds(100));
      continue;
    }
    try {
      rt::go(serve_client, std::move(client));
    } catch (const std::system_error&) {
      // No stack: this client is turned away, and the others are served.
    }
  }
}

}  // namespace

void serve(net::Fd listener) {
  rt::run([&] {
    auto [clients, error] = rt::Listener::adopt(std::move(listener));
    if (error) throw std::system_error(error, "epoll_ctl");
    accept_clients(clients);
  });
}
