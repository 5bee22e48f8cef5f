// What a launcher returns: success, or a reason. Kernels never throw; the binding turns a reason into an exception.
#pragma once

namespace convkit {

struct Status {
  const char* reason;  // nullptr: success; otherwise a string literal
  bool ok() const __attribute__((always_inline)) { return reason == nullptr; }
};

constexpr Status kOk{nullptr};

// What max_unpool returns for an index that names no element.
constexpr Status kInvalidIndex{"invalid max index"};

}  // namespace convkit
