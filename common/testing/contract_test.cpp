// Every promise of the contract (contract.hpp), one test case each, linked to
// every chapter. A promise that the chapter is expected to break must be
// broken: its test case fails if the server keeps it.

#include "common/testing/contract.hpp"

#include <doctest/doctest.h>

#include <atomic>
#include <chrono>
#include <csignal>
#include <exception>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "chapters/server.hpp"
#include "common/testing/client.hpp"
#include "common/testing/process.hpp"
#include "common/testing/running_server.hpp"
#include "common/testing/sanitizer.hpp"
#include "common/testing/shrink.hpp"

using namespace std::chrono_literals;
using std::chrono::milliseconds;
using testing::chapter_under_test;
using testing::Client;
using testing::RunningServer;

namespace {

constexpr const char* text(std::string_view id) {
  for (const testing::Promise& promise : testing::promises) {
    if (promise.id == id) return promise.text.data();
  }
  throw std::logic_error("no such promise");
}

bool breaks(std::string_view id) {
  return testing::is_expected_failure(chapter_under_test, id);
}

// A broken promise is one that a client sees: it throws. A server that ends
// or leaks is no broken promise but a failure, in every chapter.
void keep_or_break(std::string_view id, void (*promise)()) {
  if (!breaks(id)) return promise();
  CHECK_THROWS_AS_MESSAGE(promise(), std::exception,
                          "a promise that should be broken is kept");
}

#define PROMISE_NAMED(id, name)                    \
  static void name();                              \
  TEST_CASE(text(id)) { keep_or_break(id, name); } \
  static void name()
#define PROMISE(id) PROMISE_NAMED(id, DOCTEST_ANONYMOUS(promise_))

// How long a client waits for its answer. Where the answer is expected never
// to come, a short wait says so as well as a long one.
milliseconds patience(std::string_view id) { return breaks(id) ? 500ms : 30s; }

std::size_t at_once() {
  for (const testing::Capacity& capacity : testing::capacities) {
    if (capacity.chapter == chapter_under_test) return capacity.at_once;
  }
  throw std::logic_error("no capacity known");
}

// As many clients as wanted, or as the machine and the build allow.
std::size_t shrink(std::size_t wanted) {
  constexpr std::size_t most = 1'500;
  if (!testing::sanitized || wanted <= most) return testing::shrink(wanted);
  MESSAGE("only " << most << " clients instead of " << wanted);
  return testing::shrink(most);
}

// What the server does in a while in which it has nothing to do. A loop that
// spins does not sleep, so it shows in the CPU time and not in the wakeups.
struct Activity {
  std::uint64_t wakeups;
  std::chrono::nanoseconds cpu;
};

Activity activity(const RunningServer& server, milliseconds window) {
  const std::uint64_t wakeups = testing::voluntary_switches(server.pid());
  const auto cpu = testing::cpu_time(server.pid());
  std::this_thread::sleep_for(window);
  return {testing::voluntary_switches(server.pid()) - wakeups,
          testing::cpu_time(server.pid()) - cpu};
}

// At the limit it may look every 100 ms whether there is room, no oftener.
void check_that_it_rests(const RunningServer& server) {
  const Activity resting = activity(server, 500ms);
  CHECK(resting.wakeups <= 10);
  CHECK(resting.cpu < 50ms);
}

// What it is sent from now on, it finds all at once when it continues.
void stop(const RunningServer& server) {
  server.signal(SIGSTOP);
  testing::wait_until("stopped",
                      [&] { return testing::state(server.pid()) == 'T'; });
}

// The descriptors a chapter can have clients on, at the same time, in a test
// that does not want many.
std::size_t a_few() { return std::min<std::size_t>(at_once(), 4); }

// 64 MiB is more than the kernel takes from a client whose server does not
// read: both sides' buffers together hold some ten MiB.
constexpr std::size_t more_than_fits = 64 << 20;

// Throws unless the client is served.
void serve_one(Client& client) {
  if (client.echo("hello") != "hello") throw std::runtime_error("wrong bytes");
}

// From now on the server cannot open one descriptor. An accept that sleeps has
// its number already, so a client has to come and go before that is true.
// Returns how many it has open.
std::size_t leave_none_free(const RunningServer& server) {
  Client visitor(server.address());
  serve_one(visitor);
  const std::size_t used = testing::open_descriptors(server.pid()) - 1;
  server.limit_descriptors(used);
  visitor.close();
  testing::wait_until("the visitor's descriptor is closed", [&] {
    return testing::open_descriptors(server.pid()) == used;
  });
  return used;
}

std::string exchange_in_pieces(Client& client, const std::string& bytes) {
  std::string back;
  for (std::size_t at = 0, size = 1; at < bytes.size(); ++size) {
    const std::string piece = bytes.substr(at, size);
    client.send(piece);
    at += piece.size();
    if (size % 3 == 0) back += client.receive(at - back.size());
  }
  return back + client.receive(bytes.size() - back.size());
}

}  // namespace

