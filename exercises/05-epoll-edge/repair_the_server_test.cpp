// Where it is set by default, calls of recv and read go another way.
#undef _FORTIFY_SOURCE

// Angle brackets: quotes would find the file beside this one first, also when
// the solution is to be tested.
#include <repair_the_server.hpp>

#include <doctest/doctest.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <limits>
#include <new>
#include <stdexcept>
#include <string>
#include <string_view>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include "common/error.hpp"
#include "common/testing/client.hpp"
#include "common/testing/epoll_wait.hpp"
#include "common/testing/process.hpp"
#include "common/testing/running_server.hpp"
#include "common/testing/whereabouts.hpp"

// The answer may use any of these names too.
namespace probe {
namespace {

using testing::Client;

// How long a test waits for what a right server does at once. Where one wait
// was in vain others will be, and the learner wants to read about it.
std::chrono::milliseconds patience{5000};
constexpr std::chrono::milliseconds little_patience{500};

// A round of the server that the test prepares. Wanted: the first after the
// flood has begun. Held: the server is about to wait, and stays so until the
// flooding client is reset and somebody else has connected, in the order that
// the test wants. Half: the first of the two has come. Then the round runs.
enum class Round { None, Wanted, Held, Half, Runs, Over };

// In memory that the test shares with the forked server.
struct Notes {
  std::atomic<int> flood;    // so many reads find input without end
  std::atomic<int> flooded;  // so many have
  std::atomic<int> flooder;  // the client's descriptor in the server
  std::atomic<Round> round;
  std::atomic<bool> connects_first;
  std::atomic<int> in_vain;  // reads in that round that found nothing
  std::atomic<bool> returned;
};

Notes& share() {
  void* memory = ::mmap(nullptr, sizeof(Notes), PROT_READ | PROT_WRITE,
                        MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) net::throw_errno("mmap");
  return *new (memory) Notes{};
}

Notes& notes = share();

// Set in the server's process only: the clients of the test read as well.
bool in_server = false;

// As in every RunningServer.
constexpr int listener_number = 3;

constexpr std::string_view marker = "flood";

// True if this is the client that floods: while its one word is unread, what
// is read from it does not end and what is sent to it is taken.
bool floods(int fd) {
  if (!in_server) return false;
  char bytes[marker.size()];
  const auto n = ::syscall(SYS_recvfrom, fd, bytes, sizeof bytes,
                           MSG_PEEK | MSG_DONTWAIT, nullptr, nullptr);
  return n > 0 &&
         std::string_view(bytes, static_cast<std::size_t>(n)) == marker;
}

bool flood_reaches(int fd) {
  if (notes.flood <= 0 || !floods(fd)) return false;
  notes.flooder = fd;
  --notes.flood;
  ++notes.flooded;
  return true;
}

void note_failure(int error) {
  if (in_server && error == EAGAIN && notes.round == Round::Runs) {
    ++notes.in_vain;
  }
}

void end_flood(int fd) {
  char bytes[marker.size()];
  ::syscall(SYS_recvfrom, fd, bytes, sizeof bytes, MSG_DONTWAIT, nullptr,
            nullptr);
}

void wait_for(int fd, short events) {
  pollfd entry{fd, events, 0};
  while (::poll(&entry, 1, -1) < 0) continue;
}

// Before the server waits.
void prepare_round() {
  if (notes.round == Round::Runs) notes.round = Round::Over;
  if (notes.round != Round::Wanted || notes.flooded == 0) return;
  notes.round = Round::Held;
  // With its word unread the reset would be met in a send, as SIGPIPE.
  end_flood(notes.flooder);
  const bool connects_first = notes.connects_first;
  if (connects_first) wait_for(listener_number, POLLIN);
  if (!connects_first) wait_for(notes.flooder, 0);
  notes.round = Round::Half;
  wait_for(notes.flooder, 0);
  wait_for(listener_number, POLLIN);
  notes.round = Round::Runs;
}

}  // namespace

// These take the place of libc's in this program, the server's calls included.

extern "C" int epoll_wait(int epoll, epoll_event* events, int n, int timeout) {
  if (in_server) prepare_round();
  return testing::system_epoll_wait(epoll, events, n, timeout);
}

extern "C" ssize_t recv(int fd, void* bytes, std::size_t n, int flags) {
  if (flood_reaches(fd)) return static_cast<ssize_t>(n);
  const ssize_t got =
      ::syscall(SYS_recvfrom, fd, bytes, n, flags, nullptr, nullptr);
  if (got < 0) note_failure(errno);
  return got;
}

extern "C" ssize_t read(int fd, void* bytes, std::size_t n) {
  if (flood_reaches(fd)) return static_cast<ssize_t>(n);
  const ssize_t got = ::syscall(SYS_read, fd, bytes, n);
  if (got < 0) note_failure(errno);
  return got;
}

extern "C" ssize_t send(int fd, const void* bytes, std::size_t n, int flags) {
  if (floods(fd)) return static_cast<ssize_t>(n);
  return ::syscall(SYS_sendto, fd, bytes, n, flags, nullptr, 0);
}

extern "C" ssize_t write(int fd, const void* bytes, std::size_t n) {
  if (floods(fd)) return static_cast<ssize_t>(n);
  return ::syscall(SYS_write, fd, bytes, n);
}

namespace {

void limit_buffers(int fd) {
  const int bytes = 32768;
  for (const int option : {SO_SNDBUF, SO_RCVBUF}) {
    net::check(::setsockopt(fd, SOL_SOCKET, option, &bytes, sizeof bytes),
               "setsockopt");
  }
}

void leave(int) { ::_exit(0); }

void run(net::Fd listener) {
  in_server = true;
  new (&notes) Notes{};
  struct sigaction action {};
  action.sa_handler = leave;
  net::check(::sigaction(SIGTERM, &action, nullptr), "sigaction");
  net::set_nonblocking(listener);
  limit_buffers(listener.get());
  serve(std::move(listener));
  notes.returned = true;
}

// The server beside the test.
class Subject {
 public:
  Subject() {
    // Until it serves, its descriptors come and go and cannot be counted.
    happens("the server waits for clients", [&] { return sleeps(); });
  }

