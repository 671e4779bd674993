// What poll does, one claim a test case; the lesson cites them by name.

#include <doctest/doctest.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include "common/error.hpp"
#include "common/fd.hpp"
#include "common/socket.hpp"
#include "common/testing/process.hpp"

namespace {

using namespace std::chrono_literals;

constexpr short everything = POLLIN | POLLPRI | POLLOUT | POLLRDHUP;
constexpr int patience = 20'000;  // milliseconds; only a broken kernel waits

struct Pair {
  net::Fd ours;    // polled by the test
  net::Fd theirs;  // the peer
};

// A TCP connection over loopback; neither end blocks.
Pair tcp_pair() {
  const net::Fd listener = net::listen_on(net::resolve("127.0.0.1", 0));
  Pair pair;
  pair.theirs = net::connect_to(net::local_address(listener));
  net::set_nonblocking(pair.theirs);
  pair.ours = net::Fd(net::check(
      ::accept4(listener.get(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC),
      "accept4"));
  return pair;
}

Pair unix_pair() {
  std::array<int, 2> ends{};
  net::check(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, ends.data()),
             "socketpair");
  return {net::Fd(ends[0]), net::Fd(ends[1])};
}

struct Pipe {
  net::Fd read;
  net::Fd write;
};

Pipe make_pipe() {
  std::array<int, 2> ends{};
  net::check(::pipe2(ends.data(), O_NONBLOCK | O_CLOEXEC), "pipe2");
  return {net::Fd(ends[0]), net::Fd(ends[1])};
}

net::Fd any_listener() {
  net::Fd listener = net::listen_on(net::resolve("127.0.0.1", 0));
  net::set_nonblocking(listener);
  return listener;
}

// "IN OUT RDHUP"
std::string names(short revents) {
  constexpr std::array<std::pair<short, std::string_view>, 7> known{
      {{POLLIN, "IN"},
       {POLLPRI, "PRI"},
       {POLLOUT, "OUT"},
       {POLLERR, "ERR"},
       {POLLHUP, "HUP"},
       {POLLNVAL, "NVAL"},
       {POLLRDHUP, "RDHUP"}}};
  std::string text;
  for (const auto& [bit, name] : known) {
    if ((revents & bit) == 0) continue;
    if (!text.empty()) text += ' ';
    text += name;
  }
  return text;
}

// What poll reports of one descriptor at this moment.
std::string look(const net::Fd& fd, short events) {
  pollfd entry{fd.get(), events, 0};
  net::check(::poll(&entry, 1, 0), "poll");
  return names(entry.revents);
}

// Packets take their time, on loopback too: the report has to become the
// expected one before the deadline.
void check_report(const net::Fd& fd, short events, std::string_view expected) {
  const auto deadline =
      testing::Clock::now() + std::chrono::milliseconds(patience);
  std::string seen = look(fd, events);
  while (seen != expected && testing::Clock::now() < deadline) {
    std::this_thread::sleep_for(1ms);
    seen = look(fd, events);
  }
  CHECK(seen == expected);
}

// Bytes moved, or the error as a negative number.
ssize_t send_byte(const net::Fd& fd, int flags = 0) {
  const ssize_t n = ::send(fd.get(), "x", 1, MSG_NOSIGNAL | flags);
  return n < 0 ? -errno : n;
}

ssize_t receive(const net::Fd& fd) {
  std::array<char, 64> buffer;
  const ssize_t n = ::recv(fd.get(), buffer.data(), buffer.size(), 0);
  return n < 0 ? -errno : n;
}

// Ends the connection with RST instead of FIN.
void reset(net::Fd& fd) {
  const linger at_once{1, 0};
  net::check(
      ::setsockopt(fd.get(), SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once),
      "setsockopt SO_LINGER");
  fd = net::Fd();
}

// Reading it takes the error away.
int pending_error(const net::Fd& socket) {
  int error = 0;
  socklen_t size = sizeof error;
  net::check(::getsockopt(socket.get(), SOL_SOCKET, SO_ERROR, &error, &size),
             "getsockopt SO_ERROR");
  return error;
}

// A soft descriptor limit for one scope.
class DescriptorLimit {
 public:
  explicit DescriptorLimit(rlim_t limit) {
    net::check(::getrlimit(RLIMIT_NOFILE, &before_), "getrlimit");
    rlimit lower = before_;
    lower.rlim_cur = limit;
    net::check(::setrlimit(RLIMIT_NOFILE, &lower), "setrlimit");
  }
  DescriptorLimit(const DescriptorLimit&) = delete;
  DescriptorLimit& operator=(const DescriptorLimit&) = delete;
  ~DescriptorLimit() { ::setrlimit(RLIMIT_NOFILE, &before_); }

