#include "common/tools/measure.hpp"

#include <netinet/in.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <string_view>
#include <utility>

#include "common/error.hpp"
#include "common/fd.hpp"
#include "common/socket.hpp"
#include "common/testing/child_process.hpp"
#include "common/testing/client.hpp"
#include "common/testing/process.hpp"
#include "common/testing/whereabouts.hpp"
#include "common/tools/load.hpp"

namespace net {
namespace {

using namespace std::chrono_literals;
using std::chrono::milliseconds;
using testing::Client;
using testing::Clock;

// A step on which nothing moves for so long has failed.
constexpr milliseconds patience = 20s;

// A server that does nothing for so long will do nothing until it is asked.
constexpr milliseconds calm = 100ms;

struct Running {
  pid_t process;
  Address address;
};

std::uint16_t port_of(const Address& address) {
  const auto* v4 = reinterpret_cast<const sockaddr_in*>(address.get());
  return ntohs(v4->sin_port);
}

// Why a measurement has ended, with all that is known of the server.
ServerFailed failure(const std::string& program, const std::string& why,
                     const std::string& more) {
  return ServerFailed(program_name(program) + ": " + why + '\n' + more);
}

// Runs a body beside the program; what either gets wrong is ServerFailed.
void with_server(const std::string& program,
                 const std::function<void(const Running&)>& body) try {
  testing::ChildProcess child({program, "--port", "0"});
  std::string why;
  try {
    body({child.pid(), child.wait_until_listening(patience)});
    return;
  } catch (const std::exception& error) {
    why = error.what();
  }
  std::string more;
  try {
    more = "it has ended with status " + std::to_string(child.wait(calm)) +
           '\n' + child.errors();
  } catch (const testing::TimedOut&) {
    more = testing::whereabouts(child.pid());
  }
  throw failure(program, why, more);
} catch (const std::system_error& error) {
  throw failure(program, error.what(), "");  // it could not be started
}

// The numbers of its threads. Throws std::system_error once it is gone.
std::vector<pid_t> threads_of(pid_t process) {
  std::vector<pid_t> threads;
  for (const auto& thread : std::filesystem::directory_iterator(
           "/proc/" + std::to_string(process) + "/task")) {
    threads.push_back(std::atoi(thread.path().filename().c_str()));
  }
  return threads;
}

bool all_asleep(pid_t process) try {
  if (testing::state(process) == 'Z') throw std::runtime_error("it is dead");
  const std::vector<pid_t> threads = threads_of(process);
  return std::all_of(threads.begin(), threads.end(), [](pid_t thread) {
    return testing::state(thread) == 'S';
  });
} catch (const std::system_error&) {
  return false;  // a thread has ended while we looked
}

// Knows how long a process has done nothing, in any of its threads. A server
// that only waits for a turn on a busy machine is not taken for an idle one.
class Quiet {
 public:
  explicit Quiet(pid_t process) : process_(process) {}

  // To be asked again and again.
  bool lasts(milliseconds limit) {
    const auto cpu = testing::cpu_time(process_);
    if (cpu != cpu_ || !all_asleep(process_)) restart();
    cpu_ = cpu;
    return Clock::now() - since_ >= limit;
  }
  void restart() { since_ = Clock::now(); }

 private:
  pid_t process_;
  std::chrono::nanoseconds cpu_{-1};
  Clock::time_point since_ = Clock::now();
};

void wait_until_quiet(pid_t process) {
  Quiet quiet(process);
  testing::wait_until(
      "the server rests", [&] { return quiet.lasts(20ms); }, patience);
}

// Many connections that each send one message, wait for it to come back and
// stay. Some may wait for ever, and some may be turned away.
class Crowd {
 public:
  explicit Crowd(const Running& server)
      : server_(server),
        epoll_(check(::epoll_create1(EPOLL_CLOEXEC), "epoll_create1")) {}

  // Lets so many more come. Returns when each has its answer or has been
  // turned away, or when the server rests and leaves the others waiting.
  // Throws testing::TimedOut.
  void grow(std::size_t by, const Progress& progress = {});

  // The same, but all must be served.
  void grow_served(std::size_t by, const Progress& progress = {});

  std::size_t served() const { return served_; }
  std::size_t turned_away() const { return turned_away_; }

 private:
  enum class State { connecting, waiting, served, turned_away };
  struct Member {
    Fd fd;
    State state;
    std::size_t received;
  };

