#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "common/author/markdown.hpp"

namespace author {

// C++ without its comments and without what stands in its literals; the lines
// stay where they are.
std::string code_only(std::string_view source);

// The names of the doctest cases of a file, adjacent literals joined.
std::vector<std::string> test_names(const std::filesystem::path& path);

// A system call without its leading "::", or a leading "::" before anything
// else, as "line N: why". Looks at calls only.
std::vector<std::string> unmarked_system_calls(std::string_view source);

// Why a quotation does not stand in the file. A line "// ..." leaves lines out;
// all others stand there literally, between two such lines without a gap.
std::optional<std::string> not_quoted_from(const Lines& quotation,
                                           const Lines& file);

// Why a diff is not one between the two files. Lines that begin with "-" or
// " " stand in `before`, with "+" or " " in `after`, in this order.
std::optional<std::string> not_a_diff(const Lines& diff, const Lines& before,
                                      const Lines& after);

}  // namespace author
