// What the servers that watch their clients edge-triggered have in common, seen
// from inside.

#include <arpa/inet.h>
#include <doctest/doctest.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <csignal>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>
#include <system_error>
#include <vector>

#include "chapters/server.hpp"
#include "common/error.hpp"
#include "common/socket.hpp"
#include "common/testing/client.hpp"
#include "common/testing/process.hpp"
#include "common/testing/recorded_server.hpp"

namespace {

using testing::Client;
using testing::count;
using testing::most_a_round;
using testing::RecordedServer;
using Calls = std::vector<std::string>;

// In its calls its first client is A and its second B: which numbers they have
// depends on what else a server has open. Its listener is 3.
class EdgeServer : public RecordedServer {
 public:
  EdgeServer() : RecordedServer(serve) {
    testing::wait_until_settled(process().pid());
    before_clients_ = descriptors();
  }

  std::size_t descriptors() const {
    return testing::open_descriptors(process().pid());
  }
  std::size_t before_clients() const { return before_clients_; }

  Calls calls() { return named(RecordedServer::calls()); }
  Calls calls_until(std::string_view beginning, std::size_t times) {
    Calls all;
    testing::wait_until(std::string(beginning), [&] {
      const Calls more = calls();
      all.insert(all.end(), more.begin(), more.end());
      return count(all, beginning) >= times;
    });
    return all;
  }

 private:
  // A client gets the lowest number that is free.
  Calls named(Calls calls) const {
    for (std::string& call : calls) {
      if (call.starts_with("epoll_wait")) continue;  // that is a timeout
      const std::size_t at = call.find_first_of("0123456789", call.find(' '));
      const std::size_t number = std::stoul(call.substr(at));
      const std::size_t size = std::to_string(number).size();
      if (number == before_clients_) call.replace(at, size, "A");
      if (number == before_clients_ + 1) call.replace(at, size, "B");
    }
    return calls;
  }

