// What the servers have in common that end by a signal's default action and
// rest by the timeout of epoll_wait, seen from inside.

#include <doctest/doctest.h>

#include <algorithm>
#include <csignal>
#include <string>
#include <vector>

#include "chapters/server.hpp"
#include "common/testing/child_process.hpp"
#include "common/testing/client.hpp"
#include "common/testing/process.hpp"
#include "common/testing/recorded_server.hpp"
#include "common/testing/shrink.hpp"

using testing::Client;
using testing::RecordedServer;

// A wait that ended with its timeout.
static bool expired(const std::string& call) {
  return call.starts_with("epoll_wait") && call.ends_with(" = 0");
}

TEST_CASE("a rest is at most 100 ms, and ends when a client leaves") {
  RecordedServer server(serve);
  Client client(server.address());
  CHECK(client.echo("hello") == "hello");
  server.settle();
  server.process().limit_descriptors(6);
  Client waiting(server.address());
  std::vector<std::string> calls;
  testing::wait_until("it has rested", [&] {
    calls = server.calls();
    return std::any_of(calls.begin(), calls.end(), expired);
  });
  const auto over = std::find_if(calls.begin(), calls.end(), expired);
  const int rest = std::stoi(over->substr(std::string("epoll_wait ").size()));
  CHECK(rest >= 1);
  CHECK(rest <= 100);
  client.close();
  CHECK(waiting.echo("hello") == "hello");
  calls = server.calls();
  const auto free = std::find(calls.begin(), calls.end(), "close 5 = 0");
  const auto used = std::find(free, calls.end(), "accept4 3 = 5");
  REQUIRE(used != calls.end());
  CHECK(std::none_of(free, used, expired));
}

TEST_CASE("the program keeps 1,100 clients and prints nothing about them") {
  testing::ChildProcess program({PROGRAM, "--port", "0"});
  const net::Address address = program.wait_until_listening();
  auto clients = testing::connect_clients(address, testing::shrink(1'100));
  testing::echo_all(clients);
  program.signal(SIGTERM);
  CHECK(program.wait() == 128 + SIGTERM);
  CHECK(program.output() == "listening on " + address.text() + '\n');
  CHECK(program.errors() == "");
}
