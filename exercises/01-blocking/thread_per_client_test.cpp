// With angle brackets: quotes would find the header beside this file even when
// the solution is built.
#include <thread_per_client.hpp>

#include <doctest/doctest.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iterator>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>

#include "common/error.hpp"
#include "common/fd.hpp"
#include "common/socket.hpp"
#include "common/testing/client.hpp"
#include "common/testing/process.hpp"
#include "common/testing/running_server.hpp"

namespace {

using namespace std::chrono_literals;
using testing::Client;
using testing::RunningServer;

constexpr auto patience = 5s;

// True if it happens in time: what throws has not happened.
bool happens(const std::function<bool()>& what) {
  try {
    return what();
  } catch (const std::exception&) {
    return false;
  }
}

bool echoes(Client& client, std::size_t bytes) {
  const std::string sent = testing::pattern(bytes);
  return happens([&] { return client.exchange(sent) == sent; });
}

bool sees_the_end(Client& client) {
  return happens([&] { return client.ended(); });
}

bool holds_soon(const std::function<bool()>& what) {
  return happens([&] {
    testing::wait_until("it holds", what, patience);
    return true;
  });
}

// For 20 ms it neither ran nor wanted to. A server that spins wants to even
// while others have the processors.
bool rests(pid_t process) {
  auto since = testing::Clock::now();
  auto cpu = testing::cpu_time(process);
  return holds_soon([&] {
    const auto used = testing::cpu_time(process);
    const auto now = testing::Clock::now();
    if (used != cpu || testing::state(process) != 'S') since = now;
    cpu = used;
    return now - since >= 20ms;
  });
}

std::size_t threads(pid_t process) {
  const std::filesystem::directory_iterator tasks(
      "/proc/" + std::to_string(process) + "/task");
  return static_cast<std::size_t>(std::distance(begin(tasks), end(tasks)));
}

// With the one that a sanitizer starts along with the first of ours.
std::size_t threads_of_this_process() {
  std::atomic<pid_t> first = 0;
  std::thread([&] { first = ::gettid(); }).join();
  const std::string task = "/proc/self/task/" + std::to_string(first);
  testing::wait_until("a joined thread leaves procfs",
                      [&] { return !std::filesystem::exists(task); });
  return threads(::getpid());
}

// Address space in use, in bytes (proc(5), statm).
std::uint64_t mapped(pid_t process) {
  std::ifstream file("/proc/" + std::to_string(process) + "/statm");
  std::uint64_t pages = 0;
  file >> pages;
  return pages * static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE));
}

// By default this takes 20 seconds; who learns wants to know sooner.
void stop(RunningServer& server) {
  const bool ended = server.stop(patience).ended;
  CHECK_MESSAGE(ended, "serve returns when its listener is shut down");
}

// Forbids this process new threads, or allows them again.
void toggle_threads(int) {
  const int before = errno;
  rlimit limit{};
  ::getrlimit(RLIMIT_NPROC, &limit);
  limit.rlim_cur = limit.rlim_cur == 0 ? limit.rlim_max : 0;
  ::setrlimit(RLIMIT_NPROC, &limit);
  errno = before;
}

// From now on SIGUSR2 toggles: another process may not be allowed to. The limit
// does not hold for root (setrlimit(2)), so root becomes somebody else.
void prepare_toggling() {
  constexpr uid_t nobody = 65534;
  if (::geteuid() == 0 && ::setresuid(nobody, nobody, nobody) == 0) {
    // Both were undone by the change of the user.
    ::prctl(PR_SET_DUMPABLE, 1);
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  }
  toggle_threads(0);
  const bool forbidden = !happens([] {
    std::thread([] {}).join();
    return true;
  });
  if (!forbidden) throw std::runtime_error("RLIMIT_NPROC has no effect here");
  toggle_threads(0);
  struct sigaction action {};
  action.sa_handler = toggle_threads;
  net::check(::sigaction(SIGUSR2, &action, nullptr), "sigaction");
}

