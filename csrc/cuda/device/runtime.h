// What the launchers take from the caller of the library, per host thread: the device, the stream, and memory.
#pragma once

#include <cstdint>

#include "core/status.h"

namespace convkit::cuda {

// Launches go to this stream of this device from now on. The device is made the current one of the CUDA runtime in
// this library, which is not the caller's.
Status enter(int device, void* stream);
void* current_stream();

// The newest CUDA version that the driver runs, as 1000 major + 10 minor; 0 without a driver.
int driver_version();

// Where workspaces come from; set once, before any launch.
struct WorkspaceSource {
  // `bytes` of memory on the current device, or nullptr; `owner` is what gives them back.
  void* (*take)(int64_t bytes, void** owner);
  void (*give_back)(void* owner);
};
void set_workspace_source(const WorkspaceSource& source);

// Memory that one launcher needs between its kernels. It comes from the framework's allocator on the stream of the
// call: released when the launcher returns, it is given to what is launched on that stream afterwards, never before,
// and inside a graph capture it belongs to the graph. Nothing is known of what it holds.
class Workspace {
 public:
  explicit Workspace(int64_t bytes);
  ~Workspace();
  Workspace(const Workspace&) = delete;
  Workspace& operator=(const Workspace&) = delete;

  Status status() const { return status_; }
  template <typename T>
  T* as() const {
    return static_cast<T*>(data_);
  }

 private:
  void *data_ = nullptr, *owner_ = nullptr;
  Status status_ = kOk;
};

}  // namespace convkit::cuda
