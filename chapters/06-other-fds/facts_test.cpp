// What descriptors for other things than clients do, one claim a test case;
// the lesson cites them by name.

#include <doctest/doctest.h>
#include <fcntl.h>
#include <linux/sock_diag.h>
#include <netinet/in.h>
#include <poll.h>
#include <spawn.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <sys/timex.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <climits>
#include <csignal>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <initializer_list>
#include <limits>
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

constexpr int patience = 20'000;  // milliseconds; only a broken kernel waits

// "IN OUT", of poll or of epoll: the bits are the same.
std::string names(std::uint32_t events) {
  constexpr std::array<std::pair<std::uint32_t, std::string_view>, 4> known{
      {{EPOLLIN, "IN"},
       {EPOLLOUT, "OUT"},
       {EPOLLERR, "ERR"},
       {EPOLLHUP, "HUP"}}};
  std::string text;
  for (const auto& [bit, name] : known) {
    if ((events & bit) == 0) continue;
    if (!text.empty()) text += ' ';
    text += name;
  }
  return text;
}

// What poll reports: "" is nothing.
std::string ready(const net::Fd& fd, short events = POLLIN, int timeout = 0) {
  pollfd entry{fd.get(), events, 0};
  net::check(::poll(&entry, 1, timeout), "poll");
  return names(static_cast<std::uint32_t>(entry.revents));
}

void wait_for_input(const net::Fd& fd) {
  REQUIRE(ready(fd, POLLIN, patience) == "IN");
}

net::Fd new_list() {
  return net::Fd(net::check(::epoll_create1(EPOLL_CLOEXEC), "epoll_create1"));
}

void add(const net::Fd& list, const net::Fd& fd, std::uint32_t interest) {
  epoll_event event{interest, {.fd = fd.get()}};
  net::check(::epoll_ctl(list.get(), EPOLL_CTL_ADD, fd.get(), &event),
             "epoll_ctl");
}

net::Fd list_with(const net::Fd& fd, std::uint32_t interest) {
  net::Fd list = new_list();
  add(list, fd, interest);
  return list;
}

// What epoll reports: two events would be "IN, OUT".
std::string look(const net::Fd& list, int timeout = 0) {
  std::array<epoll_event, 8> events;
  const int n = net::check(::epoll_wait(list.get(), events.data(), 8, timeout),
                           "epoll_wait");
  std::string text;
  for (std::size_t i = 0; i < static_cast<std::size_t>(n); ++i) {
    if (i > 0) text += ", ";
    text += names(events[i].events);
  }
  return text;
}

// Bytes moved, or the error as a negative number.
ssize_t put(const net::Fd& fd, std::string_view text) {
  const ssize_t n = ::write(fd.get(), text.data(), text.size());
  return n < 0 ? -errno : n;
}

ssize_t get(const net::Fd& fd, std::size_t most) {
  std::vector<char> buffer(most);
  const ssize_t n = ::read(fd.get(), buffer.data(), most);
  return n < 0 ? -errno : n;
}

// The number an eventfd or a timerfd gives, or the error as a negative one.
std::int64_t take(const net::Fd& fd) {
  std::uint64_t number = 0;
  const ssize_t n = ::read(fd.get(), &number, sizeof number);
  return n < 0 ? -errno : static_cast<std::int64_t>(number);
}

net::Fd counter(int flags = EFD_NONBLOCK) {
  return net::Fd(net::check(::eventfd(0, flags | EFD_CLOEXEC), "eventfd"));
}

// 0, or the error as a negative number.
int raise_by(const net::Fd& counter, std::uint64_t number) {
  return ::eventfd_write(counter.get(), number) < 0 ? -errno : 0;
}

// Timers.

net::Fd timer(clockid_t clock = CLOCK_MONOTONIC) {
  return net::Fd(net::check(::timerfd_create(clock, TFD_NONBLOCK | TFD_CLOEXEC),
                            "timerfd_create"));
}

timespec split(nanoseconds time) {
  const auto seconds = std::chrono::floor<std::chrono::seconds>(time);
  return {seconds.count(), (time - seconds).count()};
}

void set(const net::Fd& timer, nanoseconds first, nanoseconds period = 0ns,
         int flags = 0) {
  const itimerspec setting{split(period), split(first)};
  net::check(::timerfd_settime(timer.get(), flags, &setting, nullptr),
             "timerfd_settime");
}

// Returns when a timer that is set now has fired. One that was set before, for
// the same time or less, is due by then; on a slow CPU it may still be about to
// fire.
void let_pass(nanoseconds time) {
  const net::Fd later = timer();
  set(later, time);
  wait_for_input(later);
}

// Sets the clock forward or back. 0, or the error as a negative number. Not in
// nanoseconds: ADJ_NANO would stay set, for every program.
int shift_wall_clock(nanoseconds by) {
  const timespec parts = split(by);
  timex change{};
  change.modes = ADJ_SETOFFSET;
  change.time.tv_sec = parts.tv_sec;
  change.time.tv_usec = parts.tv_nsec / 1'000;
  return ::adjtimex(&change) < 0 ? -errno : 0;
}

// Signals.

sigset_t set_of(std::initializer_list<int> signals) {
  sigset_t set;
  ::sigemptyset(&set);
  for (const int signal : signals) ::sigaddset(&set, signal);
  return set;
}

// Blocks signals in this thread for one scope. Those that nobody has taken by
// then are thrown away.
class Blocked {
 public:
  explicit Blocked(std::initializer_list<int> signals) : set_(set_of(signals)) {
    ::pthread_sigmask(SIG_BLOCK, &set_, &before_);
  }
  Blocked(const Blocked&) = delete;
  Blocked& operator=(const Blocked&) = delete;
  ~Blocked() {
    const timespec none{};
    while (::sigtimedwait(&set_, nullptr, &none) > 0) {
    }
    ::pthread_sigmask(SIG_SETMASK, &before_, nullptr);
  }

  const sigset_t& before() const { return before_; }

