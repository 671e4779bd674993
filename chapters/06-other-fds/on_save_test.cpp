// What on-save promises, one claim a test case.

#include <doctest/doctest.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <csignal>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <functional>
#include <sstream>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include "common/error.hpp"
#include "common/fd.hpp"
#include "common/testing/child_process.hpp"
#include "common/testing/process.hpp"
#include "common/testing/sanitizer.hpp"

namespace {

using testing::ChildProcess;
using testing::has_ended;
using testing::wait_until;
using namespace std::chrono_literals;
namespace filesystem = std::filesystem;

std::string content(const filesystem::path& file) {
  std::ostringstream text;
  text << std::ifstream(file).rdbuf();  // what goes away meanwhile is empty
  return text.str();
}

std::size_t count(std::string_view text, std::string_view part) {
  std::size_t times = 0;
  for (auto at = text.find(part); at != std::string_view::npos;
       at = text.find(part, at + part.size())) {
    ++times;
  }
  return times;
}

// In place, as a shell's > does.
void write(const filesystem::path& file, std::string_view text = "text\n") {
  std::ofstream stream(file);
  stream << text << std::flush;
  if (!stream) net::throw_errno("write", file.string());
}

// A folder of its own for each test case: `watched` for the files that are
// saved, beside it what the test writes down.
class Scratch {
 public:
  Scratch() {
    std::string name = filesystem::temp_directory_path() / "on-save-XXXXXX";
    if (::mkdtemp(name.data()) == nullptr) net::throw_errno("mkdtemp", name);
    root_ = name;
    filesystem::create_directory(root_ / "watched");
    filesystem::create_directory(root_ / "other");
  }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  ~Scratch() {
    std::error_code ignored;  // it is in the temporary folder
    filesystem::remove_all(root_, ignored);
  }

  filesystem::path operator/(const filesystem::path& name) const {
    return root_ / name;
  }

 private:
  filesystem::path root_;
};

// The process whose number the command has written there.
pid_t process_in(const filesystem::path& file) {
  wait_until("a number in " + file.string(),
             [&] { return content(file).ends_with('\n'); });
  return static_cast<pid_t>(std::stol(content(file)));
}

// A line of /proc/PID/status: one bit for each signal, that of 1 the lowest.
std::uint64_t signal_set(const std::string& status, const std::string& name) {
  const auto at = status.find(name);
  REQUIRE(at != std::string::npos);
  return std::stoull(status.substr(at + name.size()), nullptr, 16);
}

struct Setting {
  std::string timeout = "0";
  std::string before = {};  // what the shell does that becomes on-save
  std::string errors = {};  // where its standard error goes
};

// on-save beside a test; its standard error is a file, which `said` reads.
class Watcher {
 public:
  Watcher(const Scratch& scratch, const std::string& command,
          const std::vector<std::string>& files, const Setting& setting = {})
      : said_(scratch / "said"),
        runs_(scratch / "runs"),
        child_(line(setting, "cd '" + (scratch / "watched").string() + "'; ",
                    command, files)) {}

  // Its command must not outlive a test that fails.
  ~Watcher() {
    if (ended_) return;
    try {
      child_.signal(SIGCONT);
      child_.signal(SIGTERM);
      child_.wait();
    } catch (const std::exception& error) {
      MESSAGE(error.what());
    }
  }

  pid_t pid() const { return child_.pid(); }
  void signal(int number) const { child_.signal(number); }
  std::string said() const { return content(said_); }
  std::size_t runs() const { return count(content(runs_), "\n"); }

  int wait() {
    const int status = child_.wait();
    ended_ = true;
    return status;
  }

  void wait_until_said(const std::string& text, std::size_t times = 1) const {
    wait_until("on-save says: " + text,
               [&] { return count(said(), text) >= times; });
  }

  void wait_until_runs(std::size_t times) const {
    wait_until("run " + std::to_string(times), [&] { return runs() >= times; });
  }

  // The text of the first descriptor of this kind, from procfs; "" if it has
  // none.
  std::string descriptor(const std::string& kind) const {
    const std::string process = "/proc/" + std::to_string(pid());
    for (const auto& entry : filesystem::directory_iterator(process + "/fd")) {
      std::error_code gone;
      const filesystem::path is = filesystem::read_symlink(entry, gone);
      if (is.string().find(kind) == std::string::npos) continue;
      return content(process + "/fdinfo/" + entry.path().filename().string());
    }
    return "";
  }

