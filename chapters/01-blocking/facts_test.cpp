// What chapter 01 says about the kernel, one test case for each claim.

#include <doctest/doctest.h>
#include <fcntl.h>
#include <linux/sockios.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
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
#include <fstream>
#include <functional>
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

using testing::wait_until;

constexpr int patience_ms = 20'000;
constexpr std::size_t large = 16 << 20;

// The result of a call as one value: minus the errno if it failed.
long outcome(long result) { return result < 0 ? -errno : result; }

net::Fd listener() { return net::listen_on(net::resolve("127.0.0.1", 0)); }

net::Fd accept_one(const net::Fd& from) {
  return net::Fd(net::check(::accept(from.get(), nullptr, nullptr), "accept"));
}

// Both ends of one connection; all calls on them block.
struct Pair {
  net::Fd client;
  net::Fd server;
};

Pair connected() {
  const net::Fd door = listener();
  net::Fd client = net::connect_to(net::local_address(door));
  return {std::move(client), accept_one(door)};
}

// The events that came before the patience ran out, else 0.
short wait_for(const net::Fd& fd, short events) {
  pollfd entry{fd.get(), events, 0};
  net::check(::poll(&entry, 1, patience_ms), "poll");
  return entry.revents;
}

long send_text(const net::Fd& to, std::string_view text) {
  return outcome(::send(to.get(), text.data(), text.size(), MSG_NOSIGNAL));
}

struct Received {
  long outcome;
  std::string bytes;
};

Received receive(const net::Fd& from, std::size_t most = 100) {
  std::string bytes(most, '\0');
  if (wait_for(from, POLLIN) == 0) return {-ETIMEDOUT, ""};
  const long n = outcome(::recv(from.get(), bytes.data(), most, 0));
  bytes.resize(n > 0 ? static_cast<std::size_t>(n) : 0);
  return {n, bytes};
}

// Closes with RST instead of FIN (SO_LINGER in socket(7)).
void reset(net::Fd& fd) {
  const linger at_once{1, 0};
  net::check(
      ::setsockopt(fd.get(), SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once),
      "setsockopt SO_LINGER");
  fd = net::Fd();
}

int option(const net::Fd& fd, int level, int name) {
  int value = 0;
  socklen_t size = sizeof value;
  net::check(::getsockopt(fd.get(), level, name, &value, &size), "getsockopt");
  return value;
}

void set_option(const net::Fd& fd, int level, int name, int value) {
  net::check(::setsockopt(fd.get(), level, name, &value, sizeof value),
             "setsockopt");
}

tcp_info info(const net::Fd& fd) {
  tcp_info result{};
  socklen_t size = sizeof result;
  net::check(::getsockopt(fd.get(), IPPROTO_TCP, TCP_INFO, &result, &size),
             "getsockopt TCP_INFO");
  return result;
}

// For a listener TCP_INFO means something else (tcp_get_info in the kernel's
// net/ipv4/tcp.c): how many connections wait for accept, and the backlog.
std::uint32_t waiting(const net::Fd& door) { return info(door).tcpi_unacked; }
std::uint32_t backlog(const net::Fd& door) { return info(door).tcpi_sacked; }

long bytes_to_read(const net::Fd& fd) {
  int n = 0;
  net::check(::ioctl(fd.get(), FIONREAD, &n), "ioctl FIONREAD");
  return n;
}

int port(const net::Fd& fd) {
  const net::Address address = net::local_address(fd);
  return ntohs(reinterpret_cast<const sockaddr_in*>(address.get())->sin_port);
}

// Whether the kernel still keeps a connection with these two ports (proc(5)).
bool kernel_keeps(int local_port, int remote_port) {
  std::array<char, 40> ports{};
  std::snprintf(ports.data(), ports.size(), "0100007F:%04X 0100007F:%04X ",
                static_cast<unsigned>(local_port),
                static_cast<unsigned>(remote_port));
  std::ifstream table("/proc/net/tcp");
  REQUIRE(table);
  std::string line;
  while (std::getline(table, line)) {
    if (line.find(ports.data()) != std::string::npos) return true;
  }
  return false;
}

void do_nothing(int) {}

// Handles SIGUSR1, by doing nothing, for the length of a scope.
class Handler {
 public:
  explicit Handler(int flags) {
    struct sigaction action {};
    action.sa_handler = do_nothing;
    action.sa_flags = flags;
    net::check(::sigaction(SIGUSR1, &action, &before_), "sigaction");
  }
  Handler(const Handler&) = delete;
  Handler& operator=(const Handler&) = delete;
  ~Handler() { ::sigaction(SIGUSR1, &before_, nullptr); }

