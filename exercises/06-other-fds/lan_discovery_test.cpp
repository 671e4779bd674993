// Angle brackets: quotes would find the file beside this one first, also when
// the solution is to be tested.
#include <lan_discovery.hpp>

#include <doctest/doctest.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <ctime>
#include <exception>
#include <functional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>

#include "common/error.hpp"
#include "common/fd.hpp"
#include "common/socket.hpp"
#include "common/testing/process.hpp"

// The answer may use any of these names too.
namespace probe {
namespace {

using namespace std::chrono_literals;

// How long a test waits for what a right answer does at once.
constexpr std::chrono::milliseconds patience{3000};
constexpr std::chrono::milliseconds little_patience{300};

struct Unending : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// What surrounds the answer: it is told of its calls, and may interfere.
struct World {
  std::function<void()> after_question;  // to the broadcast address
  std::function<void()> before_receive;
  int receive_error = 0;  // the errno of the next call that receives
  int send_error = 0;     // and of the next that sends
  int receives = 0;
  int looks = 0;  // at a datagram that is taken
  int questions = 0;
  int sends = 0;
  std::chrono::seconds clock_set_by{0};  // CLOCK_REALTIME
};

World world;

bool waits_for_ever(int fd, int flags) {
  pollfd entry{fd, POLLIN, 0};
  timeval limit{};
  socklen_t size = sizeof limit;
  ::getsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, &size);
  const bool blocks = (::fcntl(fd, F_GETFL) & O_NONBLOCK) == 0 &&
                      (flags & MSG_DONTWAIT) == 0 && limit.tv_sec == 0 &&
                      limit.tv_usec == 0;
  return blocks && ::poll(&entry, 1, 0) == 0;
}

// False: it fails, and errno is set.
bool may_receive(int fd, int flags) {
  ++world.receives;
  if (world.before_receive) world.before_receive();
  if (world.receive_error != 0) {
    errno = std::exchange(world.receive_error, 0);
    return false;
  }
  if (waits_for_ever(fd, flags)) throw Unending("it waits for a datagram");
  if ((flags & MSG_PEEK) == 0) ++world.looks;
  return true;
}

bool may_send() {
  ++world.sends;
  if (world.send_error == 0) return true;
  errno = std::exchange(world.send_error, 0);
  return false;
}

// 127.255.255.255
bool is_broadcast(const sockaddr* address) {
  sockaddr_in to{};
  if (address != nullptr) std::memcpy(&to, address, sizeof to);
  return ntohl(to.sin_addr.s_addr) == 0x7fff'ffff;
}

void note_question() {
  ++world.questions;
  if (world.after_question) world.after_question();
}

}  // namespace

// These take the place of the C library's in this program.

extern "C" ssize_t recvfrom(int fd, void* bytes, std::size_t n, int flags,
                            sockaddr* from, socklen_t* length) {
  if (!may_receive(fd, flags)) return -1;
  return ::syscall(SYS_recvfrom, fd, bytes, n, flags, from, length);
}

extern "C" ssize_t recv(int fd, void* bytes, std::size_t n, int flags) {
  if (!may_receive(fd, flags)) return -1;
  return ::syscall(SYS_recvfrom, fd, bytes, n, flags, nullptr, nullptr);
}

extern "C" ssize_t recvmsg(int fd, msghdr* message, int flags) {
  if (!may_receive(fd, flags)) return -1;
  return ::syscall(SYS_recvmsg, fd, message, flags);
}

extern "C" ssize_t sendto(int fd, const void* bytes, std::size_t n, int flags,
                          const sockaddr* to, socklen_t length) {
  if (!may_send()) return -1;
  const ssize_t sent = ::syscall(SYS_sendto, fd, bytes, n, flags, to, length);
  if (sent >= 0 && is_broadcast(to)) note_question();
  return sent;
}

extern "C" ssize_t send(int fd, const void* bytes, std::size_t n, int flags) {
  if (!may_send()) return -1;
  const ssize_t sent = ::syscall(SYS_sendto, fd, bytes, n, flags, nullptr, 0);
  sockaddr_storage to{};
  socklen_t length = sizeof to;
  const bool connected =
      ::getpeername(fd, reinterpret_cast<sockaddr*>(&to), &length) == 0;
  if (sent >= 0 && connected &&
      is_broadcast(reinterpret_cast<sockaddr*>(&to))) {
    note_question();
  }
  return sent;
}

extern "C" ssize_t sendmsg(int fd, const msghdr* message, int flags) {
  if (!may_send()) return -1;
  const ssize_t sent = ::syscall(SYS_sendmsg, fd, message, flags);
  const auto* to = static_cast<const sockaddr*>(message->msg_name);
  if (sent >= 0 && is_broadcast(to)) note_question();
  return sent;
}

