#include <doctest/doctest.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <stdexcept>
#include <string>
#include <vector>

#include "common/error.hpp"
#include "common/testing/child_process.hpp"
#include "common/testing/client.hpp"
#include "common/testing/process.hpp"
#include "common/testing/running_server.hpp"
#include "common/testing/sanitizer.hpp"

namespace {

using namespace std::chrono_literals;
using testing::ChildProcess;
using testing::Client;
using testing::RunningServer;

net::Fd accept_from(const net::Fd& listener) {
  return net::Fd(net::check(
      ::accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC), "accept4"));
}

// The other end of a client, played by the test itself.
struct Peer {
  net::Fd listener = net::listen_on(net::resolve("127.0.0.1", 0));
  net::Address address = net::local_address(listener);

  net::Fd accept() const { return accept_from(listener); }
};

void send_to(const net::Fd& socket, const std::string& bytes) {
  const ssize_t n =
      ::send(socket.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL);
  REQUIRE(n == static_cast<ssize_t>(bytes.size()));
}

std::string receive_from(const net::Fd& socket) {
  std::string bytes(64, '\0');
  const ssize_t n =
      net::check(::recv(socket.get(), bytes.data(), bytes.size(), 0), "recv");
  bytes.resize(static_cast<std::size_t>(n));
  return bytes;
}

// Accepts one client after the other and answers each byte by itself plus add.
void serve_adding(const net::Fd& listener, int add) {
  for (;;) {
    const net::Fd client(
        ::accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC));
    if (!client) return;
    char byte = 0;
    while (::recv(client.get(), &byte, 1, 0) == 1) {
      byte = static_cast<char>(byte + add);
      ::send(client.get(), &byte, 1, MSG_NOSIGNAL);
    }
  }
}

void echo_server(net::Fd listener) { serve_adding(listener, 0); }

// Waits for the listener to be shut down and does nothing else.
void idle_server(net::Fd listener) {
  pollfd entry{listener.get(), 0, 0};
  while (::poll(&entry, 1, -1) < 0) {
  }
}

template <typename Error>
std::string what(const std::function<void()>& body) {
  try {
    body();
  } catch (const Error& error) {
    return error.what();
  }
  return "nothing was thrown";
}

void wait_until_gone(pid_t process) {
  testing::wait_until("the end of process " + std::to_string(process),
                      [process] { return testing::has_ended(process); });
}

// Runs one of the skipped test cases below, which is meant to fail, in a
// program of its own: there its verdict can be read.
struct Verdict {
  int status;
  std::string output;
};

Verdict run_case(const std::string& name) {
  ChildProcess program({"/proc/self/exe", "--no-skip", "--test-case=" + name});
  const int status = program.wait();
  return {status, program.output()};
}

bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

}  // namespace

TEST_CASE("a pattern differs by its seed and does not repeat") {
  const std::string bytes = testing::pattern(1 << 20);
  CHECK(bytes == testing::pattern(1 << 20));
  CHECK(bytes != testing::pattern(1 << 20, 2));
  for (std::size_t period = 1; period <= (1 << 19); period *= 2) {
    CAPTURE(period);
    CHECK(bytes.compare(period, period, bytes, 0, period) != 0);
  }
}

TEST_CASE("wait_until returns when the condition holds") {
  int asked = 0;
  testing::wait_until("three questions", [&] { return ++asked == 3; });
  CHECK(asked == 3);
}

TEST_CASE("wait_until says what did not happen in time") {
  CHECK(what<testing::TimedOut>([] {
          testing::wait_until(
              "rain", [] { return false; }, 5ms);
        }) == "not within 5 ms: rain");
}

TEST_CASE("a client gets back what it sends") {
  RunningServer server(echo_server);
  Client client(server.address());
  CHECK(client.echo("hello") == "hello");
  const std::string bytes = testing::pattern(100000);
  CHECK(client.exchange(bytes) == bytes);
  client.finish();
  CHECK(client.receive_all().empty());
}