 private:
  struct sigaction before_ {};
};

// A thread that makes one system call, so that another can watch it sleep.
class Caller {
 public:
  explicit Caller(std::function<long()> call)
      : thread_([this, call = std::move(call)] {
          id_ = ::gettid();
          result_ = outcome(call());
        }) {}

  // Waits until the thread sleeps in this system call (proc(5), "syscall").
  void wait_until_asleep_in(long call) const {
    wait_until("the thread sleeps in its call", [&] {
      const std::string path =
          "/proc/self/task/" + std::to_string(id_) + "/syscall";
      std::string number;
      std::ifstream(path) >> number;
      return number == std::to_string(call);
    });
  }

  // Sends SIGUSR1 to the sleeping thread alone and waits until it has woken
  // and sleeps in the call again.
  void disturb(long call) {
    const auto before = testing::voluntary_switches(id_);
    interrupt();
    wait_until("the thread has slept again",
               [&] { return testing::voluntary_switches(id_) > before; });
    wait_until_asleep_in(call);
  }

  void interrupt() {
    REQUIRE(::pthread_kill(thread_.native_handle(), SIGUSR1) == 0);
  }

  long result() {
    thread_.join();
    return result_;
  }

 private:
  std::atomic<pid_t> id_{0};
  long result_ = 0;
  std::thread thread_;
};

// Caps the numbers of new descriptors for the length of a scope.
class DescriptorLimit {
 public:
  explicit DescriptorLimit(int limit) {
    net::check(::getrlimit(RLIMIT_NOFILE, &before_), "getrlimit");
    const rlimit lower{static_cast<rlim_t>(limit), before_.rlim_max};
    net::check(::setrlimit(RLIMIT_NOFILE, &lower), "setrlimit");
  }
  DescriptorLimit(const DescriptorLimit&) = delete;
  DescriptorLimit& operator=(const DescriptorLimit&) = delete;
  ~DescriptorLimit() { ::setrlimit(RLIMIT_NOFILE, &before_); }

 private:
  rlimit before_{};
};

long bind_result(const net::Address& address, bool reuse) {
  const net::Fd socket(
      net::check(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), "socket"));
  set_option(socket, SOL_SOCKET, SO_REUSEADDR, reuse ? 1 : 0);
  return outcome(::bind(socket.get(), address.get(), address.length));
}

// The kernel keeps tcp_max_tw_buckets connections in TIME_WAIT, a minute each,
// and forgets at once what comes beyond. Whoever ran many tests waits.
void wait_for_room_in_time_wait() {
  std::ifstream limit("/proc/sys/net/ipv4/tcp_max_tw_buckets");
  std::uint64_t most = 0;
  if (!(limit >> most)) return;  // a container may not show it
  const auto kept = [] {
    std::ifstream file("/proc/net/sockstat");
    std::string word;
    std::uint64_t count = 0;
    while (file >> word && word != "tw") continue;
    file >> count;
    return count;
  };
  testing::wait_until(
      "there is room for a connection in TIME_WAIT",
      [&] { return kept() + 1000 < most; }, std::chrono::seconds(90));
}

// A connection attempt that waits for nothing.
net::Fd begin_connect(const net::Fd& door) {
  net::Fd socket(net::check(
      ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0),
      "socket"));
  const net::Address to = net::local_address(door);
  const long begun = outcome(::connect(socket.get(), to.get(), to.length));
  REQUIRE((begun == 0 || begun == -EINPROGRESS));
  return socket;
}

// Ends the connection cleanly from the client's side and lets the server
// learn it: the first send is answered with RST.
void close_and_be_told(Pair& pair) {
  pair.client = net::Fd();
  REQUIRE(receive(pair.server).outcome == 0);
  REQUIRE(send_text(pair.server, "x") == 1);
  REQUIRE((wait_for(pair.server, POLLERR) & POLLERR) != 0);
}

}  // namespace

// Before accept.

TEST_CASE("bind to port 0 lets the kernel choose a free port") {
  const net::Fd one = listener();
  const net::Fd other = listener();
  CHECK(port(one) > 0);
  CHECK(port(other) > 0);
  CHECK(port(one) != port(other));
}

TEST_CASE("a second listener on a port is refused, even with SO_REUSEADDR") {
  const net::Fd door = listener();
  CHECK(bind_result(net::local_address(door), true) == -EADDRINUSE);
}

