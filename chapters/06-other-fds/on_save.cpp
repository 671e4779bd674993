// on-save: runs a command whenever one of the files is saved.
//
// Four kinds of descriptor tell one thread all it waits for: a file was saved
// (inotify), a time has passed (timerfd), the command has ended (pidfd), the
// user wants no more (signalfd). The thread sleeps in epoll_wait. The price:
// what was one story, "wait for a save, run, wait for the end", is told in
// pieces, one for each descriptor, and flags carry it from piece to piece.

#include "chapters/06-other-fds/on_save.hpp"

#include <fcntl.h>
#include <spawn.h>
#include <sys/epoll.h>
#include <sys/signalfd.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <stdexcept>
#include <utility>

#include "common/error.hpp"
#include "common/options.hpp"

namespace net {
namespace {

using std::chrono::milliseconds;
using std::chrono::nanoseconds;
namespace filesystem = std::filesystem;

// Saves closer together than this are one: an editor writes twice, or saves
// all its files.
constexpr milliseconds pause{50};

// Saves that never pause are run for all the same.
constexpr milliseconds longest_settling{500};

constexpr int most_links = 40;  // as many as the kernel follows

// A link put in place is only created; a new file is, too, before it is
// written, so one that is written slowly is run for twice.
constexpr std::uint32_t saves = IN_CLOSE_WRITE | IN_MOVED_TO | IN_CREATE;
constexpr std::uint32_t losses = IN_DELETE_SELF | IN_MOVE_SELF;

}  // namespace

FileWatch::FileWatch(const std::vector<std::string>& files)
    : files_(files.begin(), files.end()),
      inotify_(check(::inotify_init1(IN_CLOEXEC), "inotify_init1",
                     "(limits: fs.inotify.max_user_instances, ulimit -n)")) {
  for (const filesystem::path& file : files_) {
    std::error_code unknown;
    if (filesystem::is_directory(file, unknown) || !file.has_filename()) {
      throw UsageError("'" + file.string() + "' is not the name of a file");
    }
  }
  find_folders();
}

// One read and no loop: reported level-triggered, what it leaves is reported
// again.
bool FileWatch::saved() {
  alignas(inotify_event) std::array<char, 4096> events;
  const ssize_t n =
      check(::read(fd(), events.data(), events.size()), "read", "inotify");
  bool any = false;
  for (std::ptrdiff_t at = 0; at < n;) {
    const auto* event =
        reinterpret_cast<const inotify_event*>(events.data() + at);
    at += static_cast<std::ptrdiff_t>(sizeof *event + event->len);
    if (concerns(*event)) any = true;
  }
  if (any) find_folders();  // a link may lead elsewhere now
  return any;
}

bool FileWatch::concerns(const inotify_event& event) const {
  // More has happened than the kernel keeps: a save may be among it.
  if ((event.mask & IN_Q_OVERFLOW) != 0) return true;
  const auto found = folders_.find(event.wd);
  if (found == folders_.end()) return false;  // one we no longer watch
  if ((event.mask & (losses | IN_UNMOUNT | IN_IGNORED)) != 0) {
    throw std::runtime_error("the folder " + found->second.path.string() +
                             " is no longer there");
  }
  if ((event.mask & IN_ISDIR) != 0 || event.len == 0) return false;
  return found->second.names.contains(event.name);
}

void FileWatch::find_folders() {
  const auto before = std::exchange(folders_, {});
  for (const filesystem::path& file : files_) follow(file);
  for (const auto& [number, folder] : before) {
    // It fails if the folder has gone, and its watch with it.
    if (!folders_.contains(number)) ::inotify_rm_watch(fd(), number);
  }
}

// The folder is watched and not the file: an editor that renames a new file
// over the old one leaves a watch on a file that nobody writes any more.
void FileWatch::follow(filesystem::path file) {
  for (int i = 0; i <= most_links; ++i) {
    const filesystem::path path =
        file.has_parent_path() ? file.parent_path() : ".";
    Folder& folder = folders_[watch(path)];
    folder.path = path;
    folder.names.insert(file.filename());
    // Asked after the watch began: a link changed before is read, one changed
    // later is reported.
    std::error_code no_link;
    const filesystem::path target = filesystem::read_symlink(file, no_link);
    if (no_link) return;
    file = path / target;
  }
  errno = ELOOP;
  throw_errno("readlink", file.string());
}

int FileWatch::watch(const filesystem::path& folder) {
  const int number =
      ::inotify_add_watch(fd(), folder.c_str(), saves | losses | IN_ONLYDIR);
  // "No space left on device" would send the reader to his disk.
  const bool limit = number < 0 && errno == ENOSPC;
  return check(
      number, "inotify_add_watch",
      folder.string() + (limit ? " (limit: fs.inotify.max_user_watches)" : ""));
}

// An ignored SIGCHLD is inherited, and then the kernel reaps our children
// before we can ask how they ended.
Command::Command() { ::signal(SIGCHLD, SIG_DFL); }

Command::~Command() {
  if (!running()) return;
  kill();
  // Not by the pidfd: if that is what could not be opened, there is none.
  ::waitid(P_PID, static_cast<id_t>(leader_), nullptr, WEXITED);
}

void Command::start(const std::string& text, const sigset_t& mask) {
  // With "--" a text that begins with a dash is no option of the shell's.
  std::array<const char*, 5> words{"sh", "-c", "--", text.c_str(), nullptr};
  posix_spawnattr_t how;
  ::posix_spawnattr_init(&how);
  ::posix_spawnattr_setflags(&how,
                             POSIX_SPAWN_SETPGROUP | POSIX_SPAWN_SETSIGMASK);
  ::posix_spawnattr_setpgroup(&how, 0);
  ::posix_spawnattr_setsigmask(&how, &mask);
  posix_spawn_file_actions_t files;
  ::posix_spawn_file_actions_init(&files);
  // A group in the background that reads the terminal is stopped (SIGTTIN).
  ::posix_spawn_file_actions_addopen(&files, 0, "/dev/null", O_RDONLY, 0);
  const int error =
      ::posix_spawn(&leader_, "/bin/sh", &files, &how,
                    const_cast<char* const*>(words.data()), environ);
  ::posix_spawn_file_actions_destroy(&files);
  ::posix_spawnattr_destroy(&how);
  if (error != 0) {
    leader_ = -1;
    errno = error;
    throw_errno("posix_spawn", "/bin/sh");
  }
  // No race, even if it has ended already: until we reap it, its number is
  // given to nobody else.
  pidfd_ = Fd(check(static_cast<int>(::syscall(SYS_pidfd_open, leader_, 0)),
                    "pidfd_open"));
}

void Command::kill() const { ::kill(-leader_, SIGKILL); }

siginfo_t Command::reap() {
  kill();  // while the leader is not reaped, the group's number is still ours
  siginfo_t end{};
  check(::waitid(P_PIDFD, static_cast<id_t>(fd()), &end, WEXITED), "waitid");
  leader_ = -1;
  pidfd_ = Fd();  // the last descriptor of it: epoll forgets it, too
  return end;
}

Signals::Signals(std::initializer_list<int> numbers) {
  ::sigemptyset(&ours_);
  for (const int number : numbers) {
    struct sigaction action {};
    check(::sigaction(number, nullptr, &action), "sigaction");
    if (action.sa_handler != SIG_IGN) ::sigaddset(&ours_, number);
  }
  check(::sigprocmask(SIG_BLOCK, &ours_, &original_), "sigprocmask");
  signalfd_ = Fd(check(::signalfd(-1, &ours_, SFD_CLOEXEC), "signalfd"));
}

int Signals::take() {
  signalfd_siginfo info{};
  check(::read(fd(), &info, sizeof info), "read", "signalfd");
  return static_cast<int>(info.ssi_signo);
}

void Signals::hold() const { ::sigprocmask(SIG_BLOCK, &ours_, nullptr); }

void Signals::release() const {
  ::sigprocmask(SIG_SETMASK, &original_, nullptr);
}

OnSave::OnSave(std::string command, const std::vector<std::string>& files,
               milliseconds timeout)
    : text_(std::move(command)),
      timeout_(timeout),
      signals_({SIGINT, SIGTERM, SIGHUP, SIGQUIT}),
      files_(files),
      timer_(check(::timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC),
                   "timerfd_create")),
      epoll_(check(::epoll_create1(EPOLL_CLOEXEC), "epoll_create1")) {
  for (const int fd : {files_.fd(), timer_.get(), signals_.fd()}) watch(fd);
}

