// What rt/net.hpp promises. The number before a claim is its row in the list of
// behaviours a runtime must have. Only public headers are used, so that every
// engine can be held to it; what is shared between goroutines is shared as
// between threads.

#include <doctest/doctest.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>
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
#include <cstdlib>
#include <filesystem>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <ostream>
#include <span>
#include <string>
#include <string_view>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include "common/error.hpp"
#include "common/fd.hpp"
#include "common/socket.hpp"
#include "common/testing/client.hpp"
#include "common/testing/epoll_wait.hpp"
#include "common/testing/process.hpp"
#include "common/testing/sanitizer.hpp"
#include "common/testing/shrink.hpp"
#include "rt/go.hpp"
#include "rt/net.hpp"
#include "rt/time.hpp"

namespace {

using namespace std::chrono_literals;
using testing::pattern;
using Count = std::atomic<std::size_t>;

// What this process has called, counted by the functions below that take the
// place of the C library's.
struct Calls {
  Count epoll_wait{0};
  Count interrupted{0};  // of those
  Count events{0};       // that they reported
  Count epoll_ctl{0};
  Count accept4{0};
  Count recv{0};  // of the descriptor that is watched
  Count send{0};  // the same
  Count full{0};  // of those, the ones that said EAGAIN
  Count allocations{0};
  std::atomic<int> watched{-1};
  // So many calls of accept4, or recv of what is watched, fail with that error
  // and are not made.
  std::atomic<int> lies{0};
  std::atomic<int> lie{0};
};
constinit Calls calls;

bool lie() {
  if (calls.lies == 0) return false;
  --calls.lies;
  errno = calls.lie;
  return true;
}

}  // namespace

extern "C" int epoll_wait(int epoll, epoll_event* events, int room,
                          int timeout) {
  ++calls.epoll_wait;
  const int n = testing::system_epoll_wait(epoll, events, room, timeout);
  if (n < 0 && errno == EINTR) ++calls.interrupted;
  if (n > 0) calls.events += static_cast<std::size_t>(n);
  return n;
}

extern "C" int epoll_ctl(int epoll, int operation, int fd,
                         epoll_event* event) noexcept {
  ++calls.epoll_ctl;
  return static_cast<int>(
      ::syscall(SYS_epoll_ctl, epoll, operation, fd, event));
}

extern "C" int accept4(int listener, sockaddr* address, socklen_t* length,
                       int flags) {
  ++calls.accept4;
  if (lie()) return -1;
  return static_cast<int>(
      ::syscall(SYS_accept4, listener, address, length, flags));
}

extern "C" ssize_t recv(int fd, void* buffer, std::size_t size, int flags) {
  if (fd == calls.watched) {
    ++calls.recv;
    if (lie()) return -1;
  }
  return ::syscall(SYS_recvfrom, fd, buffer, size, flags, nullptr, nullptr);
}

extern "C" ssize_t send(int fd, const void* bytes, std::size_t size,
                        int flags) {
  const ssize_t n = ::syscall(SYS_sendto, fd, bytes, size, flags, nullptr, 0);
  if (fd == calls.watched) {
    ++calls.send;
    if (n < 0 && errno == EAGAIN) ++calls.full;
  }
  return n;
}

// The C++ library's operator new allocates by malloc.
#if TESTING_SANITIZED
extern "C" void __sanitizer_malloc_hook(const volatile void*, std::size_t) {
  ++calls.allocations;
}
#else
extern "C" void* __libc_malloc(std::size_t size);
extern "C" void* malloc(std::size_t size) noexcept {
  ++calls.allocations;
  return __libc_malloc(size);
}
#endif

namespace {

// Waiting.

// Lets the others run until it holds.
void wait_until(const std::string& what, const std::function<bool()>& holds) {
  const rt::TimePoint deadline = rt::after(20s);
  while (!holds()) {
    if (rt::Clock::now() > deadline) {
      FAIL_CHECK("not within 20 s: " << what);
      throw testing::TimedOut(what);
    }
    rt::sleep(1ms);
  }
}

// More turns than an engine may take before it looks at the kernel.
void let_others_run() {
  for (int i = 0; i < 200; ++i) rt::yield();
}

void join(const std::vector<rt::Handle>& goroutines) {
  for (const rt::Handle& goroutine : goroutines) goroutine.join();
}

std::string listing() {
  char* text = nullptr;
  std::size_t size = 0;
  std::FILE* file = ::open_memstream(&text, &size);
  rt::dump(file);
  std::fclose(file);
  const std::unique_ptr<char, void (*)(void*)> owner(text, std::free);
  return {text, size};
}

// How a goroutine is listed that is parked in such a call.
std::string in(const std::string& call, const rt::Pollable& on) {
  return '[' + call + ' ' + std::to_string(on.fd()) + ',';
}

std::size_t parked(const std::string& where) {
  const std::string text = listing();
  std::size_t n = 0;
  for (auto at = text.find(where); at != text.npos; ++n) {
    at = text.find(where, at + 1);
  }
  return n;
}

void wait_until_parked(const std::string& where, std::size_t n = 1) {
  wait_until(std::to_string(n) + " in " + where,
             [&] { return parked(where) == n; });
}

// Connections.

const net::Address& any_address() {
  static const net::Address address = net::resolve("127.0.0.1", 0);
  return address;
}

rt::Listener any_listener() {
  auto [listener, error] = rt::listen(any_address());
  REQUIRE_FALSE(error);
  return std::move(listener);
}

struct Pair {
  rt::Conn ours;
  rt::Conn theirs;
};

Pair connection_to(const rt::Listener& listener) {
  auto [theirs, not_dialed] = rt::dial(listener.address());
  REQUIRE_FALSE(not_dialed);
  auto [ours, not_accepted] = listener.accept();
  REQUIRE_FALSE(not_accepted);
  return {std::move(ours), std::move(theirs)};
}

Pair connection() { return connection_to(any_listener()); }

rt::PacketConn any_packet_conn() {
  auto [conn, error] = rt::listen_packet(any_address());
  REQUIRE_FALSE(error);
  return std::move(conn);
}

net::Fd new_socket() {
  return net::Fd(
      net::check(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), "socket"));
}

// Nobody listens there, and nobody else gets the port.
net::Fd deaf_socket() {
  net::Fd socket = new_socket();
  const net::Address& any = any_address();
  net::check(::bind(socket.get(), any.get(), any.length), "bind");
  return socket;
}

tcp_info info(int socket) {
  tcp_info result{};
  socklen_t size = sizeof result;
  net::check(::getsockopt(socket, IPPROTO_TCP, TCP_INFO, &result, &size),
             "getsockopt TCP_INFO");
  return result;
}

void wait_for_state(const rt::Conn& conn, int state) {
  wait_until("the packet arrives",
             [&] { return info(conn.fd()).tcpi_state == state; });
}

// A listener that answers no SYN: its queue has room for one, who is there.
struct BlackHole {
  BlackHole() : listener(net::listen_on(any_address())) {
    net::check(::listen(listener.get(), 0), "listen");
    queued = net::connect_to(address());
    testing::wait_until("it is queued", [this] {
      return info(listener.get()).tcpi_unacked == 1;
    });
  }
  net::Address address() const { return net::local_address(listener); }

  net::Fd listener;
  net::Fd queued;
};

// Closes with RST instead of FIN (SO_LINGER in socket(7)).
void reset(rt::Conn& conn) {
  const linger at_once{1, 0};
  net::check(
      ::setsockopt(conn.fd(), SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once),
      "setsockopt SO_LINGER");
  CHECK_FALSE(conn.close());
}

// Bytes.

struct Got {
  std::string bytes;
  std::error_code error;
};

template <typename Source>
Got get(const Source& from, std::size_t most = 100) {
  std::string bytes(most, '\0');
  const auto [n, error] = from.read(bytes);
  bytes.resize(n);
  return {std::move(bytes), error};
}

