// Makes system calls of the servers fail, with strace(1), and looks at what
// becomes of their clients: an error ends at most the client it concerns, no
// byte is wrong, nobody waits for ever, and the server sleeps when there is
// nothing to do.
//
// strace attaches to a server that already serves. A call it makes fail is not
// executed, close included: that descriptor stays open.

#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdio>
#include <exception>
#include <filesystem>
#include <functional>
#include <iterator>
#include <map>
#include <mutex>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include "common/author/every_descriptor.hpp"
#include "common/author/injection.hpp"
#include "common/author/visitor.hpp"
#include "common/error.hpp"
#include "common/fd.hpp"
#include "common/options.hpp"
#include "common/socket.hpp"
#include "common/testing/child_process.hpp"
#include "common/testing/client.hpp"
#include "common/testing/process.hpp"

namespace {

using namespace std::chrono_literals;
using author::Complaint;
using author::Fault;
using author::Injection;
using author::Refused;
using author::Tally;
using author::Visitor;
using testing::ChildProcess;
using Fate = Visitor::Fate;
using Strings = std::vector<std::string>;

// How many visitors come in a run, so many of them one after another and the
// others from so many threads.
constexpr std::size_t visitors = 60;
constexpr std::size_t alone = 12;
constexpr std::size_t threads = 8;

// Which runs go on at the same time: most of the time they wait.
constexpr std::size_t runs_at_once = 10;

// After so many complaints the others would tell nothing new.
constexpr std::size_t enough_complaints = 10;

// More than both sides' buffers take from a client that does not read, through
// a narrow connection.
constexpr std::size_t more_than_fits = 3 << 20;

const std::string bytes = testing::pattern(more_than_fits + visitors * 1000);

// Its clients are told of changes only: what it leaves is not told again.
bool hears_of_changes(const std::string& chapter) {
  return chapter.starts_with("05") || chapter.starts_with("06") ||
         chapter.starts_with("08");
}

bool waits(const std::string& call) {
  return call == "select" || call == "poll" || call == "epoll_wait";
}

// A server program of the course, run.
class Server {
 public:
  explicit Server(const std::string& program)
      : name_(std::filesystem::path(program).filename()),
        process_({program, "--port", "0"}),
        address_(process_.wait_until_listening()) {
    settle();
  }

  const std::string& name() const { return name_; }
  bool is(std::string_view chapter) const { return name_.starts_with(chapter); }
  pid_t pid() const { return process_.pid(); }
  const net::Address& address() const { return address_; }

  // Waits until it sleeps and has not woken for so long; demands that it does.
  void settle(std::chrono::milliseconds calm = 20ms);

  // Demands that it ends by itself with this status and says so.
  void expect_end(int status, const std::string& saying);

  // Demands that it serves somebody new, and that it ends when its listener is
  // shut down.
  void serve_and_stop();

 private:
  std::string name_;
  ChildProcess process_;
  net::Address address_;
};

void Server::settle(std::chrono::milliseconds calm) {
  try {
    if (!testing::has_ended(pid())) testing::wait_until_settled(pid(), calm);
  } catch (const testing::TimedOut&) {
    if (!testing::has_ended(pid())) throw Complaint("the server never sleeps");
  }
  if (!testing::has_ended(pid())) return;
  const int status = process_.wait();
  throw Complaint("the server ended with status " + std::to_string(status) +
                  ": " + process_.errors());
}

void Server::expect_end(int status, const std::string& saying) {
  const int got = process_.wait();
  if (got != status) {
    throw Complaint("the server ended with status " + std::to_string(got) +
                    ": " + process_.errors());
  }
  const std::string wanted = saying.empty() ? "" : name_ + ": " + saying + '\n';
  if (process_.errors() != wanted) {
    throw Complaint("the server said '" + process_.errors() + "', not '" +
                    wanted + "'");
  }
}

// Shuts the listener of another process down, whatever its number is.
void stop_listening(pid_t process) {
  const net::Fd pidfd(net::check(
      static_cast<int>(::syscall(SYS_pidfd_open, process, 0)), "pidfd_open"));
  for (int number = 3; number < 10; ++number) {
    const net::Fd fd(
        static_cast<int>(::syscall(SYS_pidfd_getfd, pidfd.get(), number, 0)));
    int listening = 0;
    socklen_t size = sizeof listening;
    if (fd &&
        ::getsockopt(fd.get(), SOL_SOCKET, SO_ACCEPTCONN, &listening, &size) ==
            0 &&
        listening != 0) {
      net::check(::shutdown(fd.get(), SHUT_RDWR), "shutdown");
      return;
    }
  }
  throw Complaint("the server has no listener");
}

void Server::serve_and_stop() {
  Visitor visitor(address_, bytes);
  if (!visitor.exchange(1000)) throw Complaint("nobody new is served");
  visitor.leave();
  stop_listening(pid());
  expect_end(0, "");
}

// One after the other, then several at the same time. Those who have sent FIN
// stay, and so do those who are silent.
class Visits {
 public:
  explicit Visits(const Server& server) : server_(server) {}