TEST_CASE("a server that never answers costs a client its patience only") {
  const Peer peer;
  Client client(peer.address, 30ms);
  client.send("hello");
  CHECK(what<testing::TimedOut>([&] { client.receive(1); }) ==
        "client waited 30 ms for bytes from the server");
  CHECK(what<testing::TimedOut>([&] { client.receive_all(); }) ==
        "client waited 30 ms for the end of the stream");
  CHECK(what<testing::TimedOut>([&] { client.ended(); }) ==
        "client waited 30 ms for the server to end the connection");
}

TEST_CASE("a server that never reads costs a client its patience only") {
  const Peer peer;
  Client client(peer.address, 30ms);
  const std::string bytes = testing::pattern(64 << 20);
  CHECK(what<testing::TimedOut>([&] { client.send(bytes); }) ==
        "client waited 30 ms for the server to take more bytes");
  Client other(peer.address, 30ms);
  CHECK(what<testing::TimedOut>([&] { other.exchange(bytes); }) ==
        "client waited 30 ms for the server to read or write");
}

TEST_CASE("a full listen queue costs a client its patience only") {
  const Peer peer;
  net::check(::listen(peer.listener.get(), 0), "listen");
  const Client first(peer.address);
  CHECK(what<testing::TimedOut>([&] { Client(peer.address, 30ms); }) ==
        "client waited 30 ms for the connection");
}

TEST_CASE("send_until_full stops when the peer takes no more") {
  const Peer peer;
  Client client(peer.address);
  const net::Fd accepted = peer.accept();
  const std::size_t most = 64 << 20;
  const std::size_t taken = client.send_until_full(most, 20ms);
  CHECK(taken > 0);
  CHECK(taken < most);
  CHECK(receive_from(accepted) == testing::pattern(64));
}

TEST_CASE("a refused connection is an error with the address") {
  Peer peer;
  peer.listener = net::Fd();
  CHECK(what<std::system_error>([&] { Client{peer.address}; }) ==
        "connect " + peer.address.text() + ": Connection refused");
}

TEST_CASE("a stream that ends too early is told with the count so far") {
  const Peer peer;
  Client client(peer.address);
  {
    const net::Fd accepted = peer.accept();
    send_to(accepted, "ab");
  }
  CHECK(what<testing::EndedEarly>([&] { client.receive(3); }) ==
        "end of stream after 2 of 3 bytes");
  Client other(peer.address);
  { const net::Fd accepted = peer.accept(); }
  CHECK(what<testing::EndedEarly>([&] { other.exchange("abc"); }) ==
        "end of stream in an exchange");
}

TEST_CASE("receive_all gives everything up to the end of the stream") {
  const Peer peer;
  Client client(peer.address);
  {
    const net::Fd accepted = peer.accept();
    send_to(accepted, "all of it");
  }
  CHECK(client.receive_all() == "all of it");
}

TEST_CASE("a client can be the end that was accepted") {
  const Peer peer;
  Client client(peer.address);
  Client accepted(peer.accept(), 50ms);
  client.send("hello");
  CHECK(accepted.receive(5) == "hello");
  CHECK(what<testing::TimedOut>([&] { accepted.receive(1); }) ==
        "client waited 50 ms for bytes from the server");
  accepted.finish();
  CHECK(client.receive_all().empty());
}

TEST_CASE("finish sends FIN and still receives") {
  const Peer peer;
  Client client(peer.address);
  const net::Fd accepted = peer.accept();
  client.send("bye");
  client.finish();
  CHECK(receive_from(accepted) == "bye");
  CHECK(receive_from(accepted).empty());
  send_to(accepted, "late");
  CHECK(client.receive(4) == "late");
}

TEST_CASE("reset sends RST") {
  const Peer peer;
  Client client(peer.address);
  const net::Fd accepted = peer.accept();
  client.reset();
  CHECK(what<std::system_error>([&] { receive_from(accepted); }) ==
        "recv: Connection reset by peer");
}

