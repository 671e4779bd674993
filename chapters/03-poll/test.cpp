// The server of chapter 03 from inside: every list it hands to poll is seen.

#include <doctest/doctest.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <csignal>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <ctime>
#include <exception>
#include <memory>
#include <new>
#include <string>
#include <utility>
#include <vector>

#include "chapters/server.hpp"
#include "common/error.hpp"
#include "common/testing/child_process.hpp"
#include "common/testing/client.hpp"
#include "common/testing/process.hpp"
#include "common/testing/running_server.hpp"
#include "common/testing/shrink.hpp"

namespace {

using namespace std::chrono_literals;
using testing::Client;

// What the server's calls of poll have been given. It lies in memory that the
// test shares with the forked server, which writes it before every call.
struct Calls {
  std::atomic<std::uint64_t> count;    // calls begun
  std::atomic<std::uint64_t> handed;   // entries in all of them
  std::atomic<std::uint64_t> scanned;  // entries up to the last ready one
  // The call begun last.
  std::atomic<std::size_t> entries;
  std::atomic<int> timeout;
  std::atomic<int> first_fd;
  std::atomic<short> last_events;
  std::atomic<int> rest;  // the timeout given with the listener left out
  // Wishes of the test. The last descriptor is closed behind the server's back.
  std::atomic<bool> close_the_last;
  std::atomic<bool> may_throw;
  // What it has thrown, once it has.
  std::atomic<bool> ended;
  std::array<char, 128> reason;
};

// Set in the server's process only: the clients of the test poll as well.
Calls* observed = nullptr;

void note(const pollfd* entries, nfds_t n, int timeout) {
  observed->entries = n;
  observed->timeout = timeout;
  if (entries[0].fd < 0) observed->rest = timeout;
  observed->first_fd = entries[0].fd;
  observed->last_events = entries[n - 1].events;
  observed->handed += n;
  ++observed->count;
  if (observed->close_the_last) ::syscall(SYS_close, entries[n - 1].fd);
}

void note_result(const pollfd* entries, nfds_t n) {
  while (n > 0 && entries[n - 1].revents == 0) --n;
  observed->scanned += n;
}

}  // namespace

// Takes the place of libc's poll in this program, the server's calls included.
extern "C" int poll(pollfd* entries, nfds_t n, int timeout) {
  if (observed != nullptr) note(entries, n, timeout);
  const timespec limit{timeout / 1000, timeout % 1000 * 1'000'000L};
  const auto ready = static_cast<int>(::syscall(
      SYS_ppoll, entries, n, timeout < 0 ? nullptr : &limit, nullptr, 0));
  if (observed != nullptr && ready > 0) note_result(entries, n);
  return ready;
}

namespace {

class ObservedServer {
 public:
  const net::Address& address() const { return server_.address(); }
  const testing::RunningServer& process() const { return server_; }
  Calls& calls() const { return *calls_; }

  // Waits until the server sleeps in poll.
  void settle() const { testing::wait_until_settled(server_.pid()); }

  void wait_for_entries(std::size_t n) const {
    testing::wait_until("the list has " + std::to_string(n) + " entries",
                        [&] { return calls_->entries == n; });
  }

  // Holds the server so that all that happens meanwhile is one round for it.
  void stop() const {
    settle();
    server_.signal(SIGSTOP);
    testing::wait_until("stopped",
                        [&] { return testing::state(server_.pid()) == 'T'; });
  }
  void go_on() const { server_.signal(SIGCONT); }

  // Waits until the server gives up; the reason it throws.
  std::string last_words() const {
    testing::wait_until("the server gives up",
                        [&] { return calls_->ended.load(); });
    return calls_->reason.data();
  }

 private:
  static Calls* share() {
    void* memory = ::mmap(nullptr, sizeof(Calls), PROT_READ | PROT_WRITE,
                          MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) net::throw_errno("mmap");
    return new (memory) Calls{};
  }
  struct Unmap {
    void operator()(Calls* calls) const { ::munmap(calls, sizeof *calls); }
  };
  void run(net::Fd listener) const {
    observed = calls_.get();
    try {
      serve(std::move(listener));
    } catch (const std::exception& error) {
      if (!calls_->may_throw) throw;
      std::snprintf(calls_->reason.data(), calls_->reason.size(), "%s",
                    error.what());
      calls_->ended = true;
    }
  }

  std::unique_ptr<Calls, Unmap> calls_{share()};
  testing::RunningServer server_{
      [this](net::Fd listener) { run(std::move(listener)); }};
};

// Its receiving buffers full, the server has to wait for it to read.
void flood(Client& client) {
  constexpr std::size_t more_than_fits = 64 << 20;
  REQUIRE(client.send_until_full(more_than_fits, 200ms) < more_than_fits);
}

}  // namespace

TEST_CASE("the list has an entry for the listener and one for each client") {
  const ObservedServer server;
  server.settle();
  CHECK(server.calls().entries.load() == 1);
  auto clients = testing::connect_clients(server.address(), 10);
  testing::echo_all(clients);
  server.wait_for_entries(11);
  clients.clear();
  server.wait_for_entries(1);
}

TEST_CASE("whoever leaves in one round, the others stay and there is no gap") {
  const ObservedServer server;
  constexpr unsigned n = 6;
  for (unsigned leaving = 0; leaving < 1U << n; ++leaving) {
    auto clients = testing::connect_clients(server.address(), n);
    testing::echo_all(clients);
    server.stop();
    std::vector<Client> staying;
    for (unsigned i = 0; i < n; ++i) {
      if ((leaving >> i & 1U) == 0) staying.push_back(std::move(clients[i]));
    }
    clients.clear();
    for (Client& client : staying) client.send("still here");
    server.go_on();
    for (Client& client : staying) CHECK(client.receive(10) == "still here");
    server.wait_for_entries(1 + staying.size());
  }
}

