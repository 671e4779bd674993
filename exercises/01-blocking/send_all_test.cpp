// With angle brackets: quotes would find the header beside this file even when
// the solution is built.
#include <send_all.hpp>

#include <doctest/doctest.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <pthread.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <chrono>
#include <csignal>
#include <cstdint>
#include <fstream>
#include <future>
#include <span>
#include <sstream>
#include <string>
#include <string_view>
#include <thread>
#include <utility>

#include "common/error.hpp"
#include "common/fd.hpp"
#include "common/socket.hpp"
#include "common/testing/client.hpp"
#include "common/testing/process.hpp"

namespace {

using namespace std::chrono_literals;

struct Pair {
  net::Fd ours;
  net::Fd peer;
};

// Connected, and its buffer takes a few kilobytes only.
Pair small_pair() {
  std::array<int, 2> ends{};
  net::check(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends.data()),
             "socketpair");
  Pair pair{net::Fd(ends[0]), net::Fd(ends[1])};
  const int size = 4096;
  net::check(
      ::setsockopt(pair.ours.get(), SOL_SOCKET, SO_SNDBUF, &size, sizeof size),
      "setsockopt SO_SNDBUF");
  return pair;
}

// Appends what has come. Never waits.
void drain(const net::Fd& peer, std::string& to) {
  std::array<char, 65536> block;
  ssize_t n = 0;
  do {
    n = ::recv(peer.get(), block.data(), block.size(), MSG_DONTWAIT);
    if (n > 0) to.append(block.data(), static_cast<std::size_t>(n));
  } while (n > 0);
}

// Counts a signal while it lives; calls it interrupts fail with EINTR.
class Counted {
 public:
  explicit Counted(int number) : number_(number) {
    times() = 0;
    struct sigaction action {};
    action.sa_handler = [](int) { ++times(); };
    net::check(::sigaction(number, &action, &before_), "sigaction");
  }
  Counted(const Counted&) = delete;
  Counted& operator=(const Counted&) = delete;
  ~Counted() { ::sigaction(number_, &before_, nullptr); }

  static std::atomic<int>& times() {
    static std::atomic<int> count;
    return count;
  }

 private:
  int number_;
  struct sigaction before_ {};
};

// send_all in a thread of its own.
class Sending {
 public:
  Sending(const net::Fd& socket, std::string head, std::string body)
      : socket_(socket.get()),
        task_([this, head = std::move(head), body = std::move(body)] {
          thread_id_ = ::gettid();
          return send_all(socket_, head, body);
        }),
        result_(task_.get_future()),
        thread_([this] { task_(); }) {}

  // A sender that still sleeps is woken by the shutdown.
  ~Sending() {
    ::shutdown(socket_, SHUT_RDWR);
    thread_.join();
  }

  bool ended() const {
    return result_.wait_for(0s) == std::future_status::ready;
  }
  Result result() { return result_.get(); }

  // Sleeps in a call on its socket, or has ended.
  void wait_until_stuck() const {
    testing::wait_until(
        "send_all fills the buffer", [this] { return ended() || in_call(); },
        10s);
  }

  // Interrupts the call it sleeps in.
  void interrupt() {
    wait_until_stuck();
    if (ended()) return;
    const int before = Counted::times();
    ::pthread_kill(thread_.native_handle(), SIGUSR1);
    testing::wait_until(
        "the signal arrives", [&] { return Counted::times() > before; }, 10s);
  }

 private:
  // /proc/PID/task/TID/syscall: "running", or the number of the call it
  // sleeps in and its arguments, of which the first is the descriptor.
  bool in_call() const {
    std::ifstream file("/proc/self/task/" + std::to_string(thread_id_) +
                       "/syscall");
    std::string call;
    std::string descriptor;
    std::ostringstream ours;
    ours << "0x" << std::hex << socket_;
    return file >> call >> descriptor && descriptor == ours.str();
  }

  int socket_;
  std::atomic<pid_t> thread_id_{0};
  std::packaged_task<Result()> task_;
  std::future<Result> result_;
  std::thread thread_;
};

std::uint32_t segments_sent(const net::Fd& socket) {
  tcp_info info{};
  socklen_t size = sizeof info;
  net::check(::getsockopt(socket.get(), IPPROTO_TCP, TCP_INFO, &info, &size),
             "getsockopt TCP_INFO");
  return info.tcpi_data_segs_out;
}

}  // namespace

TEST_CASE("the kernel takes a little at a time and signals interrupt it") {
  const std::string head = testing::pattern(20'000, 1);
  const std::string body = testing::pattern(60'000, 2);
  const Counted signals(SIGUSR1);
  const Pair pair = small_pair();
  Sending sending(pair.ours, head, body);
  std::string received;
  while (!sending.ended() && received.size() <= head.size() + body.size()) {
    sending.interrupt();  // after some bytes: the call returns their number
    sending.interrupt();  // before the first byte: EINTR
    drain(pair.peer, received);
  }
  drain(pair.peer, received);
  REQUIRE_MESSAGE(received.size() <= head.size() + body.size(),
                  "no byte is sent twice");
  const Result result = sending.result();
  CHECK_MESSAGE(!result.error, "a signal is no error: " << result.error);
  // In parentheses: doctest would print both values.
  CHECK_MESSAGE((received == head + body), "every byte arrives, in order");
  CHECK_MESSAGE(result.n == received.size(),
                "n counts the bytes of both blocks: " << result.n);
}

TEST_CASE("the peer goes while bytes are on their way") {
  const Counted broken_pipes(SIGPIPE);
  Pair pair = small_pair();
  Sending sending(pair.ours, testing::pattern(100), testing::pattern(60'000));
  sending.wait_until_stuck();
  int taken = 0;
  net::check(::ioctl(pair.peer.get(), FIONREAD, &taken), "ioctl FIONREAD");
  pair.peer = net::Fd();
  const Result result = sending.result();
  CHECK_MESSAGE(Counted::times().load() == 0,
                "a peer that has gone raises no SIGPIPE");
  CHECK_MESSAGE(result.error, "a peer that has gone is an error");
  CHECK_MESSAGE(result.n == static_cast<std::size_t>(taken),
                "the count is right when an error ends it: " << result.n);
}

TEST_CASE("there is nothing to send and nobody to send it to") {
  Pair pair = small_pair();
  pair.peer = net::Fd();
  const Result result = send_all(pair.ours.get(), {}, {});
  CHECK_MESSAGE(!result.error, "nothing to send is no error: " << result.error);
}

TEST_CASE("a small head and its body travel together") {
  const net::Fd listener = net::listen_on(net::resolve("127.0.0.1", 0));
  const net::Fd ours = net::connect_to(net::local_address(listener));
  send_all(ours.get(), std::string_view("length: 5\n"),
           std::string_view("hello"));
  CHECK_MESSAGE(segments_sent(ours) == 1, "head and body leave in one segment");
}
