#pragma once

#include <chrono>
#include <cstddef>
#include <string_view>

#include "common/fd.hpp"
#include "common/socket.hpp"

namespace author {

// A client of an echo server whose calls fail. What the server does to it is
// no exception here but its fate. Every byte that comes back is compared.
class Visitor {
 public:
  enum class Fate {
    whole,    // so far everything has come back that was asked for
    early,    // ended by the server, what had come back was right
    refused,  // nobody listens there
    wrong,    // a byte came back that was not the next one
    stuck,    // nothing moved within the limit
  };

  // Through a narrow connection the server's send takes only part of its bytes
  // as soon as the visitor does not read.
  enum class Connection { usual, narrow };

  // Connects. It will send these bytes, which have to outlive it.
  Visitor(const net::Address& server, std::string_view bytes,
          Connection connection = Connection::usual);

  // Sends and receives until the first n bytes have come back. False: they
  // have not, and its fate says why.
  bool exchange(std::size_t n);

  // Sends up to the nth byte without reading, or until the server has taken no
  // more for 20 ms.
  void send_only(std::size_t n);

  // Sends FIN; the end of the stream is left to has_end().
  void finish();
  void leave() { socket_ = net::Fd(); }
  void reset();

  // Whether something has come that was not read yet; does not wait.
  bool has_news() const;
  // The same, and it is the end of the stream.
  bool has_end() const;

  Fate fate() const { return fate_; }

 private:
  bool move(short events, std::size_t n, std::chrono::milliseconds limit);
  void send(std::size_t n);
  void receive();

  std::string_view bytes_;
  net::Fd socket_;
  Fate fate_ = Fate::whole;
  std::size_t sent_ = 0;
  std::size_t got_ = 0;
  bool broken_ = false;  // the server takes no more
};

}  // namespace author
