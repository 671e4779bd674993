#pragma once

#include <cstddef>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

namespace author {

using Lines = std::vector<std::string>;

// The lines of a text file, without their ends. Throws std::system_error.
Lines read_lines(const std::filesystem::path& path);

// Without white space at either end.
std::string_view trimmed(std::string_view text);

// Line numbers count from 1.

struct Fence {
  std::size_t line;
  std::string language;            // the first word after the opening fence
  std::vector<std::string> files;  // the other words
  Lines body;
};

struct Link {
  std::size_t line;
  std::string text;  // white space collapsed, escapes undone
  std::string target;
  bool image;
};

struct Heading {
  std::size_t line;
  std::size_t depth;  // 2 for "## The problem"
  std::string text;
};

// A page of the book, taken apart as far as the author's checks need it.
struct Page {
  std::filesystem::path path;
  std::size_t length;  // in lines
  Lines prose;         // all lines; those inside fences are empty
  std::vector<Fence> fences;
  std::vector<Link> links;
  std::vector<Heading> headings;
};

Page read_page(const std::filesystem::path& path);

// The anchor that GitHub gives a heading, its first time on the page.
std::string anchor(std::string_view heading);

}  // namespace author
