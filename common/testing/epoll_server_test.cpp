// What the servers of the chapters that use epoll have in common, seen from
// inside.

#include <doctest/doctest.h>

#include <cerrno>
#include <chrono>
#include <cstdint>
#include <thread>

#include "chapters/server.hpp"
#include "common/testing/client.hpp"
#include "common/testing/process.hpp"
#include "common/testing/recorded_server.hpp"
#include "common/testing/shrink.hpp"

using namespace std::chrono_literals;
using testing::Client;
using testing::count;
using testing::RecordedServer;

TEST_CASE("a list that takes no more turns one client away and no other") {
  RecordedServer server(serve);
  Client client(server.address());
  CHECK(client.echo("hello") == "hello");
  server.lie("epoll_ctl", ENOSPC, 1);
  Client refused(server.address());
  CHECK(refused.ended());
  CHECK(client.echo("hello") == "hello");
  Client next(server.address());
  CHECK(next.echo("hello") == "hello");
}

TEST_CASE("EINTR in recv and send loses nothing") {
  RecordedServer server(serve);
  Client client(server.address());
  CHECK(client.echo("warm") == "warm");
  for (const char* call : {"recv", "send"}) {
    for (const int times : {1, 3, 4, 5, 20}) {
      server.lie(call, EINTR, times);
      CHECK(client.echo("hello") == "hello");
    }
  }
}

TEST_CASE("a failed accept loses nobody") {
  RecordedServer server(serve);
  server.settle();
  for (const int error : {EINTR, ECONNABORTED}) {
    server.lie("accept4", error, 1);
    CHECK(Client(server.address()).echo("hello") == "hello");
    const auto calls = server.calls();
    CHECK(count(calls, "epoll_ctl DEL 3") == 0);  // it was no reason to rest
  }
}

TEST_CASE("a wait that fails for want of memory is a rest, not the end") {
  RecordedServer server(serve);
  Client client(server.address());
  CHECK(client.echo("hello") == "hello");
  const auto start = std::chrono::steady_clock::now();
  server.lie("epoll_wait", ENOMEM, 2);
  CHECK(client.echo("hello") == "hello");  // the wait that was under way
  server.wait_until_believed();
  CHECK(std::chrono::steady_clock::now() - start >= 100ms);  // the first rest
  CHECK(client.echo("hello") == "hello");
}

TEST_CASE("1,000 idle clients in 5 seconds: not one wakeup") {
  RecordedServer server(serve);
  auto clients =
      testing::connect_clients(server.address(), testing::shrink(1'000));
  testing::echo_all(clients);
  server.settle();
  const std::uint64_t before =
      testing::voluntary_switches(server.process().pid());
  std::this_thread::sleep_for(5s);
  CHECK(testing::voluntary_switches(server.process().pid()) == before);
  CHECK(server.calls().empty());
}