  static constexpr std::string_view message = "one message, then silence\n";
  // More might overflow the listener's queue and wait a second for a SYN.
  static constexpr std::size_t connecting_at_once = 100;

  void connect_more();
  void attend(Member& member);
  void speak(Member& member);
  void listen(Member& member);
  void turn_away(Member& member);
  void watch(int operation, std::size_t number, std::uint32_t events);

  Running server_;
  Fd epoll_;
  std::vector<Member> members_;
  std::size_t wanted_ = 0;
  std::size_t connecting_ = 0;
  std::size_t served_ = 0;
  std::size_t turned_away_ = 0;
};

void Crowd::grow(std::size_t by, const Progress& progress) {
  wanted_ += by;
  members_.reserve(wanted_);
  Quiet quiet(server_.process);
  auto moved = Clock::now();
  while (served_ + turned_away_ < wanted_) {
    connect_more();
    std::array<epoll_event, 256> events{};
    const int n = ::epoll_wait(epoll_.get(), events.data(),
                               static_cast<int>(events.size()), 20);
    if (n < 0 && errno != EINTR) throw_errno("epoll_wait");
    for (int i = 0; i < n; ++i) {
      attend(members_[events[static_cast<std::size_t>(i)].data.u64]);
    }
    if (progress) progress(served_, wanted_);
    if (n > 0) {
      quiet.restart();
      moved = Clock::now();
    } else if (quiet.lasts(connecting_ > 0 ? 3s : 2 * calm)) {
      return;  // a connection may need a second for its next try
    } else if (Clock::now() - moved > patience) {
      throw testing::TimedOut("it works, but answers nobody");
    }
  }
}

void Crowd::grow_served(std::size_t by, const Progress& progress) {
  grow(by, progress);
  if (served_ == wanted_) return;
  throw std::runtime_error(std::to_string(served_) + " of " +
                           std::to_string(wanted_) +
                           " clients served at the same time");
}

void Crowd::connect_more() {
  while (members_.size() < wanted_ && connecting_ < connecting_at_once) {
    Fd fd(check(::socket(server_.address.get()->sa_family,
                         SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0),
                "socket"));
    const int n =
        ::connect(fd.get(), server_.address.get(), server_.address.length);
    if (n < 0 && errno != EINPROGRESS) {
      throw_errno("connect", server_.address.text());
    }
    members_.push_back({std::move(fd), State::connecting, 0});
    ++connecting_;
    watch(EPOLL_CTL_ADD, members_.size() - 1, EPOLLOUT);
  }
}

void Crowd::attend(Member& member) {
  member.state == State::connecting ? speak(member) : listen(member);
}

void Crowd::speak(Member& member) {
  --connecting_;
  member.state = State::waiting;
  // Connecting may have failed: send says so.
  const ssize_t n =
      ::send(member.fd.get(), message.data(), message.size(), MSG_NOSIGNAL);
  if (n != static_cast<ssize_t>(message.size())) {
    turn_away(member);
    return;
  }
  watch(EPOLL_CTL_MOD, static_cast<std::size_t>(&member - members_.data()),
        EPOLLIN);
}

void Crowd::listen(Member& member) {
  std::array<char, message.size() + 1> block{};
  const ssize_t n = ::recv(member.fd.get(), block.data(), block.size(), 0);
  if (n < 0 && (errno == EAGAIN || errno == EINTR)) return;
  if (n <= 0) {
    turn_away(member);
    return;
  }
  const std::string_view got(block.data(), static_cast<std::size_t>(n));
  if (!message.substr(member.received).starts_with(got)) {
    throw std::runtime_error("a client got back what it has not sent");
  }
  member.received += got.size();
  if (member.received < message.size()) return;
  member.state = State::served;
  ++served_;
}

void Crowd::turn_away(Member& member) {
  if (member.state == State::served) --served_;
  member.state = State::turned_away;
  member.fd = Fd();
  ++turned_away_;
}

void Crowd::watch(int operation, std::size_t number, std::uint32_t events) {
  epoll_event event{};
  event.events = events;
  event.data.u64 = number;
  check(::epoll_ctl(epoll_.get(), operation, members_[number].fd.get(), &event),
        "epoll_ctl");
}

// The call in a line such as "thread 12 asleep in recvfrom on descriptor 4".
std::string call_in(const std::string& whereabouts) {
  constexpr std::string_view prefix = "asleep in ";
  const std::string line = whereabouts.substr(0, whereabouts.find('\n'));
  const std::size_t start = line.find(prefix);
  if (start == std::string::npos) return {};
  const std::string rest = line.substr(start + prefix.size());
  return rest.substr(0, rest.find(' '));
}

Address address_in(const std::string& line) {
  const std::size_t colon = line.rfind(':');
  std::uint16_t port = 0;
  if (!line.starts_with("listening on ") || colon == std::string::npos) {
    throw std::runtime_error("expected 'listening on', got '" + line + "'");
  }
  std::from_chars(line.data() + colon + 1, line.data() + line.size(), port);
  return resolve("127.0.0.1", port);
}

RequestCalls count(CallCounter& counter, std::size_t clients,
                   std::size_t rounds) {
  const Address address = address_in(counter.read_line(patience));
  auto crowd = testing::connect_clients(address, clients, patience);
  testing::echo_all(crowd);
  wait_until_quiet(counter.pid());
  counter.reset();
  for (std::size_t i = 0; i < rounds; ++i) testing::echo_all(crowd);
  wait_until_quiet(counter.pid());
  return {counter.refused(), clients * rounds, counter.counts()};
}

bool run_on(pid_t thread, std::size_t core) {
  cpu_set_t one;
  CPU_ZERO(&one);
  CPU_SET(core, &one);
  return ::sched_setaffinity(thread, sizeof one, &one) == 0;
}

// While it lives the server runs on one core and this thread on another, if
// we may use two. Left alone, the kernel puts both on one core in one round
// and not in the next, and the server is twice as dear apart.
class TwoCores {
 public:
  explicit TwoCores(pid_t server) {
    if (::sched_getaffinity(0, sizeof before_, &before_) < 0) return;
    if (CPU_COUNT(&before_) < 2) return;
    std::size_t first = 0;
    while (!CPU_ISSET(first, &before_)) ++first;
    std::size_t second = first + 1;
    while (!CPU_ISSET(second, &before_)) ++second;
    set_ = run_on(0, second);
    // Threads that come later run where those run that start them.
    for (const pid_t thread : threads_of(server)) run_on(thread, first);
  }
  TwoCores(const TwoCores&) = delete;
  TwoCores& operator=(const TwoCores&) = delete;
  ~TwoCores() {
    if (set_) ::sched_setaffinity(0, sizeof before_, &before_);
  }