  // Most servers under repair do not end by themselves. What stop() finds
  // amiss is of interest in one test case only.
  ~Subject() {
    if (server_.pid() > 0) server_.signal(SIGTERM);
  }

  // Connects and waits until the server has answered and has no more to do.
  Client enter() {
    Client client = knock();
    answers(client);
    happens("the server waits again", [&] { return sleeps(); });
    return client;
  }

  // Connects.
  const net::Address& address() const { return server_.address(); }
  Client knock() { return Client(server_.address(), patience); }

  // "", or what went wrong and where the server is meanwhile.
  template <typename Attempt>
  std::string verdict(Attempt attempt) {
    try {
      attempt();
    } catch (const testing::TimedOut& error) {
      patience = little_patience;
      std::string place = testing::whereabouts(server_.pid());
      if (!place.empty()) place.pop_back();
      return error.what() + ("; the server: " + place);
    } catch (const std::exception& error) {
      return error.what();
    }
    return {};
  }

  // "", or what this client gets instead of these bytes.
  std::string gets(Client& client, const std::string& bytes) {
    return verdict([&] {
      const std::string got = client.receive(bytes.size());
      if (got == bytes) return;
      throw std::runtime_error(got.size() < 80 ? "'" + got + "'"
                                               : "other bytes");
    });
  }

  // "", or what it gets instead of an answer.
  std::string answers(Client& client) {
    const std::string sent = verdict([&] { client.send("hello"); });
    return sent.empty() ? gets(client, "hello") : sent;
  }

  std::string ends(Client& client) {
    return verdict([&] { client.ended(); });
  }

  template <typename Holds>
  std::string happens(const char* what, Holds holds) {
    return verdict([&] { testing::wait_until(what, holds, patience); });
  }

  // "" once it sleeps and does not wake for 20 ms.
  std::string sleeps_on() {
    return happens("the server sleeps", [&] {
      const auto wakeups = switches();
      ::poll(nullptr, 0, 20);
      return sleeps() && switches() == wakeups;
    });
  }

  std::string has_descriptors(std::size_t n) {
    return happens("its descriptor is closed",
                   [&] { return descriptors() == n; });
  }
  std::size_t descriptors() { return testing::open_descriptors(server_.pid()); }
  void no_more_descriptors() { server_.limit_descriptors(descriptors()); }

