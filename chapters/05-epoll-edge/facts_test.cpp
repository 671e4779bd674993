// What edge-triggered epoll does, and several threads on one list, one claim a
// test case; the lesson cites them by name.

#include <doctest/doctest.h>
#include <fcntl.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <poll.h>
#include <sched.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <cstddef>
#include <cstdint>
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

using testing::wait_until;

constexpr std::uint32_t everything = EPOLLIN | EPOLLPRI | EPOLLOUT | EPOLLRDHUP;
constexpr int patience = 20'000;  // milliseconds; only a broken kernel waits

struct Pair {
  net::Fd ours;    // watched by the test
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

void set_option(const net::Fd& fd, int name, int value) {
  net::check(::setsockopt(fd.get(), SOL_SOCKET, name, &value, sizeof value),
             "setsockopt");
}

// One whose buffers have a size, and so no longer grow with their use. The
// peer's is the smaller one: what is sent waits on our side.
Pair narrow_pair() {
  const net::Fd listener = net::listen_on(net::resolve("127.0.0.1", 0));
  set_option(listener, SO_RCVBUF, 20'000);  // inherited
  Pair pair;
  pair.ours = net::connect_to(net::local_address(listener));
  net::set_nonblocking(pair.ours);
  set_option(pair.ours, SO_SNDBUF, 200'000);
  pair.theirs = net::Fd(net::check(
      ::accept4(listener.get(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC),
      "accept4"));
  return pair;
}

net::Fd any_listener() {
  net::Fd listener = net::listen_on(net::resolve("127.0.0.1", 0));
  net::set_nonblocking(listener);
  return listener;
}

net::Fd connect_one(const net::Fd& listener) {
  return net::connect_to(net::local_address(listener));
}

// Owns nothing if there was nobody to accept, and errno says why.
net::Fd accept_one(const net::Fd& listener) {
  return net::Fd(::accept4(listener.get(), nullptr, nullptr,
                           SOCK_NONBLOCK | SOCK_CLOEXEC));
}

net::Fd counter() {
  return net::Fd(
      net::check(::eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC), "eventfd"));
}

// The kernel's list of who is watched.
net::Fd new_list() {
  return net::Fd(net::check(::epoll_create1(EPOLL_CLOEXEC), "epoll_create1"));
}

// The error as a negative number, else 0.
int change(const net::Fd& list, int what, const net::Fd& fd,
           std::uint32_t interest) {
  epoll_event event{interest, {.fd = fd.get()}};
  return ::epoll_ctl(list.get(), what, fd.get(), &event) < 0 ? -errno : 0;
}

void add(const net::Fd& list, const net::Fd& fd, std::uint32_t interest) {
  REQUIRE(change(list, EPOLL_CTL_ADD, fd, interest) == 0);
}

void modify(const net::Fd& list, const net::Fd& fd, std::uint32_t interest) {
  REQUIRE(change(list, EPOLL_CTL_MOD, fd, interest) == 0);
}

net::Fd list_with(const net::Fd& fd, std::uint32_t interest) {
  net::Fd list = new_list();
  add(list, fd, interest);
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

// What one wait reports at this moment: "" is nothing, and two events would be
// "IN, OUT".
std::string look(const net::Fd& list) {
  std::array<epoll_event, 8> events;
  const int n =
      net::check(::epoll_wait(list.get(), events.data(), 8, 0), "epoll_wait");
  std::string text;
  for (std::size_t i = 0; i < static_cast<std::size_t>(n); ++i) {
    if (i > 0) text += ", ";
    text += names(events[i].events);
  }
  return text;
}

// Bytes moved, or the error as a negative number.
ssize_t send_text(const net::Fd& fd, std::string_view text, int flags = 0) {
  const ssize_t n =
      ::send(fd.get(), text.data(), text.size(), MSG_NOSIGNAL | flags);
  return n < 0 ? -errno : n;
}

constexpr ssize_t most_a_read = 64;

ssize_t receive(const net::Fd& fd, std::size_t most = most_a_read) {
  std::array<char, most_a_read> buffer;
  const ssize_t n = ::recv(fd.get(), buffer.data(), most, 0);
  return n < 0 ? -errno : n;
}

void finish(const net::Fd& fd) { REQUIRE(::shutdown(fd.get(), SHUT_WR) == 0); }

// Ends the connection with RST instead of FIN.
void reset(net::Fd& fd) {
  const linger at_once{1, 0};
  net::check(
      ::setsockopt(fd.get(), SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once),
      "setsockopt SO_LINGER");
  fd = net::Fd();
}

// "Nothing is reported" says nothing before the packet has arrived. TCP_INFO
// and FIONREAD take the socket's lock, under which the kernel both takes a
// packet in and reports it: what they show has been reported.
tcp_info info(const net::Fd& fd) {
  tcp_info result{};
  socklen_t size = sizeof result;
  net::check(::getsockopt(fd.get(), IPPROTO_TCP, TCP_INFO, &result, &size),
             "getsockopt TCP_INFO");
  return result;
}

int unread(const net::Fd& fd) {
  int n = 0;
  net::check(::ioctl(fd.get(), FIONREAD, &n), "ioctl FIONREAD");
  return n;
}

void wait_for_bytes(const net::Fd& fd, int n) {
  wait_until("the bytes arrive", [&] { return unread(fd) == n; });
}

// The numbers of net/tcp_states.h: netinet/tcp.h, which has the names, does
// not go together with linux/tcp.h.
constexpr int closed = 7;
constexpr int close_wait = 8;

void wait_for_fin(const net::Fd& fd) {
  wait_until("FIN arrives", [&] { return info(fd).tcpi_state == close_wait; });
}

void wait_for_reset(const net::Fd& fd) {
  wait_until("RST arrives", [&] { return info(fd).tcpi_state == closed; });
}

void wait_until_acknowledged(const net::Fd& fd) {
  wait_until("the peer has it all", [&] {
    const tcp_info now = info(fd);
    return now.tcpi_unacked == 0 && now.tcpi_notsent_bytes == 0;
  });
}

// For a listener TCP_INFO means something else (tcp_get_info in the kernel's
// net/ipv4/tcp.c): how many connections wait for accept.
std::uint32_t waiting(const net::Fd& listener) {
  return info(listener).tcpi_unacked;
}

// One byte, and it is there when this returns.
void send_byte(const Pair& pair) {
  const int before = unread(pair.ours);
  REQUIRE(send_text(pair.theirs, "x") == 1);
  wait_for_bytes(pair.ours, before + 1);
}

// Sends more than there is room for, in one call; it goes through in part.
std::size_t send_too_much(const net::Fd& fd) {
  const std::string text(4 << 20, 'x');
  const ssize_t n = send_text(fd, text);
  REQUIRE(n > 0);
  REQUIRE(n < std::ssize(text));
  return static_cast<std::size_t>(n);
}

void receive_all(const net::Fd& fd, std::size_t n) {
  std::vector<char> buffer(4096);
  while (n > 0) {
    pollfd entry{fd.get(), POLLIN, 0};
    REQUIRE(::poll(&entry, 1, patience) == 1);
    const ssize_t got =
        ::recv(fd.get(), buffer.data(), std::min(n, buffer.size()), 0);
    REQUIRE(got > 0);
    n -= static_cast<std::size_t>(got);
  }
}

// The buffer is full once, and then empty.
void fill_and_empty(const Pair& pair) {
  receive_all(pair.theirs, send_too_much(pair.ours));
  wait_until_acknowledged(pair.ours);
}

// Sends until there is no room and the peer takes no more either.
void fill(const net::Fd& fd) {
  const std::string text(16'384, 'x');
  ssize_t n = 0;
  do {
    while ((n = send_text(fd, text)) > 0) {
    }
    REQUIRE(n == -EAGAIN);
    wait_until("nothing is under way",
               [&] { return info(fd).tcpi_unacked == 0; });
  } while (send_text(fd, "x") > 0);
}

// Bytes that the peer has not acknowledged.
int unacknowledged(const net::Fd& fd) {
  int n = 0;
  net::check(::ioctl(fd.get(), TIOCOUTQ, &n), "ioctl TIOCOUTQ");
  return n;
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

// Keeps the thread on its CPU for one scope. Loopback delivers a packet on the
// CPU that sent it, in one go: whoever then sees it in a queue knows that it
// has been reported. For queues that are not under a socket's lock.
class OneCpu {
 public:
  OneCpu() {
    net::check(::sched_getaffinity(0, sizeof before_, &before_),
               "sched_getaffinity");
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(static_cast<unsigned>(::sched_getcpu()), &one);
    net::check(::sched_setaffinity(0, sizeof one, &one), "sched_setaffinity");
  }
  OneCpu(const OneCpu&) = delete;
  OneCpu& operator=(const OneCpu&) = delete;
  ~OneCpu() { ::sched_setaffinity(0, sizeof before_, &before_); }

 private:
  cpu_set_t before_{};
};

// A thread for each list given; a list may be given more than once. Each waits
// on its list and, told of something, calls the handler with its own number.
// If the handler says no it waits for the end of the scope instead.
class Waiters {
 public:
  using Handler = std::function<bool(std::size_t thread)>;

  Waiters(const std::vector<int>& lists, Handler handler)
      : bell_(counter()), handler_(std::move(handler)), ids_(lists.size()) {
    for (std::size_t i = 0; i < lists.size(); ++i) {
      epoll_event event{EPOLLIN, {.fd = bell_.get()}};
      // EEXIST: the list has been given before.
      ::epoll_ctl(lists[i], EPOLL_CTL_ADD, bell_.get(), &event);
      threads_.emplace_back([this, i, list = lists[i]] { work(i, list); });
    }
    settle();
  }
  Waiters(const Waiters&) = delete;
  Waiters& operator=(const Waiters&) = delete;
  ~Waiters() { ::eventfd_write(bell_.get(), 1); }

  // Waits until every thread sleeps and stays asleep.
  void settle() const {
    for (const std::atomic<pid_t>& id : ids_) {
      wait_until("the thread runs", [&] { return id != 0; });
      testing::wait_until_settled(id);
    }
  }

  // True at a moment when every thread sleeps.
  bool asleep() const {
    return std::all_of(ids_.begin(), ids_.end(), [](const auto& id) {
      return testing::state(id) == 'S';
    });
  }

 private:
  bool told(int list) const {
    epoll_event event{};
    return ::epoll_wait(list, &event, 1, patience) == 1 &&
           event.data.fd != bell_.get();
  }

  void work(std::size_t i, int list) {
    ids_[i] = static_cast<pid_t>(::syscall(SYS_gettid));
    while (told(list) && handler_(i)) {
    }
    pollfd entry{bell_.get(), POLLIN, 0};
    ::poll(&entry, 1, patience);
  }

  net::Fd bell_;
  Handler handler_;
  std::vector<std::atomic<pid_t>> ids_;
  std::vector<std::jthread> threads_;
};

constexpr int thread_count = 3;

// Counts who is told and lets nobody go back to wait, or read: what was
// reported stays as it is.
Waiters::Handler count_in(std::atomic<int>& told) {
  return [&told](std::size_t) {
    ++told;
    return false;
  };
}

std::vector<int> three_times(const net::Fd& list) {
  return std::vector<int>(thread_count, list.get());
}

// A list for each thread, all with the same listener.
std::vector<net::Fd> lists_with(const net::Fd& listener,
                                std::uint32_t interest) {
  std::vector<net::Fd> lists;
  for (int i = 0; i < thread_count; ++i) {
    lists.push_back(list_with(listener, interest));
  }
  return lists;
}

std::vector<int> numbers_of(const std::vector<net::Fd>& fds) {
  std::vector<int> numbers;
  for (const net::Fd& fd : fds) numbers.push_back(fd.get());
  return numbers;
}

// How many lists are woken for one client that nobody accepts.
int lists_woken(std::uint32_t interest) {
  const net::Fd listener = any_listener();
  const std::vector<net::Fd> lists = lists_with(listener, interest);
  std::atomic<int> told{0};
  const Waiters waiters(numbers_of(lists), count_in(told));
  const net::Fd client = connect_one(listener);
  wait_until("somebody is told", [&] { return told > 0; });
  waiters.settle();
  return told;
}

net::Fd reuseport_listener(const net::Address& address) {
  net::Fd listener(
      net::check(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), "socket"));
  set_option(listener, SO_REUSEPORT, 1);
  net::check(::bind(listener.get(), address.get(), address.length), "bind");
  net::check(::listen(listener.get(), SOMAXCONN), "listen");
  return listener;
}

net::Fd udp_socket() {
  net::Fd fd(net::check(
      ::socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0),
      "socket"));
  const net::Address any = net::resolve("127.0.0.1", 0);
  net::check(::bind(fd.get(), any.get(), any.length), "bind");
  return fd;
}

// With SO_PEEK_OFF each look goes on behind the one before, from datagram to
// datagram.
void wait_for_datagrams(const net::Fd& fd, int n) {
  set_option(fd, SO_PEEK_OFF, 0);
  std::array<char, most_a_read> buffer;
  int seen = 0;
  wait_until("the datagrams arrive", [&] {
    const ssize_t size =
        ::recv(fd.get(), buffer.data(), buffer.size(), MSG_PEEK);
    if (size > 0) ++seen;
    return seen == n;
  });
}

struct Calls {
  int waits = 0;
  int reads = 0;
  bool operator==(const Calls&) const = default;
};

constexpr int messages = 10;

// What a reader calls for so many messages of a byte each. After a message it
// goes on until a wait reports nothing. `again` says, by the result of a read,
// whether it reads once more before it waits.
Calls calls_for_messages(std::uint32_t trigger,
                         const std::function<bool(ssize_t)>& again) {
  const Pair pair = tcp_pair();
  const net::Fd list = list_with(pair.ours, EPOLLIN | trigger);
  Calls calls;
  for (int i = 0; i < messages; ++i) {
    send_byte(pair);
    while (++calls.waits, look(list) == "IN") {
      do {
        ++calls.reads;
      } while (again(receive(pair.ours)));
    }
  }
  return calls;
}

}  // namespace

// What an edge is.

TEST_CASE("edge-triggered, unread input is reported once") {
  const Pair pair = tcp_pair();
  const net::Fd list = list_with(pair.ours, EPOLLIN | EPOLLET);
  CHECK(look(list) == "");
  send_byte(pair);
  CHECK(look(list) == "IN");
  CHECK(look(list) == "");
  CHECK(unread(pair.ours) == 1);
}

TEST_CASE("each segment that arrives is an edge, unread data or not") {
  const Pair pair = tcp_pair();
  const net::Fd list = list_with(pair.ours, EPOLLIN | EPOLLET);
  std::uint32_t events = 0;
  for (int i = 0; i < 30; ++i) {
    send_byte(pair);
    if (look(list) == "IN") ++events;
  }
  CHECK(look(list) == "");
  CHECK(unread(pair.ours) == 30);
  CHECK(events == 30);
  // A segment that came twice, because the machine was slow, brings nothing.
  const std::uint32_t again = info(pair.theirs).tcpi_total_retrans;
  CHECK(events + again == info(pair.ours).tcpi_data_segs_in);
}

TEST_CASE("a partial read makes no edge") {
  const Pair pair = tcp_pair();
  const net::Fd list = list_with(pair.ours, EPOLLIN | EPOLLET);
  REQUIRE(send_text(pair.theirs, "abc") == 3);
  wait_for_bytes(pair.ours, 3);
  CHECK(look(list) == "IN");
  CHECK(receive(pair.ours, 1) == 1);
  CHECK(unread(pair.ours) == 2);
  CHECK(look(list) == "");
}

TEST_CASE("ADD reports what is ready, edge-triggered too") {
  const Pair pair = tcp_pair();
  send_byte(pair);
  const net::Fd list = list_with(pair.ours, everything | EPOLLET);
  CHECK(look(list) == "IN OUT");
  CHECK(look(list) == "");
}

TEST_CASE("MOD reports again what is ready, edge-triggered too") {
  const Pair pair = tcp_pair();
  send_byte(pair);
  const net::Fd list = list_with(pair.ours, everything | EPOLLET);
  CHECK(look(list) == "IN OUT");
  CHECK(look(list) == "");
  modify(list, pair.ours, everything | EPOLLET);
  CHECK(look(list) == "IN OUT");
  CHECK(look(list) == "");
}

TEST_CASE("what is reported is the whole state, not what has changed") {
  const Pair pair = narrow_pair();
  const net::Fd list = list_with(pair.ours, everything | EPOLLET);
  CHECK(look(list) == "OUT");
  send_byte(pair);  // there has been room all along
  CHECK(look(list) == "IN OUT");
  finish(pair.theirs);
  wait_for_fin(pair.ours);
  CHECK(look(list) == "IN OUT RDHUP");
  fill_and_empty(pair);  // only the room is new
  CHECK(look(list) == "IN OUT RDHUP");
}

TEST_CASE("edges between two waits come as one event") {
  const Pair pair = tcp_pair();
  const net::Fd list = list_with(pair.ours, everything | EPOLLET);
  CHECK(look(list) == "OUT");
  send_byte(pair);
  send_byte(pair);
  finish(pair.theirs);
  wait_for_fin(pair.ours);
  CHECK(look(list) == "IN OUT RDHUP");
  CHECK(look(list) == "");
}

TEST_CASE("what was drained before the wait is not reported") {
  const Pair pair = tcp_pair();
  const net::Fd list = list_with(pair.ours, EPOLLIN | EPOLLET);
  send_byte(pair);
  CHECK(receive(pair.ours) == 1);
  CHECK(look(list) == "");
}

// The figure of the lesson, from left to right.
TEST_CASE("five packets, ten waits: eight reports by level and four by edge") {
  const Pair pair = tcp_pair();
  const net::Fd level = list_with(pair.ours, EPOLLIN);
  const net::Fd edge = list_with(pair.ours, EPOLLIN | EPOLLET);
  std::string level_seen;
  std::string edge_seen;
  const auto wait = [&](int times) {
    for (int i = 0; i < times; ++i) {
      level_seen += look(level) == "IN" ? 'I' : '-';
      edge_seen += look(edge) == "IN" ? 'I' : '-';
    }
  };
  send_byte(pair);
  wait(2);
  send_byte(pair);
  wait(2);
  CHECK(receive(pair.ours, 1) == 1);
  wait(1);
  send_byte(pair);
  send_byte(pair);
  wait(2);
  CHECK(receive(pair.ours) == 3);
  wait(1);
  send_byte(pair);
  wait(1);
  CHECK(receive(pair.ours) == 1);
  wait(1);
  CHECK(level_seen == "IIIIIII-I-");
  CHECK(edge_seen == "I-I--I--I-");
}

// The end.

TEST_CASE("a FIN is an edge") {
  const Pair pair = tcp_pair();
  const net::Fd list = list_with(pair.ours, EPOLLIN | EPOLLRDHUP | EPOLLET);
  finish(pair.theirs);
  wait_for_fin(pair.ours);
  CHECK(look(list) == "IN RDHUP");
  CHECK(look(list) == "");
}

TEST_CASE("a FIN after the event is an edge of its own") {
  const Pair pair = tcp_pair();
  const net::Fd list = list_with(pair.ours, EPOLLIN | EPOLLRDHUP | EPOLLET);
  REQUIRE(send_text(pair.theirs, "abc") == 3);
  wait_for_bytes(pair.ours, 3);
  CHECK(look(list) == "IN");
  CHECK(receive(pair.ours) == 3);  // short: this reader stops here
  finish(pair.theirs);
  wait_for_fin(pair.ours);
  CHECK(look(list) == "IN RDHUP");
  CHECK(look(list) == "");
  CHECK(receive(pair.ours) == 0);
}

TEST_CASE(
    "bytes and a FIN in one burst are one event: a short read is not the end") {
  const Pair pair = tcp_pair();
  const net::Fd list = list_with(pair.ours, EPOLLIN | EPOLLRDHUP | EPOLLET);
  REQUIRE(send_text(pair.theirs, "abc") == 3);
  finish(pair.theirs);
  wait_for_fin(pair.ours);
  CHECK(look(list) == "IN RDHUP");
  CHECK(receive(pair.ours) == 3);
  CHECK(look(list) == "");         // nobody speaks of the end again
  CHECK(receive(pair.ours) == 0);  // the read that the short one seemed to save
}

TEST_CASE("a reset is an edge and comes unasked") {
  Pair pair = tcp_pair();
  const net::Fd nothing = list_with(pair.ours, EPOLLET);
  const net::Fd input = list_with(pair.ours, EPOLLIN | EPOLLET);
  CHECK(look(nothing) == "");
  CHECK(look(input) == "");
  reset(pair.theirs);
  wait_for_reset(pair.ours);
  CHECK(look(nothing) == "ERR HUP");
  CHECK(look(input) == "IN ERR HUP");
  CHECK(look(nothing) == "");
  CHECK(look(input) == "");
}

TEST_CASE("edge-triggered, a hang-up nobody attends to is reported once") {
  Pair pair = tcp_pair();
  const net::Fd level = list_with(pair.ours, 0);
  const net::Fd edge = list_with(pair.ours, EPOLLET);
  reset(pair.theirs);
  wait_for_reset(pair.ours);
  CHECK(look(edge) == "ERR HUP");
  for (int i = 0; i < 100; ++i) {
    CHECK(look(level) == "ERR HUP");  // this one would spin
    CHECK(look(edge) == "");
  }
}

TEST_CASE(
    "RDHUP, once reported, stands in every later event of that connection") {
  Pair pair = narrow_pair();
  const net::Fd list = list_with(pair.ours, everything | EPOLLET);
  CHECK(look(list) == "OUT");
  finish(pair.theirs);
  wait_for_fin(pair.ours);
  CHECK(look(list) == "IN OUT RDHUP");
  CHECK(receive(pair.ours) == 0);
  fill_and_empty(pair);
  CHECK(look(list) == "IN OUT RDHUP");
  modify(list, pair.ours, everything | EPOLLET);
  CHECK(look(list) == "IN OUT RDHUP");
  reset(pair.theirs);
  wait_for_reset(pair.ours);
  CHECK(look(list) == "IN OUT ERR HUP RDHUP");
}

// Room to send.

TEST_CASE(
    "room to send is reported at ADD and not again while nothing is full") {
  const Pair pair = tcp_pair();
  const net::Fd list = list_with(pair.ours, EPOLLOUT | EPOLLET);
  CHECK(look(list) == "OUT");
  for (int i = 0; i < 10; ++i) {
    REQUIRE(send_text(pair.ours, "abc") == 3);
    receive_all(pair.theirs, 3);
    wait_until_acknowledged(pair.ours);
    CHECK(look(list) == "");
  }
}

TEST_CASE(
    "after EAGAIN room is an edge once about a third of the buffer is free") {
  const Pair pair = narrow_pair();
  const net::Fd list = list_with(pair.ours, EPOLLOUT | EPOLLET);
  fill(pair.ours);
  CHECK(look(list) == "");
  const double full = unacknowledged(pair.ours);
  double left = full;
  do {
    receive_all(pair.theirs, 1'000);
    left = unacknowledged(pair.ours);
  } while (look(list) != "OUT");
  CHECK(left < 0.72 * full);
  CHECK(left > 0.55 * full);
}

TEST_CASE("a short send is enough: the edge comes without an EAGAIN") {
  const Pair pair = narrow_pair();
  const net::Fd list = list_with(pair.ours, EPOLLOUT | EPOLLET);
  CHECK(look(list) == "OUT");
  fill_and_empty(pair);
  CHECK(look(list) == "OUT");
  CHECK(look(list) == "");
}

// Where a short read does not mean that all has been read.

TEST_CASE("an urgent byte ends a read short of what stands behind it") {
  const Pair pair = tcp_pair();
  const net::Fd input = list_with(pair.ours, EPOLLIN | EPOLLET);
  const net::Fd urgent = list_with(pair.ours, EPOLLIN | EPOLLPRI | EPOLLET);
  REQUIRE(send_text(pair.theirs, "abc") == 3);
  REQUIRE(send_text(pair.theirs, "!", MSG_OOB) == 1);
  REQUIRE(send_text(pair.theirs, "def") == 3);
  // FIONREAD counts up to the urgent byte only.
  wait_until("the bytes arrive",
             [&] { return info(pair.ours).tcpi_bytes_received == 7; });
  CHECK(look(input) == "IN");
  CHECK(look(urgent) == "IN PRI");
  CHECK(receive(pair.ours) == 3);
  CHECK(look(input) == "");
  CHECK(look(urgent) == "");
  CHECK(receive(pair.ours) == 3);
}

TEST_CASE("a datagram a read: a short read says nothing") {
  const OneCpu one_cpu;
  const net::Fd ours = udp_socket();
  const net::Fd theirs = udp_socket();
  const net::Address address = net::local_address(ours);
  REQUIRE(::connect(theirs.get(), address.get(), address.length) == 0);
  const net::Fd list = list_with(ours, EPOLLIN | EPOLLET);
  for (int i = 0; i < 3; ++i) REQUIRE(send_text(theirs, "abc") == 3);
  wait_for_datagrams(ours, 3);
  CHECK(look(list) == "IN");
  CHECK(receive(ours) == 3);
  CHECK(look(list) == "");
  CHECK(receive(ours) == 3);
  CHECK(receive(ours) == 3);
  CHECK(receive(ours) == -EAGAIN);
}

// The listener.

TEST_CASE(
    "edge-triggered, a listener accepted once leaves the others waiting") {
  const OneCpu one_cpu;
  const net::Fd listener = any_listener();
  const net::Fd list = list_with(listener, EPOLLIN | EPOLLET);
  std::vector<net::Fd> clients;
  for (int i = 0; i < 3; ++i) clients.push_back(connect_one(listener));
  wait_until("three wait", [&] { return waiting(listener) == 3; });
  CHECK(look(list) == "IN");
  CHECK(accept_one(listener));
  CHECK(look(list) == "");
  CHECK(waiting(listener) == 2);
  clients.push_back(connect_one(listener));
  wait_until("a fourth comes", [&] { return waiting(listener) == 3; });
  CHECK(look(list) == "IN");
  for (int i = 0; i < 3; ++i) CHECK(accept_one(listener));
  CHECK(!accept_one(listener));
  CHECK(errno == EAGAIN);
}

TEST_CASE("out of descriptors an edge-triggered listener falls silent") {
  const OneCpu one_cpu;
  const net::Fd listener = any_listener();
  const net::Fd level = list_with(listener, EPOLLIN);
  const net::Fd edge = list_with(listener, EPOLLIN | EPOLLET);
  const net::Fd client = connect_one(listener);
  wait_until("one waits", [&] { return waiting(listener) == 1; });
  // Numbers are given from the lowest on, so this one is the next.
  const int next = counter().get();
  {
    const DescriptorLimit limit(static_cast<rlim_t>(next));
    CHECK(look(edge) == "IN");
    CHECK(!accept_one(listener));
    CHECK(errno == EMFILE);
    CHECK(look(level) == "IN");  // this one would spin
    CHECK(look(edge) == "");
  }
  CHECK(look(edge) == "");  // that there are descriptors again is no edge
  CHECK(accept_one(listener));
}

TEST_CASE("taken off the list and put back, a listener reports who waits") {
  const OneCpu one_cpu;
  const net::Fd listener = any_listener();
  const net::Fd list = list_with(listener, EPOLLIN | EPOLLET);
  const net::Fd client = connect_one(listener);
  wait_until("one waits", [&] { return waiting(listener) == 1; });
  CHECK(look(list) == "IN");
  CHECK(look(list) == "");
  REQUIRE(change(list, EPOLL_CTL_DEL, listener, 0) == 0);
  CHECK(look(list) == "");
  add(list, listener, EPOLLIN | EPOLLET);
  CHECK(look(list) == "IN");
  CHECK(look(list) == "");
  modify(list, listener, EPOLLIN | EPOLLET);
  CHECK(look(list) == "IN");
}

// A call that blocks, and several threads.

TEST_CASE(
    "on a blocking socket, reading until EAGAIN sleeps in the last read") {
  Pair pair = tcp_pair();
  REQUIRE(::fcntl(pair.ours.get(), F_SETFL, 0) == 0);
  const net::Fd list = list_with(pair.ours, EPOLLIN | EPOLLET);
  std::atomic<int> reads{0};
  std::atomic<bool> done{false};
  const Waiters waiters({list.get()}, [&](std::size_t) {
    while (receive(pair.ours) > 0) ++reads;
    done = true;
    return false;
  });
  // Closed before the others are, which ends the last read.
  const net::Fd theirs = std::move(pair.theirs);
  REQUIRE(send_text(theirs, "x") == 1);
  wait_until("the byte is read", [&] { return reads == 1; });
  waiters.settle();
  CHECK(reads.load() == 1);
  CHECK(!done.load());
}

TEST_CASE("level-triggered, one byte wakes every thread that waits") {
  const Pair pair = tcp_pair();
  const net::Fd list = list_with(pair.ours, EPOLLIN);
  std::atomic<int> told{0};
  const Waiters waiters(three_times(list), count_in(told));
  send_byte(pair);
  wait_until("every thread is told", [&] { return told == thread_count; });
}

TEST_CASE("edge-triggered, one byte wakes one thread") {
  const Pair pair = tcp_pair();
  const net::Fd list = list_with(pair.ours, EPOLLIN | EPOLLET);
  std::atomic<int> told{0};
  const Waiters waiters(three_times(list), count_in(told));
  send_byte(pair);
  wait_until("a thread is told", [&] { return told > 0; });
  waiters.settle();
  CHECK(told.load() == 1);
}

TEST_CASE(
    "edge-triggered, a second segment sends a second thread to the same "
    "client") {
  const Pair pair = tcp_pair();
  const net::Fd list = list_with(pair.ours, EPOLLIN | EPOLLET);
  std::atomic<int> told{0};
  const Waiters waiters(three_times(list), count_in(told));
  send_byte(pair);
  wait_until("a thread is told", [&] { return told > 0; });
  waiters.settle();
  REQUIRE(told.load() == 1);  // and is not done with the client
  send_byte(pair);
  wait_until("a second thread is told", [&] { return told > 1; });
  waiters.settle();
  CHECK(told.load() == 2);
}

TEST_CASE("ONESHOT, one thread and nobody else until MOD") {
  const Pair pair = tcp_pair();
  const net::Fd list = list_with(pair.ours, EPOLLIN | EPOLLONESHOT);
  std::atomic<int> told{0};
  const Waiters waiters(three_times(list), count_in(told));
  send_byte(pair);
  wait_until("a thread is told", [&] { return told > 0; });
  send_byte(pair);
  waiters.settle();
  CHECK(told.load() == 1);
  modify(list, pair.ours, EPOLLIN | EPOLLONESHOT);
  wait_until("a second thread is told", [&] { return told > 1; });
  waiters.settle();
  CHECK(told.load() == 2);
}

TEST_CASE(
    "one listener on several lists: each list is woken, with EXCLUSIVE one") {
  CHECK(lists_woken(EPOLLIN) == thread_count);
  CHECK(lists_woken(EPOLLIN | EPOLLET) == thread_count);
  CHECK(lists_woken(EPOLLIN | EPOLLEXCLUSIVE) == 1);
  CHECK(lists_woken(EPOLLIN | EPOLLET | EPOLLEXCLUSIVE) == 1);
}

TEST_CASE(
    "EXCLUSIVE does not balance: with idle gaps one list gets every client") {
  const net::Fd listener = any_listener();
  const std::vector<net::Fd> lists =
      lists_with(listener, EPOLLIN | EPOLLEXCLUSIVE);
  std::array<std::atomic<int>, thread_count> shares{};
  std::atomic<int> served{0};
  const Waiters waiters(numbers_of(lists), [&](std::size_t thread) {
    if (!accept_one(listener)) return true;
    ++shares[thread];
    ++served;
    return true;
  });
  for (int i = 1; i <= 20; ++i) {
    const net::Fd client = connect_one(listener);
    wait_until("it is accepted", [&] { return served == i; });
    wait_until("every thread sleeps", [&] { return waiters.asleep(); });
  }
  CHECK(std::max_element(shares.begin(), shares.end())->load() == 20);
}

TEST_CASE("SO_REUSEPORT spreads the clients over the listeners") {
  std::vector<net::Fd> listeners;
  listeners.push_back(reuseport_listener(net::resolve("127.0.0.1", 0)));
  const net::Address address = net::local_address(listeners.front());
  while (listeners.size() < 3) listeners.push_back(reuseport_listener(address));
  std::vector<net::Fd> clients;
  for (int i = 0; i < 64; ++i) clients.push_back(net::connect_to(address));
  wait_until("every client waits", [&] {
    return std::accumulate(listeners.begin(), listeners.end(), 0U,
                           [](auto sum, const net::Fd& listener) {
                             return sum + waiting(listener);
                           }) == 64;
  });
  // The clients' ports decide, so one may get none by chance: 3 * (2/3)^64.
  for (const net::Fd& listener : listeners) CHECK(waiting(listener) > 0);
}

TEST_CASE("EXCLUSIVE goes with neither RDHUP nor ONESHOT nor MOD: EINVAL") {
  const net::Fd listener = any_listener();
  const net::Fd list = new_list();
  const auto adding = [&](std::uint32_t interest) {
    return change(list, EPOLL_CTL_ADD, listener, interest);
  };
  CHECK(adding(EPOLLIN | EPOLLEXCLUSIVE | EPOLLRDHUP) == -EINVAL);
  CHECK(adding(EPOLLIN | EPOLLEXCLUSIVE | EPOLLONESHOT) == -EINVAL);
  CHECK(adding(EPOLLIN | EPOLLEXCLUSIVE | EPOLLET) == 0);
  CHECK(change(list, EPOLL_CTL_MOD, listener, EPOLLIN) == -EINVAL);
  CHECK(change(list, EPOLL_CTL_MOD, listener, EPOLLIN | EPOLLEXCLUSIVE) ==
        -EINVAL);
}

// Events that are out of date, and what events cost.

TEST_CASE(
    "an event outlives its descriptor: the number may be another client's by "
    "its turn") {
  const net::Fd listener = any_listener();
  std::vector<net::Fd> clients;
  for (int i = 0; i < 3; ++i) clients.push_back(connect_one(listener));
  const net::Fd list = new_list();
  std::array<net::Fd, 2> accepted;
  for (std::size_t i = 0; i < 2; ++i) {
    accepted[i] = accept_one(listener);
    REQUIRE(accepted[i]);
    add(list, accepted[i], EPOLLIN | EPOLLET);
    REQUIRE(send_text(clients[i], "x") == 1);
    wait_for_bytes(accepted[i], 1);
  }
  std::array<epoll_event, 8> batch;
  REQUIRE(::epoll_wait(list.get(), batch.data(), 8, 0) == 2);
  // The turn of the first: it ends the second and lets a third client in.
  // Copies: the fields of an event are packed.
  const int first = batch[0].data.fd;
  const int second = batch[1].data.fd;
  REQUIRE(first == accepted[0].get());
  REQUIRE(second == accepted[1].get());
  accepted[1] = net::Fd();
  const net::Fd third = accept_one(listener);
  // The turn of the second.
  CHECK(second == third.get());
  CHECK(names(batch[1].events) == "IN");
  CHECK(receive(third) == -EAGAIN);
  CHECK(look(list) == "");
}

TEST_CASE(
    "level-triggered with one read an event makes the same calls as "
    "edge-triggered with a stop at a short read") {
  const Calls level = calls_for_messages(0, [](ssize_t) { return false; });
  const Calls edge =
      calls_for_messages(EPOLLET, [](ssize_t n) { return n == most_a_read; });
  CHECK(level == Calls{2 * messages, messages});
  CHECK(edge == level);
}

TEST_CASE("edge-triggered until EAGAIN makes one read more an event") {
  const Calls calls =
      calls_for_messages(EPOLLET, [](ssize_t n) { return n != -EAGAIN; });
  CHECK(calls == Calls{2 * messages, 2 * messages});
}

// EAGAIN is the kernel's word that it will report what comes next. A server
// that is told so while bytes wait is owed no report, and cannot know: to doubt
// the word is to read again without an event, which is to spin. So a test that
// makes calls fail must not make a read say EAGAIN to an edge-triggered server.
TEST_CASE("an EAGAIN that is not true silences an edge-triggered client") {
  const Pair pair = tcp_pair();
  const net::Fd list = list_with(pair.ours, EPOLLIN | EPOLLRDHUP | EPOLLET);
  send_byte(pair);
  CHECK(look(list) == "IN");
  // Here the reader is told EAGAIN, by a call that did not read.
  CHECK(unread(pair.ours) == 1);
  CHECK(look(list) == "");
  send_byte(pair);  // another segment
  CHECK(look(list) == "IN");
  CHECK(look(list) == "");
  modify(list, pair.ours, EPOLLIN | EPOLLRDHUP | EPOLLET);
  CHECK(look(list) == "IN");
  CHECK(look(list) == "");
  finish(pair.theirs);
  wait_for_fin(pair.ours);
  CHECK(look(list) == "IN RDHUP");
  CHECK(receive(pair.ours) == 2);
}

TEST_CASE("eventfd: each write is an edge, read or not") {
  const net::Fd fd = counter();
  const net::Fd list = list_with(fd, EPOLLIN | EPOLLET);
  CHECK(look(list) == "");
  for (int i = 0; i < 3; ++i) {
    REQUIRE(::eventfd_write(fd.get(), 1) == 0);
    CHECK(look(list) == "IN");
    CHECK(look(list) == "");
  }
  eventfd_t sum = 0;
  REQUIRE(::eventfd_read(fd.get(), &sum) == 0);
  CHECK(sum == 3);
  REQUIRE(::eventfd_write(fd.get(), 1) == 0);
  CHECK(look(list) == "IN");
}