 private:
  cpu_set_t before_;
  bool set_ = false;
};

void wait_until_asleep(pid_t process) {
  const auto start = Clock::now();
  while (!all_asleep(process)) {
    if (Clock::now() - start > patience) {
      throw testing::TimedOut("it does not rest");
    }
    ::sched_yield();
  }
}

// Nanoseconds of user and system time that an echo to one client costs. Each
// request finds the server asleep: one that comes earlier spares it the way to
// sleep and back, which is most of the work.
double cpu_of_echo(const Running& server, Client& client, std::size_t echoes) {
  constexpr std::size_t fewest = 50;
  constexpr milliseconds enough = 300ms;
  const std::string request(64, 'x');
  client.echo(request);
  wait_until_asleep(server.process);
  const auto before = testing::cpu_time(server.process);
  const auto start = Clock::now();
  std::size_t done = 0;
  while (done < echoes && (done < fewest || Clock::now() - start < enough)) {
    client.echo(request);
    wait_until_asleep(server.process);
    ++done;
  }
  const auto cpu = testing::cpu_time(server.process) - before;
  return static_cast<double>(cpu.count()) / static_cast<double>(done);
}

// Of the children that have ended and been waited for, in all their threads.
rusage usage_of_children() {
  rusage usage{};
  check(::getrusage(RUSAGE_CHILDREN, &usage), "getrusage");
  return usage;
}

double seconds(const timeval& after, const timeval& before) {
  return static_cast<double>(after.tv_sec - before.tv_sec) +
         static_cast<double>(after.tv_usec - before.tv_usec) / 1e6;
}

double share(double part, double other) {
  return part > 0 ? part / (part + other) : 0;
}

}  // namespace

OneCore::OneCore() {
  if (::sched_getaffinity(0, sizeof before_, &before_) < 0) return;
  set_ = run_on(0, static_cast<std::size_t>(std::max(0, ::sched_getcpu())));
}

OneCore::~OneCore() {
  if (set_) ::sched_setaffinity(0, sizeof before_, &before_);
}

SecondClient second_client(const std::string& program) {
  SecondClient result{};
  with_server(program, [&](const Running& server) {
    Client first(server.address, patience);
    first.echo("then silence");
    Crowd second(server);
    second.grow(1);
    wait_until_quiet(server.process);
    result = {second.served() == 1,
              call_in(testing::whereabouts(server.process))};
  });
  return result;
}

AtOnce served_at_once(const std::string& program, std::size_t clients,
                      const Progress& progress) {
  AtOnce result{};
  with_server(program, [&](const Running& server) {
    Crowd crowd(server);
    crowd.grow(clients, progress);
    result = {clients, crowd.served(), crowd.turned_away()};
  });
  return result;
}

double RequestCalls::each() const {
  std::uint64_t sum = 0;
  for (const CallCount& call : calls) sum += call.calls;
  return static_cast<double>(sum) / static_cast<double>(requests);
}

RequestCalls calls_of_requests(const std::string& program, std::size_t clients,
                               std::size_t rounds) try {
  CallCounter counter({program, "--port", "0"}, CallCounter::From::start,
                      CallCounter::Output::captured);
  std::string why;
  try {
    return count(counter, clients, rounds);
  } catch (const std::exception& error) {
    why = error.what();
  }
  const int status = counter.wait(calm);
  throw failure(program, why,
                status < 0
                    ? testing::whereabouts(counter.pid())
                    : "it has ended with status " + std::to_string(status));
} catch (const std::system_error& error) {
  throw failure(program, error.what(), "");  // it could not be started
}

LoadCost cost_under_load(const std::string& program, std::uint32_t clients,
                         std::uint32_t size, std::uint64_t requests,
                         std::size_t idle) {
  std::chrono::nanoseconds cpu{};
  const rusage before = usage_of_children();
  with_server(program, [&](const Running& server) {
    LoadOptions load;
    load.port = port_of(server.address);
    load.connections = clients;
    load.size = size;
    load.requests = requests;
    load.patience = patience;
    Crowd crowd(server);
    crowd.grow_served(idle);
    wait_until_quiet(server.process);
    const TwoCores apart(server.process);
    // A client that comes is no request, and dear where it gets a stack.
    std::chrono::nanoseconds start{};
    load.connected = [&] {
      wait_until_quiet(server.process);
      start = testing::cpu_time(server.process);
    };
    const LoadReport report = run_load(load);
    // While it runs, its clock stands still from one tick to the next.
    wait_until_asleep(server.process);
    cpu = testing::cpu_time(server.process) - start;
    if (report.errors.all() == 0) return;
    throw std::runtime_error(report.first_error);
  });
  const rusage after = usage_of_children();
  const auto each = [&](std::int64_t all) {
    return static_cast<double>(all) / static_cast<double>(requests);
  };
  return {each(cpu.count()),
          share(seconds(after.ru_utime, before.ru_utime),
                seconds(after.ru_stime, before.ru_stime)),
          each(after.ru_nvcsw - before.ru_nvcsw)};
}

std::vector<EchoCost> echoes_beside_idle(const std::string& program,
                                         const std::vector<std::size_t>& idle,
                                         std::size_t echoes,
                                         const Progress& progress) {
  std::vector<EchoCost> costs;
  const OneCore pinned;
  with_server(program, [&](const Running& server) {
    Client busy(server.address, patience);
    Crowd crowd(server);
    for (const std::size_t wanted : idle) {
      crowd.grow_served(wanted - crowd.served(), progress);
      wait_until_quiet(server.process);
      costs.push_back({wanted, cpu_of_echo(server, busy, echoes)});
    }
  });
  return costs;
}

double bytes_of_idle(const std::string& program, std::size_t few,
                     std::size_t many, const Progress& progress) {
  double growth = 0;
  with_server(program, [&](const Running& server) {
    Crowd crowd(server);
    crowd.grow_served(few);
    wait_until_quiet(server.process);
    const std::uint64_t before = testing::resident_bytes(server.process);
    crowd.grow_served(many - few, progress);
    wait_until_quiet(server.process);
    growth = static_cast<double>(testing::resident_bytes(server.process)) -
             static_cast<double>(before);
  });
  return growth / static_cast<double>(many - few);
}

double median(std::vector<double> values) {
  const auto middle =
      values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  if (values.size() % 2 == 1) return *middle;
  return (*middle + *std::max_element(values.begin(), middle)) / 2;
}

std::string grouped(std::size_t number) {
  std::string text = std::to_string(number);
  for (std::size_t i = text.size(); i > 3; i -= 3) text.insert(i - 3, 1, ',');
  return text;
}

std::string program_name(const std::string& path) {
  return std::filesystem::path(path).filename();
}

}  // namespace net
