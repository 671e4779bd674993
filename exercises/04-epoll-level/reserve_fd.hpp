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
  Doorman() { TODO("a spare, opened while there is still room"); }

  // Called when the listener has been reported: a non-blocking TCP socket,
  // watched level-triggered. Lets clients in, at least one if there is one and
  // room for it; at most 64, so that the others get their turn.
  //
  // - Without room, whoever waits is refused: the client sees the end of its
  //   stream, not a reset, even if it has said something already. Afterwards
  //   the refused has no descriptor here and there is a spare again.
  // - Somebody else may be faster and take the spare's number, or the client.
  //   Without a spare the listener rests, and a new one is opened as soon as
  //   there is room.
  // - What concerns one client alone delays nobody. Errors that stay, such as
  //   ENFILE and ENOMEM, are a reason to rest.
  // - A listener that has been shut down is noticed, with and without a spare.
  Arrivals receive(const net::Fd& listener) { TODO("let in, refuse, or rest"); }

 private:
  net::Fd spare_;
};
