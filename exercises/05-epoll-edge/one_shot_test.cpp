// Angle brackets: quotes would find the file beside this one first, also when
// the solution is to be tested.
#include <one_shot.hpp>

#include <doctest/doctest.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstddef>
#include <exception>
#include <filesystem>
#include <functional>
#include <memory>
#include <new>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "common/error.hpp"
#include "common/fd.hpp"
#include "common/testing/client.hpp"
#include "common/testing/process.hpp"
#include "common/testing/running_server.hpp"

#if defined(__SANITIZE_THREAD__)
#define TUTORIAL_HAS_TSAN 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define TUTORIAL_HAS_TSAN 1
#endif
#endif

namespace {

using namespace std::chrono_literals;
using testing::Client;

// How long a test waits for what a right server does at once. Where one wait
// was in vain others will be, and the learner wants to read about it.
std::chrono::milliseconds patience{5000};
constexpr std::chrono::milliseconds little_patience{500};

// True if it happens in time: what throws has not happened.
bool happens(const std::function<bool()>& what) {
  try {
    return what();
  } catch (const testing::TimedOut&) {
    patience = little_patience;
    return false;
  } catch (const std::exception&) {
    return false;
  }
}

bool holds_soon(const std::function<bool()>& what) {
  return happens([&] {
    testing::wait_until("it holds", what, patience);
    return true;
  });
}

bool echoes(Client& client, std::string_view words = "hello") {
  return happens([&] { return client.exchange(words) == words; });
}

// It looks at what was reported first, then at this client.
void let_the_free_thread_look(Client& other) {
  for (int i = 0; i < 5 && echoes(other);) ++i;
}

// What the turns note down, in memory that the test shares with the server.
struct Notes {
  std::atomic<int> turns;    // that last now
  std::atomic<int> waiting;  // of them, for the test
  std::atomic<int> clashes;  // turns begun during another one of this client
  std::atomic<bool> hold;    // who says "!" stays in its turn
  std::atomic<int> armed;    // after a turn that found the client gone
  std::array<std::atomic<int>, 1024> of_client;  // turns that last, by number
};

// Set in the server's process only.
Notes* in_server = nullptr;

// The number of the client that this thread has found gone, or -1.
thread_local int gone = -1;

[[maybe_unused]] void note_change(int change, int fd) {
  if (in_server == nullptr || fd != gone) return;
  if (change == EPOLL_CTL_MOD) ++in_server->armed;
  // Added, it is somebody else's number.
  if (change == EPOLL_CTL_ADD) gone = -1;
}

// The part of a turn that is watched.
class Presence {
 public:
  Presence(Notes& notes, int fd)
      : notes_(notes), mine_(notes.of_client.at(static_cast<std::size_t>(fd))) {
    if (mine_++ > 0) ++notes_.clashes;
    ++notes_.turns;
  }
  Presence(const Presence&) = delete;
  Presence& operator=(const Presence&) = delete;
  ~Presence() {
    --notes_.turns;
    --mine_;
  }

