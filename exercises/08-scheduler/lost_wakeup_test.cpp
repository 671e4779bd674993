// Angle brackets: quotes would find the file beside this one first, also when
// the solution is to be tested.
#include <lost_wakeup.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <map>
#include <sstream>
#include <stdexcept>
#include <string>

namespace {

std::string name(Answer answer) {
  switch (answer) {
    case Answer::Park:
      return "parks";
    case Answer::GoOn:
      return "goes on";
    case Answer::Closed:
      return "finds it closed";
    default:
      return "is refused";
  }
}

// A slot, and those who use it, one step after the other.
class World {
 public:
  // Takes one of these steps:
  //   try        a call begins and says EAGAIN
  //   wait NAME  the goroutine that made it wants to park
  //   event      the kernel has reported readiness
  //   close      the descriptor is closed
  void step(const std::string& word, std::istream& script) {
    if (word == "try") {
      if (!slot_.begin_call()) note("no call");
    } else if (word == "wait") {
      std::string who;
      script >> who;
      Goroutine& goroutine = all_.at(who);
      note(who + ' ' + name(slot_.wait(goroutine)));
    } else if (word == "event") {
      wake(slot_.event());
    } else if (word == "close") {
      wake(slot_.close());
    } else {
      throw std::invalid_argument(word);
    }
  }

  const std::string& log() const { return log_; }

 private:
  void note(const std::string& what) {
    log_ += (log_.empty() ? "" : ", ") + what;
  }

  void wake(const Goroutine* goroutine) {
    if (goroutine != nullptr) note(goroutine->name + " wakes");
  }

  Slot slot_;
  std::map<std::string, Goroutine> all_{{"ann", {"ann"}}, {"bob", {"bob"}}};
  std::string log_;
};

// What comes of these steps, in this order.
std::string play(std::string steps) {
  std::replace(steps.begin(), steps.end(), ',', ' ');
  std::istringstream script(steps);
  World world;
  std::string word;
  while (script >> word) world.step(word, script);
  return world.log();
}

}  // namespace

TEST_CASE("everything comes in order") {
  CHECK_MESSAGE(play("try, wait ann, event") == "ann parks, ann wakes",
                "who waits is woken by an event");
}

TEST_CASE("an event comes between EAGAIN and the park") {
  CHECK_MESSAGE(play("try, event, wait ann") == "ann goes on",
                "an event that comes during the call is not lost");
}

TEST_CASE("two events come in a row") {
  CHECK_MESSAGE(play("try, wait ann, event, event") == "ann parks, ann wakes",
                "who has been woken is not woken again");
}

TEST_CASE("events are older than the call") {
  CHECK_MESSAGE(play("event, event, try, wait ann, event, try, wait ann") ==
                    "ann parks, ann wakes, ann parks",
                "a call uses up what was reported before it");
}

TEST_CASE("the descriptor is closed while somebody waits") {
  CHECK_MESSAGE(play("try, wait ann, close, event") == "ann parks, ann wakes",
                "a close wakes who waits, and once");
}

TEST_CASE("the descriptor is closed before the call") {
  CHECK_MESSAGE(play("close, try, wait ann") == "no call, ann finds it closed",
                "nobody calls or waits for what is closed");
}

TEST_CASE("an event comes before the close and one after it") {
  CHECK_MESSAGE(
      play("try, event, close, event, wait ann") == "ann finds it closed",
      "closed is for good, whatever is reported");
}

TEST_CASE("a second one wants to wait") {
  CHECK_MESSAGE(play("try, wait ann, try, wait bob, event") ==
                    "ann parks, bob is refused, ann wakes",
                "who came first is kept");
}

TEST_CASE("one waits after the other") {
  CHECK_MESSAGE(play("try, wait ann, event, try, wait bob") ==
                    "ann parks, ann wakes, bob parks",
                "who has been woken leaves the place to the next");
}
