#pragma once

#include <sys/signalfd.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <initializer_list>

#include "common/error.hpp"
#include "common/fd.hpp"

// Signals as something to read. Blocks them in the calling thread, so it has to
// come before any other thread is started: a new thread inherits the mask, and
// the kernel gives a signal to any thread that does not block it.
class Signals {
 public:
  // Throws std::system_error.
  explicit Signals(std::initializer_list<int> numbers) {
    sigset_t set;
    ::sigemptyset(&set);
    for (const int number : numbers) ::sigaddset(&set, number);
    // It returns its error and does not set errno.
    errno = ::pthread_sigmask(SIG_BLOCK, &set, nullptr);
    net::check(errno == 0 ? 0 : -1, "pthread_sigmask");
    fd_ = net::Fd(net::check(::signalfd(-1, &set, SFD_NONBLOCK | SFD_CLOEXEC),
                             "signalfd"));
  }

  // Readable while one of them is pending.
  int fd() const { return fd_.get(); }

  // The number of one that came, or 0 if there is none. A second one of the
  // same number that comes before the first is taken is lost.
  int take() {
    signalfd_siginfo signal;
    const ssize_t n = ::read(fd_.get(), &signal, sizeof signal);
    return n == sizeof signal ? static_cast<int>(signal.ssi_signo) : 0;
  }

 private:
  net::Fd fd_;
};