extern "C" int sendmmsg(int fd, mmsghdr* messages, unsigned n, int flags) {
  for (unsigned i = 0; i < n; ++i) {
    const ssize_t sent = ::sendmsg(fd, &messages[i].msg_hdr, flags);
    if (sent < 0) return i > 0 ? static_cast<int>(i) : -1;
    messages[i].msg_len = static_cast<unsigned>(sent);
  }
  return static_cast<int>(n);
}

// system_clock looks here, and so does steady_clock.
extern "C" int clock_gettime(clockid_t clock, timespec* time) noexcept {
  const long result = ::syscall(SYS_clock_gettime, clock, time);
  if (clock == CLOCK_REALTIME) time->tv_sec += world.clock_set_by.count();
  return static_cast<int>(result);
}

namespace {

bool readable(int fd, std::chrono::milliseconds limit = patience) {
  pollfd entry{fd, POLLIN, 0};
  return ::poll(&entry, 1, static_cast<int>(limit.count())) > 0;
}

std::uint16_t port_of(const net::Fd& socket) {
  const std::string text = net::local_address(socket).text();
  const auto port = std::stoul(text.substr(text.rfind(':') + 1));
  return static_cast<std::uint16_t>(port);
}

net::Address broadcast_to(const net::Fd& socket) {
  return net::resolve("127.255.255.255", port_of(socket));
}

// A UDP socket of the test. Its calls are not the answer's: they go past the
// functions above.
class Socket {
 public:
  explicit Socket(const char* host)
      : fd_(net::check(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0),
                       "socket")) {
    const net::Address address = net::resolve(host, 0);
    net::check(::bind(fd_.get(), address.get(), address.length), "bind");
    const int on = 1;
    net::check(
        ::setsockopt(fd_.get(), SOL_SOCKET, SO_BROADCAST, &on, sizeof on),
        "setsockopt SO_BROADCAST");
  }

  void say(const net::Address& to, std::string_view words) const {
    net::check(::syscall(SYS_sendto, fd_.get(), words.data(), words.size(), 0,
                         to.get(), to.length),
               "sendto");
  }

  // Empty if nothing comes.
  std::string hear(std::chrono::milliseconds limit = little_patience) {
    if (!readable(fd_.get(), limit)) return {};
    std::array<char, 100> bytes;
    heard_.length = sizeof heard_.storage;
    const auto n =
        net::check(::syscall(SYS_recvfrom, fd_.get(), bytes.data(),
                             bytes.size(), 0, &heard_.storage, &heard_.length),
                   "recvfrom");
    return {bytes.data(), static_cast<std::size_t>(n)};
  }

  // Who has said what was heard last.
  const net::Address& heard() const { return heard_; }
  const net::Fd& fd() const { return fd_; }

 private:
  net::Fd fd_;
  net::Address heard_;
};

// Somebody on the network who is asked, and says what the test wants. It
// answers from an address and a port of its own.
class Neighbour {
 public:
  net::Address address() const { return broadcast_to(ear_.fd()); }

  // False: nobody has asked.
  bool is_asked() { return ear_.hear() == question; }

  void say(std::string_view words) const { mouth_.say(ear_.heard(), words); }

 private:
  Socket ear_{"0.0.0.0"};
  Socket mouth_{"127.0.0.5"};
};

// What becomes of the search: an address, "nobody", or why it did not end well.
std::string search(const net::Address& broadcast,
                   std::chrono::milliseconds limit = patience) {
  std::string result;
  try {
    const auto found = discover(broadcast, limit);
    result = found ? found->text() : "nobody";
  } catch (const std::exception& error) {
    result = error.what();
  }
  return result;
}

// The same, with this neighbour, who is told the number of each question that
// it hears.
std::string search(Neighbour& neighbour, const std::function<void(int)>& asked,
                   std::chrono::milliseconds limit = patience) {
  int questions = 0;
  world.after_question = [&] {
    if (neighbour.is_asked()) asked(++questions);
  };
  return search(neighbour.address(), limit);
}

constexpr std::string_view good_answer = "echo is at port 4711";
constexpr std::string_view good_place = "127.0.0.5:4711";

// From now on the socket of the answer is never empty when it is read: before
// each datagram is taken, another one is said to it. Who does not end by itself
// is ended.
void flood(const std::function<void()>& say) {
  const auto end = testing::Clock::now() + patience + 1s;
  for (int i = 0; i < 2; ++i) say();
  world.before_receive = [say, end] {
    say();
    if (testing::Clock::now() > end) throw Unending("it does not end");
  };
}

