#include <doctest/doctest.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <functional>
#include <sstream>
#include <string>
#include <vector>

#include "common/error.hpp"
#include "common/fd.hpp"
#include "common/socket.hpp"
#include "common/syscall_names.hpp"
#include "common/testing/child_process.hpp"
#include "common/testing/process.hpp"
#include "common/testing/sanitizer.hpp"
#include "common/testing/whereabouts.hpp"

namespace {

using testing::ChildProcess;

bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

// Runs the body in a forked child until the end of the scope.
class Forked {
 public:
  explicit Forked(const std::function<void()>& body) : pid_(::fork()) {
    REQUIRE(pid_ >= 0);
    if (pid_ == 0) {
      body();
      ::_exit(0);
    }
  }
  Forked(const Forked&) = delete;
  Forked& operator=(const Forked&) = delete;
  ~Forked() {
    ::kill(pid_, SIGKILL);
    ::waitpid(pid_, nullptr, 0);
  }
  pid_t pid() const { return pid_; }

  // Waits until its whereabouts have this in them.
  void wait_for(const std::string& part) const {
    testing::wait_until("'" + part + "'", [&] {
      return contains(testing::whereabouts(pid_), part);
    });
  }

 private:
  pid_t pid_;
};

// The processes that a report of deadline names.
std::vector<pid_t> named(const std::string& report) {
  std::vector<pid_t> found;
  std::istringstream words(report);
  std::string word;
  while (words >> word) {
    if (word != "process") continue;
    words >> word;
    found.push_back(std::atoi(word.c_str()));
  }
  return found;
}

void compute() {
  for (std::atomic<unsigned> i{0};; ++i) {
  }
}

bool exists(pid_t process) { return ::kill(process, 0) == 0 || errno != ESRCH; }

}  // namespace

TEST_CASE("a system call has a name, an unknown number keeps its number") {
  CHECK(net::syscall_name(SYS_recvfrom) == "recvfrom");
  CHECK(net::syscall_name(SYS_exit_group) == "exit_group");
  CHECK(net::syscall_name(SYS_epoll_ctl) == "epoll_ctl");
  CHECK(net::syscall_name(SYS_epoll_pwait) == "epoll_pwait");
  CHECK(net::syscall_name(9999) == "syscall 9999");
}

TEST_CASE("whereabouts names the call, the descriptor and both addresses") {
  const net::Fd listener = net::listen_on(net::resolve("127.0.0.1", 0));
  const net::Address server = net::local_address(listener);
  const Forked accepting([&] {
    while (::accept(listener.get(), nullptr, nullptr) >= 0) {
    }
  });
  const std::string place =
      " on descriptor " + std::to_string(listener.get()) + " (socket:[";
  accepting.wait_for(" asleep in accept" + place);
  accepting.wait_for("], listening on " + server.text() + ")\n");

  const net::Fd client = net::connect_to(server);
  const Forked receiving([&] {
    char byte = 0;
    ::recv(client.get(), &byte, 1, 0);
  });
  receiving.wait_for(" asleep in recvfrom on descriptor " +
                     std::to_string(client.get()) + " (socket:[");
  receiving.wait_for("], " + net::local_address(client).text() + " <-> " +
                     server.text() + ")\n");
}

TEST_CASE("whereabouts says how many descriptors epoll_wait watches") {
  const net::Fd epoll(::epoll_create1(EPOLL_CLOEXEC));
  const net::Fd listener = net::listen_on(net::resolve("127.0.0.1", 0));
  epoll_event event{EPOLLIN, {.fd = listener.get()}};
  REQUIRE(::epoll_ctl(epoll.get(), EPOLL_CTL_ADD, listener.get(), &event) == 0);
  const Forked waiting([&] {
    epoll_event ready{};
    ::epoll_wait(epoll.get(), &ready, 1, -1);
  });
  waiting.wait_for(" asleep in epoll_");  // which one, the C library chooses
  waiting.wait_for("wait on descriptor " + std::to_string(epoll.get()) +
                   " (anon_inode:[eventpoll], watching 1)\n");
}

TEST_CASE("whereabouts names the only descriptor of poll and counts several") {
  const net::Fd listener = net::listen_on(net::resolve("127.0.0.1", 0));
  for (const nfds_t count : {0U, 1U, 2U}) {
    const Forked waiting([&] {
      pollfd entry{listener.get(), POLLIN, 0};
      std::array<pollfd, 2> entries{entry, entry};
      ::poll(entries.data(), count, -1);
    });
    waiting.wait_for(count != 1
                         ? " over " + std::to_string(count) + " descriptors\n"
                         : " on descriptor " + std::to_string(listener.get()) +
                               " (socket:[");
  }
}

TEST_CASE("whereabouts reads IPv6 addresses") {
  const net::Fd listener = net::listen_on(net::resolve("::1", 0));
  const Forked accepting([&] { ::accept(listener.get(), nullptr, nullptr); });
  accepting.wait_for("listening on " + net::local_address(listener).text());
}

TEST_CASE("whereabouts tells who computes, who is stopped and who is gone") {
  pid_t gone = -1;
  {
    const Forked spinning(compute);
    spinning.wait_for(" running\n");
    ::kill(spinning.pid(), SIGSTOP);
    spinning.wait_for(" stopped by a signal\n");
    gone = spinning.pid();
    ::kill(gone, SIGKILL);
    spinning.wait_for(" ended\n");
  }
  CHECK(contains(testing::whereabouts(gone), "nowhere to be seen"));
}

