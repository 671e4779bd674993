#include <doctest/doctest.h>
#include <poll.h>
#include <sys/socket.h>

#include <csignal>
#include <cstddef>
#include <string>
#include <string_view>
#include <system_error>
#include <thread>
#include <vector>

#include "chapters/server.hpp"
#include "common/error.hpp"
#include "common/socket.hpp"
#include "common/testing/child_process.hpp"
#include "common/testing/client.hpp"
#include "common/testing/process.hpp"
#include "common/testing/running_server.hpp"

namespace {

using testing::ChildProcess;
using testing::Client;
using testing::RunningServer;
using testing::wait_until_settled;
using namespace std::chrono_literals;

constexpr std::string_view usage =
    "usage: 01-blocking [--host ADDRESS] [--port NUMBER]\n";

// More than the buffers of both ends together take.
constexpr std::size_t very_much = 64 << 20;

// Standard input, output and error, the listener, and one client.
constexpr std::size_t descriptors_with_a_client = 5;

struct Ended {
  int status;
  std::string output;
  std::string errors;
};

// Runs the chapter's program with these arguments to its end.
Ended run(const std::vector<std::string>& arguments) {
  std::vector<std::string> command{PROGRAM};
  command.insert(command.end(), arguments.begin(), arguments.end());
  ChildProcess program(command);
  const int status = program.wait();
  return {status, program.output(), program.errors()};
}

void check_bad_usage(const std::vector<std::string>& arguments,
                     const std::string& reason) {
  CAPTURE(reason);
  const Ended ended = run(arguments);
  CHECK(ended.status == 2);
  CHECK(ended.output == "");
  CHECK(ended.errors == "01-blocking: " + reason + "\n" + std::string(usage));
}

bool has_bytes(const Client& client) {
  pollfd entry{client.fd(), POLLIN, 0};
  return net::check(::poll(&entry, 1, 0), "poll") == 1;
}

// Makes the call the server sleeps in fail with EINTR.
void interrupt(const RunningServer& server) {
  wait_until_settled(server.pid());
  const auto before = testing::voluntary_switches(server.pid());
  server.signal(SIGUSR1);
  testing::wait_until("the server has slept again", [&] {
    return testing::voluntary_switches(server.pid()) > before;
  });
}

bool is_refused(const net::Address& server) {
  try {
    net::connect_to(server);
    return false;
  } catch (const std::system_error& error) {
    return error.code() == std::errc::connection_refused;
  }
}

// False where the machine has no such address.
bool machine_has(const char* host) {
  const net::Address address = net::resolve(host, 0);
  const net::Fd socket(::socket(address.get()->sa_family, SOCK_STREAM, 0));
  return socket && ::bind(socket.get(), address.get(), address.length) == 0;
}

}  // namespace

// The program.

TEST_CASE("the program says where it listens, and then nothing") {
  ChildProcess program({PROGRAM, "--port", "0"});
  const net::Address address = program.wait_until_listening();
  CHECK(address.text().starts_with("127.0.0.1:"));
  {
    Client client(address);
    CHECK(client.echo("hello") == "hello");
    client.finish();
    CHECK(client.receive_all() == "");
  }
  program.signal(SIGTERM);
  CHECK(program.wait() == 128 + SIGTERM);
  CHECK(program.output() == "listening on " + address.text() + "\n");
  CHECK(program.errors() == "");
}

TEST_CASE("--help goes to standard output and exits with 0") {
  const Ended ended = run({"--help"});
  CHECK(ended.status == 0);
  CHECK(ended.output.starts_with(usage));
  CHECK(ended.output.find("--port") != std::string::npos);
  CHECK(ended.errors == "");
}

TEST_CASE("bad usage: one line of reason, the usage line, exit with 2") {
  const std::string range = " is not a number from 0 to 65535";
  check_bad_usage({"--colour"}, "unknown option '--colour'");
  check_bad_usage({"--port", "70000"}, "--port: '70000'" + range);
  check_bad_usage({"--port", "80x"}, "--port: '80x'" + range);
  check_bad_usage({"--port", "-1"}, "--port: '-1'" + range);
  check_bad_usage({"--port", ""}, "--port: ''" + range);
  check_bad_usage({"--port"}, "--port needs a value");
  check_bad_usage({"--host"}, "--host needs a value");
  check_bad_usage({"--help=yes"}, "--help takes no value");
  check_bad_usage({"8080"}, "unexpected argument '8080'");
}

TEST_CASE("a port in use is one line with call and address, exit with 1") {
  const net::Fd taken = net::listen_on(net::resolve("127.0.0.1", 0));
  const std::string address = net::local_address(taken).text();
  const std::string port = address.substr(address.rfind(':') + 1);
  const Ended ended = run({"--port", port});
  CHECK(ended.status == 1);
  CHECK(ended.output == "");
  CHECK(ended.errors ==
        "01-blocking: bind " + address + ": Address already in use\n");
}

TEST_CASE("an address of another machine is one line, exit with 1") {
  const Ended ended = run({"--host", "192.0.2.1", "--port", "0"});
  CHECK(ended.status == 1);
  CHECK(ended.output == "");
  CHECK(ended.errors ==
        "01-blocking: bind 192.0.2.1:0: Cannot assign requested address\n");
}

