// The server of chapter 04 from inside: its system calls are seen.

#include <doctest/doctest.h>
#include <sys/epoll.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstddef>
#include <exception>
#include <iterator>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "chapters/server.hpp"
#include "common/testing/client.hpp"
#include "common/testing/process.hpp"
#include "common/testing/recorded_server.hpp"
#include "common/testing/shrink.hpp"

namespace {

using namespace std::chrono_literals;
using testing::Client;
using testing::count;
using testing::RecordedServer;
using Calls = std::vector<std::string>;

// The calls of that name.
Calls only(std::string_view name, const Calls& calls) {
  Calls found;
  std::copy_if(calls.begin(), calls.end(), std::back_inserter(found),
               [=](const std::string& call) { return call.starts_with(name); });
  return found;
}

// Its receiving buffers full, the server has to wait for it to read.
std::size_t flood(Client& client) {
  constexpr std::size_t more_than_fits = 64 << 20;
  const std::size_t sent = client.send_until_full(more_than_fits, 200ms);
  REQUIRE(sent < more_than_fits);
  return sent;
}

}  // namespace

// A RecordedServer's listener is 3 and its list 4.

TEST_CASE("a client is put on the list once and taken off before its close") {
  RecordedServer server(serve);
  auto clients = testing::connect_clients(server.address(), 2);
  testing::echo_all(clients);
  testing::echo_all(clients);
  CHECK(only("epoll_ctl", server.calls()) == Calls{"epoll_ctl ADD 3 IN = 0",
                                                   "epoll_ctl ADD 5 IN = 0",
                                                   "epoll_ctl ADD 6 IN = 0"});
  clients[0].finish();
  CHECK(clients[0].ended());
  CHECK(server.calls() == Calls{"epoll_wait -1 = 1", "recv 5 = 0",
                                "epoll_ctl DEL 5 = 0", "close 5 = 0"});
}

TEST_CASE("interest in room lasts as long as bytes wait for it") {
  RecordedServer server(serve);
  Client client(server.address());
  const std::size_t sent = flood(client);
  CHECK(server.calls().back() == "epoll_ctl MOD 5 OUT = 0");
  client.receive(sent);
  CHECK(client.echo("x") == "x");
  const Calls changes = only("epoll_ctl", server.calls());
  REQUIRE(!changes.empty());
  CHECK(changes.back() == "epoll_ctl MOD 5 IN = 0");
  // In between it may have been full again, but nothing was told twice.
  CHECK(std::adjacent_find(changes.begin(), changes.end()) == changes.end());
}

TEST_CASE("an echo is one wait, one recv and one send, and tells nothing") {
  RecordedServer server(serve);
  Client client(server.address());
  CHECK(client.echo("warm") == "warm");
  server.settle();
  for (int i = 0; i < 3; ++i) {
    CHECK(client.echo("hello") == "hello");
    CHECK(server.calls() ==
          Calls{"epoll_wait -1 = 1", "recv 5 = 5", "send 5 = 5"});
  }
}

TEST_CASE("a round returns who is ready, however many are idle") {
  RecordedServer server(serve);
  const std::size_t many = testing::shrink(1'000);
  auto idle = testing::connect_clients(server.address(), many);
  testing::echo_all(idle);
  Client busy(server.address());
  CHECK(busy.echo("warm") == "warm");
  server.settle();
  constexpr std::size_t echoes = 20;
  for (std::size_t i = 0; i < echoes; ++i) CHECK(busy.echo("x") == "x");
  const Calls calls = server.calls();
  CHECK(count(calls, "epoll_wait -1 = 1") == echoes);
  CHECK(calls.size() == 3 * echoes);
}

TEST_CASE("more clients than a round has room for are all served") {
  RecordedServer server(serve);
  auto clients = testing::connect_clients(server.address(), 300);
  testing::echo_all(clients);
  server.stop();
  for (Client& client : clients) client.send("all at once");
  server.go_on();
  for (Client& client : clients) CHECK(client.receive(11) == "all at once");
  CHECK(count(server.calls(), "epoll_wait -1 = 128") >= 2);
}

TEST_CASE("out of descriptors the listener is off the list for a while") {
  RecordedServer server(serve);
  Client client(server.address());
  CHECK(client.echo("hello") == "hello");
  server.settle();
  server.process().limit_descriptors(6);
  Client waiting(server.address());
  const Calls resting = server.calls_until("accept4 3 = EMFILE", 2);
  CHECK(count(resting, "epoll_ctl DEL 3 = 0") >= 2);
  CHECK(count(resting, "epoll_ctl ADD 3 IN = 0") >= 1);
  // Not oftener than it has rested.
  CHECK(count(resting, "epoll_wait -1") == count(resting, "accept4 3 = EMF"));
  client.close();
  CHECK(waiting.echo("hello") == "hello");
}

TEST_CASE("a change that is not taken ends that client alone") {
  RecordedServer server(serve);
  Client other(server.address());
  CHECK(other.echo("hello") == "hello");
  Client full(server.address());
  CHECK(full.echo("hello") == "hello");
  server.lie("epoll_ctl", ENOMEM, 1);
  std::thread sender([&] {
    try {
      full.send_until_full(64 << 20, 200ms);
    } catch (const std::exception&) {
      // The server has ended the connection while we were sending.
    }
  });
  server.wait_until_believed();
  sender.join();
  CHECK(other.echo("hello") == "hello");
  CHECK(count(server.calls(), "close 6 = 0") == 1);
}

TEST_CASE("its limit: unread input is announced again and again") {
  RecordedServer server(serve);
  Client client(server.address());
  CHECK(client.echo("hello") == "hello");
  server.settle();
  // The server believes that there is nothing to read, and does not read.
  constexpr int times = 1'000;
  server.lie("recv", EAGAIN, times);
  CHECK(client.echo("x") == "x");
  const Calls calls = server.calls();
  CHECK(count(calls, "epoll_wait -1 = 1") == times + 1);
  CHECK(count(calls, "recv 5 = EAGAIN") == times);
  CHECK(count(calls, "recv 5 = 1") == 1);
}