 private:
  sigset_t set_;
  sigset_t before_{};
};

// By a Handler: the thread that ran it last, and how often it ran.
std::atomic<pid_t> handled_by{0};
std::atomic<int> handled{0};

// A handler that notes it was there, for one scope.
class Handler {
 public:
  explicit Handler(int signal) : signal_(signal) {
    handled_by = 0;
    handled = 0;
    struct sigaction action {};
    action.sa_handler = [](int) {
      handled_by = static_cast<pid_t>(::syscall(SYS_gettid));
      ++handled;
    };
    net::check(::sigaction(signal, &action, &before_), "sigaction");
  }
  Handler(const Handler&) = delete;
  Handler& operator=(const Handler&) = delete;
  ~Handler() { ::sigaction(signal_, &before_, nullptr); }

 private:
  int signal_;
  struct sigaction before_ {};
};

net::Fd signals_of(std::initializer_list<int> signals) {
  const sigset_t set = set_of(signals);
  return net::Fd(
      net::check(::signalfd(-1, &set, SFD_NONBLOCK | SFD_CLOEXEC), "signalfd"));
}

// The number 0 if there was none.
signalfd_siginfo next_signal(const net::Fd& signals) {
  signalfd_siginfo record{};
  const ssize_t n = ::read(signals.get(), &record, sizeof record);
  if (n < 0 && errno != EAGAIN) net::throw_errno("read");
  return record;
}

void send_self(int signal) { net::check(::kill(::getpid(), signal), "kill"); }

bool blocked_here(int signal) {
  sigset_t mask;
  ::pthread_sigmask(SIG_BLOCK, nullptr, &mask);
  return ::sigismember(&mask, signal) == 1;
}

// Processes.

// noexcept: a child that throws must not go on as a second test.
template <typename Body>
[[noreturn]] void run_and_exit(const Body& body) noexcept {
  ::_exit(body());
}

// The child runs the function; its result is the exit status.
template <typename Body>
pid_t fork_child(const Body& body) {
  std::fflush(nullptr);
  const pid_t child = net::check(::fork(), "fork");
  if (child == 0) run_and_exit(body);
  return child;
}

// Killed and reaped at the end of the scope, at the latest.
class Child {
 public:
  explicit Child(pid_t process) : process_(process) {}
  template <typename Body>
  explicit Child(const Body& body) : process_(fork_child(body)) {}
  Child(const Child&) = delete;
  Child& operator=(const Child&) = delete;
  ~Child() {
    if (process_ < 0) return;
    ::kill(process_, SIGKILL);
    ::waitpid(process_, nullptr, 0);
  }

  pid_t pid() const { return process_; }

  void signal(int number) const {
    net::check(::kill(process_, number), "kill");
  }

  // Waits until it ends: its exit status, or 128 plus the signal.
  int status() {
    int status = 0;
    net::check(::waitpid(std::exchange(process_, -1), &status, 0), "waitpid");
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  }

 private:
  pid_t process_;
};

// What a child does that only has to be there until it is killed.
int idle() { return ::poll(nullptr, 0, patience); }

net::Fd pidfd_of(const Child& child) {
  return net::Fd(
      net::check(static_cast<int>(::syscall(SYS_pidfd_open, child.pid(), 0)),
                 "pidfd_open"));
}

// 0, or the error as a negative number.
int signal_through(const net::Fd& pidfd, int signal) {
  const long result =
      ::syscall(SYS_pidfd_send_signal, pidfd.get(), signal, nullptr, 0);
  return result < 0 ? -errno : 0;
}

// Pipes.

struct Pipe {
  net::Fd out;  // to read from
  net::Fd in;
};

Pipe new_pipe() {
  std::array<int, 2> ends{};
  net::check(::pipe2(ends.data(), O_NONBLOCK | O_CLOEXEC), "pipe2");
  return {net::Fd(ends[0]), net::Fd(ends[1])};
}

int unread(const net::Fd& fd) {
  int n = 0;
  net::check(::ioctl(fd.get(), FIONREAD, &n), "ioctl FIONREAD");
  return n;
}

std::size_t page_size() {
  return static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
}

std::size_t pages_of(const Pipe& pipe) {
  const int size = net::check(::fcntl(pipe.in.get(), F_GETPIPE_SZ), "fcntl");
  return static_cast<std::size_t>(size) / page_size();
}

// How many whole pages go in, until one does not.
std::size_t fill_with_pages(const Pipe& pipe) {
  const std::string page(page_size(), 'x');
  std::size_t pages = 0;
  while (put(pipe.in, page) == std::ssize(page)) ++pages;
  REQUIRE(put(pipe.in, page) == -EAGAIN);
  return pages;
}

// What cat dies of, or its exit status, after SIGUSR1 and the end of its input.
int status_of_cat(const posix_spawnattr_t* attributes) {
  Pipe input = new_pipe();
  posix_spawn_file_actions_t actions;
  ::posix_spawn_file_actions_init(&actions);
  ::posix_spawn_file_actions_adddup2(&actions, input.out.get(), STDIN_FILENO);
  std::array<char, 4> name{"cat"};
  const std::array<char*, 2> arguments{name.data(), nullptr};
  // cat has to wait for input, and so its end must block.
  REQUIRE(::fcntl(input.out.get(), F_SETFL, 0) == 0);
  pid_t pid = -1;
  const int error = ::posix_spawnp(&pid, name.data(), &actions, attributes,
                                   arguments.data(), environ);
  ::posix_spawn_file_actions_destroy(&actions);
  REQUIRE(error == 0);
  Child cat(pid);
  cat.signal(SIGUSR1);
  input.in = net::Fd();
  return cat.status();
}

// Datagrams.

constexpr const char* broadcast = "127.255.255.255";
constexpr std::size_t largest = 65'507;  // 65,535 less two headers

void set_option(const net::Fd& fd, int name, int value) {
  net::check(::setsockopt(fd.get(), SOL_SOCKET, name, &value, sizeof value),
             "setsockopt");
}

