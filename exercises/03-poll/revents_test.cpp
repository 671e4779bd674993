// Angle brackets: quotes would find the file beside this one first, also when
// the solution is to be tested.
#include <revents.hpp>

#include <doctest/doctest.h>
#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <csignal>
#include <string>
#include <utility>

#include "common/error.hpp"
#include "common/fd.hpp"
#include "common/socket.hpp"

namespace {

constexpr int patience = 5000;  // milliseconds

struct Pair {
  net::Fd server;
  net::Fd client;
};

Pair local_sockets() {
  std::array<int, 2> fds{};
  net::check(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds.data()),
             "socketpair");
  return {net::Fd(fds[0]), net::Fd(fds[1])};
}

Pair tcp_sockets() {
  const net::Fd listener = net::listen_on(net::resolve("127.0.0.1", 0));
  net::Fd client = net::connect_to(net::local_address(listener));
  net::Fd server(net::check(
      ::accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC), "accept4"));
  return {std::move(server), std::move(client)};
}

// The end for reading, the end for writing.
std::array<net::Fd, 2> new_pipe() {
  std::array<int, 2> fds{};
  net::check(::pipe2(fds.data(), O_CLOEXEC), "pipe2");
  return {net::Fd(fds[0]), net::Fd(fds[1])};
}

void send(const net::Fd& client, const std::string& bytes) {
  net::check(::write(client.get(), bytes.data(), bytes.size()), "write");
}

// Ends the connection with RST, and waits until the other end knows.
void reset(Pair& pair) {
  const linger at_once{1, 0};
  net::check(::setsockopt(pair.client.get(), SOL_SOCKET, SO_LINGER, &at_once,
                          sizeof at_once),
             "setsockopt SO_LINGER");
  pair.client = net::Fd();
  pollfd entry{pair.server.get(), 0, 0};
  net::check(::poll(&entry, 1, patience), "poll");
}

// What a server is to do with the bytes it has read.
enum class Answer { None, Echo };

// One client of a server that lets next_step decide. What happens is written
// down: the bytes that were read, then how it ended.
class Visit {
 public:
  Visit(const net::Fd& fd, Answer answer, std::string pending = {})
      : fd_(fd.get()), answer_(answer), pending_(std::move(pending)) {}

  std::string run() {
    std::string end;
    for (int i = 0; i < 100 && end.empty(); ++i) end = round();
    return read_ + (end.empty() ? ", spins" : end);
  }

 private:
  std::string round() {
    const int asked = pending_.empty() ? POLLIN | POLLRDHUP : POLLOUT;
    pollfd entry{fd_, static_cast<short>(asked), 0};
    if (net::check(::poll(&entry, 1, patience), "poll") == 0) return ", waits";
    switch (next_step(entry.revents)) {
      case Step::Read:
        return read();
      case Step::Write:
        return write();
      case Step::Drop:
        return ", ended";
      case Step::Bug:
        return ", bug";
      default:
        return ", spins";
    }
  }

  // Four bytes at most, so that some are left for the next round.
  std::string read() {
    std::array<char, 4> buffer;
    const ssize_t n = ::read(fd_, buffer.data(), buffer.size());
    if (n <= 0) return ", ended";
    const std::string bytes(buffer.data(), static_cast<std::size_t>(n));
    read_ += bytes;
    if (answer_ == Answer::Echo) pending_ = bytes;
    return {};
  }

  std::string write() {
    ::signal(SIGPIPE, SIG_IGN);  // MSG_NOSIGNAL is for sockets only
    const ssize_t n = ::write(fd_, pending_.data(), pending_.size());
    if (n < 0) return ", ended";
    pending_.erase(0, static_cast<std::size_t>(n));
    return {};
  }

  int fd_;
  Answer answer_;
  std::string pending_;
  std::string read_;
};

std::string name(Step step) {
  switch (step) {
    case Step::Nothing:
      return "Nothing";
    case Step::Read:
      return "Read";
    case Step::Write:
      return "Write";
    case Step::Drop:
      return "Drop";
    default:
      return "Bug";
  }
}

}  // namespace

TEST_CASE("who sends and hangs up is read first") {
  Pair pair = local_sockets();
  send(pair.client, "last words");
  pair.client = net::Fd();
  CHECK_MESSAGE(Visit(pair.server, Answer::None).run() == "last words, ended",
                "the bytes before the hang-up are read");
}

TEST_CASE("who sends and resets is read first") {
  Pair pair = tcp_sockets();
  send(pair.client, "last words");
  reset(pair);
  CHECK_MESSAGE(Visit(pair.server, Answer::None).run() == "last words, ended",
                "the bytes before the reset are read");
}

TEST_CASE("who has finished talking is answered") {
  Pair pair = tcp_sockets();
  send(pair.client, "a question");
  net::check(::shutdown(pair.client.get(), SHUT_WR), "shutdown");
  Visit(pair.server, Answer::Echo).run();
  pair.server = net::Fd();
  CHECK_MESSAGE(Visit(pair.client, Answer::None).run() == "a question, ended",
                "the answer to the last question comes");
}

TEST_CASE("an empty pipe without a writer hangs up and has no input") {
  auto [server, client] = new_pipe();
  client = net::Fd();
  CHECK_MESSAGE(Visit(server, Answer::None).run() == ", ended",
                "the end of the pipe is noticed");
}

TEST_CASE("a full pipe without a reader has an error and no room") {
  auto [client, server] = new_pipe();
  net::set_nonblocking(server);
  const std::string page(4096, 'x');
  while (::write(server.get(), page.data(), page.size()) > 0) {
  }
  client = net::Fd();
  CHECK_MESSAGE(Visit(server, Answer::None, page).run() == ", ended",
                "the error that nobody asked for is noticed");
}

TEST_CASE("a descriptor that is not open is a bug") {
  Pair pair = local_sockets();
  const int number = pair.server.get();
  pair.server = net::Fd();
  pollfd entry{number, POLLIN, 0};
  net::check(::poll(&entry, 1, patience), "poll");
  CHECK_MESSAGE(name(next_step(entry.revents)) == "Bug",
                "POLLNVAL is the server's own fault");
}

TEST_CASE("who has not said anything is left alone") {
  Pair pair = local_sockets();
  pollfd entry{pair.server.get(), POLLIN, 0};
  net::check(::poll(&entry, 1, 0), "poll");
  CHECK_MESSAGE(name(next_step(entry.revents)) == "Nothing",
                "silence is no event");
}
