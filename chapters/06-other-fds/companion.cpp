#include "chapters/06-other-fds/companion.hpp"

#include <fcntl.h>
#include <spawn.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <csignal>

#include "common/error.hpp"

namespace {

// posix_spawn and its helpers return the error instead of setting errno.
void check_spawn(int error, const std::string& call) {
  errno = error;
  net::check(error == 0 ? 0 : -1, call);
}

pid_t spawn_shell(const std::string& command) {
  posix_spawn_file_actions_t files;
  posix_spawnattr_t attributes;
  check_spawn(::posix_spawn_file_actions_init(&files), "posix_spawn");
  check_spawn(::posix_spawnattr_init(&attributes), "posix_spawn");
  ::posix_spawn_file_actions_addopen(&files, STDIN_FILENO, "/dev/null",
                                     O_RDONLY, 0);
  sigset_t none;
  sigset_t all;
  ::sigemptyset(&none);
  ::sigfillset(&all);
  // exec keeps the mask and what is ignored: the command would be deaf.
  ::posix_spawnattr_setsigmask(&attributes, &none);
  ::posix_spawnattr_setsigdefault(&attributes, &all);
  ::posix_spawnattr_setpgroup(&attributes, 0);
  ::posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK |
                                              POSIX_SPAWN_SETSIGDEF |
                                              POSIX_SPAWN_SETPGROUP);
  std::string shell = "sh";
  std::string option = "-c";
  std::string text = command;
  std::array<char*, 4> words{shell.data(), option.data(), text.data(), nullptr};
  pid_t process = -1;
  const int error = ::posix_spawn(&process, "/bin/sh", &files, &attributes,
                                  words.data(), environ);
  ::posix_spawn_file_actions_destroy(&files);
  ::posix_spawnattr_destroy(&attributes);
  check_spawn(error, "posix_spawn /bin/sh");
  return process;
}

}  // namespace

// Between the two calls the command may have ended, but its number is not given
// to another: only we can reap it.
Companion::Companion(const std::string& command)
    : process_(spawn_shell(command)),
      pidfd_(static_cast<int>(::syscall(SYS_pidfd_open, process_, 0))) {
  if (!pidfd_) {
    const int error = errno;
    signal(SIGKILL);
    ::waitpid(process_, nullptr, 0);
    errno = error;
    net::throw_errno("pidfd_open");
  }
}

Companion::~Companion() {
  if (process_ < 0) return;
  signal(SIGKILL);
  reap();
}

std::string Companion::reap() {
  siginfo_t info{};
  // First look, then kill, then reap: as long as the command has not been
  // reaped no other group can have its number.
  const auto pidfd = static_cast<id_t>(pidfd_.get());
  ::waitid(P_PIDFD, pidfd, &info, WEXITED | WNOWAIT);
  signal(SIGKILL);
  ::waitid(P_PIDFD, pidfd, &info, WEXITED);
  process_ = -1;
  pidfd_ = net::Fd();
  return (info.si_code == CLD_EXITED ? "exit status " : "signal ") +
         std::to_string(info.si_status);
}

void Companion::signal(int number) const { ::kill(-process_, number); }