// A port that was asked for may be shared. One that the kernel chooses may not
// until it is ours: with SO_REUSEADDR it could be another's who shares.
net::Fd udp(const char* host = "127.0.0.1", std::uint16_t port = 0) {
  net::Fd fd(net::check(
      ::socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0),
      "socket"));
  if (port != 0) set_option(fd, SO_REUSEADDR, 1);
  const net::Address address = net::resolve(host, port);
  net::check(::bind(fd.get(), address.get(), address.length), "bind");
  set_option(fd, SO_REUSEADDR, 1);
  return fd;
}

std::uint16_t port_of(const net::Fd& fd) {
  const net::Address address = net::local_address(fd);
  return ntohs(reinterpret_cast<const sockaddr_in*>(address.get())->sin_port);
}

void connect(const net::Fd& fd, const net::Address& peer) {
  net::check(::connect(fd.get(), peer.get(), peer.length), "connect");
}

// One who hears nobody else, being connected to itself: its port is not free,
// and a datagram to it reaches nobody.
net::Fd deaf() {
  net::Fd fd = udp();
  connect(fd, net::local_address(fd));
  return fd;
}

ssize_t send_to(const net::Fd& fd, std::string_view text,
                const net::Address& to) {
  const ssize_t n =
      ::sendto(fd.get(), text.data(), text.size(), 0, to.get(), to.length);
  return n < 0 ? -errno : n;
}

ssize_t receive(const net::Fd& fd, std::size_t room, int flags = 0) {
  std::vector<char> buffer(room);
  const ssize_t n = ::recv(fd.get(), buffer.data(), room, flags);
  return n < 0 ? -errno : n;
}

// The next datagram, waited for, and who sent it.
std::string hear(const net::Fd& fd, net::Address* from = nullptr) {
  wait_for_input(fd);
  net::Address sender;
  sender.length = sizeof sender.storage;
  std::array<char, 64> buffer;
  const ssize_t n = net::check(
      ::recvfrom(fd.get(), buffer.data(), buffer.size(), 0,
                 reinterpret_cast<sockaddr*>(&sender.storage), &sender.length),
      "recvfrom");
  if (from != nullptr) *from = sender;
  return {buffer.data(), static_cast<std::size_t>(n)};
}

// A socket and one who sends to it.
struct Pair {
  net::Fd ours = udp();
  net::Fd theirs = udp();
  void send(std::string_view text) const {
    REQUIRE(send_to(theirs, text, net::local_address(ours)) ==
            std::ssize(text));
  }
};

net::Fd announcer() {
  net::Fd fd = udp();
  set_option(fd, SO_BROADCAST, 1);
  return fd;
}

std::uint32_t dropped(const net::Fd& fd) {
  std::array<std::uint32_t, SK_MEMINFO_VARS> figures{};
  socklen_t size = sizeof figures;
  net::check(
      ::getsockopt(fd.get(), SOL_SOCKET, SO_MEMINFO, figures.data(), &size),
      "getsockopt SO_MEMINFO");
  return figures[SK_MEMINFO_DROPS];
}

// Files.

// A new one, removed with all that is in it at the end of the scope.
class Folder {
 public:
  Folder() {
    std::string name = std::filesystem::temp_directory_path() / "facts-XXXXXX";
    if (::mkdtemp(name.data()) == nullptr) net::throw_errno("mkdtemp", name);
    path_ = name;
  }
  Folder(const Folder&) = delete;
  Folder& operator=(const Folder&) = delete;
  ~Folder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }

  std::string path(const char* name = "") const { return path_ / name; }

  net::Fd open(const char* name) const {
    return net::Fd(net::check(
        ::open(path(name).c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0600),
        "open", path(name)));
  }

  void write(const char* name) const { REQUIRE(put(open(name), "x") == 1); }

  // As editors save: a new file takes the name.
  void replace(const char* name) const {
    write("new");
    std::filesystem::rename(path("new"), path(name));
  }

 private:
  std::filesystem::path path_;
};

net::Fd notifier() {
  return net::Fd(
      net::check(::inotify_init1(IN_NONBLOCK | IN_CLOEXEC), "inotify_init1"));
}

int watch(const net::Fd& notifier, const std::string& path,
          std::uint32_t events) {
  return net::check(::inotify_add_watch(notifier.get(), path.c_str(), events),
                    "inotify_add_watch", path);
}

struct Notice {
  int watch;
  std::uint32_t events;
  std::string name;
};

// All there are. The kernel queues a notice before the call it is about
// returns.
std::vector<Notice> notices(const net::Fd& notifier) {
  std::vector<Notice> found;
  std::vector<char> buffer(65'536);
  ssize_t n = 0;
  while ((n = ::read(notifier.get(), buffer.data(), buffer.size())) > 0) {
    const char* at = buffer.data();
    while (at < buffer.data() + n) {
      inotify_event event{};
      std::memcpy(&event, at, sizeof event);
      at += sizeof event;
      found.push_back({event.wd, event.mask, event.len > 0 ? at : ""});
      at += event.len;
    }
  }
  REQUIRE(errno == EAGAIN);
  return found;
}

// "MODIFY, MOVED_TO name"
std::string text_of(const std::vector<Notice>& notices) {
  constexpr std::array<std::pair<std::uint32_t, std::string_view>, 5> known{
      {{IN_MODIFY, "MODIFY"},
       {IN_CLOSE_WRITE, "CLOSE_WRITE"},
       {IN_MOVED_TO, "MOVED_TO"},
       {IN_IGNORED, "IGNORED"},
       {IN_Q_OVERFLOW, "Q_OVERFLOW"}}};
  std::string text;
  for (const Notice& notice : notices) {
    if (!text.empty()) text += ", ";
    for (const auto& [bit, name] : known) {
      if ((notice.events & bit) != 0) text += name;
    }
    if (!notice.name.empty()) text += ' ' + notice.name;
  }
  return text;
}

}  // namespace

// Time.

