#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "common/fd.hpp"
#include "common/socket.hpp"
#include "common/testing/process.hpp"

namespace testing {

// Thrown when a stream ends before what was expected has come.
struct EndedEarly : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// n bytes that do not repeat within any buffer size in use, so that a lost,
// doubled or moved byte shows. Different seeds give different bytes.
std::string pattern(std::size_t n, std::uint32_t seed = 1);

// A client of a server under test. Every wait has a limit, sending too: with a
// limit on receiving only, a server that does not read would hang the test.
class Client {
 public:
  // Connects, waiting at most limit. Throws std::system_error or TimedOut.
  explicit Client(const net::Address& server,
                  std::chrono::milliseconds limit = std::chrono::seconds(20));

  // The other end: takes a connection that was accepted.
  explicit Client(net::Fd connection,
                  std::chrono::milliseconds limit = std::chrono::seconds(20));

  // Sends all of it, in as many pieces as it takes, and at once (TCP_NODELAY).
  void send(std::string_view bytes);

  // Sends until the peer takes no more for the given time, at most `most`
  // bytes of pattern(); returns how many were taken.
  std::size_t send_until_full(std::size_t most, std::chrono::milliseconds calm);

  // Receives exactly n bytes. Throws EndedEarly at end of stream, TimedOut.
  std::string receive(std::size_t n);

  // Everything up to the end of the stream.
  std::string receive_all();

  // Sends and receives at the same time, as many bytes as are sent.
  std::string exchange(std::string_view bytes);

  // send, then receive as many.
  std::string echo(std::string_view bytes);

  // Sends FIN; receiving goes on.
  void finish();

  // Ends the connection with RST instead of FIN.
  void reset();

  // True once the server has ended the connection, by FIN or by RST.
  // Waits for that; throws TimedOut.
  bool ended();

  void close() { socket_ = net::Fd(); }
  int fd() const { return socket_.get(); }
  net::Address local() const { return net::local_address(socket_); }

 private:
  // Waits for POLLIN or POLLOUT; throws TimedOut saying what for.
  short wait_for(short events, const char* what);

  std::chrono::milliseconds limit_;
  net::Fd socket_;
};

// n clients, all connected.
std::vector<Client> connect_clients(
    const net::Address& server, std::size_t n,
    std::chrono::milliseconds limit = std::chrono::seconds(20));

// Every client sends a line of its own, then every client must get it back.
// Throws what Client throws, and std::runtime_error for a wrong byte.
void echo_all(std::vector<Client>& clients);

}  // namespace testing