TEST_CASE("a client is waited for in one direction at a time") {
  const ObservedServer server;
  Client client(server.address());
  CHECK(client.echo("hello") == "hello");
  server.settle();
  CHECK(server.calls().last_events.load() == POLLIN);
  flood(client);
  server.settle();
  CHECK(server.calls().last_events.load() == POLLOUT);
  client.finish();
  client.receive_all();
  server.wait_for_entries(1);
}

TEST_CASE("a reset costs one round, whatever was waited for") {
  const ObservedServer server;
  for (const bool full : {false, true}) {
    Client client(server.address());
    CHECK(client.echo("hello") == "hello");
    if (full) flood(client);
    server.settle();
    CHECK(server.calls().last_events.load() == (full ? POLLOUT : POLLIN));
    const std::uint64_t before = server.calls().count;
    client.reset();
    server.wait_for_entries(1);
    server.settle();
    CHECK(server.calls().count.load() == before + 1);
  }
}

TEST_CASE("a poll cut short by a signal is a round without work") {
  const ObservedServer server;
  Client client(server.address());
  CHECK(client.echo("hello") == "hello");
  server.settle();
  const std::uint64_t before = server.calls().count;
  server.process().signal(SIGUSR1);
  testing::wait_until("poll is called again",
                      [&] { return server.calls().count == before + 1; });
  CHECK(client.echo("hello") == "hello");
}

TEST_CASE("out of descriptors the listener's entry is skipped for a while") {
  const ObservedServer server;
  Client client(server.address());
  CHECK(client.echo("hello") == "hello");
  server.settle();
  const Calls& calls = server.calls();
  const int listener = calls.first_fd;
  CHECK(listener >= 0);
  CHECK(calls.timeout.load() == -1);
  server.process().limit_descriptors(
      testing::open_descriptors(server.process().pid()));
  Client waiting(server.address());
  testing::wait_until("the listener rests", [&] { return calls.first_fd < 0; });
  CHECK(calls.rest.load() >= 1);
  CHECK(calls.rest.load() <= 100);
  client.close();
  CHECK(waiting.echo("hello") == "hello");
  testing::wait_until("the listener is watched again", [&] {
    return calls.first_fd == listener && calls.timeout == -1;
  });
}

TEST_CASE("a descriptor that is not open ends the server with a reason") {
  const ObservedServer server;
  Client client(server.address());
  CHECK(client.echo("hello") == "hello");
  server.settle();
  server.calls().may_throw = true;
  server.calls().close_the_last = true;
  const Client other(server.address());
  CHECK(server.last_words() == "poll: 5 is not open");
}

TEST_CASE("a limit lowered below the list ends the server with a reason") {
  const ObservedServer server;
  auto clients = testing::connect_clients(server.address(), 10);
  testing::echo_all(clients);
  server.settle();
  server.calls().may_throw = true;
  server.process().limit_descriptors(10);
  clients[0].send("x");
  CHECK(server.last_words() == "poll: Invalid argument");
}

TEST_CASE("a listener beyond 1,024 is as good as any") {
  const auto limit = static_cast<int>(testing::shrink(1'100));
  const testing::RunningServer server([limit](net::Fd listener) {
    net::Fd high(net::check(::fcntl(listener.get(), F_DUPFD_CLOEXEC, limit),
                            "fcntl F_DUPFD"));
    listener = net::Fd();
    serve(std::move(high));
  });
  auto clients = testing::connect_clients(server.address(), 10);
  testing::echo_all(clients);
}

TEST_CASE("the program keeps 1,100 clients and prints nothing about them") {
  const std::size_t n = testing::shrink(1'100);
  testing::ChildProcess program({PROGRAM, "--port", "0"});
  const net::Address address = program.wait_until_listening();
  auto clients = testing::connect_clients(address, n);
  testing::echo_all(clients);
  testing::echo_all(clients);
  program.signal(SIGTERM);
  CHECK(program.wait() == 128 + SIGTERM);
  CHECK(program.output() == "listening on " + address.text() + '\n');
  CHECK(program.errors() == "");
}

TEST_CASE("its limit: every echo hands over and scans all that are idle") {
  const ObservedServer server;
  std::vector<Client> idle;
  for (const std::size_t n : {0UL, 10UL, 100UL, 1'000UL}) {
    while (idle.size() < testing::shrink(n))
      idle.emplace_back(server.address());
    Client busy(server.address());
    CHECK(busy.echo("x") == "x");
    server.settle();
    const Calls& calls = server.calls();
    const std::uint64_t count = calls.count;
    const std::uint64_t handed = calls.handed;
    const std::uint64_t scanned = calls.scanned;
    constexpr std::uint64_t echoes = 20;
    for (std::uint64_t i = 0; i < echoes; ++i) CHECK(busy.echo("x") == "x");
    server.settle();
    CHECK(calls.count.load() - count == echoes);
    const std::uint64_t entries = idle.size() + 2;
    CHECK((calls.handed - handed) * sizeof(pollfd) == echoes * entries * 8);
    CHECK(calls.scanned - scanned == echoes * entries);
    busy.close();
    server.wait_for_entries(idle.size() + 1);
  }
}