 private:
  rlimit before_{};
};

}  // namespace

static_assert(sizeof(pollfd) == 8);

// The list.

TEST_CASE("poll changes revents only, so the list can be used again") {
  const Pair pair = tcp_pair();
  pollfd entry{pair.ours.get(), POLLIN | POLLOUT, 0};
  REQUIRE(::poll(&entry, 1, 0) == 1);
  CHECK(entry.fd == pair.ours.get());
  CHECK(entry.events == (POLLIN | POLLOUT));
  CHECK(entry.revents == POLLOUT);
}

TEST_CASE("poll writes every revents, on a timeout too") {
  const Pair pair = tcp_pair();
  pollfd entry{pair.ours.get(), POLLIN, POLLIN | POLLERR};
  CHECK(::poll(&entry, 1, 0) == 0);
  CHECK(entry.revents == 0);
}

TEST_CASE("poll skips a negative descriptor and zeroes its revents") {
  const Pair pair = tcp_pair();
  std::array<pollfd, 2> entries{
      {{-1, POLLIN, POLLIN}, {pair.ours.get(), POLLOUT, 0}}};
  CHECK(::poll(entries.data(), entries.size(), 0) == 1);
  CHECK(entries[0].revents == 0);
  CHECK(entries[1].revents == POLLOUT);
}

TEST_CASE("poll counts entries, not bits") {
  const Pair pair = tcp_pair();
  REQUIRE(send_byte(pair.theirs) == 1);
  check_report(pair.ours, everything, "IN OUT");
  pollfd entry{pair.ours.get(), everything, 0};
  CHECK(::poll(&entry, 1, 0) == 1);
}

TEST_CASE("one call reports every entry that is ready") {
  const Pair pair = tcp_pair();
  std::vector<pollfd> entries(500, {pair.ours.get(), POLLOUT, 0});
  CHECK(::poll(entries.data(), entries.size(), 0) == 500);
  CHECK(entries.front().revents == POLLOUT);
  CHECK(entries.back().revents == POLLOUT);
}

TEST_CASE("the same descriptor twice in the list is reported twice") {
  const Pair pair = tcp_pair();
  REQUIRE(send_byte(pair.theirs) == 1);
  check_report(pair.ours, POLLIN, "IN");
  std::array<pollfd, 2> entries{
      {{pair.ours.get(), POLLIN, 0}, {pair.ours.get(), POLLOUT, 0}}};
  CHECK(::poll(entries.data(), entries.size(), 0) == 2);
  CHECK(entries[0].revents == POLLIN);
  CHECK(entries[1].revents == POLLOUT);
}

TEST_CASE("a descriptor that is not open is a result, NVAL, not an error") {
  const Pair pair = tcp_pair();
  const int closed = ::dup(pair.ours.get());
  REQUIRE(::close(closed) == 0);
  std::array<pollfd, 2> entries{
      {{closed, 0, 0}, {pair.ours.get(), POLLOUT, 0}}};
  CHECK(::poll(entries.data(), entries.size(), 0) == 2);
  CHECK(names(entries[0].revents) == "NVAL");
  CHECK(names(entries[1].revents) == "OUT");
}