PROMISE("1a") {
  const RunningServer server(serve);
  Client client(server.address());
  for (const std::size_t size :
       {1UL, 2UL, 4095UL, 4096UL, 4097UL, 65536UL, 1UL << 20, 64UL << 20}) {
    const std::string bytes = testing::pattern(size);
    const bool unchanged = client.exchange(bytes) == bytes;
    CHECK_MESSAGE(unchanged, size << " bytes");
  }
}

PROMISE("1b") {
  const RunningServer server(serve);
  Client client(server.address());
  const std::string bytes = testing::pattern(20000);
  const bool unchanged = exchange_in_pieces(client, bytes) == bytes;
  CHECK(unchanged);
}

PROMISE("2a") {
  const RunningServer server(serve);
  const Client silent(server.address());
  Client client(server.address(), patience("2a"));
  serve_one(client);
}

PROMISE("2b") {
  const RunningServer server(serve);
  for (int burst = 0; burst < 3; ++burst) {
    for (Client& client : testing::connect_clients(server.address(), 300)) {
      serve_one(client);
      client.close();
    }
  }
}

PROMISE("2c") {
  const RunningServer server(serve);
  for (Client& client :
       testing::connect_clients(server.address(), shrink(1100))) {
    serve_one(client);
    client.close();
  }
}

PROMISE("2d") {
  const RunningServer server(serve);
  const std::size_t wanted = at_once() == 1 ? 2 : at_once();
  auto clients = testing::connect_clients(server.address(), shrink(wanted),
                                          patience("2d"));
  testing::echo_all(clients);
  testing::echo_all(clients);
}

PROMISE("3a") {
  const RunningServer server(serve);
  Client client(server.address());
  const std::string bytes = testing::pattern(1 << 20);
  std::thread sender([&] {
    client.send(bytes);
    client.finish();
  });
  const std::string back = client.receive_all();
  sender.join();
  const bool unchanged = back == bytes;
  CHECK(unchanged);
}

PROMISE("3b") {
  const RunningServer server(serve);
  for (std::size_t size = 1; size < 100'000; size = size * 3 + 1) {
    Client client(server.address());
    const std::string bytes = testing::pattern(size);
    stop(server);
    client.send(bytes);
    client.finish();
    server.signal(SIGCONT);
    const bool unchanged = client.receive_all() == bytes;
    CHECK_MESSAGE(unchanged, size << " bytes");
  }
}

