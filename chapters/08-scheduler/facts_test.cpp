// What the netpoller of chapter 08 relies on, one claim a test case; the lesson
// cites them by name. All is on the list as the netpoller puts it there.

#include <doctest/doctest.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
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
#include <numeric>
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
using std::chrono::nanoseconds;
using testing::wait_until;

// What every descriptor is put on the list with, once.
constexpr std::uint32_t interest =
    EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLPRI | EPOLLET;
constexpr int patience = 20'000;  // milliseconds; only a broken kernel waits

// The result of a call as one value: minus the errno if it failed.
long outcome(long result) { return result < 0 ? -errno : result; }

// The list.

net::Fd new_list() {
  return net::Fd(net::check(::epoll_create1(EPOLL_CLOEXEC), "epoll_create1"));
}

long add(const net::Fd& list, const net::Fd& fd,
         std::uint32_t events = interest) {
  epoll_event event{events, {.fd = fd.get()}};
  return outcome(::epoll_ctl(list.get(), EPOLL_CTL_ADD, fd.get(), &event));
}

net::Fd list_with(const net::Fd& fd, std::uint32_t events = interest) {
  net::Fd list = new_list();
  REQUIRE(add(list, fd, events) == 0);
  return list;
}

// "IN OUT RDHUP"
std::string names(std::uint32_t events) {
  constexpr std::array<std::pair<std::uint32_t, std::string_view>, 6> known{
      {{EPOLLIN, "IN"},
       {EPOLLPRI, "PRI"},
       {EPOLLOUT, "OUT"},
       {EPOLLERR, "ERR"},
       {EPOLLHUP, "HUP"},
       {EPOLLRDHUP, "RDHUP"}}};
  std::string text;
  for (const auto& [bit, name] : known) {
    if ((events & bit) == 0) continue;
    if (!text.empty()) text += ' ';
    text += name;
  }
  return text;
}

// What epoll reports of the only descriptor that has news, and whose they are.
std::string look(const net::Fd& list, int timeout = 0, int* whose = nullptr) {
  std::array<epoll_event, 2> events;
  const int n = net::check(::epoll_wait(list.get(), events.data(), 2, timeout),
                           "epoll_wait");
  REQUIRE(n <= 1);
  if (n == 0) return "";
  if (whose != nullptr) *whose = events[0].data.fd;
  return names(events[0].events);
}

// Bytes moved, or the error as a negative number.

long put(const net::Fd& fd, std::string_view text) {
  return outcome(::write(fd.get(), text.data(), text.size()));
}

long get(const net::Fd& fd, std::size_t most = 1) {
  std::vector<char> buffer(most);
  return outcome(::read(fd.get(), buffer.data(), most));
}

// Connections.

net::Fd any_listener() {
  net::Fd listener = net::listen_on(net::resolve("127.0.0.1", 0));
  net::set_nonblocking(listener);
  return listener;
}

// Nobody listens there, and nobody else gets the port.
net::Fd dead_listener() {
  net::Fd listener = any_listener();
  net::check(::shutdown(listener.get(), SHUT_RDWR), "shutdown");
  return listener;
}

net::Fd new_socket(int type = SOCK_STREAM) {
  return net::Fd(net::check(
      ::socket(AF_INET, type | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), "socket"));
}

long connect_to(const net::Fd& socket, const net::Fd& peer) {
  const net::Address to = net::local_address(peer);
  return outcome(::connect(socket.get(), to.get(), to.length));
}

net::Fd begin_connect(const net::Fd& listener) {
  net::Fd socket = new_socket();
  REQUIRE(connect_to(socket, listener) == -EINPROGRESS);
  return socket;
}

