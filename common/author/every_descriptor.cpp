#include "common/author/every_descriptor.hpp"

#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <chrono>
#include <csignal>
#include <cstdint>
#include <cstdlib>
#include <exception>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iomanip>
#include <list>
#include <mutex>
#include <sstream>
#include <thread>

#include "chapters/06-other-fds/discovery.hpp"
#include "common/author/visitor.hpp"
#include "common/error.hpp"
#include "common/fd.hpp"
#include "common/socket.hpp"
#include "common/testing/child_process.hpp"
#include "common/testing/client.hpp"
#include "common/testing/process.hpp"

namespace author {
namespace {

using namespace std::chrono_literals;
using Fate = Visitor::Fate;

// Far more than lies between two words of a client that talks.
constexpr int idle_timeout = 1500;
constexpr auto between_words = 50ms;
constexpr int talkers = 3;

// How often each of the things happens that come again.
constexpr int times = 4;

const std::string bytes = testing::pattern(1 << 20);

// The server has ended, as it should or not.
struct Ended {};

// For the files of a run, removed at the end.
class Folder {
 public:
  Folder() {
    if (::mkdtemp(path_.data()) == nullptr) net::throw_errno("mkdtemp");
  }
  Folder(const Folder&) = delete;
  Folder& operator=(const Folder&) = delete;
  ~Folder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  std::string operator/(const std::string& name) const {
    return path_ + '/' + name;
  }

 private:
  std::string path_ = std::filesystem::temp_directory_path() / "faults-XXXXXX";
};

// Each line has a line's end before it too.
std::string content(const std::string& path) {
  std::ifstream file(path);
  std::ostringstream text;
  text << '\n' << file.rdbuf();
  return text.str();
}

int count_of(const std::string& text, const std::string& part) {
  int count = 0;
  for (std::size_t at = 0; (at = text.find(part, at)) != std::string::npos;) {
    at += part.size();
    ++count;
  }
  return count;
}

// The server, and what it says, in files: so that it can be read meanwhile.
class Server {
 public:
  explicit Server(const std::string& program);
  ~Server() { free_companion(); }

  pid_t pid() const { return process_.pid(); }
  const net::Address& address() const { return address_; }
  std::string output() const { return content(folder_ / "out"); }
  std::string errors() const { return content(folder_ / "err"); }

  // What the link of the descriptor says that a fault names.
  std::string link_of(const std::string& name) const;

  void signal(int number) const { process_.signal(number); }
  void save(int number);
  bool answers();         // the question of discovery, once
  bool free_companion();  // true: it was still there
  int wait() { return process_.wait(); }

  // Throws Ended if it ends, and Complaint if it does not happen.
  void wait_until(const std::string& what,
                  const std::function<bool()>& holds) const;

 private:
  std::vector<std::string> command(const std::string& program);
  net::Address place(const std::string& before);