TEST_CASE("poll takes a descriptor beyond 1,024") {
  const auto limit = static_cast<int>(
      std::min<std::uint64_t>(testing::raise_descriptor_limit(), 2'000));
  if (limit < 2'000) MESSAGE("only descriptor " << limit - 1);
  const Pair pair = tcp_pair();
  const net::Fd high(net::check(
      ::fcntl(pair.ours.get(), F_DUPFD_CLOEXEC, limit - 1), "fcntl F_DUPFD"));
  REQUIRE(high.get() == limit - 1);
  CHECK(look(high, POLLOUT) == "OUT");
}

TEST_CASE("more entries than RLIMIT_NOFILE are EINVAL, even negative ones") {
  const DescriptorLimit limit(64);
  std::vector<pollfd> entries(65, {-1, POLLIN, 0});
  CHECK(::poll(entries.data(), 64, 0) == 0);
  CHECK(::poll(entries.data(), 65, 0) == -1);
  CHECK(errno == EINVAL);
}

TEST_CASE("what is ready is reported in every round until it is taken") {
  const Pair pair = tcp_pair();
  REQUIRE(send_byte(pair.theirs) == 1);
  check_report(pair.ours, POLLIN, "IN");
  CHECK(look(pair.ours, POLLIN) == "IN");
  CHECK(receive(pair.ours) == 1);
  CHECK(look(pair.ours, POLLIN) == "");
}

TEST_CASE("the end of a stream stays readable until the descriptor is closed") {
  Pair pair = tcp_pair();
  pair.theirs = net::Fd();
  check_report(pair.ours, POLLIN, "IN");
  CHECK(receive(pair.ours) == 0);
  CHECK(look(pair.ours, POLLIN) == "IN");
  CHECK(receive(pair.ours) == 0);
  CHECK(look(pair.ours, POLLIN) == "IN");
}

// Hang-up and error, one way a connection can end after the other.

TEST_CASE(
    "a peer that finished sending is IN and RDHUP and can be written to") {
  const Pair pair = tcp_pair();
  REQUIRE(::shutdown(pair.theirs.get(), SHUT_WR) == 0);
  check_report(pair.ours, everything, "IN OUT RDHUP");
  CHECK(receive(pair.ours) == 0);
  CHECK(send_byte(pair.ours) == 1);
  check_report(pair.theirs, POLLIN, "IN");
  CHECK(receive(pair.theirs) == 1);
}

TEST_CASE("RDHUP has to be asked for") {
  const Pair pair = tcp_pair();
  REQUIRE(::shutdown(pair.theirs.get(), SHUT_WR) == 0);
  check_report(pair.ours, POLLIN | POLLRDHUP, "IN RDHUP");
  CHECK(look(pair.ours, POLLIN) == "IN");
  CHECK(look(pair.ours, 0) == "");
}

TEST_CASE("HUP does not mean the peer closed: both directions are shut") {
  Pair pair = tcp_pair();
  pair.theirs = net::Fd();
  check_report(pair.ours, everything, "IN OUT RDHUP");
  REQUIRE(::shutdown(pair.ours.get(), SHUT_WR) == 0);
  check_report(pair.ours, everything, "IN OUT HUP RDHUP");
}

TEST_CASE("HUP comes while the peer is still there") {
  const Pair pair = tcp_pair();
  REQUIRE(::shutdown(pair.theirs.get(), SHUT_WR) == 0);
  REQUIRE(::shutdown(pair.ours.get(), SHUT_WR) == 0);
  check_report(pair.ours, everything, "IN OUT HUP RDHUP");
  check_report(pair.theirs, everything, "IN OUT HUP RDHUP");
}

TEST_CASE("shutting down our own direction reports nothing new") {
  const Pair pair = tcp_pair();
  REQUIRE(::shutdown(pair.ours.get(), SHUT_WR) == 0);
  CHECK(look(pair.ours, everything) == "OUT");
  CHECK(send_byte(pair.ours) == -EPIPE);
  REQUIRE(send_byte(pair.theirs) == 1);
  check_report(pair.ours, POLLIN, "IN");
  CHECK(receive(pair.ours) == 1);
}

TEST_CASE(
    "a peer that closed looks half-closed until a write draws its reset") {
  Pair pair = tcp_pair();
  pair.theirs = net::Fd();
  check_report(pair.ours, everything, "IN OUT RDHUP");
  CHECK(send_byte(pair.ours) == 1);
  check_report(pair.ours, everything, "IN OUT ERR HUP RDHUP");
  CHECK(send_byte(pair.ours) == -EPIPE);
  CHECK(receive(pair.ours) == 0);
}

TEST_CASE("a close over unread bytes is ERR and HUP at once") {
  Pair pair = tcp_pair();
  REQUIRE(send_byte(pair.ours) == 1);
  check_report(pair.theirs, POLLIN, "IN");
  pair.theirs = net::Fd();
  check_report(pair.ours, everything, "IN OUT ERR HUP RDHUP");
  CHECK(receive(pair.ours) == -ECONNRESET);
  CHECK(receive(pair.ours) == 0);
}

TEST_CASE("bytes sent before a reset can be read under ERR and HUP") {
  Pair pair = tcp_pair();
  REQUIRE(send_byte(pair.theirs) == 1);
  reset(pair.theirs);
  check_report(pair.ours, everything, "IN OUT ERR HUP RDHUP");
  CHECK(receive(pair.ours) == 1);
  CHECK(receive(pair.ours) == -ECONNRESET);
  CHECK(receive(pair.ours) == 0);
}

TEST_CASE("a write that meets a reset gets ECONNRESET and then EPIPE") {
  Pair pair = tcp_pair();
  reset(pair.theirs);
  check_report(pair.ours, everything, "IN OUT ERR HUP RDHUP");
  CHECK(send_byte(pair.ours) == -ECONNRESET);
  CHECK(send_byte(pair.ours) == -EPIPE);
}

TEST_CASE("ERR goes away with the error, HUP stays") {
  Pair pair = tcp_pair();
  reset(pair.theirs);
  check_report(pair.ours, everything, "IN OUT ERR HUP RDHUP");
  CHECK(pending_error(pair.ours) == ECONNRESET);
  CHECK(pending_error(pair.ours) == 0);
  CHECK(look(pair.ours, everything) == "IN OUT HUP RDHUP");
}

TEST_CASE("hang-up and error come unasked, round after round") {
  Pair pair = tcp_pair();
  reset(pair.theirs);
  check_report(pair.ours, 0, "ERR HUP");
  CHECK(look(pair.ours, 0) == "ERR HUP");
  pollfd entry{pair.ours.get(), 0, 0};
  CHECK(::poll(&entry, 1, patience) == 1);
}

TEST_CASE("the peer of a unix socket that closes is HUP at once") {
  Pair pair = unix_pair();
  pair.theirs = net::Fd();
  CHECK(look(pair.ours, everything) == "IN OUT HUP RDHUP");
  CHECK(receive(pair.ours) == 0);
}

TEST_CASE("urgent data is PRI and not IN") {
  const Pair pair = tcp_pair();
  REQUIRE(send_byte(pair.theirs, MSG_OOB) == 1);
  check_report(pair.ours, POLLIN | POLLPRI, "PRI");
}

// Descriptors that are no connection.

TEST_CASE("a socket that was never connected is OUT and HUP") {
  const net::Fd fresh(
      net::check(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), "socket"));
  CHECK(look(fresh, everything) == "OUT HUP");
}

TEST_CASE("a connect that is refused is IN, OUT, ERR, HUP and RDHUP") {
  const net::Fd silent(
      net::check(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), "socket"));
  const net::Address any = net::resolve("127.0.0.1", 0);
  REQUIRE(::bind(silent.get(), any.get(), any.length) == 0);
  const net::Address address = net::local_address(silent);
  const net::Fd caller(net::check(
      ::socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0),
      "socket"));
  REQUIRE(::connect(caller.get(), address.get(), address.length) == -1);
  check_report(caller, everything, "IN OUT ERR HUP RDHUP");
  CHECK(pending_error(caller) == ECONNREFUSED);
}