TEST_CASE("SO_REUSEADDR lets bind take a port with connections in TIME_WAIT") {
  wait_for_room_in_time_wait();
  net::Fd door = listener();
  const net::Address address = net::local_address(door);
  Pair pair;
  pair.client = net::connect_to(address);
  pair.server = accept_one(door);
  pair.server = net::Fd();
  CHECK(receive(pair.client).outcome == 0);
  pair.client = net::Fd();
  door = net::Fd();
  CHECK(bind_result(address, false) == -EADDRINUSE);
  CHECK(bind_result(address, true) == 0);
}

TEST_CASE("connect to a port where nobody listens is refused") {
  const net::Fd door = listener();
  const net::Address address = net::local_address(door);
  net::check(::shutdown(door.get(), SHUT_RDWR), "shutdown");
  const net::Fd client(
      net::check(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), "socket"));
  CHECK(outcome(::connect(client.get(), address.get(), address.length)) ==
        -ECONNREFUSED);
}

TEST_CASE("a client can connect and send before accept is called") {
  const net::Fd door = listener();
  const net::Fd client = net::connect_to(net::local_address(door));
  CHECK(send_text(client, "early") == 5);
  const net::Fd server = accept_one(door);
  CHECK(receive(server).bytes == "early");
}

TEST_CASE("a backlog of N holds N+1 connections") {
  for (const int n : {0, 1, 5}) {
    const net::Fd door = listener();
    net::check(::listen(door.get(), n), "listen");
    const auto room = static_cast<std::uint32_t>(n) + 1;
    std::vector<net::Fd> clients;
    while (clients.size() < room) {
      clients.push_back(begin_connect(door));
      CHECK((wait_for(clients.back(), POLLOUT) & POLLERR) == 0);
      wait_until("it is queued",
                 [&] { return waiting(door) == clients.size(); });
    }
    for (int i = 0; i < 3; ++i) {
      const net::Fd late = begin_connect(door);
      CHECK(info(late).tcpi_state == TCP_SYN_SENT);
      CHECK(waiting(door) == room);
    }
  }
}

TEST_CASE("the backlog is silently capped by somaxconn") {
  std::uint32_t most = 0;
  std::ifstream("/proc/sys/net/core/somaxconn") >> most;
  REQUIRE(most > 0);
  const net::Fd door = listener();
  CHECK(::listen(door.get(), 1 << 30) == 0);
  CHECK(backlog(door) == most);
}

TEST_CASE("listen called again changes the backlog") {
  const net::Fd door = listener();
  net::check(::listen(door.get(), 7), "listen");
  CHECK(backlog(door) == 7);
  net::check(::listen(door.get(), 3), "listen");
  CHECK(backlog(door) == 3);
}

// accept.

TEST_CASE("an accepted connection has the listener's port") {
  const net::Fd door = listener();
  const net::Fd client = net::connect_to(net::local_address(door));
  const net::Fd server = accept_one(door);
  CHECK(server.get() != door.get());
  CHECK(port(server) == port(door));
}

TEST_CASE("a new descriptor gets the lowest free number") {
  const net::Fd low = listener();
  net::Fd middle = listener();
  const net::Fd high = listener();
  REQUIRE(low.get() < middle.get());
  REQUIRE(middle.get() < high.get());
  const int freed = middle.get();
  middle = net::Fd();
  middle = listener();
  CHECK(middle.get() == freed);
}

TEST_CASE("accept passes on TCP_NODELAY, but not O_NONBLOCK or FD_CLOEXEC") {
  const net::Fd door = listener();
  net::set_nonblocking(door);
  REQUIRE(::fcntl(door.get(), F_GETFD) == FD_CLOEXEC);
  const net::Fd client = net::connect_to(net::local_address(door));
  REQUIRE(wait_for(door, POLLIN) == POLLIN);
  const net::Fd server = accept_one(door);
  CHECK(option(server, IPPROTO_TCP, TCP_NODELAY) == 1);
  CHECK((::fcntl(server.get(), F_GETFL) & O_NONBLOCK) == 0);
  CHECK(::fcntl(server.get(), F_GETFD) == 0);
}

TEST_CASE("a client that resets before accept still gives a connection") {
  const net::Fd door = listener();
  net::Fd client = net::connect_to(net::local_address(door));
  const int client_port = port(client);
  wait_until("it is queued", [&] { return waiting(door) == 1; });
  reset(client);
  wait_until("the reset has arrived",
             [&] { return !kernel_keeps(port(door), client_port); });
  CHECK(waiting(door) == 1);
  const net::Fd server = accept_one(door);
  CHECK(receive(server).outcome == -ECONNRESET);
}

