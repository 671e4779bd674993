// Write: refuse clients politely when there is no descriptor for them.

#pragma once

#include <sys/socket.h>

#include <vector>

#include "common/fd.hpp"
#include "common/socket.hpp"
#include "common/testing/todo.hpp"

// What the server does with the listener from now on.
enum class Next {
  Wait,  // goes on waiting for it
  Rest,  // leaves it out for a while: it would be reported again at once
  Stop,  // it has been shut down
};

struct Arrivals {
  std::vector<net::Fd> clients;  // let in: non-blocking and close-on-exec
  Next next = Next::Wait;
};

// Keeps one descriptor open for nothing, the spare. When there is no other left
// it is closed; a client can be accepted in its place, only to be refused.
class Doorman {
 public:
  // Without room it has no spare at first. Throws nothing.
  Doorman() { TODO("a spare, opened while there is still room"); }

  // Called when the listener has been reported: a non-blocking TCP socket,
  // watched level-triggered. Lets clients in, at least one if there is one and
  // room for it. At most 64 are let in, and at most 64 refused, so that the
  // others get their turn. After EAGAIN accept4 is not asked again.
  //
  // - Without room, whoever waits is refused: the client sees the end of its
  //   stream, not a reset, however much it has said by then. One that talks on
  //   and on may see a reset, and holds nobody up. Afterwards the refused has
  //   no descriptor here and there is a spare again.
  // - Somebody else may be faster and take the spare's number, or the client.
  //   If somebody still waits then, and there is neither room nor a spare, the
  //   listener rests. The spare comes before the clients: without one, the
  //   first place that is free becomes the spare.
  // - What passes, ECONNABORTED and EINTR, delays nobody. Any other error of
  //   accept4, such as ENFILE and ENOMEM, stays and is a reason to rest, also
  //   if it comes when the spare has been closed.
  // - A listener that has been shut down is noticed, with and without a spare.
  Arrivals receive(const net::Fd& listener) { TODO("let in, refuse, or rest"); }

 private:
  net::Fd spare_;
};