  // Until go_on() all that happens is one round for the server.
  void stop_for_a_while() {
    server_.signal(SIGSTOP);
    happens("the server stops",
            [&] { return testing::state(server_.pid()) == 'T'; });
  }
  void go_on() { server_.signal(SIGCONT); }

  // Cuts its wait short by a signal.
  void interrupt() {
    const auto before = switches();
    server_.signal(SIGUSR1);
    happens("the server has been interrupted", [&] {
      return testing::has_ended(server_.pid()) ||
             (switches() > before && sleeps());
    });
  }

  // Lets this client flood the server until its turn is over, and holds the
  // server then.
  void hold_round(Client& flooder, bool connects_first) {
    constexpr int more_than_a_turn = 100'000;
    notes.flood = more_than_a_turn;
    notes.connects_first = connects_first;
    notes.round = Round::Wanted;
    flooder.send(marker);
    reaches(Round::Held);
  }
  void reaches(Round round) {
    happens("the prepared round", [&] { return notes.round >= round; });
  }

  // Shuts the listener down. True if serve has left nothing behind.
  bool shut_down();

 private:
  bool sleeps() { return testing::state(server_.pid()) == 'S'; }
  std::uint64_t switches() {
    return testing::voluntary_switches(server_.pid());
  }

  testing::RunningServer server_{run};
};

// RunningServer waits 20 seconds for the end; who learns wants to know sooner.
bool Subject::shut_down() {
  const pid_t process = server_.pid();
  std::jthread watch([&] {
    try {
      testing::wait_until(
          "the end", [&] { return testing::has_ended(process); }, patience);
    } catch (const testing::TimedOut&) {
      ::kill(process, SIGTERM);
    }
  });
  return server_.stop().clean;
}

// "", or what open_listener does instead of throwing EADDRINUSE.
std::string refuses(const net::Address& address) {
  try {
    const net::Fd fd = open_listener(address);
    return "listens on " + net::local_address(fd).text();
  } catch (const std::system_error& error) {
    return error.code().value() == EADDRINUSE ? "" : error.what();
  }
}

// The address it listens on, or what it throws.
std::string listens_on(const net::Address& address) {
  try {
    return net::local_address(open_listener(address)).text();
  } catch (const std::exception& error) {
    return error.what();
  }
}

}  // namespace

TEST_CASE("clients that take turns are answered") {
  Subject server;
  Client ann = server.enter();
  Client bob = server.enter();
  CHECK_MESSAGE((server.answers(ann) + server.answers(bob)) == "",
                "each of them is answered again");
}

TEST_CASE("clients that connect together are all accepted") {
  Subject server;
  server.stop_for_a_while();
  constexpr std::size_t n = 300;
  auto clients = testing::connect_clients(server.address(), n, patience);
  server.go_on();
  std::size_t served = 0;
  while (served < n && server.answers(clients[served]).empty()) ++served;
  CHECK_MESSAGE(served == n, "all in the queue are served");
}

TEST_CASE("who finishes gets the end of its stream") {
  Subject server;
  const std::size_t before = server.descriptors();
  Client ann = server.enter();
  // For the server, the last word and the end come together.
  server.stop_for_a_while();
  ann.send("bye");
  ann.finish();
  server.go_on();
  CHECK_MESSAGE(server.gets(ann, "bye") == "", "the last word comes back");
  CHECK_MESSAGE(server.ends(ann) == "", "behind it the stream ends");
  CHECK_MESSAGE(server.has_descriptors(before) == "",
                "the descriptor of who has finished is closed");
}

TEST_CASE("a reset ends one client alone") {
  Subject server;
  Client ann = server.enter();
  const std::size_t before = server.descriptors();
  Client bob = server.enter();
  bob.reset();
  CHECK_MESSAGE(server.has_descriptors(before) == "",
                "the descriptor of who was reset is closed");
  CHECK_MESSAGE(server.answers(ann) == "", "after a reset others are served");
}

TEST_CASE("an answer nobody can take ends one client alone") {
  Subject server;
  Client ann = server.enter();
  Client bob = server.enter();
  // The FIN before the RST makes the error an EPIPE, which comes with SIGPIPE.
  server.stop_for_a_while();
  bob.send("are you there?");
  bob.finish();
  bob.reset();
  server.go_on();
  CHECK_MESSAGE(server.answers(ann) == "",
                "after a failed answer others are served");
}

TEST_CASE("who reads late has lost nothing") {
  Subject server;
  Client late = server.enter();
  Client bob = server.enter();
  limit_buffers(late.fd());
  constexpr std::size_t most = std::size_t{4} << 20;
  const std::size_t sent =
      late.send_until_full(most, std::chrono::milliseconds(200));
  CHECK_MESSAGE(sent < most, "who does not read is not read on");
  CHECK_MESSAGE(server.sleeps_on() == "",
                "while one is full the server sleeps");
  CHECK_MESSAGE(server.answers(bob) == "",
                "while one is full others are served");
  CHECK_MESSAGE(server.gets(late, testing::pattern(sent)) == "",
                "all of it comes back");
}

TEST_CASE("who never stops sending stalls nobody") {
  Subject server;
  Client flooder = server.enter();
  Client bob = server.enter();
  notes.flood = std::numeric_limits<int>::max();
  flooder.send(marker);
  server.happens("the flood is read", [] { return notes.flooded > 0; });
  CHECK_MESSAGE(server.answers(bob) == "", "during a flood others are served");
  // What the kernel had to say of the word, it has said before the flood.
  notes.flood = 0;
  CHECK_MESSAGE(server.gets(flooder, std::string(marker)) == "",
                "what was left when the turn was over is read");
}

// Accepted after the flooder's end, the newcomer has the flooder's number.
TEST_CASE("who comes is not taken for who has left") {
  for (const bool connects_first : {false, true}) {
    Subject server;
    Client flooder = server.enter();
    server.hold_round(flooder, connects_first);
    if (!connects_first) flooder.reset();
    server.reaches(connects_first ? Round::Held : Round::Half);
    Client newcomer = server.knock();
    server.reaches(Round::Half);
    if (connects_first) flooder.reset();
    server.reaches(Round::Over);
    const int in_vain = notes.in_vain;
    CHECK_MESSAGE(
        in_vain == 0,
        "the newcomer is not read until something is reported for it: "
            << in_vain << " reads, for the one who had its number or at once");
    CHECK_MESSAGE(server.answers(newcomer) == "", "the newcomer is served");
  }
}

TEST_CASE("a signal ends nothing") {
  Subject server;
  Client ann = server.enter();
  server.interrupt();
  CHECK_MESSAGE(server.answers(ann) == "",
                "after an interrupted wait clients are served");
}

TEST_CASE("out of descriptors nobody is lost") {
  Subject server;
  Client ann = server.enter();
  Client bob = server.enter();
  server.no_more_descriptors();
  Client waiting = server.knock();
  CHECK_MESSAGE(server.sleeps_on() == "", "a full server sleeps");
  CHECK_MESSAGE(server.answers(ann) == "", "those who are in are served");
  bob.finish();
  CHECK_MESSAGE(server.answers(waiting) == "",
                "whoever waits is served when somebody has left");
}

TEST_CASE("it ends with its listener") {
  Subject server;
  Client ann = server.enter();
  const bool clean = server.shut_down();
  const bool returned = notes.returned;
  CHECK_MESSAGE(returned, "serve returns");
  CHECK_MESSAGE(clean, "it leaves no descriptor open");
}

TEST_CASE("an address in use is refused") {
  const net::Fd first = open_listener(net::resolve("127.0.0.1", 0));
  CHECK_MESSAGE(refuses(net::local_address(first)) == "",
                "the second listener is an error");
}

TEST_CASE("a restart does not wait for the connections of the last run") {
  net::Fd listener = open_listener(net::resolve("127.0.0.1", 0));
  const net::Address address = net::local_address(listener);
  const Client client(address, patience);
  wait_for(listener.get(), POLLIN);
  const net::Fd connection(::accept(listener.get(), nullptr, nullptr));
  listener = net::Fd();
  CHECK_MESSAGE(listens_on(address) == address.text(),
                "the next listener gets the same address");
}

}  // namespace probe