TEST_CASE("a listener is readable when a client waits, and never writable") {
  const net::Fd listener = any_listener();
  CHECK(look(listener, everything) == "");
  const net::Fd client = net::connect_to(net::local_address(listener));
  check_report(listener, everything, "IN");
}

TEST_CASE("a listener that was shut down is HUP without IN") {
  const net::Fd listener = any_listener();
  REQUIRE(::shutdown(listener.get(), SHUT_RDWR) == 0);
  CHECK(look(listener, POLLIN) == "HUP");
  CHECK(::accept4(listener.get(), nullptr, nullptr, 0) == -1);
  CHECK(errno == EINVAL);
}

TEST_CASE("the end of a pipe is HUP without IN once it is drained") {
  Pipe pipe = make_pipe();
  REQUIRE(::write(pipe.write.get(), "x", 1) == 1);
  pipe.write = net::Fd();
  CHECK(look(pipe.read, POLLIN) == "IN HUP");
  std::array<char, 8> buffer;
  CHECK(::read(pipe.read.get(), buffer.data(), buffer.size()) == 1);
  CHECK(look(pipe.read, POLLIN) == "HUP");
  CHECK(::read(pipe.read.get(), buffer.data(), buffer.size()) == 0);
}

TEST_CASE("the writer of a pipe gets ERR when the reader has gone") {
  Pipe pipe = make_pipe();
  CHECK(look(pipe.write, POLLOUT) == "OUT");
  pipe.read = net::Fd();
  CHECK(look(pipe.write, POLLOUT) == "OUT ERR");
}

