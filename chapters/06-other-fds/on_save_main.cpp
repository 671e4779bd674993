// on-save: options, watch, run.

#include <chrono>
#include <string>
#include <vector>

#include "chapters/06-other-fds/on_save.hpp"
#include "common/options.hpp"

int main(int argc, char** argv) {
  std::chrono::milliseconds timeout = std::chrono::seconds(60);
  net::Options options("[--timeout TIME] COMMAND FILE...",
                       "Runs a command by /bin/sh whenever one of the files is "
                       "saved.");
  options.time("--timeout", "when a run is killed, 0 for never",
               std::chrono::milliseconds(0), std::chrono::hours(24), timeout);
  return net::run_program(
      argc, argv, options, [&](const std::vector<std::string>& arguments) {
        if (arguments.empty()) throw net::UsageError("no command");
        if (arguments.size() == 1) throw net::UsageError("no file to watch");
        OnSave loop(arguments[0], {arguments.begin() + 1, arguments.end()},
                    timeout);
        return 128 + loop.run();
      });
}
