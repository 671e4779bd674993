// Chapter 06: everything that one waits for is a descriptor.
//
// New: time, signals, datagrams, other threads, a process and a file stand on
// the list beside the clients, each with a function to be called when it is
// ready. The thread still sleeps in one place. The price: what concerns one
// client is spread over these functions.

#include <linux/sockios.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <bit>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdint>
#include <exception>
#include <list>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "chapters/06-other-fds/command.hpp"
#include "chapters/06-other-fds/discovery.hpp"
#include "chapters/06-other-fds/file_watch.hpp"
#include "chapters/06-other-fds/limits.hpp"
#include "chapters/06-other-fds/say.hpp"
#include "chapters/06-other-fds/server.hpp"
#include "chapters/06-other-fds/signals.hpp"
#include "chapters/06-other-fds/timer.hpp"
#include "common/error.hpp"
#include "common/options.hpp"
#include "common/socket.hpp"

namespace {

using std::chrono::milliseconds;

// How long the listener rests when there is no descriptor for a client.
constexpr milliseconds rest_limit{100};

// At most so many clients are accepted before the others get their turn.
constexpr int accepts_a_round = 64;

// Those who find no room are reported in the next round.
constexpr int events_a_round = 128;

// A client's turn: at most so many reads of 64 KiB, then the others get theirs.
constexpr int tries_a_turn = 4;

// So long a client must be silent before a stop takes it for finished: longer
// than 200 ms, after which TCP sends again what was lost on the way.
constexpr milliseconds lull{250};

// A descriptor's number is given again, a generation is not.
struct Key {
  int fd;
  std::uint32_t generation;
};

struct Client {
  net::Fd fd;
  // Read and not yet sent. While it holds bytes the client is not read, so
  // it never holds more than one read brought.
  std::vector<char> pending;
  std::uint32_t generation = 0;
  bool ready = false;       // something was reported and no call has used it up
  bool wary = false;        // more than bytes may stand behind a short read
  std::uint64_t moved = 0;  // bytes received and sent
  Clock::time_point heard;  // when the last of them moved
  std::list<Client*>::iterator place;  // in by_silence_
};

struct Counters {
  std::uint64_t accepted = 0;
  std::uint64_t idled_out = 0;
  std::uint64_t bytes = 0;  // received and sent
  std::uint64_t rounds = 0;
};

bool worth_another_try(int error) { return error == EAGAIN || error == EINTR; }

// Sends what the kernel will take and keeps the rest for later.
// False: the connection is broken.
bool write_some(Client& client) {
  std::vector<char>& pending = client.pending;
  const ssize_t n =
      ::send(client.fd.get(), pending.data(), pending.size(), MSG_NOSIGNAL);
  if (n < 0) client.ready = errno == EINTR;
  if (n < 0) return worth_another_try(errno);
  client.moved += static_cast<std::uint64_t>(n);
  pending.erase(pending.begin(), pending.begin() + n);
  if (!pending.empty()) client.ready = false;
  // An idle client must not keep the memory of its busiest moment.
  if (pending.empty()) pending.shrink_to_fit();
  return true;
}

// Reads once and sends at once: usually the kernel takes it all.
// False: the client has finished or the connection is broken.
bool read_some(Client& client, std::array<char, 65536>& scratch) {
  const ssize_t n = ::recv(client.fd.get(), scratch.data(), scratch.size(), 0);
  if (n < 0) client.ready = errno == EINTR;
  if (n < 0) return worth_another_try(errno);
  if (n == 0) return false;
  if (n < std::ssize(scratch) && !client.wary) client.ready = false;
  client.moved += static_cast<std::uint64_t>(n);
  client.pending.assign(scratch.begin(), scratch.begin() + n);
  return write_some(client);
}

// It has spoken, and its turn is still to come.
bool has_spoken(const Client& client) {
  int unread = 0;
  ::ioctl(client.fd.get(), SIOCINQ, &unread);
  return client.pending.empty() && unread > 0;
}

// Nothing of this client is under way, in the server or in the kernel.
bool at_rest(const Client& client) {
  int unread = 0;
  int unsent = 0;
  return client.pending.empty() && !client.ready &&
         ::ioctl(client.fd.get(), SIOCINQ, &unread) == 0 && unread == 0 &&
         ::ioctl(client.fd.get(), SIOCOUTQ, &unsent) == 0 && unsent == 0;
}

class Server {
 public:
  Server(net::Fd listener, Settings settings);
  void run();  // until the listener is shut down or a signal has stopped it