  void run();
  void linger();           // some who are served and then fall silent
  void wake();             // and who are served again
  void end(Tally& tally);  // all of them go; sums up

  bool stuck() const { return stuck_; }

 private:
  void visit(std::size_t i);

  const Server& server_;
  std::atomic<std::size_t> next_{0};
  std::atomic<bool> stuck_{false};
  std::mutex mutex_;
  std::vector<Visitor> left_;      // those who have nothing to wait for
  std::vector<Visitor> finished_;  // those who wait for the end of the stream
  std::vector<Visitor> silent_;
};

void Visits::run() {
  while (next_ < alone) visit(next_++);
  std::vector<std::jthread> crowd;
  for (std::size_t i = 0; i < threads; ++i) {
    crowd.emplace_back([this] {
      for (std::size_t n = next_++; n < visitors; n = next_++) visit(n);
    });
  }
}

void Visits::visit(std::size_t i) {
  if (stuck_) return;  // one is enough, and each takes its time
  const bool late = i % 20 == alone;
  Visitor visitor(
      server_.address(),
      std::string_view(bytes).substr(i * 1000, more_than_fits),
      late ? Visitor::Connection::narrow : Visitor::Connection::usual);
  if (late) {
    visitor.send_only(more_than_fits);
    visitor.exchange(more_than_fits);
  }
  switch (i % 5) {
    case 0:
    case 1:
      for (std::size_t n = 1; n <= 5 && visitor.exchange(n * 100); ++n)
        continue;
      break;
    case 2:
      visitor.exchange(200'000);
      break;
    case 3:
      visitor.exchange(5000);
      visitor.finish();
      break;
    default:
      visitor.exchange(1000);
      visitor.reset();
  }
  const bool waits_for_end = i % 5 == 3 && visitor.fate() == Fate::whole;
  if (!waits_for_end) visitor.leave();
  if (visitor.fate() == Fate::stuck) stuck_ = true;
  const std::lock_guard lock(mutex_);
  (waits_for_end ? finished_ : left_).push_back(std::move(visitor));
}

void Visits::linger() {
  if (server_.is("01")) return;  // a silent client is all it can serve
  for (std::size_t i = 0; i < 3; ++i) {
    silent_.emplace_back(server_.address(), bytes).exchange(10);
  }
}

void Visits::wake() {
  for (Visitor& visitor : silent_) {
    visitor.exchange(20);
    visitor.leave();
  }
}

void Visits::end(Tally& tally) {
  for (const Visitor& visitor : finished_) {
    if (!visitor.has_end()) ++tally.no_end;
  }
  std::map<Fate, std::size_t> fates;
  for (auto* group : {&left_, &finished_, &silent_}) {
    for (const Visitor& visitor : *group) ++fates[visitor.fate()];
    group->clear();
  }
  for (const auto& [fate, n] : fates) tally.visits += n;
  tally.whole = fates[Fate::whole];
  tally.early = fates[Fate::early] + fates[Fate::refused];
  if (fates[Fate::wrong] > 0) throw Complaint("a client got a wrong byte");
  if (fates[Fate::stuck] > 0) throw Complaint("a client waits for ever");
}

// Whether one such fault may end one client, and no more than one.
bool concerns_a_client(const Server& server, const Fault& fault) {
  if (fault.call == "epoll_ctl") return true;
  if (fault.call != "recvfrom" && fault.call != "sendto") return false;
  if (fault.error == "EAGAIN") return server.is("01");  // it cannot wait
  return fault.error != "EINTR";
}

void judge(const Server& server, const Fault& fault, const Tally& tally) {
  const std::size_t may_go =
      concerns_a_client(server, fault) ? tally.faults : 0;
  const std::size_t may_stay = fault.call == "close" ? tally.faults : 0;
  if (tally.faults == 0) throw Complaint("no call was made to fail");
  if (tally.early > may_go) {
    throw Complaint(std::to_string(tally.early) + " clients were ended by " +
                    std::to_string(tally.faults) + " faults");
  }
  if (tally.no_end > may_stay) {
    throw Complaint(std::to_string(tally.no_end) +
                    " clients have not seen the end of their stream");
  }
}

// The fault comes now and then, while visitors come and go.
Tally now_and_then(const std::string& program, const Fault& fault) {
  const bool fatal = waits(fault.call) && fault.error == "EIO";
  Server server(program);
  const std::size_t descriptors = testing::open_descriptors(server.pid());
  Tally tally{.runs = 1};
  Visits visits(server);
  Injection injection(server.pid(), fault);
  server.settle();
  visits.run();
  if (visits.stuck()) throw Complaint("a client waits for ever");
  if (fatal) {
    visits.end(tally);
    tally.faults = injection.end();
    server.expect_end(1, fault.call + ": Input/output error");
    tally.ended = 1;
    return tally;
  }
  visits.linger();
  // Longer than a rest: nothing at all may wake it.
  server.settle(150ms);
  visits.wake();
  server.settle(150ms);
  tally.faults = injection.end();
  visits.end(tally);
  judge(server, fault, tally);
  const std::size_t kept = fault.call == "close" ? tally.faults : 0;
  testing::wait_until("no descriptor has leaked", [&] {
    return testing::open_descriptors(server.pid()) == descriptors + kept;
  });
  server.serve_and_stop();
  return tally;
}

// Every call fails, for as long as strace is attached: the server may look
// every 100 ms whether that has passed, no oftener, and then nobody is lost.
Tally all_the_time(const std::string& program, const Fault& fault) {
  Server server(program);
  Injection injection(server.pid(), fault);
  server.settle();
  std::vector<Visitor> waiting;
  for (int i = 0; i < 5; ++i) waiting.emplace_back(server.address(), bytes);
  const auto started = testing::Clock::now();
  const std::uint64_t switches = testing::voluntary_switches(server.pid());
  const auto cpu = testing::cpu_time(server.pid());
  std::this_thread::sleep_for(400ms);
  const auto rests = (testing::Clock::now() - started) / 100ms + 1;
  // strace stops it at the start and at the end of each of its calls.
  if (testing::voluntary_switches(server.pid()) - switches >
          static_cast<std::uint64_t>(20 * rests) ||
      testing::cpu_time(server.pid()) - cpu > 5ms * rests) {
    throw Complaint("the server spins");
  }
  Tally tally{.runs = 1, .faults = injection.end(), .visits = waiting.size()};
  for (Visitor& visitor : waiting) {
    if (visitor.exchange(100)) ++tally.whole;
    visitor.leave();
  }
  if (tally.faults == 0) throw Complaint("no call was made to fail");
  if (tally.whole != tally.visits) throw Complaint("a waiting client is lost");
  server.serve_and_stop();
  return tally;
}

// One call says EAGAIN although it could have done something. Who is told again
// what is ready tries again. Who is told of changes only waits for the next
// change, here another byte or another client.
Tally false_eagain(const std::string& program, const Fault& fault) {
  Server server(program);
  const bool accepts = fault.call == "accept4";
  std::vector<Visitor> clients;
  const auto come = [&]() -> Visitor& {
    return clients.emplace_back(server.address(), bytes);
  };
  clients.reserve(2);
  if (!accepts && !come().exchange(1)) throw Complaint("nobody is served");
  server.settle();
  Injection injection(server.pid(), fault);
  server.settle();
  const std::uint64_t switches = testing::voluntary_switches(server.pid());
  Visitor& victim = accepts ? come() : clients[0];
  victim.send_only(2);
  testing::wait_until("the server wakes", [&] {
    return testing::voluntary_switches(server.pid()) > switches;
  });
  server.settle(100ms);
  const bool stalls = !victim.has_news();
  if (stalls != hears_of_changes(server.name())) {
    throw Complaint(stalls ? "the client waits for ever"
                           : "the client does not wait");
  }
  if (accepts && !come().exchange(3)) throw Complaint("nobody new is served");
  if (!victim.exchange(accepts ? 2 : 3)) {
    throw Complaint("another byte does not help");
  }
  Tally tally{.runs = 1,
              .faults = injection.end(),
              .visits = clients.size(),
              .whole = clients.size(),
              .lie = stalls ? "stalls" : "served"};
  clients.clear();
  if (tally.faults != 1) throw Complaint("not one call was made to fail");
  server.serve_and_stop();
  return tally;
}

struct Row {
  std::string program;
  std::string call;
  std::string label{};   // instead of the two
  std::size_t open = 0;  // runs still to come
  Tally tally{};
};

struct Run {
  std::size_t row;
  Fault fault;
  std::function<Tally(const std::string&, const Fault&)> body;
};

std::string name_of(const Row& row) {
  return std::filesystem::path(row.program).filename();
}

// 25 columns.
std::string heading_of(const Row& row) {
  std::string text = row.label;
  if (text.empty()) {
    text = name_of(row);
    text.resize(15, ' ');
    text += row.call;
  }
  text.resize(25, ' ');
  return text;
}

// The calls a chapter makes while it serves.
Strings calls_of(const std::string& name) {
  Strings calls{"accept4", "recvfrom", "sendto", "close"};
  if (name.starts_with("02")) calls.insert(calls.begin(), "select");
  if (name.starts_with("03")) calls.insert(calls.begin(), "poll");
  if (name.starts_with("04") || hears_of_changes(name)) {
    calls.insert(calls.begin(), {"epoll_wait", "epoll_ctl"});
  }
  return calls;
}

// All runs of all servers, several at the same time.
class Campaign {
 public:
  explicit Campaign(const Strings& programs);

  void run();
  void print() const;
  bool passed() const { return complaints_ == 0; }
  const std::string& refused() const { return refused_; }

 private:
  void plan(std::size_t row);
  void plan(std::size_t row, const author::OtherCalls& calls);
  void work();
  void carry_out(const Run& run);
  void note(const Run& run, const Tally& tally);

  std::vector<Row> rows_;
  std::vector<Run> runs_;
  std::atomic<std::size_t> next_{0};
  std::mutex mutex_;  // for all below and the rows
  std::size_t complaints_ = 0;
  std::string refused_;
  testing::Clock::time_point started_ = testing::Clock::now();
};

Campaign::Campaign(const Strings& programs) {
  for (const std::string& program : programs) {
    const std::string name = std::filesystem::path(program).filename();
    for (const std::string& call : calls_of(name)) {
      rows_.push_back({program, call});
      plan(rows_.size() - 1);
    }
    if (!name.starts_with("06")) continue;
    for (const author::OtherCalls& calls : author::other_calls()) {
      rows_.push_back({program, calls.call, calls.label});
      plan(rows_.size() - 1, calls);
    }
  }
}

void Campaign::plan(std::size_t row) {
  const std::string& call = rows_[row].call;
  const std::string name = name_of(rows_[row]);
  const std::size_t before = runs_.size();
  Strings errors{"EINTR", "ENOMEM", "ENOBUFS", "ECONNABORTED", "EMFILE", "EIO"};
  const bool may_wait = call != "close" && call != "epoll_ctl";
  // Where a change is awaited that has been, the client waits too.
  const bool lies = may_wait && !waits(call) && !name.starts_with("01");
  if (may_wait && !(lies && hears_of_changes(name))) errors.push_back("EAGAIN");
  for (const std::string& error : errors) {
    for (const char* when : {"3+3", "50+50"}) {
      runs_.push_back({row, {call, error, when}, now_and_then});
    }
  }
  if (waits(call) || call == "accept4") {
    for (const char* error : {"ENOMEM", "ENOBUFS", "EMFILE"}) {
      runs_.push_back({row, {call, error, "1+"}, all_the_time});
    }
  }
  if (lies) runs_.push_back({row, {call, "EAGAIN", "1"}, false_eagain});
  rows_[row].open = runs_.size() - before;
}

void Campaign::plan(std::size_t row, const author::OtherCalls& calls) {
  const std::size_t before = runs_.size();
  const auto add = [&](const std::string& error, const std::string& when) {
    runs_.push_back({row,
                     {calls.call, error, when, calls.of},
                     author::with_every_descriptor});
  };
  for (const char* error : {"EINTR", "ENOMEM", "EIO"}) add(error, "1");
  // The companion ends once.
  if (calls.call != "waitid") {
    for (const char* error : {"EINTR", "ENOBUFS", "EMFILE"}) add(error, "2+2");
  }
  if (calls.call == "read" || calls.call == "recvfrom") add("EAGAIN", "1");
  if (calls.call == "ioctl" || calls.call == "waitid") add("EIO", "1+");
  rows_[row].open = runs_.size() - before;
}

void Campaign::run() {
  std::vector<std::jthread> workers;
  for (std::size_t i = 0; i < runs_at_once; ++i) {
    workers.emplace_back([this] { work(); });
  }
}

void Campaign::work() {
  for (std::size_t n = next_++; n < runs_.size(); n = next_++) {
    carry_out(runs_[n]);
  }
}

void Campaign::carry_out(const Run& run) {
  const Row& row = rows_[run.row];
  Tally tally;
  try {
    tally = run.body(row.program, run.fault);
  } catch (const Refused& refused) {
    next_ = runs_.size();
    const std::lock_guard lock(mutex_);
    refused_ = refused.what();
  } catch (const std::exception& error) {
    const std::lock_guard lock(mutex_);
    if (++complaints_ == enough_complaints) next_ = runs_.size();
    std::printf("FAILED %s: %s, when=%s: %s\n", heading_of(row).c_str(),
                run.fault.error.c_str(), run.fault.when.c_str(), error.what());
    std::fflush(stdout);
  }
  note(run, tally);
}

void Campaign::note(const Run& run, const Tally& tally) {
  const std::lock_guard lock(mutex_);
  Row& row = rows_[run.row];
  row.tally.runs += tally.runs;
  row.tally.faults += tally.faults;
  row.tally.visits += tally.visits;
  row.tally.whole += tally.whole;
  row.tally.early += tally.early;
  row.tally.no_end += tally.no_end;
  row.tally.ended += tally.ended;
  row.tally.lie += tally.lie;
  if (--row.open > 0) return;
  const auto passed = testing::Clock::now() - started_;
  std::printf("%4lld s  %s\n",
              static_cast<long long>(passed / std::chrono::seconds(1)),
              heading_of(row).c_str());
  std::fflush(stdout);
}

void Campaign::print() const {
  std::printf("\n%-14s %-10s %4s %6s %7s %6s %5s %6s %6s %6s\n", "server",
              "call", "runs", "faults", "clients", "whole", "ended", "no end",
              "exit 1", "EAGAIN");
  for (const Row& row : rows_) {
    const Tally& tally = row.tally;
    std::printf("%s %4zu %6zu %7zu %6zu %5zu %6zu %6zu %6s\n",
                heading_of(row).c_str(), tally.runs, tally.faults, tally.visits,
                tally.whole, tally.early, tally.no_end, tally.ended,
                tally.lie.c_str());
  }
  std::puts(
      "whole: got every byte. ended: before that, by the fault or, where EIO\n"
      "ends the server (exit 1), with it. no end: got every byte, but never a\n"
      "FIN, as the close has failed. EAGAIN: what a single false one does.");
}

int inject(const Strings& programs) {
  if (programs.empty()) throw net::UsageError("no program");
  ChildProcess({"strace", "-V"}).wait();  // throws if there is none
  Campaign campaign(programs);
  campaign.run();
  if (!campaign.refused().empty()) {
    std::printf("nothing was checked: %s", campaign.refused().c_str());
    return 77;  // to ctest: skipped
  }
  campaign.print();
  return campaign.passed() ? 0 : 1;
}

}  // namespace

int main(int argc, char** argv) {
  const net::Options options(
      "PROGRAM...",
      "Makes calls of servers of the course fail, and prints what became of\n"
      "their clients. Exits with 77 where strace may not attach.");
  return net::run_program(argc, argv, options, inject);
}
