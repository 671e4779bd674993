// Angle brackets: quotes would find the file beside this one first, also when
// the solution is to be tested.
#include <reserve_fd.hpp>

#include <doctest/doctest.h>
#include <fcntl.h>
#include <linux/sockios.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <cstddef>
#include <exception>
#include <functional>
#include <map>
#include <memory>
#include <sstream>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "common/error.hpp"
#include "common/fd.hpp"
#include "common/socket.hpp"
#include "common/testing/client.hpp"
#include "common/testing/process.hpp"
#include "common/testing/running_server.hpp"

namespace {

int accept_calls = 0;
// What happens elsewhere just before an accept; the errno that this accept
// fails with, or 0.
std::function<int()> before_accept;

int accept_instead(int listener, sockaddr* address, socklen_t* length,
                   int flags) {
  if (++accept_calls > 1000) throw std::runtime_error("1,000 accepts a round");
  const int error = before_accept ? before_accept() : 0;
  if (error != 0) {
    errno = error;
    return -1;
  }
  return static_cast<int>(
      ::syscall(SYS_accept4, listener, address, length, flags));
}

// What happens elsewhere just before somebody reads from this descriptor.
std::function<void(int)> before_read;

ssize_t receive_instead(int fd, void* buffer, std::size_t size, int flags) {
  if (before_read) before_read(fd);
  return ::syscall(SYS_recvfrom, fd, buffer, size, flags, nullptr, nullptr);
}

}  // namespace

// The linker finds all four before those of the C library.
extern "C" int accept4(int listener, sockaddr* address, socklen_t* length,
                       int flags) {
  return accept_instead(listener, address, length, flags);
}

extern "C" int accept(int listener, sockaddr* address, socklen_t* length) {
  return accept_instead(listener, address, length, 0);
}

extern "C" ssize_t recv(int fd, void* buffer, std::size_t size, int flags) {
  return receive_instead(fd, buffer, size, flags);
}

extern "C" ssize_t read(int fd, void* buffer, std::size_t size) {
  if (before_read) before_read(fd);
  return ::syscall(SYS_read, fd, buffer, size);
}

namespace {

using testing::Client;

// How long a test waits for what has happened already if the doorman is right.
// Where one wait was in vain others will be.
std::chrono::milliseconds patience{3000};
constexpr std::chrono::milliseconds little_patience{200};

tcp_info info(int socket) {
  tcp_info info{};
  socklen_t size = sizeof info;
  net::check(::getsockopt(socket, IPPROTO_TCP, TCP_INFO, &info, &size),
             "getsockopt TCP_INFO");
  return info;
}

bool is_acknowledged(int socket) {
  int bytes = 0;
  net::check(::ioctl(socket, SIOCOUTQ, &bytes), "ioctl SIOCOUTQ");
  return bytes == 0;
}

// How often the kernel had no room for a TIME_WAIT: what comes for such a
// connection is answered with RST, however politely it was closed.
std::string time_waits_lost() {
  // Opened once: a full house has no descriptor for it.
  static const net::Fd file(::open("/proc/net/netstat", O_CLOEXEC));
  std::string text(65536, '\0');  // a line of names, a line of numbers
  const ssize_t n = ::pread(file.get(), text.data(), text.size(), 0);
  text.resize(n > 0 ? static_cast<std::size_t>(n) : 0);
  std::istringstream names(text);
  std::istringstream numbers(text.substr(text.find('\n') + 1));
  std::string name;
  std::string number;
  while (names >> name && numbers >> number) {
    if (name == "TCPTimeWaitOverflow") return number;
  }
  return "unknown";
}

const std::string time_waits_lost_before = time_waits_lost();

// How the connection ends for this client: "end", "reset", "end and reset" or
// "silence".
std::string parting(Client& client) {
  try {
    pollfd entry{client.fd(), POLLIN, 0};
    const int limit = static_cast<int>(patience.count());
    if (net::check(::poll(&entry, 1, limit), "poll") == 0) {
      patience = little_patience;
      return "silence";
    }
    char byte = 0;
    if (::recv(client.fd(), &byte, 1, 0) != 0) return "reset";
    // Once both ends are finished nothing can come any more.
    ::shutdown(client.fd(), SHUT_WR);
    testing::wait_until("the connection to be over", [&] {
      return info(client.fd()).tcpi_state == TCP_CLOSE;
    });
    int error = 0;
    socklen_t size = sizeof error;
    net::check(::getsockopt(client.fd(), SOL_SOCKET, SO_ERROR, &error, &size),
               "getsockopt SO_ERROR");
    const bool sure = time_waits_lost() == time_waits_lost_before;
    return error == 0 || !sure ? "end" : "end and reset";
  } catch (const std::exception& error) {
    return error.what();
  }
}

// Restores the limit of descriptors.
struct OldLimit {
  OldLimit() { net::check(::getrlimit(RLIMIT_NOFILE, &value), "getrlimit"); }
  OldLimit(const OldLimit&) = delete;
  OldLimit& operator=(const OldLimit&) = delete;
  ~OldLimit() { ::setrlimit(RLIMIT_NOFILE, &value); }

