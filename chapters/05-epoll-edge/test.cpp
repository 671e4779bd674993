// The server of chapter 05 from inside: its system calls are seen.

#include <doctest/doctest.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstddef>
#include <cstdio>
#include <fstream>
#include <string>
#include <string_view>
#include <vector>

#include "chapters/server.hpp"
#include "common/error.hpp"
#include "common/testing/client.hpp"
#include "common/testing/process.hpp"
#include "common/testing/recorded_server.hpp"

// Copies of the server with one statement changed (CMakeLists.txt): it forgets
// who is still ready, or lets an event of any generation through.
void serve_and_forget(net::Fd listener);
void serve_any_generation(net::Fd listener);

namespace {

using namespace std::chrono_literals;
using testing::Client;
using testing::count;
using testing::most_a_round;
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

void send_urgent(const Client& client) {
  net::check(::send(client.fd(), "!", 1, MSG_OOB | MSG_NOSIGNAL), "send");
}

}  // namespace

// A RecordedServer's listener is 3 and its list 4.

TEST_CASE("a client is told to the kernel once, for everything") {
  RecordedServer server(serve);
  Client client(server.address());
  for (int i = 0; i < 3; ++i) CHECK(client.echo("hello") == "hello");
  const std::string large = testing::pattern(8 << 20);
  const bool unchanged = client.exchange(large) == large;
  CHECK(unchanged);
  client.finish();
  CHECK(client.ended());
  const Calls calls = server.calls();
  CHECK(count(calls, "epoll_ctl") == 2);
  CHECK(count(calls, "epoll_ctl ADD 3 IN ET = 0") == 1);
  CHECK(count(calls, "epoll_ctl ADD 5 IN PRI OUT RDHUP ET = 0") == 1);
}

TEST_CASE("an echo is one wait, one recv and one send") {
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

TEST_CASE("room that nobody waits for is reported and costs no call") {
  RecordedServer server(serve);
  const Client silent(server.address());
  testing::wait_until("it has been accepted", [&] {
    return testing::open_descriptors(server.process().pid()) == 6;
  });
  const Calls calls = server.calls();
  CHECK(calls.back() == "epoll_wait -1 = 1");
  CHECK(count(calls, "recv") == 0);
}

TEST_CASE("bytes and the end in one burst: behind the short read is the end") {
  RecordedServer server(serve);
  Client client(server.address());
  CHECK(client.echo("warm") == "warm");
  server.settle();
  server.stop();
  client.send("last words");
  client.finish();
  server.go_on();
  CHECK(client.receive_all() == "last words");
  const Calls calls = server.calls();
  CHECK(count(calls, "epoll_wait -1 = 1") == 1);
  CHECK(count(calls, "recv 5 = 10") == 1);
  CHECK(count(calls, "recv 5 = 0") == 1);
  CHECK(count(calls, "recv") == 2);
}

TEST_CASE("an end that comes later is an event of its own") {
  RecordedServer server(serve);
  Client client(server.address());
  CHECK(client.echo("hello") == "hello");
  server.settle();
  client.finish();
  CHECK(client.ended());
  CHECK(server.calls() ==
        Calls{"epoll_wait -1 = 1", "recv 5 = 0", "close 5 = 0"});
}

TEST_CASE("bytes behind an urgent one come back without another edge") {
  RecordedServer server(serve);
  Client client(server.address());
  CHECK(client.echo("warm") == "warm");
  server.stop();
  client.send("before");
  send_urgent(client);
  client.send("behind");
  server.go_on();
  CHECK(client.receive(12) == "beforebehind");
}

TEST_CASE("a turn is at most four reads, and the next needs no edge") {
  RecordedServer server(serve);
  Client flooding(server.address());
  const std::string bytes = testing::pattern(16 << 20);
  const bool unchanged = flooding.exchange(bytes) == bytes;
  CHECK(unchanged);
  const Calls calls = server.calls();
  // Two turns are in one round only if the first left nothing to read, or no
  // room to send; so there are at most seven full reads, three and four.
  CHECK(most_a_round(calls, "recv 5 = 65536") <= 7);
  // Whoever is ready after its turn must not be kept waiting for an event.
  CHECK(count(calls, "recv 5 = 65536") >= 5);
  CHECK(count(calls, "epoll_wait 0") >= 1);
}

TEST_CASE("the others have their turns between those of a flooding client") {
  RecordedServer server(serve);
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
        Calls{"epoll_wait -1 = 1", "recv 5 = EINTR", "recv 5 = EINTR",
              "recv 5 = EINTR", "recv 5 = EINTR", "epoll_wait 0 = 1",
              "recv 5 = EINTR", "recv 5 = EINTR", "recv 5 = EINTR",
              "recv 5 = EINTR", "recv 6 = 1", "send 6 = 1", "epoll_wait 0 = 0",
              "recv 5 = 1", "send 5 = 1"});
}

