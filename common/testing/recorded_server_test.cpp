#include <doctest/doctest.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <string>
#include <utility>
#include <vector>

#include "common/error.hpp"
#include "common/testing/client.hpp"
#include "common/testing/process.hpp"
#include "common/testing/recorded_server.hpp"
#include "common/testing/whereabouts.hpp"

namespace {

using testing::Client;
using testing::RecordedServer;
using Calls = std::vector<std::string>;

// Serves one byte of one client at a time, and sleeps in epoll_wait for each.
void serve(net::Fd listener) {
  const net::Fd epoll(net::check(::epoll_create1(EPOLL_CLOEXEC), "epoll"));
  epoll_event event{EPOLLIN | EPOLLRDHUP, {.u64 = 0}};
  net::check(::epoll_ctl(epoll.get(), EPOLL_CTL_ADD, listener.get(), &event),
             "epoll_ctl");
  while (net::is_listening(listener)) {
    if (::epoll_wait(epoll.get(), &event, 1, 60'000) != 1) continue;
    const net::Fd client(
        ::accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC));
    char byte = 0;
    if (::recv(client.get(), &byte, 1, 0) == 1) {
      ::send(client.get(), &byte, 1, MSG_NOSIGNAL);
    }
  }
}

}  // namespace

TEST_CASE("the calls of a server are written down, those of the test are not") {
  RecordedServer server(serve);
  Client client(server.address());
  CHECK(client.echo("x") == "x");
  CHECK(client.ended());
  CHECK(server.calls() == Calls{"epoll_ctl ADD 3 IN RDHUP = 0",
                                "epoll_wait 60000 = 1", "accept4 3 = 5",
                                "recv 5 = 1", "send 5 = 1", "close 5 = 0"});
  CHECK(server.calls().empty());
}

#ifdef SYS_epoll_wait
TEST_CASE("a recorded server sleeps in the call that it has made") {
  RecordedServer server(serve);
  server.settle();
  const std::string place = testing::whereabouts(server.process().pid());
  CHECK(place.find(" asleep in epoll_wait on ") != std::string::npos);
}
#endif

TEST_CASE("a call that is lied about fails and is not made") {
  RecordedServer server(serve);
  server.settle();
  server.lie("recv", ECONNRESET, 1);
  Client client(server.address());
  client.send("x");
  CHECK(client.ended());
  server.wait_until_believed();
  CHECK(server.calls() == Calls{"epoll_wait 60000 = 1", "accept4 3 = 5",
                                "recv 5 = ECONNRESET", "close 5 = 0"});
  CHECK(Client(server.address()).echo("x") == "x");
}

TEST_CASE("a server can be stopped before its next wait") {
  RecordedServer server(serve);
  server.settle();
  server.stop_before_wait();
  CHECK(Client(server.address()).echo("x") == "x");
  server.wait_until_stopped();
  Client waiting(server.address());
  waiting.send("y");
  CHECK(testing::state(server.process().pid()) == 'T');
  server.go_on();
  CHECK(waiting.receive(1) == "y");
}

TEST_CASE("count counts calls by their beginning") {
  const Calls calls{"recv 5 = 1", "recv 55 = 1", "recv 5 = EAGAIN"};
  CHECK(testing::count(calls, "recv 5 =") == 2);
  CHECK(testing::count(calls, "recv") == 3);
  CHECK(testing::count(calls, "send") == 0);
}

TEST_CASE("a round of calls ends with the next wait") {
  const Calls calls{"recv 5 = 1", "epoll_wait -1 = 1", "recv 5 = 1",
                    "recv 6 = 1", "recv 5 = 1",        "epoll_wait -1 = 1"};
  CHECK(testing::most_a_round(calls, "recv 5") == 2);
  CHECK(testing::most_a_round(calls, "recv") == 3);
}

TEST_CASE("calls_until collects calls until enough of them are of a kind") {
  RecordedServer server(serve);
  server.settle();
  for (int i = 0; i < 2; ++i) {
    CHECK(Client(server.address()).echo("x") == "x");
  }
  const Calls calls = server.calls_until("close 5", 2);
  CHECK(testing::count(calls, "accept4 3 = 5") == 2);
  CHECK(calls.back() == "close 5 = 0");
}