// The server's side beside the test.
class Server {
 public:
  // "0 answers", or what it throws.
  std::string hears(std::string_view words) {
    world.sends = 0;
    asker_.say(broadcast_to(responder_), words);
    if (!readable(responder_.get(), little_patience)) return "it is deaf";
    for (int i = 0; i < 100 && readable(responder_.get(), 0ms); ++i) {
      std::string error = attend();
      if (!error.empty()) return error;
    }
    if (readable(responder_.get(), 0ms)) return "it is left where it was";
    return std::to_string(world.sends) + " answers";
  }

  // "", or what it throws.
  std::string attend() {
    try {
      answer(responder_, 8080);
      return {};
    } catch (const std::exception& error) {
      return error.what();
    }
  }

  Socket& asker() { return asker_; }
  const net::Fd& responder() const { return responder_; }

 private:
  net::Fd responder_ = open_responder(0);
  Socket asker_{"127.0.0.1"};
};

struct Words {
  std::string what;
  std::string words;
};

}  // namespace

TEST_CASE("a server is looked for") {
  world = {};
  Server server;
  world.after_question = [&] {
    if (readable(server.responder().get(), little_patience)) server.attend();
  };
  CHECK_MESSAGE(search(broadcast_to(server.responder())) == "127.0.0.1:8080",
                "it is found where it listens");
}

TEST_CASE("who answers has another address") {
  world = {};
  Neighbour bob;
  const auto descriptors = testing::open_descriptors(::getpid());
  const std::string found = search(bob, [&](int) { bob.say(good_answer); });
  CHECK_MESSAGE(found == good_place,
                "the address is the sender's, the port the answer's");
  CHECK_MESSAGE(testing::open_descriptors(::getpid()) == descriptors,
                "who has found closes what it has opened");
}

TEST_CASE("questions are lost") {
  world = {};
  Neighbour bob;
  auto last = testing::Clock::now();
  auto shortest = testing::Clock::duration::max();
  const std::string found = search(bob, [&](int number) {
    const auto now = testing::Clock::now();
    if (number > 3) shortest = std::min(shortest, now - last);
    last = now;
    if (number == 12) bob.say(good_answer);
  });
  CHECK_MESSAGE(found == good_place, "a lost question is asked again");
  // One of several: the machine may be busy.
  CHECK_MESSAGE(shortest < 250ms, "the pause between two questions is short");
}

TEST_CASE("there is less time than between two questions") {
  Neighbour bob;
  int questions = 0;
  auto shortest = testing::Clock::duration::max();
  // The best of several: the machine may be busy.
  for (int i = 0; i < 5; ++i) {
    world = {};
    const auto start = testing::Clock::now();
    search(bob.address(), 20ms);
    shortest = std::min(shortest, testing::Clock::now() - start);
    questions += world.questions;
  }
  CHECK_MESSAGE(questions > 0, "the first question is asked at once");
  CHECK_MESSAGE(shortest < 90ms, "the end does not wait for a question");
  CHECK_MESSAGE(shortest >= 20ms, "it waits until the limit has passed");
}

TEST_CASE("somebody sets the clock") {
  world = {};
  Neighbour bob;
  const std::string found = search(bob, [&](int number) {
    if (number == 1) world.clock_set_by = 1h;
    if (number == 2) bob.say(good_answer);
  });
  CHECK_MESSAGE(found == good_place, "it goes by a clock that nobody sets");
}

TEST_CASE("others talk meanwhile") {
  world = {};
  Neighbour bob;
  bool flooded = false;
  const auto chatter = [&] { bob.say("who is there?"); };
  const std::string found = search(bob, [&](int number) {
    if (!std::exchange(flooded, true)) flood(chatter);
    if (number == 2) bob.say(good_answer);
  });
  CHECK_MESSAGE(found == good_place, "the next question is not late for it");
}

TEST_CASE("others talk and nobody answers") {
  world = {};
  Neighbour bob;
  bool flooded = false;
  const auto chatter = [&] { bob.say("who is there?"); };
  const std::string found = search(
      bob,
      [&](int) {
        if (!std::exchange(flooded, true)) flood(chatter);
      },
      250ms);
  CHECK_MESSAGE(found == "nobody", "what is no answer prolongs nothing");
  CHECK_MESSAGE(world.questions <= 3, "it asks no more often than it should");
}

