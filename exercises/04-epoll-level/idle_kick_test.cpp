// Angle brackets: quotes would find the file beside this one first, also when
// the solution is to be tested.
#include <idle_kick.hpp>

#include <doctest/doctest.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <exception>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "common/error.hpp"
#include "common/fd.hpp"

namespace {

using namespace std::chrono_literals;
using Numbers = std::vector<int>;

constexpr Clock::time_point start{1000s};

// Clients that may be silent for 100 ms.
IdleClients clients_heard_at_start(const Numbers& numbers) {
  IdleClients idle(100ms);
  for (const int fd : numbers) idle.heard(fd, start);
  return idle;
}

// "7 8 9"
std::string text(const Numbers& numbers) {
  std::string line;
  for (const int fd : numbers) {
    line += (line.empty() ? "" : " ") + std::to_string(fd);
  }
  return line;
}

Numbers sorted(Numbers numbers) {
  std::sort(numbers.begin(), numbers.end());
  return numbers;
}

// False if it throws.
template <typename Call>
bool works(Call call) {
  try {
    call();
  } catch (const std::exception&) {
    return false;
  }
  return true;
}

// A real loop with real time. It goes on until nobody is left, and writes down
// what has happened.
class Loop {
 public:
  Loop()
      : epoll_(net::check(::epoll_create1(EPOLL_CLOEXEC), "epoll_create1")) {}

  // Comes now, and later than the one before.
  void add(char name) {
    const auto before = Clock::now();
    while (Clock::now() < before + 5ms) continue;
    std::array<int, 2> ends{};
    net::check(
        ::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends.data()),
        "socketpair");
    Client client{name, net::Fd(ends[0]), net::Fd(ends[1]), Clock::now()};
    epoll_event event{EPOLLIN, {.fd = ends[0]}};
    net::check(::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, ends[0], &event),
               "epoll_ctl");
    idle_.heard(ends[0], client.heard);
    clients_[ends[0]] = std::move(client);
  }

  // The one of this name says something.
  void say(char name) {
    for (const auto& [fd, client] : clients_) {
      if (client.name == name) ::send(client.peer.get(), "x", 1, MSG_NOSIGNAL);
    }
  }

  void run() {
    while (!clients_.empty() && wakeups_ < 100) {
      const int timeout = idle_.timeout(Clock::now());
      if (timeout < 0) return;  // it would sleep for ever
      epoll_event event{};
      const int n = ::epoll_wait(epoll_.get(), &event, 1, timeout);
      ++wakeups_;
      const auto now = Clock::now();
      if (net::check(n, "epoll_wait") > 0) attend(event.data.fd, now);
      for (const int fd : idle_.take_silent(now)) kick(fd, now);
    }
  }

  int wakeups() const { return wakeups_; }
  const std::string& kicked() const { return kicked_; }
  bool too_early() const { return too_early_; }

 private:
  static constexpr std::chrono::milliseconds limit{60};

  struct Client {
    char name = '?';
    net::Fd server;
    net::Fd peer;
    Clock::time_point heard{};
  };

  void attend(int fd, Clock::time_point now) {
    char byte = 0;
    net::check(::recv(fd, &byte, 1, 0), "recv");
    clients_.at(fd).heard = now;
    idle_.heard(fd, now);
  }

  void kick(int fd, Clock::time_point now) {
    const Client& client = clients_.at(fd);
    kicked_ += client.name;
    too_early_ = too_early_ || now - client.heard < limit;
    clients_.erase(fd);
  }

  net::Fd epoll_;
  IdleClients idle_{limit};
  std::map<int, Client> clients_;
  int wakeups_ = 0;
  std::string kicked_;
  bool too_early_ = false;
};

}  // namespace

TEST_CASE("nobody is there") {
  IdleClients idle(100ms);
  CHECK_MESSAGE(idle.timeout(start) == -1, "nobody is waited for");
  CHECK_MESSAGE(works([&] { idle.left(7); }), "who was not there may leave");
}

TEST_CASE("one client is there") {
  IdleClients idle = clients_heard_at_start({7});
  CHECK_MESSAGE(
      text({idle.timeout(start), idle.timeout(start + 30ms)}) == "100 70",
      "what is left of the limit is waited for");
  CHECK_MESSAGE(text({idle.timeout(start + 99ms + 1ns),
                      idle.timeout(start + 100ms - 1ns)}) == "1 1",
                "a part of a millisecond counts as a whole one");
  CHECK_MESSAGE(
      text({idle.timeout(start + 100ms), idle.timeout(start + 5s)}) == "0 0",
      "a deadline that has passed is not waited for");
  CHECK_MESSAGE(idle.take_silent(start + 100ms - 1ns).empty(),
                "before its deadline nobody is taken");
  CHECK_MESSAGE(text(idle.take_silent(start + 100ms)) == "7",
                "at its deadline it is taken");
}

TEST_CASE("who has been taken is forgotten") {
  IdleClients idle = clients_heard_at_start({7});
  idle.take_silent(start + 100ms);
  CHECK_MESSAGE((idle.timeout(start + 100ms) == -1 &&
                 idle.take_silent(start + 200ms).empty()),
                "nobody is taken twice");
}

TEST_CASE("who was first to come speaks") {
  IdleClients idle = clients_heard_at_start({7});
  idle.heard(8, start + 10ms);
  idle.heard(7, start + 50ms);
  CHECK_MESSAGE(idle.timeout(start + 50ms) == 60,
                "the longest silent decides, not the first to come");
  CHECK_MESSAGE(text(idle.take_silent(start + 120ms)) == "8",
                "who has spoken meanwhile stays");
}

TEST_CASE("several are silent") {
  IdleClients idle = clients_heard_at_start({9, 7, 8});
  SUBCASE("since the same time") {
    CHECK_MESSAGE(text(sorted(idle.take_silent(start + 100ms))) == "7 8 9",
                  "all are taken");
  }
  SUBCASE("since different times") {
    idle.heard(8, start + 10ms);
    idle.heard(7, start + 20ms);
    CHECK_MESSAGE(text(idle.take_silent(start + 150ms)) == "9 8 7",
                  "the longest silent comes first");
  }
}

TEST_CASE("a client leaves") {
  IdleClients idle = clients_heard_at_start({7, 8});
  idle.left(7);
  idle.heard(7, start + 50ms);
  CHECK_MESSAGE(text(idle.take_silent(start + 100ms)) == "8",
                "a number used again has a time of its own");
  idle.left(7);
  CHECK_MESSAGE(idle.timeout(start + 100ms) == -1,
                "who has left is not waited for");
}

TEST_CASE("the limit is a month") {
  IdleClients idle(std::chrono::days(30));
  idle.heard(7, start);
  CHECK_MESSAGE(idle.timeout(start) > 0, "a long time is waited for in parts");
}

TEST_CASE("a real loop waits") {
  Loop loop;
  for (const char name : {'a', 'b', 'c'}) loop.add(name);
  loop.say('a');
  loop.run();
  CHECK_MESSAGE(loop.kicked() == "bca",
                "all go, in the order of their silence");
  CHECK_MESSAGE(!loop.too_early(), "nobody goes too early");
  CHECK_MESSAGE(loop.wakeups() <= 4,
                "it wakes for one word and three deadlines");
}