int OnSave::run() {
  say("watching " + std::to_string(files_.size()) +
      (files_.size() == 1 ? " file" : " files"));
  while (ending_ == 0 || command_.running()) {
    const int fd = wait();
    if (fd == files_.fd()) {
      files_changed();
    } else if (fd == timer_.get()) {
      time_is_up();
    } else if (fd == command_.fd()) {
      command_ended();
    } else if (fd == signals_.fd()) {
      signalled();
    }
  }
  return ending_;
}

// The only place where the thread sleeps. One event a round: a second one
// could be out of date, its timer set anew, when its turn came.
int OnSave::wait() {
  epoll_event event{};
  while (::epoll_wait(epoll_.get(), &event, 1, -1) < 1) {
    rest_or_throw("epoll_wait");
  }
  return event.data.fd;
}

void OnSave::watch(int fd) {
  epoll_event event{EPOLLIN, {.fd = fd}};
  check(::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, fd, &event), "epoll_ctl");
}

// One timer has two meanings, never both at once: before a run the end of the
// pause, in a run the deadline. 0: none. What had passed unseen is forgotten.
void OnSave::set_timer(nanoseconds time) {
  const auto whole = floor<std::chrono::seconds>(time);
  const itimerspec once{{}, {whole.count(), (time - whole).count()}};
  check(::timerfd_settime(timer_.get(), 0, &once, nullptr), "timerfd_settime");
}

