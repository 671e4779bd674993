// Larger than what <sys/select.h> will say: one of the facts below.
#define FD_SETSIZE 65536

#include <fcntl.h>
#include <linux/sock_diag.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <unistd.h>

#include <doctest/doctest.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <climits>
#include <csignal>
#include <cstdint>
#include <filesystem>
#include <initializer_list>
#include <string>
#include <thread>
#include <vector>

#include "common/error.hpp"
#include "common/fd.hpp"
#include "common/socket.hpp"
#include "common/testing/process.hpp"

namespace {

using std::chrono::microseconds;
using std::chrono::milliseconds;

// Against hangs; what is waited for comes at once.
constexpr milliseconds patience{20'000};

struct Pair {
  net::Fd ours;    // non-blocking
  net::Fd theirs;  // blocking
};

net::Fd accept_from(const net::Fd& listener) {
  return net::Fd(net::check(
      ::accept4(listener.get(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC),
      "accept4"));
}

net::Fd new_listener() { return net::listen_on(net::resolve("127.0.0.1", 0)); }

Pair tcp_pair() {
  const net::Fd listener = new_listener();
  net::Fd theirs = net::connect_to(net::local_address(listener));
  return {accept_from(listener), std::move(theirs)};
}

net::Fd new_event(unsigned value = 0) {
  return net::Fd(
      net::check(::eventfd(value, EFD_CLOEXEC | EFD_NONBLOCK), "eventfd"));
}

void say(const net::Fd& to, std::string_view bytes) {
  const ssize_t n = ::send(to.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL);
  REQUIRE(n == static_cast<ssize_t>(bytes.size()));
}

// What recv gives: a count, or the negated errno.
ssize_t take(const net::Fd& from, std::size_t most = 65536) {
  std::vector<char> buffer(most);
  const ssize_t n = ::recv(from.get(), buffer.data(), buffer.size(), 0);
  return n < 0 ? -errno : n;
}

timeval as_timeval(microseconds time) {
  return {time.count() / 1'000'000, time.count() % 1'000'000};
}

microseconds as_time(const timeval& time) {
  return std::chrono::seconds(time.tv_sec) + microseconds(time.tv_usec);
}

fd_set set_of(std::initializer_list<int> numbers) {
  fd_set set;
  FD_ZERO(&set);
  for (const int fd : numbers) FD_SET(fd, &set);
  return set;
}

bool is_empty(const fd_set& set) {
  for (int fd = 0; fd < FD_SETSIZE; ++fd) {
    if (FD_ISSET(fd, &set)) return false;
  }
  return true;
}

struct Answer {
  int count;
  bool readable;
  bool writable;
  bool exceptional;
};

// Asks for all three, without waiting.
Answer look(const net::Fd& fd) {
  fd_set read = set_of({fd.get()});
  fd_set write = read;
  fd_set except = read;
  timeval at_once{};
  const int n = net::check(
      ::select(fd.get() + 1, &read, &write, &except, &at_once), "select");
  return {n, FD_ISSET(fd.get(), &read) != 0, FD_ISSET(fd.get(), &write) != 0,
          FD_ISSET(fd.get(), &except) != 0};
}

// False if it has not become readable within our patience.
bool becomes_readable(const net::Fd& fd) {
  fd_set read = set_of({fd.get()});
  timeval limit = as_timeval(patience);
  return net::check(::select(fd.get() + 1, &read, nullptr, nullptr, &limit),
                    "select") == 1;
}

// The call without the library's idea of how large a set is.
int raw_select(int nfds, std::vector<unsigned long>& read,
               std::chrono::seconds limit) {
  timespec time{limit.count(), 0};
  return static_cast<int>(::syscall(SYS_pselect6, nfds, read.data(), nullptr,
                                    nullptr, &time, nullptr));
}

constexpr std::size_t word_bits = sizeof(unsigned long) * CHAR_BIT;

std::vector<unsigned long> raw_set(std::size_t bits, std::size_t bit) {
  std::vector<unsigned long> set(bits / word_bits);
  set[bit / word_bits] |= 1UL << (bit % word_bits);
  return set;
}

// SIGALRM again and again, with a handler that does nothing, so that a call
// that sleeps is interrupted however late it begins.
class Alarm {
 public:
  explicit Alarm(int flags) {
    struct sigaction action {};
    action.sa_handler = [](int) {};
    action.sa_flags = flags;
    net::check(::sigaction(SIGALRM, &action, &old_), "sigaction");
    const itimerval each{{0, 20'000}, {0, 20'000}};
    net::check(::setitimer(ITIMER_REAL, &each, nullptr), "setitimer");
  }
  Alarm(const Alarm&) = delete;
  Alarm& operator=(const Alarm&) = delete;
  ~Alarm() {
    const itimerval never{};
    ::setitimer(ITIMER_REAL, &never, nullptr);
    ::sigaction(SIGALRM, &old_, nullptr);
  }

 private:
  struct sigaction old_ {};
};

// SIGUSR1 blocked, pending, and with a handler.
class PendingSignal {
 public:
  PendingSignal() {
    struct sigaction action {};
    action.sa_handler = [](int) {};
    net::check(::sigaction(SIGUSR1, &action, &old_), "sigaction");
    sigset_t set{};
    ::sigemptyset(&set);
    ::sigaddset(&set, SIGUSR1);
    REQUIRE(::pthread_sigmask(SIG_BLOCK, &set, &open_) == 0);
    REQUIRE(::raise(SIGUSR1) == 0);
  }
  PendingSignal(const PendingSignal&) = delete;
  PendingSignal& operator=(const PendingSignal&) = delete;
  ~PendingSignal() {
    ::pthread_sigmask(SIG_SETMASK, &open_, nullptr);
    ::sigaction(SIGUSR1, &old_, nullptr);
  }

  // The mask as it was: SIGUSR1 may come in.
  const sigset_t& open_mask() const { return open_; }

  bool still_pending() const {
    sigset_t pending{};
    ::sigpending(&pending);
    return ::sigismember(&pending, SIGUSR1) == 1;
  }

 private:
  struct sigaction old_ {};
  sigset_t open_{};
};

// From here to the end of the scope this process gets no new descriptor.
class NoDescriptors {
 public:
  NoDescriptors() {
    net::check(::getrlimit(RLIMIT_NOFILE, &old_), "getrlimit");
    const net::Fd lowest(net::check(::dup(0), "dup"));
    const rlimit none{static_cast<rlim_t>(lowest.get()), old_.rlim_max};
    net::check(::setrlimit(RLIMIT_NOFILE, &none), "setrlimit");
  }
  NoDescriptors(const NoDescriptors&) = delete;
  NoDescriptors& operator=(const NoDescriptors&) = delete;
  ~NoDescriptors() { ::setrlimit(RLIMIT_NOFILE, &old_); }

 private:
  rlimit old_{};
};

int accept_errno(const net::Fd& listener) {
  const net::Fd fd(::accept4(listener.get(), nullptr, nullptr,
                             SOCK_NONBLOCK | SOCK_CLOEXEC));
  return fd ? 0 : errno;
}

// Send buffer of a socket as the kernel counts it, in bytes.
struct SendBuffer {
  std::uint32_t queued;
  std::uint32_t size;
  bool operator==(const SendBuffer&) const = default;
};

SendBuffer send_buffer(const net::Fd& fd) {
  std::array<std::uint32_t, SK_MEMINFO_VARS> info{};
  socklen_t size = sizeof info;
  net::check(::getsockopt(fd.get(), SOL_SOCKET, SO_MEMINFO, info.data(), &size),
             "getsockopt SO_MEMINFO");
  return {info[SK_MEMINFO_WMEM_QUEUED], info[SK_MEMINFO_SNDBUF]};
}

void set_buffer(const net::Fd& fd, int option, int bytes) {
  net::check(::setsockopt(fd.get(), SOL_SOCKET, option, &bytes, sizeof bytes),
             "setsockopt");
}

// A connection whose two buffers are full: nothing more can be sent.
Pair full_pair() {
  Pair pair = tcp_pair();
  set_buffer(pair.ours, SO_SNDBUF, 512 * 1024);
  set_buffer(pair.theirs, SO_RCVBUF, 64 * 1024);
  const std::string block(16 * 1024, 'x');
  testing::wait_until("the buffers are full", [&] {
    while (::send(pair.ours.get(), block.data(), block.size(), MSG_NOSIGNAL) >
           0) {
    }
    REQUIRE(errno == EAGAIN);
    return !look(pair.ours).writable;
  });
  return pair;
}

}  // namespace

TEST_CASE("a set has 1,024 bits, whatever FD_SETSIZE is defined to be") {
  CHECK(FD_SETSIZE == 1024);
  CHECK(sizeof(fd_set) == 128);
}

TEST_CASE("select overwrites its sets with the answer") {
  const net::Fd quiet = new_event();
  const net::Fd ready = new_event(1);
  fd_set read = set_of({quiet.get(), ready.get()});
  timeval at_once{};
  CHECK(::select(FD_SETSIZE, &read, nullptr, nullptr, &at_once) == 1);
  CHECK(FD_ISSET(ready.get(), &read) != 0);
  CHECK(FD_ISSET(quiet.get(), &read) == 0);
}

TEST_CASE("on timeout the sets come back empty") {
  const net::Fd quiet = new_event();
  fd_set read = set_of({quiet.get()});
  timeval at_once{};
  CHECK(::select(FD_SETSIZE, &read, nullptr, nullptr, &at_once) == 0);
  CHECK(is_empty(read));
}

TEST_CASE("after an error the sets are as they were") {
  const net::Fd quiet = new_event();
  fd_set read = set_of({quiet.get()});
  timeval limit = as_timeval(patience);
  const Alarm alarm(0);
  CHECK(::select(FD_SETSIZE, &read, nullptr, nullptr, &limit) == -1);
  CHECK(errno == EINTR);
  CHECK(FD_ISSET(quiet.get(), &read) != 0);
}

TEST_CASE("select returns the number of bits, not of descriptors") {
  const Pair pair = tcp_pair();
  say(pair.theirs, "x");
  REQUIRE(becomes_readable(pair.ours));
  const Answer answer = look(pair.ours);
  CHECK(answer.readable);
  CHECK(answer.writable);
  CHECK(answer.count == 2);
}

TEST_CASE("a descriptor at or above nfds is not looked at") {
  const net::Fd ready = new_event(1);
  fd_set read = set_of({ready.get()});
  timeval at_once{};
  CHECK(::select(ready.get(), &read, nullptr, nullptr, &at_once) == 0);
  read = set_of({ready.get()});
  CHECK(::select(ready.get() + 1, &read, nullptr, nullptr, &at_once) == 1);
}

TEST_CASE("a closed descriptor in a set is EBADF") {
  const net::Fd open = new_event(1);
  const int closed = net::Fd(net::check(::dup(0), "dup")).get();
  fd_set read = set_of({open.get(), closed});
  timeval at_once{};
  CHECK(::select(FD_SETSIZE, &read, nullptr, nullptr, &at_once) == -1);
  CHECK(errno == EBADF);
}

TEST_CASE("a bit beyond the descriptor table is ignored") {
  constexpr std::size_t bits = 8 * 1024 * 1024;
  std::vector<unsigned long> read = raw_set(bits, bits - 1);
  CHECK(raw_select(INT_MAX, read, std::chrono::seconds(0)) == 0);
}

TEST_CASE("the kernel itself takes sets of more than 1,024 bits") {
  testing::raise_descriptor_limit();
  const net::Fd ready = new_event(1);
  const net::Fd high(net::check(
      ::fcntl(ready.get(), F_DUPFD_CLOEXEC, FD_SETSIZE + 100), "F_DUPFD"));
  const auto bit = static_cast<std::size_t>(high.get());
  std::vector<unsigned long> read = raw_set(65536, bit);
  CHECK(raw_select(high.get() + 1, read, std::chrono::seconds(0)) == 1);
  CHECK((read[bit / word_bits] >> (bit % word_bits) & 1) == 1);
}

TEST_CASE("select leaves in the timeout what is left of it") {
  net::Fd ready;
  int expected = 0;
  SUBCASE("when a descriptor is ready") {
    ready = new_event(1);
    expected = 1;
  }
  SUBCASE("when a signal interrupts it") {
    ready = new_event();
    expected = -1;
  }
  const Alarm alarm(0);
  fd_set read = set_of({ready.get()});
  timeval limit = as_timeval(patience);
  const auto before = testing::Clock::now();
  CHECK(::select(FD_SETSIZE, &read, nullptr, nullptr, &limit) == expected);
  const auto slept =
      std::chrono::ceil<microseconds>(testing::Clock::now() - before);
  CHECK(as_time(limit) < patience);
  CHECK(as_time(limit) >= patience - slept - microseconds(1));
}

TEST_CASE("pselect leaves its timeout alone") {
  const net::Fd ready = new_event(1);
  fd_set read = set_of({ready.get()});
  const timespec limit{20, 0};
  CHECK(::pselect(FD_SETSIZE, &read, nullptr, nullptr, &limit, nullptr) == 1);
  CHECK(limit.tv_sec == 20);
  CHECK(limit.tv_nsec == 0);
}

TEST_CASE("select is not restarted after a signal, SA_RESTART or not") {
  for (const int flags : {0, SA_RESTART}) {
    CAPTURE(flags);
    const net::Fd quiet = new_event();
    fd_set read = set_of({quiet.get()});
    timeval limit = as_timeval(patience);
    const Alarm alarm(flags);
    CHECK(::select(FD_SETSIZE, &read, nullptr, nullptr, &limit) == -1);
    CHECK(errno == EINTR);
  }
}

TEST_CASE("pselect lets a signal in only while it sleeps") {
  const net::Fd quiet = new_event();
  const PendingSignal signal;
  fd_set read = set_of({quiet.get()});
  timeval at_once{};
  CHECK(::select(FD_SETSIZE, &read, nullptr, nullptr, &at_once) == 0);
  CHECK(signal.still_pending());
  read = set_of({quiet.get()});
  const timespec limit{20, 0};
  CHECK(::pselect(FD_SETSIZE, &read, nullptr, nullptr, &limit,
                  &signal.open_mask()) == -1);
  CHECK(errno == EINTR);
  CHECK_FALSE(signal.still_pending());
}

TEST_CASE("pselect does not let a signal in while a descriptor is ready") {
  const net::Fd ready = new_event(1);
  const PendingSignal signal;
  const timespec limit{20, 0};
  for (int i = 0; i < 100; ++i) {
    fd_set read = set_of({ready.get()});
    REQUIRE(::pselect(FD_SETSIZE, &read, nullptr, nullptr, &limit,
                      &signal.open_mask()) == 1);
  }
  CHECK(signal.still_pending());
}

TEST_CASE("unread bytes are reported again") {
  const Pair pair = tcp_pair();
  say(pair.theirs, "ab");
  REQUIRE(becomes_readable(pair.ours));
  CHECK(look(pair.ours).readable);
  CHECK(take(pair.ours, 1) == 1);
  CHECK(look(pair.ours).readable);
  CHECK(take(pair.ours, 1) == 1);
  CHECK_FALSE(look(pair.ours).readable);
}

TEST_CASE("an idle connection is writable and not readable") {
  const Pair pair = tcp_pair();
  const Answer answer = look(pair.ours);
  CHECK(answer.writable);
  CHECK_FALSE(answer.readable);
}

TEST_CASE("the end of a stream is reported as readable, again and again") {
  const Pair pair = tcp_pair();
  net::check(::shutdown(pair.theirs.get(), SHUT_WR), "shutdown");
  REQUIRE(becomes_readable(pair.ours));
  for (int i = 0; i < 3; ++i) {
    CHECK(take(pair.ours) == 0);
    CHECK(look(pair.ours).readable);
  }
}

TEST_CASE("a reset shows as readable and writable, not as exceptional") {
  Pair pair = tcp_pair();
  const linger at_once{1, 0};
  net::check(::setsockopt(pair.theirs.get(), SOL_SOCKET, SO_LINGER, &at_once,
                          sizeof at_once),
             "SO_LINGER");
  pair.theirs = net::Fd();
  REQUIRE(becomes_readable(pair.ours));
  const Answer answer = look(pair.ours);
  CHECK(answer.readable);
  CHECK(answer.writable);
  CHECK_FALSE(answer.exceptional);
  CHECK(take(pair.ours) == -ECONNRESET);
}

TEST_CASE("the third set is for urgent data") {
  const Pair pair = tcp_pair();
  REQUIRE(::send(pair.theirs.get(), "!", 1, MSG_OOB) == 1);
  fd_set except = set_of({pair.ours.get()});
  timeval limit = as_timeval(patience);
  CHECK(::select(pair.ours.get() + 1, nullptr, nullptr, &except, &limit) == 1);
  CHECK_FALSE(look(pair.ours).readable);
}

TEST_CASE("a listener is readable while its queue holds a connection") {
  net::Fd listener = new_listener();
  net::set_nonblocking(listener);
  CHECK_FALSE(look(listener).readable);
  CHECK(accept_errno(listener) == EAGAIN);
  const net::Fd first = net::connect_to(net::local_address(listener));
  const net::Fd second = net::connect_to(net::local_address(listener));
  REQUIRE(becomes_readable(listener));
  CHECK(accept_errno(listener) == 0);
  REQUIRE(becomes_readable(listener));
  CHECK(accept_errno(listener) == 0);
  CHECK_FALSE(look(listener).readable);
}

TEST_CASE("a listener that is shut down is readable, and accept says EINVAL") {
  const net::Fd listener = new_listener();
  net::check(::shutdown(listener.get(), SHUT_RDWR), "shutdown");
  CHECK(look(listener).readable);
  CHECK(accept_errno(listener) == EINVAL);
}

TEST_CASE("at the limit accept says EMFILE and the connection stays queued") {
  const net::Fd listener = new_listener();
  const net::Fd client = net::connect_to(net::local_address(listener));
  say(client, "hello");
  REQUIRE(becomes_readable(listener));
  {
    const NoDescriptors limit;
    for (int i = 0; i < 3; ++i) {
      CHECK(accept_errno(listener) == EMFILE);
      CHECK(look(listener).readable);
    }
  }
  const net::Fd accepted = accept_from(listener);
  REQUIRE(becomes_readable(accepted));
  CHECK(take(accepted) == 5);
}

TEST_CASE("at the limit a listener that is shut down says EMFILE too") {
  const net::Fd listener = new_listener();
  net::check(::shutdown(listener.get(), SHUT_RDWR), "shutdown");
  const NoDescriptors limit;
  CHECK(accept_errno(listener) == EMFILE);
  CHECK_FALSE(net::is_listening(listener));
}

TEST_CASE("a socket reported readable may have nothing left to read") {
  const Pair pair = tcp_pair();
  const net::Fd other_reader(net::check(::dup(pair.ours.get()), "dup"));
  say(pair.theirs, "x");
  REQUIRE(becomes_readable(pair.ours));
  CHECK(take(other_reader) == 1);
  CHECK(take(pair.ours) == -EAGAIN);
}

TEST_CASE("O_NONBLOCK is shared by the duplicates of a descriptor") {
  const net::Fd listener = new_listener();
  const net::Fd duplicate(net::check(::dup(listener.get()), "dup"));
  net::set_nonblocking(duplicate);
  CHECK((::fcntl(listener.get(), F_GETFL) & O_NONBLOCK) != 0);
}

TEST_CASE("a non-blocking send takes a part, and says how much") {
  const Pair pair = tcp_pair();
  const std::string much(64 * 1024 * 1024, 'x');
  const ssize_t n =
      ::send(pair.ours.get(), much.data(), much.size(), MSG_NOSIGNAL);
  CHECK(n > 0);
  CHECK(n < static_cast<ssize_t>(much.size()));
}

TEST_CASE("writable means that a third of the send buffer is free") {
  const Pair pair = full_pair();
  int refused_with_room = 0;
  bool writable = false;
  while (!writable) {
    const SendBuffer buffer = send_buffer(pair.ours);
    writable = look(pair.ours).writable;
    if (buffer == send_buffer(pair.ours)) {
      CHECK(writable == (3 * buffer.queued <= 2 * buffer.size));
      if (!writable && buffer.queued < buffer.size) ++refused_with_room;
    }
    if (!writable) REQUIRE(take(pair.theirs, 4096) > 0);
  }
  CHECK(refused_with_room > 0);
}

TEST_CASE("a send can succeed on a socket that is not reported writable") {
  const Pair pair = full_pair();
  for (;;) {
    const SendBuffer buffer = send_buffer(pair.ours);
    REQUIRE_FALSE(look(pair.ours).writable);
    if (buffer.queued < buffer.size) break;
    REQUIRE(take(pair.theirs, 4096) > 0);
  }
  CHECK(::send(pair.ours.get(), "x", 1, MSG_NOSIGNAL) == 1);
}

TEST_CASE("a regular file is always ready") {
  const auto folder = std::filesystem::temp_directory_path();
  const net::Fd file(net::check(
      ::open(folder.c_str(), O_TMPFILE | O_RDWR | O_CLOEXEC, 0600), "open"));
  const Answer answer = look(file);
  CHECK(answer.readable);
  CHECK(answer.writable);
  char byte = 0;
  CHECK(::read(file.get(), &byte, 1) == 0);
}

TEST_CASE("select does not notice that another thread closes a descriptor") {
  const net::Fd event = new_event();
  const int watched = net::check(::dup(event.get()), "dup");
  std::atomic<pid_t> sleeper = 0;
  int answer = -1;
  std::thread thread([&] {
    fd_set read = set_of({watched});
    timeval limit = as_timeval(patience);
    sleeper = ::gettid();
    answer = ::select(watched + 1, &read, nullptr, nullptr, &limit);
  });
  testing::wait_until("the thread runs", [&] { return sleeper != 0; });
  testing::wait_until_settled(sleeper);
  ::syscall(SYS_close, watched);
  testing::wait_until_settled(sleeper);
  const std::uint64_t one = 1;
  CHECK(::write(event.get(), &one, sizeof one) == sizeof one);
  thread.join();
  CHECK(answer == 1);
}
