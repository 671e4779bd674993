// Angle brackets: quotes would find the file beside this one first, also when
// the solution is to be tested.
#include <drain.hpp>

#include <doctest/doctest.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstddef>
#include <string>
#include <string_view>

#include "common/error.hpp"
#include "common/fd.hpp"
#include "common/testing/client.hpp"

namespace {

int calls = 0;          // of recv
int interruptions = 0;  // still to come

}  // namespace

// Takes the place of libc's recv in this program.
extern "C" ssize_t recv(int fd, void* buffer, std::size_t n, int flags) {
  ++calls;
  if (interruptions > 0) {
    --interruptions;
    errno = EINTR;
    return -1;
  }
  return ::syscall(SYS_recvfrom, fd, buffer, n, flags, nullptr, nullptr);
}

namespace {

constexpr std::size_t plenty = 1 << 20;

std::string name(Next next) {
  switch (next) {
    case Next::Wait:
      return "Wait";
    case Next::Again:
      return "Again";
    case Next::Ended:
      return "Ended";
    default:
      return "Broken";
  }
}

// A client and the server's end of its connection. What is sent is there at
// once: these are local sockets.
class Connection {
 public:
  Connection() {
    std::array<int, 2> fds{};
    net::check(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK,
                            0, fds.data()),
               "socketpair");
    server_ = net::Fd(fds[0]);
    client_ = net::Fd(fds[1]);
  }

  void send(std::string_view words) const {
    const ssize_t n = ::send(client_.get(), words.data(), words.size(), 0);
    if (n != std::ssize(words)) net::throw_errno("send");
  }
  void finish() const {
    net::check(::shutdown(client_.get(), SHUT_WR), "shutdown");
  }

  // Who closes with bytes unread resets the connection.
  void reset() {
    net::check(::send(server_.get(), "x", 1, 0), "send");
    client_ = net::Fd();
  }

  // One turn; what it reads is added to bytes.
  Next turn(bool wary, std::size_t budget) {
    calls = 0;
    return drain(server_.get(), wary, budget,
                 [this](std::string_view block) { bytes += block; });
  }

  std::string bytes;

 private:
  net::Fd server_;
  net::Fd client_;
};

}  // namespace

TEST_CASE("more than one block has come") {
  Connection connection;
  const std::string sent = testing::pattern(3 * block_size + 100);
  connection.send(sent);
  const Next next = connection.turn(false, plenty);
  // In parentheses: doctest would print the bytes.
  CHECK_MESSAGE((connection.bytes == sent), "all of it is read");
  CHECK_MESSAGE(name(next) == "Wait", "nothing is left to be read now");
  CHECK_MESSAGE(calls == 4, "the recv that came short was the last call");
}

TEST_CASE("what has come fills the last block") {
  Connection connection;
  connection.send(testing::pattern(2 * block_size));
  CHECK_MESSAGE(name(connection.turn(false, plenty)) == "Wait",
                "EAGAIN is no error and no end");
}

TEST_CASE("the end comes with the bytes") {
  Connection connection;
  connection.send("last words");
  connection.finish();
  CHECK_MESSAGE(name(connection.turn(true, plenty)) == "Ended",
                "the end behind the short read is found");
}

TEST_CASE("a client finishes without a word") {
  Connection connection;
  connection.finish();
  CHECK_MESSAGE(name(connection.turn(true, plenty)) == "Ended",
                "a recv that returns 0 has found the end");
}

TEST_CASE("a reset comes with the bytes") {
  Connection connection;
  connection.send("last words");
  connection.reset();
  const Next next = connection.turn(true, plenty);
  CHECK_MESSAGE(connection.bytes == "last words",
                "the bytes before the reset are read");
  CHECK_MESSAGE(name(next) == "Broken", "a reset is no orderly end");
}

TEST_CASE("an end was reported and the stream goes on") {
  Connection connection;
  connection.send("more to come");
  CHECK_MESSAGE(name(connection.turn(true, plenty)) == "Wait",
                "the end is there when recv says so");
}

TEST_CASE("signals interrupt the reading") {
  Connection connection;
  connection.send("hello");
  interruptions = 2;
  const Next next = connection.turn(false, plenty);
  interruptions = 0;
  CHECK_MESSAGE(name(next) + ' ' + connection.bytes == "Wait hello",
                "an interrupted call is made again");
}

TEST_CASE("more has come than one turn may read") {
  Connection connection;
  const std::string sent = testing::pattern(10 * block_size);
  connection.send(sent);
  constexpr std::size_t budget = 2 * block_size + 100;
  Next next = connection.turn(false, budget);
  REQUIRE_MESSAGE(connection.bytes.size() <= budget,
                  "a turn keeps to its budget");
  REQUIRE_MESSAGE(name(next) == "Again",
                  "more is there, and no edge will say so");
  for (int i = 0; i < 20 && next == Next::Again; ++i) {
    next = connection.turn(false, budget);
  }
  CHECK_MESSAGE((connection.bytes == sent),
                "nothing is lost between two turns");
}
