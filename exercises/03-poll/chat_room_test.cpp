// Angle brackets: quotes would find the file beside this one first, also when
// the solution is to be tested.
#include <chat_room.hpp>

#include <doctest/doctest.h>
#include <poll.h>
#include <sys/socket.h>

#include <chrono>
#include <csignal>
#include <cstddef>
#include <exception>
#include <initializer_list>
#include <stdexcept>
#include <string>
#include <utility>

#include "common/error.hpp"
#include "common/testing/client.hpp"
#include "common/testing/process.hpp"
#include "common/testing/running_server.hpp"

namespace {

using testing::Client;

// How long a test waits for what a right server does at once. Where one wait
// was in vain others will be, and the learner wants to read about it.
std::chrono::milliseconds patience{5000};
constexpr std::chrono::milliseconds little_patience{500};

// "", or what went wrong.
template <typename Attempt>
std::string verdict(Attempt attempt) {
  try {
    attempt();
  } catch (const testing::TimedOut& error) {
    patience = little_patience;
    return error.what();
  } catch (const std::exception& error) {
    return error.what();
  }
  return {};
}

void limit_buffer(int fd, int option) {
  const int bytes = 16384;
  net::check(::setsockopt(fd, SOL_SOCKET, option, &bytes, sizeof bytes),
             "setsockopt");
}

// The server beside the test. The kernel keeps little for each guest (an
// accepted socket has the listener's limit), so the backlog is the server's.
class House {
 public:
  House()
      : server_([](net::Fd listener) {
          limit_buffer(listener.get(), SO_SNDBUF);
          serve(std::move(listener));
        }) {
    // Until it serves, its descriptors come and go and cannot be counted.
    wait_until("the server to wait for guests", [&] { return sleeps(); });
  }

  // Connects and waits until the server has accepted.
  Client enter() {
    const std::size_t before = descriptors();
    Client guest = knock();
    wait_until("the guest to be let in",
               [&] { return descriptors() > before; });
    return guest;
  }

  // Connects.
  Client knock() {
    Client guest(server_.address(), patience);
    limit_buffer(guest.fd(), SO_RCVBUF);
    return guest;
  }

  // "" once the server sleeps and does not wake for 20 ms.
  std::string asleep() {
    return verdict([&] {
      wait_until("the server to sleep", [&] { return sleeps_for_20_ms(); });
    });
  }

  void no_more_descriptors() { server_.limit_descriptors(descriptors()); }

  void stop_for_a_while() {
    server_.signal(SIGSTOP);
    wait_until("the server to stop",
               [&] { return testing::state(server_.pid()) == 'T'; });
  }
  void go_on() { server_.signal(SIGCONT); }

  bool close() { return server_.stop().clean; }

 private:
  std::size_t descriptors() { return testing::open_descriptors(server_.pid()); }

  bool sleeps() { return testing::state(server_.pid()) == 'S'; }

  bool sleeps_for_20_ms() {
    const auto wakeups = testing::voluntary_switches(server_.pid());
    ::poll(nullptr, 0, 20);
    return sleeps() && testing::voluntary_switches(server_.pid()) == wakeups;
  }

  template <typename Holds>
  void wait_until(const char* what, Holds holds) {
    testing::wait_until(
        what,
        [&] {
          if (testing::state(server_.pid()) == 'Z') {
            throw std::runtime_error("the server has ended");
          }
          return holds();
        },
        patience);
  }

  testing::RunningServer server_;
};

// "", or what this guest hears instead of these words.
std::string hears(Client& guest, const std::string& words) {
  return verdict([&] {
    const std::string heard = guest.receive(words.size());
    if (heard == words) return;
    throw std::runtime_error(heard.size() < 80 ? "hears '" + heard + "'"
                                               : "hears other bytes");
  });
}

// "", or what the first of them that goes wrong hears instead.
std::string all_hear(std::initializer_list<Client*> guests,
                     const std::string& words) {
  for (Client* guest : guests) {
    std::string wrong = hears(*guest, words);
    if (!wrong.empty()) return wrong;
  }
  return {};
}

// "" if the guest's stream ends now.
std::string hears_the_end(Client& guest) {
  return verdict([&] {
    if (!guest.ended()) throw std::runtime_error("hears more");
  });
}

// "" if the connection ends, by FIN or RST, before so many bytes have come.
std::string ends_before(Client& guest, std::size_t bytes) {
  return verdict([&] {
    try {
      guest.receive(bytes);
    } catch (const testing::TimedOut&) {
      throw;
    } catch (const std::exception&) {
      return;
    }
    throw std::runtime_error("is still there");
  });
}

}  // namespace

