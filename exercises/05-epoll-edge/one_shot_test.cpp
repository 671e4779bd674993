// Angle brackets: quotes would find the file beside this one first, also when
// the solution is to be tested.
#include <one_shot.hpp>

#include <doctest/doctest.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
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
#include <thread>
#include <utility>
#include <vector>

#include "common/error.hpp"
#include "common/fd.hpp"
#include "common/testing/client.hpp"
#include "common/testing/process.hpp"
#include "common/testing/running_server.hpp"
#include "common/testing/whereabouts.hpp"

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
  std::array<std::atomic<int>, 1024> of_client;  // turns that last, by number
};

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
bool take_turn(Notes& notes, int fd) {
  const Presence presence(notes, fd);
  std::array<char, 4096> buffer;
  const ssize_t n = ::recv(fd, buffer.data(), buffer.size(), MSG_DONTWAIT);
  if (n < 0) return errno == EAGAIN || errno == EINTR;
  if (n == 0) return false;
  if (buffer[0] == '!') wait_for_the_test(notes);
  return answer(fd, {buffer.data(), static_cast<std::size_t>(n)});
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

// The learner's server beside the test.
class House {
 public:
  explicit House(unsigned threads)
      : server_([this, threads](net::Fd listener) {
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

  struct End {
    std::string hang;  // where it hung, or nothing
    bool clean;
  };

  // RunningServer waits 20 seconds for the end; who learns wants to know
  // sooner.
  End end() {
    ended_ = true;
    let_go();
    const pid_t process = server_.pid();
    const net::Fd pidfd(net::check(
        static_cast<int>(::syscall(SYS_pidfd_open, process, 0)), "pidfd_open"));
    std::string hang;
    std::jthread watch([&] {
      pollfd entry{pidfd.get(), POLLIN, 0};
      if (::poll(&entry, 1, static_cast<int>(patience.count())) != 0) return;
      hang = testing::whereabouts(process);
      ::syscall(SYS_pidfd_send_signal, pidfd.get(), SIGKILL, nullptr, 0);
    });
    const bool clean = server_.stop().clean;
    watch.join();
    if (!hang.empty()) patience = little_patience;
    return {hang, clean};
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
  const House::End end = house.end();
  CHECK_MESSAGE(end.hang.empty(), "all threads end: " << end.hang);
  CHECK_MESSAGE(end.clean, "serve returns and leaves nothing behind");
}

}  // namespace

TEST_CASE("a client speaks during its turn") {
  House house(2);
  auto clients = enter(house, 2);
  house.hold(clients[0]);
  clients[0].send("more");
  let_the_free_thread_look(clients[1]);
  CHECK_MESSAGE(house.notes().clashes == 0,
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
  CHECK_MESSAGE(house.notes().clashes == 0,
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
