// Angle brackets: quotes would find the file beside this one first, also when
// the solution is to be tested.
#include <park_on_eagain.hpp>

#include <doctest/doctest.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstddef>
#include <deque>
#include <functional>
#include <span>
#include <string>
#include <utility>

#include "common/error.hpp"

namespace {

// A goroutine that never comes to an end, one way or the other.
struct Endless {};

// A kernel with one socket, and a scheduler with one goroutine. Everything that
// happens stands in a script.
class World {
 public:
  World() { now = this; }
  World(const World&) = delete;
  World& operator=(const World&) = delete;
  ~World() { now = nullptr; }

  // What the next recv will say, in this order; behind the last one EAGAIN.
  void say(const std::string& bytes) { input_.push_back({bytes, 0}); }
  void fail(int error) { input_.push_back({"", error}); }
  void end() { input_.push_back({"", 0}); }

  void edge() { descriptor.ready = true; }
  void close() { descriptor.closed = true; }

  // What happens when the goroutine parks; the first time, the second ...
  void while_parked(std::function<void()> happening) {
    happenings_.push_back(std::move(happening));
  }

  // One read: the calls it makes and what it gets.
  std::string read(std::size_t size = 8) {
    log_.clear();
    std::array<char, 64> buffer{};
    try {
      const auto [n, error] =
          read_some(descriptor, std::span(buffer).first(size));
      const std::string text(buffer.data(), std::min(n, buffer.size()));
      note(error ? name(error) : '\'' + text + '\'');
    } catch (const Endless&) {
      note("and so on");
    }
    return log_;
  }

  ssize_t recv(int fd, std::span<char> buffer);
  void park();

  static inline World* now = nullptr;
  Descriptor descriptor{.fd = 7};

 private:
  struct Answer {
    std::string bytes;
    int error;  // without both it is the end
  };

  static std::string name(const std::error_code& error) {
    if (error == net::eof()) return "end";
    if (error == closed) return "closed";
    if (error.value() == ECONNRESET) return "ECONNRESET";
    // The number is that of no descriptor: another call has met the kernel.
    if (error.value() == EBADF) return "EBADF (only ::recv is played here)";
    return error.message();
  }

  void note(const std::string& word) {
    log_ += (log_.empty() ? "" : " ") + word;
  }

  void call(const std::string& word) {
    if (std::count(log_.begin(), log_.end(), ' ') > 6) throw Endless();
    note(word);
  }

  std::deque<Answer> input_;
  std::deque<std::function<void()>> happenings_;
  std::string log_;
};

ssize_t World::recv(int fd, std::span<char> buffer) {
  const bool ours = fd == descriptor.fd && !descriptor.closed;
  call(ours ? "recv" : "recv(a stranger's)");
  if (buffer.empty()) return 0;
  if (input_.empty()) {
    errno = EAGAIN;
    return -1;
  }
  Answer& answer = input_.front();
  if (answer.error != 0) {
    errno = answer.error;
    input_.pop_front();
    return -1;
  }
  // The end stays.
  if (answer.bytes.empty()) return 0;
  const std::size_t n = std::min(buffer.size(), answer.bytes.size());
  std::copy_n(answer.bytes.begin(), n, buffer.begin());
  answer.bytes.erase(0, n);
  if (answer.bytes.empty()) input_.pop_front();
  return static_cast<ssize_t>(n);
}

void World::park() {
  if (descriptor.ready) return call("park(ready)");
  if (descriptor.closed) return call("park(closed)");
  call("park");
  if (happenings_.empty()) throw Endless();
  const std::function<void()> happening = std::move(happenings_.front());
  happenings_.pop_front();
  happening();
}

}  // namespace

// Takes the place of libc's recv in this program.
extern "C" ssize_t recv(int fd, void* buffer, std::size_t n, int) {
  return World::now->recv(fd, std::span(static_cast<char*>(buffer), n));
}

void park(Descriptor&) { World::now->park(); }

TEST_CASE("nothing has come yet") {
  World world;
  world.while_parked([&] {
    world.edge();
    world.say("hello");
  });
  CHECK_MESSAGE(world.read() == "recv park recv 'hello'",
                "a call that says EAGAIN is made again after an edge");
}

TEST_CASE("an edge comes for nothing") {
  World world;
  world.while_parked([&] { world.edge(); });
  world.while_parked([&] {
    world.edge();
    world.say("hello");
  });
  CHECK_MESSAGE(world.read() == "recv park recv park recv 'hello'",
                "who was woken in vain parks again");
}

TEST_CASE("the buffer is not full") {
  World world;
  world.say("hello");
  world.while_parked([&] {
    world.edge();
    world.say("again");
  });
  const std::string first = world.read();
  CHECK_MESSAGE(
      first + ", " + world.read() == "recv 'hello', park recv 'again'",
      "the call that a short read has made useless is not made");
}

TEST_CASE("the buffer is full") {
  World world;
  world.say("goodmorning");
  const std::string first = world.read(4);
  CHECK_MESSAGE(first + ", " + world.read() == "recv 'good', recv 'morning'",
                "a full buffer does not show that nothing is left");
}

TEST_CASE("the end comes with the bytes") {
  World world;
  world.while_parked([&] {
    world.edge();
    world.descriptor.wary = true;
    world.say("bye");
    world.end();
  });
  const std::string first = world.read();
  CHECK_MESSAGE(first + ", " + world.read() == "recv park recv 'bye', recv end",
                "the end behind a short read is found");
}

TEST_CASE("the stream has ended") {
  World world;
  world.end();
  const std::string first = world.read();
  CHECK_MESSAGE(first + ", " + world.read() == "recv end, recv end",
                "the end is told to each who reads");
}

TEST_CASE("the connection has failed") {
  World world;
  world.fail(ECONNRESET);
  world.end();
  const std::string first = world.read();
  CHECK_MESSAGE(first + ", " + world.read() == "recv ECONNRESET, recv end",
                "an error is handed on, and then comes what is behind it");
}

TEST_CASE("signals interrupt the call") {
  World world;
  world.fail(EINTR);
  world.fail(EINTR);
  world.say("hello");
  CHECK_MESSAGE(world.read() == "recv recv recv 'hello'",
                "an interrupted call is made again at once");
}

TEST_CASE("the descriptor is closed while the goroutine is parked") {
  World world;
  world.while_parked([&] {
    world.edge();
    world.close();
    world.say("for a stranger");
  });
  CHECK_MESSAGE(world.read() == "recv park closed",
                "a number that was given back is not used");
}

TEST_CASE("the descriptor was closed before") {
  World world;
  world.close();
  const std::string first = world.read();
  CHECK_MESSAGE(first + ", " + world.read(0) == "closed, closed",
                "who comes after the close is told so and makes no call");
}

TEST_CASE("the buffer is empty") {
  World world;
  world.descriptor.ready = false;
  CHECK_MESSAGE(world.read(0) == "''",
                "nothing is waited for, and 0 is no end");
}
