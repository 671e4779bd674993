#include <doctest/doctest.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <string>
#include <system_error>
#include <thread>

#include "common/socket.hpp"
#include "common/testing/child_process.hpp"
#include "common/tools/load.hpp"

namespace {

using net::LoadOptions;
using net::LoadReport;
using testing::ChildProcess;
using namespace std::chrono_literals;

std::uint16_t port_of(const net::Address& address) {
  const std::string text = address.text();
  return static_cast<std::uint16_t>(
      std::stoul(text.substr(text.rfind(':') + 1)));
}

// A server that does to each client, one after the other, what it is told.
class Server {
 public:
  explicit Server(std::function<void(int client)> treat)
      : listener_(net::listen_on(net::resolve("127.0.0.1", 0))),
        thread_([this, treat = std::move(treat)] {
          for (;;) {
            const net::Fd client(
                ::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC));
            if (!client) return;
            treat(client.get());
          }
        }) {}
  Server(const Server&) = delete;
  Server& operator=(const Server&) = delete;
  ~Server() {
    ::shutdown(listener_.get(), SHUT_RDWR);
    thread_.join();
  }
  std::uint16_t port() const { return port_of(net::local_address(listener_)); }

 private:
  net::Fd listener_;
  std::thread thread_;
};

// Everything that comes, changed by the function, goes back.
std::function<void(int)> echo_with(
    std::function<void(std::string& bytes, std::size_t position)> change) {
  return [change = std::move(change)](int client) {
    std::array<char, 4096> buffer{};
    std::size_t position = 0;
    for (;;) {
      const ssize_t n = ::recv(client, buffer.data(), buffer.size(), 0);
      if (n <= 0) return;
      std::string bytes(buffer.data(), static_cast<std::size_t>(n));
      change(bytes, position);
      position += static_cast<std::size_t>(n);
      if (::send(client, bytes.data(), bytes.size(), MSG_NOSIGNAL) < 0) return;
    }
  };
}

LoadOptions one_client(std::uint16_t port) {
  LoadOptions options;
  options.port = port;
  options.connections = 1;
  options.requests = 20;
  return options;
}

}  // namespace

TEST_CASE("every request of a good server is counted, once") {
  ChildProcess server({SERVER, "--port", "0"});
  LoadOptions options;
  options.port = port_of(server.wait_until_listening());
  options.connections = 7;
  options.depth = 3;
  options.size = 1000;
  options.requests = 500;
  options.idle = 5;
  const LoadReport report = net::run_load(options);
  CHECK(report.requests == 500);
  CHECK(report.served == 7);
  CHECK(report.errors.all() == 0);
  CHECK(report.first_error == "");
  CHECK(report.rate() > 0);
  CHECK(report.latency.quantile(0.5) > 0ns);
  CHECK(report.latency.quantile(0.5) <= report.latency.most());
}

TEST_CASE("a time ends the load, and what is in flight is waited for") {
  ChildProcess server({SERVER, "--port", "0"});
  LoadOptions options;
  options.port = port_of(server.wait_until_listening());
  options.duration = 200ms;
  int told = 0;
  const LoadReport report =
      net::run_load(options, [&](const LoadReport&) { ++told; });
  CHECK(report.time >= 200ms);
  CHECK(report.requests >= 50);
  CHECK(report.errors.all() == 0);
  CHECK(report.first_error == "");
}

TEST_CASE("once all have connected, and before they ask, the caller is told") {
  std::atomic<int> asked = 0;
  const Server server(echo_with([&](std::string&, std::size_t) { ++asked; }));
  LoadOptions options = one_client(server.port());
  int told = 0;
  int asked_before = -1;
  options.connected = [&] {
    ++told;
    asked_before = asked;
  };
  CHECK(net::run_load(options).requests == 20);
  CHECK(told == 1);
  CHECK(asked_before == 0);
  CHECK(asked == 20);
}

TEST_CASE("an answer in many pieces is as good as one in one piece") {
  const Server server([](int client) {
    char byte = 0;
    while (::recv(client, &byte, 1, 0) == 1) {
      if (::send(client, &byte, 1, MSG_NOSIGNAL) != 1) return;
    }
  });
  const LoadReport report = net::run_load(one_client(server.port()));
  CHECK(report.requests == 20);
  CHECK(report.errors.all() == 0);
  CHECK(report.first_error == "");
}

TEST_CASE("requests larger than any buffer come back whole") {
  const Server server(echo_with([](std::string&, std::size_t) {}));
  LoadOptions options = one_client(server.port());
  options.size = 20'000'000;
  options.requests = 2;
  const LoadReport report = net::run_load(options);
  CHECK(report.requests == 2);
  CHECK(report.errors.all() == 0);
  CHECK(report.first_error == "");
}

TEST_CASE("one wrong byte is found, with its place") {
  const Server server(echo_with([](std::string& bytes, std::size_t position) {
    constexpr std::size_t place = 70;
    if (position <= place && place < position + bytes.size()) {
      bytes[place - position] = static_cast<char>(bytes[place - position] ^ 1);
    }
  }));
  const LoadReport report = net::run_load(one_client(server.port()));
  CHECK(report.errors.wrong_byte == 1);
  CHECK(report.errors.all() == 1);
  CHECK(report.requests == 1);
  CHECK(report.first_error.starts_with("connection 0: byte 70: sent 0x"));
}

