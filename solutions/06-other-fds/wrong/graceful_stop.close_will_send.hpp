// Belief: a close that lingers makes sure that all arrives.
// Fails: a client does not fetch its answer
// Message: an answer that the kernel has is sent

#pragma once

#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/signalfd.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include <array>
#include <chrono>
#include <csignal>
#include <utility>
#include <vector>

#include "common/error.hpp"
#include "common/fd.hpp"
#include "common/socket.hpp"
#include "exercises/06-other-fds/given/lines.hpp"

// Blocked, the signals wait in the kernel until somebody reads them here.
inline net::Fd take_signals() {
  sigset_t signals;
  ::sigemptyset(&signals);
  ::sigaddset(&signals, SIGTERM);
  ::sigaddset(&signals, SIGINT);
  net::check(::sigprocmask(SIG_BLOCK, &signals, nullptr), "sigprocmask");
  return net::Fd(net::check(
      ::signalfd(-1, &signals, SFD_NONBLOCK | SFD_CLOEXEC), "signalfd"));
}

// A server of lines that answers what was asked before it leaves.
class Server {
 public:
  // All descriptors are made here: when it is to stop there may be none left.
  Server(net::Fd listener, std::chrono::milliseconds grace)
      : listener_(std::move(listener)), grace_(grace) {
    net::set_nonblocking(listener_);
    for (const auto* fd : {&listener_, &signals_, &timer_}) {
      watch(house_, EPOLL_CTL_ADD, fd->get(), EPOLLIN);
    }
  }

  // True: all were finished, or have left by themselves.
  bool run() {
    while (phase_ == Phase::Serves ||
           (phase_ == Phase::Finishes && !house_.clients.empty())) {
      std::array<epoll_event, 64> ready;
      const int n = ::epoll_wait(house_.epoll.get(), ready.data(), 64, -1);
      if (n < 0) net::rest_or_throw("epoll_wait");
      for (int i = 0; i < n; ++i) {
        turn(ready[static_cast<unsigned>(i)].data.fd);
      }
    }
    return house_.clients.empty();
  }

 private:
  enum class Phase { Serves, Finishes, Over };

  void turn(int fd) {
    if (fd == signals_.get()) return stop();
    if (fd == timer_.get()) {
      phase_ = Phase::Over;
      return;
    }
    if (fd == listener_.get()) let_in(house_, listener_);
    attend(house_, fd);
    if (phase_ == Phase::Finishes) let_go(fd);
  }

  void stop() {
    // All that have come are read at once, so they count as one.
    std::array<signalfd_siginfo, 8> come;
    if (::read(signals_.get(), come.data(), sizeof come) < 0) return;
    if (phase_ != Phase::Serves) {
      phase_ = Phase::Over;
      return;
    }
    phase_ = Phase::Finishes;
    set_timer();
    // The kernel has connected those who are in the queue. With the listener
    // it would reset them.
    while (let_in(house_, listener_)) continue;
    listener_ = net::Fd();
    std::vector<int> here;
    for (const auto& [fd, client] : house_.clients) here.push_back(fd);
    for (const int fd : here) let_go(fd);
  }

  void set_timer() {
    const auto s = std::chrono::floor<std::chrono::seconds>(grace_);
    itimerspec time{};
    time.it_value.tv_sec = s.count();
    // 0 would not mean now, but never.
    time.it_value.tv_nsec = std::chrono::nanoseconds(grace_ - s).count() + 1;
    net::check(::timerfd_settime(timer_.get(), 0, &time, nullptr),
               "timerfd_settime");
  }

  // Closes the client if it is between two requests. Bytes that nobody has
  // read are a request too, and would make a reset of the close. (For those
  // that come between the question and the close it still is one.)
  void let_go(int fd) {
    const auto found = house_.clients.find(fd);
    if (found == house_.clients.end()) return;
    const Client& client = found->second;
    int unread = 0;
    net::check(::ioctl(fd, FIONREAD, &unread), "ioctl FIONREAD");
    if (client.input.empty() && client.output.empty() && unread == 0) {
      const linger wait{1, 3600};
      ::setsockopt(fd, SOL_SOCKET, SO_LINGER, &wait, sizeof wait);
      house_.clients.erase(found);
    }
  }

  net::Fd listener_;
  std::chrono::milliseconds grace_;
  House house_;
  net::Fd signals_ = take_signals();
  net::Fd timer_{
      net::check(::timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC),
                 "timerfd_create")};
  Phase phase_ = Phase::Serves;
};
