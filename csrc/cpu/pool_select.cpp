// pool_select, its adjoint pool_select_bwd, and pool_indices: what window offsets name.
//
// Computes  pool_select      y[o] = x[start(o) + tap(offset[o]) * dilation]
//           pool_select_bwd  dx[i] = sum of dy[o] over the windows o whose chosen tap reads i
//           pool_indices     offset -> flat position in the unpadded plane
// Layout    any
// Mapping   select and indices: a task is a run of output rows, one element at a time; the adjoint: as max_pool.
// Limits    an offset that names no tap, or a tap in the padding, selects 0, gets no gradient and has index -1.
#include "cpu/pool_channels.h"
#include "cpu/pool_kernels.h"
#include "cpu/pool_plane.h"
#include "cpu/pool_rows_bwd.h"
#include "cpu/pool_scatter.h"
#include "cpu/pool_tiles.h"
#include "cpu/pool_turned.h"

namespace convkit {
inline namespace CONVKIT_ISA {
namespace {

// Where tap t of window 0 lies; for small windows a table, since divisions would dominate.
struct TapTable {
  static constexpr int64_t kTaps = 256;
  int16_t at[kTaps][3];
  explicit TapTable(const PoolProblem& p) {
    const int64_t taps = lesser(kTaps, volume(p.kernel));
    for (int64_t t = 0; t < taps; ++t)
      for (int i = 0; i < 3; ++i) at[t][i] = static_cast<int16_t>(split(p, t)[i]);
  }
  static CONVKIT_INLINE Spatial split(const PoolProblem& p, int64_t tap) {
    return Spatial{{tap / p.kernel[2] / p.kernel[1], tap / p.kernel[2] % p.kernel[1], tap % p.kernel[2]}};
  }
  // The input position that `tap` of window (o, q, r) reads; false if none.
  CONVKIT_INLINE bool locate(const PoolProblem& p, const Spatial& window, int64_t tap, Spatial* position) const {
    if (tap < 0 || tap >= volume(p.kernel)) return false;
    const Spatial t = tap < kTaps ? Spatial{{at[tap][0], at[tap][1], at[tap][2]}} : split(p, tap);
    for (int i = 0; i < 3; ++i) {
      if (p.adaptive && t[i] >= tap_range(p, i, window[i]).end) return false;
      const int64_t v = window_start(p, i, window[i]) + t[i] * p.dilation[i];
      if (v < 0 || v >= p.in[i]) return false;
      (*position)[i] = v;
    }
    return true;
  }
};

// Calls f(n, c, window, position) for every output, position being nullptr where the offset names nothing.
template <typename F>
CONVKIT_INLINE void for_chosen(const PoolProblem& p, const TensorView& offsets, const F& f) {
  const TapTable table(p);
  const int64_t bytes = dtype_bytes(offsets.dtype), plane_rows = p.out[0] * p.out[1];
  for_units(p.n * p.c * plane_rows, p.out[2], [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const int64_t plane = row / plane_rows, n = plane / p.c, c = plane % p.c;
      Spatial window{{row % plane_rows / p.out[1], row % p.out[1], 0}};
      for (; window[2] < p.out[2]; ++window[2]) {
        const int64_t at = offset(offsets, n, c, window[0], window[1], window[2]);
        Spatial position;
        const bool found = table.locate(p, window, load_tap(offsets.data, at, bytes), &position);
        f(n, c, window, found ? &position : nullptr);
      }
    }
  });
}

template <typename F>
CONVKIT_INLINE Status visit_real(DType dtype, const F& run) {
  Status status = kOk;
  const auto keep = [&](auto t) { status = run(t); };
  if (visit_floating(dtype, keep) || visit_integral(dtype, keep)) return status;
  return {"pooling has no kernel for this dtype"};
}

}  // namespace

Status pool_select(const PoolProblem& p, const TensorView& x, const TensorView& offsets, const TensorView& y) {
  return visit_real(x.dtype, [&](auto t) {
    using T = typename decltype(t)::type;
    for_chosen(p, offsets, [&](int64_t n, int64_t c, const Spatial& window, const Spatial* from) {
      T* to = data<T>(y) + offset(y, n, c, window[0], window[1], window[2]);
      *to = from != nullptr ? data<T>(x)[offset(x, n, c, (*from)[0], (*from)[1], (*from)[2])] : T{};
    });
    return kOk;
  });
}

Status pool_select_bwd(const PoolProblem& p, const TensorView& dy, const TensorView& offsets, const TensorView& dx) {
  return visit_real(dy.dtype, [&](auto t) {
    using T = typename decltype(t)::type;
    if (channels_gather_apply<T, true>(dy, offsets, dx)) return gather_channels<SelectBwd, T>(p, dy, offsets, dx);
    if (plane_applies(p, dx)) return spread_plane<SelectBwd, T>(p, dy, offsets, dx);
    const bool tiles = tiles_apply(p, dx, dy, offsets), turned = turning_back_pays<T>(p, dy, dx, offsets, tiles);
    if (!tiles && scatter_pays(p, turned) && scatter_applies<T>(p)) return scatter_planes<T>(p, dy, offsets, dx);
    if (turned) return gather_turned<SelectBwd, T>(p, dy, offsets, dx);
    if (tiles) return spread_tiles<T, true>(p, dy, offsets, dx);
    return gather_rows<SelectBwd, T>(p, dy, offsets, dx);
  });
}

Status pool_indices(const PoolProblem& p, const TensorView& offsets, const TensorView& indices) {
  for_chosen(p, offsets, [&](int64_t n, int64_t c, const Spatial& window, const Spatial* from) {
    int64_t* to = data<int64_t>(indices) + offset(indices, n, c, window[0], window[1], window[2]);
    *to = from != nullptr ? ((*from)[0] * p.in[1] + (*from)[1]) * p.in[2] + (*from)[2] : -1;
  });
  return kOk;
}

}  // namespace CONVKIT_ISA
}  // namespace convkit