TEST_CASE("bytes that were never sent are wrong bytes") {
  const Server server(
      echo_with([](std::string& bytes, std::size_t) { bytes += bytes; }));
  LoadOptions options = one_client(server.port());
  const LoadReport report = net::run_load(options);
  CHECK(report.errors.wrong_byte == 1);
  CHECK(report.first_error.find("nothing yet") != std::string::npos);
}

TEST_CASE("the bytes of another connection are wrong bytes") {
  std::string first;
  const Server server(echo_with([&](std::string& bytes, std::size_t) {
    if (first.empty()) first = bytes;
    bytes = first;
  }));
  LoadOptions options = one_client(server.port());
  options.connections = 2;
  options.requests = 2;
  const LoadReport report = net::run_load(options);
  CHECK(report.requests == 1);
  CHECK(report.errors.wrong_byte == 1);
}

TEST_CASE("a stream that ends early is an error of its own") {
  const Server server([](int client) {
    std::array<char, 64> request{};
    ::recv(client, request.data(), request.size(), MSG_WAITALL);
  });
  const LoadReport report = net::run_load(one_client(server.port()));
  CHECK(report.errors.early_end == 1);
  CHECK(report.errors.all() == 1);
  CHECK(report.requests == 0);
}

TEST_CASE("a reset is an error of its own") {
  const Server server([](int client) {
    char byte = 0;
    ::recv(client, &byte, 1, MSG_PEEK);
    const linger at_once{1, 0};
    ::setsockopt(client, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
  });
  const LoadReport report = net::run_load(one_client(server.port()));
  CHECK(report.errors.reset == 1);
  CHECK(report.errors.all() == 1);
}

TEST_CASE("a server that falls silent is given up") {
  const Server server([](int client) {
    std::array<char, 64> sink{};
    while (::recv(client, sink.data(), sink.size(), 0) > 0) {
    }
  });
  LoadOptions options = one_client(server.port());
  options.connections = 3;
  options.patience = 200ms;
  const LoadReport report = net::run_load(options);
  CHECK(report.errors.timed_out == 3);
  CHECK(report.errors.all() == 3);
  CHECK(report.served == 0);
}

TEST_CASE("an idle connection that is closed is an error") {
  const Server server([](int client) {
    std::array<char, 64> request{};
    ::recv(client, request.data(), request.size(), MSG_WAITALL);
    ::send(client, request.data(), request.size(), MSG_NOSIGNAL);
  });
  LoadOptions options = one_client(server.port());
  options.idle = 1;
  options.requests = 1;
  const LoadReport report = net::run_load(options);
  CHECK(report.requests == 1);
  CHECK(report.errors.early_end == 1);
}

TEST_CASE("a refused connection is one clear line and status 1") {
  const net::Fd listener = net::listen_on(net::resolve("127.0.0.1", 0));
  const net::Address address = net::local_address(listener);
  ::shutdown(listener.get(), SHUT_RDWR);
  ChildProcess load({LOAD, "--port", std::to_string(port_of(address))});
  CHECK(load.wait() == 1);
  CHECK(load.errors() ==
        "load: connect " + address.text() + ": Connection refused\n");
}

TEST_CASE("the program's exit status tells good from bad") {
  ChildProcess good({SERVER, "--port", "0"});
  ChildProcess served({LOAD, "--requests", "1000", "--json", "--port",
                       std::to_string(port_of(good.wait_until_listening()))});
  CHECK(served.wait() == 0);
  CHECK(served.output().starts_with("{\"requests\":1000,"));
  CHECK(served.errors().empty());

  const Server bad(echo_with([](std::string& bytes, std::size_t) {
    std::reverse(bytes.begin(), bytes.end());
  }));
  ChildProcess cheated(
      {LOAD, "--connections", "1", "--port", std::to_string(bad.port())});
  CHECK(cheated.wait() == 1);
  CHECK(cheated.output().find("1 wrong_byte") != std::string::npos);
}

TEST_CASE("options that cannot be are refused") {
  CHECK_THROWS_WITH(net::run_load({}),
                    "neither a time nor a number of requests to end");
  LoadOptions options;
  options.requests = 1;
  options.idle = 100'000'000;
  CHECK_THROWS_AS(net::run_load(options), std::exception);
}

TEST_CASE("a quantile of the histogram is right to a thirty-second") {
  net::Histogram histogram;
  for (int i = 1; i <= 100'000; ++i) histogram.add(i * 1us);
  for (const double share : {0.01, 0.5, 0.9, 0.99}) {
    const double exact = share * 1e8;
    const auto got = static_cast<double>(histogram.quantile(share).count());
    CHECK(got >= exact);
    CHECK(got <= exact * (1 + 1.0 / 32));
  }
  CHECK(histogram.quantile(1) == 100ms);
  CHECK(histogram.most() == 100ms);
}
