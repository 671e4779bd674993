#include <doctest/doctest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <vector>

#include "common/error.hpp"
#include "common/fd.hpp"
#include "common/testing/child_process.hpp"
#include "common/testing/process.hpp"
#include "common/testing/sanitizer.hpp"
#include "common/tools/measure.hpp"

namespace {

using namespace std::chrono_literals;
using net::RequestCalls;
using testing::ChildProcess;

const std::string measure_program = BIN "measure";
const std::string blocking = BIN "01-blocking";
const std::string selecting = BIN "02-select";
const std::string polling = BIN "03-poll";
const std::string level = BIN "04-epoll-level";
const std::string edge = BIN "05-epoll-edge";
const std::string other_fds = BIN "06-other-fds";
const std::string scheduler = BIN "08-scheduler";

// A shell script that stands for a server, removed at the end of the scope.
class Script {
 public:
  explicit Script(const std::string& body) {
    const net::Fd fd(net::check(::mkstemp(path_.data()), "mkstemp"));
    const std::string text = "#!/bin/sh\n" + body;
    net::check(::write(fd.get(), text.data(), text.size()), "write");
    net::check(::fchmod(fd.get(), 0700), "fchmod");
  }
  Script(const Script&) = delete;
  Script& operator=(const Script&) = delete;
  ~Script() { ::unlink(path_.c_str()); }

  const std::string& path() const { return path_; }

