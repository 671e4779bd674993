// The parts that the server of chapter 06 is made of, each alone.

#include <doctest/doctest.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <climits>
#include <csignal>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <future>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "chapters/06-other-fds/command.hpp"
#include "chapters/06-other-fds/discovery.hpp"
#include "chapters/06-other-fds/file_watch.hpp"
#include "chapters/06-other-fds/limits.hpp"
#include "chapters/06-other-fds/mailbox.hpp"
#include "chapters/06-other-fds/say.hpp"
#include "chapters/06-other-fds/signals.hpp"
#include "chapters/06-other-fds/timer.hpp"
#include "common/error.hpp"
#include "common/socket.hpp"
#include "common/testing/process.hpp"
#include "common/testing/process_group.hpp"
#include "common/testing/temporary_folder.hpp"

namespace {

namespace fs = std::filesystem;
using namespace std::chrono_literals;
using std::chrono::milliseconds;
using testing::group_in;
using testing::is_gone;
using testing::notes_its_group;
using testing::TemporaryFolder;

bool readable(int fd, milliseconds limit = 0ms) {
  pollfd entry{fd, POLLIN, 0};
  return net::check(::poll(&entry, 1, static_cast<int>(limit.count())),
                    "poll") == 1;
}

// Something to be done once, before or after the next read of a descriptor.
struct Between {
  int fd = -1;
  bool before = false;
  std::function<void()> action;
};
Between between;

std::string complaint(const std::function<void()>& action) {
  try {
    action();
  } catch (const std::exception& error) {
    return error.what();
  }
  return "none";
}

}  // namespace

// Takes the place of the C library's.
extern "C" ssize_t read(int fd, void* buffer, std::size_t size) {
  std::function<void()> action;
  if (fd == between.fd) action = std::exchange(between.action, nullptr);
  if (action && between.before) action();
  const ssize_t n = ::syscall(SYS_read, fd, buffer, size);
  const int error = errno;
  if (action && !between.before) action();
  errno = error;
  return n;
}

TEST_CASE("100,000 items from 4 threads all arrive, with fewer wakeups") {
  constexpr int threads = 4;
  constexpr int each = 25'000;
  Mailbox<std::pair<int, int>> mailbox;
  std::vector<std::thread> senders;
  for (int sender = 0; sender < threads; ++sender) {
    senders.emplace_back([&mailbox, sender] {
      for (int i = 0; i < each; ++i) mailbox.put({sender, i});
    });
  }
  std::array<int, threads> next{};
  int arrived = 0;
  int wakeups = 0;
  bool in_order = true;
  while (arrived < threads * each && readable(mailbox.fd(), 20s)) {
    ++wakeups;
    for (const auto& [sender, number] : mailbox.take()) {
      in_order &= next.at(static_cast<std::size_t>(sender))++ == number;
      ++arrived;
    }
  }
  for (std::thread& sender : senders) sender.join();
  MESSAGE(wakeups << " wakeups for " << arrived << " items");
  CHECK(arrived == threads * each);
  CHECK(in_order);
  CHECK(wakeups < arrived);
  CHECK(mailbox.take().empty());
}

TEST_CASE("of 10,000 rounds of one item none is lost") {
  Mailbox<int> there;
  Mailbox<int> back;
  constexpr int rounds = 10'000;
  std::thread other([&] {
    for (int i = 0; i < rounds && readable(there.fd(), 20s);) {
      for (const int item : there.take()) {
        back.put(item);
        ++i;
      }
    }
  });
  int returned = 0;
  for (int i = 0; i < rounds; ++i) {
    there.put(i);
    std::vector<int> items;
    while (items.empty() && readable(back.fd(), 20s)) items = back.take();
    returned += items == std::vector{i};
    if (items.empty()) break;
  }
  other.join();
  CHECK(returned == rounds);
}

// Whatever comes between the steps of take is in what it returns, or rings.
TEST_CASE("an item that is put while others are taken is not lost") {
  for (const bool before_the_read : {true, false}) {
    Mailbox<int> mailbox;
    mailbox.put(1);
    between = {mailbox.fd(), before_the_read, [&] { mailbox.put(2); }};
    std::vector<int> items = mailbox.take();
    REQUIRE_FALSE(between.action);
    if (readable(mailbox.fd())) {
      for (const int item : mailbox.take()) items.push_back(item);
    }
    CHECK(items == std::vector{1, 2});
    mailbox.put(3);
    CHECK(readable(mailbox.fd()));
  }
}