TEST_CASE("a timerfd counts the expirations since it was last read") {
  const net::Fd every_millisecond = timer();
  const auto start = testing::Clock::now();
  set(every_millisecond, 1ms, 1ms);
  let_pass(20ms);
  wait_for_input(every_millisecond);
  const std::int64_t first = take(every_millisecond);
  let_pass(10ms);
  wait_for_input(every_millisecond);
  const std::int64_t second = take(every_millisecond);
  const auto spent = testing::Clock::now() - start;
  CHECK(first >= 20);
  CHECK(second >= 9);  // one could have come just before the first read
  CHECK(first + second <= spent / 1ms);
}

TEST_CASE(
    "level-triggered, a timerfd that is not read is reported again and "
    "again") {
  const net::Fd once = timer();
  const net::Fd list = list_with(once, EPOLLIN);
  CHECK(look(list) == "");
  set(once, 1ms);
  CHECK(look(list, patience) == "IN");
  for (int i = 0; i < 100; ++i) CHECK(look(list) == "IN");
  CHECK(take(once) == 1);
  CHECK(look(list) == "");
  CHECK(take(once) == -EAGAIN);
}

TEST_CASE(
    "edge-triggered, a periodic timerfd that is not read is reported once, "
    "ever") {
  const net::Fd periodic = timer();
  const net::Fd list = list_with(periodic, EPOLLIN | EPOLLET);
  set(periodic, 1ms, 1ms);
  CHECK(look(list, patience) == "IN");
  for (int i = 0; i < 3; ++i) {
    let_pass(10ms);
    CHECK(look(list) == "");
  }
  CHECK(take(periodic) >= 30);
}

TEST_CASE("edge-triggered, a timerfd that is read is reported again") {
  const net::Fd periodic = timer();
  const net::Fd list = list_with(periodic, EPOLLIN | EPOLLET);
  set(periodic, 1ms, 1ms);
  for (int i = 0; i < 10; ++i) {
    CHECK(look(list, patience) == "IN");
    CHECK(take(periodic) >= 1);
  }
}

TEST_CASE("a time that has passed fires at once, with every period it missed") {
  // The wall clock, because the monotonic one may be younger than that.
  const nanoseconds now = std::chrono::system_clock::now().time_since_epoch();
  const net::Fd once = timer(CLOCK_REALTIME);
  set(once, now - 150min, 0ns, TFD_TIMER_ABSTIME);
  wait_for_input(once);
  CHECK(take(once) == 1);
  const net::Fd hourly = timer(CLOCK_REALTIME);
  set(hourly, now - 150min, 1h, TFD_TIMER_ABSTIME);
  wait_for_input(hourly);
  CHECK(take(hourly) == 3);
  CHECK(take(hourly) == -EAGAIN);
}

TEST_CASE("set to zero a timerfd is disarmed") {
  const net::Fd periodic = timer();
  set(periodic, 1ms, 1ms);
  wait_for_input(periodic);
  set(periodic, 0ns, 1ms);  // the period alone arms nothing
  let_pass(10ms);
  CHECK(ready(periodic) == "");
  CHECK(take(periodic) == -EAGAIN);
  set(periodic, 1ms);
  wait_for_input(periodic);
}

TEST_CASE("setting a timerfd forgets what was not read") {
  const net::Fd once = timer();
  set(once, 1ms);
  wait_for_input(once);
  set(once, 1h);
  CHECK(ready(once) == "");
  CHECK(take(once) == -EAGAIN);
}

TEST_CASE("when the wall clock is set, a timerfd on it says ECANCELED") {
  const nanoseconds later =
      std::chrono::system_clock::now().time_since_epoch() + 1h;
  const int flags = TFD_TIMER_ABSTIME | TFD_TIMER_CANCEL_ON_SET;
  const net::Fd wall = timer(CLOCK_REALTIME);
  const net::Fd unasked = timer(CLOCK_REALTIME);
  const net::Fd monotonic = timer(CLOCK_MONOTONIC);
  set(wall, later, 0ns, flags);
  set(unasked, later, 0ns, TFD_TIMER_ABSTIME);
  set(monotonic, testing::Clock::now().time_since_epoch() + 1h, 0ns, flags);
  const int result = shift_wall_clock(1us);
  if (result == 0) {
    CHECK(shift_wall_clock(-1us) == 0);
    wait_for_input(wall);
    CHECK(take(wall) == -ECANCELED);
    itimerspec setting{};
    REQUIRE(::timerfd_gettime(wall.get(), &setting) == 0);
    CHECK(setting.it_value.tv_sec > 0);  // still armed
  } else {
    CHECK(result == -EPERM);
    MESSAGE("the clock may not be set here");
  }
  CHECK(take(unasked) == -EAGAIN);
  CHECK(take(monotonic) == -EAGAIN);
}

// Signals.

TEST_CASE("a signal that is not blocked never reaches the signalfd") {
  const auto with_default_action = [] {
    const net::Fd signals = signals_of({SIGUSR1});
    send_self(SIGUSR1);
    return 0;
  };
  CHECK(Child(with_default_action).status() == 128 + SIGUSR1);
  const net::Fd signals = signals_of({SIGUSR1});
  const Handler handler(SIGUSR1);
  send_self(SIGUSR1);
  CHECK(handled == 1);
  CHECK(ready(signals) == "");
  const Blocked blocked({SIGUSR1});
  send_self(SIGUSR1);
  CHECK(handled == 1);
  CHECK(ready(signals) == "IN");
}

TEST_CASE("a blocked signal waits in the signalfd, with its sender") {
  const Blocked blocked({SIGUSR1});
  const net::Fd signals = signals_of({SIGUSR1});
  CHECK(ready(signals) == "");
  Child child([] { return ::kill(::getppid(), SIGUSR1); });
  wait_for_input(signals);
  const signalfd_siginfo record = next_signal(signals);
  CHECK(record.ssi_signo == SIGUSR1);
  CHECK(record.ssi_pid == static_cast<std::uint32_t>(child.pid()));
  CHECK(record.ssi_uid == ::getuid());
  CHECK(child.status() == 0);
  CHECK(ready(signals) == "");
}

