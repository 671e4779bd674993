// Chapter 08: the server made of goroutines, and the example it began with.

#include <doctest/doctest.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <memory>
#include <new>
#include <string>
#include <utility>
#include <vector>

#include "chapters/server.hpp"
#include "common/error.hpp"
#include "common/socket.hpp"
#include "common/testing/child_process.hpp"
#include "common/testing/client.hpp"
#include "common/testing/edge_server.hpp"
#include "common/testing/process.hpp"
#include "common/testing/running_server.hpp"
#include "common/testing/sanitizer.hpp"
#include "common/testing/shrink.hpp"
#include "rt/go.hpp"
#include "rt/net.hpp"

namespace {

using namespace std::chrono_literals;
using testing::ChildProcess;
using testing::Client;
using testing::EdgeServer;
using testing::RunningServer;
using Calls = std::vector<std::string>;

std::size_t lines(const std::string& text) {
  return static_cast<std::size_t>(std::count(text.begin(), text.end(), '\n'));
}

}  // namespace

TEST_CASE("a client that has come is tried at once, and then waited for") {
  EdgeServer server;
  server.settle();
  Client client(server.address());
  CHECK(client.echo("hello") == "hello");
  const Calls calls = server.calls_until("epoll_wait -1", 1);
  CHECK(testing::count(calls, "accept4") == 2);  // the second says EAGAIN
  CHECK(testing::count(calls, "epoll_ctl ADD A IN PRI OUT RDHUP ET = 0") == 1);
  CHECK(testing::count(calls, "epoll_ctl") == 1);
}

TEST_CASE("a number is taken off the list before it is given back") {
  EdgeServer server;
  Client client(server.address());
  CHECK(client.echo("hello") == "hello");
  server.settle();
  client.close();
  CHECK(server.calls_until("close", 1) ==
        Calls{"epoll_wait -1 = 1", "recv A = 0", "epoll_ctl DEL A = 0",
              "close A = 0"});
}