TEST_CASE("shutdown of a listener wakes a blocked accept with EINVAL") {
  const net::Fd door = listener();
  const int number = door.get();
  Caller caller([=] { return ::accept4(number, nullptr, nullptr, 0); });
  caller.wait_until_asleep_in(SYS_accept4);
  net::check(::shutdown(number, SHUT_RDWR), "shutdown");
  CHECK(caller.result() == -EINVAL);
  CHECK(outcome(::accept(number, nullptr, nullptr)) == -EINVAL);
}

TEST_CASE("accept takes its number before it sleeps") {
  const net::Fd door = listener();
  const int number = door.get();
  Caller caller([=] { return ::accept4(number, nullptr, nullptr, 0); });
  caller.wait_until_asleep_in(SYS_accept4);
  // Reading procfs takes a number too, for a moment, perhaps the one before
  // accept's. One of these may get that one, but not both.
  const net::Fd one(::dup(number));
  const net::Fd other(::dup(number));
  const net::Fd visitor = net::connect_to(net::local_address(door));
  const net::Fd server(static_cast<int>(caller.result()));
  REQUIRE(server);
  CHECK(server.get() < other.get());
}

TEST_CASE("at the limit accept says EMFILE and leaves the client queued") {
  const net::Fd door = listener();
  const net::Fd client = net::connect_to(net::local_address(door));
  wait_until("it is queued", [&] { return waiting(door) == 1; });
  const int lowest_free = ::dup(door.get());
  net::check(::close(lowest_free), "close");
  long at_the_limit = 0;
  {
    const DescriptorLimit limit(lowest_free);
    at_the_limit = outcome(::accept(door.get(), nullptr, nullptr));
  }
  CHECK(at_the_limit == -EMFILE);
  CHECK(waiting(door) == 1);
  CHECK(accept_one(door).get() == lowest_free);
}

TEST_CASE("at the limit even a shut-down listener says EMFILE") {
  const net::Fd door = listener();
  net::check(::shutdown(door.get(), SHUT_RDWR), "shutdown");
  const int lowest_free = ::dup(door.get());
  net::check(::close(lowest_free), "close");
  long at_the_limit = 0;
  {
    const DescriptorLimit limit(lowest_free);
    at_the_limit = outcome(::accept(door.get(), nullptr, nullptr));
  }
  CHECK(at_the_limit == -EMFILE);
  CHECK(outcome(::accept(door.get(), nullptr, nullptr)) == -EINVAL);
}

// Reading.

TEST_CASE("recv returns what is there, not what was asked for") {
  const Pair pair = connected();
  REQUIRE(send_text(pair.client, "three") == 5);
  CHECK(receive(pair.server, 1000).outcome == 5);
}

TEST_CASE("a stream keeps no message borders") {
  const Pair pair = connected();
  REQUIRE(send_text(pair.client, "one") == 3);
  REQUIRE(send_text(pair.client, "two") == 3);
  wait_until("both have come", [&] { return bytes_to_read(pair.server) == 6; });
  CHECK(receive(pair.server, 4).bytes == "onet");
  CHECK(receive(pair.server, 4).bytes == "wo");
}

TEST_CASE("0 means end of stream only if bytes were asked for") {
  const Pair pair = connected();
  REQUIRE(send_text(pair.client, "more") == 4);
  REQUIRE(wait_for(pair.server, POLLIN) == POLLIN);
  char byte = 0;
  CHECK(::recv(pair.server.get(), &byte, 0, 0) == 0);
  CHECK(receive(pair.server).bytes == "more");
}

TEST_CASE("bytes sent before FIN come before the end of stream") {
  Pair pair = connected();
  REQUIRE(send_text(pair.client, "last") == 4);
  pair.client = net::Fd();
  REQUIRE((wait_for(pair.server, POLLRDHUP) & POLLRDHUP) != 0);
  CHECK(receive(pair.server).bytes == "last");
  CHECK(receive(pair.server).outcome == 0);
}

TEST_CASE("end of stream is reported as often as one asks") {
  Pair pair = connected();
  pair.client = net::Fd();
  for (int i = 0; i < 3; ++i) CHECK(receive(pair.server).outcome == 0);
}