TEST_CASE("standard signals of one kind arrive as one") {
  const Blocked blocked({SIGUSR1, SIGUSR2});
  const net::Fd signals = signals_of({SIGUSR1, SIGUSR2});
  for (int i = 0; i < 3; ++i) {
    send_self(SIGUSR1);
    send_self(SIGUSR2);
  }
  CHECK(next_signal(signals).ssi_signo == SIGUSR1);
  CHECK(next_signal(signals).ssi_signo == SIGUSR2);
  CHECK(next_signal(signals).ssi_signo == 0);
}

TEST_CASE("real-time signals queue up, each with its value") {
  const Blocked blocked({SIGRTMIN});
  const net::Fd signals = signals_of({SIGRTMIN});
  for (int i = 1; i <= 3; ++i) {
    REQUIRE(::sigqueue(::getpid(), SIGRTMIN, sigval{.sival_int = i}) == 0);
  }
  for (int i = 1; i <= 3; ++i) {
    const signalfd_siginfo record = next_signal(signals);
    CHECK(record.ssi_signo == static_cast<std::uint32_t>(SIGRTMIN));
    CHECK(record.ssi_int == i);
  }
  CHECK(next_signal(signals).ssi_signo == 0);
}

TEST_CASE("a new thread inherits the mask, one that was there does not") {
  const Handler handler(SIGUSR1);
  std::atomic<pid_t> id{0};
  const std::jthread there_before([&](const std::stop_token& end) {
    id = static_cast<pid_t>(::syscall(SYS_gettid));
    while (!end.stop_requested()) ::poll(nullptr, 0, 1);
  });
  wait_until("the thread runs", [&] { return id != 0; });
  const Blocked blocked({SIGUSR1});
  bool inherited = false;
  std::jthread([&] { inherited = blocked_here(SIGUSR1); }).join();
  CHECK(inherited);
  const net::Fd signals = signals_of({SIGUSR1});
  send_self(SIGUSR1);
  wait_until("a thread takes it", [] { return handled_by != 0; });
  CHECK(handled_by == id);
  CHECK(ready(signals) == "");
}

TEST_CASE("a program that is executed inherits the mask") {
  posix_spawnattr_t attributes;
  REQUIRE(::posix_spawnattr_init(&attributes) == 0);
  const sigset_t none = set_of({});
  ::posix_spawnattr_setsigmask(&attributes, &none);
  ::posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK);
  const Blocked blocked({SIGUSR1});
  CHECK(status_of_cat(nullptr) == 0);
  CHECK(status_of_cat(&attributes) == 128 + SIGUSR1);
  ::posix_spawnattr_destroy(&attributes);
}

TEST_CASE(
    "after fork a signalfd on the inherited list is deaf to the child's "
    "signals") {
  const Blocked blocked({SIGUSR1});
  const net::Fd signals = signals_of({SIGUSR1});
  const net::Fd list = list_with(signals, EPOLLIN);
  Child child([&] {
    send_self(SIGUSR1);
    if (!look(list).empty()) return 1;
    if (ready(signals) != "IN") return 2;
    if (look(list_with(signals, EPOLLIN)) != "IN") return 3;
    return next_signal(signals).ssi_signo == SIGUSR1 ? 0 : 4;
  });
  CHECK(child.status() == 0);
  CHECK(look(list) == "");
  send_self(SIGUSR1);
  CHECK(look(list) == "IN");
}