TEST_CASE("an empty mailbox is silent, and so is one that was emptied") {
  Mailbox<int> mailbox;
  CHECK_FALSE(readable(mailbox.fd()));
  mailbox.put(1);
  mailbox.put(2);
  CHECK(readable(mailbox.fd()));
  CHECK(mailbox.take() == std::vector{1, 2});
  CHECK_FALSE(readable(mailbox.fd()));
  CHECK(mailbox.take().empty());
  mailbox.put(3);
  CHECK(readable(mailbox.fd()));
}

TEST_CASE("the timer fires at its time, not earlier, and is silent then") {
  Timer timer;
  const auto when = Clock::now() + 30ms;
  timer.set(when);
  CHECK(readable(timer.fd(), 20s));
  CHECK(Clock::now() >= when);
  timer.take();
  CHECK_FALSE(readable(timer.fd()));
}

TEST_CASE("a timer set for a later time keeps the earlier one") {
  Timer timer;
  timer.set(Clock::now() + 1h);
  timer.set(Clock::now() + 1ms);
  timer.set(Clock::now() + 2h);
  timer.set(never);
  CHECK(readable(timer.fd(), 20s));
  timer.take();
  timer.set(Clock::now() + 1ms);
  CHECK(readable(timer.fd(), 20s));
}

TEST_CASE("a time that has passed fires at once, and never does not fire") {
  Timer timer;
  // The clock begins at 0 when the machine does.
  for (const auto when : {Clock::now() - 1ms, Clock::time_point(0s),
                          Clock::time_point(-1h), Clock::time_point::min()}) {
    timer.set(when);
    CHECK(readable(timer.fd(), 20s));
    timer.take();
  }
  timer.set(never);
  CHECK_FALSE(readable(timer.fd()));
  timer.take();  // in vain: it does not sleep
}

TEST_CASE("signals are read one after the other") {
  sigset_t before;
  REQUIRE(::pthread_sigmask(SIG_SETMASK, nullptr, &before) == 0);
  {
    Signals signals({SIGUSR1, SIGHUP});
    CHECK(signals.take() == 0);
    ::raise(SIGUSR1);
    ::raise(SIGHUP);
    CHECK(readable(signals.fd()));
    const std::vector taken{signals.take(), signals.take()};
    CHECK(std::count(taken.begin(), taken.end(), SIGUSR1) == 1);
    CHECK(std::count(taken.begin(), taken.end(), SIGHUP) == 1);
    CHECK(signals.take() == 0);
  }
  REQUIRE(::pthread_sigmask(SIG_SETMASK, &before, nullptr) == 0);
}