  bool command_runs() const { return !descriptor("pidfd").empty(); }

  bool timer_is_set() const {
    return descriptor("timerfd").find("it_value: (0, 0)") == std::string::npos;
  }

  // Nothing is to be done any more for what was saved before: it sleeps, no
  // command runs and no time is set. A save has woken it before close returns,
  // so it does not sleep until it has seen it. A time that has passed and not
  // been reported yet looks as if none were set: who expects a run waits for
  // that first.
  void wait_until_idle() const {
    wait_until("on-save has nothing to do", [&] {
      const auto wakeups = testing::voluntary_switches(pid());
      if (testing::state(pid()) != 'S' || command_runs()) return false;
      const std::string timer = descriptor("timerfd");
      return timer.find("ticks: 0") != std::string::npos && !timer_is_set() &&
             testing::state(pid()) == 'S' &&
             testing::voluntary_switches(pid()) == wakeups;
    });
  }

  // What is done meanwhile it finds all at once when it continues.
  void while_stopped(const std::function<void()>& work) const {
    signal(SIGSTOP);
    wait_until("on-save stops", [&] { return testing::state(pid()) == 'T'; });
    work();
    signal(SIGCONT);
  }

 private:
  std::vector<std::string> line(const Setting& setting, const std::string& cd,
                                const std::string& command,
                                const std::vector<std::string>& files) const {
    // A shell gives its background jobs SIGINT and SIGQUIT ignored, and we may
    // be one.
    for (const int number : {SIGINT, SIGTERM, SIGHUP, SIGQUIT}) {
      ::signal(number, SIG_DFL);
    }
    const std::string errors =
        setting.errors.empty() ? "2>'" + said_.string() + "'" : setting.errors;
    std::vector<std::string> words{
        "/bin/sh",
        "-c",
        cd + setting.before + " exec \"$@\" " + errors,
        "sh",
        ON_SAVE,
        "--timeout",
        setting.timeout,
        "--",
        command};
    words.insert(words.end(), files.begin(), files.end());
    return words;
  }

  filesystem::path said_;
  filesystem::path runs_;
  ChildProcess child_;
  bool ended_ = false;
};

// It watches, and each run adds a line to a file.
struct Watched {
  explicit Watched(const std::vector<std::string>& files = {"file"},
                   const Setting& setting = {})
      : watcher(scratch, "echo run >>../runs", files, setting) {
    watcher.wait_until_said("watching");
  }

  filesystem::path operator/(const filesystem::path& name) const {
    return scratch / "watched" / name;
  }

  // How many runs come of this, if all of it is seen at once; at least one.
  std::size_t runs_after(const std::function<void()>& work) const {
    const std::size_t before = watcher.runs();
    watcher.while_stopped(work);
    watcher.wait_until_runs(before + 1);
    watcher.wait_until_idle();
    return watcher.runs() - before;
  }

  bool no_run_after(const std::function<void()>& work) const {
    const std::size_t before = watcher.runs();
    watcher.while_stopped(work);
    watcher.wait_until_idle();
    return watcher.runs() == before;
  }

  Scratch scratch;
  Watcher watcher;
};

}  // namespace

TEST_CASE("a file written in place is saved") {
  const Watched files;
  for (int i = 0; i < 2; ++i) {
    CHECK(files.runs_after([&] { write(files / "file"); }) == 1);
  }
  CHECK(files.runs_after([&] {
    std::ofstream(files / "file", std::ios::app) << "more\n";
  }) == 1);
}

TEST_CASE("a file is not saved before its writer closes it") {
  const Watched files;
  CHECK(files.runs_after([&] { write(files / "file"); }) == 1);
  std::ofstream stream(files / "file", std::ios::app);
  CHECK(files.no_run_after([&] { stream << "one" << std::flush; }));
  CHECK(files.no_run_after([&] { stream << "two" << std::flush; }));
  CHECK(files.runs_after([&] { stream.close(); }) == 1);
}

TEST_CASE("a new file renamed over the old one is saved, time after time") {
  const Watched files;
  for (int i = 0; i < 3; ++i) {
    CHECK(files.no_run_after([&] { write(files / "file~"); }));
    CHECK(files.runs_after([&] {
      filesystem::rename(files / "file~", files / "file");
    }) == 1);
  }
}

