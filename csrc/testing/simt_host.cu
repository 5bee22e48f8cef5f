// The host side of GPU launches, for tests: empty table entries, empty and oversized grids, and workspaces.
#include "cuda/device/launch.h"
#include "cuda/operations.h"

namespace convkit::cuda {
namespace {

__global__ void add(const float* x, const float* workspace, float* y) {
  y[threadIdx.x] = x[threadIdx.x] + workspace[threadIdx.x];
}

const char* empty_entry() {
  Launchers table{};
  each_operation(&table, RefuseIfEmpty{});
  return table.avg_pool(PoolProblem{}, TensorView{}, TensorView{}).reason;
}

// y = x + what a workspace of `count` floats holds at first.
Status use_workspace(const float* x, float* y, int64_t count) {
  const Workspace workspace(count * static_cast<int64_t>(sizeof(float)));
  if (!workspace.status().ok()) return workspace.status();
  return launch(add, Grid{blocks(1), threads(count)}, x, static_cast<const float*>(workspace.as<float>()), y);
}

}  // namespace
}  // namespace convkit::cuda

// What a case returns: nullptr, or the reason of a refusal.
extern "C" __attribute__((visibility("default"))) const char* convkit_simt_host(int which, const float* x, float* y,
                                                                                int64_t count) {
  using namespace convkit::cuda;
  switch (which) {
    case 0: return empty_entry();
    case 1: return use_workspace(x, y, count).reason;
    case 2: return launch(add, Grid{blocks(0), threads(1)}, x, x, y).reason;
    case 3: return launch(add, Grid{blocks(1, kMostBlocksY + 1), threads(1)}, x, x, y).reason;
    case 4: return launch(add, Grid{blocks(1), threads(1025)}, x, x, y).reason;
    default: return "no such case";
  }
}