  rlimit value{};
};

// A process that may have so many descriptors, all of them taken but for the
// doorman's spare. The clients are beyond: the limit is on the number, and is
// lifted while they come.
class House {
 public:
  explicit House(rlim_t places = 64)
      : places_(places),
        listener_(net::listen_on(net::resolve("127.0.0.1", 0))) {
    net::set_nonblocking(listener_);
    limit(places_);
    doorman_ = std::make_unique<Doorman>();
    take_all(seats_);
  }
  House(const House&) = delete;
  House& operator=(const House&) = delete;
  ~House() {
    before_accept = nullptr;
    before_read = nullptr;
  }

  // Connects and waits until the doorman can hear it. To be called before room
  // is made: else the client would take it.
  Client knock(const std::string& words = {}) {
    limit(outside_.value.rlim_cur);
    const unsigned before = info(listener_.get()).tcpi_unacked;
    Client client(net::local_address(listener_));
    client.send(words);
    testing::wait_until("the client to be in the queue", [&] {
      return info(listener_.get()).tcpi_unacked > before &&
             is_acknowledged(client.fd());
    });
    limit(places_);
    return client;
  }

  // As a server does it: rounds while the listener is reported, until the
  // doorman wants something else.
  std::string receive() {
    for (int i = 0; i < 100; ++i) {
      pollfd entry{listener_.get(), POLLIN, 0};
      if (net::check(::poll(&entry, 1, 0), "poll") == 0) return "waits";
      const Next next = receive_once();
      if (next == Next::Rest) return "rests";
      if (next == Next::Stop) return "stops";
    }
    return "spins: 100 rounds have said Wait, and it is still reported";
  }

  Next receive_once() {
    accept_calls = 0;
    Arrivals arrivals = doorman_->receive(listener_);
    all_accept_calls_ += accept_calls;
    for (net::Fd& fd : arrivals.clients) inside_.push_back(std::move(fd));
    return arrivals.next;
  }

  // The doorman goes, somebody takes the spare's number, and another doorman
  // comes. False if that one throws.
  bool change_doorman() {
    doorman_.reset();
    take_all(seats_);
    try {
      doorman_ = std::make_unique<Doorman>();
    } catch (const std::exception&) {
      return false;
    }
    return true;
  }

  // Somebody leaves, or so many do.
  void make_room(std::size_t n = 1) {
    for (; n > 0; --n) seats_.pop_back();
  }

  // Whatever number becomes free, somebody else has it before the next accept.
  void let_others_be_faster() {
    before_accept = [this] {
      take_all(seats_);
      return 0;
    };
  }

  // If there is a number free, the next accept fails like this.
  void fail_where_there_is_room(int error) {
    before_accept = [this, error] {
      const bool room = static_cast<bool>(open_one());
      return room ? error : 0;
    };
  }

  // If there is a number free, the client that waits goes somewhere else.
  void let_the_client_go() {
    before_accept = [this] {
      if (open_one()) {
        const net::Fd elsewhere(static_cast<int>(::syscall(
            SYS_accept4, listener_.get(), nullptr, nullptr, SOCK_CLOEXEC)));
      }
      return 0;
    };
  }