TEST_CASE("the old file moved away and a new one written is saved") {
  const Watched files;
  for (int i = 0; i < 3; ++i) {
    CHECK(files.runs_after([&] { write(files / "file"); }) == 1);
    CHECK(files.no_run_after(
        [&] { filesystem::rename(files / "file", files / "file~"); }));
    CHECK(files.runs_after([&] { write(files / "file"); }) == 1);
  }
}

TEST_CASE("a link put in place of a file is saved") {
  const Watched files;
  write(files / "draft");
  CHECK(files.runs_after([&] {
    filesystem::create_hard_link(files / "draft", files / "file");
  }) == 1);
  filesystem::remove(files / "file");
  CHECK(files.runs_after(
            [&] { filesystem::create_symlink("draft", files / "file"); }) == 1);
}

TEST_CASE("a file that is written through a symbolic link is saved") {
  const Scratch scratch;
  filesystem::create_symlink("../other/link", scratch / "watched/file");
  filesystem::create_symlink("target", scratch / "other/link");
  write(scratch / "other/target");
  const Watcher watcher(scratch, "echo run >>../runs", {"file"});
  watcher.wait_until_said("watching 1 file\n");
  write(scratch / "watched/file");
  watcher.wait_until_said("exit status 0", 1);
  write(scratch / "other/target");
  watcher.wait_until_said("exit status 0", 2);
  watcher.wait_until_idle();
  CHECK(watcher.runs() == 2);
}

TEST_CASE("a link made to lead elsewhere is saved, and followed there") {
  const Watched files;
  const auto lead = [&](const std::string& target) {
    filesystem::create_symlink(target, files / "new");
    filesystem::rename(files / "new", files / "file");
  };
  const filesystem::path target = files.scratch / "other/target";
  write(target);
  write(files / "near");
  CHECK(files.runs_after([&] { lead("../other/target"); }) == 1);
  CHECK(files.runs_after([&] { write(target); }) == 1);
  CHECK(count(files.watcher.descriptor("inotify"), "inotify wd:") == 2);
  CHECK(files.runs_after([&] { lead("near"); }) == 1);
  CHECK(files.no_run_after([&] { write(target); }));
  CHECK(files.runs_after([&] { write(files / "near"); }) == 1);
  CHECK(count(files.watcher.descriptor("inotify"), "inotify wd:") == 1);
}

TEST_CASE("what happens to other files is no save") {
  const Watched files;
  CHECK(files.no_run_after([&] {
    write(files / "other");
    write(files / "file.o");
    filesystem::rename(files / "other", files / "another");
    filesystem::create_directory(files / "file");
  }));
}

TEST_CASE("reading, a new mode, new times, moving away, removing: no save") {
  const Watched files;
  CHECK(files.runs_after([&] { write(files / "file"); }) == 1);
  CHECK(files.no_run_after([&] {
    CHECK(content(files / "file") == "text\n");
    filesystem::permissions(files / "file", filesystem::perms::owner_all);
    filesystem::last_write_time(files / "file",
                                filesystem::file_time_type::clock::now());
    filesystem::rename(files / "file", files / "away");
    filesystem::remove(files / "away");
  }));
}

TEST_CASE("touch is a save: it opens the file for writing") {
  const Watched files;
  CHECK(files.runs_after([&] { write(files / "file"); }) == 1);
  CHECK(files.runs_after([&] {
    ChildProcess touch({"touch", files / "file"});
    CHECK(touch.wait() == 0);
  }) == 1);
}

TEST_CASE("files of one folder share a watch, however they are named") {
  const Watched files({"one", "./two", "../watched/three", "one"});
  CHECK(files.watcher.said() == "on-save: watching 3 files\n");
  CHECK(count(files.watcher.descriptor("inotify"), "inotify wd:") == 1);
  for (const char* name : {"one", "two", "three"}) {
    CHECK(files.runs_after([&] { write(files / name); }) == 1);
  }
}

TEST_CASE("names may have spaces and dashes, and so may the command") {
  const Watched files({"a b", "-c d", "e\nf"});
  for (const char* name : {"a b", "-c d", "e\nf"}) {
    CHECK(files.runs_after([&] { write(files / name); }) == 1);
  }
  const Scratch scratch;
  const Watcher watcher(scratch, "-n", {"file"});
  watcher.wait_until_said("watching");
  write(scratch / "watched/file");
  watcher.wait_until_said("exit status 127");
}

