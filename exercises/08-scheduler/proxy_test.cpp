// Angle brackets: quotes would find the file beside this one first, also when
// the solution is to be tested.
#include <proxy.hpp>

#include <doctest/doctest.h>
#include <poll.h>
#include <sys/socket.h>

#include <atomic>
#include <chrono>
#include <cstddef>
#include <exception>
#include <functional>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "common/error.hpp"
#include "common/fd.hpp"
#include "common/socket.hpp"
#include "common/testing/client.hpp"
#include "common/testing/process.hpp"
#include "common/testing/running_server.hpp"

namespace {

using namespace std::chrono_literals;
using testing::Client;

// How long a test waits for what a right proxy does at once. Where one wait was
// in vain others will be, and the learner wants to read about it.
// Two threads wait at times.
std::atomic<std::chrono::milliseconds> patience{5000ms};
constexpr std::chrono::milliseconds little_patience{500};

// What comes of it, or what was thrown instead.
std::string outcome(const std::function<std::string()>& what) {
  try {
    return what();
  } catch (const testing::TimedOut& error) {
    patience = little_patience;
    return error.what();
  } catch (const std::exception& error) {
    return error.what();
  }
}

// True if it happens in time: what throws has not happened.
bool happens(const std::function<bool()>& what) {
  return outcome([&] { return what() ? "yes" : "no"; }) == "yes";
}

bool holds_soon(const std::function<bool()>& what) {
  return happens([&] {
    testing::wait_until("it holds", what, patience.load());
    return true;
  });
}

// The backend is played by the test itself, which accepts when it likes.
class Backend {
 public:
  const net::Address& address() const { return address_; }

  // So many connections may wait for accept, and one more.
  void listen(int backlog = SOMAXCONN) const {
    net::check(::listen(socket_.get(), backlog), "listen");
  }

  Client accept() const {
    pollfd entry{socket_.get(), POLLIN, 0};
    const int limit = static_cast<int>(patience.load().count());
    if (net::check(::poll(&entry, 1, limit), "poll") == 0) {
      throw testing::TimedOut("nobody has come to the backend");
    }
    const int fd = ::accept4(socket_.get(), nullptr, nullptr, SOCK_CLOEXEC);
    return Client(net::Fd(net::check(fd, "accept4")), patience.load());
  }

 private:
  // Bound, and refuses everybody as long as it does not listen.
  static net::Fd bound() {
    net::Fd socket(
        net::check(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), "socket"));
    const net::Address any = net::resolve("127.0.0.1", 0);
    net::check(::bind(socket.get(), any.get(), any.length), "bind");
    return socket;
  }

  net::Fd socket_ = bound();
  net::Address address_ = net::local_address(socket_);
};

// A connection through the proxy.
struct Ends {
  Client client;
  Client server;  // the backend's end
};

const std::string both_heard = "question, answer";

// What they hear of each other.
std::string talk(Ends& ends) {
  return outcome([&] {
    ends.client.send("question");
    const std::string question = ends.server.receive(8);
    ends.server.send("answer");
    return question + ", " + ends.client.receive(6);
  });
}

// What comes is too much to be printed.
std::string exchange(Client& end, const std::string& out,
                     const std::string& in) {
  return outcome(
      [&] { return end.exchange(out) == in ? "all of it" : "other bytes"; });
}

std::string end_of(Client& client) {
  return outcome([&] { return client.ended() ? "ended" : "goes on"; });
}

// The learner's proxy beside the test.
class House {
 public:
  House() {
    testing::wait_until("the proxy waits for clients", [this] {
      const char state = testing::state(proxy_.pid());
      if (state == 'Z') throw std::runtime_error("the proxy has ended");
      return state == 'S';
    });
  }
  House(const House&) = delete;
  House& operator=(const House&) = delete;
  ~House() {
    if (!ended_) end();
  }

  const Backend& backend() const { return backend_; }

  Client client() const { return Client(proxy_.address(), patience.load()); }

  // Throws if nobody comes to the backend for this client.
  Ends connect() const {
    Client newcomer = client();
    return {std::move(newcomer), backend_.accept()};
  }

  std::size_t descriptors() const {
    return testing::open_descriptors(proxy_.pid());
  }

  long milliseconds_computed_in(std::chrono::milliseconds window) const {
    const auto before = testing::cpu_time(proxy_.pid());
    std::this_thread::sleep_for(window);
    const auto spent = testing::cpu_time(proxy_.pid()) - before;
    return static_cast<long>(spent / 1ms);
  }

  // Not before it sleeps: what it does until then may use one.
  void no_more_descriptors() const {
    testing::wait_until_settled(proxy_.pid());
    proxy_.limit_descriptors(descriptors());
  }

  // By default a stop takes 20 seconds; who learns wants to know sooner.
  testing::RunningServer::Exit end() {
    ended_ = true;
    const auto exit = proxy_.stop(patience);
    if (!exit.ended) patience = little_patience;
    return exit;
  }

 private:
  Backend backend_;
  testing::RunningServer proxy_{[this](net::Fd listener) {
    proxy(std::move(listener), backend_.address());
  }};
  bool ended_ = false;
};

// One whose backend listens.
class OpenHouse : public House {
 public:
  OpenHouse() { backend().listen(); }
};

}  // namespace

TEST_CASE("the backend speaks first") {
  const OpenHouse house;
  Ends ends = house.connect();
  ends.server.send("welcome");
  CHECK_MESSAGE(outcome([&] { return ends.client.receive(7); }) == "welcome",
                "who speaks first is heard");
}