net::Fd accept_one(const net::Fd& listener) {
  return net::Fd(net::check(
      ::accept4(listener.get(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC),
      "accept4"));
}

struct Pair {
  net::Fd ours;    // watched by the test
  net::Fd theirs;  // the peer
};

// A TCP connection over loopback; our end does not block.
Pair tcp_pair() {
  const net::Fd listener = any_listener();
  net::Fd theirs = net::connect_to(net::local_address(listener));
  return {accept_one(listener), std::move(theirs)};
}

// Two sockets that hear each other only.
Pair udp_pair() {
  Pair pair{new_socket(SOCK_DGRAM), new_socket(SOCK_DGRAM)};
  const net::Address any = net::resolve("127.0.0.1", 0);
  for (const net::Fd* fd : {&pair.ours, &pair.theirs}) {
    net::check(::bind(fd->get(), any.get(), any.length), "bind");
  }
  REQUIRE(connect_to(pair.ours, pair.theirs) == 0);
  REQUIRE(connect_to(pair.theirs, pair.ours) == 0);
  return pair;
}

// How a connect has ended; asked a second time the socket says 0.
int error_of(const net::Fd& socket) {
  int error = -1;
  socklen_t size = sizeof error;
  net::check(::getsockopt(socket.get(), SOL_SOCKET, SO_ERROR, &error, &size),
             "getsockopt SO_ERROR");
  return error;
}

long ask_peer(const net::Fd& socket) {
  sockaddr_storage peer{};
  socklen_t size = sizeof peer;
  return outcome(
      ::getpeername(socket.get(), reinterpret_cast<sockaddr*>(&peer), &size));
}

// It takes the socket's lock, under which the kernel both takes a packet in
// and reports it: what it shows has been reported.
tcp_info info(const net::Fd& socket) {
  tcp_info result{};
  socklen_t size = sizeof result;
  net::check(::getsockopt(socket.get(), IPPROTO_TCP, TCP_INFO, &result, &size),
             "getsockopt TCP_INFO");
  return result;
}

void wait_for_state(const net::Fd& socket, int state) {
  wait_until("the packet arrives",
             [&] { return info(socket).tcpi_state == state; });
}

// For a listener TCP_INFO means something else (tcp_get_info in the kernel's
// net/ipv4/tcp.c): how many connections wait for accept.
std::size_t waiting(const net::Fd& listener) {
  return info(listener).tcpi_unacked;
}

// A listener whose queue has no room left.
struct Full {
  explicit Full(int backlog) {
    net::check(::listen(listener.get(), backlog), "listen");
    const auto room = static_cast<std::size_t>(backlog) + 1;
    while (queued.size() < room) {
      queued.push_back(begin_connect(listener));
      wait_until("it is queued",
                 [&] { return waiting(listener) == queued.size(); });
    }
  }

  net::Fd listener = any_listener();
  std::vector<net::Fd> queued;
};

// Asks poll, so that epoll has not been asked yet.
void wait_for_input(const net::Fd& fd) {
  pollfd entry{fd.get(), POLLIN, 0};
  REQUIRE(::poll(&entry, 1, patience) == 1);
}

// Closes with RST instead of FIN (SO_LINGER in socket(7)).
void reset(net::Fd& fd) {
  const linger at_once{1, 0};
  net::check(
      ::setsockopt(fd.get(), SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once),
      "setsockopt SO_LINGER");
  fd = net::Fd();
}

unsigned port(const net::Fd& fd) {
  const net::Address address = net::local_address(fd);
  return ntohs(reinterpret_cast<const sockaddr_in*>(address.get())->sin_port);
}

// Whether the kernel still keeps a connection with these two ports (proc(5)).
bool kernel_keeps(unsigned local_port, unsigned remote_port) {
  std::array<char, 40> ports{};
  std::snprintf(ports.data(), ports.size(), "0100007F:%04X 0100007F:%04X ",
                local_port, remote_port);
  std::ifstream table("/proc/net/tcp");
  REQUIRE(table);
  for (std::string line; std::getline(table, line);) {
    if (line.find(ports.data()) != std::string::npos) return true;
  }
  return false;
}

// Other descriptors.

struct Pipe {
  net::Fd out;  // to read from
  net::Fd in;
};

Pipe new_pipe(int flags = O_NONBLOCK) {
  std::array<int, 2> ends{};
  net::check(::pipe2(ends.data(), flags | O_CLOEXEC), "pipe2");
  return {net::Fd(ends[0]), net::Fd(ends[1])};
}

net::Fd counter() {
  return net::Fd(
      net::check(::eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC), "eventfd"));
}

