// Angle brackets: quotes would find the file beside this one first, also when
// the solution is to be tested.
#include <interest_change.hpp>

#include <doctest/doctest.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstddef>
#include <string>
#include <utility>

#include "common/error.hpp"
#include "common/fd.hpp"
#include "common/testing/client.hpp"

namespace {

int ctl_calls = 0;
int next_refusal = 0;  // the errno of the next call; 0: it is carried out

}  // namespace

// The linker finds it before the one of the C library.
extern "C" int epoll_ctl(int epoll, int change, int fd,
                         epoll_event* event) noexcept {
  ++ctl_calls;
  if (next_refusal != 0) {
    errno = std::exchange(next_refusal, 0);
    return -1;
  }
  return static_cast<int>(::syscall(SYS_epoll_ctl, epoll, change, fd, event));
}

namespace {

constexpr std::size_t most_at_once = 4096;
constexpr int spinning = 100;

// With little room in the kernel, so that it is soon full.
net::Fd limited(int fd) {
  net::Fd socket(fd);
  const int bytes = 16384;
  net::check(::setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &bytes, sizeof bytes),
             "setsockopt SO_SNDBUF");
  return socket;
}

// One client of an echo server, and the server's loop. Both ends are here, and
// what one has sent is there for the other at once: nothing has to be waited
// for.
class Visit {
 public:
  Visit()
      : epoll_(net::check(::epoll_create1(EPOLL_CLOEXEC), "epoll_create1")) {
    std::array<int, 2> ends{};
    net::check(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK,
                            0, ends.data()),
               "socketpair");
    server_ = limited(ends[0]);
    peer_ = limited(ends[1]);
    client_.fd = server_.get();
    next_refusal = 0;
  }

  bool tell() { return change_interest(epoll_.get(), client_); }

  // Goes round until nothing is reported: how often something was.
  int rounds() {
    int n = 0;
    while (n < spinning && round()) ++n;
    return n;
  }

  // The server has something for the client, whatever that has said.
  bool answer(const std::string& words) {
    pending_ += words;
    client_.pending = pending_.size();
    return tell();
  }

  // What the peer says, as far as there is room.
  bool say(const std::string& words) {
    const ssize_t n =
        ::send(peer_.get(), words.data(), words.size(), MSG_NOSIGNAL);
    if (n > 0) said_.append(words, 0, static_cast<std::size_t>(n));
    return n > 0;
  }

  // The peer says more, and does not listen, until nobody can send any more.
  void fill() {
    const std::string words = testing::pattern(most_at_once);
    while (say(words)) rounds();
  }

  // The peer listens until nothing more comes.
  std::string hear() {
    std::string heard;
    std::array<char, most_at_once> block;
    for (int idle = 0; idle < 2; ++idle) {
      ssize_t n = 0;
      while ((n = ::recv(peer_.get(), block.data(), block.size(), 0)) > 0) {
        heard.append(block.data(), static_cast<std::size_t>(n));
        idle = 0;
      }
      rounds();
    }
    return heard;
  }

  void finish() { net::check(::shutdown(peer_.get(), SHUT_WR), "shutdown"); }
  void hang_up() { peer_ = net::Fd(); }
  const std::string& said() const { return said_; }

 private:
  bool round() {
    if (dropped_) return false;
    epoll_event event{};
    const int n = ::epoll_wait(epoll_.get(), &event, 1, 0);
    if (net::check(n, "epoll_wait") == 0) return false;
    // A server has to drop a client that it cannot find or not wait for.
    const int named = event.data.fd;
    dropped_ = named != client_.fd;
    CHECK_MESSAGE(named == client_.fd,
                  "an event carries the client's descriptor");
    if (dropped_) return true;
    attend();
    client_.pending = pending_.size();
    dropped_ = !tell();
    CHECK_MESSAGE(!dropped_, "the kernel takes each change");
    return true;
  }

  void attend() {
    if (!pending_.empty()) return write_some();
    std::array<char, most_at_once> block;
    const ssize_t n = ::recv(client_.fd, block.data(), block.size(), 0);
    if (n == 0) client_.finished = true;
    if (n <= 0) return;
    pending_.assign(block.data(), static_cast<std::size_t>(n));
    write_some();
  }

  void write_some() {
    const ssize_t n =
        ::send(client_.fd, pending_.data(), pending_.size(), MSG_NOSIGNAL);
    if (n > 0) pending_.erase(0, static_cast<std::size_t>(n));
  }

  net::Fd epoll_;
  net::Fd server_;
  net::Fd peer_;
  Client client_;
  std::string pending_;
  std::string said_;
  bool dropped_ = false;
};

}  // namespace

TEST_CASE("a client is silent") {
  Visit visit;
  REQUIRE_MESSAGE(visit.tell(), "the kernel takes a new client");
  CHECK_MESSAGE(visit.rounds() == 0, "room to write is reported to nobody");
}

TEST_CASE("a client talks and listens") {
  Visit visit;
  visit.tell();
  const int calls_before = ctl_calls;
  visit.say(testing::pattern(2 * most_at_once + 1));
  CHECK_MESSAGE(visit.rounds() == 3, "input that was left is reported again");
  CHECK_MESSAGE(ctl_calls == calls_before,
                "what the kernel knows is not told again");
}

TEST_CASE("a client does not listen for a while") {
  Visit visit;
  visit.tell();
  visit.fill();
  CHECK_MESSAGE(visit.rounds() == 0, "while it does not listen it is quiet");
  CHECK_MESSAGE((visit.hear() == visit.said()),
                "what was pending is sent when there is room");
  CHECK_MESSAGE(visit.rounds() == 0,
                "once it has all, room to write is not reported any more");
}

TEST_CASE("a client has finished and hangs up") {
  Visit visit;
  visit.tell();
  visit.finish();
  visit.rounds();
  visit.hang_up();
  CHECK_MESSAGE(visit.rounds() == 0, "who has no entry cannot be reported");
}

TEST_CASE("a client has finished and gets a long answer") {
  Visit visit;
  visit.tell();
  visit.finish();
  CHECK_MESSAGE(visit.rounds() == 1, "the end of its stream is reported once");
  const std::string words = testing::pattern(100'000);
  CHECK_MESSAGE((visit.answer(words) && visit.hear() == words),
                "who has finished gets its answer");
}

TEST_CASE("the kernel refuses an entry") {
  Visit visit;
  next_refusal = ENOSPC;
  CHECK_MESSAGE(!visit.tell(), "the caller learns of the refusal");
  visit.tell();
  visit.say("hello");
  CHECK_MESSAGE(visit.rounds() == 1, "an entry that was refused is told again");
}

TEST_CASE("the kernel refuses a change") {
  Visit visit;
  visit.tell();
  next_refusal = ENOMEM;
  visit.answer("hello");
  CHECK_MESSAGE((visit.tell() && visit.rounds() == 1),
                "a change that was refused is told again");
}
