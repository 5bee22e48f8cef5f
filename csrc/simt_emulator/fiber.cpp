#include "simt_emulator/fiber.h"

#include <sys/mman.h>

#include <cstdint>
#include <cstdlib>

#if !defined(__x86_64__)
#include <ucontext.h>
#endif
#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

#if defined(__x86_64__)
// Saves what the System V ABI lets a callee rely on, changes the stack, and restores the same.
extern "C" void convkit_simt_switch(void** save, void* to);
asm(R"(
  .text
  .p2align 4
  .hidden convkit_simt_switch
  .globl convkit_simt_switch
  .type convkit_simt_switch, @function
convkit_simt_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
  .size convkit_simt_switch, .-convkit_simt_switch
)");
#endif

namespace convkit::simt {
namespace {

constexpr size_t kStackBytes = 256 * 1024;  // memory is taken page by page, as it is used
constexpr size_t kGuardBytes = 4096;        // an overflow ends the process instead of another fiber

// The two of the switch under way: a new stack has no frame from which it could learn them.
__attribute__((tls_model("initial-exec"))) thread_local Fiber *leaving = nullptr, *entering = nullptr;

}  // namespace

Fiber::~Fiber() {
  if (stack_ != nullptr) munmap(stack_, kGuardBytes + kStackBytes);
#if !defined(__x86_64__)
  std::free(context_);
#endif
}

void Fiber::arrive(void* fake_stack) {
#if defined(__SANITIZE_ADDRESS__)
  const void* bottom = nullptr;
  size_t size = 0;
  __sanitizer_finish_switch_fiber(fake_stack, &bottom, &size);
  if (leaving->stack_ == nullptr) {  // the host thread's stack becomes known when it is left
    leaving->bottom_ = bottom;
    leaving->size_ = size;
  }
#else
  (void)fake_stack;
#endif
}

void Fiber::begin() {
  Fiber* self = entering;
  arrive(nullptr);
  self->entry_(self->argument_);
  std::abort();
}

bool Fiber::prepare(void (*entry)(void*), void* argument) {
  if (stack_ == nullptr) {
    void* memory = mmap(nullptr, kGuardBytes + kStackBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) return false;
    mprotect(memory, kGuardBytes, PROT_NONE);
    stack_ = static_cast<char*>(memory);
  }
#if defined(__SANITIZE_ADDRESS__)
  __asan_unpoison_memory_region(stack_ + kGuardBytes, kStackBytes);  // frames of a run that was given up
#endif
  entry_ = entry;
  argument_ = argument;
  bottom_ = stack_ + kGuardBytes;
  size_ = kStackBytes;
#if defined(__x86_64__)
  // As convkit_simt_switch left it: six registers and the address to return to, the stack aligned as at a call.
  auto* top = reinterpret_cast<uintptr_t*>(stack_ + kGuardBytes + kStackBytes);
  *--top = 0;
  *--top = reinterpret_cast<uintptr_t>(&Fiber::begin);
  for (int i = 0; i < 6; ++i) *--top = 0;
  context_ = top;
#else
  if (context_ == nullptr) context_ = std::calloc(1, sizeof(ucontext_t));
  if (context_ == nullptr) return false;
  auto* context = static_cast<ucontext_t*>(context_);
  getcontext(context);
  context->uc_stack.ss_sp = stack_ + kGuardBytes;
  context->uc_stack.ss_size = kStackBytes;
  context->uc_link = nullptr;
  makecontext(context, &Fiber::begin, 0);
#endif
  return true;
}

void Fiber::switch_to(Fiber* from, Fiber* to, bool last) {
  leaving = from;
  entering = to;
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_start_switch_fiber(last ? nullptr : &from->fake_stack_, to->bottom_, to->size_);
#else
  (void)last;
#endif
#if defined(__x86_64__)
  convkit_simt_switch(&from->context_, to->context_);
#else
  if (from->context_ == nullptr) from->context_ = std::calloc(1, sizeof(ucontext_t));
  swapcontext(static_cast<ucontext_t*>(from->context_), static_cast<ucontext_t*>(to->context_));
#endif
  arrive(from->fake_stack_);
}

}  // namespace convkit::simt
