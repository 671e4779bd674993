#pragma once

// What the sanitizers have to be told about stacks. Without a sanitizer all of
// it is empty. Sources: sanitizer/common_interface_defs.h,
// sanitizer/tsan_interface.h and sanitizer/asan_interface.h of the compilers.

#include <cstddef>

#if defined(__has_feature)
#if __has_feature(address_sanitizer)
#define RT_ASAN 1
#endif
#if __has_feature(thread_sanitizer)
#define RT_TSAN 1
#endif
#endif
#if defined(__SANITIZE_ADDRESS__)
#define RT_ASAN 1
#endif
#if defined(__SANITIZE_THREAD__)
#define RT_TSAN 1
#endif

#if defined(RT_ASAN)
#include <pthread.h>
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif
#if defined(RT_TSAN)
#include <sanitizer/tsan_interface.h>
#endif

namespace rt {

// One stack as the sanitizers know it.
struct SanitizedStack {
#if defined(RT_ASAN)
  const void* low = nullptr;
  std::size_t size = 0;
  void* fake_stack = nullptr;  // its stack for locals, while it is not running
#elif defined(RT_TSAN)
  void* fiber = nullptr;
#endif
};

#if defined(RT_ASAN)
inline SanitizedStack sanitized_stack(const void* low, std::size_t size,
                                      void*) {
  return {low, size, nullptr};
}

// The stack that the thread brought with it.
inline SanitizedStack sanitized_thread_stack() {
  pthread_attr_t attributes;
  void* low = nullptr;
  std::size_t size = 0;
  if (pthread_getattr_np(pthread_self(), &attributes) != 0) return {};
  pthread_attr_getstack(&attributes, &low, &size);
  pthread_attr_destroy(&attributes);
  return {low, size, nullptr};
}

// `over`: nobody will go on with the stack we leave.
inline void before_switch(SanitizedStack& from, const SanitizedStack& to,
                          bool over) {
  __sanitizer_start_switch_fiber(over ? nullptr : &from.fake_stack, to.low,
                                 to.size);
}

inline void after_switch(const SanitizedStack& stack) {
  __sanitizer_finish_switch_fiber(stack.fake_stack, nullptr, nullptr);
}

inline void unpoison(const void* memory, std::size_t size) {
  ASAN_UNPOISON_MEMORY_REGION(memory, size);
}
#else
#if defined(RT_TSAN)
inline SanitizedStack sanitized_stack(const void*, std::size_t, void* fiber) {
  return {fiber};
}

inline SanitizedStack sanitized_thread_stack() {
  return {__tsan_get_current_fiber()};
}

// 0: what was done before the switch is done before what comes after it. As a
// function of its own it would be entered on one stack and left on the other.
[[gnu::always_inline]] inline void before_switch(SanitizedStack&,
                                                 const SanitizedStack& to,
                                                 bool) {
  __tsan_switch_to_fiber(to.fiber, 0);
}
#else
inline SanitizedStack sanitized_stack(const void*, std::size_t, void*) {
  return {};
}
inline SanitizedStack sanitized_thread_stack() { return {}; }
inline void before_switch(SanitizedStack&, const SanitizedStack&, bool) {}
#endif
inline void after_switch(const SanitizedStack&) {}
inline void unpoison(const void*, std::size_t) {}
#endif

// Dear to make, with GCC 12 more than a millisecond: made with a stack and kept
// with it.
#if defined(RT_TSAN)
inline void* create_tsan_fiber() { return __tsan_create_fiber(0); }
inline void destroy_tsan_fiber(void* fiber) { __tsan_destroy_fiber(fiber); }
#else
inline void* create_tsan_fiber() { return nullptr; }
inline void destroy_tsan_fiber(void*) {}
#endif

}  // namespace rt
