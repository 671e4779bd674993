// deadline: runs a command that has to end in time, or says where it hangs.
//
// The command gets a session of its own. So it is a process group of its own,
// and a terminal it shares with us can neither stop it (it is not a background
// job there) nor interrupt it past us: Ctrl-C reaches us, and we kill it.

#include <dirent.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "common/error.hpp"
#include "common/options.hpp"
#include "common/testing/whereabouts.hpp"

namespace {

using std::chrono::milliseconds;
using Clock = std::chrono::steady_clock;

constexpr int status_too_late = 124;  // as timeout(1) has it

// How long a command that is asked to end may take for its last words.
constexpr milliseconds last_words{1000};

// How long after the command's own end the processes it started may take to
// end as well, before they count as left behind.
constexpr milliseconds grace{200};

// What a wait ended with: SIGCHLD, a signal that ends us, or 0 for the time.
int wait_for_signal(const sigset_t& signals, Clock::time_point until) {
  const auto left = std::max(until - Clock::now(), Clock::duration::zero());
  const auto seconds = floor<std::chrono::seconds>(left);
  const timespec limit{seconds.count(), (left - seconds).count()};
  const int signal = ::sigtimedwait(&signals, nullptr, &limit);
  if (signal > 0) return signal;
  return errno == EAGAIN ? 0 : SIGCHLD;  // EINTR: stopped and continued
}

pid_t start(const std::vector<std::string>& command, const sigset_t& mask) {
  std::vector<char*> words;
  for (const std::string& word : command) {
    words.push_back(const_cast<char*>(word.c_str()));
  }
  words.push_back(nullptr);
  const pid_t runner = ::getpid();
  const pid_t child = net::check(::fork(), "fork");
  if (child != 0) return child;
  ::setsid();
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (::getppid() != runner) ::_exit(1);  // it died before prctl
  ::sigprocmask(SIG_SETMASK, &mask, nullptr);
  ::execvp(words[0], words.data());
  const int error = errno;
  std::fprintf(stderr, "deadline: exec %s: %s\n", words[0],
               std::strerror(error));
  ::_exit(error == ENOENT ? 127 : 126);  // as a shell has it
}

// Parent of every process, and its name, from /proc/PID/stat.
struct Process {
  pid_t parent = 0;
  std::string name;
};

std::ptrdiff_t threads(pid_t pid) {
  std::error_code gone;
  const std::filesystem::directory_iterator tasks(
      "/proc/" + std::to_string(pid) + "/task", gone);
  return std::distance(begin(tasks), end(tasks));
}

// A process whose first thread has ended counts as a zombie while its other
// threads run.
std::map<pid_t, Process> all_processes() {
  std::map<pid_t, Process> found;
  const std::unique_ptr<DIR, int (*)(DIR*)> folder(::opendir("/proc"),
                                                   ::closedir);
  if (!folder) return found;
  while (const dirent* entry = ::readdir(folder.get())) {
    const int pid = std::atoi(entry->d_name);
    if (pid <= 0) continue;
    std::ifstream file("/proc/" + std::to_string(pid) + "/stat");
    std::string stat;
    std::getline(file, stat);
    const auto open = stat.find('(');
    const auto close = stat.rfind(')');
    if (open == std::string::npos || close == std::string::npos) continue;
    if (stat.compare(close, 3, ") Z") == 0 && threads(pid) <= 1) continue;
    found[pid] = {std::atoi(stat.c_str() + close + 4),
                  stat.substr(open + 1, close - open - 1)};
  }
  return found;
}

// Everybody who descends from us and has not ended, with their names.
std::map<pid_t, std::string> descendants() {
  const std::map<pid_t, Process> all = all_processes();
  std::map<pid_t, std::string> found;
  for (const auto& [pid, process] : all) {
    pid_t ancestor = process.parent;
    while (ancestor != ::getpid() && all.contains(ancestor)) {
      ancestor = all.at(ancestor).parent;
    }
    if (ancestor == ::getpid()) found[pid] = process.name;
  }
  return found;
}

class Runner {
 public:
  explicit Runner(std::vector<std::string> command);

  // The exit status for our own process.
  int run(std::chrono::seconds limit);

 private:
  bool reap();
  int end();
  void tell_left_behind() const;
  void tell_where(const std::string& what) const;
  void ask_to_end();
  void kill_all();