TEST_CASE("an idle client costs two pages of a stack and little more") {
  const RunningServer server(serve);
  auto clients = testing::connect_clients(server.address(), 100);
  testing::echo_all(clients);
  testing::wait_until_settled(server.pid());
  const auto before = testing::resident_bytes(server.pid());
  const std::size_t more = testing::shrink(testing::sanitized ? 500 : 4'900);
  auto others = testing::connect_clients(server.address(), more);
  testing::echo_all(others);
  testing::wait_until_settled(server.pid());
  const auto after = testing::resident_bytes(server.pid());
  const auto each = (after - before) / more;
  MESSAGE(each << " bytes an idle client");
  if (testing::sanitized) {
    MESSAGE("memory is the sanitizer's here: not checked");
    return;
  }
  CHECK(each < 8'704);  // 8.5 KiB
}

TEST_CASE("where there is no memory for a stack one client is turned away") {
  if (testing::sanitized) {
    MESSAGE("a sanitizer needs more addresses than can be left: not checked");
    return;
  }
  const RunningServer server(serve);
  Client client(server.address());
  CHECK(client.echo("hello") == "hello");
  const rlimit none{1 << 20, RLIM_INFINITY};  // less than it has already
  net::check(::prlimit(server.pid(), RLIMIT_AS, &none, nullptr), "prlimit");
  Client refused(server.address());
  CHECK(refused.ended());
  CHECK(client.echo("hello") == "hello");
  const rlimit any{RLIM_INFINITY, RLIM_INFINITY};
  net::check(::prlimit(server.pid(), RLIMIT_AS, &any, nullptr), "prlimit");
  Client next(server.address());
  CHECK(next.echo("hello") == "hello");
}

TEST_CASE("the program keeps 1,100 clients, and SIGQUIT lists them all") {
  ChildProcess program({PROGRAM, "--port", "0"});
  const net::Address address = program.wait_until_listening();
  auto clients = testing::connect_clients(address, testing::shrink(1'100));
  testing::echo_all(clients);
  testing::wait_until_settled(program.pid());
  program.signal(SIGQUIT);
  program.wait_until_complains("goroutine " +
                               std::to_string(clients.size() + 1) + " [");
  testing::wait_until_settled(program.pid());
  testing::echo_all(clients);
  program.signal(SIGTERM);
  CHECK(program.wait() == 128 + SIGTERM);
  CHECK(program.output() == "listening on " + address.text() + '\n');
  CHECK(lines(program.errors()) == clients.size() + 1);
  CHECK(program.errors().starts_with("goroutine 1 [accept "));
  CHECK(program.errors().find("created at server.cpp:") != std::string::npos);
}

TEST_CASE("the example prints what comes, and ends with each client") {
  ChildProcess program({EXAMPLE, "--port", "0"});
  const net::Address address = program.wait_until_listening();
  Client first(address);
  Client second(address);
  first.send("hello");
  testing::wait_until_settled(program.pid());
  second.send("world");
  testing::wait_until_settled(program.pid());
  first.close();
  second.reset();
  testing::wait_until_settled(program.pid());
  const std::size_t open = testing::open_descriptors(program.pid());
  const auto used = testing::cpu_time(program.pid());
  Client third(address);
  third.send("again");
  testing::wait_until_settled(program.pid());
  CHECK(testing::open_descriptors(program.pid()) == open + 1);
  CHECK(testing::cpu_time(program.pid()) - used < 1s);  // it does not spin
  program.signal(SIGTERM);
  CHECK(program.wait() == 128 + SIGTERM);
  CHECK(program.output() ==
        "listening on " + address.text() +
            "\nReceived: hello\nReceived: world\nReceived: again\n");
  CHECK(program.errors() == "");
}

TEST_CASE("the example says why it cannot listen, and what it wants") {
  const net::Fd listener = net::listen_on(net::resolve("127.0.0.1", 0));
  const net::Address taken = net::local_address(listener);
  const std::string port = taken.text().substr(taken.text().rfind(':') + 1);
  ChildProcess program({EXAMPLE, "--port", port});
  CHECK(program.wait() == 1);
  CHECK(program.errors() ==
        "net_example: listen " + taken.text() + ": Address already in use\n");
  ChildProcess wrong({EXAMPLE, "now"});
  CHECK(wrong.wait() == 2);
  CHECK(wrong.errors().starts_with("net_example: unexpected argument 'now'"));
}

namespace {

// Shared by the test and the server in its child.
struct Shared {
  std::atomic<bool> go_on = false;
};

// Its first client makes it compute until the test says so; all others get an
// echo.
void serve_a_hog(net::Fd socket, Shared& shared) {
  auto [listener, error] = rt::Listener::adopt(std::move(socket));
  if (error) throw std::system_error(error, "epoll_ctl");
  auto [hog, failure] = listener.accept();
  if (failure) throw std::system_error(failure, "accept4");
  rt::go(
      [&shared](const rt::Conn& conn) {
        std::array<char, 1> byte{};
        if (conn.read(byte).error) return;
        while (!shared.go_on) {
        }
      },
      std::move(hog));
  for (;;) {
    auto [client, end] = listener.accept();
    if (end) return;
    rt::go(
        [](const rt::Conn& conn) {
          std::array<char, 64> buffer{};
          for (;;) {
            const auto [n, over] = conn.read(buffer);
            if (over) return;
            conn.write(std::span(buffer).first(n));
          }
        },
        std::move(client));
  }
}

}  // namespace

TEST_CASE("its limit: a goroutine that computes stops all others") {
  void* memory = ::mmap(nullptr, sizeof(Shared), PROT_READ | PROT_WRITE,
                        MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  REQUIRE(memory != MAP_FAILED);
  Shared& shared = *new (memory) Shared;
  const RunningServer server([&](net::Fd listener) {
    rt::run([&] { serve_a_hog(std::move(listener), shared); });
  });
  Client hog(server.address());
  Client other(server.address());
  CHECK(other.echo("hello") == "hello");
  hog.send("x");
  const auto used = testing::cpu_time(server.pid());
  testing::wait_until("it computes", [&] {
    return testing::cpu_time(server.pid()) - used > 50ms;
  });
  other.send("hello");
  const auto later = testing::cpu_time(server.pid());
  testing::wait_until("it computes on", [&] {
    return testing::cpu_time(server.pid()) - later > 100ms;
  });
  char byte = 0;
  CHECK(::recv(other.fd(), &byte, 1, MSG_DONTWAIT | MSG_PEEK) == -1);
  shared.go_on = true;
  CHECK(other.receive(5) == "hello");
  ::munmap(memory, sizeof(Shared));
}