// The number an eventfd gives, or the error as a negative one.
std::int64_t take(const net::Fd& counter) {
  std::uint64_t number = 0;
  const long n = outcome(::read(counter.get(), &number, sizeof number));
  return n < 0 ? n : static_cast<std::int64_t>(number);
}

constexpr int terminal_flags = O_RDWR | O_NOCTTY | O_NONBLOCK | O_CLOEXEC;

// What a program has for a terminal, and the end that the window holds.
Pair terminal() {
  net::Fd window(net::check(::posix_openpt(terminal_flags), "posix_openpt"));
  net::check(::grantpt(window.get()), "grantpt");
  net::check(::unlockpt(window.get()), "unlockpt");
  std::array<char, 64> name{};
  REQUIRE(::ptsname_r(window.get(), name.data(), name.size()) == 0);
  net::Fd ours(net::check(::open(name.data(), terminal_flags), name.data()));
  return {std::move(ours), std::move(window)};
}

// Time, threads, processes.

// How long a wait lasts in which nothing happens: the least of some tries.
nanoseconds least(int tries, const std::function<int(epoll_event*)>& wait) {
  nanoseconds result = nanoseconds::max();
  epoll_event event{};
  for (int i = 0; i < tries; ++i) {
    const auto before = testing::Clock::now();
    REQUIRE(wait(&event) == 0);
    result = std::min<nanoseconds>(result, testing::Clock::now() - before);
  }
  return result;
}

nanoseconds least_of_epoll_wait(int tries, std::chrono::milliseconds timeout) {
  const net::Fd list = new_list();
  const int time = static_cast<int>(timeout.count());
  return least(tries, [&](epoll_event* event) {
    return ::epoll_wait(list.get(), event, 1, time);
  });
}

nanoseconds least_of_epoll_pwait2(int tries, nanoseconds timeout) {
  const net::Fd list = new_list();
  const timespec time{0, timeout.count()};  // less than a second
  return least(tries, [&](epoll_event* event) {
    return ::epoll_pwait2(list.get(), event, 1, &time, nullptr);
  });
}

// A thread that makes one system call and sleeps in it.
class Caller {
 public:
  explicit Caller(std::function<long()> call)
      : thread_([this, call = std::move(call)] {
          id_ = static_cast<pid_t>(::syscall(SYS_gettid));
          result_ = outcome(call());
        }) {
    wait_until("the thread runs", [this] { return id_ != 0; });
    testing::wait_until_settled(id_);
  }

  pid_t id() const { return id_; }
  void interrupt() {
    REQUIRE(::pthread_kill(thread_.native_handle(), SIGUSR1) == 0);
  }

  // Waits until it has returned.
  long result() {
    thread_.join();
    return result_;
  }

 private:
  std::atomic<pid_t> id_{0};
  long result_ = 0;
  std::jthread thread_;
};

// Everything up to the end of the stream, a byte a call.
std::string read_all(const net::Fd& fd) {
  std::string text;
  for (char byte = 0; ::read(fd.get(), &byte, 1) == 1;) text += byte;
  return text;
}

// A child makes the call: the error it gives, or 0, or 128 plus the signal that
// ended the child.
template <typename Call>
int fate(const Call& call, void (*disposition)(int) = SIG_DFL) {
  std::fflush(nullptr);
  const pid_t child = net::check(::fork(), "fork");
  if (child == 0) {
    ::signal(SIGPIPE, disposition);
    ::_exit(call() < 0 ? errno : 0);
  }
  int status = 0;
  REQUIRE(::waitpid(child, &status, 0) == child);
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

}  // namespace

// The list.

TEST_CASE("a regular file does not go onto the list: EPERM") {
  const net::Fd list = new_list();
  // In memory: a file of a file system in user space (FUSE) can be watched.
  const net::Fd file(
      net::check(::memfd_create("file", MFD_CLOEXEC), "memfd_create"));
  CHECK(add(list, file) == -EPERM);
  net::set_nonblocking(file);  // makes no difference
  CHECK(add(list, file) == -EPERM);
  CHECK(get(file) == 0);
}