void OnSave::files_changed() {
  if (!files_.saved()) return;
  if (command_.running()) {
    again_ = true;  // once more is enough, however often it was saved
  } else {
    settle();
  }
}

// Puts the run off until the saves pause.
void OnSave::settle() {
  const auto now = Clock::now();
  if (!std::exchange(again_, true)) first_save_ = now;
  const nanoseconds left = first_save_ + longest_settling - now;
  set_timer(std::clamp<nanoseconds>(left, nanoseconds(1), pause));
}

void OnSave::time_is_up() {
  std::uint64_t times = 0;
  check(::read(timer_.get(), &times, sizeof times), "read", "timerfd");
  if (!command_.running()) {
    start();
  } else {
    late_ = true;
    command_.kill();
  }
}

void OnSave::start() {
  again_ = false;  // a save from here on is for the next run
  late_ = false;
  began_ = Clock::now();
  command_.start(text_, signals_.original());
  watch(command_.fd());
  set_timer(timeout_);
}

void OnSave::command_ended() {
  const siginfo_t end = command_.reap();
  set_timer(nanoseconds(0));
  if (ending_ != 0) return;
  say(how(end));
  if (std::exchange(again_, false)) settle();
}

void OnSave::signalled() {
  ending_ = signals_.take();
  if (command_.running()) command_.kill();
}

std::string OnSave::how(const siginfo_t& end) const {
  const std::chrono::duration<double> time = Clock::now() - began_;
  std::array<char, 32> after{};
  std::snprintf(after.data(), after.size(), " after %.1f s", time.count());
  const std::string number = std::to_string(end.si_status);
  if (end.si_code == CLD_EXITED) return "exit status " + number + after.data();
  if (late_) return "killed after " + text_of(timeout_) + ", it had not ended";
  const char* name = ::sigabbrev_np(end.si_status);
  return "killed by " +
         (name != nullptr ? "SIG" + std::string(name) : "signal " + number) +
         after.data();
}

// A pipe that is full stops us here, so no line is written while a command
// runs: no deadline can be missed, and a signal may have its usual effect.
void OnSave::say(const std::string& text) const {
  const std::string line = "on-save: " + text + '\n';
  signals_.release();
  // Nobody may be there to read it; the work is done all the same.
  [[maybe_unused]] const ssize_t n =
      ::write(STDERR_FILENO, line.data(), line.size());
  signals_.hold();
}

}  // namespace net
