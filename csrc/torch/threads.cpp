// The host threads of CPU kernels are the framework's.
#include <pthread.h>

#include <algorithm>
#include <atomic>
#include <cstdint>

#include "core/parallel.h"
#include "torch/target.h"

namespace convkit::binding {
namespace {

std::atomic<bool> team_started{false};
std::atomic<bool> forked_after_start{false};

// Dynamic scheduling over the framework's threads: each worker takes the next task until none is left.
void run_tasks(int64_t tasks, void (*body)(void* context, int64_t task), void* context) {
  const int64_t workers =
      forked_after_start ? 1 : std::min<int64_t>(tasks, static_cast<int64_t>(torch::stable::get_num_threads()));
  if (workers <= 1) {
    for (int64_t i = 0; i < tasks; ++i) body(context, i);
    return;
  }
  team_started = true;
  std::atomic<int64_t> next{0};
  torch::stable::parallel_for(0, workers, 1, [&](int64_t begin, int64_t end) {
    for (int64_t worker = begin; worker < end; ++worker)
      for (int64_t i = next++; i < tasks; i = next++) body(context, i);
  });
}

}  // namespace

void install_parallel_runner() {
  set_parallel_runner(run_tasks);
  // A forked child has the parent's thread team only by name: starting a parallel region there would hang.
  pthread_atfork(nullptr, nullptr, [] {
    if (team_started) forked_after_start = true;
  });
}

}  // namespace convkit::binding