TEST_CASE("ended tells FIN and RST from bytes") {
  const Peer peer;
  Client by_fin(peer.address);
  { const net::Fd accepted = peer.accept(); }
  CHECK(by_fin.ended());
  Client by_reset(peer.address);
  by_reset.send("unread input makes close send RST");
  {
    const net::Fd accepted = peer.accept();
    pollfd entry{accepted.get(), POLLIN, 0};
    REQUIRE(::poll(&entry, 1, 20000) == 1);
  }
  CHECK(by_reset.ended());
  Client alive(peer.address);
  const net::Fd accepted = peer.accept();
  send_to(accepted, "x");
  CHECK_FALSE(alive.ended());
}

TEST_CASE("echo_all tells a wrong byte and whose it is") {
  RunningServer server([](net::Fd listener) { serve_adding(listener, 1); });
  std::vector<Client> clients = testing::connect_clients(server.address(), 1);
  CHECK(what<std::runtime_error>([&] {
          testing::echo_all(clients);
        }).starts_with("client 0 got 'dmjfou"));
}

TEST_CASE("a server that returns and leaves nothing behind is clean") {
  RunningServer server(echo_server);
  Client(server.address()).echo("x");
  const pid_t process = server.pid();
  const RunningServer::Exit exit = server.stop();
  CHECK(exit.ended);
  CHECK(exit.clean);
  CHECK(testing::has_ended(process));
}

TEST_CASE("the CPU time of a server is told when it has stopped") {
  const auto busy = [](net::Fd listener) {
    const auto start = testing::cpu_time(::getpid());
    while (testing::cpu_time(::getpid()) - start < 30ms) {
    }
    idle_server(std::move(listener));
  };
  RunningServer server(busy);
  CHECK(server.stop().cpu >= 30ms);
}

TEST_CASE("a server has descriptors 0 to 3 and no others") {
  const Peer noise;
  RunningServer server(idle_server);
  testing::wait_until_settled(server.pid());
  CHECK(testing::open_descriptors(server.pid()) == 4);
}

TEST_CASE("the descriptor limit of a server can be lowered while it runs") {
  const auto serve = [](net::Fd listener) {
    pollfd entry{listener.get(), POLLIN, 0};
    while (::poll(&entry, 1, -1) < 0) {
    }
    const net::Fd client(
        ::accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC));
    if (client || errno != EMFILE) throw std::logic_error("no limit");
  };
  RunningServer server(serve);
  server.limit_descriptors(4);
  const Client client(server.address());
  wait_until_gone(server.pid());
  CHECK(server.stop().clean);
}

TEST_CASE("SIGUSR1 interrupts a server's call and does nothing else") {
  const auto serve = [](net::Fd listener) {
    pollfd entry{listener.get(), 0, 0};
    if (::poll(&entry, 1, -1) == -1 && errno == EINTR) return;
    throw std::logic_error("was not interrupted");
  };
  RunningServer server(serve);
  testing::wait_until_settled(server.pid());
  server.signal(SIGUSR1);
  // Were the listener shut down first, poll could report that instead.
  wait_until_gone(server.pid());
  CHECK(server.stop().clean);
}

TEST_CASE("server that leaks a descriptor" * doctest::skip()) {
  RunningServer server([](net::Fd listener) {
    idle_server(std::move(listener));
    net::check(::dup(0), "dup");
  });
}

TEST_CASE("a descriptor that a server leaves open fails the test") {
  const Verdict verdict = run_case("server that leaks a descriptor");
  CHECK(verdict.status == 1);
  CHECK(contains(verdict.output, "the server left a descriptor open"));
}

TEST_CASE("server that throws" * doctest::skip()) {
  RunningServer server(
      [](const net::Fd&) { throw std::runtime_error("the roof is on fire"); });
}

TEST_CASE("an exception that leaves a server fails the test") {
  const Verdict verdict = run_case("server that throws");
  CHECK(verdict.status == 1);
  CHECK(contains(verdict.output, "the server threw an exception"));
}

TEST_CASE("server that throws no exception" * doctest::skip()) {
  RunningServer server([](const net::Fd&) { throw 5; });
}