TEST_CASE("the client finishes first") {
  const OpenHouse house;
  Ends ends = house.connect();
  ends.client.send("question");
  ends.client.finish();
  CHECK_MESSAGE(
      outcome([&] { return ends.server.receive_all(); }) == "question",
      "the backend gets the question and then the end");
  CHECK_MESSAGE(outcome([&] {
                  ends.server.send("answer");
                  ends.server.finish();
                  return ends.client.receive_all();
                }) == "answer",
                "the answer still comes back");
}

TEST_CASE("the backend finishes first") {
  const OpenHouse house;
  Ends ends = house.connect();
  ends.server.send("welcome");
  ends.server.finish();
  CHECK_MESSAGE(outcome([&] {
                  const std::string heard = ends.client.receive_all();
                  ends.client.send("thanks");
                  ends.client.finish();
                  return heard + ", " + ends.server.receive_all();
                }) == "welcome, thanks",
                "the client may go on when the backend has finished");
}

TEST_CASE("both send a lot at once") {
  const OpenHouse house;
  Ends ends = house.connect();
  constexpr std::size_t size = 8 << 20;
  const std::string request = testing::pattern(size, 1);
  const std::string answer = testing::pattern(size, 2);
  std::string request_came;
  std::thread backend(
      [&] { request_came = exchange(ends.server, answer, request); });
  const std::string answer_came = exchange(ends.client, request, answer);
  backend.join();
  CHECK_MESSAGE(request_came + ", " + answer_came == "all of it, all of it",
                "each gets what the other has sent");
}

TEST_CASE("one of the two resets and the other is silent") {
  const OpenHouse house;
  Ends others = house.connect();
  for (const bool client_resets : {true, false}) {
    const std::size_t before = house.descriptors();
    Ends ends = house.connect();
    talk(ends);
    (client_resets ? ends.client : ends.server).reset();
    Client& other = client_resets ? ends.server : ends.client;
    CHECK_MESSAGE(end_of(other) == "ended",
                  "the other one learns of the reset");
    CHECK_MESSAGE(holds_soon([&] { return house.descriptors() == before; }),
                  "a reset gives back both descriptors");
    REQUIRE_MESSAGE(talk(others) == both_heard,
                    "a reset is nothing to the others");
  }
}

TEST_CASE("the backend refuses and then listens") {
  const House house;
  Client refused = house.client();
  CHECK_MESSAGE(end_of(refused) == "ended",
                "whom the backend refuses is let go");
  house.backend().listen();
  CHECK_MESSAGE(outcome([&] {
                  Ends ends = house.connect();
                  return talk(ends);
                }) == both_heard,
                "a refusal is nothing to the next one");
}

TEST_CASE("the backend does not answer and the proxy is stopped") {
  House house;
  house.backend().listen(0);
  const Client in_the_queue(house.backend().address(), patience.load());
  const std::size_t before = house.descriptors();
  const Client waits = house.client();
  holds_soon([&] { return house.descriptors() == before + 2; });
  CHECK_MESSAGE(house.end().ended, "it ends while a connection is being made");
}

TEST_CASE("a client does not read") {
  const OpenHouse house;
  Ends ends = house.connect();
  constexpr std::size_t most = 64 << 20;
  const std::size_t sent = ends.server.send_until_full(most, 500ms);
  CHECK_MESSAGE(sent < most, "who does not read stops who sends");
}

TEST_CASE("clients come and go") {
  const OpenHouse house;
  const std::size_t before = house.descriptors();
  for (int i = 0; i < 50; ++i) {
    Ends ends = house.connect();
    ends.client.finish();
    ends.server.finish();
    happens([&] { return ends.client.ended() && ends.server.ended(); });
  }
  CHECK_MESSAGE(holds_soon([&] { return house.descriptors() == before; }),
                "what clients have used is given back");
}

TEST_CASE("a hundred clients are there") {
  const OpenHouse house;
  std::vector<Ends> all;
  while (all.size() < 100) {
    const std::string heard = outcome([&] {
      all.push_back(house.connect());
      return talk(all.back());
    });
    REQUIRE_MESSAGE(heard == both_heard,
                    "a client is served while others are there");
  }
}

TEST_CASE("it is stopped while clients are there") {
  OpenHouse house;
  Ends one = house.connect();
  Ends other = house.connect();
  talk(one);
  const testing::RunningServer::Exit exit = house.end();
  CHECK_MESSAGE(exit.ended, "it ends although clients are there");
  CHECK_MESSAGE(exit.clean, "it returns and leaves nothing behind");
}

TEST_CASE("it is out of descriptors") {
  const OpenHouse house;
  std::vector<Ends> all;
  for (int i = 0; i < 2; ++i) all.push_back(house.connect());
  house.no_more_descriptors();
  Client waits = house.client();
  CHECK_MESSAGE(house.milliseconds_computed_in(500ms) < 50,
                "the proxy rests while it has no descriptor");
  CHECK_MESSAGE(
      talk(all[0]) + ", " + talk(all[1]) == both_heard + ", " + both_heard,
      "the clients that are there are served");
  all.clear();
  CHECK_MESSAGE(outcome([&] {
                  Ends ends{std::move(waits), house.backend().accept()};
                  return talk(ends);
                }) == both_heard,
                "whoever waits is served once somebody has left");
}