TEST_CASE("sockets, pipes, eventfds and terminals go onto the same list") {
  const net::Fd list = new_list();
  const Pair tcp = tcp_pair();
  const Pair udp = udp_pair();
  const Pipe pipe = new_pipe();
  const net::Fd event = counter();
  const Pair console = terminal();
  struct Source {
    const net::Fd& watched;
    const net::Fd& written;
    std::string_view text;
    std::string at_first;
    std::string then;
  };
  const std::array<Source, 5> sources{
      {{tcp.ours, tcp.theirs, "x", "OUT", "IN OUT"},
       {udp.ours, udp.theirs, "x", "OUT", "IN OUT"},
       {pipe.out, pipe.in, "x", "", "IN"},
       {event, event, "8 bytes.", "OUT", "IN OUT"},
       {console.ours, console.theirs, "x\n", "OUT", "IN OUT"}}};
  CHECK(add(list, pipe.in) == 0);
  CHECK(look(list) == "OUT");
  for (const Source& source : sources) {
    CHECK(add(list, source.watched) == 0);
    CHECK(look(list) == source.at_first);
  }
  for (const Source& source : sources) {
    REQUIRE(put(source.written, source.text) == std::ssize(source.text));
    wait_for_input(source.watched);
    int whose = -1;
    CHECK(look(list, patience, &whose) == source.then);
    CHECK(whose == source.watched.get());
  }
}

TEST_CASE(
    "what is ready at ADD is reported, so a wait that comes later loses "
    "nothing") {
  const Pair pair = tcp_pair();
  REQUIRE(put(pair.theirs, "x") == 1);
  wait_for_input(pair.ours);
  const net::Fd list = list_with(pair.ours);
  CHECK(look(list) == "IN OUT");
  // Nor does one that comes after an EAGAIN and what follows it.
  CHECK(get(pair.ours) == 1);
  CHECK(get(pair.ours) == -EAGAIN);
  REQUIRE(put(pair.theirs, "x") == 1);
  REQUIRE(::shutdown(pair.theirs.get(), SHUT_WR) == 0);
  wait_for_state(pair.ours, TCP_CLOSE_WAIT);
  CHECK(look(list) == "IN OUT RDHUP");
  CHECK(look(list) == "");
}

TEST_CASE(
    "after fork parent and child share the list: the child's close does not "
    "remove the parent's entry") {
  const Pair pair = tcp_pair();
  const net::Fd list = list_with(pair.ours);
  CHECK(look(list) == "OUT");
  CHECK(fate([&] { return ::close(pair.ours.get()); }) == 0);
  REQUIRE(put(pair.theirs, "x") == 1);
  CHECK(look(list, patience) == "IN OUT");
  // What the child removes is gone, though.
  CHECK(fate([&] {
          return ::epoll_ctl(list.get(), EPOLL_CTL_DEL, pair.ours.get(),
                             nullptr);
        }) == 0);
  CHECK(add(list, pair.ours) == 0);  // not EEXIST
}

// Connecting.

TEST_CASE(
    "connect without blocking is in progress, then writable, and SO_ERROR "
    "says how it ended") {
  const net::Fd listener = any_listener();
  const net::Fd client = begin_connect(listener);
  const net::Fd list = list_with(client);
  CHECK(look(list, patience) == "OUT");
  CHECK(error_of(client) == 0);
  CHECK(ask_peer(client) == 0);

  const net::Fd nobody = dead_listener();
  const net::Fd refused = begin_connect(nobody);
  wait_for_state(refused, TCP_CLOSE);
  CHECK(look(list_with(refused)).find("OUT") != std::string::npos);
  CHECK(error_of(refused) == ECONNREFUSED);
  CHECK(error_of(refused) == 0);  // it is told once
  CHECK(ask_peer(refused) == -ENOTCONN);
}