  std::size_t before_clients_ = 0;
};

void send_urgent(const Client& client) {
  net::check(::send(client.fd(), "!", 1, MSG_OOB | MSG_NOSIGNAL), "send");
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

TEST_CASE("an echo is one wait, one recv and one send") {
  EdgeServer server;
  Client client(server.address());
  CHECK(client.echo("warm") == "warm");
  server.settle();
  for (int i = 0; i < 3; ++i) {
    CHECK(client.echo("hello") == "hello");
    CHECK(server.calls() ==
          Calls{"epoll_wait -1 = 1", "recv A = 5", "send A = 5"});
  }
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

TEST_CASE("bytes and the end in one burst: behind the short read is the end") {
  EdgeServer server;
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
  CHECK(count(calls, "recv A = 10") == 1);
  CHECK(count(calls, "recv A = 0") == 1);
  CHECK(count(calls, "recv") == 2);
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

TEST_CASE("bytes behind an urgent one come back without another edge") {
  EdgeServer server;
  Client client(server.address());
  CHECK(client.echo("warm") == "warm");
  server.stop();
  client.send("before");
  send_urgent(client);
  client.send("behind");
  server.go_on();
  CHECK(client.receive(12) == "beforebehind");
}

namespace {

// The number of the next byte that is sent or received (tcp(7) does not say it:
// Linux, net/ipv4/tcp.c, TCP_QUEUE_SEQ). Needs CAP_NET_ADMIN.
std::uint32_t next_byte(const Client& client, int queue) {
  const auto set = [&](int option, int value) {
    net::check(
        ::setsockopt(client.fd(), IPPROTO_TCP, option, &value, sizeof value),
        "setsockopt TCP_REPAIR");
  };
  set(TCP_REPAIR, 1);
  set(TCP_REPAIR_QUEUE, queue);
  std::uint32_t number = 0;
  socklen_t size = sizeof number;
  net::check(
      ::getsockopt(client.fd(), IPPROTO_TCP, TCP_QUEUE_SEQ, &number, &size),
      "getsockopt TCP_QUEUE_SEQ");
  set(TCP_REPAIR, 0);
  return number;
}

// What is sent of it begins at the head; what is before is summed up, too
// (RFC 9293, section 3.1).
struct Segment {
  in_addr from;
  in_addr to;
  std::uint16_t protocol;
  std::uint16_t length;
  tcphdr head;
  std::uint16_t byte;
};
static_assert(offsetof(Segment, byte) == 32);  // 17 words in all

std::uint16_t sum_of(const Segment& segment) {
  std::array<std::uint16_t, 17> words;
  std::memcpy(words.data(), &segment, sizeof words);
  std::uint32_t sum = 0;
  for (const std::uint16_t word : words) sum += word;
  sum = (sum & 0xffff) + (sum >> 16);
  sum += sum >> 16;
  return static_cast<std::uint16_t>(~sum);
}

// Sends the server an urgent byte in the client's name, as if 1,000 bytes
// before it had been lost. Throws std::system_error where that is not allowed.
void forge_urgent(const Client& client, const net::Address& server) {
  const net::Fd raw(net::check(
      ::socket(AF_INET, SOCK_RAW | SOCK_CLOEXEC, IPPROTO_TCP), "socket"));
  const net::Address from = client.local();
  const auto& source = reinterpret_cast<const sockaddr_in&>(from.storage);
  const auto& target = reinterpret_cast<const sockaddr_in&>(server.storage);
  Segment segment{};
  segment.from = source.sin_addr;
  segment.to = target.sin_addr;
  segment.protocol = htons(IPPROTO_TCP);
  segment.length = htons(sizeof segment.head + 1);
  tcphdr& head = segment.head;
  head.source = source.sin_port;
  head.dest = target.sin_port;
  head.seq = htonl(next_byte(client, TCP_SEND_QUEUE) + 1'000);
  head.ack_seq = htonl(next_byte(client, TCP_RECV_QUEUE));
  head.doff = sizeof head / 4;
  head.ack = 1;
  head.urg = 1;
  head.urg_ptr = htons(1);
  head.window = htons(512);
  segment.byte = htons('!' << 8);
  head.check = sum_of(segment);
  net::check(::sendto(raw.get(), &head, sizeof head + 1, 0, server.get(),
                      server.length),
             "sendto");
}

}  // namespace

TEST_CASE("an urgent byte with others before it missing makes nothing spin") {
  EdgeServer server;
  Client client(server.address());
  CHECK(client.echo("hello") == "hello");
  server.settle();
  try {
    forge_urgent(client, server.address());
  } catch (const std::system_error& error) {
    MESSAGE("left out, only root can forge a segment: " << error.what());
    return;
  }
  const Calls calls = server.calls_until("epoll_ctl MOD A", 1);
  CHECK(count(calls, "epoll_wait") <= 2);  // the second reports room
  CHECK(Client(server.address()).echo("hello") == "hello");
}

// PRI stays true while bytes before the urgent one are missing, whatever is
// read: each MOD that asks for it would report it.
TEST_CASE("an urgent byte is asked for when a client comes, and never again") {
  EdgeServer server;
  Client client(server.address());
  CHECK(client.echo("warm") == "warm");
  send_urgent(client);
  const Calls calls = server.calls_until("epoll_ctl MOD A", 1);
  CHECK(count(calls, "epoll_ctl ADD A IN PRI OUT RDHUP ET = 0") == 1);
  CHECK(count(calls, "epoll_ctl MOD A IN OUT RDHUP ET = 0") ==
        count(calls, "epoll_ctl MOD A"));
  CHECK(client.echo("hello") == "hello");
  CHECK(count(server.calls(), "epoll_ctl MOD A IN OUT RDHUP ET = 0") >= 1);
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

TEST_CASE("who is still ready is not forgotten when a wait fails") {
  EdgeServer server;
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
  EdgeServer server;
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

TEST_CASE("an EAGAIN that is not true is believed until the next edge") {
  EdgeServer server;
  Client client(server.address());
  CHECK(client.echo("warm") == "warm");
  server.settle();
  server.lie("recv", EAGAIN, 1);
  client.send("x");
  server.wait_until_believed();
  CHECK(server.calls() == Calls{"epoll_wait -1 = 1", "recv A = EAGAIN"});
  client.send("y");
  CHECK(client.receive(2) == "xy");
}