TEST_CASE("what comes is no answer") {
  const std::string start(answer_start);
  for (const Words& bad : {
           Words{"no port", start},
           Words{"no number", start + "eighty"},
           Words{"port 0", start + "0"},
           Words{"a number that is too large", start + "65616"},
           Words{"a number below 0", start + "-1"},
           Words{"a sign", start + "+80"},
           Words{"a leading zero", start + "080"},
           Words{"something before it", " " + start + "80"},
           Words{"something behind it", start + "80\n"},
           Words{"more than fits", start + "12345678"},
           Words{"a space before the number", start + " 80"},
           Words{"a zero behind it", start + "80" + '\0'},
           Words{"2^32 + 80", start + "4294967376"},
           Words{"nothing", ""},
           Words{"a question", std::string(question)},
       }) {
    world = {};
    Neighbour bob;
    const std::string found = search(bob, [&](int number) {
      if (number == 1) bob.say(bad.words);
      if (number == 2) bob.say(good_answer);
    });
    CHECK_MESSAGE(found == good_place,
                  "what is no answer does not count: " << bad.what);
  }
}

TEST_CASE("nobody answers") {
  world = {};
  Neighbour bob;
  const auto descriptors = testing::open_descriptors(::getpid());
  const auto switches = testing::voluntary_switches(::getpid());
  const std::string found = search(bob.address(), 350ms);
  const auto slept = testing::voluntary_switches(::getpid()) - switches;
  CHECK_MESSAGE(found == "nobody", "nobody is waited for in vain for ever");
  CHECK_MESSAGE((world.receives < 30 && slept < 30),
                "while nothing comes it sleeps");
  CHECK_MESSAGE(testing::open_descriptors(::getpid()) == descriptors,
                "the search leaves no descriptor open");
}

TEST_CASE("a question cannot be sent") {
  world = {};
  world.send_error = ENOBUFS;
  Neighbour bob;
  const std::string found = search(bob, [&](int) { bob.say(good_answer); });
  CHECK_MESSAGE(found == good_place,
                "a question that cannot be sent is a lost one");
}

TEST_CASE("an error is reported to the one who asks") {
  world = {};
  Neighbour bob;
  const std::string found = search(bob, [&](int number) {
    if (number == 1) world.receive_error = ECONNREFUSED;
    if (number == 2) bob.say(good_answer);
  });
  CHECK_MESSAGE(found == good_place, "an error of a datagram ends no search");
}

TEST_CASE("the server is asked") {
  world = {};
  Server server;
  CHECK_MESSAGE(server.hears(question) == "1 answers",
                "a question gets one answer");
  CHECK_MESSAGE(server.asker().hear() == "echo is at port 8080",
                "the answer is heard by the one who asked");
}

TEST_CASE("the server has a port of its own") {
  std::string opened;
  std::uint16_t port = 0;
  // Somebody else may take it before the responder does.
  for (int i = 0; i < 20 && opened.empty(); ++i) {
    port = port_of(Socket("0.0.0.0").fd());
    try {
      opened = std::to_string(port_of(open_responder(port)));
    } catch (const std::system_error&) {
    }
  }
  CHECK_MESSAGE(opened == std::to_string(port), "it hears at this port");
}

TEST_CASE("the server hears something else") {
  const std::string words(question);
  for (const Words& bad : {
           Words{"nothing", ""},
           Words{"a part of the question", words.substr(0, 5)},
           Words{"a newline behind it", words + '\n'},
           Words{"a zero behind it", words + '\0'},
           Words{"much behind it", words + std::string(60'000, '?')},
           Words{"capitals", "Where is echo?"},
           Words{"an answer", "echo is at port 8080"},
       }) {
    world = {};
    Server server;
    CHECK_MESSAGE(server.hears(bad.words) == "0 answers",
                  "what is no question gets no answer: " << bad.what);
    CHECK_MESSAGE(server.hears(question) == "1 answers",
                  "a question behind it is answered");
  }
}

TEST_CASE("the server is told of a datagram that is not there") {
  world = {};
  Server server;
  CHECK_MESSAGE(server.attend() == "", "it waits for no datagram");
}

TEST_CASE("the server is asked without end") {
  world = {};
  Server server;
  const net::Address here = broadcast_to(server.responder());
  flood([&] { server.asker().say(here, question); });
  CHECK_MESSAGE(server.attend() == "", "a flood of questions does not keep it");
  CHECK_MESSAGE(world.looks <= 64, "it looks at 64 datagrams at most");
}

TEST_CASE("an error is reported to the server") {
  world = {};
  Server server;
  SUBCASE("when it reads") {
    world.receive_error = ECONNREFUSED;
    CHECK_MESSAGE(server.hears(question) == "1 answers",
                  "an error of a datagram passes");
  }
  SUBCASE("when it answers") {
    world.send_error = ENETUNREACH;
    CHECK_MESSAGE(server.hears(question) == "1 answers",
                  "an answer that cannot be sent is a lost one");
  }
}

}  // namespace probe