TEST_CASE("whatever else leaves a server fails the test too") {
  const Verdict verdict = run_case("server that throws no exception");
  CHECK(verdict.status == 1);
  CHECK(contains(verdict.output, "the server threw an exception"));
}

TEST_CASE("server that is killed" * doctest::skip()) {
  RunningServer server(idle_server);
  server.signal(SIGKILL);
}

TEST_CASE("a server that dies of a signal fails the test") {
  const Verdict verdict = run_case("server that is killed");
  CHECK(verdict.status == 1);
  CHECK(contains(verdict.output, "the server was killed by SIGKILL"));
}

TEST_CASE("server that is killed by a signal without a name" *
          doctest::skip()) {
  RunningServer server(idle_server);
  server.signal(SIGRTMAX);
}

TEST_CASE("a signal without a name has a number") {
  const Verdict verdict =
      run_case("server that is killed by a signal without a name");
  CHECK(contains(verdict.output, "the server was killed by signal " +
                                     std::to_string(SIGRTMAX)));
}

TEST_CASE("server that does not end" * doctest::skip()) {
  RunningServer server([](const net::Fd&) {
    for (;;) ::pause();
  });
  testing::wait_until_settled(server.pid());
  const RunningServer::Exit exit = server.stop(10ms);
  CHECK_FALSE(exit.ended);
  CHECK_FALSE(exit.clean);
}

TEST_CASE("a server that does not end is killed and where it hung is told") {
  const Verdict verdict = run_case("server that does not end");
  CHECK(verdict.status == 1);
  CHECK(contains(verdict.output,
                 "the server did not end and was killed by the test: thread "));
  CHECK(contains(verdict.output, " asleep in p"));  // pause or ppoll
  CHECK_FALSE(contains(verdict.output, "is NOT correct"));
  CHECK_FALSE(contains(verdict.output, "SIGKILL"));
}

TEST_CASE("server that exits" * doctest::skip()) {
  RunningServer server([](const net::Fd&) { ::_exit(3); });
}

TEST_CASE("a server that exits instead of returning fails the test") {
  const Verdict verdict = run_case("server that exits");
  CHECK(verdict.status == 1);
  CHECK(contains(verdict.output, "the server ended by exit"));
}

#if defined(__SANITIZE_ADDRESS__)
void* volatile lost = nullptr;

TEST_CASE("server that leaks memory" * doctest::skip()) {
  RunningServer server([](net::Fd listener) {
    lost = std::malloc(100);
    lost = nullptr;
    idle_server(std::move(listener));
  });
}

TEST_CASE("memory that a server leaves behind fails the test") {
  const Verdict verdict = run_case("server that leaks memory");
  CHECK(verdict.status == 1);
  CHECK(contains(verdict.output, "the server left memory behind"));
}
#endif

TEST_CASE("a child's output, errors and exit status are read apart") {
  ChildProcess child({"sh", "-c", "echo out; echo err >&2; exit 7"});
  CHECK(child.wait() == 7);
  CHECK(child.output() == "out\n");
  CHECK(child.errors() == "err\n");
  CHECK(child.wait() == 7);
}

TEST_CASE("more output than a pipe holds does not stop the child") {
  ChildProcess child({"sh", "-c", "head -c 300000 /dev/zero; echo end >&2"});
  CHECK(child.wait() == 0);
  CHECK(child.output().size() == 300000);
  CHECK(child.errors() == "end\n");
}

TEST_CASE("a child's standard input is empty") {
  ChildProcess child({"cat"});
  CHECK(child.wait() == 0);
  CHECK(child.output().empty());
}

TEST_CASE("a child that dies of a signal has status 128 plus the signal") {
  ChildProcess child({"sleep", "1000"});
  child.signal(SIGTERM);
  CHECK(child.wait() == 128 + SIGTERM);
}

TEST_CASE("a program that cannot be run is an error with its name") {
  CHECK(what<std::system_error>([] {
          ChildProcess child({"/nowhere/program"});
        }) == "execvp /nowhere/program: No such file or directory");
}