TEST_CASE("the room closes when the listener is shut down") {
  House house;
  Client ann = house.enter();
  Client bob = house.enter();
  const bool clean = house.close();
  CHECK_MESSAGE(clean, "nothing is left behind");
}

TEST_CASE("everybody else hears what a guest says") {
  House house;
  Client ann = house.enter();
  Client bob = house.enter();
  Client eve = house.enter();
  bob.send("good morning\n");
  REQUIRE_MESSAGE(all_hear({&ann, &eve}, "good morning\n") == "",
                  "the others hear it");
  eve.send("good morning, bob\n");
  CHECK_MESSAGE(hears(bob, "good morning, bob\n") == "",
                "nobody hears what he has said himself");
}

TEST_CASE("who reads late has lost nothing") {
  House house;
  Client ann = house.enter();
  Client bob = house.enter();
  Client late = house.enter();
  const std::string speech = testing::pattern(backlog_limit - 65536);
  ann.send(speech);
  // What bob has heard, the server has tried to send to the late one too.
  hears(bob, speech);
  CHECK_MESSAGE(hears(late, speech) == "", "what fits the limit was kept");
}

TEST_CASE("who never reads delays nobody and is let go") {
  House house;
  Client ann = house.enter();
  Client deaf = house.enter();
  Client bob = house.enter();
  const std::string words = testing::pattern(65536);
  constexpr int times = 64;
  std::string wrong;
  for (int i = 0; i < times && wrong.empty(); ++i) {
    ann.send(words);
    wrong = hears(bob, words);
  }
  REQUIRE_MESSAGE(wrong == "", "the others go on talking");
  CHECK_MESSAGE(ends_before(deaf, times * words.size()) == "",
                "its stream ends before all has come");
}

TEST_CASE("who has finished talking gets the rest and then the end") {
  House house;
  Client ann = house.enter();
  Client bob = house.enter();
  Client leaver = house.enter();
  const std::string speech = testing::pattern(backlog_limit / 2);
  ann.send(speech);
  hears(bob, speech);
  leaver.finish();
  CHECK_MESSAGE(house.asleep() == "", "the rest waits without costing rounds");
  REQUIRE_MESSAGE(hears(leaver, speech) == "",
                  "all that was said before has come");
  CHECK_MESSAGE(hears_the_end(leaver) == "", "after it the stream ends");
}

TEST_CASE("a reset ends one guest alone") {
  House house;
  Client early = house.enter();
  Client ann = house.enter();
  Client late = house.enter();
  Client bob = house.enter();
  // When the server looks again, two are gone, and at least one of them is
  // spoken to before the server can know. The FIN before the RST makes that
  // an EPIPE, the error that comes with SIGPIPE.
  house.stop_for_a_while();
  for (Client* guest : {&early, &late}) {
    guest->finish();
    guest->reset();
  }
  ann.send("who is still here?\n");
  house.go_on();
  CHECK_MESSAGE(hears(bob, "who is still here?\n") == "",
                "the server and the others are still there");
}

TEST_CASE("out of descriptors nobody is lost") {
  House house;
  Client ann = house.enter();
  Client bob = house.enter();
  house.no_more_descriptors();
  Client eve = house.knock();
  eve.send("let me in\n");
  CHECK_MESSAGE(house.asleep() == "", "a full house does not spin");
  ann.send("it is full here\n");
  REQUIRE_MESSAGE(hears(bob, "it is full here\n") == "",
                  "those in the room are served");
  ann.finish();
  CHECK_MESSAGE(hears(bob, "let me in\n") == "",
                "whoever waits gets in when somebody leaves");
}