  // Whenever somebody reads, this client has said some more.
  void let_talk(const Client& client) {
    before_read = [fd = client.fd(), reads = 0](int reader) mutable {
      if (++reads > 10'000) throw std::runtime_error("10,000 reads a refusal");
      const std::array<char, 4096> words{};
      ::send(fd, words.data(), words.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
      pollfd entry{reader, POLLIN, 0};
      ::poll(&entry, 1, static_cast<int>(patience.count()));
    };
  }

  void nobody_interferes() { before_accept = nullptr; }

  void close_the_door() { ::shutdown(listener_.get(), SHUT_RDWR); }

  // How many are inside; all of them have to be fit for the loop.
  std::size_t inside() const {
    for (const net::Fd& fd : inside_) {
      if ((::fcntl(fd.get(), F_GETFL) & O_NONBLOCK) == 0) return 0;
      if ((::fcntl(fd.get(), F_GETFD) & FD_CLOEXEC) == 0) return 0;
    }
    return inside_.size();
  }

  std::size_t in_the_queue() const {
    return info(listener_.get()).tcpi_unacked;
  }
  int all_accept_calls() const { return all_accept_calls_; }

 private:
  void limit(rlim_t descriptors) const {
    const rlimit limits{descriptors, outside_.value.rlim_max};
    net::check(::setrlimit(RLIMIT_NOFILE, &limits), "setrlimit");
  }

  net::Fd open_one() const {
    return net::Fd(::fcntl(listener_.get(), F_DUPFD_CLOEXEC, 0));
  }

  void take_all(std::vector<net::Fd>& taken) const {
    while (net::Fd fd = open_one()) taken.push_back(std::move(fd));
  }

  OldLimit outside_;
  rlim_t places_;
  net::Fd listener_;
  int all_accept_calls_ = 0;
  std::vector<net::Fd> seats_;
  std::vector<net::Fd> inside_;
  std::unique_ptr<Doorman> doorman_;
};

// An echo server with a doorman, until the listener is shut down.
class Server {
 public:
  explicit Server(net::Fd listener)
      : listener_(std::move(listener)),
        epoll_(net::check(::epoll_create1(EPOLL_CLOEXEC), "epoll_create1")) {
    net::set_nonblocking(listener_);
    add(listener_);
  }

  void run() {
    while (next_ != Next::Stop) {
      const bool rests = next_ == Next::Rest;
      epoll_event event{};
      const int n = ::epoll_wait(epoll_.get(), &event, 1, rests ? 100 : -1);
      if (n > 0 && event.data.fd != listener_.get()) attend(event.data.fd);
      if (rests) {
        add(listener_);
        next_ = Next::Wait;
      } else if (n > 0 && event.data.fd == listener_.get()) {
        receive();
      }
    }
  }

 private:
  void add(const net::Fd& fd) {
    epoll_event event{EPOLLIN, {.fd = fd.get()}};
    net::check(::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, fd.get(), &event),
               "epoll_ctl");
  }

  void receive() {
    accept_calls = 0;
    Arrivals arrivals = doorman_.receive(listener_);
    for (net::Fd& fd : arrivals.clients) {
      add(fd);
      const int number = fd.get();
      clients_[number] = std::move(fd);
    }
    next_ = arrivals.next;
    if (next_ != Next::Rest) return;
    ::epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, listener_.get(), nullptr);
  }

  void attend(int fd) {
    std::array<char, 1000> block;
    const ssize_t n = ::recv(fd, block.data(), block.size(), 0);
    if (n > 0) {
      ::send(fd, block.data(), static_cast<std::size_t>(n), MSG_NOSIGNAL);
    } else {
      clients_.erase(fd);
    }
  }

  net::Fd listener_;
  net::Fd epoll_;
  Doorman doorman_;
  Next next_ = Next::Wait;
  std::map<int, net::Fd> clients_;
};

// "" if the client's words come back.
std::string echo(Client& client, const std::string& words) {
  try {
    return client.echo(words) == words ? "" : "other words";
  } catch (const std::exception& error) {
    patience = little_patience;
    return error.what();
  }
}

// Sleeps, and does not wake for 20 ms.
bool falls_asleep(pid_t process) {
  try {
    testing::wait_until(
        "the server to sleep",
        [&] {
          const auto wakeups = testing::voluntary_switches(process);
          ::poll(nullptr, 0, 20);
          return testing::state(process) == 'S' &&
                 testing::voluntary_switches(process) == wakeups;
        },
        patience);
  } catch (const std::exception&) {
    return false;
  }
  return true;
}

}  // namespace

TEST_CASE("there is room") {
  House house;
  const std::array clients{house.knock(), house.knock(), house.knock()};
  house.make_room(3);
  CHECK_MESSAGE((house.receive() == "waits" && house.inside() == 3),
                "whoever finds room is let in, fit for the loop");
}

TEST_CASE("there is no room for several at once") {
  House house;
  std::array clients{house.knock(), house.knock(), house.knock()};
  CHECK_MESSAGE(house.receive() == "waits", "nobody waits any more");
  CHECK_MESSAGE(std::all_of(clients.begin(), clients.end(),
                            [](Client& c) { return parting(c) == "end"; }),
                "all see the end at once");
  CHECK_MESSAGE(house.inside() == 0, "the spare is nobody's place");
  CHECK_MESSAGE(house.all_accept_calls() <= 4 * (3 + 1),
                "after EAGAIN accept4 is not asked again");
}