TEST_CASE("a save while the command runs has it run once more, and not twice") {
  const Scratch scratch;
  const Watcher watcher(
      scratch, "echo run >>../runs; until test -e ../go; do sleep 0.01; done",
      {"file"});
  watcher.wait_until_said("watching");
  write(scratch / "watched/file");
  watcher.wait_until_runs(1);
  for (int i = 0; i < 5; ++i) {
    write(scratch / "watched/file");
    testing::wait_until_settled(watcher.pid());
  }
  CHECK(watcher.runs() == 1);
  write(scratch / "go");
  watcher.wait_until_said("exit status 0", 2);
  watcher.wait_until_idle();
  CHECK(watcher.runs() == 2);
}

TEST_CASE("saves close together are one run") {
  const Watched files;
  std::size_t fewest = 2;
  for (int i = 0; i < 20 && fewest > 1; ++i) {
    const std::size_t before = files.watcher.runs();
    write(files / "file");
    // It has seen the first one before it sees the second.
    wait_until("it puts the run off, or has begun it", [&] {
      return files.watcher.timer_is_set() || files.watcher.command_runs() ||
             files.watcher.runs() > before;
    });
    write(files / "file");
    files.watcher.wait_until_runs(before + 1);
    files.watcher.wait_until_idle();
    // On a busy machine more than the pause may lie between the two.
    fewest = std::min(fewest, files.watcher.runs() - before);
  }
  CHECK(fewest == 1);
}

TEST_CASE("saves that never pause do not put the run off for ever") {
  const Watched files;
  std::atomic<bool> enough = false;
  std::thread writer([&] {
    while (!enough) write(files / "file");
  });
  CHECK_NOTHROW(files.watcher.wait_until_said("exit status 0", 2));
  enough = true;
  writer.join();
}