TEST_CASE("a host that cannot be resolved is one line, exit with 1") {
  const Ended ended = run({"--host", "no such host", "--port", "0"});
  CHECK(ended.status == 1);
  CHECK(ended.output == "");
  CHECK(ended.errors.starts_with("01-blocking: getaddrinfo no such host: "));
  CHECK(ended.errors.find('\n') == ended.errors.size() - 1);
}

TEST_CASE("it does not serve if it cannot say where") {
  const auto run_shell = [](const std::string& redirection) {
    ChildProcess shell({"/bin/sh", "-c", PROGRAM " --port 0 " + redirection});
    const int status = shell.wait();
    return std::to_string(status) + ' ' + shell.errors();
  };
  const std::string reason = "1 01-blocking: write standard output: ";
  CHECK(run_shell(">/dev/full") == reason + "No space left on device\n");
  CHECK(run_shell(">&-") == reason + "Bad file descriptor\n");
}

TEST_CASE("--host ::1 serves IPv6, or says that there is none") {
  if (machine_has("::1")) {
    ChildProcess program({PROGRAM, "--host", "::1", "--port=0"});
    const net::Address address = program.wait_until_listening();
    CHECK(address.text().starts_with("[::1]:"));
    Client client(address);
    CHECK(client.echo("six") == "six");
  } else {
    MESSAGE("this machine has no ::1");
    const Ended ended = run({"--host", "::1", "--port", "0"});
    CHECK(ended.status == 1);
    CHECK(ended.output == "");
    CHECK(ended.errors.starts_with("01-blocking: "));
  }
}

// The server.

TEST_CASE("EINTR in accept, in recv and in send changes nothing") {
  RunningServer server(serve);
  interrupt(server);
  Client client(server.address());
  CHECK(client.echo("one") == "one");
  interrupt(server);
  const std::size_t sent = client.send_until_full(very_much, 50ms);
  interrupt(server);
  client.finish();
  CHECK(client.receive_all() == testing::pattern(very_much).substr(0, sent));
}

TEST_CASE("who sends much before reading stops the server and itself") {
  RunningServer server(serve);
  Client client(server.address());
  const std::size_t sent = client.send_until_full(very_much, 50ms);
  CHECK(sent < very_much);
  wait_until_settled(server.pid());
  client.finish();
  CHECK(client.receive_all() == testing::pattern(very_much).substr(0, sent));
}

TEST_CASE("a client that resets while it is sent to ends only itself") {
  RunningServer server(serve);
  Client rude(server.address());
  rude.send_until_full(very_much, 50ms);
  wait_until_settled(server.pid());
  Client next(server.address());
  rude.reset();
  CHECK(next.echo("next") == "next");
}

TEST_CASE("clients that reset before accept are got over") {
  RunningServer server(serve);
  Client first(server.address());
  CHECK(first.echo("first") == "first");
  for (int i = 0; i < 20; ++i) Client(server.address()).reset();
  Client last(server.address());
  first.close();
  CHECK(last.echo("last") == "last");
}

TEST_CASE("it holds one connection, all others wait in the kernel") {
  RunningServer server(serve);
  std::vector<Client> clients = testing::connect_clients(server.address(), 50);
  CHECK(clients[0].echo("x") == "x");
  wait_until_settled(server.pid());
  CHECK(testing::open_descriptors(server.pid()) == descriptors_with_a_client);
}

TEST_CASE("shut down beside a client, it ends once the client leaves") {
  RunningServer server(serve);
  Client client(server.address());
  CHECK(client.echo("before") == "before");
  bool clean = false;
  std::thread stopper([&] { clean = server.stop().clean; });
  testing::wait_until("the listener is shut down",
                      [&] { return is_refused(server.address()); });
  CHECK(client.echo("after") == "after");
  client.close();
  stopper.join();
  CHECK(clean);
}

TEST_CASE("out of descriptors it loses nobody, and can be shut down") {
  RunningServer server(serve);
  Client first(server.address());
  CHECK(first.echo("first") == "first");
  server.limit_descriptors(descriptors_with_a_client - 1);
  Client next(server.address());
  next.send("next");
  first.close();
  // Three times asleep: once in recv at most, so twice because of the limit.
  const auto before = testing::voluntary_switches(server.pid());
  testing::wait_until("the server has rested", [&] {
    return testing::voluntary_switches(server.pid()) >= before + 3;
  });
  CHECK_FALSE(has_bytes(next));
  server.limit_descriptors(descriptors_with_a_client);
  CHECK(next.receive(4) == "next");
  server.limit_descriptors(descriptors_with_a_client - 1);
  next.close();
  CHECK(server.stop().clean);
}

// Its own limit, and the reason for chapter 02.
TEST_CASE("while one client is silent the next one waits") {
  RunningServer server(serve);
  Client silent(server.address());
  CHECK(silent.echo("hello") == "hello");
  Client next(server.address());
  next.send("hello?");
  wait_until_settled(server.pid(), 200ms);
  CHECK_FALSE(has_bytes(next));
  CHECK(testing::open_descriptors(server.pid()) == descriptors_with_a_client);
  silent.close();
  CHECK(next.receive(6) == "hello?");
}
