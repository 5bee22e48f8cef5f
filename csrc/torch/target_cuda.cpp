// Where calls run in a library with GPU kernels: on the device of their tensors, on its current stream.
//
// Nothing here is linked against a GPU's libraries: the CUDA runtime is part of this library and finds the driver by
// itself, and what libtorch_cuda alone knows is asked of the copy that torch has loaded. So this library loads in a
// torch without CUDA, and on machines without a GPU.
#include <dlfcn.h>
#include <torch/csrc/stable/accelerator.h>

#include "cuda/device/runtime.h"
#include "torch/target.h"

namespace convkit::binding {
namespace {

using torch::stable::accelerator::DeviceGuard;

// torch.cuda.current_stream(device).cuda_stream. The stable interface has it in libtorch_cuda only.
using CurrentStream = AOTITorchError (*)(int32_t device, void** stream);

CurrentStream find_current_stream() {
  void* library = dlopen("libtorch_cuda.so", RTLD_LAZY | RTLD_NOLOAD);
  if (library == nullptr) return nullptr;
  return reinterpret_cast<CurrentStream>(dlsym(library, "aoti_torch_get_current_cuda_stream"));
}

void* current_stream_of(int32_t device) {
  static const CurrentStream find = find_current_stream();
  STD_TORCH_CHECK(find != nullptr, "convkit: this torch has no CUDA streams");
  void* stream = nullptr;
  TORCH_ERROR_CODE_CHECK(find(device, &stream));
  return stream;
}

// A workspace is a tensor, so that it obeys whatever rules the allocator has: streams, captures, limits, statistics.
void* take_workspace(int64_t bytes, void** owner) {
  int32_t device = 0;
  const int64_t stride = 1;
  AtenTensorHandle tensor = nullptr;
  void* data = nullptr;
  if (aoti_torch_get_current_device_index(&device) != AOTI_TORCH_SUCCESS ||
      aoti_torch_empty_strided(1, &bytes, &stride, aoti_torch_dtype_uint8(), aoti_torch_device_type_cuda(), device,
                               &tensor) != AOTI_TORCH_SUCCESS)
    return nullptr;
  *owner = tensor;
  return aoti_torch_get_data_ptr(tensor, &data) == AOTI_TORCH_SUCCESS ? data : nullptr;
}

void give_back_workspace(void* owner) { aoti_torch_delete_tensor_object(static_cast<AtenTensorHandle>(owner)); }

}  // namespace

Target::Target(std::initializer_list<const Tensor*> tensors) {
  const Place place = common_place(tensors);
  if (place.type == aoti_torch_device_type_cpu()) {
    launchers_ = &cpu::launchers();
    return;
  }
  device_guard_ = std::make_shared<DeviceGuard>(place.index);
  check(cuda::enter(place.index, current_stream_of(place.index)));
  launchers_ = &cuda::launchers();
}

void prepare_targets() {
  install_parallel_runner();
  cuda::set_workspace_source({take_workspace, give_back_workspace});
}

}  // namespace convkit::binding
