// Angle brackets: quotes would find the file beside this one first, also when
// the solution is to be tested.
#include <generation.hpp>

#include <doctest/doctest.h>
#include <fcntl.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "common/error.hpp"
#include "common/fd.hpp"

namespace {

struct Pair {
  net::Fd server;
  net::Fd client;
};

// What happens at one end is seen at the other at once: local sockets.
Pair new_pair() {
  std::array<int, 2> fds{};
  net::check(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK,
                          0, fds.data()),
             "socketpair");
  return {net::Fd(fds[0]), net::Fd(fds[1])};
}

// Moves the server's end to this number, or to the next one that is free.
void renumber(Pair& pair, int number) {
  pair.server = net::Fd(net::check(
      ::fcntl(pair.server.get(), F_DUPFD_CLOEXEC, number), "fcntl F_DUPFD"));
}

// Clients with names. Their turns are written down: "ann" or "ann hung up".
class Server {
 public:
  using Turn = std::function<void(const std::string& name)>;

  void enter(const std::string& name) { enter(name, new_pair()); }

  void say(const std::string& name) { say(peers_.at(name)); }

  void hang_up(const std::string& name) { peers_.at(name) = net::Fd(); }

  void drop(const std::string& name) {
    const int number = numbers_.at(name);
    clients_.drop(number);
    names_.erase(number);
  }

  // The newcomer gets the number of the one who leaves, if that is free now.
  void replace(const std::string& name, const std::string& newcomer,
               bool speaks = false) {
    const int number = numbers_.at(name);
    Pair pair = new_pair();
    if (speaks) say(pair.client);
    drop(name);
    renumber(pair, number);
    enter(newcomer, std::move(pair));
  }

  // Rounds until nobody has a turn any more; who had one.
  std::vector<std::string> turns(const Turn& turn = [](const auto&) {}) {
    std::vector<std::string> all;
    for (std::size_t before = 1; before != all.size() && all.size() < 100;) {
      before = all.size();
      clients_.round(
          std::chrono::milliseconds(0), [&](int fd, std::uint32_t events) {
            const auto found = names_.find(fd);
            const bool known = found != names_.end();
            const std::string name = known ? found->second : "nobody";
            const bool end = (events & EPOLLHUP) != 0;
            all.push_back(end ? name + " hung up" : name);
            turn(name);
          });
    }
    return all;
  }

  // Whether the client sees the end of its connection now.
  bool is_let_go(const std::string& name) const {
    char byte = 0;
    return ::recv(peers_.at(name).get(), &byte, 1, MSG_DONTWAIT) == 0;
  }

 private:
  static void say(const net::Fd& client) {
    net::check(::send(client.get(), "x", 1, 0), "send");
  }

  void enter(const std::string& name, Pair pair) {
    const int number = pair.server.get();
    numbers_[name] = number;
    names_[number] = name;
    peers_[name] = std::move(pair.client);
    clients_.add(std::move(pair.server));
  }

  std::map<int, std::string> names_;  // of those who are there
  std::map<std::string, int> numbers_;
  std::map<std::string, net::Fd> peers_;
  Clients clients_;
};

std::string text(std::vector<std::string> turns) {
  std::sort(turns.begin(), turns.end());
  std::string line;
  for (const std::string& turn : turns) {
    line += (line.empty() ? "" : ", ") + turn;
  }
  return line;
}

// The one of two who is not this one.
std::string other(const std::string& name) {
  return name == "ann" ? "bob" : "ann";
}

}  // namespace

TEST_CASE("a newcomer has no turn under an old number") {
  Server server;
  for (const char* name : {"ann", "bob"}) server.enter(name);
  for (const char* name : {"ann", "bob"}) server.hang_up(name);
  std::string first;
  const auto turns = server.turns([&](const std::string& name) {
    if (!first.empty()) return;
    first = name;
    server.replace(other(name), "eve");
  });
  CHECK_MESSAGE(text(turns) == first + " hung up",
                "nothing has happened to the newcomer");
}

TEST_CASE("a newcomer has spoken before it comes") {
  Server server;
  for (const char* name : {"ann", "bob"}) server.enter(name);
  for (const char* name : {"ann", "bob"}) server.hang_up(name);
  std::string first;
  const auto turns = server.turns([&](const std::string& name) {
    if (!first.empty()) return;
    first = name;
    server.replace(other(name), "eve", true);
  });
  CHECK_MESSAGE(text(turns) == first + " hung up, eve",
                "the newcomer has one turn, for its own words");
}

TEST_CASE("a number is given twice in one batch") {
  Server server;
  for (const char* name : {"ann", "bob"}) server.enter(name);
  for (const char* name : {"ann", "bob"}) server.hang_up(name);
  std::string first;
  const auto turns = server.turns([&](const std::string& name) {
    if (!first.empty()) return;
    first = name;
    server.replace(other(name), "eve");
    server.replace("eve", "fay");
  });
  CHECK_MESSAGE(text(turns) == first + " hung up",
                "nothing has happened to the second newcomer");
}

TEST_CASE("the others in the batch have their turns") {
  // In one of the two runs the stale event comes before the last one.
  for (const std::size_t place : {0U, 1U}) {
    Server server;
    std::vector<std::string> others{"ann", "bob", "joe"};
    for (const std::string& name : others) server.enter(name);
    for (const std::string& name : others) server.say(name);
    std::string first;
    const auto turns = server.turns([&](const std::string& name) {
      if (!first.empty()) return;
      first = name;
      std::erase(others, name);
      server.replace(others[place], "eve");
    });
    CHECK_MESSAGE(text(turns) == text({first, others[1 - place]}),
                  "who stays has the turn that is due");
  }
}

TEST_CASE("who is dropped before its turn has none") {
  Server server;
  for (const char* name : {"ann", "bob"}) server.enter(name);
  for (const char* name : {"ann", "bob"}) server.say(name);
  std::string first;
  const auto turns = server.turns([&](const std::string& name) {
    if (!first.empty()) return;
    first = name;
    server.drop(other(name));
  });
  CHECK_MESSAGE(text(turns) == first, "who has been dropped has no turn");
}

TEST_CASE("who is dropped is let go") {
  Server server;
  for (const char* name : {"ann", "bob"}) server.enter(name);
  server.say("ann");
  server.turns([&](const std::string&) { server.replace("bob", "eve"); });
  CHECK_MESSAGE(server.is_let_go("bob"),
                "the connection of the dropped client has ended");
}

TEST_CASE("a newcomer speaks later") {
  Server server;
  for (const char* name : {"ann", "bob"}) server.enter(name);
  server.replace("bob", "eve");
  server.turns();
  server.say("eve");
  CHECK_MESSAGE(text(server.turns()) == "eve",
                "the newcomer has a turn when it speaks");
}
