// Programs that nobody should write, and what the runtime makes of them.

#include <doctest/doctest.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <netinet/in.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <chrono>
#include <cstddef>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <functional>
#include <memory>
#include <span>
#include <stdexcept>
#include <string>
#include <system_error>
#include <utility>

#include "common/error.hpp"
#include "common/fd.hpp"
#include "common/socket.hpp"
#include "common/testing/child_process.hpp"
#include "common/testing/process.hpp"
#include "rt/go.hpp"
#include "rt/net.hpp"
#include "rt/time.hpp"

namespace {

using namespace std::chrono_literals;

template <std::size_t size>
struct Large {
  void operator()() const {}
  std::array<char, size> bytes{};
};

// Starts another one while it is copied to the new stack, as one may.
struct StartsWhenCopied {
  explicit StartsWhenCopied(int& runs) : runs_(&runs) {}
  StartsWhenCopied(const StartsWhenCopied& other) : runs_(other.runs_) {
    rt::go([runs = runs_] { ++*runs; }).join();
  }
  void operator()() const { ++*runs_; }

 private:
  int* runs_;
};

void start_next() { rt::go(start_next); }

// Of this process alone: the kernel chooses a name in its own name space.
net::Address unix_address() {
  net::Address address;
  address.storage.ss_family = AF_UNIX;
  address.length = sizeof(sa_family_t);
  return address;
}

// Binds it too, and writes the name that it was given.
rt::Listener listen_on_unix(net::Address& address) {
  net::Fd socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  net::check(::bind(socket.get(), address.get(), address.length), "bind");
  net::check(::listen(socket.get(), 1), "listen");
  address = net::local_address(socket);
  return rt::Listener::adopt(std::move(socket)).listener;
}

// One byte, and with it standard input.
void send_descriptor(const net::Fd& socket) {
  char byte = 'a';
  iovec bytes{&byte, 1};
  alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof(int))> control{};
  msghdr message{};
  message.msg_iov = &bytes;
  message.msg_iovlen = 1;
  message.msg_control = control.data();
  message.msg_controllen = control.size();
  cmsghdr* header = CMSG_FIRSTHDR(&message);
  header->cmsg_level = SOL_SOCKET;
  header->cmsg_type = SCM_RIGHTS;
  header->cmsg_len = CMSG_LEN(sizeof(int));
  std::memset(CMSG_DATA(header), 0, sizeof(int));
  net::check(::sendmsg(socket.get(), &message, 0), "sendmsg");
}

// As nobody should: the numbers of others are not ours to close.
void close_epoll() {
  for (const auto& entry :
       std::filesystem::directory_iterator("/proc/self/fd")) {
    std::error_code error;
    const std::string what = std::filesystem::read_symlink(entry, error);
    if (what != "anon_inode:[eventpoll]") continue;
    ::close(std::stoi(entry.path().filename()));
    return;
  }
}

// From now on the call is EPERM. False: the kernel does not let us.
bool forbid(unsigned int call) {
  std::array<sock_filter, 4> program{
      {{BPF_LD | BPF_W | BPF_ABS, 0, 0, offsetof(seccomp_data, nr)},
       {BPF_JMP | BPF_JEQ | BPF_K, 0, 1, call},
       {BPF_RET | BPF_K, 0, 0, SECCOMP_RET_ERRNO | EPERM},
       {BPF_RET | BPF_K, 0, 0, SECCOMP_RET_ALLOW}}};
  const sock_fprog filter{program.size(), program.data()};
  return ::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 &&
         ::prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter) == 0;
}

}  // namespace

TEST_CASE("run ends with main, whoever starts others at that moment") {
  testing::ChildProcess child(
      [] { rt::run([] { rt::go([] { rt::go([] { rt::sleep(1h); }); }); }); });
  CHECK(child.wait() == 0);
}

TEST_CASE("run ends, though each goroutine starts the next") {
  testing::ChildProcess child([] { rt::run([] { rt::go(start_next); }); });
  CHECK(child.wait() == 0);
}

TEST_CASE("run ends, though somebody tries again whatever the error is") {
  const auto run = [](auto body) {
    testing::ChildProcess child([body] {
      rt::run([body] {
        rt::go(body);
        rt::yield();
      });
    });
    CHECK(child.wait() == 0);
  };
  run([] {
    const rt::Pipe pipe = rt::pipe();
    for (std::array<char, 1> byte;;) pipe.reader.read(byte);
  });
  run([] {
    const rt::Listener listener =
        rt::listen(net::resolve("127.0.0.1", 0)).listener;
    for (;;) listener.accept();
  });
  run([] {
    const rt::Pipe pipe = rt::pipe();
    std::array<char, 1> byte;
    pipe.reader.read(byte);
    for (;;) rt::pipe();
  });
}

TEST_CASE("what is started when run is ending does not begin, and is gone") {
  bool begun = false;
  bool went_on = false;
  const auto token = std::make_shared<int>(7);
  rt::run([&] {
    rt::go([&] {
      const rt::Pipe pipe = rt::pipe();
      std::array<char, 1> byte;
      CHECK(pipe.reader.read(byte).error == rt::closed);
      const rt::Handle late = rt::go([&begun, token] { begun = true; });
      CHECK(token.use_count() == 1);
      CHECK(late.id() == 0);
      late.join();
      went_on = true;
    });
    rt::yield();
  });
  CHECK(!begun);
  CHECK(went_on);
}