 private:
  using Handler = void (Server::*)();

  void call_when_ready(int fd, Handler handler);
  void forget(int fd);
  bool is_over() const;
  const std::vector<epoll_event>& wait();
  Clock::time_point nearest() const;
  Clock::time_point deadline(const Client& client) const;
  void dispatch(const epoll_event& event);

  // One for each kind of descriptor.
  void accept_clients();
  void attend(const epoll_event& event);
  void take_time();
  void take_signals();
  void take_questions();
  void take_saved();
  void take_limits();
  void take_end_of_companion();

  bool accept_some();
  void add(net::Fd fd);
  void touch(Client& client);
  bool watch(const Client& client, std::uint32_t told);
  void drop(int fd);
  void stop();
  void stop_listening();
  void print_statistics() const;
  bool tell(Key key, std::uint32_t& told, std::uint32_t interest);

  net::Fd listener_;
  Settings settings_;
  Limits limits_;
  net::Fd epoll_;  // the kernel's list
  Timer timer_;
  std::optional<FileWatch> file_;
  std::optional<LimitsReader> reader_;
  Command companion_;
  std::map<int, Handler> handlers_;       // of all but the clients
  Clock::time_point rest_until_ = never;  // the listener is not watched
  Clock::time_point stopped_at_ = never;  // by the first signal
  bool over_ = false;
  std::map<int, Client> clients_;  // by descriptor
  std::list<Client*> by_silence_;  // the same, the longest silent first
  std::uint32_t listening_ = 0;    // the listener's interest, as last told
  std::uint32_t generation_ = 0;   // of the client that came last
  Counters counters_;
  std::vector<epoll_event> ready_;
  std::vector<epoll_event> again_;  // clients still ready after their turn
  std::array<char, 65536> scratch_;
};

Server::Server(net::Fd listener, Settings settings)
    : listener_(std::move(listener)),
      settings_(std::move(settings)),
      limits_(settings_.limits),
      epoll_(net::check(::epoll_create1(EPOLL_CLOEXEC), "epoll_create1")) {
  net::set_nonblocking(listener_);
  handlers_[listener_.get()] = &Server::accept_clients;  // told in wait()
  call_when_ready(timer_.fd(), &Server::take_time);
  if (settings_.signals) {
    call_when_ready(settings_.signals->fd(), &Server::take_signals);
  }
  if (settings_.discovery) {
    call_when_ready(settings_.discovery->fd(), &Server::take_questions);
  }
  if (!settings_.limits_file.empty()) {
    file_.emplace(std::vector{settings_.limits_file});
    call_when_ready(file_->fd(), &Server::take_saved);
    reader_.emplace(settings_.limits_file, settings_.limits);
    call_when_ready(reader_->fd(), &Server::take_limits);
    reader_->ask();  // after the watch, or a save in between would be missed
  }
  if (!settings_.companion.empty()) {
    companion_.start(settings_.companion, settings_.signals
                                              ? &settings_.signals->original()
                                              : nullptr);
    call_when_ready(companion_.fd(), &Server::take_end_of_companion);
  }
}

// Level-triggered: what a handler leaves is reported again.
void Server::call_when_ready(int fd, Handler handler) {
  epoll_event event{EPOLLIN, {.u64 = std::bit_cast<std::uint64_t>(Key{fd, 0})}};
  net::check(::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, fd, &event), "epoll_ctl");
  handlers_[fd] = handler;
}

void Server::forget(int fd) {
  ::epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, fd, nullptr);
  handlers_.erase(fd);
}

void Server::run() {
  while (!is_over()) {
    for (const epoll_event& event : wait()) dispatch(event);
  }
}

bool Server::is_over() const {
  return over_ || (stopped_at_ != never && !listener_ && clients_.empty() &&
                   !companion_.running());
}

// The only place where the thread sleeps. Returns the descriptors on which a
// call is worth a try, those still ready first. So one may stand there twice,
// and at its second turn be gone, with another client behind its number.
const std::vector<epoll_event>& Server::wait() {
  ready_.clear();
  ready_.swap(again_);
  const std::uint32_t wanted = rest_until_ == never ? EPOLLIN : 0U;
  if (listener_ && !tell({listener_.get(), 0}, listening_, wanted)) {
    rest_until_ = Clock::now() + rest_limit;  // then it is told again
  }
  timer_.set(nearest());
  epoll_event events[events_a_round];
  const int n = ::epoll_wait(epoll_.get(), events, events_a_round,
                             ready_.empty() ? -1 : 0);
  if (n < 0) net::rest_or_throw("epoll_wait");
  if (n > 0) ready_.insert(ready_.end(), events, events + n);
  ++counters_.rounds;
  return ready_;
}