TEST_CASE("bytes that came before a reset stay readable") {
  Pair pair = connected();
  REQUIRE(send_text(pair.client, "last") == 4);
  reset(pair.client);
  REQUIRE((wait_for(pair.server, POLLERR) & POLLERR) != 0);
  CHECK(receive(pair.server).bytes == "last");
  CHECK(receive(pair.server).outcome == -ECONNRESET);
}

TEST_CASE("an error is delivered once") {
  Pair pair = connected();
  reset(pair.client);
  CHECK(receive(pair.server).outcome == -ECONNRESET);
  CHECK(receive(pair.server).outcome == 0);
}

// Writing.

TEST_CASE("a blocking send takes all, unless a signal cuts it short") {
  const Handler handler(SA_RESTART);
  for (const bool cut : {false, true}) {
    const Pair pair = connected();
    const std::vector<char> bytes(large, 'x');
    Caller caller([&] {
      return ::send(pair.client.get(), bytes.data(), large, MSG_NOSIGNAL);
    });
    caller.wait_until_asleep_in(SYS_sendto);
    if (cut) caller.interrupt();
    const long taken = cut ? caller.result() : static_cast<long>(large);
    CHECK(taken > 0);
    CHECK((taken < static_cast<long>(large)) == cut);
    long got = 0;
    while (got < taken) {
      const Received block = receive(pair.server, 1 << 16);
      REQUIRE(block.outcome > 0);
      got += block.outcome;
    }
    if (!cut) CHECK(caller.result() == taken);
  }
}

TEST_CASE("a peer that has half-closed can still be written to") {
  const Pair pair = connected();
  net::check(::shutdown(pair.client.get(), SHUT_WR), "shutdown");
  CHECK(receive(pair.server).outcome == 0);
  CHECK(send_text(pair.server, "answer") == 6);
  CHECK(receive(pair.client).bytes == "answer");
}

TEST_CASE("after the peer's close the first send succeeds, the second fails") {
  Pair pair = connected();
  close_and_be_told(pair);
  CHECK(send_text(pair.server, "y") == -EPIPE);
}

TEST_CASE("after a reset the first send says ECONNRESET, the second EPIPE") {
  Pair pair = connected();
  reset(pair.client);
  REQUIRE((wait_for(pair.server, POLLERR) & POLLERR) != 0);
  CHECK(send_text(pair.server, "x") == -ECONNRESET);
  CHECK(send_text(pair.server, "y") == -EPIPE);
}

TEST_CASE("EPIPE comes with a signal that kills, unless MSG_NOSIGNAL is set") {
  for (const int flags : {0, int{MSG_NOSIGNAL}}) {
    Pair pair = connected();
    close_and_be_told(pair);
    std::fflush(nullptr);
    const pid_t child = net::check(::fork(), "fork");
    if (child == 0) {
      ::signal(SIGPIPE, SIG_DFL);
      const long result = outcome(::send(pair.server.get(), "y", 1, flags));
      ::_exit(result == -EPIPE ? 0 : 1);
    }
    int status = 0;
    net::check(::waitpid(child, &status, 0), "waitpid");
    if (flags == 0) {
      CHECK(WIFSIGNALED(status));
      CHECK(WTERMSIG(status) == SIGPIPE);
    } else {
      CHECK(status == 0);
    }
  }
}

TEST_CASE("Nagle holds a small segment back, TCP_NODELAY does not") {
  const auto held_back = [](bool no_delay) {
    const Pair pair = connected();
    set_option(pair.client, IPPROTO_TCP, TCP_NODELAY, no_delay ? 1 : 0);
    set_option(pair.server, IPPROTO_TCP, TCP_QUICKACK, 0);
    send_text(pair.client, "a");
    send_text(pair.client, "b");
    int unsent = 0;
    net::check(::ioctl(pair.client.get(), SIOCOUTQNSD, &unsent), "ioctl");
    return unsent == 1;
  };
  // The first byte may be acknowledged before the second is sent.
  wait_until("Nagle holds a byte back", [&] { return held_back(false); });
  for (int i = 0; i < 20; ++i) CHECK_FALSE(held_back(true));
}

// Closing.

TEST_CASE("close with unread input sends a reset, without it sends FIN") {
  for (const bool unread : {false, true}) {
    Pair pair = connected();
    if (unread) {
      REQUIRE(send_text(pair.client, "never read") == 10);
      REQUIRE(wait_for(pair.server, POLLIN) == POLLIN);
    }
    pair.server = net::Fd();
    CHECK(receive(pair.client).outcome == (unread ? -ECONNRESET : 0));
  }
}

