// The same of those whose round is chapter 05's: events, then turns.

#include <doctest/doctest.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

#include "common/testing/client.hpp"
#include "common/testing/edge_server.hpp"

namespace {

using testing::Client;
using testing::count;
using testing::EdgeServer;
using testing::most_a_round;
using Calls = std::vector<std::string>;

// What the calls of that beginning have returned, added up; errors are left
// out.
std::size_t moved(const Calls& calls, std::string_view beginning) {
  std::size_t sum = 0;
  for (const std::string& call : calls) {
    const std::size_t result = call.rfind(' ') + 1;
    if (!call.starts_with(beginning) || call[result] == 'E') continue;
    sum += std::stoul(call.substr(result));
  }
  return sum;
}

}  // namespace

TEST_CASE("a client is told to the kernel once, for everything") {
  EdgeServer server;
  Client client(server.address());
  for (int i = 0; i < 3; ++i) CHECK(client.echo("hello") == "hello");
  const std::string large = testing::pattern(8 << 20);
  const bool unchanged = client.exchange(large) == large;
  CHECK(unchanged);
  client.finish();
  CHECK(client.ended());
  const Calls calls = server.calls();
  CHECK(count(calls, "epoll_ctl ADD 3 IN ET = 0") == 1);
  CHECK(count(calls, "epoll_ctl ADD A IN PRI OUT RDHUP ET = 0") == 1);
  CHECK(count(calls, "epoll_ctl MOD") + count(calls, "epoll_ctl DEL") == 0);
}

TEST_CASE("room that nobody waits for is reported and costs no call") {
  EdgeServer server;
  const Client silent(server.address());
  testing::wait_until("it has been accepted", [&] {
    return server.descriptors() > server.before_clients();
  });
  const Calls calls = server.calls();
  CHECK(calls.back() == "epoll_wait -1 = 1");
  CHECK(count(calls, "recv") == 0);
}

TEST_CASE("an end that comes later is an event of its own") {
  EdgeServer server;
  Client client(server.address());
  CHECK(client.echo("hello") == "hello");
  server.settle();
  client.finish();
  CHECK(client.ended());
  CHECK(server.calls() ==
        Calls{"epoll_wait -1 = 1", "recv A = 0", "close A = 0"});
}

TEST_CASE("a turn is at most four reads, and the next needs no edge") {
  EdgeServer server;
  Client flooding(server.address());
  const std::string bytes = testing::pattern(16 << 20);
  const bool unchanged = flooding.exchange(bytes) == bytes;
  CHECK(unchanged);
  const Calls calls = server.calls();
  // Two turns are in one round only if the first left nothing to read, or no
  // room to send; so there are at most seven full reads, three and four.
  CHECK(most_a_round(calls, "recv A = 65536") <= 7);
  // Whoever is ready after its turn must not be kept waiting for an event.
  CHECK(count(calls, "recv A = 65536") >= 5);
  CHECK(count(calls, "epoll_wait 0") >= 1);
}

TEST_CASE("the others have their turns between those of a flooding client") {
  EdgeServer server;
  Client flooding(server.address());
  CHECK(flooding.echo("warm") == "warm");
  Client other(server.address());
  CHECK(other.echo("warm") == "warm");
  server.settle();
  // Four tries without result are a turn used up.
  server.lie("recv", EINTR, 4);
  server.stop_before_wait();
  flooding.send("x");
  server.wait_until_stopped();
  other.send("y");
  server.lie("recv", EINTR, 4);
  server.go_on();
  CHECK(flooding.receive(1) == "x");
  CHECK(other.receive(1) == "y");
  CHECK(server.calls() ==
        Calls{"epoll_wait -1 = 1", "recv A = EINTR", "recv A = EINTR",
              "recv A = EINTR", "recv A = EINTR", "epoll_wait 0 = 1",
              "recv A = EINTR", "recv A = EINTR", "recv A = EINTR",
              "recv A = EINTR", "recv B = 1", "send B = 1", "epoll_wait 0 = 0",
              "recv A = 1", "send A = 1"});
}

TEST_CASE("a client that is still ready stands on the list once") {
  EdgeServer server;
  Client client(server.address());
  CHECK(client.echo("warm") == "warm");
  server.settle();
  server.lie("recv", EINTR, 4);
  server.stop_before_wait();
  server.process().signal(SIGUSR1);  // so that it has another wait before it
  server.wait_until_stopped();
  server.stop_before_wait();
  server.go_on();
  client.send("one");
  server.wait_until_stopped();
  // It is on the list, and an event with its end comes on top of that.
  client.send("two");
  client.finish();
  server.lie("recv", EINTR, 4);
  server.go_on();
  CHECK(client.receive_all() == "onetwo");
  CHECK(most_a_round(server.calls(), "recv A") <= 4);
}

TEST_CASE("clients left in the queue need no edge") {
  EdgeServer server;
  server.stop();
  auto clients = testing::connect_clients(server.address(), 200);
  server.go_on();
  testing::echo_all(clients);
  CHECK(count(server.calls(), "epoll_ctl MOD 3 IN ET = 0") >= 3);
}

TEST_CASE("room alone brings back what had to wait") {
  EdgeServer server;
  Client client(server.address());
  const std::string part = testing::pattern(32'768);
  std::size_t sent = 0;
  std::size_t received = 0;
  std::size_t returned = 0;
  // Until the server has read everything and has not got rid of all of it.
  for (; received == returned && sent < 64 << 20; sent += part.size()) {
    client.send(part);
    const Calls calls = server.calls();
    received += moved(calls, "recv A");
    returned += moved(calls, "send A");
  }
  REQUIRE(received == sent);
  REQUIRE(returned < sent);
  client.receive(sent);
  CHECK(client.echo("hello") == "hello");
}

TEST_CASE("out of descriptors the listener is tried again without an edge") {
  EdgeServer server;
  Client client(server.address());
  CHECK(client.echo("hello") == "hello");
  server.settle();
  server.process().limit_descriptors(server.descriptors());
  Client waiting(server.address());
  const Calls resting = server.calls_until("accept4 3 = EMFILE", 2);
  CHECK(count(resting, "epoll_ctl ADD 3 IN ET = 0") >= 1);
  // A rest is one wait, a try is another.
  CHECK(count(resting, "epoll_wait") <= 2 * count(resting, "accept4 3 = EMF"));
  client.close();
  CHECK(waiting.echo("hello") == "hello");
  // Who leaves ends the rest, before the next wait.
  const Calls calls = server.calls();
  const auto closed = std::find(calls.begin(), calls.end(), "close A = 0");
  const auto waits = [](const std::string& call) {
    return call.starts_with("epoll_wait");
  };
  const auto next = std::find_if(closed, calls.end(), waits);
  CHECK(std::any_of(closed, next, [](const std::string& call) {
    return call.starts_with("epoll_ctl ") && call.ends_with(" 3 IN ET = 0");
  }));
}
