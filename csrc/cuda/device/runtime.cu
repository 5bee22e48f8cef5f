// The state of a host thread between a call and its launches.
#include "cuda/device/platform.h"
#include "cuda/device/runtime.h"

namespace convkit::cuda {
namespace {

thread_local void* stream = nullptr;
WorkspaceSource source{nullptr, nullptr};

}  // namespace

void* current_stream() { return stream; }

Status enter(int device, void* to) {
  stream = to;
#ifdef __CUDACC__
  // As a rule the two runtimes agree, since both follow the driver's current context.
  int current = -1;
  cudaError_t error = cudaGetDevice(&current);
  if (error == cudaSuccess && current != device) error = cudaSetDevice(device);
  if (error != cudaSuccess) {
    (void)cudaGetLastError();
    return Status{cudaGetErrorString(error)};
  }
#else
  (void)device;
#endif
  return kOk;
}

int driver_version() {
  int version = 0;
#ifdef __CUDACC__
  if (cudaDriverGetVersion(&version) != cudaSuccess) return 0;
#endif
  return version;
}

void set_workspace_source(const WorkspaceSource& from) { source = from; }

Workspace::Workspace(int64_t bytes) {
  if (bytes <= 0) return;
  if (source.take != nullptr) data_ = source.take(bytes, &owner_);
  if (data_ == nullptr)
    status_ = Status{"CUDA out of memory. There is none for what a kernel keeps between its launches"};
}

Workspace::~Workspace() {
  if (owner_ != nullptr) source.give_back(owner_);
}

}  // namespace convkit::cuda
