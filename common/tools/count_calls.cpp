#include "common/tools/count_calls.hpp"

#include <fcntl.h>
#include <linux/audit.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstddef>
#include <new>
#include <stdexcept>
#include <string_view>
#include <utility>

#include "common/error.hpp"
#include "common/syscall_names.hpp"

namespace net {

// One slot for each number of a call; the last is for all that have none.
constexpr std::size_t slots = 1024;

// The tracer writes, and so does the program until its exec; the rest read.
struct SharedCounts {
  std::array<std::atomic<std::uint64_t>, slots> calls{};
  std::atomic<bool> counting{false};
  std::atomic<int> refused{0};      // errno of ptrace
  std::atomic<int> exec_failed{0};  // errno of exec
  std::atomic<int> status{-1};      // of the program, as waitpid gives it
};

namespace {

using std::chrono::milliseconds;
using Clock = std::chrono::steady_clock;

#ifdef __aarch64__
constexpr std::uint32_t native_architecture = AUDIT_ARCH_AARCH64;
#else
constexpr std::uint32_t native_architecture = AUDIT_ARCH_X86_64;
#endif

struct Pipe {
  Fd read;
  Fd write;
};

Pipe make_pipe() {
  std::array<int, 2> ends{};
  check(::pipe2(ends.data(), O_CLOEXEC), "pipe2");
  return {Fd(ends[0]), Fd(ends[1])};
}

Fd open_pidfd(pid_t process) {
  return Fd(check(static_cast<int>(::syscall(SYS_pidfd_open, process, 0)),
                  "pidfd_open"));
}

bool send_signal(const Fd& pidfd, int number) {
  return ::syscall(SYS_pidfd_send_signal, pidfd.get(), number, nullptr, 0) == 0;
}

bool wait_readable(const Fd& fd, milliseconds limit) {
  const auto until = Clock::now() + limit;
  for (;;) {
    const auto left =
        std::max(milliseconds(0), ceil<milliseconds>(until - Clock::now()));
    pollfd entry{fd.get(), POLLIN, 0};
    const int n = ::poll(&entry, 1, static_cast<int>(left.count()));
    if (n >= 0 || errno != EINTR) return n > 0;
  }
}

// The pipes that lead from one process to the next at the start.
struct Handshake {
  Pipe told = make_pipe();       // tracer to us: the program's process
  Pipe go = make_pipe();         // us to the program: a byte, then it execs
  Pipe exec_done = make_pipe();  // closed by exec or by the end of the program
  Pipe output;                   // empty unless captured
};

// The process that traces. What runs here was forked from a process that may
// have threads, so it must not allocate.
class Tracer {
 public:
  Tracer(SharedCounts& shared, CallCounter::From from)
      : shared_(shared), from_(from) {}

  // Starts the program and traces it and its descendants to their end.
  [[noreturn]] void run(const std::vector<char*>& words,
                        const Handshake& handshake, pid_t owner);

 private:
  [[noreturn]] void become(const std::vector<char*>& words,
                           const Handshake& handshake);
  void seize();
  void resume(pid_t thread, int status);
  void count(pid_t thread);
  bool announces(pid_t thread, const __ptrace_syscall_info& info) const;