TEST_CASE("a refused connect is reported as IN, OUT, ERR, HUP and RDHUP") {
  const net::Fd nobody = dead_listener();
  const net::Fd client = begin_connect(nobody);
  const net::Fd list = list_with(client);
  wait_for_state(client, TCP_CLOSE);
  CHECK(look(list) == "IN OUT ERR HUP RDHUP");
  CHECK(look(list) == "");
}

TEST_CASE("a full backlog answers no SYN: connect stays in progress") {
  const std::array<Full, 2> full{Full(0), Full(1)};  // 1 and 2 fit
  const std::array<net::Fd, 2> late{begin_connect(full[0].listener),
                                    begin_connect(full[1].listener)};
  for (std::size_t i = 0; i < late.size(); ++i) {
    const net::Fd list = list_with(late[i]);
    wait_until("SYN is sent again",
               [&] { return info(late[i]).tcpi_total_retrans > 0; });
    CHECK(look(list) == "");
    CHECK(connect_to(late[i], full[i].listener) == -EALREADY);
    CHECK(waiting(full[i].listener) == full[i].queued.size());
  }
}

TEST_CASE(
    "a socket that is connecting is reported HUP when it is added too early") {
  const Full full(0);
  const net::Fd early = new_socket();
  const net::Fd list = list_with(early);
  CHECK(look(list) == "OUT HUP");
  // Whoever is told of it only now takes an attempt for a connection.
  CHECK(connect_to(early, full.listener) == -EINPROGRESS);
  CHECK(error_of(early) == 0);
  CHECK(ask_peer(early) == -ENOTCONN);

  const net::Fd in_time = begin_connect(full.listener);
  CHECK(look(list_with(in_time)) == "");
}

// Accepting.

TEST_CASE(
    "a connection that was reset before accept is still accepted, and the "
    "read says ECONNRESET") {
  const net::Fd listener = any_listener();
  const net::Fd list = list_with(listener);
  net::Fd theirs = net::connect_to(net::local_address(listener));
  const unsigned their_port = port(theirs);
  CHECK(look(list, patience) == "IN");
  reset(theirs);
  wait_until("the reset has arrived",
             [&] { return !kernel_keeps(port(listener), their_port); });
  CHECK(look(list) == "");
  const net::Fd ours = accept_one(listener);
  CHECK(look(list_with(ours)) == "IN OUT ERR HUP RDHUP");
  CHECK(get(ours) == -ECONNRESET);
  CHECK(get(ours) == 0);
}

TEST_CASE("a listener shut down is reported once, and accept says EINVAL") {
  const net::Fd listener = any_listener();
  const net::Fd list = list_with(listener);
  CHECK(look(list) == "");
  REQUIRE(::shutdown(listener.get(), SHUT_RDWR) == 0);
  CHECK(look(list) == "OUT HUP");
  CHECK(look(list) == "");
  for (int i = 0; i < 2; ++i) {
    CHECK(outcome(::accept4(listener.get(), nullptr, nullptr, 0)) == -EINVAL);
  }
}

// Reading and writing.

TEST_CASE("two readers of one socket: each byte goes to one of them") {
  std::array<int, 2> ends{};
  net::check(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends.data()),
             "socketpair");
  const net::Fd ours(ends[0]);
  net::Fd theirs(ends[1]);
  std::string sent(127, '\0');
  std::iota(sent.begin(), sent.end(), '\0');
  std::array<std::string, 2> parts;
  {
    const std::jthread one([&] { parts[0] = read_all(ours); });
    const std::jthread other([&] { parts[1] = read_all(ours); });
    for (const char& byte : sent) REQUIRE(put(theirs, {&byte, 1}) == 1);
    theirs = net::Fd();
  }
  std::string received = parts[0] + parts[1];
  std::sort(received.begin(), received.end());
  CHECK(received == sent);
}