namespace {

// Whether it comes back at all.
bool returns(std::function<void()> action) {
  std::packaged_task<void()> task(std::move(action));
  const auto done = task.get_future();
  std::thread(std::move(task)).detach();
  return done.wait_for(20s) == std::future_status::ready;
}

// Says more than any of its readers would keep.
void say_much(int fd, std::size_t length) {
  const std::string line = std::string(length - 1, 'x') + '\n';
  for (int i = 0; i < 3'000; ++i) say(fd, line);
}

}  // namespace

TEST_CASE(
    "a pipe that nobody reads keeps nobody waiting, however long a line") {
  for (const std::size_t length :
       std::vector<std::size_t>{80, PIPE_BUF, PIPE_BUF + 1, 60'000}) {
    CAPTURE(length);
    std::array<int, 2> ends{};
    net::check(::pipe2(ends.data(), O_CLOEXEC), "pipe2");
    const net::Fd reader(ends[0]);
    const net::Fd writer(ends[1]);
    REQUIRE(returns([=, fd = writer.get()] { say_much(fd, length); }));
    CHECK(readable(reader.get()));
  }
}

TEST_CASE("a terminal that nobody reads keeps nobody waiting") {
  const net::Fd reader(net::check(::posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC),
                                  "posix_openpt"));
  net::check(::grantpt(reader.get()), "grantpt");
  net::check(::unlockpt(reader.get()), "unlockpt");
  const net::Fd terminal(net::check(
      ::open(::ptsname(reader.get()), O_RDWR | O_NOCTTY | O_CLOEXEC), "open"));
  REQUIRE(returns([fd = terminal.get()] { say_much(fd, 80); }));
  CHECK(readable(reader.get(), 20s));
  // Who shares it still sleeps in a write.
  CHECK((::fcntl(terminal.get(), F_GETFL) & O_NONBLOCK) == 0);
}

TEST_CASE("a limits file is read over what holds without it") {
  const TemporaryFolder folder;
  const Limits base{7s, 9s};
  CHECK(read_limits(folder.write("empty", ""), base) == base);
  CHECK(read_limits(folder.write("grace", "grace 250ms"), base) ==
        Limits{7s, 250ms});
  CHECK(read_limits(folder.write("both",
                                 "# a comment\n\n  idle-timeout\t2m \n"
                                 "grace 0\ngrace 1s\n"),
                    base) == Limits{2min, 1s});
}

TEST_CASE("a limits file that cannot be meant is refused with its line") {
  const TemporaryFolder folder;
  const auto wrong = [&](const std::string& text) {
    const std::string path = folder.write("limits", text);
    std::string words = complaint([&] { read_limits(path, {}); });
    if (words.starts_with(path)) words.erase(0, path.size());
    return words;
  };
  CHECK(wrong("grace 1s\nidle 1s\n") == ":2: no limit is called 'idle'");
  CHECK(wrong("grace\n") ==
        ":1: grace: '' is not a time from 0 to 24h, such as 500ms, 30s or 5m");
  CHECK(wrong("grace 1s 2s\n") == ":1: one word too many");
  CHECK(wrong("grace 25h\n").starts_with(":1: grace: '25h' is not a time"));
  CHECK(wrong(std::string(65537, '\n')) == " is too long");
  CHECK(wrong(std::string(65536, '\n')) == "none");
}

TEST_CASE("what is no regular file is no limits file, and nobody waits") {
  const TemporaryFolder folder;
  const std::string fifo = folder.file("fifo");
  REQUIRE(::mkfifo(fifo.c_str(), 0600) == 0);
  CHECK(complaint([&] { read_limits(fifo, {}); }) ==
        fifo + " is not a regular file");
  CHECK(complaint([&] { read_limits(folder.file(""), {}); }) ==
        folder.file("") + " is not a regular file");
  CHECK(complaint([&] { read_limits(folder.file("none"), {}); }) ==
        "open " + folder.file("none") + ": No such file or directory");
}

TEST_CASE("the reader hands back what another thread has read") {
  const TemporaryFolder folder;
  const std::string path = folder.write("limits", "grace 3s\n");
  LimitsReader reader(path, {});
  CHECK_FALSE(readable(reader.fd()));
  reader.ask();
  REQUIRE(readable(reader.fd(), 20s));
  auto results = reader.take();
  REQUIRE(results.size() == 1);
  CHECK(results[0].limits == Limits{0ms, 3s});
  CHECK(results[0].error.empty());
  folder.write("limits", "nonsense\n");
  reader.ask();
  REQUIRE(readable(reader.fd(), 20s));
  results = reader.take();
  REQUIRE(results.size() == 1);
  CHECK(results[0].error == path + ":1: no limit is called 'nonsense'");
}

TEST_CASE("one wish has one result") {
  const TemporaryFolder folder;
  LimitsReader reader(folder.write("limits", ""), {});
  reader.ask();
  REQUIRE(readable(reader.fd(), 20s));
  CHECK(reader.take().size() == 1);
  CHECK_FALSE(readable(reader.fd(), 50ms));
}

TEST_CASE("a file saved in place or replaced is seen, its neighbour is not") {
  const TemporaryFolder folder;
  const std::string path = folder.write("limits", "old");
  FileWatch watch({path});
  CHECK_FALSE(watch.take());  // in vain: it does not sleep
  const auto seen = [&] { return readable(watch.fd(), 20s) && watch.take(); };
  CHECK_FALSE(readable(watch.fd()));
  folder.write("limits", "in place");
  CHECK(seen());
  folder.write("neighbour", "");
  CHECK_FALSE(seen());
  for (int i = 0; i < 2; ++i) {
    folder.write("new", "replaced");
    CHECK_FALSE(seen());
    fs::rename(folder.file("new"), path);
    CHECK(seen());
  }
  fs::remove(path);
  CHECK_FALSE(readable(watch.fd()));
  folder.write("limits", "there again");
  CHECK(seen());
}

TEST_CASE("a file without a folder in its name is watched where we are") {
  const TemporaryFolder folder;
  const fs::path before = fs::current_path();
  fs::current_path(folder.file(""));
  FileWatch watch({"limits"});
  folder.write("limits", "");
  REQUIRE(readable(watch.fd(), 20s));
  CHECK(watch.take());
  fs::current_path(before);
  CHECK(complaint([&] { FileWatch({folder.file("none/limits")}); }) ==
        "inotify_add_watch " + folder.file("none") +
            ": No such file or directory");
}

TEST_CASE("a watch that has lost events says that the file may be saved") {
  const TemporaryFolder folder;
  std::ifstream limit("/proc/sys/fs/inotify/max_queued_events");
  int most = 0;
  REQUIRE(bool(limit >> most));
  REQUIRE(most <= 1'000'000);
  FileWatch watch({folder.file("limits")});
  // Two names in turn: equal events in a row would be one.
  const std::array names{folder.file("a"), folder.file("b")};
  for (int i = 0; i <= most; ++i) {
    const auto& name = names.at(static_cast<std::size_t>(i % 2));
    net::Fd(::open(name.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0600));
  }
  bool saved = false;
  while (!saved && readable(watch.fd())) saved = watch.take();
  CHECK(saved);
}

namespace {

// A Discovery and somebody who asks.
class Neighbours {
 public:
  Neighbours()
      : asker_(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0)),
        discovery_(net::resolve("127.0.0.1", 8080), 0) {
    const int on = 1;
    net::check(
        ::setsockopt(asker_.get(), SOL_SOCKET, SO_BROADCAST, &on, sizeof on),
        "setsockopt");
    where_ = net::resolve(loopback_broadcast, port());
  }