  SharedCounts& shared_;
  CallCounter::From from_;
  pid_t program_ = -1;
};

void Tracer::run(const std::vector<char*>& words, const Handshake& handshake,
                 pid_t owner) {
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (::getppid() != owner) ::_exit(1);  // it died before prctl
  ::setsid();
  // Also those that lost their parent are waited for, traced or not.
  ::prctl(PR_SET_CHILD_SUBREAPER, 1);
  program_ = ::fork();
  if (program_ == 0) become(words, handshake);
  if (program_ < 0) ::_exit(1);
  seize();
  if (::write(handshake.told.write.get(), &program_, sizeof program_) < 0) {
    ::_exit(1);
  }
  // A pipe of our owner's must not stay open because we have it too.
  ::syscall(SYS_close_range, 0U, ~0U, 0U);
  for (;;) {
    int status = 0;
    const pid_t thread = ::waitpid(-1, &status, __WALL);
    if (thread < 0 && errno != EINTR) ::_exit(0);  // nobody is left
    if (thread < 0) continue;
    if (WIFSTOPPED(status)) {
      resume(thread, status);
    } else if (thread == program_) {
      shared_.status = status;
    }
  }
}

void Tracer::become(const std::vector<char*>& words,
                    const Handshake& handshake) {
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  ::setsid();
  if (handshake.output.write) ::dup2(handshake.output.write.get(), 1);
  ::close(handshake.go.write.get());  // or we would wait for ourselves
  char byte = 0;
  if (::read(handshake.go.read.get(), &byte, 1) != 1) ::_exit(1);
  ::execvp(words[0], words.data());
  shared_.exec_failed = errno;
  ::_exit(127);
}

void Tracer::seize() {
  constexpr long options = PTRACE_O_TRACESYSGOOD | PTRACE_O_TRACECLONE |
                           PTRACE_O_TRACEFORK | PTRACE_O_TRACEVFORK |
                           PTRACE_O_TRACEEXEC | PTRACE_O_EXITKILL;
  if (::ptrace(PTRACE_SEIZE, program_, nullptr, options) < 0) {
    shared_.refused = errno;
  }
}

// The kinds of stop of a seized tracee: ptrace(2), "Stopped states".
void Tracer::resume(pid_t thread, int status) {
  const int signal = WSTOPSIG(status);
  const int event = status >> 16;
  long pass_on = 0;
  auto request = PTRACE_SYSCALL;
  if (signal == (SIGTRAP | 0x80)) {
    count(thread);
  } else if (event == PTRACE_EVENT_STOP) {
    // A group-stop has to last until SIGCONT; anything else is a newcomer.
    if (signal != SIGTRAP) request = PTRACE_LISTEN;
  } else if (event == PTRACE_EVENT_EXEC) {
    if (from_ == CallCounter::From::start) shared_.counting = true;
  } else if (event == 0) {
    pass_on = signal;
  }
  // ESRCH if it has been killed meanwhile; waitpid will tell.
  ::ptrace(request, thread, nullptr, pass_on);
}

void Tracer::count(pid_t thread) {
  __ptrace_syscall_info info{};
  const long n = ::ptrace(PTRACE_GET_SYSCALL_INFO, thread, sizeof info, &info);
  if (n < 0 && errno != ESRCH) shared_.refused = errno;
  if (n <= 0 || info.op != PTRACE_SYSCALL_INFO_ENTRY) return;
  if (!shared_.counting) {
    shared_.counting = announces(thread, info);
    return;
  }
  std::size_t slot = slots - 1;
  if (info.arch == native_architecture && info.entry.nr < slot) {
    slot = static_cast<std::size_t>(info.entry.nr);
  }
  ++shared_.calls[slot];
}

bool Tracer::announces(pid_t thread, const __ptrace_syscall_info& info) const {
  constexpr std::string_view text = "listening on";
  if (from_ != CallCounter::From::listening || info.entry.nr != SYS_write ||
      info.entry.args[0] != 1 || info.entry.args[2] < text.size()) {
    return false;
  }
  std::array<char, text.size()> start{};
  const iovec here{start.data(), start.size()};
  const iovec there{reinterpret_cast<void*>(info.entry.args[1]), text.size()};
  return ::process_vm_readv(thread, &here, 1, &there, 1, 0) ==
             static_cast<ssize_t>(text.size()) &&
         std::string_view(start.data(), start.size()) == text;
}

SharedCounts& share() {
  void* memory = ::mmap(nullptr, sizeof(SharedCounts), PROT_READ | PROT_WRITE,
                        MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) throw_errno("mmap");
  return *new (memory) SharedCounts;
}

}  // namespace

CallCounter::CallCounter(const std::vector<std::string>& command, From from,
                         Output output)
    : shared_(share()) {
  try {
    start(command, from, output);
  } catch (...) {
    end();
    throw;
  }
}

CallCounter::~CallCounter() { end(); }

void CallCounter::start(const std::vector<std::string>& command, From from,
                        Output output) {
  std::vector<char*> words;
  for (const std::string& word : command) {
    words.push_back(const_cast<char*>(word.c_str()));
  }
  words.push_back(nullptr);
  Handshake handshake;
  if (output == Output::captured) handshake.output = make_pipe();
  const pid_t owner = ::getpid();
  tracer_ = check(::fork(), "fork");
  if (tracer_ == 0) Tracer(shared_, from).run(words, handshake, owner);
  tracer_pidfd_ = open_pidfd(tracer_);
  handshake.told.write = Fd();
  if (::read(handshake.told.read.get(), &program_, sizeof program_) !=
      sizeof program_) {
    throw std::runtime_error("the tracer could not start");
  }
  // Nobody reaps it before it has had the byte: the number is still its own.
  program_pidfd_ = open_pidfd(program_);
  check(::write(handshake.go.write.get(), "", 1), "write");
  handshake.exec_done.write = Fd();
  char byte = 0;
  check(::read(handshake.exec_done.read.get(), &byte, 1), "read");
  errno = shared_.exec_failed;
  if (errno != 0) throw_errno("exec", command.at(0));
  output_ = std::move(handshake.output.read);
}

void CallCounter::end() {
  if (program_pidfd_ && send_signal(program_pidfd_, SIGKILL)) {
    wait_readable(program_pidfd_, std::chrono::seconds(5));
  }
  if (tracer_ > 0) {
    ::kill(tracer_, SIGKILL);  // and with it go all it traces (EXITKILL)
    ::waitpid(tracer_, nullptr, 0);
  }
  ::munmap(&shared_, sizeof shared_);
}

std::string CallCounter::refused() const {
  const int error = shared_.refused;
  if (error == 0) return {};
  return "ptrace: " + std::system_category().message(error);
}

std::string CallCounter::read_line(milliseconds limit) {
  const auto until = Clock::now() + limit;
  while (unread_.find('\n') == std::string::npos) {
    const auto left =
        std::max(milliseconds(0), ceil<milliseconds>(until - Clock::now()));
    if (!output_ || !wait_readable(output_, left)) return {};
    std::array<char, 4096> block{};
    const ssize_t n = ::read(output_.get(), block.data(), block.size());
    if (n <= 0) return {};
    unread_.append(block.data(), static_cast<std::size_t>(n));
  }
  const auto end = unread_.find('\n');
  std::string line = unread_.substr(0, end);
  unread_.erase(0, end + 1);
  return line;
}

void CallCounter::reset() {
  for (auto& calls : shared_.calls) calls = 0;
}

std::vector<CallCount> CallCounter::counts() const {
  std::vector<CallCount> found;
  for (std::size_t i = 0; i < slots; ++i) {
    const std::uint64_t calls = shared_.calls[i];
    if (calls == 0) continue;
    found.push_back({i + 1 < slots ? syscall_name(static_cast<long>(i))
                                   : "of another architecture",
                     calls});
  }
  std::sort(found.begin(), found.end(),
            [](const CallCount& a, const CallCount& b) {
              return a.calls != b.calls ? a.calls > b.calls : a.name < b.name;
            });
  return found;
}

bool CallCounter::signal(int number) const {
  return send_signal(program_pidfd_, number);
}

int CallCounter::wait(milliseconds limit) const {
  if (!wait_readable(tracer_pidfd_, limit)) return -1;
  const int status = shared_.status;
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

std::string table(const std::vector<CallCount>& counts) {
  std::uint64_t sum = 0;
  std::string text = "       calls  name\n";
  const auto line = [&text](std::uint64_t calls, const std::string& name) {
    const std::string digits = std::to_string(calls);
    text += std::string(12 - std::min<std::size_t>(12, digits.size()), ' ') +
            digits + "  " + name + '\n';
  };
  for (const CallCount& count : counts) {
    line(count.calls, count.name);
    sum += count.calls;
  }
  line(sum, "in all");
  return text;
}

}  // namespace net
