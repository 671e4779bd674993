#include "chapters/06-other-fds/command.hpp"

#include <fcntl.h>
#include <spawn.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>

#include "common/error.hpp"

Command::~Command() {
  if (!running()) return;
  send_signal(SIGKILL);
  // Not by the pidfd: if that is what could not be opened, there is none.
  ::waitid(P_PID, static_cast<id_t>(leader_), nullptr, WEXITED);
}

void Command::start(const std::string& text, const sigset_t* mask) {
  // An ignored SIGCHLD is inherited, and then the kernel reaps our children
  // before we can ask how they ended.
  ::signal(SIGCHLD, SIG_DFL);
  // With "--" a text that begins with a dash is no option of the shell's.
  std::array<const char*, 5> words{"sh", "-c", "--", text.c_str(), nullptr};
  posix_spawnattr_t how;
  posix_spawnattr_init(&how);
  const int masked = mask != nullptr ? POSIX_SPAWN_SETSIGMASK : 0;
  posix_spawnattr_setflags(&how,
                           static_cast<short>(POSIX_SPAWN_SETPGROUP | masked));
  posix_spawnattr_setpgroup(&how, 0);
  if (mask != nullptr) posix_spawnattr_setsigmask(&how, mask);
  posix_spawn_file_actions_t files;
  posix_spawn_file_actions_init(&files);
  // A group in the background that reads the terminal is stopped (SIGTTIN).
  posix_spawn_file_actions_addopen(&files, 0, "/dev/null", O_RDONLY, 0);
  const int error =
      posix_spawn(&leader_, "/bin/sh", &files, &how,
                  const_cast<char* const*>(words.data()), environ);
  posix_spawn_file_actions_destroy(&files);
  posix_spawnattr_destroy(&how);
  if (error != 0) {
    leader_ = -1;
    errno = error;
    net::throw_errno("posix_spawn", "/bin/sh");
  }
  // No race, even if it has ended already: until we reap it, its number is
  // given to nobody else.
  pidfd_ = net::Fd(net::check(
      static_cast<int>(::syscall(SYS_pidfd_open, leader_, 0)), "pidfd_open"));
}

void Command::send_signal(int number) const {
  if (running()) ::kill(-leader_, number);
}

siginfo_t Command::reap() {
  // While the leader is not reaped, the group's number is still ours.
  send_signal(SIGKILL);
  siginfo_t end{};
  // It has ended, so this does not sleep, and an error is a passing one. If it
  // stays, nobody can tell how the command ended, and nobody has to die of
  // that.
  int failure = -1;
  for (int tries = 0; failure < 0 && tries < 3; ++tries) {
    failure = ::waitid(P_PIDFD, static_cast<id_t>(fd()), &end, WEXITED);
  }
  leader_ = -1;
  pidfd_ = net::Fd();  // the last descriptor of it: epoll forgets it, too
  return end;
}

std::string text_of(const siginfo_t& end) {
  const std::string number = std::to_string(end.si_status);
  if (end.si_code == 0) return "ended";
  if (end.si_code == CLD_EXITED) return "exit status " + number;
  const char* name = sigabbrev_np(end.si_status);
  if (name == nullptr) return "killed by signal " + number;
  return "killed by SIG" + std::string(name);
}
