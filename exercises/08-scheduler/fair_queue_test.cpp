// Angle brackets: quotes would find the file beside this one first, also when
// the solution is to be tested.
#include <fair_queue.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <cstddef>
#include <deque>
#include <functional>
#include <map>
#include <random>
#include <string>
#include <utility>
#include <vector>

namespace {

// Goroutines that are functions: one call is one turn. No thread, no clock and
// no kernel, so every run of a test is the same.
class World {
 public:
  using Body = std::function<void()>;

  // Known, but nobody has made it runnable yet.
  void know(
      const std::string& name, Body body = [] {}) {
    members_[name].body = std::move(body);
  }

  void append(const std::string& name) {
    queue_.append(members_.at(name).goroutine);
  }

  void ready(const std::string& name) {
    queue_.ready(members_.at(name).goroutine);
  }

  // The kernel will have something for it once so many turns have passed.
  void report_after(int turn, const std::string& name) {
    reports_.emplace(turn, &members_.at(name).goroutine);
  }

  // Turns, until there have been so many in all or nobody can run.
  void run(int turns) {
    while (static_cast<int>(log_.size()) < turns) {
      Goroutine* goroutine = queue_.next();
      if (goroutine == nullptr) return;
      Member& member = find(*goroutine);
      ++member.turns;
      log_.push_back(name_of(*goroutine));
      member.body();
    }
  }

  int turns(const std::string& name) const { return members_.at(name).turns; }
  const std::vector<std::string>& log() const { return log_; }

  // The names in the order of their turns.
  std::string text() const {
    std::string line;
    for (const std::string& name : log_) {
      line += (line.empty() ? "" : " ") + name;
    }
    return line;
  }

  // So many of them from one turn on, without their numbers.
  std::string text(int from, int count) const {
    std::string line;
    const int end = std::min(from + count, static_cast<int>(log_.size()));
    for (int i = from; i < end; ++i) {
      const std::string& name = log_[static_cast<std::size_t>(i)];
      line += i == from ? "" : " ";
      line += name.substr(0, name.find_first_of("0123456789"));
    }
    return line;
  }

  // The most turns that passed before one of these, or after the last.
  int longest_wait(const std::string& name) const {
    int longest = 0;
    int waited = 0;
    for (const std::string& other : log_) {
      longest = std::max(longest, waited);
      waited = other == name ? 0 : waited + 1;
    }
    return std::max(longest, waited);
  }

  // When the kernel was asked: how many turns had passed.
  const std::vector<int>& polls() const { return polls_; }

  // How often it was asked to sleep.
  int sleeps() const { return sleeps_; }

 private:
  struct Member {
    Goroutine goroutine;
    Body body;
    int turns = 0;
  };

  Member& find(const Goroutine& goroutine) {
    return members_.at(name_of(goroutine));
  }

  const std::string& name_of(const Goroutine& goroutine) const {
    const auto found =
        std::find_if(members_.begin(), members_.end(), [&](const auto& entry) {
          return &entry.second.goroutine == &goroutine;
        });
    return found->first;
  }

  std::vector<Goroutine*> poll(bool sleep) {
    const int now = static_cast<int>(log_.size());
    polls_.push_back(now);
    if (sleep) ++sleeps_;
    // Asleep, nobody has a turn: what is to come next comes now.
    const auto until = sleep && !reports_.empty()
                           ? std::max(now, reports_.begin()->first)
                           : now;
    std::vector<Goroutine*> reported;
    while (!reports_.empty() && reports_.begin()->first <= until) {
      reported.push_back(reports_.begin()->second);
      reports_.erase(reports_.begin());
    }
    return reported;
  }

  std::map<std::string, Member> members_;
  std::multimap<int, Goroutine*> reports_;  // by the turn after which they come
  std::vector<std::string> log_;
  std::vector<int> polls_;
  int sleeps_ = 0;
  RunQueue queue_{[this](bool sleep) { return poll(sleep); }};
};

// Two that wake each other for ever; the first one is to be appended.
void know_pair(World& world, const std::string& one, const std::string& two) {
  world.know(one, [&world, two] { world.ready(two); });
  world.know(two, [&world, one] { world.ready(one); });
}

// One that yields for ever, in the queue.
void enter_busy(World& world, const std::string& name) {
  world.know(name, [&world, name] { world.append(name); });
  world.append(name);
}

std::string numbered(const std::string& name, int i) {
  return name + std::to_string(i);
}

}  // namespace

