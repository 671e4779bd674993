// What the servers have in common that look after their listener themselves:
// it rests off the kernel's list, and has its turn in a round.

#include <doctest/doctest.h>

#include <cerrno>

#include "chapters/server.hpp"
#include "common/testing/client.hpp"
#include "common/testing/recorded_server.hpp"

using testing::Client;
using testing::most_a_round;
using testing::RecordedServer;

TEST_CASE("a listener that is not taken is put on the list later") {
  RecordedServer server(serve);
  Client client(server.address());
  CHECK(client.echo("hello") == "hello");
  server.settle();
  server.process().limit_descriptors(6);
  Client waiting(server.address());
  server.calls_until("epoll_ctl DEL 3", 1);  // it rests
  server.lie("epoll_ctl", ENOMEM, 3);
  server.wait_until_believed();
  server.process().limit_descriptors(100);
  CHECK(waiting.echo("hello") == "hello");
}

TEST_CASE("at most 64 clients are accepted before the others have their turn") {
  RecordedServer server(serve);
  server.stop();
  auto clients = testing::connect_clients(server.address(), 200);
  server.go_on();
  testing::echo_all(clients);
  CHECK(most_a_round(server.calls(), "accept4") == 64);
}
