#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "common/author/injection.hpp"

namespace author {

// Chapter 06's server with all that stands on its list besides clients.

struct OtherCalls {
  std::string label;
  std::string call;
  std::string of;  // as in Fault, or one of the next two
};

inline constexpr std::string_view discovery_socket = "discovery";
inline constexpr std::string_view limits_file = "limits";

// The calls it makes for the other descriptors.
const std::vector<OtherCalls>& other_calls();

// One run: clients talk and one falls silent, while somebody looks for the
// server, its limits file is saved, signals come, its companion ends, and in
// the end it is stopped. Each must have its effect, with the fault too. Throws
// Complaint.
Tally with_every_descriptor(const std::string& program, const Fault& fault);

}  // namespace author