 private:
  std::string path_ = std::filesystem::temp_directory_path() / "server-XXXXXX";
};

// Clients that fit, with what else is open.
std::size_t shrink(std::size_t clients) {
  const std::uint64_t limit = testing::raise_descriptor_limit();
  if (limit >= clients + 100) return clients;
  MESSAGE("the limit is " << limit << " descriptors: fewer clients");
  return limit - 100;
}

// How often one of two names was called: which one, the C library chooses.
int calls(const RequestCalls& counted, const std::string& name,
          const std::string& other) {
  std::uint64_t sum = 0;
  for (const net::CallCount& call : counted.calls) {
    if (call.name == name || call.name == other) sum += call.calls;
  }
  return static_cast<int>(sum);
}

// One client and 100 echoes: each a recv, a send and, if the chapter has a
// call that waits, one of that. There is no other call at all.
void check_echo(const std::string& program, const std::string& wait,
                const std::string& other) {
  const RequestCalls counted = net::calls_of_requests(program, 1, 100);
  if (!counted.refused.empty()) {
    MESSAGE("this system does not let us count: " << counted.refused);
    return;
  }
  CHECK(counted.requests == 100);
  CHECK(calls(counted, "recvfrom", "") == 100);
  CHECK(calls(counted, "sendto", "") == 100);
  const int waits = wait.empty() ? 0 : 1;
  CHECK(calls(counted, wait, other) == 100 * waits);
  // A sanitizer makes calls of its own.
  if (testing::sanitized) return;
  CHECK(counted.each() == 2 + waits);
}

// 50 clients that ask together: a recv and a send for each request, and few
// waits, since one finds many of them ready.
void check_crowd(const std::string& program) {
  const RequestCalls counted = net::calls_of_requests(program, 50, 20);
  if (!counted.refused.empty()) {
    MESSAGE("this system does not let us count: " << counted.refused);
    return;
  }
  CHECK(counted.requests == 1000);
  CHECK(calls(counted, "recvfrom", "") == 1000);
  CHECK(calls(counted, "sendto", "") == 1000);
  CHECK(calls(counted, "epoll_ctl", "") == 0);
  const int waits = calls(counted, "epoll_wait", "epoll_pwait");
  CHECK(waits > 0);
  CHECK(waits < 500);
}

std::string failure_of(const std::string& program) {
  try {
    net::second_client(program);
  } catch (const net::ServerFailed& failed) {
    return failed.what();
  }
  return "no failure";
}

bool has(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

}  // namespace

TEST_CASE("with one client an echo costs two calls in 01-blocking") {
  check_echo(blocking, "", "");
}

TEST_CASE("with one client an echo costs three calls in 02-select") {
  check_echo(selecting, "select", "pselect6");
}

TEST_CASE("with one client an echo costs three calls in 03-poll") {
  check_echo(polling, "poll", "ppoll");
}

TEST_CASE("with one client an echo costs three calls in 04-epoll-level") {
  check_echo(level, "epoll_wait", "epoll_pwait");
}

TEST_CASE("with one client an echo costs three calls in 05-epoll-edge") {
  check_echo(edge, "epoll_wait", "epoll_pwait");
}

TEST_CASE("an echo costs no more calls in 06-other-fds, timed or not") {
  const Script timed("exec " + other_fds + " --idle-timeout 60s \"$@\"\n");
  for (const std::string& program : {other_fds, timed.path()}) {
    CAPTURE(program);
    check_echo(program, "epoll_wait", "epoll_pwait");
    check_crowd(program);
  }
}

TEST_CASE("with one client an echo costs three calls in 08-scheduler") {
  check_echo(scheduler, "epoll_wait", "epoll_pwait");
}

TEST_CASE(
    "with 50 clients one epoll_wait serves many requests, if it is epoll") {
  for (const std::string& program : {level, edge, scheduler}) {
    CAPTURE(program);
    check_crowd(program);
  }
}

TEST_CASE("beside a silent client a second waits in 01 only") {
  const net::SecondClient first = net::second_client(blocking);
  CHECK(!first.served);
  CHECK((first.sleeps_in == "recvfrom" || first.sleeps_in.empty()));
  CHECK(net::second_client(selecting).served);
  CHECK(net::second_client(polling).served);
  CHECK(net::second_client(level).served);
  CHECK(net::second_client(edge).served);
  CHECK(net::second_client(scheduler).served);
  const net::SecondClient last = net::second_client(other_fds);
  CHECK(last.served);
  CHECK((last.sleeps_in.starts_with("epoll_") || last.sleeps_in.empty()));
}

TEST_CASE("of 1,100 clients that stay 01 serves one, 02 what a set holds") {
  const std::size_t all = shrink(1100);
  const net::AtOnce one = net::served_at_once(blocking, all);
  CHECK(one.served == 1);
  CHECK(one.waiting() == all - 1);
  const net::AtOnce set = net::served_at_once(selecting, all);
  CHECK(set.served <= 1020);
  CHECK(set.served >= std::min<std::size_t>(all, 1000));
  CHECK(set.waiting() == 0);
  for (const std::string& program :
       {polling, level, edge, other_fds, scheduler}) {
    CHECK(net::served_at_once(program, all).served == all);
  }
}

TEST_CASE("idle clients cost poll at each echo, and epoll next to nothing") {
  const std::vector<std::size_t> steps{0, shrink(800)};
  const auto more = [&](const std::string& program) {
    const auto costs = net::echoes_beside_idle(program, steps, 300);
    REQUIRE(costs.size() == 2);
    CHECK(costs[0].idle == 0);
    CHECK(costs[1].idle == steps[1]);
    return costs[1].cpu / costs[0].cpu;
  };
  CHECK(more(polling) > 5);  // 60 times here, and 1.0 times with epoll
  CHECK(more(level) < 5);
  CHECK(more(edge) < 5);
  CHECK(more(other_fds) < 5);
  CHECK(more(scheduler) < 5);
}

TEST_CASE("a server that cannot hold the idle clients has failed") {
  CHECK_THROWS_AS(net::echoes_beside_idle(blocking, {2}, 10),
                  net::ServerFailed);
}

TEST_CASE("a cost under load is a positive figure with switches") {
  const net::LoadCost cost = net::cost_under_load(polling, 1, 64, 500);
  CHECK(cost.cpu > 0);
  CHECK(cost.switches > 0);
}

TEST_CASE("a server that computes is seen to do so in user mode") {
  // It begins with arithmetic. The ticks are a guess, and wide of it at times.
  const Script busy(
      "i=0; while [ $i -lt 1000000 ]; do i=$((i+1)); done\nexec " + polling +
      " \"$@\"\n");
  CHECK(net::cost_under_load(busy.path(), 1, 64, 500).user > 0.1);
  const double user = net::cost_under_load(polling, 1, 64, 20'000).user;
  CHECK(user >= 0);
  CHECK(user < 0.8);
}

TEST_CASE("the load beside idle clients is dearer for a server that polls") {
  const std::size_t idle = shrink(1000);
  const auto cost = [](std::size_t beside) {
    return net::cost_under_load(polling, 1, 64, 500, beside).cpu;
  };
  CHECK(cost(idle) > 1.5 * cost(0));
}

TEST_CASE("a program that cannot be run is named") {
  CHECK(has(failure_of("/no/such/server"), "server: execvp /no/such/server"));
}

TEST_CASE("a program that ends is reported with its status and its words") {
  const Script script("echo no luck >&2\nexit 7\n");
  const std::string failure = failure_of(script.path());
  CHECK(has(failure, "status 7"));
  CHECK(has(failure, "no luck"));
}

TEST_CASE("a program that hangs is reported with the call it sleeps in") {
  const Script script("echo listening on 127.0.0.1:1\nexec sleep 1000\n");
  const std::string failure = failure_of(script.path());
  CHECK(has(failure, "Connection refused"));
  CHECK(has(failure, "thread "));
}

TEST_CASE("the median of an even number lies between the middle two") {
  CHECK(net::median({3, 1, 2}) == 2);
  CHECK(net::median({4, 1, 3, 2}) == 2.5);
  CHECK(net::median({7}) == 7);
}

TEST_CASE("measure prints a line for each program and goes on past a failure") {
  ChildProcess measure({measure_program, "--rounds", "2", "--requests", "500",
                        polling, "/bin/false", selecting});
  CHECK(measure.wait(60s) == 1);
  CHECK(has(measure.output(), "\n03-poll "));
  CHECK(has(measure.output(), "\nfalse               failed\n"));
  CHECK(has(measure.output(), "\n02-select "));
  CHECK(has(measure.errors(), "it has ended with status 1"));
}

TEST_CASE("measure fails when a program is dearer twice than allowed") {
  ChildProcess measure({measure_program, "--rounds", "1", "--requests", "500",
                        "--at-most", "1", polling, selecting});
  CHECK(measure.wait(60s) == 1);
  CHECK(has(measure.output(), "02-select takes "));
  CHECK(has(measure.output(), "measured once more"));
}

TEST_CASE("measure compares a program beside idle clients with itself") {
  const std::string idle = std::to_string(shrink(1000));
  ChildProcess measure({measure_program, "--rounds", "2", "--requests", "500",
                        "--connections", "1", "--idle", idle, "--at-most",
                        "100000", edge, polling});
  CHECK(measure.wait(60s) == 0);
  const std::string table = " idle:";
  REQUIRE(has(measure.output(), table));
  const std::string after =
      measure.output().substr(measure.output().rfind(table));
  CHECK(has(after, "\n05-epoll-edge "));
  CHECK(has(after, "\n03-poll "));
}

TEST_CASE("measure fails when idle clients cost twice more than allowed") {
  const std::string idle = std::to_string(shrink(1000));
  ChildProcess measure({measure_program, "--rounds", "1", "--requests", "500",
                        "--connections", "1", "--idle", idle, "--at-most",
                        "105", polling});
  CHECK(measure.wait(60s) == 1);
  CHECK(
      has(measure.output(), " times the CPU without idle clients, more than"));
  CHECK(has(measure.output(), "measured once more"));
}

TEST_CASE("measure has as many idle clients as descriptors, and says so") {
  ChildProcess measure({"sh", "-c",
                        "ulimit -n 300; exec \"$0\" --rounds 1 --requests 50 "
                        "--connections 1 --idle 1000 \"$1\"",
                        measure_program, polling});
  CHECK(measure.wait(60s) == 0);
  CHECK(has(measure.output(), "only 199 idle clients"));
}

TEST_CASE("measure passes when no program is dearer than allowed") {
  ChildProcess measure({measure_program, "--rounds", "1", "--requests", "500",
                        "--at-most", "100000", polling, selecting});
  CHECK(measure.wait(60s) == 0);
  CHECK(!has(measure.output(), "measured once more"));
}
