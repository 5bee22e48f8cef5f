// Memory of large results in large pages.
//
// The kernel backs memory as it is first touched, 4 KB at a time unless large pages are asked for: a fault each, which
// for memory fresh from the system takes longer than computing the result (docs/tuning-log.md). Of what was touched
// before, this changes nothing. Where there are no such pages, the request fails, and nothing else happens.
#include "torch/binding.h"

#if defined(__linux__)
#include <sys/mman.h>
#include <unistd.h>
#endif

namespace convkit::binding {

void ask_for_large_pages(void* data, int64_t bytes) {
  constexpr int64_t kLeast = 4 << 20;  // holds a whole page of 2 MB wherever it begins
  if (bytes < kLeast) return;
#if defined(__linux__)
  const uintptr_t page = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE)), at = reinterpret_cast<uintptr_t>(data);
  const uintptr_t begin = (at + page - 1) / page * page, end = (at + static_cast<uintptr_t>(bytes)) / page * page;
  madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
#else
  static_cast<void>(data);
#endif
}

}  // namespace convkit::binding