TEST_CASE("more saves than the kernel keeps are a save") {
  const Watched files;
  const auto kept =
      std::stoul(content("/proc/sys/fs/inotify/max_queued_events"));
  const std::size_t most = std::min(kept, 100'000UL);
  if (most < kept) MESSAGE("the kernel keeps " << kept << ": not filled");
  const std::size_t runs = files.runs_after([&] {
    // Two in turn: equal events that follow each other are one.
    for (std::size_t i = 0; i <= most; ++i) {
      write(files / (i % 2 == 0 ? "a" : "b"));
    }
    write(files / "file");
  });
  CHECK(runs == 1);
}

TEST_CASE("the deadline ends a command with all its children") {
  const Scratch scratch;
  const Watcher watcher(scratch, "sleep 300 & echo $! >../pid; wait", {"file"},
                        {.timeout = "2s"});
  watcher.wait_until_said("watching");
  write(scratch / "watched/file");
  const pid_t grandchild = process_in(scratch / "pid");
  watcher.wait_until_said("on-save: killed after 2s, it had not ended\n");
  CHECK_NOTHROW(wait_until("it ends", [&] { return has_ended(grandchild); }));
}

TEST_CASE("a command that will not hear of SIGTERM is ended, too") {
  const Scratch scratch;
  const Watcher watcher(scratch, "trap '' TERM INT HUP; sleep 300; sleep 300",
                        {"file"}, {.timeout = "500ms"});
  watcher.wait_until_said("watching");
  for (std::size_t run = 1; run <= 2; ++run) {
    write(scratch / "watched/file");
    watcher.wait_until_said("killed after 500ms, it had not ended", run);
  }
}

TEST_CASE("each run has the whole time, and none is ended after its end") {
  const Watched files({"file"}, {.timeout = "1s"});
  const auto begin = testing::Clock::now();
  for (std::size_t run = 1; testing::Clock::now() - begin < 2500ms; ++run) {
    write(files / "file");
    files.watcher.wait_until_said("exit status 0", run);
    files.watcher.wait_until_idle();
  }
  CHECK(count(files.watcher.said(), "killed") == 0);
}

TEST_CASE("what a command leaves behind ends with it") {
  const Scratch scratch;
  const Watcher watcher(scratch, "sleep 300 & echo $! >../pid", {"file"});
  watcher.wait_until_said("watching");
  write(scratch / "watched/file");
  watcher.wait_until_said("exit status 0");
  const pid_t left = process_in(scratch / "pid");
  CHECK_NOTHROW(wait_until("it ends", [&] { return has_ended(left); }));
}

TEST_CASE("what leaves the group of the command outlives it") {
  const Scratch scratch;
  const Watcher watcher(scratch,
                        "setsid sh -c 'echo $$ >../pid; exec sleep 300' & "
                        "until test -s ../pid; do sleep 0.01; done",
                        {"file"});
  watcher.wait_until_said("watching");
  write(scratch / "watched/file");
  watcher.wait_until_said("exit status 0");
  const pid_t left = process_in(scratch / "pid");
  watcher.wait_until_idle();
  CHECK_FALSE(has_ended(left));
  ::kill(left, SIGKILL);
}

TEST_CASE("a signal ends it and all it has started") {
  for (const int number : {SIGINT, SIGTERM, SIGHUP, SIGQUIT}) {
    const Scratch scratch;
    Watcher watcher(scratch,
                    "trap '' INT TERM HUP QUIT; echo $$ >../leader; "
                    "sleep 300 & echo $! >../pid; wait",
                    {"file"});
    watcher.wait_until_said("watching");
    write(scratch / "watched/file");
    const pid_t grandchild = process_in(scratch / "pid");
    const pid_t leader = process_in(scratch / "leader");
    write(scratch / "watched/file");  // and is not run for any more
    watcher.signal(number);
    CHECK(watcher.wait() == 128 + number);
    CHECK(has_ended(leader));
    CHECK_NOTHROW(wait_until("it ends", [&] { return has_ended(grandchild); }));
  }
}

TEST_CASE("a signal ends it while it waits for a save, and for the pause") {
  for (const int number : {SIGINT, SIGTERM, SIGHUP, SIGQUIT}) {
    Watched files;
    files.watcher.wait_until_idle();
    if (number == SIGTERM) write(files / "file");
    files.watcher.signal(number);
    CHECK(files.watcher.wait() == 128 + number);
  }
}

TEST_CASE("a signal that was ignored when it started is ignored") {
  Watched files({"file"}, {.timeout = "0", .before = "trap '' HUP;"});
  files.watcher.wait_until_idle();
  files.watcher.signal(SIGHUP);
  CHECK(files.runs_after([&] { write(files / "file"); }) == 1);
  files.watcher.signal(SIGTERM);
  CHECK(files.watcher.wait() == 128 + SIGTERM);
}

TEST_CASE("stopping and continuing changes nothing") {
  const Watched files;
  for (int i = 0; i < 10; ++i) {
    files.watcher.wait_until_idle();
    files.watcher.while_stopped([] {});
  }
  CHECK(files.runs_after([&] { write(files / "file"); }) == 1);
}

TEST_CASE("the command gets the signals as on-save got them") {
  const Scratch scratch;
  // The shell's own, read without a child: for one it changes its mask.
  const std::string look =
      "while read -r line; do case $line in Sig[BI]*) echo \"$line\";; esac; "
      "done </proc/$$/status >../";
  const Watcher watcher(
      scratch, look + "inside", {"file"},
      {.timeout = "0", .before = "trap '' USR1; " + look + "outside;"});
  watcher.wait_until_said("watching");
  write(scratch / "watched/file");
  watcher.wait_until_said("exit status 0");
  const std::string inside = content(scratch / "inside");
  const std::string outside = content(scratch / "outside");
  CHECK(signal_set(inside, "SigBlk:") == signal_set(outside, "SigBlk:"));
  // The C library's posix_spawn has 32 and 33, its own, ignored in the child.
  CHECK((signal_set(inside, "SigIgn:") & 0x7fff'ffff) ==
        (signal_set(outside, "SigIgn:") & 0x7fff'ffff));
}

TEST_CASE("the command has a group of its own and nothing to read") {
  const Scratch scratch;
  const Watcher watcher(scratch,
                        "ps -o pgid= -p $$ | tr -d ' ' >../group; "
                        "echo $$ >../leader; head -c 1 >../input",
                        {"file"},
                        {.timeout = "0", .before = "exec </dev/zero;"});
  watcher.wait_until_said("watching");
  write(scratch / "watched/file");
  watcher.wait_until_said("exit status 0");
  CHECK(process_in(scratch / "group") == process_in(scratch / "leader"));
  CHECK(content(scratch / "input").empty());
}

TEST_CASE("it says how a run ended") {
  const std::vector<std::array<std::string, 2>> ends{
      {"exit 0", "on-save: exit status 0 after 0."},
      {"exit 3", "on-save: exit status 3 after 0."},
      {"/no/such/program", "on-save: exit status 127 after 0."},
      {"kill -SEGV $$", "on-save: killed by SIGSEGV after 0."},
      {"kill -KILL $$", "on-save: killed by SIGKILL after 0."},
      {"sleep 1.2", "on-save: exit status 0 after 1."}};
  for (const auto& [command, line] : ends) {
    const Scratch scratch;
    const Watcher watcher(scratch, command, {"file"});
    watcher.wait_until_said("on-save: watching 1 file\n");
    write(scratch / "watched/file");
    watcher.wait_until_said(" s\n");
    CHECK(count(watcher.said(), line) == 1);
    CHECK(count(watcher.said(), " s\n") == 1);
  }
}

TEST_CASE("it says so, too, if it was started with SIGCHLD ignored") {
  const Watched files({"file"},
                      {.timeout = "0",
                       // A shell would not pass on what its trap ignores.
                       .before = "set -- env --ignore-signal=CHLD \"$@\";"});
  write(files / "file");
  files.watcher.wait_until_said("exit status 0");
  CHECK(files.runs_after([&] { write(files / "file"); }) == 1);
}

TEST_CASE("without work it does not wake") {
  const Watched files;
  for (int i = 0; i < 2; ++i) {
    files.watcher.wait_until_idle();
    const auto wakeups = testing::voluntary_switches(files.watcher.pid());
    const auto cpu = testing::cpu_time(files.watcher.pid());
    std::this_thread::sleep_for(500ms);
    CHECK(testing::voluntary_switches(files.watcher.pid()) == wakeups);
    CHECK(testing::cpu_time(files.watcher.pid()) - cpu < 10ms);
    write(files / "file");
    files.watcher.wait_until_runs(1);
  }
}

TEST_CASE("a command that runs costs it no wakeup") {
  const Scratch scratch;
  const Watcher watcher(scratch, "echo run >>../runs; sleep 300", {"file"},
                        {.timeout = "1h"});
  watcher.wait_until_said("watching");
  write(scratch / "watched/file");
  watcher.wait_until_runs(1);
  testing::wait_until_settled(watcher.pid());
  const auto wakeups = testing::voluntary_switches(watcher.pid());
  std::this_thread::sleep_for(500ms);
  CHECK(testing::voluntary_switches(watcher.pid()) == wakeups);
}

TEST_CASE("100 runs leave no descriptor behind") {
  const Watched files;
  files.watcher.wait_until_idle();
  const auto before = testing::open_descriptors(files.watcher.pid());
  for (std::size_t run = 1; run <= 100; ++run) {
    write(files / "file");
    files.watcher.wait_until_said("exit status 0", run);
  }
  files.watcher.wait_until_idle();
  CHECK(files.watcher.runs() == 100);
  CHECK(testing::open_descriptors(files.watcher.pid()) == before);
}

TEST_CASE("a folder that goes away ends it, and the command") {
  for (const bool moved : {false, true}) {
    const Scratch scratch;
    filesystem::create_directory(scratch / "other/folder");
    Watcher watcher(scratch, "echo $$ >../pid; exec sleep 300",
                    {"file", "../other/folder/file"});
    watcher.wait_until_said("watching");
    write(scratch / "watched/file");
    const pid_t command = process_in(scratch / "pid");
    if (moved) {
      filesystem::rename(scratch / "other/folder", scratch / "other/moved");
    } else {
      filesystem::remove(scratch / "other/folder");
    }
    CHECK(watcher.wait() == 1);
    CHECK(has_ended(command));
    CHECK(watcher.said() ==
          "on-save: watching 2 files\n"
          "on-save: the folder ../other/folder is no longer there\n");
  }
}

TEST_CASE("a removed folder in which a process still is is missed at a save") {
  const Scratch scratch;
  const filesystem::path folder = scratch / "other/folder";
  filesystem::create_directory(folder);
  Watcher watcher(scratch, "true", {"file", "../other/folder/file"});
  watcher.wait_until_said("watching");
  ChildProcess guest(
      {"/bin/sh", "-c",
       "cd '" + folder.string() + "'; echo $$ >../pid; " + "exec sleep 300"});
  CHECK(process_in(scratch / "other/pid") == guest.pid());
  filesystem::remove(folder);
  write(scratch / "watched/file");
  CHECK(watcher.wait() == 1);
  CHECK(count(watcher.said(), "inotify_add_watch ../other/folder: No such") ==
        1);
}

TEST_CASE("it goes on with standard error closed") {
  const Scratch scratch;
  const Watcher watcher(scratch, "echo run >>../runs", {"file"},
                        {.errors = "2>&-"});
  wait_until("it watches", [&] {
    return count(watcher.descriptor("inotify"), "inotify wd:") == 1;
  });
  for (std::size_t run = 1; run <= 2; ++run) {
    write(scratch / "watched/file");
    watcher.wait_until_runs(run);
    watcher.wait_until_idle();
  }
}

TEST_CASE("with standard error full the deadline holds, and so do signals") {
  const Scratch scratch;
  const filesystem::path fifo = scratch / "fifo";
  net::check(::mkfifo(fifo.c_str(), 0600), "mkfifo");
  const net::Fd pipe(net::check(
      ::open(fifo.c_str(), O_RDWR | O_NONBLOCK | O_CLOEXEC), "open"));
  const std::string page(4096, 'x');
  while (::write(pipe.get(), page.data(), page.size()) > 0) continue;
  std::string line(4096, '\0');
  net::check(::read(pipe.get(), line.data(), line.size()), "read");
  Watcher watcher(scratch, "echo $$ >../pid; exec sleep 300", {"file"},
                  {.timeout = "2s", .errors = "2>'" + fifo.string() + "'"});
  // Its first line takes the one page that was free, and leaves room in it.
  watcher.wait_until_idle();
  while (::write(pipe.get(), "x", 1) > 0) continue;
  write(scratch / "watched/file");
  const pid_t command = process_in(scratch / "pid");
  CHECK_NOTHROW(wait_until("the command ends and on-save sleeps", [&] {
    return has_ended(command) && !watcher.command_runs() &&
           testing::state(watcher.pid()) == 'S';
  }));
  watcher.signal(SIGINT);
  CHECK(watcher.wait() == 128 + SIGINT);
}

TEST_CASE("a save while the command runs does not end the run") {
  const Scratch scratch;
  const Watcher watcher(
      scratch, "echo run >>../runs; until test -e ../go; do sleep 0.01; done",
      {"file"});
  watcher.wait_until_said("watching");
  write(scratch / "watched/file");
  watcher.wait_until_runs(1);
  write(scratch / "watched/file");
  testing::wait_until_settled(watcher.pid());
  CHECK_FALSE(watcher.timer_is_set());
  write(scratch / "go");
  watcher.wait_until_said("exit status 0", 2);
  CHECK(count(watcher.said(), "killed") == 0);
}

TEST_CASE("a save is seen among others in the folder") {
  const Watched files;
  CHECK(files.runs_after([&] {
    write(files / "before");
    write(files / "file");
    write(files / "behind");
    write(files / std::string(255, 'x'));
  }) == 1);
}

TEST_CASE("it goes on after a long stop between two saves") {
  const Watched files;
  for (int i = 0; i < 5; ++i) {
    write(files / "file");
    wait_until("it puts the run off, or has begun it", [&] {
      return files.watcher.timer_is_set() || files.watcher.runs() > 0;
    });
    files.watcher.while_stopped([&] {
      write(files / "file");
      std::this_thread::sleep_for(600ms);
    });
    files.watcher.wait_until_idle();
  }
  CHECK(files.watcher.said().find("timerfd") == std::string::npos);
}

TEST_CASE("each run is told by its own end") {
  const Scratch scratch;
  const Watcher watcher(scratch,
                        "test -e ../second && kill -SEGV $$; exec sleep 300",
                        {"file"}, {.timeout = "500ms"});
  watcher.wait_until_said("watching");
  write(scratch / "watched/file");
  watcher.wait_until_said("killed after 500ms");
  write(scratch / "second");
  write(scratch / "watched/file");
  watcher.wait_until_said("killed by SIGSEGV");
}

TEST_CASE("the command has none of its descriptors") {
  const Scratch scratch;
  const Watcher watcher(scratch, "readlink /proc/$$/fd/* >../fds", {"file"});
  watcher.wait_until_said("watching");
  write(scratch / "watched/file");
  watcher.wait_until_said("exit status");
  CHECK(content(scratch / "fds").find("anon_inode") == std::string::npos);
}

TEST_CASE("the time goes by a clock that nobody sets") {
  const Watched files;
  CHECK(count(files.watcher.descriptor("timerfd"), "clockid: 1\n") == 1);
}

TEST_CASE("a signal is its last word") {
  const Scratch scratch;
  Watcher watcher(scratch, "echo $$ >../pid; exec sleep 300", {"file"});
  watcher.wait_until_said("watching");
  write(scratch / "watched/file");
  process_in(scratch / "pid");
  watcher.signal(SIGTERM);
  CHECK(watcher.wait() == 128 + SIGTERM);
  CHECK(watcher.said() == "on-save: watching 1 file\n");
}

TEST_CASE("forty links in a row are followed, as the kernel does") {
  const Scratch scratch;
  const auto link = [&](int i) {
    return scratch / "watched" / ("link" + std::to_string(i));
  };
  write(scratch / "other/target");
  filesystem::create_symlink("../other/target", link(40));
  for (int i = 39; i > 0; --i) {
    filesystem::create_symlink("link" + std::to_string(i + 1), link(i));
  }
  const Watcher watcher(scratch, "echo run >>../runs", {"link1"});
  watcher.wait_until_said("watching");
  write(scratch / "other/target");
  watcher.wait_until_runs(1);
}

TEST_CASE("a folder that goes away in the same moment as a save") {
  const Scratch scratch;
  filesystem::create_directory(scratch / "other/folder");
  Watcher watcher(scratch, "true", {"file", "../other/folder/file"});
  watcher.wait_until_said("watching");
  watcher.while_stopped([&] {
    write(scratch / "watched/file");
    filesystem::rename(scratch / "other/folder", scratch / "other/moved");
  });
  CHECK(watcher.wait() == 1);
}

TEST_CASE("a folder that is replaced is watched in its place") {
  const Scratch scratch;
  filesystem::create_directory(scratch / "other/folder");
  const Watcher watcher(scratch, "echo run >>../runs",
                        {"../other/folder/file"});
  watcher.wait_until_said("watching");
  watcher.while_stopped([&] {
    filesystem::rename(scratch / "other/folder", scratch / "other/moved");
    filesystem::create_directory(scratch / "other/folder");
  });
  watcher.wait_until_runs(1);
  write(scratch / "other/folder/file");
  watcher.wait_until_runs(2);
}

TEST_CASE("usage errors give a reason, the usage line and exit status 2") {
  const std::vector<std::pair<std::vector<std::string>, std::string>> lines{
      {{}, "no command"},
      {{"true"}, "no file to watch"},
      {{"true", "."}, "'.' is not the name of a file"},
      {{"true", "file", "/"}, "'/' is not the name of a file"},
      {{"true", ""}, "'' is not the name of a file"},
      {{"true", "nothing/"}, "'nothing/' is not the name of a file"},
      {{"--timeout", "5", "true", "file"}, "--timeout: '5' is not a time"},
      {{"--fast", "true", "file"}, "--fast"}};
  for (const auto& [arguments, reason] : lines) {
    std::vector<std::string> command{ON_SAVE};
    command.insert(command.end(), arguments.begin(), arguments.end());
    ChildProcess program(command);
    CHECK(program.wait() == 2);
    CHECK(count(program.errors(), reason) == 1);
    CHECK(count(program.errors(), "\nusage: on-save [--timeout TIME] ") == 1);
    CHECK(count(program.errors(), "\n") == 2);
  }
  ChildProcess help({ON_SAVE, "--help"});
  CHECK(help.wait() == 0);
  CHECK(count(help.output(), "--timeout") == 2);
}

TEST_CASE("what cannot be watched is named, and the exit status is 1") {
  const Scratch scratch;
  filesystem::create_symlink("loop", scratch / "watched/loop");
  write(scratch / "watched/file");
  const std::vector<std::array<std::string, 2>> lines{
      {"no/file", "inotify_add_watch no: No such file or directory"},
      {"file/file", "inotify_add_watch file: Not a directory"},
      {"loop", "readlink ./loop: Too many levels of symbolic links"}};
  for (const auto& [file, line] : lines) {
    Watcher watcher(scratch, "true", {file});
    CHECK(watcher.wait() == 1);
    CHECK(watcher.said() == "on-save: " + line + '\n');
  }
}

TEST_CASE("out of descriptors it names the two limits") {
  if (testing::sanitized) {
    MESSAGE("a sanitizer opens files of its own: not tried");
    return;
  }
  ChildProcess program({"/bin/sh", "-c", "exec 3>&-; ulimit -n 4; exec \"$@\"",
                        "sh", ON_SAVE, "true", "file"});
  CHECK(program.wait() == 1);
  CHECK(program.errors() ==
        "on-save: inotify_init1 (limits: fs.inotify.max_user_instances, "
        "ulimit -n): Too many open files\n");
}