TEST_CASE("deadline passes output and exit status through") {
  ChildProcess good({DEADLINE, "--seconds", "100", "sh", "-c",
                     "echo out; echo err >&2; exit 3"});
  CHECK(good.wait() == 3);
  CHECK(good.output() == "out\n");
  CHECK(good.errors() == "err\n");
}

TEST_CASE("deadline says what ended a command that has no exit status") {
  ChildProcess killed({DEADLINE, "sh", "-c", "kill -SEGV $$"});
  CHECK(killed.wait() == 128 + SIGSEGV);
  CHECK(killed.errors() == "deadline: sh: Segmentation fault\n");

  ChildProcess missing({DEADLINE, "/nowhere/at/all"});
  CHECK(missing.wait() == 127);
  CHECK(missing.errors() ==
        "deadline: exec /nowhere/at/all: No such file or directory\n");
}

TEST_CASE("deadline names call and descriptor of all, and kills them all") {
  ChildProcess late({DEADLINE, "--seconds", "1", "sh", "-c",
                     "sleep 1000 | cat; setsid sleep 1000"});
  CHECK(late.wait() == 124);
  CHECK(contains(late.errors(), "deadline: sh has not ended in 1 s\n"));
  CHECK(contains(late.errors(), " asleep in wait4\n"));
  CHECK(contains(late.errors(), " asleep in clock_nanosleep\n"));
  CHECK(contains(late.errors(), " asleep in read on descriptor 0 (pipe:["));
  const std::vector<pid_t> processes = named(late.errors());
  CHECK(processes.size() == 3);
  for (const pid_t process : processes) CHECK(!exists(process));
}

TEST_CASE("what a test found before it hung is not lost") {
  ChildProcess late({DEADLINE, "--seconds", "1", SUBJECT});
  CHECK(late.wait() == 124);
  CHECK(contains(late.errors(), " asleep in "));
  CHECK(contains(late.output(), "ERROR: CHECK( false ) is NOT correct!\n"));
  CHECK(contains(late.output(), "  logged: what is wrong\n"));
}

TEST_CASE("a test that hangs names its test case") {
  if (testing::sanitized) {
    MESSAGE("a sanitizer may hold the signal back: not tried");
    return;
  }
  ChildProcess late({DEADLINE, "--seconds", "1", SUBJECT});
  CHECK(late.wait() == 124);
  CHECK(contains(late.output(), "test case CRASHED: SIGTERM"));
}

TEST_CASE("deadline kills and names what a command leaves behind") {
  ChildProcess leaving(
      {DEADLINE, "sh", "-c", "sleep 1000 & setsid sleep 1000 & exit 3"});
  CHECK(leaving.wait() == 3);
  CHECK(contains(leaving.errors(), "deadline: sh left process "));
  const std::vector<pid_t> processes = named(leaving.errors());
  CHECK(processes.size() == 2);
  for (const pid_t process : processes) CHECK(!exists(process));
}

TEST_CASE("deadline takes everything with it when it is interrupted") {
  for (const int signal : {SIGINT, SIGTERM, SIGHUP}) {
    ChildProcess runner({DEADLINE, "sh", "-c",
                         "trap '' INT TERM HUP; sleep 1000 &"
                         "echo listening on 127.0.0.1:$!; wait"});
    runner.wait_until_listening();
    runner.signal(signal);
    CHECK(runner.wait() == 128 + signal);
    const std::string& said = runner.output();
    CHECK(!exists(std::atoi(said.c_str() + said.rfind(':') + 1)));
  }
}

TEST_CASE("deadline kills even if nobody reads what it says") {
  ChildProcess deaf({"sh", "-c",
                     "exec 3>&1; { " DEADLINE
                     " --seconds 1 sh -c 'echo $$ >&3; exec sleep 1000' 2>&1;"
                     " echo $? >&3; } | true"});
  CHECK(deaf.wait() == 0);
  CHECK(contains(deaf.output(), "\n124\n"));
  CHECK(!exists(std::atoi(deaf.output().c_str())));
}

// The command holds our end of its output, so wait() would not return.
TEST_CASE("the command dies with a runner that is killed") {
  ChildProcess runner(
      {DEADLINE, "sh", "-c", "echo listening on 127.0.0.1:1; exec sleep 1000"});
  runner.wait_until_listening();
  runner.signal(SIGKILL);
  CHECK(runner.wait() == 128 + SIGKILL);
}

TEST_CASE("a terminal does not stop a command that reads from it") {
  const net::Fd terminal(::posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC));
  REQUIRE(terminal);
  REQUIRE(::grantpt(terminal.get()) == 0);
  REQUIRE(::unlockpt(terminal.get()) == 0);
  const std::string name = ::ptsname(terminal.get());
  const pid_t runner = ::fork();
  REQUIRE(runner >= 0);
  if (runner == 0) {
    ::setsid();
    // The first terminal a session's leader opens becomes its own.
    const int line = ::open(name.c_str(), O_RDWR);
    ::dup2(line, 0);
    ::execl(DEADLINE, "deadline", "--seconds", "20", "sh", "-c",
            "read word && test $word = hello", static_cast<char*>(nullptr));
    ::_exit(99);
  }
  CHECK(::write(terminal.get(), "hello\n", 6) == 6);
  int status = -1;
  CHECK(::waitpid(runner, &status, 0) == runner);
  CHECK(status == 0);
}