TEST_CASE("a child that does not end in time is told, and can go on") {
  ChildProcess child({"sleep", "1000"});
  CHECK(what<testing::TimedOut>([&] { child.wait(5ms); }) ==
        "process " + std::to_string(child.pid()) +
            " has not ended within 5 ms");
  CHECK_FALSE(testing::has_ended(child.pid()));
}

TEST_CASE("the line about listening gives the address") {
  ChildProcess child({"sh", "-c", "echo listening on 127.0.0.1:8080; cat"});
  CHECK(child.wait_until_listening().text() == "127.0.0.1:8080");
  ChildProcess v6({"sh", "-c", "echo 'listening on [::1]:7'; sleep 1000"});
  CHECK(v6.wait_until_listening().text() == "[::1]:7");
}

TEST_CASE("a child that ends before it listens is told with its words") {
  ChildProcess child({"sh", "-c", "printf some; printf words >&2; exit 1"});
  CHECK(what<std::runtime_error>([&] { child.wait_until_listening(); }) ==
        "ended with status 1 before it listened: somewords");
}

TEST_CASE("another first line than the one about listening is told") {
  ChildProcess child({"sh", "-c", "echo hello: world; sleep 1000"});
  CHECK(what<std::runtime_error>([&] { child.wait_until_listening(); }) ==
        "expected 'listening on', got 'hello: world'");
}

TEST_CASE("a child that does not say that it listens is told in time") {
  ChildProcess child({"sleep", "1000"});
  CHECK(what<testing::TimedOut>([&] { child.wait_until_listening(5ms); }) ==
        "no 'listening on' within 5 ms");
}

TEST_CASE("what a child says on standard error can be waited for") {
  ChildProcess child({"/bin/sh", "-c", "echo one >&2; sleep 1000"});
  child.wait_until_complains("one\n");
  CHECK(child.errors() == "one\n");
  CHECK_THROWS_WITH_AS(child.wait_until_complains("two", 1ms),
                       "no 'two' within 1 ms: one\n", testing::TimedOut);
  ChildProcess other({"/bin/sh", "-c", "exit 3"});
  CHECK_THROWS_WITH(other.wait_until_complains("two"),
                    "ended with status 3 before it said 'two': ");
}

TEST_CASE("at the end of the scope the whole group of a child is killed") {
  pid_t child_id = 0;
  pid_t grandchild = 0;
  {
    ChildProcess child(
        {"sh", "-c",
         "sleep 1000 & echo $! >&2; echo listening on 127.0.0.1:1; wait"});
    child.wait_until_listening();
    child_id = child.pid();
    grandchild = std::stoi(child.errors());
    CHECK_FALSE(testing::has_ended(grandchild));
  }
  CHECK(testing::has_ended(child_id));
  wait_until_gone(grandchild);
}

TEST_CASE("a child that ends takes what it started with it") {
  ChildProcess child({"sh", "-c", "sleep 1000 & echo $!"});
  CHECK(child.wait() == 0);
  wait_until_gone(std::stoi(child.output()));
}

TEST_CASE("a function runs in a child, and what it says is read apart") {
  ChildProcess child([] {
    std::printf("out");
    std::fprintf(stderr, "err");
  });
  CHECK(child.wait() == 0);
  CHECK(child.output() == "out");
  CHECK(child.errors() == "err");
}

TEST_CASE("an exception that leaves a function in a child is told") {
  ChildProcess child([] { throw std::runtime_error("why"); });
  CHECK(child.wait() == 1);
  CHECK(child.errors() == "why\n");
  ChildProcess other([] { throw 1; });
  CHECK(other.wait() == 1);
  CHECK(other.errors() == "not a std::exception\n");
}

TEST_CASE("a signal ends a function in a child, whoever has a handler here") {
  for (const int number : {SIGSEGV, SIGABRT, SIGTERM, SIGQUIT}) {
    const auto old = std::signal(number, SIG_IGN);
    ChildProcess child([number] { std::raise(number); });
    std::signal(number, old);
    CHECK(child.wait() == 128 + number);
    CHECK(child.errors().empty());
  }
}