bool may_have_threads(pid_t process) {
  std::ifstream file("/proc/" + std::to_string(process) + "/limits");
  std::string word;
  while (file >> word && word != "processes") continue;
  return file >> word && word != "0";
}

void toggle_threads(const RunningServer& server) {
  const bool before = may_have_threads(server.pid());
  server.signal(SIGUSR2);
  // It does not change in a server that has died. What comes next will tell.
  holds_soon([&] { return may_have_threads(server.pid()) != before; });
}

}  // namespace

TEST_CASE("a client talks for a while") {
  RunningServer server(serve);
  Client client(server.address(), patience);
  CHECK_MESSAGE(echoes(client, 1 << 20), "a client is served until it leaves");
}

TEST_CASE("a client is silent") {
  RunningServer server(serve);
  Client silent(server.address(), patience);
  Client other(server.address(), patience);
  CHECK_MESSAGE(echoes(other, 100), "a silent client delays nobody");
}

TEST_CASE("clients come and go") {
  RunningServer server(serve);
  const pid_t process = server.pid();
  auto first = testing::connect_clients(server.address(), 1, patience);
  testing::echo_all(first);
  const std::size_t threads_before = threads(process);
  const std::size_t descriptors_before = testing::open_descriptors(process);
  const std::uint64_t mapped_before = mapped(process);
  constexpr int visits = 100;
  bool nothing_left = true;
  for (int i = 0; nothing_left && i < visits; ++i) {
    Client visitor(server.address(), patience);
    nothing_left = echoes(visitor, 100);
    visitor.finish();
    nothing_left =
        nothing_left && holds_soon([&] {
          return threads(process) == threads_before &&
                 testing::open_descriptors(process) == descriptors_before;
        });
  }
  CHECK_MESSAGE(nothing_left,
                "a client that has left leaves no thread and no "
                "descriptor");
  CHECK_MESSAGE(mapped(process) < mapped_before + visits * (1U << 20),
                "threads that have ended give their stacks back");
}

TEST_CASE("it is stopped while clients are there") {
  RunningServer server([](net::Fd listener) {
    const std::size_t before = threads_of_this_process();
    serve(std::move(listener));
    // A thread that has been joined can stand in procfs for a moment longer.
    testing::wait_until(
        "serve leaves no thread", [&] { return threads(::getpid()) == before; },
        3s);
  });
  auto clients = testing::connect_clients(server.address(), 5, patience);
  testing::echo_all(clients);
  stop(server);
}

TEST_CASE("it is out of descriptors") {
  RunningServer server(serve);
  auto clients = testing::connect_clients(server.address(), 2, patience);
  testing::echo_all(clients);
  server.limit_descriptors(testing::open_descriptors(server.pid()));
  // Two, because accept4 reserves a number before it sleeps: one that slept
  // when the limit came still accepts the first.
  auto waiting = testing::connect_clients(server.address(), 2, patience);
  CHECK_MESSAGE(rests(server.pid()), "without a descriptor the server rests");
  clients.clear();
  CHECK_MESSAGE((echoes(waiting[0], 100) && echoes(waiting[1], 100)),
                "whoever waited is served once a client has left");
}

TEST_CASE("it is stopped while it is out of descriptors") {
  RunningServer server(serve);
  auto clients = testing::connect_clients(server.address(), 2, patience);
  testing::echo_all(clients);
  server.limit_descriptors(testing::open_descriptors(server.pid()));
  const auto waiting = testing::connect_clients(server.address(), 2, patience);
  rests(server.pid());
  stop(server);
}

TEST_CASE("there is no thread for a client") {
  RunningServer server([](net::Fd listener) {
    prepare_toggling();
    serve(std::move(listener));
  });
  auto first = testing::connect_clients(server.address(), 1, patience);
  testing::echo_all(first);
  toggle_threads(server);
  Client second(server.address(), patience);
  CHECK_MESSAGE(sees_the_end(second),
                "a client for whom there is no thread is turned away");
  toggle_threads(server);
  Client third(server.address(), patience);
  CHECK_MESSAGE(echoes(third, 100),
                "clients are served again once there are threads");
}
