#include "common/testing/running_server.hpp"

#include <doctest/doctest.h>
#include <fcntl.h>
#include <malloc.h>
#include <poll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include <array>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <exception>
#include <string>
#include <utility>

#include "common/error.hpp"
#include "common/testing/process.hpp"
#include "common/testing/whereabouts.hpp"

#if defined(__SANITIZE_ADDRESS__)
#define TUTORIAL_HAS_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define TUTORIAL_HAS_ASAN 1
#endif
#endif
#ifdef TUTORIAL_HAS_ASAN
#include <sanitizer/lsan_interface.h>
#endif

namespace testing {
namespace {

// Why the child ended, as its exit status.
enum Ending : int { Clean = 0, Threw = 10, LeakedFd = 11, LeakedMemory = 12 };

bool leaked_memory() {
#ifdef TUTORIAL_HAS_ASAN
  return __lsan_do_recoverable_leak_check() != 0;
#else
  return false;
#endif
}

void do_nothing(int) {}

constexpr int listener_number = 3;

// Leaves the child 0, 1, 2 and the listener; returns how many descriptors it
// has but for the listener. Closing `ready` comes last: from then on the parent
// may send signals and lower limits.
std::size_t prepare(net::Fd listener, net::Fd ready) {
  struct sigaction action {};
  action.sa_handler = do_nothing;
  net::check(::sigaction(SIGUSR1, &action, nullptr), "sigaction");
  constexpr int last = listener_number + 1;
  net::check(::dup2(listener.release(), listener_number), "dup2");
  net::check(::dup2(ready.release(), last), "dup2");
  net::check(::syscall(SYS_close_range, last + 1, ~0U, 0), "close_range");
  // What the test has freed would hide what the server takes.
  ::malloc_trim(0);
  const std::size_t open = open_descriptors(::getpid());
  ::close(last);
  return open - 2;
}

// Nothing may leave it but its result: in the child, the caller is a copy of
// the test program, which would go on with the next test case.
int run_child(const std::function<void(net::Fd)>& serve, net::Fd listener,
              net::Fd ready) {
  try {
    const std::size_t others = prepare(std::move(listener), std::move(ready));
    serve(net::Fd(listener_number));
    if (open_descriptors(::getpid()) != others) return LeakedFd;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "server: %s\n", error.what());
    return Threw;
  } catch (...) {
    return Threw;
  }
  return leaked_memory() ? LeakedMemory : Clean;
}

// True if the child ended within the limit.
bool wait_for_end(pid_t process, std::chrono::milliseconds limit) {
  const net::Fd pidfd(net::check(
      static_cast<int>(::syscall(SYS_pidfd_open, process, 0)), "pidfd_open"));
  pollfd entry{pidfd.get(), POLLIN, 0};
  return net::check(::poll(&entry, 1, static_cast<int>(limit.count())),
                    "poll") == 1;
}

std::string signal_name(int number) {
  const char* name = ::sigabbrev_np(number);
  if (name == nullptr) return "signal " + std::to_string(number);
  return std::string("SIG") + name;
}

std::string meaning(int status) {
  if (WIFSIGNALED(status)) {
    return "the server was killed by " + signal_name(WTERMSIG(status));
  }
  switch (WEXITSTATUS(status)) {
    case Clean:
      return "";
    case Threw:
      return "the server threw an exception";
    case LeakedFd:
      return "the server left a descriptor open";
    case LeakedMemory:
      return "the server left memory behind";
    default:
      return "the server ended by exit";
  }
}

}  // namespace

RunningServer::RunningServer(const std::function<void(net::Fd)>& serve,
                             const char* host)
    : listener_(net::listen_on(net::resolve(host, 0))),
      address_(net::local_address(listener_)) {
  std::fflush(nullptr);
  std::array<int, 2> ends{};
  net::check(::pipe2(ends.data(), O_CLOEXEC), "pipe2");
  const net::Fd read_end(ends[0]);
  net::Fd write_end(ends[1]);
  process_ = net::check(::fork(), "fork");
  if (process_ == 0) {
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    ::_exit(run_child(serve, std::move(listener_), std::move(write_end)));
  }
  // The child closes its copy when it is ready: end of file here.
  write_end = net::Fd();
  char nothing = 0;
  net::check(::read(read_end.get(), &nothing, 1), "read");
}

RunningServer::~RunningServer() {
  if (process_ < 0) return;
  try {
    stop();
  } catch (const std::exception& error) {
    FAIL_CHECK(std::string(error.what()));
  }
}

void RunningServer::limit_descriptors(std::uint64_t limit) const {
  rlimit limits{};
  net::check(::prlimit(process_, RLIMIT_NOFILE, nullptr, &limits), "prlimit");
  limits.rlim_cur = limit;
  net::check(::prlimit(process_, RLIMIT_NOFILE, &limits, nullptr), "prlimit");
}

void RunningServer::signal(int number) const {
  net::check(::kill(process_, number), "kill");
}

RunningServer::Exit RunningServer::stop(std::chrono::milliseconds limit) {
  ::shutdown(listener_.get(), SHUT_RDWR);
  const bool ended = wait_for_end(process_, limit);
  if (!ended) {
    FAIL_CHECK("the server did not end and was killed by the test: "
               << whereabouts(process_));
    ::kill(process_, SIGKILL);
  }
  int status = 0;
  rusage usage{};
  net::check(::wait4(std::exchange(process_, -1), &status, 0, &usage), "wait4");
  const bool clean = ended && WIFEXITED(status) && WEXITSTATUS(status) == Clean;
  if (ended && !clean) {
    FAIL_CHECK(meaning(status) << " (wait status " << status << ")");
  }
  const auto time = [](const timeval& t) {
    return std::chrono::seconds(t.tv_sec) +
           std::chrono::microseconds(t.tv_usec);
  };
  return {ended, clean, time(usage.ru_utime) + time(usage.ru_stime)};
}

}  // namespace testing