// read by syscall(): TSan takes close beside read for the mistake it is.
TEST_CASE(
    "closing a descriptor does not wake a thread that reads it, and the "
    "number is free at once") {
  Pipe pipe = new_pipe(0);
  const int number = pipe.out.release();
  char byte = 0;
  Caller reader([&] { return ::syscall(SYS_read, number, &byte, 1); });
  const auto before = testing::voluntary_switches(reader.id());
  net::check(::close(number), "close");
  const net::Fd next = counter();
  CHECK(next.get() == number);
  testing::wait_until_settled(reader.id(), 50ms);
  CHECK(testing::voluntary_switches(reader.id()) == before);
  // It still reads what it began to read. A read that begins now would not.
  REQUIRE(put(pipe.in, "x") == 1);
  CHECK(reader.result() == 1);
  CHECK(byte == 'x');
  CHECK(outcome(::read(number, &byte, 1)) == -EINVAL);  // an eventfd wants 8
}

TEST_CASE("a zero-length read of a stream returns 0 like the end of it") {
  Pair pair = tcp_pair();
  // recv does not say 0 for want of a buffer. It looks.
  const auto receive_0 = [&pair] {
    return outcome(::recv(pair.ours.get(), nullptr, 0, 0));
  };
  CHECK(get(pair.ours, 0) == 0);
  CHECK(receive_0() == -EAGAIN);
  REQUIRE(put(pair.theirs, "x") == 1);
  wait_for_input(pair.ours);
  CHECK(get(pair.ours, 0) == 0);
  CHECK(receive_0() == 0);
  CHECK(get(pair.ours) == 1);
  reset(pair.theirs);
  wait_for_state(pair.ours, TCP_CLOSE);
  CHECK(get(pair.ours, 0) == 0);
  CHECK(receive_0() == -ECONNRESET);
  CHECK(get(pair.ours) == 0);  // the error has been told
}

TEST_CASE(
    "writing to a pipe that nobody reads is EPIPE, and a SIGPIPE unless it is "
    "ignored") {
  Pipe pipe = new_pipe();
  pipe.out = net::Fd();
  const auto write = [&] { return ::write(pipe.in.get(), "x", 1); };
  CHECK(fate(write, SIG_DFL) == 128 + SIGPIPE);
  CHECK(fate(write, SIG_IGN) == EPIPE);
}

TEST_CASE("send has MSG_NOSIGNAL, write has nothing like it") {
  Pipe pipe = new_pipe();
  Pair pair = tcp_pair();
  pipe.out = net::Fd();
  reset(pair.theirs);
  wait_for_state(pair.ours, TCP_CLOSE);
  CHECK(error_of(pair.ours) == ECONNRESET);
  const auto send = [](const net::Fd& fd) {
    return ::send(fd.get(), "x", 1, MSG_NOSIGNAL);
  };
  CHECK(fate([&] { return send(pair.ours); }) == EPIPE);
  CHECK(fate([&] { return ::write(pair.ours.get(), "x", 1); }) ==
        128 + SIGPIPE);
  CHECK(fate([&] { return send(pipe.in); }) == ENOTSOCK);
}

TEST_CASE("pwritev2 has RWF_NOSIGNAL, from Linux 6.18 on") {
  constexpr int no_signal = 0x100;  // newer than the C library's headers
  Pipe pipe = new_pipe();
  pipe.out = net::Fd();
  char byte = 'x';
  const iovec part{&byte, 1};
  const int error =
      fate([&] { return ::pwritev2(pipe.in.get(), &part, 1, -1, no_signal); });
  if (error == EOPNOTSUPP) {
    MESSAGE("this kernel does not have it yet");
    return;
  }
  CHECK(error == EPIPE);
}

TEST_CASE("an eventfd read returns the sum and the next says EAGAIN") {
  const net::Fd bell = counter();
  for (int i = 0; i < 3; ++i) REQUIRE(::eventfd_write(bell.get(), 1) == 0);
  CHECK(take(bell) == 3);
  CHECK(take(bell) == -EAGAIN);
}

TEST_CASE("reading an eventfd is an edge too, for whoever asked for OUT") {
  const net::Fd bell = counter();
  const net::Fd list = list_with(bell);
  const net::Fd input_only = list_with(bell, EPOLLIN | EPOLLET);
  REQUIRE(::eventfd_write(bell.get(), 1) == 0);
  CHECK(look(list) == "IN OUT");
  CHECK(look(input_only) == "IN");
  CHECK(take(bell) == 1);
  CHECK(look(list) == "OUT");
  CHECK(look(input_only) == "");
}