TEST_CASE("many come at once") {
  House house(120);
  std::vector<Client> clients;
  while (clients.size() < 70) clients.push_back(house.knock());
  SUBCASE("there is room") {
    house.make_room(70);
    house.receive_once();
    CHECK_MESSAGE(house.in_the_queue() >= 70 - 64,
                  "at most 64 are let in at once");
  }
  SUBCASE("there is no room") {
    house.receive_once();
    CHECK_MESSAGE(house.in_the_queue() >= 70 - 64,
                  "at most 64 are refused at once");
  }
}

TEST_CASE("there is no room for one who has said something") {
  House house;
  Client client = house.knock(testing::pattern(20'000));
  house.receive();
  CHECK_MESSAGE(parting(client) == "end", "it sees the end and no reset");
}

TEST_CASE("there is no room for one who talks on and on") {
  House house;
  const Client client = house.knock();
  house.let_talk(client);
  CHECK_MESSAGE(house.receive() == "waits", "it holds nobody up");
}

TEST_CASE("there is room for one after others have been refused") {
  House house;
  const std::array clients{house.knock(), house.knock()};
  house.receive();
  const Client lucky = house.knock();
  house.make_room();
  house.receive();
  Client late = house.knock();
  house.receive();
  CHECK_MESSAGE((house.inside() == 1 && parting(late) == "end"),
                "one is let in, and the next is refused");
}

TEST_CASE("somebody else takes the spare's number") {
  House house;
  house.let_others_be_faster();
  const Client client = house.knock();
  CHECK_MESSAGE(house.receive() == "rests", "without a spare it rests");
  house.nobody_interferes();
  house.make_room(2);
  CHECK_MESSAGE((house.receive() == "waits" && house.inside() == 1),
                "who has waited is let in when there is room");
  Client late = house.knock();
  house.receive();
  CHECK_MESSAGE(parting(late) == "end", "there is a spare again");
}

TEST_CASE("there is no spare, and then one place is free") {
  House house;
  REQUIRE_MESSAGE(house.change_doorman(),
                  "a doorman who finds no room has no spare at first");
  Client client = house.knock();
  house.make_room();
  CHECK_MESSAGE((house.receive() == "waits" && house.inside() == 0 &&
                 parting(client) == "end"),
                "the place becomes the spare, and the client is refused");
}

TEST_CASE("the client has gone when its place is free") {
  House house;
  house.let_the_client_go();
  const Client client = house.knock();
  CHECK_MESSAGE(house.receive() == "waits", "nobody is left to wait for");
  house.nobody_interferes();
  Client late = house.knock();
  house.receive();
  CHECK_MESSAGE(parting(late) == "end",
                "the spare is back though nobody was refused");
}

TEST_CASE("accept fails for a passing reason") {
  House house;
  const Client client = house.knock();
  house.make_room();
  std::vector<int> errors{ECONNABORTED, EINTR};
  before_accept = [&] {
    if (errors.empty()) return 0;
    const int error = errors.back();
    errors.pop_back();
    return error;
  };
  CHECK_MESSAGE((house.receive() == "waits" && house.inside() == 1),
                "nobody is delayed by it");
}

TEST_CASE("accept fails for a reason that stays") {
  House house;
  const Client client = house.knock();
  house.fail_where_there_is_room(ENOMEM);
  CHECK_MESSAGE(house.receive() == "rests",
                "ENOMEM after the spare was closed: the listener rests");
  house.make_room();
  house.fail_where_there_is_room(ENFILE);
  CHECK_MESSAGE(house.receive() == "rests",
                "ENFILE while there is room: the listener rests");
}

TEST_CASE("the listener is shut down") {
  House house;
  house.close_the_door();
  SUBCASE("there is room") {
    house.make_room();
    CHECK_MESSAGE(house.receive() == "stops", "it stops with room");
  }
  SUBCASE("there is a spare") {
    CHECK_MESSAGE(house.receive() == "stops", "it stops with a spare");
  }
  SUBCASE("there is no spare") {
    house.let_others_be_faster();
    CHECK_MESSAGE(house.receive() == "stops", "it stops without a spare");
  }
}

TEST_CASE("a server is full") {
  testing::RunningServer server(
      [](net::Fd listener) { Server(std::move(listener)).run(); });
  Client ann(server.address(), patience);
  echo(ann, "good morning\n");
  Client bob(server.address(), patience);
  echo(bob, "good morning\n");
  server.limit_descriptors(testing::open_descriptors(server.pid()));
  const auto others = testing::connect_clients(server.address(), 5, patience);
  CHECK_MESSAGE(falls_asleep(server.pid()), "it goes to sleep as before");
  CHECK_MESSAGE((echo(ann, "it is full here\n") == "" &&
                 echo(bob, "it is full here\n") == ""),
                "those who came in time are served");
}
