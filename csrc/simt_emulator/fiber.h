// Fibers: stacks that one host thread switches between. One per emulated GPU thread.
#pragma once

#include <cstddef>

namespace convkit::simt {

// A switch costs about 10 ns on x86-64, where it is a few lines of assembly; elsewhere ucontext serves.
class Fiber {
 public:
  Fiber() = default;
  Fiber(const Fiber&) = delete;
  Fiber& operator=(const Fiber&) = delete;
  ~Fiber();

  // Prepares a run of entry(argument) on this fiber's stack, which is kept from run to run; the former run ended or
  // is given up. False if there is no memory. `entry` must not return: it leaves by a last switch_to.
  bool prepare(void (*entry)(void* argument), void* argument);

  // Leaves the fiber that runs now, `from`, and goes on in `to`. `last`: `from` will not run again.
  static void switch_to(Fiber* from, Fiber* to, bool last);

 private:
  static void begin();
  static void arrive(void* fake_stack);

  void* context_ = nullptr;  // saved stack pointer, or ucontext_t*
  char* stack_ = nullptr;    // nullptr: the host thread's own
  void (*entry_)(void*) = nullptr;
  void* argument_ = nullptr;
  // For AddressSanitizer, which must know the stack it is on.
  void* fake_stack_ = nullptr;
  const void* bottom_ = nullptr;
  size_t size_ = 0;
};

}  // namespace convkit::simt
