#include <doctest/doctest.h>
#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <string>
#include <system_error>
#include <vector>

#include "common/socket.hpp"
#include "common/testing/child_process.hpp"
#include "common/testing/client.hpp"
#include "common/testing/process.hpp"
#include "common/tools/count_calls.hpp"

namespace {

using net::CallCounter;
using testing::ChildProcess;
using namespace std::chrono_literals;

std::uint64_t calls(const CallCounter& counter, const std::string& name) {
  for (const net::CallCount& count : counter.counts()) {
    if (count.name == name) return count.calls;
  }
  return 0;
}

// False, aloud, where the system refuses to trace: nothing can be counted.
bool counts_here(const CallCounter& counter) {
  if (counter.refused().empty()) return true;
  MESSAGE("this system does not let us count: " << counter.refused());
  CHECK(counter.counts().empty());
  return false;
}

net::Address address_in(const std::string& line) {
  const auto colon = line.rfind(':');
  REQUIRE(line.starts_with("listening on 127.0.0.1:"));
  return net::resolve("127.0.0.1", static_cast<std::uint16_t>(
                                       std::atoi(line.c_str() + colon + 1)));
}

}  // namespace

TEST_CASE("calls of main, of a thread and of a forked child are all counted") {
  const CallCounter counter({"env", "ASAN_OPTIONS=detect_leaks=0",
                             "TSAN_OPTIONS=report_bugs=0", SUBJECT, "1000"});
  CHECK(counter.wait(20s) == 7);
  if (!counts_here(counter)) return;
  CHECK(calls(counter, "getppid") == 3000);
  CHECK(calls(counter, "wait4") == 1);
}

TEST_CASE("a phase of a server that runs is counted exactly") {
  CallCounter counter({SERVER, "--port", "0"}, CallCounter::From::start,
                      CallCounter::Output::captured);
  testing::Client client(address_in(counter.read_line(20s)));
  CHECK(client.echo("once") == "once");
  testing::wait_until_settled(counter.pid());
  counter.reset();
  for (int i = 0; i < 100; ++i) REQUIRE(client.echo("again") == "again");
  testing::wait_until_settled(counter.pid());
  if (!counts_here(counter)) return;
  CHECK(calls(counter, "poll") + calls(counter, "ppoll") == 100);
  CHECK(calls(counter, "recvfrom") == 100);
  CHECK(calls(counter, "sendto") == 100);
  CHECK(counter.counts().size() == 3);
}

TEST_CASE("counting from 'listening on' leaves out all that was before") {
  CallCounter counter({SERVER, "--port", "0"}, CallCounter::From::listening,
                      CallCounter::Output::captured);
  testing::Client client(address_in(counter.read_line(20s)));
  CHECK(client.echo("once") == "once");
  testing::wait_until_settled(counter.pid());
  if (!counts_here(counter)) return;
  CHECK(calls(counter, "bind") == 0);
  CHECK(calls(counter, "write") == 0);
  CHECK(calls(counter, "recvfrom") == 1);
}

TEST_CASE("a stopped program stays stopped until it is continued") {
  CallCounter counter({"sh", "-c", "kill -STOP $$; echo on"},
                      CallCounter::From::start, CallCounter::Output::captured);
  CHECK(counter.read_line(300ms).empty());
  CHECK(counter.signal(SIGCONT));
  CHECK(counter.read_line(20s) == "on");
  CHECK(counter.wait(20s) == 0);
}

TEST_CASE("signals reach the program, and its handlers run") {
  CallCounter counter({"sh", "-c",
                       "trap 'echo caught; exit 5' TERM; echo ready;"
                       "while :; do sleep 0.05; done"},
                      CallCounter::From::start, CallCounter::Output::captured);
  REQUIRE(counter.read_line(20s) == "ready");
  CHECK(counter.signal(SIGTERM));
  CHECK(counter.read_line(20s) == "caught");
  CHECK(counter.wait(20s) == 5);
}

TEST_CASE("a signal's default action ends the program with its status") {
  const CallCounter counter({"sleep", "1000"});
  CHECK(counter.wait(0ms) == -1);
  CHECK(counter.signal(SIGTERM));
  CHECK(counter.wait(20s) == 128 + SIGTERM);
  CHECK(!counter.signal(SIGTERM));
}

TEST_CASE("the program and all it started die with the counter") {
  pid_t program = -1;
  pid_t started = -1;
  {
    CallCounter counter({"sh", "-c", "sleep 1000 & echo $!; wait"},
                        CallCounter::From::start,
                        CallCounter::Output::captured);
    program = counter.pid();
    started = std::atoi(counter.read_line(20s).c_str());
    REQUIRE(started > 0);
    if (!counts_here(counter)) return;
  }
  for (const pid_t process : {program, started}) {
    testing::wait_until("the end of " + std::to_string(process),
                        [&] { return testing::has_ended(process); });
  }
}

TEST_CASE("a program that cannot be run is an error that names it") {
  CHECK_THROWS_WITH_AS(CallCounter({"/nowhere/at/all"}),
                       "exec /nowhere/at/all: No such file or directory",
                       std::system_error);
}

TEST_CASE("count_calls prints a table and exits with the program's status") {
  ChildProcess tool({COUNT_CALLS, "sh", "-c", "exit 7"});
  CHECK(tool.wait() == 7);
  const bool table = tool.errors().find("exit_group\n") != std::string::npos &&
                     tool.errors().find("in all\n") != std::string::npos;
  const bool refused = tool.errors().find("ptrace: ") != std::string::npos;
  CHECK((table || refused));
}

TEST_CASE("what is traced already runs uncounted, and that is said") {
  // Under a tracer LeakSanitizer would turn the exit status into its own.
  ChildProcess tool({COUNT_CALLS, "env", "ASAN_OPTIONS=detect_leaks=0",
                     COUNT_CALLS, "sh", "-c", "echo ran; exit 7"});
  CHECK(tool.wait() == 7);
  CHECK(tool.output() == "ran\n");
  CHECK(tool.errors().find(
            "count_calls: ptrace: Operation not permitted: running it "
            "uncounted\n") != std::string::npos);
}

// Whatever is left would hold our end of its output, and wait() not return.
TEST_CASE("an interrupted count_calls leaves no process behind") {
  for (const char* trap : {"true", "trap '' INT"}) {
    ChildProcess tool(
        {COUNT_CALLS, "sh", "-c",
         std::string(trap) + "; echo listening on 127.0.0.1:1; sleep 1000"});
    tool.wait_until_listening();
    tool.signal(SIGINT);
    CHECK(tool.wait() == 128 + SIGINT);
  }
}
