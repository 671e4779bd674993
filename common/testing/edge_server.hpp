#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

#include "chapters/server.hpp"
#include "common/testing/process.hpp"
#include "common/testing/recorded_server.hpp"

namespace testing {

// In its calls its first client is A and its second B: which numbers they have
// depends on what else a server has open. Its listener is 3.
class EdgeServer : public RecordedServer {
 public:
  EdgeServer() : RecordedServer(serve) {
    wait_until_settled(process().pid());
    before_clients_ = descriptors();
  }

  std::size_t descriptors() const { return open_descriptors(process().pid()); }
  std::size_t before_clients() const { return before_clients_; }

  std::vector<std::string> calls() { return named(RecordedServer::calls()); }
  std::vector<std::string> calls_until(std::string_view beginning,
                                       std::size_t times) {
    std::vector<std::string> all;
    wait_until(std::string(beginning), [&] {
      const std::vector<std::string> more = calls();
      all.insert(all.end(), more.begin(), more.end());
      return count(all, beginning) >= times;
    });
    return all;
  }

 private:
  // A client gets the lowest number that is free.
  std::vector<std::string> named(std::vector<std::string> calls) const {
    for (std::string& call : calls) {
      if (call.starts_with("epoll_wait")) continue;  // that is a timeout
      const std::size_t at = call.find_first_of("0123456789", call.find(' '));
      const std::size_t number = std::stoul(call.substr(at));
      const std::size_t size = std::to_string(number).size();
      if (number == before_clients_) call.replace(at, size, "A");
      if (number == before_clients_ + 1) call.replace(at, size, "B");
    }
    return calls;
  }

  std::size_t before_clients_ = 0;
};

}  // namespace testing