TEST_CASE("two wake each other for ever and a third can run") {
  World world;
  know_pair(world, "ping", "pong");
  world.append("ping");
  enter_busy(world, "third");
  world.run(10'000);
  CHECK_MESSAGE(world.longest_wait("third") <= 20,
                "the third waits for at most 20 turns");
}

TEST_CASE("a hundred wake each other in a ring and a third can run") {
  World world;
  for (int i = 0; i < 100; ++i) {
    const std::string next = numbered("ring", (i + 1) % 100);
    world.know(numbered("ring", i), [&world, next] { world.ready(next); });
  }
  world.append("ring0");
  enter_busy(world, "third");
  world.run(10'000);
  CHECK_MESSAGE(world.longest_wait("third") <= 20,
                "a ring is no better off than a pair");
}

TEST_CASE("two pairs wake each other and fifty can always run") {
  World world;
  know_pair(world, "ping", "pong");
  know_pair(world, "tick", "tock");
  world.append("ping");
  world.append("tick");
  for (int i = 0; i < 50; ++i) enter_busy(world, numbered("busy", i));
  world.run(100'000);
  int least = world.turns("busy0");
  int most = least;
  for (const char* name : {"ping", "pong", "tick", "tock"}) {
    least = std::min(least, world.turns(name));
    most = std::max(most, world.turns(name));
  }
  CHECK_MESSAGE(most <= 20 * least,
                "nobody has more than 20 times the turns of another");
}

TEST_CASE("one asks and another answers while fifty can always run") {
  World world;
  for (int i = 0; i < 50; ++i) enter_busy(world, numbered("busy", i));
  std::size_t turn_of_request = 0;
  std::size_t turn_of_answer = 0;
  int requests = 0;
  int served = 0;
  int answered = 0;
  world.know("server", [&] {
    turn_of_answer = world.log().size();
    if (turn_of_answer == turn_of_request + 1) ++served;
    world.ready("client");
  });
  world.know("client", [&] {
    const std::size_t turn = world.log().size();
    if (turn_of_answer > turn_of_request) {
      if (turn == turn_of_answer + 1) ++answered;
      turn_of_request = turn;
      return world.append("client");
    }
    turn_of_request = turn;
    ++requests;
    world.ready("server");
  });
  world.append("client");
  world.run(2'000);
  CHECK_MESSAGE((requests >= 10 && served == requests),
                "who is asked runs right after the request");
  CHECK_MESSAGE(answered == requests,
                "who has asked runs right after the answer");
}

TEST_CASE("one wakes three and others have waited for longer") {
  World world;
  for (const char* name : {"a", "b", "x", "y", "z"}) world.know(name);
  world.know("waker", [&] {
    for (const char* name : {"x", "y", "z"}) world.ready(name);
  });
  for (const char* name : {"waker", "a", "b"}) world.append(name);
  world.run(100);
  CHECK_MESSAGE(world.text() == "waker z a b x y",
                "the last one runs next and the others go to the end");
}

TEST_CASE("new ones come while others wait") {
  World world;
  for (const char* name : {"a", "b", "c", "d"}) world.know(name);
  world.know("maker", [&] {
    for (const char* name : {"c", "d"}) world.append(name);
  });
  for (const char* name : {"maker", "a", "b"}) world.append(name);
  world.run(100);
  CHECK_MESSAGE(world.text() == "maker a b c d", "who came first runs first");
}

TEST_CASE("whoever is woken runs as often as it was woken") {
  World world;
  std::mt19937 random(8);
  constexpr int many = 40;
  std::vector<std::string> names;
  std::map<std::string, int> woken;
  std::map<std::string, bool> waits;  // for its turn
  const auto wake = [&](const std::string& name, bool fast) {
    if (!std::exchange(waits[name], true)) ++woken[name];
    fast ? world.ready(name) : world.append(name);
  };
  for (int i = 0; i < many; ++i) names.push_back(numbered("g", i));
  for (const std::string& name : names) {
    world.know(name, [&, name] {
      waits[name] = false;
      if (world.log().size() > 20'000) return;  // an end: who stands waits on
      for (auto n = random() % 4; n > 0; --n) {
        const std::string& other = names[random() % names.size()];
        if (other != name) wake(other, random() % 4 != 0);
      }
      if (random() % 4 == 0) wake(name, false);
    });
  }
  for (const std::string& name : names) wake(name, false);
  world.run(30'000);
  bool too_few = false;
  bool too_many = false;
  for (const std::string& name : names) {
    too_few = too_few || world.turns(name) < woken[name];
    too_many = too_many || world.turns(name) > woken[name];
  }
  CHECK_MESSAGE(!too_few, "nobody is lost");
  CHECK_MESSAGE(!too_many, "nobody stands in two places");
}

TEST_CASE("the kernel has something while two wake each other for ever") {
  World world;
  know_pair(world, "ping", "pong");
  world.append("ping");
  world.know("reader");
  world.report_after(1'000, "reader");
  world.run(6'100);
  int before = 0;
  int longest = 0;
  for (const int turn : world.polls()) {
    longest = std::max(longest, turn - std::exchange(before, turn));
  }
  longest = std::max(longest, 6'100 - before);
  CHECK_MESSAGE(longest <= 62, "the kernel is asked at least every 61 turns");
  CHECK_MESSAGE(world.polls().size() <= 102, "the kernel is asked no oftener");
  CHECK_MESSAGE(world.sleeps() == 0, "a thread with work does not sleep");
  CHECK_MESSAGE(world.turns("reader") == 1,
                "whom the kernel reports runs once");
}

TEST_CASE("the kernel reports two and others wait") {
  World world;
  for (const char* name : {"r", "s"}) world.know(name);
  for (int i = 0; i < 5; ++i) enter_busy(world, numbered("busy", i));
  world.report_after(100, "r");
  world.report_after(100, "s");
  world.run(300);
  const auto& polls = world.polls();
  const auto poll = std::find_if(polls.begin(), polls.end(),
                                 [](int asked) { return asked >= 100; });
  const std::string text =
      poll == polls.end() ? "the kernel is not asked" : world.text(*poll, 7);
  CHECK_MESSAGE(text == "busy busy busy busy busy r s",
                "whom the kernel reports goes to the end");
}

TEST_CASE("nobody can run") {
  World world;
  for (const char* name : {"r", "s"}) world.know(name);
  world.report_after(5, "r");
  world.report_after(10, "s");
  world.run(2);
  CHECK_MESSAGE(world.text() == "r s",
                "a thread without work sleeps until then");
}
