#include "common/socket.hpp"

#include <doctest/doctest.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/resource.h>

#include <functional>
#include <stdexcept>
#include <string>

#include "common/error.hpp"

namespace {

std::string what(const std::function<void()>& body) {
  try {
    body();
  } catch (const std::exception& error) {
    return error.what();
  }
  return "nothing was thrown";
}

net::Fd listener() { return net::listen_on(net::resolve("127.0.0.1", 0)); }

net::Fd accept_from(const net::Fd& from) {
  return net::Fd(net::check(
      ::accept4(from.get(), nullptr, nullptr, SOCK_CLOEXEC), "accept4"));
}

int option(const net::Fd& socket, int level, int name) {
  int value = 0;
  socklen_t size = sizeof value;
  net::check(::getsockopt(socket.get(), level, name, &value, &size),
             "getsockopt");
  return value;
}

bool close_on_exec(const net::Fd& fd) {
  return (net::check(::fcntl(fd.get(), F_GETFD), "fcntl") & FD_CLOEXEC) != 0;
}

bool nonblocking(const net::Fd& fd) {
  return (net::check(::fcntl(fd.get(), F_GETFL), "fcntl") & O_NONBLOCK) != 0;
}

// Leaves this process no free descriptor below the lowest it has free.
class OutOfDescriptors {
 public:
  OutOfDescriptors() {
    net::check(::getrlimit(RLIMIT_NOFILE, &before_), "getrlimit");
    const net::Fd lowest_free(net::check(::dup(0), "dup"));
    rlimit limit = before_;
    limit.rlim_cur = static_cast<rlim_t>(lowest_free.get());
    net::check(::setrlimit(RLIMIT_NOFILE, &limit), "setrlimit");
  }
  OutOfDescriptors(const OutOfDescriptors&) = delete;
  OutOfDescriptors& operator=(const OutOfDescriptors&) = delete;
  ~OutOfDescriptors() { ::setrlimit(RLIMIT_NOFILE, &before_); }

 private:
  rlimit before_{};
};

}  // namespace

TEST_CASE("an address reads as host and port, IPv6 in brackets") {
  CHECK(net::resolve("127.0.0.1", 8080).text() == "127.0.0.1:8080");
  CHECK(net::resolve("::1", 8080).text() == "[::1]:8080");
  CHECK(net::resolve("2001:db8::7", 65535).text() == "[2001:db8::7]:65535");
  CHECK(net::resolve("::ffff:127.0.0.1", 0).text() == "[::ffff:127.0.0.1]:0");
}

TEST_CASE("a name that cannot be looked up is named in the error") {
  // The blanks keep the question from any name server.
  const std::string message = what([] { net::resolve("not a host", 80); });
  CHECK(message.starts_with("getaddrinfo not a host: "));
  CHECK(message.size() > std::string("getaddrinfo not a host: ").size());
}

TEST_CASE("with port 0 the kernel chooses, and local_address says what") {
  const net::Fd first = listener();
  const net::Fd second = listener();
  CHECK(net::local_address(first).text().starts_with("127.0.0.1:"));
  CHECK_FALSE(net::local_address(first).text().ends_with(":0"));
  CHECK(net::local_address(first).text() != net::local_address(second).text());
  CHECK(what([] { net::local_address(net::Fd()); }) ==
        "getsockname: Bad file descriptor");
}

TEST_CASE("a listener blocks and is not handed to other programs") {
  const net::Fd socket = listener();
  CHECK(close_on_exec(socket));
  CHECK_FALSE(nonblocking(socket));
  CHECK(option(socket, SOL_SOCKET, SO_REUSEADDR) == 1);
}

TEST_CASE("a port in use is an error with the call and the address") {
  const net::Fd first = listener();
  const net::Address address = net::local_address(first);
  CHECK(what([&] { net::listen_on(address); }) ==
        "bind " + address.text() + ": Address already in use");
}

TEST_CASE("an address of another machine is an error with its name") {
  // From 192.0.2.0/24, which is for documentation only (RFC 5737).
  CHECK(what([] { net::listen_on(net::resolve("192.0.2.1", 0)); }) ==
        "bind 192.0.2.1:0: Cannot assign requested address");
}

TEST_CASE("a restart need not wait for connections in TIME_WAIT") {
  net::Fd first = listener();
  const net::Address address = net::local_address(first);
  net::Fd client = net::connect_to(address);
  {
    // The side that closes first keeps the TIME_WAIT.
    const net::Fd accepted = accept_from(first);
  }
  pollfd entry{client.get(), POLLIN, 0};
  REQUIRE(::poll(&entry, 1, 20000) == 1);
  client = net::Fd();
  first = net::Fd();
  const net::Fd second = net::listen_on(address);
  CHECK(net::local_address(second).text() == address.text());
}

TEST_CASE("an accepted socket inherits TCP_NODELAY from its listener") {
  const net::Fd server = listener();
  const net::Fd client = net::connect_to(net::local_address(server));
  const net::Fd accepted = accept_from(server);
  CHECK(option(accepted, IPPROTO_TCP, TCP_NODELAY) != 0);
}

TEST_CASE("a connection blocks, does not delay, and is not handed on") {
  const net::Fd server = listener();
  const net::Fd client = net::connect_to(net::local_address(server));
  CHECK(option(client, IPPROTO_TCP, TCP_NODELAY) != 0);
  CHECK(close_on_exec(client));
  CHECK_FALSE(nonblocking(client));
}

TEST_CASE("a refused connection is an error with the call and the address") {
  net::Fd server = listener();
  const net::Address address = net::local_address(server);
  server = net::Fd();
  CHECK(what([&] { net::connect_to(address); }) ==
        "connect " + address.text() + ": Connection refused");
}

TEST_CASE("is_listening is false once the listener has been shut down") {
  const net::Fd socket = listener();
  CHECK(net::is_listening(socket));
  net::check(::shutdown(socket.get(), SHUT_RDWR), "shutdown");
  CHECK_FALSE(net::is_listening(socket));
}

TEST_CASE("is_listening tells a listener that was shut down at EMFILE too") {
  const net::Fd socket = listener();
  net::set_nonblocking(socket);
  const OutOfDescriptors limit;
  REQUIRE(::accept4(socket.get(), nullptr, nullptr, SOCK_CLOEXEC) == -1);
  REQUIRE(errno == EMFILE);
  CHECK(net::is_listening(socket));
  net::check(::shutdown(socket.get(), SHUT_RDWR), "shutdown");
  REQUIRE(::accept4(socket.get(), nullptr, nullptr, SOCK_CLOEXEC) == -1);
  REQUIRE(errno == EMFILE);
  CHECK_FALSE(net::is_listening(socket));
}

TEST_CASE("no descriptor for a socket is an error with the address") {
  const net::Address address = net::resolve("127.0.0.1", 1);
  const OutOfDescriptors limit;
  CHECK(what([&] { net::connect_to(address); }) ==
        "socket 127.0.0.1:1: Too many open files");
}

TEST_CASE("set_nonblocking keeps the other flags and reaches duplicates") {
  const net::Fd fd(
      net::check(::open("/dev/null", O_WRONLY | O_APPEND | O_CLOEXEC), "open"));
  const net::Fd duplicate(net::check(::dup(fd.get()), "dup"));
  net::set_nonblocking(fd);
  CHECK(nonblocking(duplicate));
  CHECK((::fcntl(fd.get(), F_GETFL) & O_APPEND) != 0);
  CHECK(what([] { net::set_nonblocking(net::Fd()); }) ==
        "fcntl F_GETFL: Bad file descriptor");
}