  Folder folder_;
  testing::ChildProcess process_;
  net::Address address_;
  net::Address discovery_;
};

Server::Server(const std::string& program) : process_(command(program)) {
  wait_until("the server listens", [this] {
    return output().find("\ndiscovery on ") != std::string::npos &&
           output().back() == '\n';
  });
  address_ = place("\nlistening on ");
  discovery_ = place("\ndiscovery on ");
  testing::wait_until_settled(pid());
}

std::vector<std::string> Server::command(const std::string& program) {
  save(0);
  net::check(::mkfifo((folder_ / "fifo").c_str(), 0600), "mkfifo");
  return {"/bin/sh",
          "-c",
          "out=$1; err=$2; shift 2; exec \"$@\" >\"$out\" 2>\"$err\"",
          "sh",
          folder_ / "out",
          folder_ / "err",
          program,
          "--port",
          "0",
          "--discovery-port",
          "0",
          "--grace",
          "2s",
          "--limits",
          folder_ / "limits",
          "--companion",
          "exec cat " + folder_ / "fifo"};
}

net::Address Server::place(const std::string& before) {
  const std::string text = output();
  const std::size_t host = text.find(before) + before.size();
  const std::size_t colon = text.find(':', host);
  return net::resolve(
      text.substr(host, colon - host),
      static_cast<std::uint16_t>(std::atoi(text.c_str() + colon + 1)));
}

std::string Server::link_of(const std::string& name) const {
  if (name == limits_file) return folder_ / "limits";
  if (name != discovery_socket) return name;
  std::ifstream sockets("/proc/net/udp");
  std::ostringstream port;
  port << std::hex << std::uppercase << std::setfill('0') << std::setw(4)
       << ntohs(
              reinterpret_cast<const sockaddr_in*>(discovery_.get())->sin_port);
  for (std::string line; std::getline(sockets, line);) {
    std::istringstream words(line);
    std::array<std::string, 10> word;
    for (std::string& each : word) words >> each;
    if (word[1].ends_with(':' + port.str())) return "socket:[" + word[9] + ']';
  }
  throw Complaint("no discovery socket is found");
}

// As editors do: a new file takes the place of the old one.
void Server::save(int number) {
  const std::string path = folder_ / "limits";
  std::ofstream(path + "~")
      << "idle-timeout " << idle_timeout + number << "ms\n";
  std::filesystem::rename(path + "~", path);
}

bool Server::answers() {
  const net::Fd socket(
      net::check(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0), "socket"));
  const int on = 1;
  net::check(
      ::setsockopt(socket.get(), SOL_SOCKET, SO_BROADCAST, &on, sizeof on),
      "setsockopt");
  net::check(::sendto(socket.get(), question.data(), question.size(), 0,
                      discovery_.get(), discovery_.length),
             "sendto");
  pollfd entry{socket.get(), POLLIN, 0};
  if (net::check(::poll(&entry, 1, 100), "poll") == 0) return false;
  std::array<char, 100> words;
  const ssize_t n = ::recv(socket.get(), words.data(), words.size(), 0);
  const std::string port = address_.text().substr(address_.text().rfind(':'));
  return n > 0 && ':' + std::string(words.data(), static_cast<std::size_t>(n))
                              .substr(std::string("echo is at port ").size()) ==
                      port;
}

bool Server::free_companion() {
  const std::string path = folder_ / "fifo";
  return bool(net::Fd(::open(path.c_str(), O_WRONLY | O_NONBLOCK | O_CLOEXEC)));
}

void Server::wait_until(const std::string& what,
                        const std::function<bool()>& holds) const {
  try {
    testing::wait_until(what, [&] {
      if (holds()) return true;
      if (testing::has_ended(pid())) throw Ended();
      return false;
    });
  } catch (const testing::TimedOut&) {
    throw Complaint("it does not happen: " + what);
  }
}

// Clients that talk all the time; who is ended comes again.
class Talkers {
 public:
  explicit Talkers(const Server& server) : server_(server) {
    for (int i = 0; i < talkers; ++i) {
      threads_.emplace_back([this] { talk(); });
    }
  }
  Talkers(const Talkers&) = delete;
  Talkers& operator=(const Talkers&) = delete;
  ~Talkers() { over_ = true; }

  void end(Tally& tally);

 private:
  void talk();