  std::uint16_t port() const {
    const std::string where = discovery_.where();
    return static_cast<std::uint16_t>(
        std::stoi(where.substr(where.find(':') + 1)));
  }

  void send(std::string_view words) const {
    net::check(::sendto(asker_.get(), words.data(), words.size(), 0,
                        where_.get(), where_.length),
               "sendto");
  }

  // Has the discovery look, and returns what was answered, a line for each.
  std::string answers() {
    if (readable(discovery_.fd(), 20s)) discovery_.take();
    std::string lines;
    std::array<char, 64> words;
    ssize_t n = 0;
    while ((n = ::recv(asker_.get(), words.data(), words.size(),
                       MSG_DONTWAIT)) >= 0) {
      lines.append(words.data(), static_cast<std::size_t>(n)) += '\n';
    }
    return lines;
  }

  Discovery& discovery() { return discovery_; }

 private:
  net::Fd asker_;
  Discovery discovery_;
  net::Address where_;
};

}  // namespace

TEST_CASE("the question is answered with the port of the server") {
  Neighbours neighbours;
  neighbours.send(question);
  CHECK(neighbours.answers() == "echo is at port 8080\n");
  neighbours.send(question);
  neighbours.send(question);
  CHECK(neighbours.answers() == "echo is at port 8080\necho is at port 8080\n");
}