TEST_CASE("a body that does not fit on a stack is refused") {
  // As go does, but it does not have to fit on the stack of the caller too.
  const auto start = [](auto& body) {
    rt::engine::spawn(rt::engine::body_of(body), {}).join();
  };
  rt::run(
      [&] {
        static Large<60'000> fits;
        static Large<65'536> as_large;
        static Large<1'000'000> larger;
        start(fits);
        CHECK_THROWS_AS(start(as_large), std::invalid_argument);
        CHECK_THROWS_AS(start(larger), std::invalid_argument);
        CHECK(rt::goroutine_count() == 1);
        start(fits);
      },
      {.stack_size = 65'536});
}

TEST_CASE("a body may start another goroutine while it is moved") {
  rt::run([] {
    int runs = 0;
    const StartsWhenCopied body(runs);
    rt::go(body).join();
    const int copies = runs - 1;
    CHECK(copies >= 1);
    CHECK(rt::goroutine_count() == 1);
  });
}

TEST_CASE("14: an empty function with an argument is refused as well") {
  rt::run([] {
    CHECK_THROWS_AS(rt::go(std::function<void(int)>(), 7),
                    std::invalid_argument);
    void (*nothing)(int) = nullptr;
    CHECK_THROWS_AS(rt::go(nothing, 7), std::invalid_argument);
    CHECK(rt::goroutine_count() == 1);
  });
}

TEST_CASE("a deadline before all times has passed") {
  testing::ChildProcess child([] {
    // A backlog that is full answers nobody.
    const net::Fd socket = net::listen_on(net::resolve("127.0.0.1", 0));
    ::listen(socket.get(), 0);
    const net::Address address = net::local_address(socket);
    rt::run([&] {
      const rt::Dialed first = rt::dial(address);
      const rt::Dialed second = rt::dial(address, rt::TimePoint::min());
      const rt::Dialed third = rt::dial(address, rt::TimePoint::min());
      if (third.error != rt::deadline_exceeded) throw std::logic_error("third");
    });
  });
  CHECK(child.wait() == 0);
}

TEST_CASE("on a Unix socket a short read is not taken for the last") {
  testing::ChildProcess child([] {
    rt::run([] {
      net::Address address = unix_address();
      const rt::Listener listener = listen_on_unix(address);
      const net::Fd client(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
      net::check(::connect(client.get(), address.get(), address.length),
                 "connect");
      const rt::Conn conn = listener.accept().conn;
      std::array<char, 16> bytes;
      // What was reported is used up: what follows is one report for two reads.
      net::check(::send(client.get(), "x", 1, 0), "send");
      conn.read(bytes);
      send_descriptor(client);
      net::check(::send(client.get(), "b", 1, 0), "send");
      if (conn.read(bytes).n != 1) throw std::logic_error("a short read");
      if (conn.read(bytes).n != 1) throw std::logic_error("the next");
    });
  });
  CHECK(child.wait() == 0);
}

TEST_CASE("what outlives a run that the kernel has ended is closed") {
  testing::ChildProcess child([] {
    rt::File file;
    bool ended = false;
    try {
      rt::run([&] {
        rt::Pipe pipe = rt::pipe();
        file = std::move(pipe.reader);
        close_epoll();
        std::array<char, 1> byte;
        file.read(byte);
      });
    } catch (const std::system_error& error) {
      ended = error.code() == std::errc::bad_file_descriptor;
    }
    if (!ended) throw std::logic_error("run has not thrown");
    if (file.fd() >= 0) throw std::logic_error("open");
  });
  CHECK(child.wait() == 0);
}

TEST_CASE("a sandbox that forbids epoll_pwait2 costs only precision") {
  testing::ChildProcess child([] {
    if (!forbid(SYS_epoll_pwait2)) return;  // then there is nothing to see
    rt::run([] {
      const rt::Pipe pipe = rt::pipe();
      rt::go([] { rt::sleep(1h); });
      rt::go([&] {
        rt::sleep(1ms);
        pipe.writer.write(std::span("x", 1));
      });
      std::array<char, 1> byte;
      pipe.reader.read(byte);
    });
  });
  CHECK(child.wait() == 0);
}

TEST_CASE("an error that stays in the queue of a socket does not spin") {
  testing::ChildProcess child([] {
    rt::run([] {
      const net::Address any = net::resolve("127.0.0.1", 0);
      const rt::PacketConn conn = rt::listen_packet(any).conn;
      const int on = 1;
      net::check(
          ::setsockopt(conn.fd(), IPPROTO_IP, IP_RECVERR, &on, sizeof on),
          "setsockopt");
      const net::Address nobody = rt::listen_packet(any).conn.address();
      conn.write_to(std::span("x", 1), nobody);
      std::array<char, 1> byte;
      const rt::Received refused = conn.read_from(byte);
      std::fprintf(stderr, "%s\n", refused.error.message().c_str());
      conn.read_from(byte);
    });
  });
  child.wait_until_complains("Connection refused");
  testing::wait_until_settled(child.pid());
}
