// What epoll does, level-triggered, one claim a test case; the lesson cites
// them by name.

#include <doctest/doctest.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
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
#include <fstream>
#include <ios>
#include <limits>
#include <sstream>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include "common/error.hpp"
#include "common/fd.hpp"
#include "common/socket.hpp"
#include "common/testing/process.hpp"
#include "common/testing/sanitizer.hpp"

namespace {

using namespace std::chrono_literals;

constexpr std::uint32_t everything = EPOLLIN | EPOLLPRI | EPOLLOUT | EPOLLRDHUP;
constexpr int patience = 20'000;  // milliseconds; only a broken kernel waits

net::Fd make_list() {
  return net::Fd(net::check(::epoll_create1(EPOLL_CLOEXEC), "epoll_create1"));
}

// 0, or the error as a negative number. The tag is the data of the
// registration: it tells who is reported.
int control(const net::Fd& list, int operation, int fd, std::uint32_t interest,
            std::uint64_t tag) {
  epoll_event event{interest, {.u64 = tag}};
  return ::epoll_ctl(list.get(), operation, fd, &event) < 0 ? -errno : 0;
}

int add(const net::Fd& list, int fd, std::uint32_t interest,
        std::uint64_t tag = 0) {
  return control(list, EPOLL_CTL_ADD, fd, interest, tag);
}

int change(const net::Fd& list, int fd, std::uint32_t interest,
           std::uint64_t tag = 0) {
  return control(list, EPOLL_CTL_MOD, fd, interest, tag);
}

int remove(const net::Fd& list, int fd) {
  return control(list, EPOLL_CTL_DEL, fd, 0, 0);
}

std::vector<epoll_event> wait(const net::Fd& list, int timeout = 0,
                              int room = 16) {
  std::vector<epoll_event> events(static_cast<std::size_t>(room));
  const int n = net::check(
      ::epoll_wait(list.get(), events.data(), room, timeout), "epoll_wait");
  events.resize(static_cast<std::size_t>(n));
  return events;
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

// What epoll reports of the only descriptor that is ready, if there is one.
std::string look(const net::Fd& list, int timeout = 0) {
  const std::vector<epoll_event> events = wait(list, timeout);
  REQUIRE(events.size() <= 1);
  return events.empty() ? "" : names(events[0].events);
}

// Packets take their time, on loopback too: the report has to become the
// expected one before the deadline.
void check_report(const net::Fd& list, std::string_view expected) {
  const auto deadline =
      testing::Clock::now() + std::chrono::milliseconds(patience);
  std::string seen = look(list);
  while (seen != expected && testing::Clock::now() < deadline) {
    std::this_thread::sleep_for(1ms);
    seen = look(list);
  }
  CHECK(seen == expected);
}

// Who is reported, in that order: "1 2".
std::string tags(const std::vector<epoll_event>& events) {
  std::string text;
  for (const epoll_event& event : events) {
    if (!text.empty()) text += ' ';
    text += std::to_string(event.data.u64);
  }
  return text;
}

std::string who(const net::Fd& list, int room = 16) {
  return tags(wait(list, 0, room));
}

struct Entry {
  int fd;
  std::uint32_t interest;
  std::uint64_t data;
};

// What is on the list, as procfs shows it, by data.
std::vector<Entry> entries(const net::Fd& list) {
  std::ifstream file("/proc/self/fdinfo/" + std::to_string(list.get()));
  std::vector<Entry> found;
  for (std::string line; std::getline(file, line);) {
    std::istringstream words(line);
    std::string tfd;
    std::string events;
    std::string data;
    Entry entry{};
    words >> tfd >> entry.fd >> events >> std::hex >> entry.interest >> data >>
        entry.data;
    if (tfd != "tfd:") continue;
    CHECK(words);
    CHECK(events == "events:");
    CHECK(data == "data:");
    found.push_back(entry);
  }
  std::sort(found.begin(), found.end(),
            [](const Entry& a, const Entry& b) { return a.data < b.data; });
  return found;
}

struct Pair {
  net::Fd ours;    // on the list
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

// A number in the kernel: readable unless it is 0, and writable.
net::Fd make_counter(unsigned value) {
  return net::Fd(
      net::check(::eventfd(value, EFD_NONBLOCK | EFD_CLOEXEC), "eventfd"));
}

void raise_counter(const net::Fd& counter) {
  const std::uint64_t one = 1;
  REQUIRE(::write(counter.get(), &one, sizeof one) == sizeof one);
}

void clear_counter(const net::Fd& counter) {
  std::uint64_t value = 0;
  REQUIRE(::read(counter.get(), &value, sizeof value) == sizeof value);
}

net::Fd duplicate(const net::Fd& fd) {
  return net::Fd(
      net::check(::fcntl(fd.get(), F_DUPFD_CLOEXEC, 0), "fcntl F_DUPFD"));
}

// Asks poll, so that epoll has not been asked yet. What poll sees, epoll may
// learn a moment later: the state changes first, then the waiting are called.
void wait_for(const net::Fd& fd, short events) {
  testing::wait_until("poll reports what is waited for", [&] {
    pollfd entry{fd.get(), events, 0};
    return ::poll(&entry, 1, patience) == 1 && (entry.revents & events) != 0;
  });
}

void send_byte(const net::Fd& fd) {
  REQUIRE(::send(fd.get(), "x", 1, MSG_NOSIGNAL) == 1);
}

// A byte has arrived at our end.
void send_to_ours(const Pair& pair) {
  send_byte(pair.theirs);
  wait_for(pair.ours, POLLIN);
}

ssize_t receive(const net::Fd& fd) {
  std::array<char, 64> buffer;
  return ::recv(fd.get(), buffer.data(), buffer.size(), 0);
}

// Our end has been reset.
void reset_ours(Pair& pair) {
  const linger at_once{1, 0};
  net::check(::setsockopt(pair.theirs.get(), SOL_SOCKET, SO_LINGER, &at_once,
                          sizeof at_once),
             "setsockopt SO_LINGER");
  pair.theirs = net::Fd();
  wait_for(pair.ours, POLLHUP);  // the last to be set
}

// A thread asleep in epoll_wait.
class Sleeper {
 public:
  explicit Sleeper(const net::Fd& list)
      : thread_([this, &list] {
          id_ = static_cast<pid_t>(::syscall(SYS_gettid));
          seen_ = tags(wait(list, patience));
        }) {
    testing::wait_until("the thread runs", [this] { return id_ != 0; });
    testing::wait_until_settled(id_);
  }
  pid_t id() const { return id_; }

  // Waits until it has woken: who was reported.
  std::string seen() {
    thread_.join();
    return seen_;
  }

 private:
  std::atomic<pid_t> id_{0};
  std::string seen_;
  std::jthread thread_;
};

// The child runs the function, which must not throw; its result is the exit
// status.
template <typename Body>
pid_t fork_child(const Body& body) {
  std::fflush(nullptr);
  const pid_t child = net::check(::fork(), "fork");
  if (child == 0) ::_exit(body());
  return child;
}

// What a child does that only has to hold descriptors until it is killed.
int idle() { return ::poll(nullptr, 0, patience); }

int status_of(pid_t child) {
  int status = 0;
  REQUIRE(::waitpid(child, &status, 0) == child);
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

// The mappings of this process, read without making one.
std::string_view mappings(std::vector<char>& buffer) {
  const net::Fd file(
      net::check(::open("/proc/self/maps", O_RDONLY | O_CLOEXEC), "open"));
  std::size_t size = 0;
  ssize_t n = 1;
  while (n > 0 && size < buffer.size()) {
    n = net::check(
        ::read(file.get(), buffer.data() + size, buffer.size() - size), "read");
    size += static_cast<std::size_t>(n);
  }
  return {buffer.data(), size};
}

// Counters, the idle ones first, on a list of epoll and in a list for poll.
struct Crowd {
  Crowd(std::size_t idle, std::size_t ready) {
    for (std::size_t i = 0; i < idle + ready; ++i) {
      members.push_back(make_counter(i < idle ? 0 : 1));
      const int fd = members.back().get();
      polled.push_back({fd, POLLIN, 0});
      net::check(add(list, fd, EPOLLIN), "epoll_ctl");
    }
  }

  net::Fd list = make_list();
  std::vector<net::Fd> members;
  std::vector<pollfd> polled;
  std::vector<epoll_event> events = std::vector<epoll_event>(1'000);
};

// How many the limit allows, at most 10,000.
std::size_t many_descriptors() {
  const std::size_t most = testing::raise_descriptor_limit() - 300;
  if (most < 10'000) MESSAGE("only " << most << " idle descriptors");
  return std::min<std::size_t>(most, 10'000);
}

int wait_call(Crowd& crowd) {
  return ::epoll_wait(crowd.list.get(), crowd.events.data(),
                      static_cast<int>(crowd.events.size()), 0);
}

int poll_call(Crowd& crowd) {
  return ::poll(crowd.polled.data(), crowd.polled.size(), 0);
}

// Nanoseconds a call takes. Noise only adds, so the least of many short
// measurements is taken. Not CPU time: in a busy virtual machine, where stolen
// time is taken off, that was seen to miss nearly all of it.
class Cost {
 public:
  template <typename Call>
  void measure(int calls, const Call& call) {
    const auto before = testing::Clock::now();
    for (int i = 0; i < calls; ++i) call();
    const std::chrono::duration<double, std::nano> spent =
        testing::Clock::now() - before;
    least_ = std::min(least_, spent.count() / calls);
  }
  double least() const { return least_; }

 private:
  double least_ = std::numeric_limits<double>::max();
};

// What is compared is measured in turns, so that noise hits both.
constexpr int rounds = 50;

}  // namespace

// Packed on x86-64, so that 32-bit programs have the same layout.
#ifdef __x86_64__
static_assert(sizeof(epoll_event) == 12);
#else
static_assert(sizeof(epoll_event) == 16);
#endif

// The list.

TEST_CASE("a descriptor is put on the list once and holds for every wait") {
  const net::Fd list = make_list();
  const net::Fd counter = make_counter(0);
  REQUIRE(add(list, counter.get(), EPOLLIN) == 0);
  for (int i = 0; i < 3; ++i) {
    CHECK(look(list) == "");
    raise_counter(counter);
    CHECK(look(list) == "IN");
    clear_counter(counter);
  }
}

TEST_CASE("the data of a registration come back as they were given") {
  const net::Fd list = make_list();
  const net::Fd counter = make_counter(1);
  constexpr std::uint64_t no_descriptor = 0xfedc'ba98'7654'3210;
  REQUIRE(add(list, counter.get(), EPOLLIN, no_descriptor) == 0);
  const std::vector<epoll_event> events = wait(list);
  REQUIRE(events.size() == 1);
  CHECK(events[0].events == EPOLLIN);
  CHECK(std::uint64_t{events[0].data.u64} == no_descriptor);
}

TEST_CASE(
    "a descriptor on the list twice is EEXIST, its duplicate is another "
    "entry") {
  const net::Fd list = make_list();
  const net::Fd counter = make_counter(1);
  const net::Fd copy = duplicate(counter);
  REQUIRE(add(list, counter.get(), EPOLLIN, 1) == 0);
  CHECK(add(list, counter.get(), EPOLLOUT, 2) == -EEXIST);
  CHECK(add(list, copy.get(), EPOLLOUT, 3) == 0);
  const std::vector<epoll_event> events = wait(list);
  CHECK(tags(events) == "1 3");
  CHECK(names(events.at(0).events) == "IN");
  CHECK(names(events.at(1).events) == "OUT");
}

TEST_CASE("changing or removing what is not on the list is ENOENT") {
  const net::Fd list = make_list();
  const net::Fd counter = make_counter(1);
  CHECK(change(list, counter.get(), EPOLLIN) == -ENOENT);
  CHECK(remove(list, counter.get()) == -ENOENT);
  REQUIRE(add(list, counter.get(), EPOLLIN) == 0);
  CHECK(remove(list, counter.get()) == 0);
  CHECK(remove(list, counter.get()) == -ENOENT);
}

TEST_CASE("MOD replaces the interest and the data") {
  const net::Fd list = make_list();
  const net::Fd counter = make_counter(1);
  REQUIRE(add(list, counter.get(), EPOLLIN, 1) == 0);
  CHECK(change(list, counter.get(), EPOLLOUT, 2) == 0);
  const std::vector<epoll_event> events = wait(list);
  CHECK(tags(events) == "2");
  CHECK(names(events.at(0).events) == "OUT");
}

TEST_CASE("DEL needs no event") {
  const net::Fd list = make_list();
  const net::Fd counter = make_counter(1);
  CHECK(::epoll_ctl(list.get(), EPOLL_CTL_ADD, counter.get(), nullptr) == -1);
  CHECK(errno == EFAULT);
  REQUIRE(add(list, counter.get(), EPOLLIN) == 0);
  CHECK(::epoll_ctl(list.get(), EPOLL_CTL_DEL, counter.get(), nullptr) == 0);
  CHECK(look(list) == "");
}

TEST_CASE("a regular file cannot be watched: EPERM") {
  const net::Fd list = make_list();
  // In memory: a file of a file system in user space (FUSE) can be watched.
  const net::Fd file(
      net::check(::memfd_create("file", MFD_CLOEXEC), "memfd_create"));
  const net::Fd directory(
      net::check(::open("/", O_RDONLY | O_CLOEXEC), "open"));
  const net::Fd null(
      net::check(::open("/dev/null", O_RDWR | O_CLOEXEC), "open"));
  for (const net::Fd* fd : {&file, &directory, &null}) {
    CHECK(add(list, fd->get(), EPOLLIN) == -EPERM);
    pollfd entry{fd->get(), POLLIN | POLLOUT, 0};
    CHECK(::poll(&entry, 1, 0) == 1);
    CHECK(entry.revents == (POLLIN | POLLOUT));
  }
}

TEST_CASE("an epoll descriptor on its own list is EINVAL, a circle is ELOOP") {
  const net::Fd first = make_list();
  const net::Fd second = make_list();
  CHECK(add(first, first.get(), EPOLLIN) == -EINVAL);
  CHECK(add(first, second.get(), EPOLLIN) == 0);
  CHECK(add(second, first.get(), EPOLLIN) == -ELOOP);
}

TEST_CASE("lists on lists go at least five deep and end in ELOOP") {
  std::vector<net::Fd> lists;
  lists.push_back(make_list());
  int error = 0;
  while (error == 0 && lists.size() < 20) {
    net::Fd outer = make_list();
    error = add(outer, lists.back().get(), EPOLLIN);
    if (error == 0) lists.push_back(std::move(outer));
  }
  CHECK(error == -ELOOP);
  CHECK(lists.size() >= 5);  // 5 on Linux 6.18
}

TEST_CASE(
    "what is not an epoll descriptor is EINVAL, what is not open is EBADF") {
  const net::Fd list = make_list();
  const net::Fd counter = make_counter(1);
  CHECK(add(counter, list.get(), EPOLLIN) == -EINVAL);
  epoll_event event{};
  CHECK(::epoll_wait(counter.get(), &event, 1, 0) == -1);
  CHECK(errno == EINVAL);
  const int closed = duplicate(counter).get();
  CHECK(add(list, closed, EPOLLIN) == -EBADF);
  CHECK(::epoll_ctl(closed, EPOLL_CTL_ADD, counter.get(), &event) == -1);
  CHECK(errno == EBADF);
  CHECK(::epoll_wait(closed, &event, 1, 0) == -1);
  CHECK(errno == EBADF);
}

TEST_CASE("a wait with room for no event is EINVAL") {
  const net::Fd list = make_list();
  epoll_event event{};
  for (const int room : {0, -1}) {
    CHECK(::epoll_wait(list.get(), &event, room, 0) == -1);
    CHECK(errno == EINVAL);
  }
}

TEST_CASE("epoll_create ignores its size but wants it positive") {
  CHECK(::epoll_create(0) == -1);
  CHECK(errno == EINVAL);
  const net::Fd list(net::check(::epoll_create(1), "epoll_create"));
  const net::Fd one = make_counter(1);
  const net::Fd other = make_counter(1);
  CHECK(add(list, one.get(), EPOLLIN, 1) == 0);
  CHECK(add(list, other.get(), EPOLLIN, 2) == 0);
  CHECK(who(list) == "1 2");
}

TEST_CASE("procfs shows what is on the list") {
  const net::Fd list = make_list();
  const net::Fd one = make_counter(0);
  const net::Fd other = make_counter(0);
  REQUIRE(add(list, one.get(), EPOLLIN, 17) == 0);
  REQUIRE(add(list, other.get(), EPOLLOUT | EPOLLRDHUP, 0xabcdef) == 0);
  const std::vector<Entry> shown = entries(list);
  REQUIRE(shown.size() == 2);
  CHECK(shown[0].fd == one.get());
  CHECK(names(shown[0].interest) == "IN ERR HUP");  // the kernel adds two
  CHECK(shown[0].data == 17);
  CHECK(shown[1].fd == other.get());
  CHECK(names(shown[1].interest) == "OUT ERR HUP RDHUP");
  CHECK(shown[1].data == 0xabcdef);
}

TEST_CASE("no memory is shared with the kernel: epoll adds no mapping") {
  std::vector<char> first(4 << 20);
  std::vector<char> second(4 << 20);
  mappings(second);  // whatever reading needs is mapped from here on
  const std::string_view before = mappings(first);
  const net::Fd list(::epoll_create1(EPOLL_CLOEXEC));
  const net::Fd counter(::eventfd(1, EFD_CLOEXEC));
  epoll_event event{EPOLLIN, {.fd = counter.get()}};
  const int added =
      ::epoll_ctl(list.get(), EPOLL_CTL_ADD, counter.get(), &event);
  const int n = ::epoll_wait(list.get(), &event, 1, 0);
  const std::string_view after = mappings(second);
  REQUIRE(after.size() < second.size());
  REQUIRE(added == 0);
  REQUIRE(n == 1);
  CHECK(std::count(after.begin(), after.end(), '\n') ==
        std::count(before.begin(), before.end(), '\n'));
  CHECK(after == before);
}

TEST_CASE("an event that cannot be written is EFAULT and is reported again") {
  const net::Fd list = make_list();
  const net::Fd counter = make_counter(1);
  REQUIRE(add(list, counter.get(), EPOLLIN) == 0);
  void* const wall =
      ::mmap(nullptr, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  REQUIRE(wall != MAP_FAILED);
  const int n = ::epoll_wait(list.get(), static_cast<epoll_event*>(wall), 1, 0);
  const int error = errno;
  ::munmap(wall, 4096);
  CHECK(n == -1);
  CHECK(error == EFAULT);
  CHECK(look(list) == "IN");
}

// The report.

TEST_CASE("level-triggered, unread input is reported by every wait") {
  const Pair pair = tcp_pair();
  const net::Fd list = make_list();
  REQUIRE(add(list, pair.ours.get(), EPOLLIN) == 0);
  send_byte(pair.theirs);
  check_report(list, "IN");
  for (int i = 0; i < 3; ++i) CHECK(look(list) == "IN");
  CHECK(receive(pair.ours) == 1);
  CHECK(look(list) == "");
}

TEST_CASE("level-triggered, room to send is reported by every wait") {
  const Pair pair = tcp_pair();
  const net::Fd list = make_list();
  REQUIRE(add(list, pair.ours.get(), EPOLLOUT) == 0);
  for (int i = 0; i < 3; ++i) CHECK(look(list) == "OUT");
}

TEST_CASE("a descriptor stands in a report once, with all that is ready") {
  const Pair pair = tcp_pair();
  const net::Fd list = make_list();
  REQUIRE(add(list, pair.ours.get(), everything) == 0);
  send_to_ours(pair);
  send_byte(pair.theirs);
  REQUIRE(::shutdown(pair.theirs.get(), SHUT_WR) == 0);
  check_report(list, "IN OUT RDHUP");
  CHECK(wait(list).size() == 1);
}

TEST_CASE("what is not asked for is not reported, ready or not") {
  const Pair pair = tcp_pair();
  const net::Fd list = make_list();
  send_to_ours(pair);
  REQUIRE(add(list, pair.ours.get(), EPOLLIN | EPOLLOUT) == 0);
  CHECK(look(list) == "IN OUT");
  REQUIRE(change(list, pair.ours.get(), EPOLLOUT) == 0);
  CHECK(look(list) == "OUT");
  REQUIRE(change(list, pair.ours.get(), 0) == 0);
  CHECK(look(list) == "");
}

TEST_CASE("hang-up and error come unasked, with an interest of 0 too") {
  Pair pair = tcp_pair();
  const net::Fd list = make_list();
  REQUIRE(add(list, pair.ours.get(), 0) == 0);
  CHECK(look(list) == "");
  reset_ours(pair);
  check_report(list, "ERR HUP");
  for (int i = 0; i < 3; ++i) CHECK(look(list) == "ERR HUP");
}

TEST_CASE("after DEL nothing is reported, a hang-up neither") {
  Pair pair = tcp_pair();
  const net::Fd list = make_list();
  REQUIRE(add(list, pair.ours.get(), EPOLLIN) == 0);
  REQUIRE(remove(list, pair.ours.get()) == 0);
  reset_ours(pair);
  CHECK(look(list) == "");
}

TEST_CASE("ONESHOT mutes hang-up and error too, until MOD") {
  Pair pair = tcp_pair();
  const net::Fd list = make_list();
  REQUIRE(add(list, pair.ours.get(), EPOLLIN | EPOLLONESHOT) == 0);
  send_byte(pair.theirs);
  CHECK(look(list, patience) == "IN");
  CHECK(look(list) == "");
  reset_ours(pair);
  CHECK(look(list) == "");
  CHECK(add(list, pair.ours.get(), EPOLLIN | EPOLLONESHOT) == -EEXIST);
  REQUIRE(change(list, pair.ours.get(), EPOLLIN | EPOLLONESHOT) == 0);
  CHECK(look(list) == "IN ERR HUP");
}

TEST_CASE(
    "the state is looked at when the wait returns: what was drained is not "
    "reported") {
  const net::Fd list = make_list();
  const net::Fd counter = make_counter(0);
  REQUIRE(add(list, counter.get(), EPOLLIN) == 0);
  raise_counter(counter);
  clear_counter(counter);
  CHECK(look(list) == "");
  REQUIRE(change(list, counter.get(), EPOLLIN | EPOLLOUT) == 0);
  raise_counter(counter);
  CHECK(look(list) == "IN OUT");
  clear_counter(counter);
  CHECK(look(list) == "OUT");
}

TEST_CASE("a descriptor added while another thread waits wakes that thread") {
  const net::Fd list = make_list();
  const net::Fd counter = make_counter(1);
  Sleeper sleeper(list);
  CHECK(add(list, counter.get(), EPOLLIN, 1) == 0);
  CHECK(sleeper.seen() == "1");
}

TEST_CASE("more ready than room: the rest comes first in the next wait") {
  const net::Fd list = make_list();
  const std::array<net::Fd, 3> ready{make_counter(1), make_counter(1),
                                     make_counter(1)};
  for (std::size_t i = 0; i < ready.size(); ++i) {
    REQUIRE(add(list, ready[i].get(), EPOLLIN, i + 1) == 0);
  }
  CHECK(who(list, 2) == "1 2");
  CHECK(who(list, 2) == "3 1");
  CHECK(who(list, 2) == "2 3");
  for (const char* next : {"1", "2", "3", "1", "2", "3"}) {
    CHECK(who(list, 1) == next);
  }
}

TEST_CASE("a listener that was shut down is HUP without IN") {
  const net::Fd listener = net::listen_on(net::resolve("127.0.0.1", 0));
  const net::Fd list = make_list();
  REQUIRE(add(list, listener.get(), EPOLLIN | EPOLLRDHUP) == 0);
  CHECK(look(list) == "");
  REQUIRE(::shutdown(listener.get(), SHUT_RDWR) == 0);
  CHECK(look(list) == "HUP");
}

TEST_CASE("the peer's end is IN, and RDHUP if asked for") {
  const Pair pair = tcp_pair();
  const net::Fd list = make_list();
  REQUIRE(add(list, pair.ours.get(), EPOLLIN) == 0);
  REQUIRE(::shutdown(pair.theirs.get(), SHUT_WR) == 0);
  check_report(list, "IN");
  REQUIRE(change(list, pair.ours.get(), EPOLLRDHUP) == 0);
  CHECK(look(list) == "RDHUP");
  REQUIRE(change(list, pair.ours.get(), everything) == 0);
  CHECK(look(list) == "IN OUT RDHUP");
}

TEST_CASE(
    "an epoll descriptor is readable in poll while something on its list is "
    "ready") {
  const net::Fd outer = make_list();
  const net::Fd inner = make_list();
  const net::Fd counter = make_counter(0);
  REQUIRE(add(inner, counter.get(), EPOLLIN, 1) == 0);
  REQUIRE(add(outer, inner.get(), everything, 2) == 0);
  pollfd entry{inner.get(), POLLIN | POLLOUT, 0};
  CHECK(::poll(&entry, 1, 0) == 0);
  CHECK(look(outer) == "");
  raise_counter(counter);
  for (int i = 0; i < 3; ++i) {
    CHECK(::poll(&entry, 1, 0) == 1);
    CHECK(entry.revents == POLLIN);
    CHECK(look(outer) == "IN");
    CHECK(who(outer) == "2");
    CHECK(who(inner) == "1");
  }
  clear_counter(counter);
  CHECK(::poll(&entry, 1, 0) == 0);
  CHECK(look(outer) == "");
}

// Time and signals.

TEST_CASE("epoll_wait never gives up before its timeout") {
  const net::Fd list = make_list();
  epoll_event event{};
  const auto before = testing::Clock::now();
  CHECK(::epoll_wait(list.get(), &event, 1, 20) == 0);
  CHECK(testing::Clock::now() - before >= 20ms);
}

TEST_CASE(
    "epoll_wait gives EINTR after a signal handler, with SA_RESTART too") {
  const net::Fd list = make_list();
  struct sigaction action {};
  struct sigaction before {};
  action.sa_handler = [](int) {};
  action.sa_flags = SA_RESTART;
  REQUIRE(::sigaction(SIGALRM, &action, &before) == 0);
  // Again and again: a first signal could come before the thread sleeps.
  const itimerval often{{0, 10'000}, {0, 10'000}};
  REQUIRE(::setitimer(ITIMER_REAL, &often, nullptr) == 0);
  epoll_event event{};
  const int n = ::epoll_wait(list.get(), &event, 1, patience);
  const int error = errno;
  const itimerval never{};
  REQUIRE(::setitimer(ITIMER_REAL, &never, nullptr) == 0);
  REQUIRE(::sigaction(SIGALRM, &before, nullptr) == 0);
  CHECK(n == -1);
  CHECK(error == EINTR);
}

TEST_CASE(
    "an epoll_wait that was stopped gives EINTR after SIGCONT, without a "
    "handler") {
  const net::Fd list = make_list();
  const pid_t child = fork_child([&] {
    epoll_event event{};
    const int n = ::epoll_wait(list.get(), &event, 1, patience);
    return n < 0 ? errno : 255;
  });
  testing::wait_until_settled(child);
  REQUIRE(::kill(child, SIGSTOP) == 0);
  testing::wait_until("it stops", [&] { return testing::state(child) == 'T'; });
  REQUIRE(::kill(child, SIGCONT) == 0);
  CHECK(status_of(child) == EINTR);
}

TEST_CASE("what is ready is returned in preference to EINTR") {
  static std::atomic<int> handled{0};
  handled = 0;
  struct sigaction action {};
  struct sigaction before {};
  action.sa_handler = [](int) { ++handled; };
  REQUIRE(::sigaction(SIGUSR1, &action, &before) == 0);
  sigset_t blocked;
  sigset_t mask;
  ::sigemptyset(&blocked);
  ::sigaddset(&blocked, SIGUSR1);
  REQUIRE(::pthread_sigmask(SIG_BLOCK, &blocked, &mask) == 0);
  // Pending from now on; only the mask of the wait lets it in.
  REQUIRE(::raise(SIGUSR1) == 0);
  const net::Fd list = make_list();
  const net::Fd counter = make_counter(1);
  REQUIRE(add(list, counter.get(), EPOLLIN) == 0);
  epoll_event event{};
  for (int i = 0; i < 3; ++i) {
    CHECK(::epoll_pwait(list.get(), &event, 1, patience, &mask) == 1);
  }
  CHECK(handled == 0);
  clear_counter(counter);
  CHECK(::epoll_pwait(list.get(), &event, 1, patience, &mask) == -1);
  CHECK(errno == EINTR);
  CHECK(handled == 1);
  REQUIRE(::pthread_sigmask(SIG_SETMASK, &mask, nullptr) == 0);
  REQUIRE(::sigaction(SIGUSR1, &before, nullptr) == 0);
}

// Closing.

TEST_CASE("closing the only descriptor of a file takes it off the list") {
  Pair pair = tcp_pair();
  const net::Fd list = make_list();
  REQUIRE(add(list, pair.ours.get(), EPOLLIN) == 0);
  send_byte(pair.theirs);
  check_report(list, "IN");
  pair.ours = net::Fd();
  CHECK(look(list) == "");
  CHECK(entries(list).empty());
}

TEST_CASE("closing one of two duplicates leaves the registration alive") {
  Pair pair = tcp_pair();
  const net::Fd list = make_list();
  net::Fd copy = duplicate(pair.ours);
  REQUIRE(add(list, pair.ours.get(), EPOLLIN, 1) == 0);
  pair.ours = net::Fd();
  CHECK(entries(list).size() == 1);
  send_byte(pair.theirs);
  CHECK(tags(wait(list, patience)) == "1");
  copy = net::Fd();
  CHECK(look(list) == "");
  CHECK(entries(list).empty());
}

TEST_CASE("a closed number cannot be removed while a duplicate lives") {
  net::Fd counter = make_counter(1);
  const net::Fd list = make_list();
  const net::Fd copy = duplicate(counter);
  const int number = counter.get();
  REQUIRE(add(list, number, EPOLLIN) == 0);
  counter = net::Fd();
  CHECK(remove(list, number) == -EBADF);
  CHECK(remove(list, copy.get()) == -ENOENT);
  CHECK(look(list) == "IN");
}

TEST_CASE("a duplicate put back under the old number can be removed") {
  net::Fd counter = make_counter(1);
  const net::Fd list = make_list();
  const net::Fd copy = duplicate(counter);
  const int number = counter.get();
  REQUIRE(add(list, number, EPOLLIN) == 0);
  counter = net::Fd();
  counter = net::Fd(net::check(::dup2(copy.get(), number), "dup2"));
  REQUIRE(counter.get() == number);
  CHECK(remove(list, number) == 0);
  CHECK(look(list) == "");
}

TEST_CASE("a forked child keeps a registration alive") {
  Pair pair = tcp_pair();
  const net::Fd list = make_list();
  REQUIRE(add(list, pair.ours.get(), EPOLLIN) == 0);
  const pid_t child = fork_child(idle);
  pair.ours = net::Fd();
  send_byte(pair.theirs);
  const std::size_t reported = wait(list, patience).size();
  CHECK(::kill(child, SIGKILL) == 0);
  CHECK(status_of(child) == 128 + SIGKILL);
  CHECK(reported == 1);
  CHECK(look(list) == "");
  CHECK(entries(list).empty());
}

TEST_CASE("a forked child shares the list: what it adds the parent is told") {
  const net::Fd list = make_list();
  const pid_t child = fork_child([&] {
    const int counter = ::eventfd(1, EFD_CLOEXEC);
    return add(list, counter, EPOLLIN, 1) == 0 ? idle() : 1;
  });
  const std::string reported = tags(wait(list, patience));
  CHECK(::kill(child, SIGKILL) == 0);
  CHECK(status_of(child) == 128 + SIGKILL);
  CHECK(reported == "1");
  CHECK(entries(list).empty());
}

TEST_CASE("closing a watched descriptor elsewhere does not wake epoll_wait") {
  const net::Fd list = make_list();
  Pair pair = tcp_pair();
  const net::Fd counter = make_counter(0);
  REQUIRE(add(list, pair.ours.get(), everything & ~EPOLLOUT, 1) == 0);
  REQUIRE(add(list, counter.get(), EPOLLIN, 2) == 0);
  Sleeper sleeper(list);
  const auto before = testing::voluntary_switches(sleeper.id());
  pair.ours = net::Fd();
  wait_for(pair.theirs, POLLIN);  // the end of the stream
  testing::wait_until_settled(sleeper.id(), 50ms);
  CHECK(testing::voluntary_switches(sleeper.id()) == before);
  raise_counter(counter);
  CHECK(sleeper.seen() == "2");
}

TEST_CASE("the next file under a closed number is not on the list") {
  net::Fd counter = make_counter(1);
  const net::Fd list = make_list();
  const int number = counter.get();
  REQUIRE(add(list, number, EPOLLIN) == 0);
  counter = net::Fd();
  counter = make_counter(1);
  REQUIRE(counter.get() == number);
  CHECK(look(list) == "");
  CHECK(change(list, number, EPOLLIN) == -ENOENT);
  CHECK(add(list, number, EPOLLIN) == 0);
  CHECK(look(list) == "IN");
}

TEST_CASE("one number can be on the list twice, for two files") {
  net::Fd counter = make_counter(1);
  const net::Fd list = make_list();
  const net::Fd copy = duplicate(counter);
  const int number = counter.get();
  REQUIRE(add(list, number, EPOLLIN, 1) == 0);
  counter = net::Fd();
  counter = make_counter(1);
  REQUIRE(counter.get() == number);
  CHECK(add(list, number, EPOLLIN, 2) == 0);
  CHECK(who(list) == "1 2");
}

TEST_CASE("an event once handed over can name a number of another file") {
  const net::Fd list = make_list();
  const net::Fd first = make_counter(1);
  net::Fd second = make_counter(1);
  for (const int fd : {first.get(), second.get()}) {
    REQUIRE(add(list, fd, EPOLLIN, static_cast<std::uint64_t>(fd)) == 0);
  }
  const std::vector<epoll_event> events = wait(list);
  REQUIRE(events.size() == 2);
  second = net::Fd();  // while the first event is attended
  const net::Fd next = make_counter(0);
  REQUIRE(next.get() == events[1].data.fd);
  std::uint64_t value = 0;
  CHECK(::read(events[1].data.fd, &value, sizeof value) == -1);
  CHECK(errno == EAGAIN);
}

// What it costs.

TEST_CASE(
    "the cost of a wait is the same with 10 and with 10,000 idle "
    "descriptors") {
  Crowd few(10, 1);
  Crowd many(many_descriptors(), 1);
  REQUIRE(wait_call(few) == 1);
  REQUIRE(wait_call(many) == 1);
  Cost with_few;
  Cost with_many;
  for (int i = 0; i < rounds; ++i) {
    with_few.measure(100, [&] { wait_call(few); });
    with_many.measure(100, [&] { wait_call(many); });
  }
  MESSAGE("epoll_wait: " << with_few.least() << " ns beside 10, "
                         << with_many.least() << " beside "
                         << many.members.size() - 1);
  CHECK(with_many.least() < 3 * with_few.least());
}

TEST_CASE("the cost of a poll grows with the idle descriptors") {
  const std::size_t n = many_descriptors();
  Crowd few(10, 1);
  Crowd many(n, 1);
  REQUIRE(poll_call(few) == 1);
  REQUIRE(poll_call(many) == 1);
  Cost with_few;
  Cost with_many;
  for (int i = 0; i < rounds; ++i) {
    with_few.measure(100, [&] { poll_call(few); });
    with_many.measure(1, [&] { poll_call(many); });
  }
  MESSAGE("poll: " << with_few.least() << " ns beside 10, " << with_many.least()
                   << " beside " << n);
  // 50 times for 1,000 times as many.
  CHECK(with_many.least() > static_cast<double>(n) / 200 * with_few.least());
}

TEST_CASE("with every descriptor ready poll costs less an event than epoll") {
  Crowd crowd(0, 1'000);
  REQUIRE(wait_call(crowd) == 1'000);
  REQUIRE(poll_call(crowd) == 1'000);
  Cost of_epoll;
  Cost of_poll;
  for (int i = 0; i < rounds; ++i) {
    of_epoll.measure(1, [&] { wait_call(crowd); });
    of_poll.measure(1, [&] { poll_call(crowd); });
  }
  MESSAGE("an event of 1,000: " << of_poll.least() / 1'000 << " ns by poll, "
                                << of_epoll.least() / 1'000
                                << " by epoll_wait");
  // A sanitizer looks at each entry of poll's list itself.
  if (testing::sanitized) return;
  CHECK(of_poll.least() < of_epoll.least());
}

TEST_CASE(
    "the tree is for epoll_ctl: adding among 10,000 costs little more than "
    "among 10") {
  const Crowd few(10, 0);
  const Crowd many(many_descriptors(), 0);
  std::vector<net::Fd> new_ones;
  for (int i = 0; i < 10; ++i) new_ones.push_back(make_counter(0));
  const auto add_all = [&](const net::Fd& list) {
    for (const net::Fd& fd : new_ones) add(list, fd.get(), EPOLLIN);
  };
  Cost with_few;
  Cost with_many;
  for (int i = 0; i < rounds; ++i) {
    with_few.measure(1, [&] { add_all(few.list); });
    with_many.measure(1, [&] { add_all(many.list); });
    for (const net::Fd& fd : new_ones) {
      REQUIRE(remove(few.list, fd.get()) == 0);
      REQUIRE(remove(many.list, fd.get()) == 0);
    }
  }
  MESSAGE("ten entries: " << with_few.least() << " ns among 10, "
                          << with_many.least() << " among many");
  CHECK(with_many.least() < 5 * with_few.least());
}