TEST_CASE("what is not the question is not answered") {
  Neighbours neighbours;
  const std::string all(question);
  for (const std::string& words :
       {std::string(), all.substr(1), all.substr(0, all.size() - 1), all + '\n',
        all + std::string(1, '\0'), answer(8080), std::string(60'000, 'x')}) {
    neighbours.send(words);
  }
  CHECK(neighbours.answers().empty());
  CHECK_FALSE(readable(neighbours.discovery().fd()));
  neighbours.discovery().take();  // in vain: it does not sleep
  neighbours.send(question);
  CHECK(neighbours.answers() == "echo is at port 8080\n");
}

TEST_CASE("who asks much does not keep the others waiting") {
  Neighbours neighbours;
  for (int i = 0; i < 40; ++i) neighbours.send("x");
  REQUIRE(readable(neighbours.discovery().fd(), 20s));
  neighbours.discovery().take();
  CHECK(readable(neighbours.discovery().fd(), 20s));
}

TEST_CASE("servers that share a discovery port all answer") {
  Neighbours neighbours;
  Discovery other(net::resolve("127.0.0.1", 8081), neighbours.port());
  neighbours.send(question);
  REQUIRE(readable(other.fd(), 20s));
  other.take();
  const std::string answers = neighbours.answers();
  CHECK(answers.find("port 8080\n") != std::string::npos);
  CHECK(answers.find("port 8081\n") != std::string::npos);
}

TEST_CASE("an answer is shorter than its question") {
  CHECK(answer(65535).size() < question.size());
}

TEST_CASE("only a whole answer has a port in it") {
  CHECK(port_in(answer(8080)) == 8080);
  CHECK(port_in("echo is at port 65535") == 65535);
  for (const char* words :
       {"", "echo is at port ", "echo is at port 0", "echo is at port 65536",
        "echo is at port -1", "echo is at port 80 ", "echo is at port 80\n",
        "Echo is at port 80", " echo is at port 80", "80"}) {
    CAPTURE(words);
    CHECK_FALSE(port_in(words));
  }
}

TEST_CASE("a server on loopback is asked on loopback only, others everywhere") {
  const Discovery near(net::resolve("127.0.0.1", 8080), 0);
  CHECK(near.where().starts_with("127.255.255.255:"));
  const Discovery far(net::resolve("0.0.0.0", 8080), 0);
  CHECK(far.where().starts_with("0.0.0.0:"));
  CHECK(complaint([] { Discovery(net::resolve("::1", 8080), 0); }) ==
        "discovery: [::1]:8080 is not IPv4, and only IPv4 has broadcasts");
}

TEST_CASE("a file that is created is not saved before it is closed") {
  const TemporaryFolder folder;
  FileWatch watch({folder.file("limits")});
  std::ofstream file(folder.file("limits"));
  file << "half" << std::flush;
  REQUIRE(readable(watch.fd(), 20s));
  CHECK_FALSE(watch.take());
  file.close();
  REQUIRE(readable(watch.fd(), 20s));
  CHECK(watch.take());
}

TEST_CASE("a folder with the name of the file is no save") {
  const TemporaryFolder folder;
  FileWatch watch({folder.file("limits")});
  fs::create_directory(folder.file("limits"));
  REQUIRE(readable(watch.fd(), 20s));
  CHECK_FALSE(watch.take());
  fs::create_directory(folder.file("new"));
  fs::rename(folder.file("new"), folder.file("limits"));
  REQUIRE(readable(watch.fd(), 20s));
  CHECK_FALSE(watch.take());
}

namespace {

// Takes all there is: whatever is done to a file is there at once.
bool seen_by(FileWatch& watch) {
  bool any = false;
  while (readable(watch.fd())) any |= watch.take();
  return any;
}

}  // namespace

TEST_CASE("a link made to lead elsewhere is followed there, and only there") {
  const TemporaryFolder folder;
  for (const char* name : {"1", "2"}) {
    fs::create_directory(folder.file(name));
    folder.write(std::string(name) + "/file", "");
  }
  fs::create_symlink("1/file", folder.file("limits"));
  fs::create_symlink("limits", folder.file("far"));
  FileWatch watch({folder.file("limits")});
  FileWatch farther({folder.file("far")});
  folder.write("1/file", "saved");
  CHECK(seen_by(watch));
  CHECK(seen_by(farther));
  fs::create_symlink("2/file", folder.file("new"));
  fs::rename(folder.file("new"), folder.file("limits"));
  CHECK(seen_by(watch));
  CHECK(seen_by(farther));
  folder.write("2/file", "saved");
  CHECK(seen_by(watch));
  CHECK(seen_by(farther));
  folder.write("1/file", "saved again");
  CHECK_FALSE(seen_by(watch));
  CHECK_FALSE(seen_by(farther));
}

TEST_CASE("a link on the way to the folder may lead elsewhere") {
  for (const bool old_one_stays : {true, false}) {
    const TemporaryFolder folder;
    for (const char* name : {"1", "2"}) {
      fs::create_directory(folder.file(name));
      folder.write(std::string(name) + "/limits", name);
    }
    fs::create_directory_symlink("1", folder.file("now"));
    FileWatch watch({folder.file("now/limits")});
    fs::create_directory_symlink("2", folder.file("new"));
    fs::rename(folder.file("new"), folder.file("now"));
    if (!old_one_stays) fs::remove_all(folder.file("1"));
    CHECK(seen_by(watch));
    folder.write("2/limits", "saved");
    CHECK(seen_by(watch));
  }
}

TEST_CASE("a folder that goes away is told") {
  for (const bool moved : {false, true}) {
    const TemporaryFolder folder;
    fs::create_directory(folder.file("inner"));
    FileWatch watch({folder.file("inner/limits")});
    if (moved) {
      fs::rename(folder.file("inner"), folder.file("outer"));
    } else {
      fs::remove(folder.file("inner"));
    }
    REQUIRE(readable(watch.fd(), 20s));
    CHECK(complaint([&] { watch.take(); }) ==
          "the folder " + folder.file("inner") + " is no longer there");
  }
}

namespace {

// Runs it to its end, which is told.
std::string run(const std::string& text) {
  Command command;
  command.start(text);
  REQUIRE(readable(command.fd(), 20s));
  return text_of(command.reap());
}

}  // namespace

TEST_CASE("how a command has ended is told") {
  CHECK(run("exit 3") == "exit status 3");
  CHECK(run("true") == "exit status 0");
  CHECK(run("kill -9 $$") == "killed by SIGKILL");
  CHECK(run("kill -40 $$") == "killed by signal 40");
  CHECK(run("exec 2>/dev/null; no-such-command") == "exit status 127");
}

TEST_CASE("a command may begin with a dash") {
  CHECK(run("-x 2>/dev/null") == "exit status 127");
}

TEST_CASE("how a command has ended is told even if SIGCHLD was ignored") {
  const auto before = ::signal(SIGCHLD, SIG_IGN);
  CHECK(run("exit 3") == "exit status 3");
  ::signal(SIGCHLD, before);
}

TEST_CASE("a command that is given up leaves no zombie") {
  {
    Command command;
    command.start("sleep 1000");
  }
  CHECK(::waitpid(-1, nullptr, WNOHANG) < 0);
  CHECK(errno == ECHILD);
}

TEST_CASE("with a command goes all that it has started") {
  const TemporaryFolder folder;
  const std::string file = folder.file("group");
  const std::string note = notes_its_group(file);
  {
    Command command;
    command.start("trap '' TERM; sleep 1000 & " + note + "wait");
    const pid_t group = group_in(file);
    command.send_signal(SIGTERM);
    CHECK_FALSE(is_gone(group));
  }
  testing::wait_until("all are gone", [&] { return is_gone(group_in(file)); });
  fs::remove(file);
  CHECK(run("sleep 1000 & " + note) == "exit status 0");
  testing::wait_until("all are gone", [&] { return is_gone(group_in(file)); });
}

TEST_CASE("a command is not deaf to the signals that we have blocked") {
  sigset_t before;
  REQUIRE(::pthread_sigmask(SIG_SETMASK, nullptr, &before) == 0);
  {
    const Signals signals({SIGTERM, SIGUSR1});
    for (const char* name : {"TERM", "USR1"}) {
      Command command;
      command.start("kill -" + std::string(name) + " $$; exit 0",
                    &signals.original());
      REQUIRE(readable(command.fd(), 20s));
      CHECK(text_of(command.reap()) == "killed by SIG" + std::string(name));
    }
  }
  REQUIRE(::pthread_sigmask(SIG_SETMASK, &before, nullptr) == 0);
}

TEST_CASE("a signal that was ignored stays ignored") {
  sigset_t before;
  REQUIRE(::pthread_sigmask(SIG_SETMASK, nullptr, &before) == 0);
  const auto handler = ::signal(SIGHUP, SIG_IGN);
  {
    Signals signals({SIGHUP, SIGUSR1});
    ::raise(SIGHUP);
    ::raise(SIGUSR1);
    CHECK(signals.take() == SIGUSR1);
    CHECK(signals.take() == 0);
  }
  ::signal(SIGHUP, handler);
  REQUIRE(::pthread_sigmask(SIG_SETMASK, &before, nullptr) == 0);
}

TEST_CASE("a command has nothing to read and none of our descriptors") {
  const Mailbox<int> ours;
  const std::string number = std::to_string(ours.fd());
  CHECK(run("test ! -e /proc/$$/fd/" + number + " && cat") == "exit status 0");
}

TEST_CASE("no part hands its descriptor on to a program, and none sleeps") {
  sigset_t before;
  REQUIRE(::pthread_sigmask(SIG_SETMASK, nullptr, &before) == 0);
  {
    const TemporaryFolder folder;
    const Timer timer;
    const Mailbox<int> mailbox;
    const Signals signals({SIGUSR1});
    const FileWatch watch({folder.file("limits")});
    const Discovery discovery(net::resolve("127.0.0.1", 8080), 0);
    for (const int fd :
         {timer.fd(), mailbox.fd(), signals.fd(), watch.fd(), discovery.fd()}) {
      CAPTURE(fd);
      CHECK((::fcntl(fd, F_GETFD) & FD_CLOEXEC) != 0);
      CHECK((::fcntl(fd, F_GETFL) & O_NONBLOCK) != 0);
    }
  }
  REQUIRE(::pthread_sigmask(SIG_SETMASK, &before, nullptr) == 0);
}