TEST_CASE(
    "a signal that comes before poll does not end it, one that ppoll lets in "
    "does") {
  const Handler handler(SIGUSR1);
  send_self(SIGUSR1);
  CHECK(handled == 1);
  CHECK(::poll(nullptr, 0, 10) == 0);
  const Blocked blocked({SIGUSR1});
  send_self(SIGUSR1);
  CHECK(handled == 1);
  const timespec limit{patience / 1'000, 0};
  CHECK(::ppoll(nullptr, 0, &limit, &blocked.before()) == -1);
  CHECK(errno == EINTR);
  CHECK(handled == 2);
}

// Threads.

TEST_CASE("an eventfd adds up what is written and gives the sum once") {
  const net::Fd sum = counter();
  CHECK(take(sum) == -EAGAIN);
  for (const unsigned number : {1U, 2U, 4U}) {
    REQUIRE(raise_by(sum, number) == 0);
  }
  CHECK(ready(sum) == "IN");
  CHECK(take(sum) == 7);
  CHECK(ready(sum) == "");
  CHECK(take(sum) == -EAGAIN);
}

TEST_CASE("in semaphore mode each read takes one") {
  const net::Fd semaphore = counter(EFD_NONBLOCK | EFD_SEMAPHORE);
  REQUIRE(raise_by(semaphore, 3) == 0);
  for (int i = 0; i < 3; ++i) CHECK(take(semaphore) == 1);
  CHECK(take(semaphore) == -EAGAIN);
}

TEST_CASE("a full eventfd is EAGAIN, or blocks the writer") {
  constexpr std::uint64_t most = std::numeric_limits<std::uint64_t>::max() - 1;
  const net::Fd full = counter();
  REQUIRE(raise_by(full, most) == 0);
  CHECK(ready(full, POLLIN | POLLOUT) == "IN");
  CHECK(raise_by(full, 1) == -EAGAIN);
  const net::Fd blocking = counter(0);
  REQUIRE(raise_by(blocking, most) == 0);
  std::atomic<pid_t> id{0};
  std::atomic<bool> done{false};
  std::jthread writer([&] {
    id = static_cast<pid_t>(::syscall(SYS_gettid));
    done = raise_by(blocking, 1) == 0;
  });
  wait_until("the thread runs", [&] { return id != 0; });
  testing::wait_until_settled(id);
  CHECK(!done);
  std::uint64_t number = 0;
  CHECK(::eventfd_read(blocking.get(), &number) == 0);
  CHECK(number == most);
  writer.join();
  CHECK(done);
  CHECK(take(blocking) == 1);
}

TEST_CASE("less than 8 bytes is EINVAL, and so is the largest number") {
  const net::Fd sum = counter();
  CHECK(put(sum, "1234567") == -EINVAL);
  REQUIRE(raise_by(sum, 1) == 0);
  CHECK(get(sum, 7) == -EINVAL);
  CHECK(get(sum, 8) == 8);
  constexpr auto largest_number = std::numeric_limits<std::uint64_t>::max();
  CHECK(raise_by(sum, largest_number) == -EINVAL);
  CHECK(raise_by(sum, largest_number - 1) == 0);
}

// Datagrams.

TEST_CASE("what does not fit into the buffer is lost, and MSG_TRUNC says so") {
  const Pair pair;
  pair.send("0123456789");
  std::array<char, 4> buffer;
  iovec part{buffer.data(), buffer.size()};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  wait_for_input(pair.ours);
  CHECK(::recvmsg(pair.ours.get(), &message, 0) == 4);
  CHECK(std::string_view(buffer.data(), 4) == "0123");
  CHECK((message.msg_flags & MSG_TRUNC) != 0);
  CHECK(ready(pair.ours) == "");
  pair.send("abcd");
  wait_for_input(pair.ours);
  CHECK(::recvmsg(pair.ours.get(), &message, 0) == 4);
  CHECK(std::string_view(buffer.data(), 4) == "abcd");
  CHECK((message.msg_flags & MSG_TRUNC) == 0);
}

TEST_CASE("MSG_TRUNC as a flag gives the real length") {
  const Pair pair;
  pair.send("0123456789");
  wait_for_input(pair.ours);
  CHECK(receive(pair.ours, 4, MSG_PEEK) == 4);
  CHECK(receive(pair.ours, 4, MSG_PEEK | MSG_TRUNC) == 10);
  CHECK(receive(pair.ours, 4, MSG_TRUNC) == 10);
  CHECK(receive(pair.ours, 4) == -EAGAIN);
}

TEST_CASE("an empty datagram is 0 and not the end") {
  const Pair pair;
  pair.send("");
  wait_for_input(pair.ours);
  CHECK(receive(pair.ours, 4) == 0);
  CHECK(receive(pair.ours, 4) == -EAGAIN);
  pair.send("x");
  CHECK(hear(pair.ours) == "x");
}

TEST_CASE("a broadcast without SO_BROADCAST is EACCES") {
  const net::Fd sender = udp();
  const net::Fd nobody = deaf();
  const net::Address all = net::resolve(broadcast, port_of(nobody));
  CHECK(send_to(sender, "x", all) == -EACCES);
  set_option(sender, SO_BROADCAST, 1);
  CHECK(send_to(sender, "x", all) == 1);
}

TEST_CASE(
    "a broadcast reaches a wildcard socket and not one bound to 127.0.0.1") {
  const net::Fd wildcard = udp("0.0.0.0");
  const net::Fd local = udp("127.0.0.1", port_of(wildcard));
  const net::Fd sender = announcer();
  const net::Address all = net::resolve(broadcast, port_of(wildcard));
  REQUIRE(send_to(sender, "to all", all) == 6);
  CHECK(hear(wildcard) == "to all");
  REQUIRE(send_to(sender, "to one", net::local_address(local)) == 6);
  CHECK(hear(local) == "to one");
  CHECK(ready(local) == "");
  CHECK(ready(wildcard) == "");
}

TEST_CASE("a socket bound to the broadcast address hears broadcasts only") {
  const net::Fd nobody = deaf();
  const net::Fd bound = udp(broadcast, port_of(nobody));
  const net::Fd caller = udp();
  connect(caller, net::local_address(nobody));
  REQUIRE(::send(caller.get(), "to one", 6, 0) == 6);
  CHECK(ready(caller, 0, patience) == "ERR");  // nobody has heard it
  CHECK(ready(bound) == "");
  const net::Fd sender = announcer();
  REQUIRE(send_to(sender, "to all", net::local_address(bound)) == 6);
  net::Address from;
  CHECK(hear(bound, &from) == "to all");
  CHECK(from.text() == net::local_address(sender).text());
  // The answer comes from the address of the interface.
  REQUIRE(send_to(bound, "answer", from) == 6);
  CHECK(hear(sender, &from) == "answer");
  CHECK(from.text() == net::local_address(nobody).text());
}

TEST_CASE("of two sockets that share a port each hears a broadcast") {
  const net::Fd one = udp("0.0.0.0");
  const net::Fd other = udp("0.0.0.0", port_of(one));
  const net::Fd sender = announcer();
  const net::Address all = net::resolve(broadcast, port_of(one));
  REQUIRE(send_to(sender, "to all", all) == 6);
  CHECK(hear(one) == "to all");
  CHECK(hear(other) == "to all");
  REQUIRE(send_to(sender, "x", net::resolve("127.0.0.1", port_of(one))) == 1);
  wait_until("somebody hears it",
             [&] { return ready(one) == "IN" || ready(other) == "IN"; });
  REQUIRE(send_to(sender, "to all", all) == 6);
  int heard = 0;
  for (const net::Fd* fd : {&one, &other}) {
    while (hear(*fd) == "x") ++heard;
  }
  CHECK(heard == 1);
}

TEST_CASE("more than 65,507 bytes are EMSGSIZE") {
  const Pair pair;
  const std::string text(largest + 1, 'x');
  CHECK(send_to(pair.theirs, text, net::local_address(pair.ours)) == -EMSGSIZE);
  pair.send({text.data(), largest});
  wait_for_input(pair.ours);
  CHECK(receive(pair.ours, largest + 1) == std::ssize(text) - 1);
}

TEST_CASE("a full receive buffer drops datagrams without a word") {
  const Pair pair;
  set_option(pair.ours, SO_RCVBUF, 10'000);
  const std::string text(1'000, 'x');
  constexpr int sent = 100;
  for (int i = 0; i < sent; ++i) pair.send(text);
  wait_until("some are dropped", [&] { return dropped(pair.ours) > 0; });
  CHECK(ready(pair.ours) == "IN");  // ERR it would say unasked
  CHECK(ready(pair.theirs) == "");
  int received = 0;
  wait_until("the rest is received", [&] {
    while (receive(pair.ours, 1'000) == 1'000) ++received;
    return received + static_cast<int>(dropped(pair.ours)) == sent;
  });
  CHECK(received > 0);
}

TEST_CASE(
    "a datagram nobody takes is an error of the next call, if connected") {
  const net::Fd nobody = deaf();
  const net::Fd unconnected = udp();
  const net::Fd connected = udp();
  connect(connected, net::local_address(nobody));
  REQUIRE(send_to(unconnected, "x", net::local_address(nobody)) == 1);
  for (int i = 0; i < 2; ++i) {
    REQUIRE(::send(connected.get(), "x", 1, 0) == 1);
    CHECK(ready(connected, 0, patience) == "ERR");
    const ssize_t result = i == 0 ? receive(connected, 1) : put(connected, "y");
    CHECK(result == -ECONNREFUSED);
    CHECK(receive(connected, 1) == -EAGAIN);
  }
  CHECK(ready(unconnected) == "");
  CHECK(receive(unconnected, 1) == -EAGAIN);
}

// Pipes.

TEST_CASE("a pipe is full when its pages are, whatever they hold") {
  const Pipe of_pages = new_pipe();
  CHECK(fill_with_pages(of_pages) == pages_of(of_pages));
  const Pipe pipe = new_pipe();
  REQUIRE(put(pipe.in, "ab") == 2);
  const std::size_t pages = fill_with_pages(pipe);
  CHECK(pages == pages_of(pipe) - 1);
  CHECK(unread(pipe.out) == static_cast<int>(pages * page_size() + 2));
  CHECK(ready(pipe.in, POLLOUT) == "");
  REQUIRE(get(pipe.out, 1) == 1);
  CHECK(ready(pipe.in, POLLOUT) == "");
  REQUIRE(get(pipe.out, 1) == 1);  // the first page is free
  CHECK(ready(pipe.in, POLLOUT) == "OUT");
}

TEST_CASE("the end of a pipe is HUP without IN") {
  Pipe pipe = new_pipe();
  const net::Fd list = list_with(pipe.out, EPOLLIN);
  REQUIRE(put(pipe.in, "x") == 1);
  CHECK(look(list) == "IN");
  pipe.in = net::Fd();
  CHECK(look(list) == "IN HUP");
  CHECK(ready(pipe.out) == "IN HUP");
  REQUIRE(get(pipe.out, 1) == 1);
  CHECK(look(list) == "HUP");
  CHECK(ready(pipe.out) == "HUP");
  CHECK(get(pipe.out, 1) == 0);
}

TEST_CASE("up to PIPE_BUF bytes go whole or not at all") {
  const Pipe pipe = new_pipe();
  constexpr std::size_t room = PIPE_BUF - 1;  // that the last page will have
  const std::string text(page_size() + 1, 'x');
  for (std::size_t i = 1; i < pages_of(pipe); ++i) {
    REQUIRE(put(pipe.in, {text.data(), page_size()}) > 0);
  }
  REQUIRE(put(pipe.in, {text.data(), page_size() - room}) > 0);
  const int before = unread(pipe.out);
  CHECK(put(pipe.in, {text.data(), PIPE_BUF}) == -EAGAIN);
  CHECK(unread(pipe.out) == before);
  CHECK(put(pipe.in, text) == 1);  // longer: what there happens to be room for
  CHECK(put(pipe.in, {text.data(), room - 1}) == PIPE_BUF - 2);
}

// Processes.

TEST_CASE("a pidfd is readable once its process has ended, and stays so") {
  Child child(idle);
  const net::Fd pidfd = pidfd_of(child);
  const net::Fd list = list_with(pidfd, EPOLLIN);
  CHECK(look(list) == "");
  child.signal(SIGUSR2);
  CHECK(look(list, patience) == "IN");
  for (int i = 0; i < 3; ++i) CHECK(look(list) == "IN");
  siginfo_t what{};
  REQUIRE(::waitid(P_PIDFD, static_cast<id_t>(pidfd.get()), &what,
                   WEXITED | WNOWAIT) == 0);
  CHECK(what.si_status == SIGUSR2);
  CHECK(child.status() == 128 + SIGUSR2);
  // Newer kernels add HUP, once it has been reaped.
  CHECK(look(list).substr(0, 2) == "IN");
}

TEST_CASE("there is nothing to read in a pidfd: EINVAL") {
  Child child(idle);
  const net::Fd pidfd = pidfd_of(child);
  CHECK(get(pidfd, 8) == -EINVAL);
  child.signal(SIGUSR2);
  wait_for_input(pidfd);
  CHECK(get(pidfd, 8) == -EINVAL);
}

TEST_CASE("who was reaped cannot be signalled through the pidfd: ESRCH") {
  Child child(idle);
  const net::Fd pidfd = pidfd_of(child);
  CHECK(signal_through(pidfd, SIGUSR2) == 0);
  wait_for_input(pidfd);
  CHECK(signal_through(pidfd, SIGUSR2) == 0);  // ended, and not reaped
  CHECK(child.status() == 128 + SIGUSR2);
  CHECK(signal_through(pidfd, SIGUSR2) == -ESRCH);
}

TEST_CASE("a signal to a process group reaches those whose leader has ended") {
  Child scene([] {
    ::prctl(PR_SET_CHILD_SUBREAPER, 1);  // to reap the orphan here
    const Pipe pipe = new_pipe();
    const Child leader([&] {
      ::setpgid(0, 0);
      const pid_t member = fork_child(idle);
      return ::write(pipe.in.get(), &member, sizeof member) < 0 ? 1 : 0;
    });
    if (ready(pidfd_of(leader), POLLIN, patience) != "IN") return 1;
    pid_t id = -1;
    if (::read(pipe.out.get(), &id, sizeof id) < 0) return 2;
    Child member(id);
    leader.signal(SIGUSR1);  // reaches nobody
    if (::kill(-leader.pid(), SIGUSR2) < 0) return 3;
    return member.status();
  });
  CHECK(scene.status() == 128 + SIGUSR2);
}

// Files.

TEST_CASE("a watch on a file loses it when the file is replaced") {
  const Folder folder;
  const net::Fd inotify = notifier();
  const net::Fd old = folder.open("limits");
  watch(inotify, folder.path("limits"), IN_MODIFY);
  folder.write("limits");
  CHECK(text_of(notices(inotify)) == "MODIFY");
  folder.replace("limits");
  folder.write("limits");
  CHECK(text_of(notices(inotify)) == "");
  REQUIRE(put(old, "x") == 1);
  CHECK(text_of(notices(inotify)) == "MODIFY");
  // Nobody has the new file open: with the next one its watch ends too.
  watch(inotify, folder.path("limits"), IN_MODIFY);
  folder.replace("limits");
  CHECK(text_of(notices(inotify)) == "IGNORED");
}

TEST_CASE("a watch on the folder sees the new file move in") {
  const Folder folder;
  const net::Fd inotify = notifier();
  watch(inotify, folder.path(), IN_CLOSE_WRITE | IN_MOVED_TO);
  folder.write("limits");
  CHECK(text_of(notices(inotify)) == "CLOSE_WRITE limits");
  for (int i = 0; i < 2; ++i) {
    folder.replace("limits");
    CHECK(text_of(notices(inotify)) == "CLOSE_WRITE new, MOVED_TO limits");
  }
}

TEST_CASE("equal events in a row arrive as one") {
  const Folder folder;
  const net::Fd one = folder.open("one");
  const net::Fd other = folder.open("other");
  const net::Fd inotify = notifier();
  watch(inotify, folder.path(), IN_MODIFY);
  for (int i = 0; i < 5; ++i) REQUIRE(put(one, "x") == 1);
  CHECK(text_of(notices(inotify)) == "MODIFY one");
  REQUIRE(put(one, "x") == 1);
  REQUIRE(put(other, "x") == 1);
  REQUIRE(put(one, "x") == 1);
  CHECK(text_of(notices(inotify)) == "MODIFY one, MODIFY other, MODIFY one");
}

TEST_CASE("no room for the next event is EINVAL") {
  const Folder folder;
  const net::Fd inotify = notifier();
  watch(inotify, folder.path(), IN_CLOSE_WRITE);
  CHECK(get(inotify, sizeof(inotify_event)) == -EAGAIN);
  folder.write("limits");
  CHECK(get(inotify, sizeof(inotify_event)) == -EINVAL);
  CHECK(get(inotify, sizeof(inotify_event) + NAME_MAX + 1) > 0);
  CHECK(get(inotify, sizeof(inotify_event)) == -EAGAIN);
}

TEST_CASE("an inotify queue that overflows says so once") {
  std::size_t most = 0;
  std::ifstream("/proc/sys/fs/inotify/max_queued_events") >> most;
  REQUIRE(most > 0);
  if (most > 200'000) {
    MESSAGE("the queue is too long to fill here: " << most);
    return;
  }
  const Folder folder;
  const std::array<net::Fd, 2> files{folder.open("one"), folder.open("other")};
  const net::Fd inotify = notifier();
  watch(inotify, folder.path(), IN_MODIFY);
  for (std::size_t i = 0; i < most + 100; ++i) {
    REQUIRE(::pwrite(files[i % 2].get(), "x", 1, 0) == 1);
  }
  const std::vector<Notice> seen = notices(inotify);
  REQUIRE(seen.size() == most + 1);
  CHECK(seen.back().events == IN_Q_OVERFLOW);
  CHECK(seen.back().watch == -1);
  CHECK(std::count_if(seen.begin(), seen.end(), [](const Notice& notice) {
          return notice.events == IN_MODIFY;
        }) == static_cast<std::ptrdiff_t>(most));
  REQUIRE(put(files[0], "x") == 1);
  CHECK(text_of(notices(inotify)) == "MODIFY one");
}

// Closing.

TEST_CASE("a close with unread input throws away what was still to be sent") {
  for (const bool unread : {false, true}) {
    const net::Fd listener = net::listen_on(net::resolve("127.0.0.1", 0));
    const net::Fd client = net::connect_to(net::local_address(listener));
    net::Fd server(net::check(
        ::accept4(listener.get(), nullptr, nullptr, SOCK_NONBLOCK), "accept4"));
    if (unread) REQUIRE(put(client, "never read") == 10);
    if (unread) wait_for_input(server);
    const std::string part(65536, 'x');
    ssize_t sent = 0;
    for (ssize_t n = 0; (n = put(server, part)) > 0;) sent += n;
    server = net::Fd();
    ssize_t received = 0;
    ssize_t last = 0;
    while ((last = get(client, part.size())) > 0) received += last;
    CHECK(last == (unread ? -ECONNRESET : 0));
    CHECK((received == sent) == !unread);
  }
}

// One list.

TEST_CASE("each entry of a list has a mode of its own") {
  const net::Fd edge = counter();
  const net::Fd level = counter();
  const net::Fd list = new_list();
  add(list, edge, EPOLLIN | EPOLLET);
  add(list, level, EPOLLIN);
  REQUIRE(raise_by(edge, 1) == 0);
  REQUIRE(raise_by(level, 1) == 0);
  CHECK(look(list) == "IN, IN");
  std::array<epoll_event, 2> events;
  for (int i = 0; i < 3; ++i) {
    REQUIRE(::epoll_wait(list.get(), events.data(), 2, 0) == 1);
    CHECK(int{events[0].data.fd} == level.get());
  }
  CHECK(take(level) == 1);
  CHECK(look(list) == "");
  REQUIRE(raise_by(edge, 1) == 0);
  CHECK(look(list) == "IN");
  CHECK(take(edge) == 2);
}