template <typename Source>
std::string get_all(const Source& from) {
  std::string all;
  for (;;) {
    const Got got = get(from, 65'536);
    all += got.bytes;
    if (got.error) {
      CHECK(got.error == rt::eof);
      return all;
    }
  }
}

std::string get_exactly(const rt::Conn& from, std::size_t n) {
  std::string all;
  while (all.size() < n) {
    const Got got = get(from, std::min<std::size_t>(n - all.size(), 65'536));
    all += got.bytes;
    if (got.error) {
      CHECK_FALSE(got.error);
      break;
    }
  }
  return all;
}

template <typename Sink>
void put(const Sink& to, std::string_view bytes) {
  const auto [n, error] = to.write(bytes);
  CHECK_FALSE(error);
  CHECK(n == bytes.size());
}

// By the kernel alone: nobody else runs meanwhile.
void put_at_once(const rt::Conn& to, std::string_view bytes, int flags = 0) {
  CHECK(::send(to.fd(), bytes.data(), bytes.size(), flags | MSG_NOSIGNAL) ==
        std::ssize(bytes));
}

void wait_for_bytes(const rt::Pollable& at, int n) {
  wait_until("the bytes arrive", [&] {
    int arrived = 0;
    return ::ioctl(at.fd(), FIONREAD, &arrived) == 0 && arrived == n;
  });
}

void echo(const rt::Conn& conn, std::size_t most) {
  std::vector<char> buffer(most);
  for (;;) {
    const auto [n, error] = conn.read(buffer);
    if (error) return;
    if (conn.write(std::span(buffer).first(n)).error) return;
  }
}

// More than both sides' buffers hold.
constexpr std::size_t more_than_fits = 16 << 20;

// Descriptors.

std::size_t descriptors() { return testing::open_descriptors(::getpid()); }

net::Fd duplicate(int fd) {
  return net::Fd(net::check(::fcntl(fd, F_DUPFD_CLOEXEC, 0), "F_DUPFD"));
}

// As long as it lives, there is room for so many more descriptors: none or one.
class Room {
 public:
  explicit Room(rlim_t places) {
    net::check(::getrlimit(RLIMIT_NOFILE, &before_), "getrlimit");
    const int lowest_free = duplicate(0).get();
    const rlimit limit{static_cast<rlim_t>(lowest_free) + places,
                       before_.rlim_max};
    net::check(::setrlimit(RLIMIT_NOFILE, &limit), "setrlimit");
  }
  Room(const Room&) = delete;
  Room& operator=(const Room&) = delete;
  ~Room() { ::setrlimit(RLIMIT_NOFILE, &before_); }

 private:
  rlimit before_{};
};

}  // namespace

// Reading and writing.

TEST_CASE("103: read parks until data comes, and others run meanwhile") {
  rt::run([] {
    const Pair pair = connection();
    Got got;
    Count turns{0};
    std::atomic<bool> over{false};
    const rt::Handle reader = rt::go([&] {
      got = get(pair.ours);
      over = true;
    });
    const rt::Handle counter = rt::go([&] {
      for (; !over; ++turns) rt::yield();
    });
    wait_until_parked(in("read", pair.ours));
    const std::size_t before = turns;
    wait_until("it counts", [&] { return turns > before + 1000; });
    CHECK_FALSE(over);
    put(pair.theirs, "x");
    join({reader, counter});
    CHECK(got.bytes == "x");
    CHECK_FALSE(got.error);
  });
}

// Measured several times: where goroutines run on threads, the system may let
// one of them wait for long.
TEST_CASE("103: who never has to wait lets others through every 16 calls") {
  rt::run([] {
    rt::Pipe pipe = rt::pipe();
    const Pair pair = connection();
    Count turns{0};
    std::atomic<bool> over{false};
    const rt::Handle counter = rt::go([&] {
      for (; !over; ++turns) rt::yield();
    });
    const rt::Handle reader = rt::go([&] {
      get(pair.ours);
      over = true;
    });
    wait_until_parked(in("read", pair.ours));
    put_at_once(pair.theirs, "x");
    constexpr int enough = 100'000;
    int calls_made = 0;
    int least = enough;
    while (!over && calls_made < enough) {
      const std::size_t before = turns;
      const int first = calls_made;
      for (; turns < before + 10 && calls_made < enough; calls_made += 2) {
        put(pipe.writer, "x");
        CHECK(get(pipe.reader, 1).bytes == "x");
      }
      least = std::min(least, calls_made - first);
    }
    CHECK(over);
    CHECK(least <= 10 * 16 + 2);
    join({counter, reader});
  });
}

TEST_CASE("104: what a short read leaves is read without another report") {
  rt::run([] {
    const Pair pair = connection();
    put(pair.theirs, "0123456789");
    wait_for_bytes(pair.ours, 10);
    for (const char* part : {"012", "345", "678", "9"}) {
      CHECK(get(pair.ours, 3).bytes == part);
    }
  });
}

TEST_CASE("104: whatever a read has left over, the next bytes are noticed") {
  rt::run([] {
    const Pair pair = connection();
    const rt::Handle server = rt::go([&] { echo(pair.ours, 4); });
    for (std::size_t i = 0; i < 1000; ++i) {
      const std::string bytes = pattern(i % 13 + 1);
      put(pair.theirs, bytes);
      CHECK(get_exactly(pair.theirs, bytes.size()) == bytes);
    }
    CHECK_FALSE(pair.theirs.close_write());
    server.join();
  });
}

TEST_CASE("104: an end that comes with the last bytes is noticed after them") {
  rt::run([] {
    Pair pair = connection();
    put(pair.theirs, "last");
    CHECK_FALSE(pair.theirs.close_write());
    wait_for_state(pair.ours, TCP_CLOSE_WAIT);
    CHECK(get(pair.ours).bytes == "last");
    CHECK(get(pair.ours).error == rt::eof);
    CHECK(get(pair.ours).error == rt::eof);
    for (int i = 0; i < 200; ++i) {
      pair = connection();
      std::string all;
      const rt::Handle reader = rt::go([&] { all = get_all(pair.ours); });
      if (i % 2 == 0) wait_until_parked(in("read", pair.ours));
      put_at_once(pair.theirs, "last");
      if (i % 3 == 0) rt::yield();
      CHECK_FALSE(pair.theirs.close_write());
      reader.join();
      CHECK(all == "last");
    }
  });
}

// The kernel's reads end at an urgent byte, short, whatever stands behind it.
TEST_CASE("104: an urgent byte does not stall the stream") {
  rt::run([] {
    const Pair pair = connection();
    for (int i = 0; i < 200; ++i) {
      std::string all;
      const rt::Handle reader =
          rt::go([&] { all = get_exactly(pair.ours, 6); });
      if (i % 2 == 0) wait_until_parked(in("read", pair.ours));
      put_at_once(pair.theirs, "abc");
      if (i % 3 == 0) rt::yield();
      put_at_once(pair.theirs, "!", MSG_OOB);
      if (i % 5 == 0) rt::yield();
      put_at_once(pair.theirs, "def");
      reader.join();
      CHECK(all == "abcdef");
    }
  });
}

// With a signal pending the kernel's recv says EAGAIN at an urgent byte, and
// the bytes behind it are no news (tcp_recvmsg_locked in net/ipv4/tcp.c).
TEST_CASE("104: a false EAGAIN at an urgent byte does not stall the stream") {
  rt::run([] {
    const Pair pair = connection();
    std::string all;
    const rt::Handle reader = rt::go([&] {
      all = get_exactly(pair.ours, 3);
      calls.lie = EAGAIN;
      calls.lies = 1;
      all += get_exactly(pair.ours, 3);
    });
    wait_until_parked(in("read", pair.ours));
    calls.watched = pair.ours.fd();
    put_at_once(pair.theirs, "abc");
    put_at_once(pair.theirs, "!", MSG_OOB);
    put_at_once(pair.theirs, "def");
    reader.join();
    calls.watched = -1;
    CHECK(calls.lies == 0);
    CHECK(all == "abcdef");
  });
}

TEST_CASE("104: the read that a short one has proved useless is not made") {
  rt::run([] {
    const Pair pair = connection();
    const rt::Handle server = rt::go([&] { echo(pair.ours, 4096); });
    const auto visit = [&] {
      put(pair.theirs, "hello");
      CHECK(get(pair.theirs).bytes == "hello");
    };
    visit();
    constexpr std::size_t rounds = 1000;
    calls.watched = pair.ours.fd();
    const std::size_t received = calls.recv;
    const std::size_t sent = calls.send;
    const std::size_t waited = calls.epoll_wait;
    const std::size_t told = calls.epoll_ctl;
    for (std::size_t i = 0; i < rounds; ++i) visit();
    calls.watched = -1;
    CHECK(calls.recv - received <= rounds + rounds / 20);
    CHECK(calls.send - sent == rounds);
    CHECK(calls.epoll_wait - waited <= 2 * rounds + rounds / 10);
    CHECK(calls.epoll_ctl == told);
    CHECK_FALSE(pair.theirs.close_write());
    server.join();
  });
}

TEST_CASE("104: many that are ready at once share one wait") {
  rt::run([] {
    const rt::Listener listener = any_listener();
    std::vector<Pair> pairs;
    std::vector<rt::Handle> servers;
    for (int i = 0; i < 50; ++i) pairs.push_back(connection_to(listener));
    for (const Pair& pair : pairs) {
      servers.push_back(rt::go([&pair] { echo(pair.ours, 4096); }));
    }
    for (const Pair& pair : pairs) wait_until_parked(in("read", pair.ours));
    const std::size_t before = calls.epoll_wait;
    constexpr std::size_t rounds = 100;
    for (std::size_t i = 0; i < rounds; ++i) {
      for (const Pair& pair : pairs) put(pair.theirs, "hello");
      for (const Pair& pair : pairs) CHECK(get(pair.theirs).bytes == "hello");
    }
    const std::size_t waits = calls.epoll_wait - before;
    MESSAGE(waits << " waits for " << rounds * pairs.size() << " echoes");
    CHECK(2 * waits < rounds * pairs.size());
    for (const Pair& pair : pairs) CHECK_FALSE(pair.theirs.close_write());
    join(servers);
  });
}

TEST_CASE("105: what came before the first wait is not lost") {
  rt::run([] {
    const rt::Listener listener = any_listener();
    const auto [theirs, not_dialed] = rt::dial(listener.address());
    REQUIRE_FALSE(not_dialed);
    put(theirs, "early");
    const auto [ours, not_accepted] = listener.accept();
    REQUIRE_FALSE(not_accepted);
    CHECK(get(ours).bytes == "early");

    std::array<int, 2> ends{};
    net::check(::pipe2(ends.data(), O_CLOEXEC), "pipe2");
    const net::Fd in(ends[1]);
    REQUIRE(::write(in.get(), "early", 5) == 5);
    const auto [out, not_adopted] = rt::File::adopt(net::Fd(ends[0]));
    REQUIRE_FALSE(not_adopted);
    CHECK(get(out).bytes == "early");
  });
}

TEST_CASE("105: what was reported while nobody waited is not lost") {
  rt::run([] {
    const Pair pair = connection();
    const Pair other = connection();  // for which the kernel is asked
    const rt::Handle waiter = rt::go([&] { get(other.ours); });
    for (int i = 0; i < 100; ++i) {
      const rt::Handle reader = rt::go([&] { get(pair.ours); });
      wait_until_parked(in("read", pair.ours));
      put_at_once(pair.theirs, "1");
      reader.join();
      put_at_once(pair.theirs, "2");
      let_others_run();
      CHECK(get(pair.ours).bytes == "2");
    }
    put(other.theirs, "x");
    waiter.join();
  });
}

// The thief is told in the same look at the kernel as the reader, and first.
TEST_CASE("106: a report that was for nothing leads back to waiting") {
  rt::run([] {
    const Pair hint = connection();
    const Pair loot = connection();
    Count stolen{0};
    Count received{0};
    const rt::Handle thief = rt::go([&] {
      char byte = 0;
      while (!get(hint.ours, 1).error) {
        stolen += ::recv(loot.ours.fd(), &byte, 1, MSG_DONTWAIT) == 1;
      }
    });
    const rt::Handle reader = rt::go([&] {
      while (!get(loot.ours, 1).error) ++received;
    });
    constexpr std::size_t rounds = 100;
    for (std::size_t i = 0; i < rounds; ++i) {
      wait_until_parked(in("read", hint.ours));
      wait_until_parked(in("read", loot.ours));
      put_at_once(hint.theirs, "x");
      put_at_once(loot.theirs, "x");
      wait_until("it is gone", [&] { return stolen + received == i + 1; });
    }
    CHECK(stolen > 0);
    wait_until_parked(in("read", loot.ours));
    calls.watched = loot.ours.fd();
    const std::size_t before = calls.recv;
    let_others_run();
    CHECK(calls.recv == before);
    put(loot.theirs, "x");
    wait_until("it comes", [&] { return stolen + received == rounds + 1; });
    calls.watched = -1;
    CHECK_FALSE(hint.theirs.close_write());
    CHECK_FALSE(loot.theirs.close_write());
    join({thief, reader});
  });
}

TEST_CASE("107: one reads while another writes, both ways at the same time") {
  rt::run([] {
    const Pair pair = connection();
    const std::size_t n = testing::sanitized ? 1 << 20 : more_than_fits;
    const std::string there = pattern(n, 1);
    const std::string back = pattern(n, 2);
    std::array<std::string, 2> arrived;
    join({rt::go([&] { put(pair.ours, back); }),
          rt::go([&] { put(pair.theirs, there); }),
          rt::go([&] { arrived[0] = get_exactly(pair.ours, n); }),
          rt::go([&] { arrived[1] = get_exactly(pair.theirs, n); })});
    CHECK((arrived[0] == there));
    CHECK((arrived[1] == back));
  });
}

TEST_CASE("107: reader and writer are each woken by their own direction") {
  rt::run([] {
    const Pair pair = connection();
    const std::string bytes = pattern(more_than_fits);
    Count received{0};
    const rt::Handle writer = rt::go([&] { put(pair.ours, bytes); });
    const rt::Handle reader = rt::go([&] {
      while (!get(pair.ours).error) ++received;
    });
    const std::string reads = in("read", pair.ours);
    const std::string writes = in("write", pair.ours);
    wait_until_parked(reads);
    wait_until_parked(writes);
    calls.watched = pair.ours.fd();
    std::size_t before = calls.send;
    put_at_once(pair.theirs, "x");
    wait_until("it is read", [&] { return received == 1; });
    wait_until_parked(reads);
    CHECK(parked(writes) == 1);
    CHECK(calls.send == before);

    before = calls.recv;
    CHECK((get_exactly(pair.theirs, bytes.size()) == bytes));
    writer.join();
    CHECK(parked(reads) == 1);
    CHECK(calls.recv == before);
    calls.watched = -1;
    CHECK_FALSE(pair.theirs.close_write());
    reader.join();
  });
}

TEST_CASE("108: readers of one connection take turns, in order") {
  rt::run([] {
    const Pair pair = connection();
    std::array<std::string, 3> bytes;
    Count served{0};
    std::vector<rt::Handle> readers;
    for (std::string& mine : bytes) {
      readers.push_back(rt::go([&] {
        mine = get(pair.ours, 1).bytes;
        mine += std::to_string(++served);
      }));
      wait_until("it is parked", [&] {
        return parked(in("read", pair.ours)) +
                   parked(in("a turn to use", pair.ours)) ==
               readers.size();
      });
    }
    for (std::size_t i = 0; i < bytes.size(); ++i) {
      put(pair.theirs, std::string_view("abc").substr(i, 1));
      wait_until("one is served", [&] { return served == i + 1; });
    }
    join(readers);
    CHECK(bytes == std::array<std::string, 3>{"a1", "b2", "c3"});
  });
}

TEST_CASE("108: what four write at the same time does not mingle") {
  rt::run([] {
    const Pair pair = connection();
    constexpr std::size_t each = 4 << 20;
    std::vector<rt::Handle> writers;
    for (const char letter : {'a', 'b', 'c', 'd'}) {
      writers.push_back(
          rt::go([&, letter] { put(pair.ours, std::string(each, letter)); }));
    }
    std::string all = get_exactly(pair.theirs, writers.size() * each);
    join(writers);
    all.erase(std::unique(all.begin(), all.end()), all.end());
    CHECK(all == "abcd");
  });
}

TEST_CASE("108: of many readers and writers none misses its turn") {
  rt::run([] {
    const Pair pair = connection();
    constexpr int times = 1000;
    Count received{0};
    std::vector<rt::Handle> all;
    for (int i = 0; i < 4; ++i) {
      all.push_back(rt::go([&] {
        for (int n = 0; n < times; ++n) put(pair.theirs, "x");
      }));
      all.push_back(rt::go([&] {
        for (int n = 0; n < times; ++n)
          received += get(pair.ours, 1).bytes == "x";
      }));
    }
    join(all);
    CHECK(received == 4 * times);
  });
}

TEST_CASE("109: a big write to a slow reader arrives whole and in order") {
  rt::run([] {
    const std::size_t n = testing::sanitized ? 1 << 22 : 1 << 26;
    if (testing::sanitized) MESSAGE("only " << n << " bytes");
    const Pair pair = connection();
    const std::string bytes = pattern(n);
    const rt::Handle writer = rt::go([&] {
      put(pair.theirs, bytes);
      CHECK_FALSE(pair.theirs.close_write());
    });
    wait_until_parked(in("write", pair.theirs));
    calls.watched = pair.theirs.fd();
    const std::size_t full = calls.full;
    std::vector<char> buffer(10'000);
    std::size_t at = 0;
    bool same = true;
    for (;;) {
      const auto [got, error] = pair.ours.read(buffer);
      same &= bytes.compare(at, got, buffer.data(), got) == 0;
      at += got;
      if (error) break;
      rt::yield();
    }
    writer.join();
    calls.watched = -1;
    CHECK(at == n);
    CHECK(same);
    // After a short write the next one would be in vain, and is not made.
    CHECK(calls.full == full);
  });
}

TEST_CASE("110: an orderly end is eof, a reset is not") {
  rt::run([] {
    for (const bool waits : {true, false}) {
      for (const bool orderly : {true, false}) {
        Pair pair = connection();
        Got got;
        const auto read = [&] { got = get(pair.ours); };
        std::optional<rt::Handle> reader;
        if (waits) {
          reader = rt::go(read);
          wait_until_parked(in("read", pair.ours));
        }
        orderly ? void(pair.theirs.close()) : reset(pair.theirs);
        wait_for_state(pair.ours, orderly ? TCP_CLOSE_WAIT : TCP_CLOSE);
        reader ? reader->join() : read();
        CHECK(got.bytes == "");
        CHECK((got.error == rt::eof) == orderly);
        CHECK((got.error == std::errc::connection_reset) != orderly);
      }
    }
  });
}

namespace {

std::atomic<int> sigpipes{0};

void (*handler_of_sigpipe())(int) {
  struct sigaction action {};
  net::check(::sigaction(SIGPIPE, nullptr, &action), "sigaction");
  return action.sa_handler;
}

}  // namespace

TEST_CASE("111: writing to a connection without a reader is EPIPE, no signal") {
  ::signal(SIGPIPE, [](int) { ++sigpipes; });
  rt::run([] {
    Pair pair = connection();
    CHECK_FALSE(pair.theirs.close());
    wait_for_state(pair.ours, TCP_CLOSE_WAIT);
    put(pair.ours, "x");
    wait_for_state(pair.ours, TCP_CLOSE);
    for (int i = 0; i < 2; ++i) {
      const auto [n, error] = pair.ours.write(std::string_view("y"));
      CHECK(n == 0);
      CHECK(error == std::errc::broken_pipe);
    }
  });
  CHECK(sigpipes == 0);
  ::signal(SIGPIPE, SIG_DFL);
}

TEST_CASE("111: writing to a pipe without a reader is EPIPE, no signal") {
  rt::run([] {
    rt::Pipe pipe = rt::pipe();
    rt::Result result;
    const std::string bytes(1 << 20, 'x');
    const rt::Handle writer =
        rt::go([&] { result = pipe.writer.write(bytes); });
    wait_until_parked(in("write", pipe.writer));
    CHECK_FALSE(pipe.reader.close());
    writer.join();
    CHECK(result.error == std::errc::broken_pipe);
    CHECK(result.n > 0);
    CHECK(result.n < bytes.size());
  });
  CHECK((handler_of_sigpipe() == SIG_DFL));
}

TEST_CASE("111: with the error comes how much was taken before it") {
  rt::run([] {
    Pair pair = connection();
    rt::Result result;
    const std::string bytes(more_than_fits, 'x');
    const rt::Handle writer = rt::go([&] { result = pair.ours.write(bytes); });
    get_exactly(pair.theirs, 100'000);
    wait_until_parked(in("write", pair.ours));
    reset(pair.theirs);
    writer.join();
    CHECK(result.error == std::errc::connection_reset);
    CHECK(result.n >= 100'000);
    CHECK(result.n < bytes.size());
  });
}

TEST_CASE("112: zero bytes are read and written at once, whoever waits there") {
  rt::run([] {
    const Pair pair = connection();
    const std::string bytes = pattern(more_than_fits);
    for (const bool others : {false, true}) {
      std::vector<rt::Handle> waiters;
      if (others) {
        waiters = {rt::go([&] { get(pair.ours); }),
                   rt::go([&] { put(pair.ours, bytes); })};
        wait_until_parked(in("read", pair.ours));
        wait_until_parked(in("write", pair.ours));
      }
      CHECK_FALSE(get(pair.ours, 0).error);
      put(pair.ours, "");
      if (others) {
        put(pair.theirs, "x");
        CHECK((get_exactly(pair.theirs, bytes.size()) == bytes));
      }
      join(waiters);
    }
  });
}

TEST_CASE("112: a datagram of zero bytes is a datagram") {
  rt::run([] {
    const rt::PacketConn sender = any_packet_conn();
    const rt::PacketConn receiver = any_packet_conn();
    std::array<char, 10> buffer{};
    for (const std::string_view text : {"", "x", ""}) {
      CHECK_FALSE(sender.write_to(text, receiver.address()).error);
      const auto [n, from, error] = receiver.read_from(buffer);
      CHECK_FALSE(error);
      CHECK(n == text.size());
      CHECK(from.text() == sender.address().text());
    }
  });
}

TEST_CASE("113: after the end of writing there is still reading") {
  rt::run([] {
    const Pair pair = connection();
    CHECK_FALSE(pair.ours.close_write());
    CHECK(get(pair.theirs).error == rt::eof);
    const rt::Handle writer = rt::go([&] {
      put(pair.theirs, pattern(more_than_fits));
      CHECK_FALSE(pair.theirs.close_write());
    });
    CHECK((get_all(pair.ours) == pattern(more_than_fits)));
    writer.join();
    CHECK(pair.ours.write(std::string_view("x")).error ==
          std::errc::broken_pipe);
  });
}

// Connecting.

TEST_CASE("114: nobody listening there is ECONNREFUSED") {
  rt::run([] {
    const net::Fd nobody = deaf_socket();
    const auto [conn, error] = rt::dial(net::local_address(nobody));
    CHECK(error == std::errc::connection_refused);
    CHECK(conn.fd() == -1);
  });
}

TEST_CASE("115: a dial without an answer ends at its deadline, not before") {
  rt::run([] {
    const BlackHole nowhere;
    for (const auto patience : {1ms, 50ms}) {
      const rt::TimePoint deadline = rt::after(patience);
      const auto [conn, error] = rt::dial(nowhere.address(), deadline);
      CHECK(error == rt::deadline_exceeded);
      CHECK(rt::Clock::now() >= deadline);
      CHECK(conn.fd() == -1);
    }
  });
}

// The kernel asks again after a second.
TEST_CASE("115: a dial waits for its answer, be it yes or no") {
  rt::run([] {
    BlackHole yes;
    BlackHole no;
    const net::Address refusing = no.address();
    rt::Dialed taken;
    rt::Dialed refused;
    const std::vector<rt::Handle> dials = {
        rt::go([&] { taken = rt::dial(yes.address()); }),
        rt::go([&] { refused = rt::dial(refusing, rt::after(60s)); })};
    wait_until_parked("[connect ", 2);
    const net::Fd first(::accept4(yes.listener.get(), nullptr, nullptr, 0));
    no.listener = net::Fd();
    let_others_run();
    CHECK(parked("[connect ") == 2);
    join(dials);
    CHECK_FALSE(taken.error);
    CHECK(refused.error == std::errc::connection_refused);
    const net::Fd ours(::accept4(yes.listener.get(), nullptr, nullptr, 0));
    put(taken.conn, "x");
    char byte = 0;
    CHECK(::read(ours.get(), &byte, 1) == 1);
  });
}

// After 16 calls dial gives way, with the connection under way.
TEST_CASE("115: an answer that comes before the dial waits is not lost") {
  rt::run([] {
    const rt::Listener listener = any_listener();
    const Pair pair = connection_to(listener);
    std::atomic<bool> over{false};
    std::vector<rt::Handle> crowd = {rt::go([&] { get(pair.ours); })};
    for (int i = 0; i < 100; ++i) {
      crowd.push_back(rt::go([&] {
        while (!over) rt::yield();
      }));
    }
    for (int n = 0; n <= 17; ++n) {
      wait_until_parked(in("read", pair.ours));
      for (int i = 0; i < n; ++i) put(pair.ours, "x");
      const auto [conn, error] = rt::dial(listener.address(), rt::after(10s));
      REQUIRE_FALSE(error);
    }
    over = true;
    put(pair.theirs, "x");
    join(crowd);
  });
}

TEST_CASE("116: a dial that was given up has given its descriptor back") {
  rt::run([] {
    const BlackHole nowhere;
    const std::size_t before = descriptors();
    std::vector<rt::Handle> dials;
    for (int i = 0; i < 20; ++i) {
      dials.push_back(rt::go([&] {
        CHECK(rt::dial(nowhere.address(), rt::after(1ms)).error ==
              rt::deadline_exceeded);
      }));
    }
    join(dials);
    CHECK(descriptors() == before);
  });
}

TEST_CASE("116: after its answer a dial's deadline disturbs nobody") {
  rt::run([] {
    const rt::Listener listener = any_listener();
    const rt::TimePoint deadline = rt::after(20ms);
    const rt::Dialed dialed = rt::dial(listener.address(), deadline);
    REQUIRE_FALSE(dialed.error);
    const rt::Accepted accepted = listener.accept();
    const rt::Handle late = rt::go([&] {
      rt::sleep_until(deadline + 5ms);
      put(accepted.conn, "x");
    });
    CHECK(get(dialed.conn).bytes == "x");
    CHECK(rt::Clock::now() > deadline);
    late.join();
  });
}

namespace {

// The connection that comes first; the others are closed.
rt::Conn fastest(const std::vector<net::Address>& addresses,
                 std::vector<rt::Handle>& dials) {
  struct Race {
    rt::Event decided;
    std::mutex mutex;
    std::optional<rt::Conn> winner;
  };
  const auto race = std::make_shared<Race>();
  for (const net::Address& address : addresses) {
    dials.push_back(rt::go([race, address] {
      auto [conn, error] = rt::dial(address, rt::after(100ms));
      const std::lock_guard lock(race->mutex);
      if (error || race->winner) return;
      race->winner = std::move(conn);
      race->decided.notify();
    }));
  }
  CHECK_FALSE(race->decided.wait().error);
  const std::lock_guard lock(race->mutex);
  return std::move(*race->winner);
}

}  // namespace

TEST_CASE(
    "117: of parallel dials the fastest wins, and the losers are closed") {
  rt::run([] {
    const BlackHole nowhere;
    const net::Fd nobody = deaf_socket();
    const rt::Listener one = any_listener();
    const rt::Listener other = any_listener();
    const std::size_t before = descriptors();
    std::vector<rt::Handle> dials;
    const rt::Conn winner =
        fastest({nowhere.address(), net::local_address(nobody), one.address(),
                 other.address()},
                dials);
    join(dials);
    CHECK(descriptors() == before + 1);
    const rt::Conn ends[] = {one.accept().conn, other.accept().conn};
    put(winner, "x");
    CHECK(get(ends[0]).bytes + get(ends[1]).bytes == "x");
  });
}

// Accepting.

TEST_CASE("118: ten goroutines in accept all return when it closes") {
  rt::run([] {
    rt::Listener listener = any_listener();
    const std::size_t before = calls.accept4;
    Count served{0};
    Count closed{0};
    std::vector<rt::Handle> acceptors;
    for (int i = 0; i < 10; ++i) {
      acceptors.push_back(rt::go([&] {
        for (;;) {
          const auto [conn, error] = listener.accept();
          closed += error == rt::closed;
          if (error) return;
          ++served;
        }
      }));
    }
    const auto all_wait = [&] {
      return parked(in("accept", listener)) +
                 parked(in("a turn to use", listener)) ==
             acceptors.size();
    };
    wait_until("they wait", all_wait);
    for (int i = 0; i < 10; ++i) {
      CHECK_FALSE(rt::dial(listener.address()).error);
    }
    wait_until("they are served", [&] { return served == 10; });
    wait_until("they wait again", all_wait);
    const std::size_t made = calls.accept4 - before;
    CHECK(made <= 10 + 10 + 1);
    let_others_run();
    CHECK(calls.accept4 - before == made);
    CHECK_FALSE(listener.close());
    join(acceptors);
    CHECK(closed == acceptors.size());
  });
}

// As some systems say, and Linux only where a security module makes it.
TEST_CASE("119: accept goes on past a connection that was aborted") {
  rt::run([] {
    const rt::Listener listener = any_listener();
    calls.lie = ECONNABORTED;
    calls.lies = 3;
    const auto [theirs, not_dialed] = rt::dial(listener.address());
    const auto [ours, error] = listener.accept();
    CHECK_FALSE(error);
    CHECK(calls.lies == 0);
    put(theirs, "x");
    CHECK(get(ours).bytes == "x");
  });
}

TEST_CASE("119: on Linux one that was reset is accepted, and then it shows") {
  rt::run([] {
    const rt::Listener listener = any_listener();
    auto [theirs, not_dialed] = rt::dial(listener.address());
    REQUIRE_FALSE(not_dialed);
    reset(theirs);
    const auto [ours, error] = listener.accept();
    CHECK_FALSE(error);
    CHECK(get(ours).error == std::errc::connection_reset);
  });
}

TEST_CASE("120: the port can be listened on again right after close") {
  rt::run([] {
    rt::Listener listener = any_listener();
    const net::Address address = listener.address();
    std::vector<Pair> established;
    for (int i = 0; i < 20; ++i) {
      established.push_back(connection_to(listener));
      const rt::Handle acceptor =
          rt::go([&] { CHECK(listener.accept().error == rt::closed); });
      wait_until_parked(in("accept", listener));
      CHECK_FALSE(listener.close());
      auto [next, error] = rt::listen(address);
      REQUIRE_FALSE(error);
      acceptor.join();
      listener = std::move(next);
    }
  });
}

TEST_CASE("121: more events at once than one wait takes are all delivered") {
  const std::size_t n = testing::shrink(600) / 2;
  rt::run([n] {
    const rt::Listener listener = any_listener();
    std::vector<Pair> pairs;
    for (std::size_t i = 0; i < n; ++i) {
      pairs.push_back(connection_to(listener));
    }
    Count received{0};
    std::vector<rt::Handle> readers;
    for (const Pair& pair : pairs) {
      readers.push_back(
          rt::go([&] { received += get(pair.ours).bytes == "x"; }));
    }
    wait_until_parked("[read ", n);
    for (const Pair& pair : pairs) put_at_once(pair.theirs, "x");
    join(readers);
    CHECK(received == n);
  });
}

TEST_CASE("122: reading and writing allocate nothing") {
  rt::run([] {
    const Pair pair = connection();
    const rt::Handle server = rt::go([&] { echo(pair.ours, 4096); });
    std::array<char, 100> buffer{};
    bool whole = true;
    const auto visits = [&](int n) {
      for (int i = 0; i < n; ++i) {
        whole &= pair.theirs.write(std::string_view("hello")).n == 5;
        whole &= pair.theirs.read(buffer).n == 5;
      }
    };
    visits(100);
    const std::size_t before = calls.allocations;
    visits(1000);
    const std::size_t after = calls.allocations;
    CHECK(after == before);
    CHECK(whole);
    CHECK_FALSE(pair.theirs.close_write());
    server.join();

    const auto proof = std::make_unique<Pair>();
    CHECK(calls.allocations > after);
  });
}

TEST_CASE("123: pipes wait for bytes and for room as connections do") {
  rt::run([] {
    const rt::Pipe pipe = rt::pipe();
    REQUIRE_FALSE(pipe.error);
    Got got;
    const rt::Handle reader = rt::go([&] { got = get(pipe.reader); });
    wait_until_parked(in("read", pipe.reader));
    put(pipe.writer, "x");
    reader.join();
    CHECK(got.bytes == "x");

    const std::string bytes = pattern(1 << 20);
    const rt::Handle writer = rt::go([&] { put(pipe.writer, bytes); });
    wait_until_parked(in("write", pipe.writer));
    std::string all;
    while (all.size() < bytes.size()) all += get(pipe.reader, 10'000).bytes;
    CHECK((all == bytes));
    writer.join();
  });
}

// A pipe of packets (O_DIRECT in pipe(2)): each is a short read.
TEST_CASE("123: a short read proves nothing where it is no stream") {
  rt::run([] {
    std::array<int, 2> ends{};
    net::check(::pipe2(ends.data(), O_DIRECT | O_CLOEXEC), "pipe2");
    const net::Fd in_fd(ends[1]);
    const rt::Adopted out = rt::File::adopt(net::Fd(ends[0]));
    REQUIRE_FALSE(out.error);
    std::string all;
    const rt::Handle reader = rt::go([&] {
      while (all.size() < 3) all += get(out.file).bytes;
    });
    wait_until_parked(in("read", out.file));
    for (const char letter : {'a', 'b', 'c'}) {
      CHECK(::write(in_fd.get(), &letter, 1) == 1);
    }
    reader.join();
    CHECK(all == "abc");
  });
}

TEST_CASE("123: the end of a pipe is eof, after its last bytes") {
  rt::run([] {
    rt::Pipe pipe = rt::pipe();
    put(pipe.writer, "last");
    CHECK_FALSE(pipe.writer.close());
    CHECK(get_all(pipe.reader) == "last");
    pipe = rt::pipe();
    const rt::Handle reader =
        rt::go([&] { CHECK(get(pipe.reader).error == rt::eof); });
    wait_until_parked(in("read", pipe.reader));
    CHECK_FALSE(pipe.writer.close());
    reader.join();
  });
}

TEST_CASE("123: notifications of an event add up until somebody waits") {
  rt::run([] {
    const rt::Event event;
    for (int i = 0; i < 3; ++i) event.notify();
    CHECK(event.wait().count == 3);
    rt::Counted counted;
    const rt::Handle waiter = rt::go([&] { counted = event.wait(); });
    wait_until("it waits", [] { return parked("[read ") == 1; });
    event.notify();
    waiter.join();
    CHECK(counted.count == 1);
    CHECK_FALSE(counted.error);
  });
}

TEST_CASE("123: another thread wakes a goroutine by an event, each time") {
  rt::run([] {
    constexpr std::uint64_t rounds = 1000;
    const rt::Event event;
    std::atomic<std::uint64_t> seen{0};
    const std::jthread other([&] {
      for (std::uint64_t i = 0; i < rounds; ++i) {
        event.notify();
        // Every other time at once, so that some fall together.
        while (i % 2 == 0 && seen <= i) std::this_thread::yield();
      }
    });
    while (seen < rounds) {
      const auto [count, error] = event.wait();
      CHECK_FALSE(error);
      seen += count;
    }
    CHECK(seen == rounds);
  });
}

TEST_CASE("123: a regular file is refused with EPERM, and given back") {
  rt::run([] {
    const std::size_t before = descriptors();
    net::Fd memory(
        net::check(::memfd_create("file", MFD_CLOEXEC), "memfd_create"));
    const auto [file, error] = rt::File::adopt(std::move(memory));
    CHECK(error == std::errc::operation_not_permitted);
    CHECK(file.fd() == -1);
    CHECK(descriptors() == before);
  });
}

// Closing.

TEST_CASE("139: close wakes a goroutine blocked in read, with closed") {
  rt::run([] {
    Pair pair = connection();
    rt::Pipe pipe = rt::pipe();
    rt::PacketConn packets = any_packet_conn();
    std::array<char, 10> buffer{};
    Count closed{0};
    const std::vector<rt::Handle> readers = {
        rt::go([&] { closed += get(pair.ours).error == rt::closed; }),
        rt::go([&] { closed += get(pipe.reader).error == rt::closed; }),
        rt::go(
            [&] { closed += packets.read_from(buffer).error == rt::closed; })};
    wait_until_parked("[read ", 3);
    let_others_run();
    CHECK(closed == 0);
    CHECK_FALSE(pair.ours.close());
    CHECK_FALSE(pipe.reader.close());
    CHECK_FALSE(packets.close());
    join(readers);
    CHECK(closed == 3);
    CHECK(get(pair.theirs).error == rt::eof);
  });
}

TEST_CASE("139: a connection may be destroyed while somebody is parked in it") {
  rt::run([] {
    auto conn = std::make_unique<rt::Conn>();
    Pair pair = connection();
    *conn = std::move(pair.ours);
    const rt::Conn& parked_in = *conn;
    Count closed{0};
    std::vector<rt::Handle> readers;
    for (int i = 0; i < 3; ++i) {
      readers.push_back(
          rt::go([&] { closed += get(parked_in).error == rt::closed; }));
    }
    wait_until_parked(in("read", parked_in));
    wait_until_parked(in("a turn to use", parked_in), 2);
    conn.reset();
    join(readers);
    CHECK(closed == 3);
  });
}

TEST_CASE("139: so may an event and a listener") {
  rt::run([] {
    auto event = std::make_unique<rt::Event>();
    auto listener = std::make_unique<rt::Listener>(any_listener());
    Count closed{0};
    const std::vector<rt::Handle> waiters = {
        rt::go([&, &on = *event] { closed += on.wait().error == rt::closed; }),
        rt::go([&, &on = *listener] {
          closed += on.accept().error == rt::closed;
        })};
    wait_until_parked("[read ");
    wait_until_parked("[accept ");
    event.reset();
    listener.reset();
    join(waiters);
    CHECK(closed == 2);
  });
}

TEST_CASE("140: close wakes a blocked write, and what it took is told") {
  rt::run([] {
    Pair pair = connection();
    rt::Result result;
    const rt::Handle writer = rt::go(
        [&] { result = pair.ours.write(std::string(more_than_fits, 'x')); });
    wait_until_parked(in("write", pair.ours));
    CHECK_FALSE(pair.ours.close());
    writer.join();
    CHECK(result.error == rt::closed);
    CHECK(get_all(pair.theirs).size() == result.n);
  });
}

TEST_CASE("140: close wakes a blocked accept") {
  rt::run([] {
    rt::Listener listener = any_listener();
    const rt::Handle acceptor = rt::go([&] {
      const auto [conn, error] = listener.accept();
      CHECK(error == rt::closed);
      CHECK(conn.fd() == -1);
    });
    wait_until_parked(in("accept", listener));
    CHECK_FALSE(listener.close());
    acceptor.join();
  });
}

TEST_CASE("140: a listener that somebody else shuts down is closed too") {
  rt::run([] {
    const rt::Listener listener = any_listener();
    const rt::Handle acceptor =
        rt::go([&] { CHECK(listener.accept().error == rt::closed); });
    wait_until_parked(in("accept", listener));
    REQUIRE(::shutdown(listener.fd(), SHUT_RDWR) == 0);
    acceptor.join();
    // Also where there is no number for a connection, so that nobody spins.
    const Room none(0);
    CHECK(listener.accept().error == rt::closed);
  });
}

// Nobody else has what a dial waits for: only the end of run closes it.
TEST_CASE("140: the end of run wakes a blocked dial") {
  const BlackHole nowhere;
  rt::Dialed dialed;
  rt::run([&] {
    rt::go([&] { dialed = rt::dial(nowhere.address()); });
    wait_until_parked("[connect ");
  });
  CHECK(dialed.error == rt::closed);
}

TEST_CASE("140: close wakes those who wait for their turn") {
  rt::run([] {
    Pair pair = connection();
    Count closed{0};
    std::vector<rt::Handle> waiters;
    for (int i = 0; i < 3; ++i) {
      waiters.push_back(
          rt::go([&] { closed += get(pair.ours).error == rt::closed; }));
      waiters.push_back(rt::go([&] {
        const auto [n, error] = pair.ours.write(std::string(more_than_fits, 0));
        closed += error == rt::closed;
      }));
    }
    wait_until_parked(in("read", pair.ours));
    wait_until_parked(in("write", pair.ours));
    wait_until_parked(in("a turn to use", pair.ours), 4);
    CHECK_FALSE(pair.ours.close());
    join(waiters);
    CHECK(closed == waiters.size());
  });
}

namespace {

void check_closed(rt::Conn& conn) {
  CHECK(conn.fd() == -1);
  CHECK(get(conn).error == rt::closed);
  CHECK(get(conn, 0).error == rt::closed);
  CHECK(conn.write(std::string_view("x")).error == rt::closed);
  CHECK(conn.write({}).error == rt::closed);
  CHECK(conn.close_write() == rt::closed);
  CHECK(conn.close() == rt::closed);
}

void check_closed(rt::Listener& listener) {
  CHECK(listener.fd() == -1);
  CHECK(listener.accept().error == rt::closed);
  CHECK_THROWS_AS(listener.address(), std::system_error);
  CHECK(listener.close() == rt::closed);
}

void check_closed(rt::PacketConn& conn) {
  std::array<char, 10> buffer{};
  CHECK(conn.fd() == -1);
  CHECK(conn.read_from(buffer).error == rt::closed);
  CHECK(conn.write_to(buffer, any_address()).error == rt::closed);
  CHECK_THROWS_AS(conn.address(), std::system_error);
  CHECK(conn.close() == rt::closed);
}

void check_closed(rt::File& file) {
  CHECK(file.fd() == -1);
  CHECK(get(file).error == rt::closed);
  CHECK(file.write(std::string_view("x")).error == rt::closed);
  CHECK(file.close() == rt::closed);
}

}  // namespace

TEST_CASE_TEMPLATE("141: every call after close or a move gives closed", Kind,
                   rt::Conn, rt::Listener, rt::PacketConn, rt::File) {
  rt::run([] {
    Kind thing;
    check_closed(thing);
    if constexpr (std::is_same_v<Kind, rt::Conn>) thing = connection().ours;
    if constexpr (std::is_same_v<Kind, rt::Listener>) thing = any_listener();
    if constexpr (std::is_same_v<Kind, rt::PacketConn>) {
      thing = any_packet_conn();
    }
    if constexpr (std::is_same_v<Kind, rt::File>) thing = rt::pipe().reader;
    CHECK(thing.fd() >= 0);
    Kind next(std::move(thing));
    check_closed(thing);  // NOLINT(bugprone-use-after-move)
    CHECK(next.fd() >= 0);
    CHECK_FALSE(next.close());
    check_closed(next);
  });
}

TEST_CASE("141: what is moved over is closed") {
  rt::run([] {
    Pair pair = connection();
    Pair other = connection();
    const std::vector<rt::Handle> readers = {
        rt::go([&] { CHECK(get(other.ours).error == rt::closed); }),
        rt::go([&] { CHECK(get(other.theirs).error == rt::eof); })};
    wait_until_parked(in("read", other.ours));
    other.ours = std::move(pair.ours);
    join(readers);
    put(other.ours, "x");
    CHECK(get(pair.theirs).bytes == "x");
  });
}

TEST_CASE("142: who was parked when it closed does not read the next file") {
  rt::run([] {
    const rt::Pipe next = rt::pipe();
    put(next.writer, "secret");
    for (int i = 0; i < 100; ++i) {
      Pair pair = connection();
      Got got;
      const rt::Handle reader = rt::go([&] { got = get(pair.ours); });
      wait_until_parked(in("read", pair.ours));
      const int number = pair.ours.fd();
      if (i % 2 == 0) put_at_once(pair.theirs, "x");
      CHECK_FALSE(pair.ours.close());
      net::Fd again;
      wait_until("the number is free", [&] {
        again = net::Fd(::fcntl(next.reader.fd(), F_DUPFD_CLOEXEC, number));
        return again.get() == number;
      });
      reader.join();
      CHECK(got.bytes == "");
      CHECK(got.error == rt::closed);
    }
    CHECK(get(next.reader).bytes == "secret");
  });
}

TEST_CASE("142: who was parked when it closed does not write the next file") {
  rt::run([] {
    for (int i = 0; i < 20; ++i) {
      const rt::Pipe next = rt::pipe();
      Pair pair = connection();
      rt::Result result;
      const rt::Handle writer = rt::go(
          [&] { result = pair.ours.write(std::string(more_than_fits, 'x')); });
      wait_until_parked(in("write", pair.ours));
      const int number = pair.ours.fd();
      CHECK_FALSE(pair.ours.close());
      net::Fd again;
      wait_until("the number is free", [&] {
        again = net::Fd(::fcntl(next.writer.fd(), F_DUPFD_CLOEXEC, number));
        return again.get() == number;
      });
      writer.join();
      CHECK(result.error == rt::closed);
      put(next.writer, "only this");
      CHECK(get(next.reader).bytes == "only this");
    }
  });
}

// The next round has the same numbers, while there may be readers and reports
// of the last.
TEST_CASE("143: numbers that come and go with traffic confuse nobody") {
  rt::run([] {
    const rt::Listener listener = any_listener();
    Count right{0};
    Count wrong{0};
    std::vector<rt::Handle> readers;
    for (int i = 0; i < 2000; ++i) {
      const auto pair = std::make_shared<Pair>(connection_to(listener));
      const std::string text = std::to_string(i);
      readers.push_back(rt::go([pair, text, &right, &wrong] {
        for (;;) {
          const Got got = get(pair->ours);
          if (got.error) return;
          ++(got.bytes == text ? right : wrong);
        }
      }));
      if (i % 2 == 0) rt::yield();
      put_at_once(pair->theirs, text);
      if (i % 3 == 0) let_others_run();
      CHECK_FALSE(pair->ours.close());
      i % 5 == 0 ? reset(pair->theirs) : void(pair->theirs.close());
    }
    join(readers);
    CHECK(right > 0);
    CHECK(wrong == 0);
  });
}

TEST_CASE("143: what a duplicate keeps open is not reported any more") {
  rt::run([] {
    Pair pair = connection();
    const Pair other = connection();  // for which the kernel is asked
    const rt::Handle waiter = rt::go([&] { get(other.ours); });
    wait_until_parked(in("read", other.ours));
    const net::Fd open = duplicate(pair.ours.fd());
    CHECK_FALSE(pair.ours.close());
    let_others_run();
    const std::size_t before = calls.events;
    put_at_once(pair.theirs, "x");
    let_others_run();
    CHECK(calls.events == before);
    put(other.theirs, "x");
    waiter.join();
  });
}

TEST_CASE("144: close, data and a read may meet in any order") {
  rt::run([] {
    const rt::Listener listener = any_listener();
    for (int i = 0; i < 600; ++i) {
      Pair pair = connection_to(listener);
      Got got;
      std::vector<std::function<void()>> acts = {
          [&] { got = get(pair.ours); }, [&] { put_at_once(pair.theirs, "x"); },
          [&] { CHECK_FALSE(pair.ours.close()); }};
      for (int turns = i % 6; turns > 0; --turns) {
        std::next_permutation(
            acts.begin(), acts.end(),
            [](const auto& a, const auto& b) { return &a < &b; });
      }
      std::vector<rt::Handle> all;
      for (const auto& act : acts) all.push_back(rt::go(act));
      join(all);
      CHECK((got.bytes == "x") != (got.error == rt::closed));
    }
  });
}

TEST_CASE("145: a number that is registered already is a clean error") {
  rt::run([] {
    rt::Pipe pipe = rt::pipe();
    const auto [twice, error] = rt::File::adopt(net::Fd(pipe.reader.fd()));
    CHECK(error == std::errc::file_exists);
    CHECK(twice.fd() == -1);
    // It was the other owner's too, and is gone.
    CHECK(get(pipe.reader).error == std::errc::bad_file_descriptor);
    CHECK_FALSE(pipe.reader.close());

    // A duplicate has a number of its own.
    pipe = rt::pipe();
    auto [one, not_one] = rt::File::adopt(duplicate(pipe.reader.fd()));
    auto [other, not_other] = rt::File::adopt(duplicate(pipe.reader.fd()));
    CHECK_FALSE(not_one);
    CHECK_FALSE(not_other);
    CHECK_FALSE(one.close());
    put(pipe.writer, "x");
    CHECK(get(other).bytes == "x");
  });
}

TEST_CASE("145: a closed number is a clean error") {
  rt::run([] {
    const Pair pair = connection();
    const rt::Handle reader =
        rt::go([&] { CHECK(get(pair.ours).bytes == "x"); });
    wait_until_parked(in("read", pair.ours));
    const int closed = duplicate(0).get();
    for (const int number : {-1, closed, 1 << 30}) {
      CHECK(rt::File::adopt(net::Fd(number)).error ==
            std::errc::bad_file_descriptor);
      CHECK(rt::Listener::adopt(net::Fd(number)).error ==
            std::errc::bad_file_descriptor);
    }
    // And changes nothing for others.
    put(pair.theirs, "x");
    reader.join();
  });
}

TEST_CASE("145: what does not listen is a clean error") {
  rt::run([] {
    std::array<int, 2> ends{};
    net::check(::pipe2(ends.data(), O_CLOEXEC), "pipe2");
    const net::Fd in(ends[1]);
    auto [no_socket, refused] = rt::Listener::adopt(net::Fd(ends[0]));
    if (!refused) refused = no_socket.accept().error;
    CHECK(refused == std::errc::not_a_socket);
    const auto [mute, error] = rt::Listener::adopt(deaf_socket());
    CHECK((error ? error : mute.accept().error) == rt::closed);
  });
}

TEST_CASE("146: a call that fails leaves no descriptor open") {
  rt::run([] {
    const BlackHole nowhere;
    const net::Fd nobody = deaf_socket();
    const rt::Listener listener = any_listener();
    const rt::PacketConn packets = any_packet_conn();
    const net::Address far = net::resolve("2001:db8::1", 1);
    const std::size_t before = descriptors();
    for (int i = 0; i < 3; ++i) {
      CHECK(rt::dial(net::local_address(nobody)).error ==
            std::errc::connection_refused);
      CHECK(rt::dial(nowhere.address(), rt::after(1ms)).error ==
            rt::deadline_exceeded);
      CHECK(rt::dial(far, rt::after(1ms)).error);
      CHECK(rt::listen(listener.address()).error == std::errc::address_in_use);
      CHECK(rt::listen(far).error);
      CHECK(rt::listen_packet(packets.address()).error ==
            std::errc::address_in_use);
      CHECK(rt::File::adopt(net::Fd(::memfd_create("file", 0))).error);
      CHECK(descriptors() == before);
    }
  });
}

TEST_CASE("146: nor does one for which there is no number, or not enough") {
  rt::run([] {
    const rt::Listener listener = any_listener();
    const net::Address address = listener.address();
    const std::size_t before = descriptors();
    for (const rlim_t places : {0U, 1U}) {
      const Room few(places);
      const std::error_code none(EMFILE, std::system_category());
      CHECK(rt::pipe().error == none);
      if (places == 0) {
        CHECK(rt::dial(address).error == none);
        CHECK(rt::listen(any_address()).error == none);
        CHECK(rt::listen_packet(any_address()).error == none);
        CHECK_THROWS_AS(rt::Event(), std::system_error);
      }
    }
    CHECK(descriptors() == before);
  });
}

TEST_CASE("146: out of descriptors accept says so, and the client waits") {
  rt::run([] {
    const rt::Listener listener = any_listener();
    const auto [theirs, not_dialed] = rt::dial(listener.address());
    REQUIRE_FALSE(not_dialed);
    const std::size_t before = descriptors();
    {
      const Room none(0);
      for (int i = 0; i < 3; ++i) {
        CHECK(listener.accept().error == std::errc::too_many_files_open);
      }
    }
    CHECK(descriptors() == before);
    const auto [ours, error] = listener.accept();
    CHECK_FALSE(error);
    put(theirs, "x");
    CHECK(get(ours).bytes == "x");
  });
}

// The end of run.

namespace {

// All that can be waited for, and who waits there.
struct World {
  Count closed{0};
  Count destroyed{0};
  std::size_t waiting = 0;
  Pair pair;
  rt::Listener listener;
  rt::PacketConn packets;
  rt::Pipe pipe;
  std::optional<rt::Event> event;
  net::Address nowhere;

  // Waits in the call; with something on its stack that has to be destroyed.
  template <typename Call>
  rt::Handle wait_in(Call call) {
    ++waiting;
    return rt::go([this, call] {
      const std::unique_ptr<World, void (*)(World*)> guard(
          this, [](World* world) { ++world->destroyed; });
      std::error_code error = call(*this);
      closed += error == rt::closed;
    });
  }

  void fill();
};

void World::fill() {
  pair = connection();
  listener = any_listener();
  packets = any_packet_conn();
  pipe = rt::pipe();
  event.emplace();
  for (int i = 0; i < 2; ++i) {
    wait_in([](World& world) { return get(world.pair.ours).error; });
    wait_in([](World& world) {
      return world.pair.ours.write(std::string(more_than_fits, 'x')).error;
    });
    wait_in([](World& world) { return world.listener.accept().error; });
  }
  wait_in([](World& world) { return get(world.pipe.reader).error; });
  wait_in([](World& world) { return world.event->wait().error; });
  wait_in([](World& world) { return rt::dial(world.nowhere).error; });
  const rt::Handle last = wait_in([](World& world) {
    std::array<char, 10> buffer{};
    return world.packets.read_from(buffer).error;
  });
  wait_in([last](World&) -> std::error_code {
    last.join();
    return rt::closed;
  });
}

}  // namespace

TEST_CASE("147: the end of run wakes whoever waits, with closed") {
  const BlackHole nowhere;
  const std::size_t before = descriptors();
  World world;
  world.nowhere = nowhere.address();
  rt::run([&] {
    world.fill();
    wait_until_parked("[read ", 4);
    wait_until_parked("[write ");
    wait_until_parked("[accept ");
    wait_until_parked("[connect ");
    wait_until_parked("[a turn to use ", 3);
    wait_until_parked("[join ");
    CHECK(world.closed == 0);
    CHECK(world.destroyed == 0);
  });
  CHECK(world.closed == world.waiting);
  CHECK(world.destroyed == world.waiting);
  world.event.reset();
  CHECK(descriptors() == before);
}

TEST_CASE("147: a call that begins after the end of run gives closed") {
  const std::size_t before = descriptors();
  bool ran = false;
  rt::run([&] {
    const auto listener = std::make_shared<rt::Listener>(any_listener());
    const auto pair = std::make_shared<Pair>(connection_to(*listener));
    const net::Address address = listener->address();
    rt::go([=, &ran] {
      const net::Fd nobody = deaf_socket();
      for (int i = 0; i < 100; ++i) {
        CHECK(get(pair->ours).error == rt::closed);
        CHECK(pair->ours.write(std::string_view("x")).error == rt::closed);
      }
      CHECK(listener->accept().error == rt::closed);
      CHECK(rt::dial(address).error);
      CHECK(rt::listen(any_address()).error == rt::closed);
      CHECK(rt::listen_packet(any_address()).error == rt::closed);
      CHECK(rt::pipe().error == rt::closed);
      CHECK_THROWS_AS(rt::Event(), std::system_error);
      CHECK(pair->theirs.close() == rt::closed);
      ran = true;
    });
  });
  CHECK(ran);
  CHECK(descriptors() == before);
}

TEST_CASE("147: an exception that leaves main ends it all the same") {
  const std::size_t before = descriptors();
  Got got;
  const auto run = [&] {
    rt::run([&] {
      const auto pair = std::make_shared<Pair>(connection());
      rt::go([pair, &got] { got = get(pair->ours); });
      wait_until_parked(in("read", pair->ours));
      throw std::runtime_error("enough");
    });
  };
  CHECK_THROWS_WITH(run(), "enough");
  CHECK(got.error == rt::closed);
  CHECK(descriptors() == before);
}

// Its number may be somebody else's then.
TEST_CASE("147: an event may be notified after the end of run") {
  std::optional<rt::Event> event;
  std::size_t before = 0;
  rt::run([&] {
    before = descriptors();
    event.emplace();
    event->notify();
  });
  std::vector<net::Fd> others;
  for (int i = 0; i < 10; ++i) {
    others.emplace_back(net::check(::memfd_create("file", 0), "memfd_create"));
  }
  for (int i = 0; i < 3; ++i) event->notify();
  for (const net::Fd& other : others) {
    CHECK(::lseek(other.get(), 0, SEEK_END) == 0);
  }
}

// Signals.

namespace {

// Interrupts every thread of this process but its own.
void signal_all(int number) {
  const auto own = ::syscall(SYS_gettid);
  for (const auto& entry :
       std::filesystem::directory_iterator("/proc/self/task")) {
    const int thread = std::stoi(entry.path().filename());
    if (thread != own) ::syscall(SYS_tgkill, ::getpid(), thread, number);
  }
}

}  // namespace

TEST_CASE("187: signals that interrupt the wait change nothing") {
  struct sigaction action {};
  struct sigaction old {};
  action.sa_handler = [](int) {};
  REQUIRE(::sigaction(SIGUSR1, &action, &old) == 0);
  rt::run([] {
    const Pair pair = connection();
    const rt::Handle server = rt::go([&] { echo(pair.ours, 4096); });
    const rt::Event interrupted;
    std::atomic<bool> over{false};
    const std::size_t before = calls.interrupted;
    const std::jthread other([&] {
      for (std::size_t i = 1; !over; ++i) {
        signal_all(SIGUSR1);
        if (calls.interrupted >= before + 50) interrupted.notify();
        std::this_thread::yield();
      }
    });
    CHECK_FALSE(interrupted.wait().error);
    for (int i = 0; i < 200; ++i) {
      put(pair.theirs, "hello");
      CHECK(get_exactly(pair.theirs, 5) == "hello");
    }
    over = true;
    CHECK_FALSE(pair.theirs.close_write());
    server.join();
  });
  REQUIRE(::sigaction(SIGUSR1, &old, nullptr) == 0);
}

TEST_CASE("187: a call that a signal interrupts is made again") {
  rt::run([] {
    const rt::Listener listener = any_listener();
    calls.lie = EINTR;
    calls.lies = 2;
    const Pair pair = connection_to(listener);
    CHECK(calls.lies == 0);
    put(pair.theirs, "x");
    calls.watched = pair.ours.fd();
    calls.lies = 2;
    CHECK(get(pair.ours).bytes == "x");
    calls.watched = -1;
    CHECK(calls.lies == 0);
  });
}

TEST_CASE("187: a signal can be read like a message") {
  sigset_t wanted;
  ::sigemptyset(&wanted);
  ::sigaddset(&wanted, SIGUSR1);
  REQUIRE(::pthread_sigmask(SIG_BLOCK, &wanted, nullptr) == 0);
  rt::run([&] {
    const rt::Adopted signals =
        rt::File::adopt(net::Fd(::signalfd(-1, &wanted, SFD_CLOEXEC)));
    REQUIRE_FALSE(signals.error);
    signalfd_siginfo info{};
    const rt::Handle reader = rt::go([&] {
      const auto bytes = std::span(reinterpret_cast<char*>(&info), sizeof info);
      CHECK(signals.file.read(bytes).n == sizeof info);
    });
    wait_until_parked(in("read", signals.file));
    REQUIRE(::kill(::getpid(), SIGUSR1) == 0);
    reader.join();
    CHECK(info.ssi_signo == SIGUSR1);
  });
  REQUIRE(::pthread_sigmask(SIG_UNBLOCK, &wanted, nullptr) == 0);
}