TEST_CASE("a regular file is always ready, at its end too") {
  const net::Fd file(
      net::check(::open("/proc/self/exe", O_RDONLY | O_CLOEXEC), "open"));
  CHECK(look(file, POLLIN | POLLOUT) == "IN OUT");
  REQUIRE(::lseek(file.get(), 0, SEEK_END) > 0);
  std::array<char, 8> buffer;
  REQUIRE(::read(file.get(), buffer.data(), buffer.size()) == 0);
  CHECK(look(file, POLLIN | POLLOUT) == "IN OUT");
}

// The wait.

TEST_CASE("poll never gives up before its timeout") {
  const Pair pair = tcp_pair();
  pollfd entry{pair.ours.get(), POLLIN, 0};
  const auto before = testing::Clock::now();
  CHECK(::poll(&entry, 1, 20) == 0);
  CHECK(testing::Clock::now() - before >= 20ms);
}

TEST_CASE("a negative timeout is no limit to poll and EINVAL to ppoll") {
  const Pair pair = tcp_pair();
  pollfd entry{pair.ours.get(), POLLOUT, 0};
  CHECK(::poll(&entry, 1, -2) == 1);
  const timespec negative{-1, 0};
  CHECK(::ppoll(&entry, 1, &negative, nullptr) == -1);
  CHECK(errno == EINVAL);
}

TEST_CASE("poll gives EINTR after a signal handler, with SA_RESTART too") {
  struct sigaction action {};
  struct sigaction before {};
  action.sa_handler = [](int) {};
  action.sa_flags = SA_RESTART;
  REQUIRE(::sigaction(SIGALRM, &action, &before) == 0);
  // Again and again: a first signal could come before the thread sleeps.
  const itimerval often{{0, 10'000}, {0, 10'000}};
  REQUIRE(::setitimer(ITIMER_REAL, &often, nullptr) == 0);
  const int n = ::poll(nullptr, 0, patience);
  const int error = errno;
  const itimerval never{};
  REQUIRE(::setitimer(ITIMER_REAL, &never, nullptr) == 0);
  REQUIRE(::sigaction(SIGALRM, &before, nullptr) == 0);
  CHECK(n == -1);
  CHECK(error == EINTR);
}

TEST_CASE("a poll that was stopped goes on after SIGCONT, without EINTR") {
  const Pipe pipe = make_pipe();
  std::fflush(nullptr);
  const pid_t child = net::check(::fork(), "fork");
  if (child == 0) {
    pollfd entry{pipe.read.get(), POLLIN, 0};
    const int n = ::poll(&entry, 1, patience);
    ::_exit(n < 0 ? errno : n == 1 ? 0 : 255);
  }
  testing::wait_until_settled(child);
  REQUIRE(::kill(child, SIGSTOP) == 0);
  testing::wait_until("it stops", [&] { return testing::state(child) == 'T'; });
  REQUIRE(::kill(child, SIGCONT) == 0);
  testing::wait_until("it goes on",
                      [&] { return testing::state(child) != 'T'; });
  CHECK(::write(pipe.write.get(), "x", 1) == 1);
  int status = 0;
  REQUIRE(::waitpid(child, &status, 0) == child);
  CHECK(WIFEXITED(status));
  CHECK(WEXITSTATUS(status) == 0);
}

TEST_CASE("closing a watched descriptor elsewhere does not wake poll") {
  Pipe pipe = make_pipe();
  const int number = pipe.read.release();
  std::atomic<pid_t> sleeper{0};
  std::atomic<short> seen{0};
  std::jthread thread([&] {
    sleeper = static_cast<pid_t>(::syscall(SYS_gettid));
    pollfd entry{number, POLLIN, 0};
    ::poll(&entry, 1, patience);
    seen = entry.revents;
  });
  testing::wait_until("the thread runs", [&] { return sleeper != 0; });
  testing::wait_until_settled(sleeper);
  const auto before = testing::voluntary_switches(sleeper);
  // Not ::close: the thread sanitizer would report the race that is meant.
  REQUIRE(::syscall(SYS_close, number) == 0);
  testing::wait_until_settled(sleeper, 50ms);
  CHECK(testing::voluntary_switches(sleeper) == before);
  // The sleeper still holds the pipe; woken by a byte, it finds the number
  // gone.
  CHECK(::write(pipe.write.get(), "x", 1) == 1);
  thread.join();
  CHECK(names(seen) == "NVAL");
}