PROMISE("4a") {
  const RunningServer server(serve);
  Client client(server.address());
  serve_one(client);
  const std::uint64_t before = testing::resident_bytes(server.pid());
  const std::size_t sent = client.send_until_full(more_than_fits, 300ms);
  REQUIRE(sent < more_than_fits);
  testing::wait_until_settled(server.pid());
  const std::uint64_t after = testing::resident_bytes(server.pid());
  // AddressSanitizer keeps what is freed for a while.
  CHECK(after < before + (testing::sanitized ? 300 << 20 : 1 << 20));
  // A probe of the closed window may wake it.
  const Activity full = activity(server, 300ms);
  CHECK(full.wakeups <= 3);
  CHECK(full.cpu < 10ms);
}

PROMISE("4b") {
  const RunningServer server(serve);
  Client full(server.address());
  REQUIRE(full.send_until_full(more_than_fits, 300ms) < more_than_fits);
  Client client(server.address(), patience("4b"));
  serve_one(client);
}

PROMISE("4c") {
  const RunningServer server(serve);
  Client client(server.address());
  const std::size_t sent = client.send_until_full(more_than_fits, 300ms);
  const bool unchanged =
      client.receive(sent) == testing::pattern(more_than_fits).substr(0, sent);
  CHECK(unchanged);
  serve_one(client);
}

PROMISE("4d") {
  const RunningServer server(serve);
  const std::string bytes = testing::pattern(1 << 20);
  std::atomic<bool> enough = false;
  std::atomic<int> flooding = 0;
  const auto flood = [&] {
    Client client(server.address(), patience("4d"));
    try {
      for (; !enough; ++flooding) {
        if (client.exchange(bytes) != bytes) return;
      }
    } catch (const testing::TimedOut&) {
      ++flooding;
    }
  };
  std::vector<std::thread> floods;
  for (int i = 0; i < 2; ++i) floods.emplace_back(flood);
  std::exception_ptr broken;
  try {
    testing::wait_until("both are flooding", [&] { return flooding >= 2; });
    Client third(server.address(), patience("4d"));
    for (int i = 0; i < 50; ++i) serve_one(third);
  } catch (const std::exception&) {
    broken = std::current_exception();
  }
  enough = true;
  for (std::thread& thread : floods) thread.join();
  if (broken) std::rethrow_exception(broken);
}

