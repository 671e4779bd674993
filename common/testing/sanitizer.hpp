#pragma once

// 1 in a build whose memory and speed are the sanitizer's, not ours.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define TESTING_SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define TESTING_SANITIZED 1
#endif
#endif
#ifndef TESTING_SANITIZED
#define TESTING_SANITIZED 0
#endif

namespace testing {

inline constexpr bool sanitized = TESTING_SANITIZED;

}  // namespace testing
