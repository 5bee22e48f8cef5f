// The operands of batch normalisation, and the packs of 16 bytes that all of them allow.
#pragma once

#include <initializer_list>

#include "core/batch_norm.h"
#include "cuda/device/pack.h"
#include "cuda/planes.h"

namespace convkit::cuda {

// Of channels that are neighbours; of positions, where planes have no gaps (they are then one row); or none.
enum class Packs { kChannels, kPositions, kNone };

inline bool position_packs_fit(const TensorView& t, int64_t count, int64_t bytes) {
  if (!dense_planes(t) || t.size[kD] * t.size[kH] * t.size[kW] % count != 0) return false;
  for (const Dim dim : {kN, kC})
    if (t.size[dim] > 1 && t.stride[dim] % count != 0) return false;
  return reinterpret_cast<uintptr_t>(t.data) % static_cast<uintptr_t>(count * bytes) == 0;
}

// Makes views of tensors of one shape and dtype (those that are there), and says in what packs they can be moved.
// False if a plane reaches too far.
inline bool make_operands(std::initializer_list<const TensorView*> tensors, std::initializer_list<PlaneView*> views,
                          Packs* packs) {
  bool channels = true, positions = true;
  auto view = views.begin();
  for (const TensorView* t : tensors) {
    if (!narrow(*t, *view++)) return false;
    if (t->data == nullptr) continue;
    const int64_t bytes = dtype_bytes(t->dtype), count = pack_count(t->dtype);
    channels = channels && packs_fit(*t, count, bytes);
    positions = positions && position_packs_fit(*t, count, bytes);
  }
  *packs = channels ? Packs::kChannels : positions ? Packs::kPositions : Packs::kNone;
  if (*packs == Packs::kPositions)
    for (PlaneView* v : views) v->plane = {0, 0, 1};
  return true;
}

constexpr Status kNormTooWide{"GPU kernels of batch normalisation count positions of a plane in 32 bits"};
constexpr Status kNormFloatingOnly{"batch normalisation has no kernel for this dtype"};

// The value before the activation.
template <typename A>
CONVKIT_DEVICE A before_activation(const ChannelNorm<A>& norm, A x, A residual) {
  return (x - norm.mean) * norm.scale + norm.bias + residual;
}

}  // namespace convkit::cuda