TEST_CASE("a connection ends when its last descriptor is closed") {
  Pair pair = connected();
  net::Fd copy(net::check(::dup(pair.client.get()), "dup"));
  pair.client = net::Fd();
  CHECK(send_text(copy, "still here") == 10);
  copy = net::Fd();
  CHECK(receive(pair.server).bytes == "still here");
  CHECK(receive(pair.server).outcome == 0);
}

// close by syscall(): TSan takes close beside recv for the mistake it is.
TEST_CASE("close does not wake a read blocked in another thread") {
  Pair pair = connected();
  const int number = pair.server.release();
  char byte = 0;
  Caller caller([&] { return ::recv(number, &byte, 1, 0); });
  caller.wait_until_asleep_in(SYS_recvfrom);
  net::check(::syscall(SYS_close, number), "close");
  CHECK(::fcntl(number, F_GETFD) == -1);
  CHECK(send_text(pair.client, "!") == 1);
  CHECK(caller.result() == 1);
  CHECK(byte == '!');
}

TEST_CASE("shutdown wakes a read blocked in another thread") {
  const Pair pair = connected();
  const int number = pair.server.get();
  char byte = 0;
  Caller caller([&] { return ::recv(number, &byte, 1, 0); });
  caller.wait_until_asleep_in(SYS_recvfrom);
  net::check(::shutdown(number, SHUT_RDWR), "shutdown");
  CHECK(caller.result() == 0);
}

// Signals.

TEST_CASE("a handler without SA_RESTART ends a blocked recv with EINTR") {
  const Handler handler(0);
  const Pair pair = connected();
  char byte = 0;
  Caller caller([&] { return ::recv(pair.server.get(), &byte, 1, 0); });
  caller.wait_until_asleep_in(SYS_recvfrom);
  caller.interrupt();
  CHECK(caller.result() == -EINTR);
}

TEST_CASE("a handler with SA_RESTART lets a blocked recv go on") {
  const Handler handler(SA_RESTART);
  const Pair pair = connected();
  char byte = 0;
  Caller caller([&] { return ::recv(pair.server.get(), &byte, 1, 0); });
  caller.wait_until_asleep_in(SYS_recvfrom);
  caller.disturb(SYS_recvfrom);
  CHECK(send_text(pair.client, "!") == 1);
  CHECK(caller.result() == 1);
}

TEST_CASE("a handler without SA_RESTART ends a blocked accept with EINTR") {
  const Handler handler(0);
  const net::Fd door = listener();
  const int number = door.get();
  Caller caller([=] { return ::accept4(number, nullptr, nullptr, 0); });
  caller.wait_until_asleep_in(SYS_accept4);
  caller.interrupt();
  CHECK(caller.result() == -EINTR);
}

TEST_CASE("poll and nanosleep are not restarted, SA_RESTART or not") {
  const timespec time{patience_ms / 1000, 0};
  for (const int flags : {0, SA_RESTART}) {
    const Handler handler(flags);
    Caller poller([&] { return ::ppoll(nullptr, 0, &time, nullptr); });
    poller.wait_until_asleep_in(SYS_ppoll);
    poller.interrupt();
    CHECK(poller.result() == -EINTR);
    Caller sleeper([&] { return ::nanosleep(&time, nullptr); });
    sleeper.wait_until_asleep_in(SYS_clock_nanosleep);
    sleeper.interrupt();
    CHECK(sleeper.result() == -EINTR);
  }
}

// Threads.

TEST_CASE("a thread reserves its whole stack and touches less than half") {
  std::size_t reserved = 0;
  std::size_t touched = 0;
  std::thread([&] {
    pthread_attr_t attributes;
    REQUIRE(::pthread_getattr_np(::pthread_self(), &attributes) == 0);
    void* bottom = nullptr;
    ::pthread_attr_getstack(&attributes, &bottom, &reserved);
    ::pthread_attr_destroy(&attributes);
    const auto page = static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
    std::vector<unsigned char> resident(reserved / page);
    net::check(::mincore(bottom, reserved, resident.data()), "mincore");
    touched = page * static_cast<std::size_t>(std::count_if(
                         resident.begin(), resident.end(),
                         [](unsigned char flag) { return (flag & 1) != 0; }));
  }).join();
  CHECK(reserved >= 1 << 20);
  CHECK(touched > 0);
  CHECK(touched < reserved / 2);
}
