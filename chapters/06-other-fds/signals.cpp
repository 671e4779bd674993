#include "chapters/06-other-fds/signals.hpp"

#include <sys/signalfd.h>
#include <unistd.h>

#include "common/error.hpp"

Signals::Signals(std::initializer_list<int> numbers) {
  sigemptyset(&ours_);
  for (const int number : numbers) {
    struct sigaction action {};
    net::check(::sigaction(number, nullptr, &action), "sigaction");
    if (action.sa_handler != SIG_IGN) sigaddset(&ours_, number);
  }
  net::check(::sigprocmask(SIG_BLOCK, &ours_, &original_), "sigprocmask");
  signalfd_ = net::Fd(net::check(
      ::signalfd(-1, &ours_, SFD_NONBLOCK | SFD_CLOEXEC), "signalfd"));
}

int Signals::take() {
  signalfd_siginfo signal;
  const ssize_t n = ::read(fd(), &signal, sizeof signal);
  return n == sizeof signal ? static_cast<int>(signal.ssi_signo) : 0;
}

void Signals::hold() const { ::sigprocmask(SIG_BLOCK, &ours_, nullptr); }

void Signals::release() const {
  ::sigprocmask(SIG_SETMASK, &original_, nullptr);
}