  std::vector<std::string> command_;
  sigset_t old_mask_{};
  sigset_t signals_{};
  pid_t child_ = -1;
  int status_ = -1;      // of the command, once it has been reaped
  bool anybody_ = true;  // we have a child, reaped or not
  bool child_ended_ = false;
};

Runner::Runner(std::vector<std::string> command)
    : command_(std::move(command)) {
  // Ignored, SIGCHLD would throw the exit status away, and it is inherited.
  std::signal(SIGCHLD, SIG_DFL);
  ::sigemptyset(&signals_);
  for (const int signal : {SIGCHLD, SIGINT, SIGTERM, SIGHUP, SIGQUIT}) {
    ::sigaddset(&signals_, signal);
  }
  // Nobody may read what we say about a hang; the killing must come all the
  // same.
  sigset_t blocked = signals_;
  ::sigaddset(&blocked, SIGPIPE);
  ::sigprocmask(SIG_BLOCK, &blocked, &old_mask_);
  // Whoever loses its parent becomes our child. So "we have no child" means
  // that nobody is left, whatever session or group they went to.
  net::check(::prctl(PR_SET_CHILD_SUBREAPER, 1), "prctl");
}

// True once the command itself has ended.
bool Runner::reap() {
  int status = 0;
  pid_t pid = 0;
  while ((pid = ::waitpid(-1, &status, WNOHANG)) > 0) {
    if (pid != child_) continue;
    child_ended_ = true;
    status_ = status;
  }
  anybody_ = pid == 0;
  return child_ended_;
}

int Runner::run(std::chrono::seconds limit) {
  child_ = start(command_, old_mask_);
  const auto until = Clock::now() + limit;
  while (!reap()) {
    const int signal = wait_for_signal(signals_, until);
    if (signal == SIGCHLD) continue;
    tell_where(signal == 0
                   ? " has not ended in " + std::to_string(limit.count()) + " s"
                   : std::string(" was interrupted"));
    ask_to_end();
    kill_all();
    return signal == 0 ? status_too_late : 128 + signal;
  }
  return end();
}

int Runner::end() {
  const auto until = Clock::now() + grace;
  while (anybody_ && wait_for_signal(signals_, until) == SIGCHLD) reap();
  if (anybody_) tell_left_behind();
  kill_all();
  if (WIFEXITED(status_)) return WEXITSTATUS(status_);
  std::fprintf(stderr, "deadline: %s: %s\n", command_[0].c_str(),
               ::strsignal(WTERMSIG(status_)));
  return 128 + WTERMSIG(status_);
}

void Runner::tell_left_behind() const {
  for (const auto& [pid, name] : descendants()) {
    std::fprintf(stderr, "deadline: %s left process %d (%s) behind; killed\n",
                 command_[0].c_str(), pid, name.c_str());
  }
}

void Runner::tell_where(const std::string& what) const {
  std::string text = "deadline: " + command_[0] + what + '\n';
  for (const auto& [pid, name] : descendants()) {
    text += "deadline: process " + std::to_string(pid) + " (" + name + ")\n" +
            testing::whereabouts(pid);
  }
  std::fputs(text.c_str(), stderr);
}

// A test program names its test case then; doctest has a handler for this.
void Runner::ask_to_end() {
  const auto until = Clock::now() + last_words;
  ::kill(child_, SIGTERM);
  while (!reap() && Clock::now() < until) wait_for_signal(signals_, until);
}

// Children of the dead become ours, so killing goes on until we have none.
void Runner::kill_all() {
  const auto until = Clock::now() + std::chrono::seconds(5);
  for (reap(); anybody_ && Clock::now() < until; reap()) {
    if (!child_ended_) {
      // It may not have come to setsid yet: by its number, too.
      ::kill(-child_, SIGKILL);
      ::kill(child_, SIGKILL);
    }
    for (const auto& entry : descendants()) ::kill(entry.first, SIGKILL);
    wait_for_signal(signals_, Clock::now() + milliseconds(50));
  }
}

}  // namespace

int main(int argc, char** argv) {
  std::uint32_t seconds = 60;
  std::string page;
  net::Options options(
      "[--seconds N] [--read-next PAGE] COMMAND [ARGUMENT...]",
      "Runs a command. If it has not ended in time, says which system call on\n"
      "which descriptor each of its threads sits in, kills it with everything\n"
      "it started, and exits with status 124.");
  options.number("--seconds", "time to end", 1, 86400, seconds);
  options.text("--read-next", "page to read next if it succeeds", page);
  return net::run_program(
      argc, argv, options, [&](const std::vector<std::string>& command) {
        if (command.empty()) throw net::UsageError("no command");
        const int status = Runner(command).run(std::chrono::seconds(seconds));
        if (status == 0 && !page.empty()) {
          std::printf("Done. Next: read %s\n", page.c_str());
        }
        return status;
      });
}
