// What the servers that watch their clients edge-triggered have in common, seen
// from inside.

#include <arpa/inet.h>
#include <doctest/doctest.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

#include <array>
#include <cerrno>
#include <csignal>
#include <cstdint>
#include <cstring>
#include <system_error>
#include <vector>

#include "common/error.hpp"
#include "common/socket.hpp"
#include "common/testing/client.hpp"
#include "common/testing/edge_server.hpp"

namespace {

using testing::Client;
using testing::count;
using testing::EdgeServer;
using Calls = std::vector<std::string>;

void send_urgent(const Client& client) {
  net::check(::send(client.fd(), "!", 1, MSG_OOB | MSG_NOSIGNAL), "send");
}

}  // namespace

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
