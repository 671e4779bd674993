// The server of chapter 05 from inside: its system calls are seen. What 06 does
// as well is in common/testing/edge_server_test.cpp.

#include <doctest/doctest.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstdio>
#include <fstream>
#include <string>
#include <vector>

#include "chapters/server.hpp"
#include "common/testing/client.hpp"
#include "common/testing/process.hpp"
#include "common/testing/recorded_server.hpp"

// Copies of the server with one statement changed (CMakeLists.txt): it forgets
// who is still ready, or lets an event of any generation through.
void serve_and_forget(net::Fd listener);
void serve_any_generation(net::Fd listener);

namespace {

using testing::Client;
using testing::count;
using testing::RecordedServer;
using Calls = std::vector<std::string>;

// Whether a server's end of the connection from this address is established
// (proc(5), net/tcp: the state, the fourth field, is 01).
bool is_connected(const net::Address& from) {
  const std::string address = from.text();
  char port[8];
  std::snprintf(port, sizeof port, ":%04X",
                std::stoi(address.substr(address.rfind(':') + 1)));
  std::ifstream table("/proc/net/tcp");
  for (std::string line; std::getline(table, line);) {
    const std::size_t remote = line.find(port, line.find(':') + 15);
    if (remote != std::string::npos && line.substr(remote + 6, 2) == "01") {
      return true;
    }
  }
  return false;
}

}  // namespace

// A RecordedServer's listener is 3 and its list 4.

// One client leaves in the turn it has without an event; the next client gets
// its number; then comes an event that was meant for the first.
Calls calls_for_successor(void (*function)(net::Fd)) {
  RecordedServer server(function);
  Client first(server.address());
  CHECK(first.echo("warm") == "warm");
  server.settle();
  server.lie("recv", EINTR, 4);
  server.stop_before_wait();
  first.send("x");
  server.wait_until_stopped();  // the first is on the list of the still ready
  Client second(server.address());
  testing::wait_until("the second is in the queue",
                      [&] { return is_connected(second.local()); });
  const net::Address left = first.local();
  first.reset();
  testing::wait_until("the reset has come",
                      [&] { return !is_connected(left); });
  server.go_on();
  testing::wait_until("the second has been accepted", [&] {
    return testing::open_descriptors(server.process().pid()) == 6 &&
           is_connected(second.local());
  });
  Calls calls = server.calls();
  const auto accepted = std::find(calls.begin(), calls.end(), "accept4 3 = 5");
  REQUIRE(accepted != calls.end());
  calls.erase(calls.begin(), accepted);
  CHECK(second.echo("hello") == "hello");
  return calls;
}

TEST_CASE(
    "an event that was meant for another makes no call on its successor") {
  CHECK(count(calls_for_successor(serve), "recv 5") == 0);
  CHECK(count(calls_for_successor(serve_any_generation), "recv 5") == 1);
}

TEST_CASE("its limit: input left unread is not announced again") {
  RecordedServer server(serve_and_forget);
  Client client(server.address());
  CHECK(client.echo("warm") == "warm");
  server.settle();
  server.lie("recv", EINTR, 4);
  client.send("left unread");
  server.wait_until_believed();
  // The copy forgets who is still ready, and sleeps.
  const Calls calls = server.calls();
  CHECK(count(calls, "epoll_wait") == 1);
  CHECK(calls.back() == "recv 5 = EINTR");
  // Another segment is another edge, and all that was unread comes with it.
  client.send(", until now");
  CHECK(client.receive(22) == "left unread, until now");
}