TEST_CASE("a client that is still ready stands on the list once") {
  RecordedServer server(serve);
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
  CHECK(most_a_round(server.calls(), "recv 5") <= 4);
}

TEST_CASE("clients left in the queue need no edge") {
  RecordedServer server(serve);
  server.stop();
  auto clients = testing::connect_clients(server.address(), 200);
  server.go_on();
  testing::echo_all(clients);
  CHECK(count(server.calls(), "epoll_ctl MOD 3 IN ET = 0") >= 3);
}

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

TEST_CASE("room alone brings back what had to wait") {
  RecordedServer server(serve);
  Client client(server.address());
  const std::string part = testing::pattern(32'768);
  std::size_t sent = 0;
  std::size_t received = 0;
  std::size_t returned = 0;
  // Until the server has read everything and has not got rid of all of it.
  for (; received == returned && sent < 64 << 20; sent += part.size()) {
    client.send(part);
    const Calls calls = server.calls();
    received += moved(calls, "recv 5");
    returned += moved(calls, "send 5");
  }
  REQUIRE(received == sent);
  REQUIRE(returned < sent);
  client.receive(sent);
  CHECK(client.echo("hello") == "hello");
}

TEST_CASE("who is still ready is not forgotten when a wait fails") {
  RecordedServer server(serve);
  Client client(server.address());
  CHECK(client.echo("warm") == "warm");
  server.settle();
  server.lie("recv", EINTR, 4);
  server.stop_before_wait();
  client.send("x");
  server.wait_until_stopped();
  server.lie("epoll_wait", ENOMEM, 1);
  server.go_on();
  CHECK(client.receive(1) == "x");
}

TEST_CASE("behind urgent data EAGAIN is not believed") {
  RecordedServer server(serve);
  Client client(server.address());
  CHECK(client.echo("warm") == "warm");
  send_urgent(client);
  server.settle();
  server.lie("recv", EAGAIN, 1);
  client.send("x");
  CHECK(client.receive(1) == "x");
  server.wait_until_believed();
  CHECK(server.calls().back() == "epoll_wait -1 = 1");  // and it sleeps
}

TEST_CASE("out of descriptors the listener is tried again without an edge") {
  RecordedServer server(serve);
  Client client(server.address());
  CHECK(client.echo("hello") == "hello");
  server.settle();
  server.process().limit_descriptors(6);
  Client waiting(server.address());
  const Calls resting = server.calls_until("accept4 3 = EMFILE", 2);
  CHECK(count(resting, "epoll_ctl ADD 3 IN ET = 0") >= 1);
  // Not oftener than it has rested.
  CHECK(count(resting, "epoll_wait -1") == count(resting, "accept4 3 = EMF"));
  client.close();
  CHECK(waiting.echo("hello") == "hello");
}

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

TEST_CASE("an EAGAIN that is not true is believed until the next edge") {
  RecordedServer server(serve);
  Client client(server.address());
  CHECK(client.echo("warm") == "warm");
  server.settle();
  server.lie("recv", EAGAIN, 1);
  client.send("x");
  server.wait_until_believed();
  CHECK(server.calls() == Calls{"epoll_wait -1 = 1", "recv 5 = EAGAIN"});
  client.send("y");
  CHECK(client.receive(2) == "xy");
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
