// A program whose system calls are known: N times getppid in main, N times in
// a thread, N times in a forked child. For the test of count_calls.

#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <thread>

int main(int argc, char** argv) {
  const int times = argc > 1 ? std::atoi(argv[1]) : 1;
  const auto call = [times] {
    for (int i = 0; i < times; ++i) ::getppid();
  };
  call();
  std::thread(call).join();
  const pid_t child = ::fork();
  if (child < 0) return 1;
  if (child == 0) {
    call();
    ::_exit(0);
  }
  return ::waitpid(child, nullptr, 0) == child ? 7 : 1;
}
