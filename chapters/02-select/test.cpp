#include <fcntl.h>
#include <sys/mman.h>
#include <sys/select.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <doctest/doctest.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdint>
#include <new>
#include <string>
#include <utility>
#include <vector>

#include "chapters/server.hpp"
#include "common/error.hpp"
#include "common/fd.hpp"
#include "common/socket.hpp"
#include "common/testing/child_process.hpp"
#include "common/testing/client.hpp"
#include "common/testing/process.hpp"
#include "common/testing/running_server.hpp"

namespace {

using testing::Client;
using testing::RunningServer;

// What the server, a process of its own, asked select last. The sets are to be
// read while it sleeps.
struct Asked {
  std::atomic<std::uint64_t> calls{0};
  std::atomic<std::uint64_t> interrupted{0};
  std::atomic<int> nfds{0};
  fd_set read{};
  fd_set write{};
  std::atomic<bool> resting{false};  // a limit was given
  std::atomic<std::uint64_t> rests{0};
  std::atomic<std::int64_t> longest_rest_us{0};
  fd_set read_resting{};
};

Asked& in_shared_memory() {
  void* memory = ::mmap(nullptr, sizeof(Asked), PROT_READ | PROT_WRITE,
                        MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) net::throw_errno("mmap");
  return *new (memory) Asked;
}

Asked& asked = in_shared_memory();

// "3 5" for the bits 3 and 5.
std::string members(const fd_set& set) {
  std::string text;
  for (int fd = 0; fd < FD_SETSIZE; ++fd) {
    if (FD_ISSET(fd, &set))
      text += (text.empty() ? "" : " ") + std::to_string(fd);
  }
  return text;
}

// A RunningServer's listener is descriptor 3, so its clients begin here.
constexpr int first_client = 4;

}  // namespace

// Takes the place of the C library's for the server under test, writes down
// what it is asked and asks the kernel.
extern "C" int select(int nfds, fd_set* read, fd_set* write, fd_set* except,
                      timeval* limit) {
  asked.nfds = nfds;
  asked.read = *read;
  asked.write = *write;
  asked.resting = limit != nullptr;
  timespec time{};
  if (limit != nullptr) {
    asked.read_resting = *read;
    asked.longest_rest_us =
        std::max<std::int64_t>(asked.longest_rest_us, limit->tv_usec);
    ++asked.rests;
    time = {limit->tv_sec, limit->tv_usec * 1000};
  }
  ++asked.calls;
  const auto n =
      static_cast<int>(::syscall(SYS_pselect6, nfds, read, write, except,
                                 limit == nullptr ? nullptr : &time, nullptr));
  if (n < 0 && errno == EINTR) ++asked.interrupted;
  return n;
}

TEST_CASE("the program serves a second client while the first is silent") {
  testing::ChildProcess program({PROGRAM, "--port", "0"});
  const net::Address address = program.wait_until_listening();
  const Client silent(address);
  Client second(address);
  CHECK(second.echo("hello") == "hello");
}

TEST_CASE("an echo is one round of select") {
  RunningServer server(serve);
  Client client(server.address());
  CHECK(client.echo("warm") == "warm");
  testing::wait_until_settled(server.pid());
  const std::uint64_t before = asked.calls;
  for (int i = 0; i < 100; ++i) REQUIRE(client.echo("x") == "x");
  testing::wait_until_settled(server.pid());
  CHECK(asked.calls - before == 100);
}

TEST_CASE("a client is waited for in one direction at a time") {
  RunningServer server(serve);
  Client client(server.address());
  CHECK(client.echo("x") == "x");
  testing::wait_until_settled(server.pid());
  CHECK(members(asked.read) == "3 4");
  CHECK(members(asked.write).empty());

  constexpr std::size_t much = 64 * 1024 * 1024;
  const std::size_t sent =
      client.send_until_full(much, std::chrono::milliseconds(100));
  REQUIRE(sent < much);
  testing::wait_until_settled(server.pid());
  CHECK(members(asked.read) == "3");
  CHECK(members(asked.write) == "4");

  CHECK(client.receive(sent) == testing::pattern(much).substr(0, sent));
  testing::wait_until_settled(server.pid());
  CHECK(members(asked.read) == "3 4");
  CHECK(members(asked.write).empty());
}

