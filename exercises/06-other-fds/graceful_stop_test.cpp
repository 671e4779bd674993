// Angle brackets: quotes would find the file beside this one first, also when
// the solution is to be tested.
#include <graceful_stop.hpp>

#include <doctest/doctest.h>
#include <linux/sockios.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <csignal>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <fstream>
#include <functional>
#include <new>
#include <stdexcept>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>

#include "common/error.hpp"
#include "common/fd.hpp"
#include "common/socket.hpp"
#include "common/testing/client.hpp"
#include "common/testing/process.hpp"
#include "common/testing/running_server.hpp"

// The answer may use any of these names too.
namespace probe {
namespace {

using namespace std::chrono_literals;
using testing::Client;

// How long a test waits for what a right server does at once. Where one wait
// was in vain others will be, and the learner wants to read about it.
constexpr std::chrono::milliseconds full_patience{5000};
std::chrono::milliseconds patience = full_patience;
constexpr std::chrono::milliseconds little_patience{500};

bool holds_soon(const std::function<bool()>& what,
                std::chrono::milliseconds limit = patience) {
  try {
    testing::wait_until("it holds", what, limit);
    return true;
  } catch (const testing::TimedOut&) {
    patience = little_patience;
  } catch (const std::exception&) {
    // The server has ended.
  }
  return false;
}

// In memory that the test shares with the server.
struct Notes {
  std::atomic<std::uint16_t> port;  // its listener's, once it can be signalled
  std::atomic<int> result;          // of run: 1 true, -1 false
};

Notes& share() {
  void* memory = ::mmap(nullptr, sizeof(Notes), PROT_READ | PROT_WRITE,
                        MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) net::throw_errno("mmap");
  return *new (memory) Notes{};
}

Notes& notes = share();

struct Setting {
  std::chrono::milliseconds grace = 1h;
  int send_buffer = 212'992;  // in bytes; one of these holds a long answer
  int signal_before_run = 0;
};

void set_buffer(int fd, int which, int bytes) {
  net::check(::setsockopt(fd, SOL_SOCKET, which, &bytes, sizeof bytes),
             "setsockopt");
}

// The listener is the server's own. Of the one that the test has too, a close
// would not be the last.
void serve(const Setting& setting) {
  // The test framework has handlers of its own.
  for (const int number :
       {SIGTERM, SIGINT, SIGABRT, SIGSEGV, SIGBUS, SIGFPE, SIGILL}) {
    ::signal(number, SIG_DFL);
  }
  net::Fd listener = net::listen_on(net::resolve("127.0.0.1", 0));
  set_buffer(listener.get(), SO_SNDBUF, setting.send_buffer);
  const std::string address = net::local_address(listener).text();
  Server server(std::move(listener), setting.grace);
  const auto colon = address.rfind(':');
  notes.port =
      static_cast<std::uint16_t>(std::stoul(address.substr(colon + 1)));
  if (setting.signal_before_run != 0) ::raise(setting.signal_before_run);
  notes.result = server.run() ? 1 : -1;
}

// The words are in the server's socket when this returns.
void say(Client& client, std::string_view words) {
  client.send(words);
  holds_soon([&] {
    int on_the_way = 0;
    net::check(::ioctl(client.fd(), SIOCOUTQ, &on_the_way), "ioctl SIOCOUTQ");
    return on_the_way == 0;
  });
}

// A request whose answer the buffers of a client hold in part only.
std::string long_line(char letter) {
  return std::string(200'000, letter) + '\n';
}

// What goes wrong, or nothing.
std::string verdict(const std::function<void()>& attempt) {
  try {
    attempt();
    return {};
  } catch (const testing::TimedOut& error) {
    patience = little_patience;
    return error.what();
  } catch (const std::exception& error) {
    return error.what();
  }
}

// "", or what the client gets instead of these words.
std::string gets(Client& client, const std::string& words) {
  return verdict([&] {
    const std::string got = client.receive(words.size());
    if (got != words) throw std::runtime_error("other bytes");
  });
}

// "", or what it gets instead of the end of its stream.
std::string ends(Client& client) {
  return verdict([&] {
    const std::string rest = client.receive_all();
    if (!rest.empty()) throw std::runtime_error("more bytes");
  });
}

// The same of these words and the end behind them.
std::string gets_last(Client& client, const std::string& words) {
  const std::string got = gets(client, words);
  return got.empty() ? ends(client) : got;
}

std::string says_and_gets(Client& client, const std::string& words,
                          const std::string& answer) {
  const std::string said = verdict([&] { client.send(words); });
  return said.empty() ? gets(client, answer) : said;
}

// The learner's server beside the test.
class Subject {
 public:
  explicit Subject(const Setting& setting = {})
      : notes_(*new (&notes) Notes{}), server_([setting](net::Fd listener) {
          listener = net::Fd();
          serve(setting);
        }) {
    testing::wait_until("the server is there", [this] {
      if (notes_.port == 0 && ended()) throw std::runtime_error("it has ended");
      return notes_.port != 0;
    });
    address_ = net::resolve("127.0.0.1", notes_.port);
  }
  Subject(const Subject&) = delete;
  Subject& operator=(const Subject&) = delete;
  ~Subject() {
    // It has had its time. This says where it sits, and kills it.
    if (server_.pid() > 0 && end() == "runs on") server_.stop(0ms);
  }

  const net::Address& address() const { return address_; }
  Client knock() const { return Client(address_, patience); }

  // A client that has been answered once. It has little room for answers that
  // it does not read.
  Client enter() {
    Client client = knock();
    set_buffer(client.fd(), SO_RCVBUF, 32'768);
    says_and_gets(client, "hello\n", "HELLO\n");
    settle();
    return client;
  }

  // Waits until the server sleeps and stays asleep for a while, or has ended.
  bool settle() {
    auto since = testing::Clock::now();
    auto last = testing::voluntary_switches(server_.pid());
    return holds_soon([&] {
      const auto now = testing::voluntary_switches(server_.pid());
      if (now != last || !sleeps()) since = testing::Clock::now();
      last = now;
      return ended() || testing::Clock::now() - since >= 20ms;
    });
  }

  // True if it does not wake in a while in which nothing happens.
  bool sleeps_on() {
    if (!settle()) return false;
    const auto before = testing::voluntary_switches(server_.pid());
    ::poll(nullptr, 0, 300);
    return sleeps() && testing::voluntary_switches(server_.pid()) == before;
  }

  // The signal has been taken when this returns, and the server sleeps.
  void ask_to_stop(int number = SIGTERM) {
    server_.signal(number);
    holds_soon([&] { return ended() || !is_pending(number); });
    settle();
  }

  // What happens between the two happens at once for the server.
  void stop_for_a_while() {
    server_.signal(SIGSTOP);
    holds_soon([&] { return testing::state(server_.pid()) == 'T'; });
  }
  void signal(int number) { server_.signal(number); }
  void go_on() {
    server_.signal(SIGCONT);
    settle();
  }

  bool ended() const { return testing::has_ended(server_.pid()); }

  // How it has ended: "finished", "cut off", "runs on" or "died".
  std::string end() {
    if (!holds_soon([&] { return ended(); })) return "runs on";
    if (notes_.result == 0) return "died";
    return notes_.result > 0 ? "finished" : "cut off";
  }

  // After the end: true if it has left nothing behind.
  bool is_clean() { return server_.stop(patience).clean; }

 private:
  bool sleeps() const { return testing::state(server_.pid()) == 'S'; }

  bool is_pending(int number) const {
    std::ifstream file("/proc/" + std::to_string(server_.pid()) + "/status");
    std::string word;
    while (file >> word && word != "ShdPnd:") continue;
    std::uint64_t set = 0;
    file >> std::hex >> set;
    return ((set >> (number - 1)) & 1U) != 0;
  }

  Notes& notes_;
  testing::RunningServer server_;
  net::Address address_;
};

// What becomes of somebody who connects now: "refused", or else.
std::string knock_at(const Subject& server) {
  try {
    const Client client = server.knock();
    return "connected";
  } catch (const std::system_error& error) {
    return error.code().value() == ECONNREFUSED ? "refused" : error.what();
  } catch (const std::exception& error) {
    return error.what();
  }
}

}  // namespace

TEST_CASE("nobody is there") {
  for (const int number : {SIGTERM, SIGINT}) {
    Subject server;
    server.signal(number);
    CHECK_MESSAGE(server.end() == "finished",
                  "with nobody to wait for it returns at once");
    CHECK_MESSAGE(server.is_clean(), "it leaves no descriptor open");
  }
}

TEST_CASE("the signal comes before the loop") {
  Subject server({.signal_before_run = SIGTERM});
  CHECK_MESSAGE(server.end() == "finished",
                "a signal that nobody waits for is not lost");
}

TEST_CASE("a client is idle") {
  Subject server;
  Client ann = server.enter();
  server.ask_to_stop();
  CHECK_MESSAGE(ends(ann) == "", "who is idle sees the end of its stream");
  CHECK_MESSAGE(server.end() == "finished", "who is idle was not cut off");
}

TEST_CASE("a request has come in part") {
  Subject server;
  Client ann = server.enter();
  say(ann, "good ");
  server.settle();
  server.ask_to_stop();
  CHECK_MESSAGE(says_and_gets(ann, "bye\n", "GOOD BYE\n") == "",
                "a request that has begun is answered");
  CHECK_MESSAGE(ends(ann) == "", "behind its answer the stream ends");
  CHECK_MESSAGE(server.end() == "finished",
                "when the last has left it returns");
}

TEST_CASE("an answer has been sent in part, and a request stands behind it") {
  Subject server({.send_buffer = 16'384});
  Client ann = server.enter();
  say(ann, long_line('a'));
  say(ann, "good bye\n");
  server.ask_to_stop();
  CHECK_MESSAGE(gets(ann, long_line('A')) == "", "an answer is sent whole");
  CHECK_MESSAGE(gets_last(ann, "GOOD BYE\n") == "",
                "the request behind it is answered too");
}

TEST_CASE("a request comes while an answer is on its way") {
  Subject server;
  Client ann = server.enter();
  say(ann, long_line('a'));
  server.settle();
  // The server sees the request together with the signal.
  server.stop_for_a_while();
  server.signal(SIGTERM);
  say(ann, "good bye\n");
  server.go_on();
  CHECK_MESSAGE(gets(ann, long_line('A')) == "",
                "no reset destroys an answer on its way");
  CHECK_MESSAGE(gets_last(ann, "GOOD BYE\n") == "",
                "what has come by then is answered");
}

TEST_CASE("somebody comes after the signal") {
  Subject server;
  Client ann = server.enter();
  say(ann, "good ");
  server.ask_to_stop();
  CHECK_MESSAGE(knock_at(server) == "refused", "nobody new is let in");
  says_and_gets(ann, "bye\n", "GOOD BYE\n");
}

TEST_CASE("clients wait in the queue") {
  Subject server;
  server.stop_for_a_while();
  auto clients = testing::connect_clients(server.address(), 3, patience);
  for (Client& client : clients) say(client, "hello\n");
  server.signal(SIGTERM);
  server.go_on();
  std::string errors;
  for (Client& client : clients) {
    errors += gets_last(client, "HELLO\n");
  }
  CHECK_MESSAGE(errors == "", "who has come in time is answered");
}

TEST_CASE("a client never reads") {
  Subject server({.grace = 100ms, .send_buffer = 16'384});
  Client ann = server.enter();
  say(ann, long_line('a'));
  server.ask_to_stop();
  CHECK_MESSAGE(server.end() == "cut off",
                "at the end of the grace whoever is left is cut off");
}

TEST_CASE("there is no grace") {
  Subject server({.grace = 0ms});
  Client ann = server.enter();
  say(ann, "good ");
  server.ask_to_stop();
  CHECK_MESSAGE(server.end() == "cut off", "a grace of 0 is over at once");
}

TEST_CASE("a client goes on and on") {
  Subject server({.grace = 1s});
  Client ann = server.enter();
  say(ann, "good ");
  server.ask_to_stop();
  const bool ended = holds_soon(
      [&] {
        verdict([&] { ann.send("bye "); });
        return server.ended();
      },
      full_patience);  // the grace is longer than little of it
  CHECK_MESSAGE(ended, "whatever a client does prolongs no grace");
}

TEST_CASE("another signal comes") {
  for (const int number : {SIGTERM, SIGINT}) {
    Subject server;
    Client ann = server.enter();
    say(ann, "good ");
    server.ask_to_stop();
    server.ask_to_stop(number);
    CHECK_MESSAGE(server.end() == "cut off", "another signal ends it at once");
  }
}

TEST_CASE("SIGINT comes while a request has come in part") {
  Subject server;
  Client ann = server.enter();
  say(ann, "good ");
  server.ask_to_stop(SIGINT);
  CHECK_MESSAGE(says_and_gets(ann, "bye\n", "GOOD BYE\n") == "",
                "SIGINT gives the grace too");
}

TEST_CASE("one client is finished and another one is not") {
  Subject server;
  Client ann = server.enter();
  Client bob = server.enter();
  say(bob, "good ");
  server.ask_to_stop();
  CHECK_MESSAGE(ends(ann) == "", "who is finished waits for nobody");
  server.ask_to_stop();
}

TEST_CASE("the server is asked when it has run for a while") {
  Subject server({.grace = 450ms});
  Client ann = server.enter();
  say(ann, "good ");
  ::poll(nullptr, 0, 500);
  const auto asked = testing::Clock::now();
  server.signal(SIGTERM);
  server.end();
  CHECK_MESSAGE(testing::Clock::now() - asked >= 450ms,
                "the grace begins with the request to stop");
}

TEST_CASE("a client does not fetch its answer") {
  Subject server;
  Client ann = server.enter();
  say(ann, long_line('a'));
  server.settle();
  server.ask_to_stop();
  CHECK_MESSAGE(server.end() == "finished",
                "an answer that the kernel has is sent");
}

TEST_CASE("nobody asks it to stop") {
  Subject server;
  Client ann = server.enter();
  CHECK_MESSAGE(server.sleeps_on(), "it sleeps before the signal too");
  server.ask_to_stop();
}

TEST_CASE("signals come together") {
  Subject server;
  Client ann = server.enter();
  say(ann, "good ");
  server.stop_for_a_while();
  // The second SIGTERM is not even queued.
  for (const int number : {SIGTERM, SIGTERM, SIGINT}) server.signal(number);
  server.go_on();
  CHECK_MESSAGE(says_and_gets(ann, "bye\n", "GOOD BYE\n") == "",
                "signals that come together are one");
}

TEST_CASE("nothing happens in the grace") {
  Subject server({.send_buffer = 16'384});
  Client ann = server.enter();
  Client bob = server.enter();
  say(ann, long_line('a'));
  say(bob, "good ");
  server.ask_to_stop();
  CHECK_MESSAGE(server.sleeps_on(), "while it waits it sleeps");
  server.ask_to_stop();
}

TEST_CASE("a client leaves in the grace") {
  Subject server;
  Client ann = server.enter();
  say(ann, "good ");
  server.ask_to_stop();
  ann.reset();
  CHECK_MESSAGE(server.end() == "finished",
                "who leaves by itself was not cut off");
}

}  // namespace probe