PROMISE("5a") {
  const RunningServer server(serve);
  for (const bool unread : {false, true}) {
    Client rude(server.address());
    serve_one(rude);
    Client polite(server.address());
    if (unread) rude.send(testing::pattern(100'000));
    rude.reset();
    serve_one(polite);
    polite.close();
  }
}

// The server reads the bytes after the FIN and the reset have come: sending
// the answer then fails with EPIPE, which would raise SIGPIPE.
PROMISE("5b") {
  const RunningServer server(serve);
  for (int i = 0; i < 10; ++i) {
    Client rude(server.address());
    serve_one(rude);
    stop(server);
    rude.send("hello");
    rude.finish();
    rude.reset();
    server.signal(SIGCONT);
    Client polite(server.address());
    serve_one(polite);
  }
}

PROMISE("6a") {
  const RunningServer server(serve);
  auto served = testing::connect_clients(server.address(), a_few());
  testing::echo_all(served);
  server.limit_descriptors(testing::open_descriptors(server.pid()));
  auto waiting = testing::connect_clients(server.address(), 3);
  for (Client& client : waiting) client.send("waited");
  testing::echo_all(served);
  check_that_it_rests(server);
  testing::echo_all(served);
  for (Client& client : waiting) {
    served.front().close();
    served.erase(served.begin());
    CHECK(client.receive(6) == "waited");
    served.push_back(std::move(client));
  }
  testing::echo_all(served);
}

PROMISE("6b") {
  const RunningServer server(serve);
  const std::size_t used = leave_none_free(server);
  Client client(server.address());
  client.send("waited");
  check_that_it_rests(server);
  server.limit_descriptors(used + 10);
  CHECK(client.receive(6) == "waited");
}

PROMISE("6c") {
  RunningServer server(serve);
  leave_none_free(server);
  const Client client(server.address());
  CHECK(server.stop().clean);
}

// Both happen in one round: there is no descriptor, and then there is one.
PROMISE("6d") {
  const RunningServer server(serve);
  Client first(server.address());
  serve_one(first);
  testing::wait_until_settled(server.pid());
  server.limit_descriptors(testing::open_descriptors(server.pid()));
  stop(server);
  Client waiting(server.address());
  waiting.send("waited");
  first.close();
  server.signal(SIGCONT);
  CHECK(waiting.receive(6) == "waited");
}

PROMISE("7a") {
  const RunningServer server(serve);
  testing::wait_until_settled(server.pid());
  const std::size_t before = testing::open_descriptors(server.pid());
  for (int i = 0; i < 500; ++i) {
    Client client(server.address());
    serve_one(client);
    if (i % 2 == 0) client.reset();
  }
  testing::wait_until("all descriptors are back", [&] {
    return testing::open_descriptors(server.pid()) == before;
  });
}

PROMISE("7b") {
  const RunningServer server(serve);
  testing::wait_until_settled(server.pid());
  CHECK(activity(server, 300ms).wakeups == 0);
  auto clients = testing::connect_clients(server.address(), a_few());
  testing::echo_all(clients);
  testing::wait_until_settled(server.pid());
  const Activity idle = activity(server, 500ms);
  CHECK(idle.wakeups == 0);
  // ThreadSanitizer has a thread of its own.
  CHECK(idle.cpu <= (testing::sanitized ? 10ms : 0ns));
}

PROMISE("8a") {
  const RunningServer server(serve);
  auto clients = testing::connect_clients(server.address(), a_few());
  testing::echo_all(clients);
  for (int i = 0; i < 20; ++i) {
    testing::wait_until_settled(server.pid(), 1ms);
    stop(server);
    server.signal(SIGCONT);
    testing::echo_all(clients);
  }
}

PROMISE("8b") {
  const RunningServer server(serve);
  Client client(server.address());
  std::atomic<bool> enough = false;
  std::thread interrupter([&] {
    while (!enough) {
      server.signal(SIGUSR1);
      std::this_thread::sleep_for(100us);
    }
  });
  const std::string bytes = testing::pattern(8 << 20);
  bool unchanged = false;
  std::exception_ptr broken;
  try {
    unchanged = client.exchange(bytes) == bytes;
  } catch (const std::exception&) {
    broken = std::current_exception();
  }
  enough = true;
  interrupter.join();
  if (broken) std::rethrow_exception(broken);
  CHECK(unchanged);
}

// Idle after more than a line: not the memory of its busiest moment.
static void visit(std::vector<Client>& clients) {
  // AddressSanitizer keeps what is freed for a while.
  const std::string much = testing::pattern(testing::sanitized ? 60 : 60'000);
  for (Client& client : clients) {
    const bool unchanged = client.exchange(much) == much;
    REQUIRE(unchanged);
  }
  testing::echo_all(clients);
}

PROMISE("9") {
  if (at_once() == 1) {
    MESSAGE("one client at a time: there is no slope to measure");
    return;
  }
  const RunningServer server(serve);
  auto clients = testing::connect_clients(server.address(), 100);
  visit(clients);
  testing::wait_until_settled(server.pid());
  const std::uint64_t before = testing::resident_bytes(server.pid());
  const std::size_t more =
      shrink(std::min<std::size_t>(at_once(), 5000)) - clients.size();
  auto others = testing::connect_clients(server.address(), more);
  visit(others);
  testing::wait_until_settled(server.pid());
  const std::uint64_t after = testing::resident_bytes(server.pid());
  const double slope =
      static_cast<double>(after - before) / static_cast<double>(more);
  MESSAGE(slope << " bytes an idle client, from 100 to " << 100 + more);
  // A sanitizer keeps its own books of every allocation.
  if (slope >= (testing::sanitized ? 16384 : 512)) {
    throw std::runtime_error("an idle client costs too much");
  }
}