TEST_CASE("nfds is the highest descriptor plus one, however many there are") {
  RunningServer server(serve);
  std::vector<Client> clients = testing::connect_clients(server.address(), 3);
  testing::echo_all(clients);
  testing::wait_until_settled(server.pid());
  CHECK(asked.nfds == 7);
  clients[0].close();
  testing::wait_until("the first client has been dropped", [&] {
    return testing::open_descriptors(server.pid()) == 6;
  });
  testing::wait_until_settled(server.pid());
  CHECK(members(asked.read) == "3 5 6");
  CHECK(asked.nfds == 7);
  clients[2].close();
  testing::wait_until("the last client has been dropped", [&] {
    return testing::open_descriptors(server.pid()) == 5;
  });
  testing::wait_until_settled(server.pid());
  CHECK(members(asked.read) == "3 5");
  CHECK(asked.nfds == 6);
}

TEST_CASE("a resting listener is not in the set, and its rest has an end") {
  RunningServer server(serve);
  server.limit_descriptors(first_client + 1);
  Client first(server.address());
  CHECK(first.echo("x") == "x");
  testing::wait_until("nobody waits, no rest", [] { return !asked.resting; });

  Client second(server.address());
  const std::uint64_t before = asked.rests;
  testing::wait_until("it has been tried again and again",
                      [&] { return asked.rests >= before + 4; });
  CHECK(members(asked.read_resting) == "4");
  CHECK(asked.longest_rest_us > 0);
  CHECK(asked.longest_rest_us <= 100'000);

  first.close();
  CHECK(second.echo("x") == "x");
  testing::wait_until("nobody waits, no rest", [] { return !asked.resting; });
  testing::wait_until_settled(server.pid());
  CHECK(members(asked.read) == "3 4");
}

TEST_CASE("a signal makes select fail, and the next round is as the last") {
  RunningServer server(serve);
  Client client(server.address());
  CHECK(client.echo("x") == "x");
  testing::wait_until_settled(server.pid());
  const std::uint64_t before = asked.interrupted;
  server.signal(SIGUSR1);
  testing::wait_until("select says EINTR",
                      [&] { return asked.interrupted > before; });
  testing::wait_until_settled(server.pid());
  CHECK(members(asked.read) == "3 4");
  CHECK(client.echo("y") == "y");
}

TEST_CASE("a listener whose number has no bit is refused") {
  testing::raise_descriptor_limit();
  const net::Fd listener = net::listen_on(net::resolve("127.0.0.1", 0));
  net::Fd high(net::check(::fcntl(listener.get(), F_DUPFD_CLOEXEC, FD_SETSIZE),
                          "fcntl F_DUPFD"));
  const int number = high.get();
  CHECK_THROWS_WITH(serve(std::move(high)),
                    "select: the listener is beyond FD_SETSIZE");
  CHECK(::fcntl(number, F_GETFD) == -1);
}

TEST_CASE("the limit is on the number of a descriptor, not on how many") {
  REQUIRE(testing::raise_descriptor_limit() > FD_SETSIZE);
  RunningServer server([](net::Fd listener) {
    std::vector<net::Fd> taken;
    do {
      taken.emplace_back(net::check(::dup(listener.get()), "dup"));
    } while (taken.back().get() < FD_SETSIZE - 2);
    serve(std::move(listener));
  });
  Client only(server.address());
  CHECK(only.echo("x") == "x");
  testing::wait_until_settled(server.pid());
  CHECK(asked.nfds == FD_SETSIZE);
  CHECK(Client(server.address()).ended());
  CHECK(only.echo("y") == "y");
}

TEST_CASE("the client whose descriptor would be 1,024 is turned away at once") {
  REQUIRE_MESSAGE(testing::raise_descriptor_limit() >= FD_SETSIZE + 100,
                  "the hard limit of descriptors is too low to show this");
  constexpr std::size_t room = FD_SETSIZE - first_client;
  RunningServer server(serve);
  std::vector<Client> clients =
      testing::connect_clients(server.address(), room);
  testing::echo_all(clients);

  Client silent(server.address());
  CHECK(silent.ended());
  Client talker(server.address());
  talker.send("let me in");
  CHECK(talker.ended());
  testing::echo_all(clients);

  clients.pop_back();
  testing::wait_until("a number is free", [&] {
    return testing::open_descriptors(server.pid()) == FD_SETSIZE - 1;
  });
  Client late(server.address());
  CHECK(late.echo("x") == "x");
}