// The nearest time that somebody waits for.
Clock::time_point Server::nearest() const {
  Clock::time_point when = rest_until_;
  if (stopped_at_ != never) when = std::min(when, stopped_at_ + limits_.grace);
  if (by_silence_.empty()) return when;
  return std::min(when, deadline(*by_silence_.front()));
}

// When this client has been silent for too long.
Clock::time_point Server::deadline(const Client& client) const {
  if (stopped_at_ != never) return std::max(client.heard, stopped_at_) + lull;
  if (limits_.idle_timeout == milliseconds(0)) return never;
  return client.heard + limits_.idle_timeout;
}

void Server::dispatch(const epoll_event& event) {
  const auto [fd, generation] = std::bit_cast<Key>(event.data.u64);
  if (generation != 0) return attend(event);
  const auto found = handlers_.find(fd);
  if (found == handlers_.end()) return;  // forgotten in this round
  (this->*found->second)();
}

void Server::accept_clients() {
  if (stopped_at_ == never) {
    accept_some();
  } else {
    stop_listening();
  }
}

// True: there may be more in the queue.
bool Server::accept_some() {
  for (int i = 0; i < accepts_a_round; ++i) {
    net::Fd fd(::accept4(listener_.get(), nullptr, nullptr,
                         SOCK_NONBLOCK | SOCK_CLOEXEC));
    if (fd) {
      add(std::move(fd));
    } else if (errno == EAGAIN) {
      return false;
    } else if (errno != EINTR && errno != ECONNABORTED) {
      // No descriptor, no memory: the queue stays; at once would spin.
      rest_until_ = Clock::now() + rest_limit;
      break;
    }
  }
  // Told again in wait(), it is reported again. One that rests is told anyway.
  if (listening_ != 0) listening_ = EPOLLET;
  if (!net::is_listening(listener_)) over_ = true;
  return rest_until_ == never;
}

void Server::add(net::Fd fd) {
  const int number = fd.get();
  if (++generation_ == 0) ++generation_;  // 0 is the handlers'
  Client& client = clients_[number];
  client.fd = std::move(fd);
  client.generation = generation_;
  client.place = by_silence_.insert(by_silence_.end(), &client);
  touch(client);
  ++counters_.accepted;
  if (!watch(client, 0)) drop(number);  // the kernel's list is full
}

// Its silence begins anew.
void Server::touch(Client& client) {
  client.heard = Clock::now();
  by_silence_.splice(by_silence_.end(), by_silence_, client.place);
}

void Server::attend(const epoll_event& event) {
  const auto [fd, generation] = std::bit_cast<Key>(event.data.u64);
  const auto found = clients_.find(fd);
  if (found == clients_.end()) return;
  Client& client = found->second;
  if (client.generation != generation) return;
  if ((event.events & ~(EPOLLIN | EPOLLOUT)) != 0) client.wary = true;
  if (event.events == (client.pending.empty() ? EPOLLOUT : EPOLLIN)) return;
  if (event.events != 0 && client.ready) return;  // it stands in again_
  client.ready = true;
  const std::uint64_t before = client.moved;
  bool alive = true;
  for (int i = 0; i < tries_a_turn && alive && client.ready; ++i) {
    alive = client.pending.empty() ? read_some(client, scratch_)
                                   : write_some(client);
  }
  counters_.bytes += client.moved - before;
  if (client.moved != before) touch(client);
  if (!alive) {
    drop(fd);
  } else if (client.ready) {
    again_.push_back({0, event.data});
  } else if (client.wary && client.pending.empty()) {
    // At an urgent byte EAGAIN may mean a signal: ask for another report.
    if (!watch(client, EPOLLET)) drop(fd);
  }
}

// A client is waited for in both directions, always. Told before, it is told,
// and reported, again: but not for an urgent byte, which nothing may use up.
bool Server::watch(const Client& client, std::uint32_t told) {
  return tell({client.fd.get(), client.generation}, told,
              EPOLLIN | EPOLLOUT | EPOLLRDHUP | (told == 0 ? EPOLLPRI : 0U));
}

