#include "common/author/injection.hpp"

#include <sys/mman.h>
#include <unistd.h>

#include <csignal>
#include <fstream>
#include <vector>

#include "common/error.hpp"
#include "common/testing/process.hpp"

namespace author {
namespace {

// What strace calls it; a question mark allows for architectures without it.
std::string strace_name(const std::string& call) {
  if (call == "select") return "?select,?pselect6";
  if (call == "poll") return "?poll,?ppoll";
  if (call == "epoll_wait") return "?epoll_wait,?epoll_pwait";
  return call;
}

std::vector<std::string> command(pid_t process, const std::string& log,
                                 const Fault& fault) {
  const std::string name = strace_name(fault.call);
  std::vector<std::string> words{
      "strace",
      "-f",
      "-q",
      "-p",
      std::to_string(process),
      "-o",
      log,
      "-e",
      "trace=" + name,
      "-e",
      "inject=" + name + ":error=" + fault.error + ":when=" + fault.when};
  if (!fault.of.empty()) words.insert(words.end(), {"-P", fault.of});
  return words;
}

pid_t tracer_of(pid_t process) {
  std::ifstream status("/proc/" + std::to_string(process) + "/status");
  std::string word;
  while (status >> word && word != "TracerPid:") continue;
  pid_t tracer = 0;
  status >> tracer;
  return tracer;
}

}  // namespace

Injection::Injection(pid_t process, const Fault& fault)
    : switches_(testing::voluntary_switches(process)),
      log_(net::check(::memfd_create("strace", MFD_CLOEXEC), "memfd_create")),
      strace_(command(process, log_name(), fault)) {
  // It stops the process once, to get hold of it.
  testing::wait_until("strace attaches", [&] {
    return testing::has_ended(strace_.pid()) ||
           (tracer_of(process) != 0 &&
            testing::voluntary_switches(process) > switches_);
  });
  if (testing::has_ended(strace_.pid())) {
    strace_.wait();
    const std::string& why = strace_.errors();
    if (why.find("not permitted") != std::string::npos) throw Refused(why);
    throw Complaint("strace: " + why);
  }
}

std::string Injection::log_name() const {
  return "/proc/" + std::to_string(::getpid()) + "/fd/" +
         std::to_string(log_.get());
}

std::size_t Injection::end() {
  if (!testing::has_ended(strace_.pid())) strace_.signal(SIGTERM);
  strace_.wait();
  std::ifstream log(log_name());
  std::size_t injected = 0;
  std::string line;
  while (std::getline(log, line)) {
    if (line.ends_with("(INJECTED)")) ++injected;
  }
  return injected;
}

}  // namespace author