TEST_CASE("any word about what a child says can be waited for") {
  ChildProcess child([] {
    for (int i = 0; i < 3; ++i) std::fprintf(stderr, "again\n");
    ::pause();
  });
  const auto lines = [](const std::string& errors, std::ptrdiff_t wanted) {
    return std::count(errors.begin(), errors.end(), '\n') == wanted;
  };
  child.wait_until_errors("three lines",
                          [&](const auto& said) { return lines(said, 3); });
  CHECK(child.errors() == "again\nagain\nagain\n");
  CHECK_THROWS_WITH_AS(
      child.wait_until_errors(
          "fourth", [&](const auto& said) { return lines(said, 4); }, 1ms),
      "no fourth within 1 ms: again\nagain\nagain\n", testing::TimedOut);
}

TEST_CASE("test that leaves without a word" * doctest::skip()) {
  const ChildProcess child({"sleep", "1000"});
  std::printf("\nchild %d\n", child.pid());
  std::fflush(nullptr);
  ::_exit(9);
}

TEST_CASE("a child dies with the test that started it") {
  const Verdict verdict = run_case("test that leaves without a word");
  CHECK(verdict.status == 9);
  const std::size_t place = verdict.output.find("\nchild ");
  REQUIRE(place != std::string::npos);
  wait_until_gone(std::stoi(verdict.output.substr(place + 7)));
}

TEST_CASE("the state of a process is the letter of procfs") {
  ChildProcess child({"sleep", "1000"});
  testing::wait_until_settled(child.pid());
  CHECK(testing::state(child.pid()) == 'S');
  child.signal(SIGSTOP);
  testing::wait_until("the child stops",
                      [&] { return testing::state(child.pid()) == 'T'; });
  child.signal(SIGKILL);
  testing::wait_until("the child ends",
                      [&] { return testing::state(child.pid()) == 'Z'; });
}

TEST_CASE("open_descriptors counts what a process has open") {
  const std::size_t before = testing::open_descriptors(::getpid());
  const net::Fd one(net::check(::dup(0), "dup"));
  const net::Fd two(net::check(::dup(0), "dup"));
  CHECK(testing::open_descriptors(::getpid()) == before + 2);
}

TEST_CASE("voluntary_switches counts the times a process went to sleep") {
  RunningServer server(echo_server);
  Client client(server.address());
  client.echo("x");
  testing::wait_until_settled(server.pid());
  const std::uint64_t before = testing::voluntary_switches(server.pid());
  for (int i = 0; i < 10; ++i) {
    client.echo("x");
    testing::wait_until_settled(server.pid(), 2ms);
  }
  CHECK(testing::voluntary_switches(server.pid()) - before >= 10);
}

TEST_CASE("resident_bytes grows by what a process touches") {
  const std::size_t size = 8 << 20;
  const std::uint64_t before = testing::resident_bytes(::getpid());
  const std::string touched(size, 'x');
  const std::uint64_t after = testing::resident_bytes(::getpid());
  CHECK(touched.back() == 'x');
  CHECK(after - before >= size);
}

TEST_CASE("figures of a process that is gone are an error") {
  ChildProcess child({"true"});
  child.wait();
  CHECK_THROWS_AS(testing::state(child.pid()), std::system_error);
  CHECK_THROWS_AS(testing::cpu_time(child.pid()), std::system_error);
  CHECK_THROWS_AS(testing::resident_bytes(child.pid()), std::system_error);
  CHECK_THROWS_AS(testing::open_descriptors(child.pid()), std::system_error);
}

TEST_CASE("raise_descriptor_limit reaches the hard limit") {
  const std::uint64_t limit = testing::raise_descriptor_limit();
  const std::string highest = std::to_string(limit);
  ChildProcess child({"sh", "-c", "ulimit -Hn; ulimit -Sn"});
  CHECK(child.wait() == 0);
  CHECK(child.output() == highest + '\n' + highest + '\n');
}