 private:
  Notes& notes_;
  std::atomic<int>& mine_;
};

void wait_for_the_test(Notes& notes) {
  ++notes.waiting;
  for (int i = 0; i < 10'000 && notes.hold; ++i) ::poll(nullptr, 0, 1);
  --notes.waiting;
}

bool answer(int fd, std::string_view words) {
  while (!words.empty()) {
    const ssize_t n = ::send(fd, words.data(), words.size(), MSG_NOSIGNAL);
    if (n < 0 && errno != EAGAIN && errno != EINTR) return false;
    pollfd entry{fd, POLLOUT, 0};
    if (n < 0) ::poll(&entry, 1, 1'000);
    if (n > 0) words.remove_prefix(static_cast<std::size_t>(n));
  }
  return true;
}

// One read, at most so long, and the answer to it.
bool read_and_answer(Notes& notes, int fd) {
  const Presence presence(notes, fd);
  std::array<char, 4096> buffer;
  const ssize_t n = ::recv(fd, buffer.data(), buffer.size(), MSG_DONTWAIT);
  if (n < 0) return errno == EAGAIN || errno == EINTR;
  if (n == 0) return false;
  if (buffer[0] == '!') wait_for_the_test(notes);
  return answer(fd, {buffer.data(), static_cast<std::size_t>(n)});
}

bool take_turn(Notes& notes, int fd) {
  const bool stays = read_and_answer(notes, fd);
  gone = stays ? -1 : fd;
  return stays;
}

Notes* share() {
  void* memory = ::mmap(nullptr, sizeof(Notes), PROT_READ | PROT_WRITE,
                        MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) net::throw_errno("mmap");
  return new (memory) Notes{};
}

bool all_asleep(pid_t process) {
  const std::filesystem::directory_iterator tasks(
      "/proc/" + std::to_string(process) + "/task");
  return std::all_of(begin(tasks), end(tasks), [](const auto& task) {
    return testing::state(std::stoi(task.path().filename())) == 'S';
  });
}

}  // namespace

// A client that has gone is reported as soon as it is armed, but a thread that
// closes it right then may be faster than the one that is told. So the arming
// is watched. ThreadSanitizer has a function of its own there and needs it.
#ifndef TUTORIAL_HAS_TSAN
extern "C" int epoll_ctl(int epoll, int change, int fd,
                         epoll_event* event) noexcept {
  note_change(change, fd);
  return static_cast<int>(::syscall(SYS_epoll_ctl, epoll, change, fd, event));
}
#endif

namespace {

// The learner's server beside the test.
class House {
 public:
  explicit House(unsigned threads)
      : server_([this, threads](net::Fd listener) {
          in_server = notes_.get();
          serve(std::move(listener), threads,
                [this](int fd) { return take_turn(*notes_, fd); });
        }) {
    testing::wait_until("the server waits for clients", [this] {
      const char state = testing::state(server_.pid());
      if (state == 'Z') throw std::runtime_error("the server has ended");
      return state == 'S';
    });
  }
  House(const House&) = delete;
  House& operator=(const House&) = delete;
  ~House() {
    if (!ended_) end();
  }

  Notes& notes() { return *notes_; }
  const testing::RunningServer& server() const { return server_; }

  // The client's turn begins, and lasts until let_go.
  void hold(Client& client) {
    notes_->hold = true;
    const int before = notes_->waiting;
    client.send("!");
    holds_soon([&] { return notes_->waiting > before; });
  }
  void let_go() { notes_->hold = false; }

  // What happens between the two happens at once for the server.
  void stop() {
    server_.signal(SIGSTOP);
    holds_soon([&] { return testing::state(server_.pid()) == 'T'; });
  }
  void go_on() { server_.signal(SIGCONT); }

  void no_more_descriptors() {
    server_.limit_descriptors(testing::open_descriptors(server_.pid()));
  }

  bool sleeps() const {
    return holds_soon([&] { return all_asleep(server_.pid()); });
  }

  // For 20 ms it neither ran nor wanted to. A server that spins wants to even
  // while others have the processors.
  bool rests() {
    auto since = testing::Clock::now();
    auto cpu = testing::cpu_time(server_.pid());
    return holds_soon([&] {
      const auto used = testing::cpu_time(server_.pid());
      const auto now = testing::Clock::now();
      if (used != cpu || !all_asleep(server_.pid())) since = now;
      cpu = used;
      return now - since >= 20ms;
    });
  }

  // By default a stop takes 20 seconds; who learns wants to know sooner.
  testing::RunningServer::Exit end() {
    ended_ = true;
    let_go();
    const auto exit = server_.stop(patience);
    if (!exit.ended) patience = little_patience;
    return exit;
  }

 private:
  struct Unmap {
    void operator()(Notes* notes) const { ::munmap(notes, sizeof *notes); }
  };
  std::unique_ptr<Notes, Unmap> notes_{share()};
  testing::RunningServer server_;
  bool ended_ = false;
};

// Clients that are served.
std::vector<Client> enter(const House& house, std::size_t n) {
  std::vector<Client> clients;
  while (clients.size() < n) {
    Client& client = clients.emplace_back(house.server().address(), patience);
    // Each send is a segment, and it leaves at once.
    const int yes = 1;
    net::check(
        ::setsockopt(client.fd(), IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes),
        "setsockopt TCP_NODELAY");
    // The answer comes during the turn. The second one is to find it over.
    const bool served = echoes(client) && house.sleeps() && echoes(client);
    REQUIRE_MESSAGE(served, "a client has one turn after another");
  }
  return clients;
}

void stop(House& house) {
  const testing::RunningServer::Exit exit = house.end();
  CHECK_MESSAGE(exit.ended, "all threads end");
  CHECK_MESSAGE(exit.clean, "serve returns and leaves nothing behind");
}

}  // namespace

TEST_CASE("a client speaks during its turn") {
  House house(2);
  auto clients = enter(house, 2);
  house.hold(clients[0]);
  clients[0].send("more");
  let_the_free_thread_look(clients[1]);
  CHECK_MESSAGE(house.notes().clashes.load() == 0,
                "a second segment brings no second thread");
  house.let_go();
  CHECK_MESSAGE(happens([&] { return clients[0].receive(5) == "!more"; }),
                "what came during the turn is answered after it");
}

TEST_CASE("a client resets during its turn") {
  House house(2);
  auto clients = enter(house, 2);
  house.hold(clients[0]);
  clients[0].reset();
  let_the_free_thread_look(clients[1]);
  CHECK_MESSAGE(house.notes().clashes.load() == 0,
                "not even a reset brings a second thread");
}

TEST_CASE("three clients speak at once and there are three threads") {
  House house(3);
  auto clients = enter(house, 3);
  house.stop();
  house.notes().hold = true;
  for (Client& client : clients) client.send("!");
  house.go_on();
  CHECK_MESSAGE(holds_soon([&] { return house.notes().turns == 3; }),
                "each of the three has a thread");
}

TEST_CASE("more has come than one turn reads") {
  House house(4);
  auto clients = enter(house, 8);
  const std::string words = testing::pattern(65536);
  house.stop();
  for (Client& client : clients) client.send(words);
  house.go_on();
  bool all = true;
  for (Client& client : clients) {
    all = all && happens([&] { return client.receive(words.size()) == words; });
  }
  CHECK_MESSAGE(all, "what a turn leaves brings another turn");
}

TEST_CASE("clients come and go") {
  House house(2);
  auto clients = enter(house, 1);
  auto visitors = enter(house, 20);
  for (Client& visitor : visitors) {
    visitor.finish();
    const bool let_go = happens([&] { return visitor.ended(); });
    REQUIRE_MESSAGE(let_go, "the connection of one who has gone is closed");
  }
  CHECK_MESSAGE(house.notes().armed.load() == 0, "who has gone is not armed");
  CHECK_MESSAGE(echoes(clients[0]), "those who stay are served");
}

TEST_CASE("it is out of descriptors") {
  House house(2);
  auto clients = enter(house, 2);
  house.no_more_descriptors();
  auto waiting =
      testing::connect_clients(house.server().address(), 1, patience);
  CHECK_MESSAGE(house.rests(), "without a descriptor no thread spins");
  CHECK_MESSAGE(echoes(clients[1]), "the clients that are there are served");
  clients.clear();
  CHECK_MESSAGE(echoes(waiting[0]),
                "whoever waits is served once somebody has left");
}

TEST_CASE("it is stopped while clients are there") {
  House house(4);
  const auto clients = enter(house, 5);
  stop(house);
}

TEST_CASE("it is stopped while it is out of descriptors") {
  House house(2);
  const auto clients = enter(house, 2);
  house.no_more_descriptors();
  const auto waiting =
      testing::connect_clients(house.server().address(), 1, patience);
  house.rests();
  stop(house);
}