  const Server& server_;
  std::atomic<bool> over_{false};
  std::mutex mutex_;
  std::vector<Fate> fates_;
  std::list<std::jthread> threads_;  // last: they use the others
};

void Talkers::talk() {
  while (!over_) {
    Visitor visitor(server_.address(), bytes);
    for (std::size_t n = 100; !over_ && visitor.exchange(n); n += 100) {
      std::this_thread::sleep_for(between_words);
    }
    const std::lock_guard lock(mutex_);
    fates_.push_back(visitor.fate());
    if (visitor.fate() == Fate::refused || visitor.fate() == Fate::stuck) {
      return;
    }
  }
}

void Talkers::end(Tally& tally) {
  over_ = true;
  threads_.clear();
  for (const Fate fate : fates_) {
    if (fate == Fate::wrong) throw Complaint("a client got a wrong byte");
    if (fate == Fate::stuck) throw Complaint("a client waits for ever");
    ++tally.visits;
    ++(fate == Fate::whole ? tally.whole : tally.early);
  }
}

bool concerns_the_file(const Fault& fault) { return fault.of == limits_file; }

// All that comes again, this time.
void let_things_happen(Server& server, const Fault& fault, int time) {
  const auto said = [&](const std::string& text) {
    return count_of(server.errors(), text);
  };
  server.signal(SIGUSR1);
  server.wait_until("statistics", [&] {
    return count_of(server.output(), "\nclients ") == time;
  });
  server.wait_until("an answer", [&] { return server.answers(); });
  for (const bool save : {true, false}) {
    const int before = said("\nlimits");
    save ? server.save(time) : server.signal(SIGHUP);
    server.wait_until("the limits are read",
                      [&] { return said("\nlimits") == before + 1; });
  }
  const std::string now =
      "\nlimits: idle-timeout " + std::to_string(idle_timeout + time) + "ms";
  if (!concerns_the_file(fault) && said(now) != 2) {
    throw Complaint("other limits than were saved");
  }
}

// Serves somebody while the others' things happen, then is stopped.
void drive(Server& server, const Fault& fault, Tally& tally) {
  Visitor silent(server.address(), bytes);
  const bool heard = silent.exchange(10);
  ++tally.visits;
  ++(heard ? tally.whole : tally.early);
  for (int time = 1; time <= times; ++time) {
    let_things_happen(server, fault, time);
  }
  server.wait_until("the silent client is dropped",
                    [&] { return !heard || silent.has_end(); });
  server.wait_until("the companion may end",
                    [&] { return server.free_companion(); });
  server.wait_until("the end of the companion", [&] {
    return count_of(server.errors(), "\ncompanion: ") == 1;
  });
}

void stop(Server& server) {
  // Somebody is there, but nothing is under way.
  Visitor late(server.address(), bytes);
  late.exchange(10);
  testing::wait_until_settled(server.pid(), 150ms);
  server.signal(SIGTERM);
  if (const int status = server.wait(); status != 0) {
    throw Complaint("stopped, it ends with status " + std::to_string(status) +
                    ": " + server.errors());
  }
}

// What the server may say last before it ends, by this fault; else empty.
std::string last_words(const Fault& fault) {
  if (fault.call == "timerfd_settime") return fault.call;
  if (fault.call == "epoll_wait" && fault.error == "EIO") return fault.call;
  if (fault.call != "read" || fault.error == "EAGAIN") return {};
  if (fault.of == "anon_inode:[timerfd]") return "read timerfd";
  if (fault.of == "anon_inode:[eventfd]") return "read eventfd";
  return {};
}

void judge_end(Server& server, const Fault& fault) {
  const int status = server.wait();
  const std::string last = last_words(fault);
  const std::string said = server.errors();
  if (last.empty() || status != 1 ||
      said.find("\n06-other-fds: " + last + ": ") == std::string::npos) {
    throw Complaint("the server ended with status " + std::to_string(status) +
                    ": " + said);
  }
}

void judge_life(const Server& server, const Fault& fault, const Tally& tally) {
  const std::size_t may_go = fault.call == "epoll_ctl" ? tally.faults : 0;
  if (!last_words(fault).empty()) throw Complaint("the server does not end");
  if (tally.early > may_go) {
    throw Complaint(std::to_string(tally.early) + " clients were ended");
  }
  const bool all = fault.when == "1+";
  if (!all && count_of(server.errors(), "\ncompanion: exit status 0\n") != 1) {
    throw Complaint("wrong about its companion:" + server.errors());
  }
}

}  // namespace

const std::vector<OtherCalls>& other_calls() {
  const std::string file(limits_file);
  const std::string socket(discovery_socket);
  static const std::vector<OtherCalls> calls{
      {"06: epoll_wait, all fds", "epoll_wait", ""},
      {"06: epoll_ctl, all fds", "epoll_ctl", ""},
      {"06: accept4, all fds", "accept4", ""},
      {"06: timerfd_settime", "timerfd_settime", ""},
      {"06: read of timerfd", "read", "anon_inode:[timerfd]"},
      {"06: read of signalfd", "read", "anon_inode:[signalfd]"},
      {"06: read of eventfd", "read", "anon_inode:[eventfd]"},
      {"06: read of inotify", "read", "anon_inode:inotify"},
      {"06: openat of limits", "openat", file},
      {"06: read of limits", "read", file},
      {"06: recvfrom, discovery", "recvfrom", socket},
      {"06: sendmsg, discovery", "sendmsg", socket},
      {"06: waitid", "waitid", ""},
      {"06: ioctl", "ioctl", ""},
  };
  return calls;
}

Tally with_every_descriptor(const std::string& program, const Fault& fault) {
  Server server(program);
  Fault narrowed = fault;
  narrowed.of = server.link_of(fault.of);
  Tally tally{.runs = 1};
  Injection injection(server.pid(), narrowed);
  Talkers clients(server);
  bool alive = true;
  try {
    drive(server, fault, tally);
  } catch (const Ended&) {
    alive = false;
  }
  clients.end(tally);
  if (alive) stop(server);
  tally.faults = injection.end();
  if (tally.faults == 0) throw Complaint("no call was made to fail");
  alive ? judge_life(server, fault, tally) : judge_end(server, fault);
  if (!alive) tally.ended = 1;
  return tally;
}

}  // namespace author
