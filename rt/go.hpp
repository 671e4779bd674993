#pragma once

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <functional>
#include <memory>
#include <new>
#include <stdexcept>
#include <type_traits>
#include <utility>

namespace rt {

struct Options {
  // Bytes that each goroutine can use, rounded up to whole pages. Addresses,
  // not memory: what is never touched costs nothing.
  std::size_t stack_size = 262'144;
};

// Where in the source a goroutine was created.
struct Origin {
  const char* file = "";
  int line = 0;
};

// A goroutine, whether it still runs or not. Copies mean the same one; it does
// not care whether anybody holds one. Not for use after run has returned.
class Handle {
 public:
  Handle(std::size_t index, std::uint64_t id) : index_(index), id_(id) {}

  // The main goroutine is 1, the others count on; never given again in a run.
  // 0: it does not begin, as run is ending.
  std::uint64_t id() const { return id_; }

  // Parks until the goroutine has ended; returns at once if it has. Any number
  // may wait for the same one. Throws std::logic_error outside of run.
  void join() const;

 private:
  std::size_t index_;  // of its record, which the next one may have by now
  std::uint64_t id_;
};

// What the templates below need of the engine.
namespace engine {

// A function that waits to be moved to the stack it will run on.
struct Body {
  std::size_t size;
  std::size_t alignment;
  void* object;
  void (*move)(void* object, void* place);
  void (*run)(void* place);  // and destroys it, whatever happens
};

template <typename Function>
Body body_of(Function& function) {
  constexpr auto move = [](void* object, void* place) {
    new (place) Function(std::move(*static_cast<Function*>(object)));
  };
  constexpr auto run = [](void* place) {
    const std::unique_ptr<Function, void (*)(Function*)> owner(
        static_cast<Function*>(place), std::destroy_at<Function>);
    std::invoke(*owner);
  };
  return {sizeof function, alignof(Function), &function, move, run};
}

template <typename Function>
void refuse_empty(const Function& function) {
  if constexpr (requires { function == nullptr; }) {
    if (function == nullptr) {
      throw std::invalid_argument("rt::go: the function is empty");
    }
  }
}

Handle spawn(const Body& body, const Origin& where);
void run(const std::function<void()>& main_body, const Options& options,
         const Origin& where);

}  // namespace engine

// Runs main_body as the first goroutine, on this thread, and with it all that
// it starts. Returns when main_body has: from then on every I/O call of the
// others, pending or new, fails with rt::closed, and each has the chance to
// return. Who sleeps or yields instead, or joins one that does, may be
// abandoned, and so is who makes a million such calls: what stands on its stack
// is not destroyed, as with all goroutines when main returns in Go
// (runtime/proc.go, main). Those that are started now do not begin. Rethrows
// what leaves main_body.
//
// If every goroutine waits for another one, with no timer and no descriptor
// among what they wait for, the process ends with exit status 2 and the list of
// dump on standard error, as in Go (runtime/proc.go, checkdead). SIGQUIT prints
// that list and the program goes on. With RT_TRACE=1 in the environment a line
// a second on standard error says what the scheduler has to do. SIGPIPE is
// ignored meanwhile. Throws std::logic_error inside of run,
// std::invalid_argument for stacks of no size, and std::system_error if the
// kernel refuses the memory or the descriptors it needs (two).
template <std::invocable Function>
void run(Function&& main_body, const Options& options = {},
         const Origin& where = {__builtin_FILE(), __builtin_LINE()}) {
  engine::run([&] { main_body(); }, options, where);
}

// Starts body() as a goroutine: it runs when those that can run already have
// had their turn. The body is moved to the new stack now and destroyed there
// when it ends. An exception that leaves it ends the process with exit status
// 2, the goroutine's id and origin, and what(), as a panic does in Go.
//
// Throws std::invalid_argument if the function is empty or does not fit on a
// stack, std::logic_error outside of run, and std::system_error if there is no
// memory for a stack, with the call that failed and the limit that was met.
template <std::invocable Function>
Handle go(Function body,
          const Origin& where = {__builtin_FILE(), __builtin_LINE()}) {
  static_assert(std::is_nothrow_move_constructible_v<Function> ||
                    std::is_copy_constructible_v<Function>,
                "the body is moved to another stack");
  engine::refuse_empty(body);
  return engine::spawn(engine::body_of(body), where);
}

// The same for function(argument): the argument is taken now.
template <typename Function, typename Argument>
requires std::invocable<Function, Argument> Handle
go(Function function, Argument argument,
   const Origin& where = {__builtin_FILE(), __builtin_LINE()}) {
  engine::refuse_empty(function);
  return go(
      [function = std::move(function),
       argument = std::move(argument)]() mutable {
        std::invoke(function, std::move(argument));
      },
      where);
}

// Lets everybody else who can run have a turn first. Throws std::logic_error
// outside of run, as everything below does.
void yield();

// Those that have not ended, the main one included.
std::size_t goroutine_count();

// One line for each of them: id, state, what it waits for and since when,
// where it was created. Source of the idea: libmill's goredump; Go's traceback.
void dump(std::FILE* file);

}  // namespace rt