void Server::drop(int fd) {
  by_silence_.erase(clients_.at(fd).place);
  clients_.erase(fd);
  rest_until_ = never;  // there is a descriptor for the next one now
}

void Server::take_time() {
  timer_.take();
  const Clock::time_point now = Clock::now();
  if (rest_until_ <= now) rest_until_ = never;
  if (stopped_at_ != never && stopped_at_ + limits_.grace <= now) over_ = true;
  while (!by_silence_.empty() && deadline(*by_silence_.front()) <= now) {
    Client& client = *by_silence_.front();
    if (stopped_at_ == never ? has_spoken(client) : !at_rest(client)) {
      touch(client);  // and is looked at again
    } else {
      drop(client.fd.get());
      ++counters_.idled_out;
    }
  }
}

void Server::take_signals() {
  while (const int number = settings_.signals->take()) {
    switch (number) {
      case SIGHUP:
        if (reader_) reader_->ask();
        break;
      case SIGUSR1:
        print_statistics();
        break;
      case SIGPIPE:
        break;  // who read what we say has gone
      default:
        stop();
    }
  }
}

// The first time: nobody new, and who is there is finished. The second: now.
void Server::stop() {
  if (stopped_at_ != never) {
    over_ = true;
    return;
  }
  stopped_at_ = Clock::now();
  rest_until_ = never;
  stop_listening();
  if (settings_.discovery) {
    forget(settings_.discovery->fd());
    settings_.discovery.reset();
  }
  companion_.send_signal(SIGTERM);
  companion_.send_signal(SIGCONT);  // stopped, it would not hear of it
  if (is_over()) return;
  say(STDERR_FILENO,
      "stopping; clients left: " + std::to_string(clients_.size()) +
          "; a second signal ends it at once\n");
}

// Who stands in the queue is connected, and may have sent something. If there
// is no descriptor for him, he waits for one who leaves.
void Server::stop_listening() {
  for (int i = 0; i < SOMAXCONN && accept_some(); i += accepts_a_round) {
  }
  if (rest_until_ != never) return;
  forget(listener_.get());
  listener_ = net::Fd();
}

void Server::print_statistics() const {
  const auto text = [](auto number) { return std::to_string(number); };
  say(STDOUT_FILENO, "clients " + text(clients_.size()) + ", accepted " +
                         text(counters_.accepted) + ", idled out " +
                         text(counters_.idled_out) + ", bytes " +
                         text(counters_.bytes) + ", rounds " +
                         text(counters_.rounds) + '\n');
}

void Server::take_questions() { settings_.discovery->take(); }

void Server::take_saved() {
  try {
    if (file_->take()) reader_->ask();
  } catch (const std::exception& error) {
    // Clients do not depend on it, and SIGHUP still works.
    say(STDERR_FILENO, "limits stay: " + std::string(error.what()) + '\n');
  }
}

void Server::take_limits() {
  for (const LimitsReader::Result& result : reader_->take()) {
    if (!result.error.empty()) {
      say(STDERR_FILENO, "limits stay: " + result.error + '\n');
      continue;
    }
    limits_ = result.limits;
    say(STDERR_FILENO, "limits: idle-timeout " +
                           net::text_of(limits_.idle_timeout) + ", grace " +
                           net::text_of(limits_.grace) + '\n');
  }
}

void Server::take_end_of_companion() {
  forget(companion_.fd());
  const siginfo_t end = companion_.reap();
  if (stopped_at_ == never) {
    say(STDERR_FILENO, "companion: " + text_of(end) + '\n');
  }
}

// The only place that tells the kernel. An interest of 0 has no entry there.
// False: the kernel has not taken it.
bool Server::tell(Key key, std::uint32_t& told, std::uint32_t interest) {
  if (interest == told) return true;
  int change = EPOLL_CTL_MOD;
  if (told == 0) change = EPOLL_CTL_ADD;
  if (interest == 0) change = EPOLL_CTL_DEL;
  epoll_event event{interest | EPOLLET,
                    {.u64 = std::bit_cast<std::uint64_t>(key)}};
  if (::epoll_ctl(epoll_.get(), change, key.fd, &event) < 0) return false;
  told = interest;
  return true;
}

}  // namespace

void serve(net::Fd listener, Settings settings) {
  Server(std::move(listener), std::move(settings)).run();
}

void serve(net::Fd listener) { serve(std::move(listener), {}); }