TEST_CASE("a datagram that leaves is an edge, a part of a stream is not") {
  const Pair udp = udp_pair();
  const net::Fd datagrams = list_with(udp.ours);
  CHECK(look(datagrams) == "OUT");
  REQUIRE(put(udp.ours, "x") == 1);
  CHECK(look(datagrams, patience) == "OUT");

  const Pair tcp = tcp_pair();
  const net::Fd streams = list_with(tcp.ours);
  CHECK(look(streams) == "OUT");
  REQUIRE(put(tcp.ours, "x") == 1);
  wait_until("it is acknowledged",
             [&] { return info(tcp.ours).tcpi_unacked == 0; });
  CHECK(look(streams) == "");
}

TEST_CASE(
    "a datagram longer than the buffer is cut, and MSG_TRUNC tells its "
    "length") {
  const Pair pair = udp_pair();
  const net::Fd list = list_with(pair.ours);
  CHECK(look(list) == "OUT");
  std::array<char, 4> buffer{};
  for (const int flags : {0, int{MSG_TRUNC}}) {
    REQUIRE(put(pair.theirs, "0123456789") == 10);
    CHECK(look(list, patience) == "IN OUT");
    CHECK(::recv(pair.ours.get(), buffer.data(), buffer.size(), flags) ==
          (flags == 0 ? 4 : 10));
    CHECK(std::string_view(buffer.data(), buffer.size()) == "0123");
    CHECK(get(pair.ours) == -EAGAIN);  // the rest is lost
  }
}

TEST_CASE("an empty datagram is read as 0 bytes and is no end") {
  const Pair pair = udp_pair();
  const net::Fd list = list_with(pair.ours);
  CHECK(look(list) == "OUT");
  REQUIRE(put(pair.theirs, "") == 0);
  CHECK(look(list, patience) == "IN OUT");  // without RDHUP
  CHECK(get(pair.ours) == 0);
  CHECK(get(pair.ours) == -EAGAIN);
  REQUIRE(put(pair.theirs, "x") == 1);
  CHECK(look(list, patience) == "IN OUT");
  CHECK(get(pair.ours) == 1);
}

// Time and signals.

TEST_CASE("epoll_wait counts milliseconds, epoll_pwait2 nanoseconds") {
  const nanoseconds coarse = least_of_epoll_wait(20, 1ms);
  const nanoseconds fine = least_of_epoll_pwait2(100, 200us);
  MESSAGE("1 ms takes " << coarse.count() << " ns, 200 us " << fine.count());
  CHECK(coarse >= 1ms);
  CHECK(fine < 1ms);
}

TEST_CASE("a timeout never ends early by the monotonic clock") {
  CHECK(least_of_epoll_wait(250, 1ms) >= 1ms);
  for (const nanoseconds timeout : {1'000ns, 50'000ns, 200'000ns, 999'999ns}) {
    CHECK(least_of_epoll_pwait2(250, timeout) >= timeout);
  }
}

TEST_CASE("a signal interrupts epoll_wait even with SA_RESTART") {
  struct sigaction action {};
  struct sigaction before {};
  action.sa_handler = [](int) {};
  action.sa_flags = SA_RESTART;
  REQUIRE(::sigaction(SIGUSR1, &action, &before) == 0);
  const net::Fd list = new_list();
  std::array<epoll_event, 2> events;
  Caller coarse(
      [&] { return ::epoll_wait(list.get(), &events[0], 1, patience); });
  Caller fine([&] {
    return ::epoll_pwait2(list.get(), &events[1], 1, nullptr, nullptr);
  });
  coarse.interrupt();
  fine.interrupt();
  CHECK(coarse.result() == -EINTR);
  CHECK(fine.result() == -EINTR);
  REQUIRE(::sigaction(SIGUSR1, &before, nullptr) == 0);
}
