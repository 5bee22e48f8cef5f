// Bands: where planes lie dense in memory (NCHW), a block's share of them is one run, which shared memory can hold.
//
// Layout    planes without gaps, of a tensor that is read; results any but channels_last
// Mapping   planes are cut along their first dimension of more than one element, small ones are taken several at a
//           time. A block brings the run of memory that its results need, then its threads make the results, W fastest.
// Memory    cp.async in vectors of 16 bytes, whatever the alignment of rows: the copy begins as late in a vector as the
//           run does, and only the run's first and last elements, less than a vector, come one by one. What bands
//           share is read twice. Positions are 32-bit numbers behind a 64-bit base.
// Limits    a band of one result (a row of windows) fits into kMostBandBytes
#pragma once

#include "cuda/device/async_copy.h"
#include "cuda/device/pack.h"
#include "cuda/pool_axes.h"

namespace convkit::cuda {

constexpr int64_t kBandBytes = 16 << 10, kMostBandBytes = 40 << 10;  // as a rule, so that blocks share a GPU; at most
constexpr int64_t kBandResults = 1024;                               // wanted of a block: a few for each thread

struct Bands {
  int32_t dim;              // D, H or W: bands are cut along it
  int32_t each;             // results of a band along it
  int32_t planes;           // in a block: several only where a band is a whole plane
  int32_t inner, of_plane;  // elements that are read per position along dim, and in all of a plane
  int32_t room;             // elements of the longest run
  Divider bands;            // blockIdx.x -> (group of planes, band)
  Divider w, h, d;          // a block's result -> (plane, d, h, w); h in columns of results where threads make those
  Divider channels;         // plane -> (n, c)
  int32_t plane_count;
  int64_t blocks;
};

// The positions along one dimension that results [first, last] read: windows their elements, elements their windows.
template <bool kAdjoint>
CONVKIT_HOST_DEVICE void reach(const WindowAxis<int32_t>& a, int32_t first, int32_t last, int32_t* begin,
                               int32_t* end) {
  if (kAdjoint) {
    int32_t unused;
    covering_windows(a, first, begin, &unused);
    covering_windows(a, last, &unused, end);
  } else {
    *begin = window_start(a, first);
    const int32_t start = window_start(a, last);
    *end = a.adaptive ? start + tap_range(a, last).end : start + (a.kernel - 1) * a.dilation + 1;
    if (*begin < 0) *begin = 0;
    if (*end > a.in) *end = a.in;
  }
  if (*end < *begin) *end = *begin;
}

// A bound of it for any `each` results that follow each other.
template <bool kAdjoint>
int64_t longest_reach(const WindowAxis<int32_t>& a, int64_t each) {
  const int64_t read = kAdjoint ? a.out : a.in, made = kAdjoint ? a.in : a.out;
  int64_t length;
  if (a.adaptive)
    length = ceil_div(each * read, made) + 1;
  else if (kAdjoint)
    length = (each - 1 + static_cast<int64_t>(a.dilation) * (a.kernel - 1)) / a.stride + 2;
  else
    length = (each - 1) * a.stride + static_cast<int64_t>(a.dilation) * (a.kernel - 1) + 1;
  return length < read ? length : read;
}

// Whether offsets of `b` name the same places as those of `a`, of its size.
inline bool planes_alike(const TensorView& a, const TensorView& b) {
  return dense_planes(b) && a.stride[kC] == b.stride[kC] && a.stride[kN] == b.stride[kN];
}

// False where no bands can be cut, or none should. `column`: results along H that one thread makes. `bytes`: of what is
// staged per element.
template <bool kAdjoint>
bool cut_bands(const PoolAxes& p, const TensorView& read, const TensorView& made, int64_t column, int64_t bytes,
               Bands* b) {
  if (!dense_planes(read) || numel(read) == 0 || numel(made) == 0 || (made.stride[kC] == 1 && made.size[kC] > 1))
    return false;
  int dim = kD;
  while (dim < kW && read.size[dim] == 1 && made.size[dim] == 1) ++dim;
  const WindowAxis<int32_t>& axis = dim == kD ? p.d : dim == kH ? p.h : p.w;
  int64_t inner = 1, others = 1;
  for (int i = dim + 1; i <= kW; ++i) {
    inner *= read.size[i];
    others *= made.size[i];
  }
  const int64_t step = dim == kH ? column : 1, most = made.size[dim];
  const auto run = [&](int64_t each) { return longest_reach<kAdjoint>(axis, each) * inner * bytes; };
  int64_t each = ceil_div(kBandResults, others * step) * step;
  if (each > most) each = ceil_div(most, step) * step;
  while (each > step && run(each) > kBandBytes) each = ceil_div(each / 2, step) * step;
  if (run(each) > kMostBandBytes) return false;

  const int64_t bands = ceil_div(most, each), of_plane = read.size[dim] * inner;
  int64_t planes = 1;
  const bool packed = read.stride[kC] == of_plane && read.stride[kN] == of_plane * read.size[kC];
  if (bands == 1 && packed) {
    planes = kBandResults / (most * others);
    if (planes * of_plane * bytes > kBandBytes) planes = kBandBytes / (of_plane * bytes);
    if (planes > read.size[kN] * read.size[kC]) planes = read.size[kN] * read.size[kC];
    if (planes < 1) planes = 1;
  }
  *b = Bands{};
  b->dim = dim;
  b->each = static_cast<int32_t>(each);
  b->planes = static_cast<int32_t>(planes);
  b->inner = static_cast<int32_t>(inner);
  b->of_plane = static_cast<int32_t>(of_plane);
  b->room = static_cast<int32_t>(planes > 1 ? planes * of_plane : run(each) / bytes);
  b->bands = Divider(bands);
  b->w = Divider(dim == kW ? each : made.size[kW]);
  b->h = Divider(ceil_div(dim == kH ? each : made.size[kH], column));
  b->d = Divider(dim == kD ? each : made.size[kD]);
  b->channels = Divider(made.size[kC]);
  const int64_t count = made.size[kN] * made.size[kC];
  b->plane_count = static_cast<int32_t>(count);
  b->blocks = ceil_div(count, planes) * bands;
  return b->blocks <= kMostBlocksX && of_plane < 0x7fffffff && count < 0x7fffffff;
}

// Shared memory for a run of `room` elements that begins anywhere in a vector.
CONVKIT_HOST_DEVICE inline size_t run_bytes(int64_t room, int64_t bytes) {
  return static_cast<size_t>((room * bytes + 15) / 16 + 1) * 16;
}

// Starts copies of `count` neighbours to `shared`, which is aligned to 16 bytes; where the first will lie.
template <typename T>
CONVKIT_DEVICE T* stage_run(const T* from, int32_t count, void* shared) {
  constexpr int kCount = kPackCount<T>;
  const int32_t late = static_cast<int32_t>(reinterpret_cast<uintptr_t>(from) / sizeof(T) % kCount);
  T* to = static_cast<T*>(shared) + late;
  const int32_t whole = (kCount - late) % kCount, head = whole < count ? whole : count;
  const int32_t vectors = (count - head) / kCount, tail = head + vectors * kCount;
  const int32_t thread = static_cast<int32_t>(threadIdx.x);
  for (int32_t i = thread; i < vectors; i += static_cast<int32_t>(blockDim.x))
    copy_async_16(to + head + i * kCount, from + head + i * kCount);
  if (thread < head) to[thread] = from[thread];
  if (tail + thread < count) to[tail + thread] = from[tail + thread];
  return to;
}
CONVKIT_DEVICE void await_runs() {
  commit_copies();
  wait_copies<0>();
  __syncthreads();
}

// What a block has to do.
struct Band {
  int32_t plane, planes;  // the first, and how many
  int32_t first;          // result along dim
  int32_t begin, count;   // of the run: elements of the plane before it, and in it

  template <bool kAdjoint>
  CONVKIT_DEVICE static Band find(const PoolAxes& p, const Bands& b) {
    int32_t group = static_cast<int32_t>(blockIdx.x);
    Band band{};
    band.first = b.bands.take(&group) * b.each;
    band.plane = group * b.planes;
    band.planes = b.planes < b.plane_count - band.plane ? b.planes : b.plane_count - band.plane;
    const WindowAxis<int32_t>& axis = b.dim == kD ? p.d : b.dim == kH ? p.h : p.w;
    const int32_t most = made<kAdjoint>(axis) - 1, last = band.first + b.each - 1;
    int32_t begin, end;
    reach<kAdjoint>(axis, band.first, last < most ? last : most, &begin, &end);
    if (b.planes > 1) begin = 0, end = b.of_plane / b.inner;
    band.begin = begin * b.inner;
    band.count = b.planes > 1 ? band.planes * b.of_plane : (end - begin) * b.inner;
    return band;
  }

  // Where its run begins in `t`.
  CONVKIT_DEVICE int64_t start(const TensorView& t, const Bands& b) const {
    int32_t n = plane;
    const int32_t c = b.channels.take(&n);
    return n * t.stride[kN] + c * t.stride[kC] + begin;
  }

  // Calls f(n, c, at, base) for this thread's results, of which it makes `column` that follow each other along H;
  // `base` plus a position in the plane is an element of the run.
  template <bool kAdjoint, typename F>
  CONVKIT_DEVICE void for_results(const PoolAxes& p, const Bands& b, int32_t column, const F& f) const {
    const int32_t count = planes * b.w.divisor() * b.h.divisor() * b.d.divisor();
    for (int32_t i = static_cast<int32_t>(threadIdx.x); i < count; i += static_cast<int32_t>(blockDim.x)) {
      int32_t rest = i;
      Window at;
      at.w = b.w.take(&rest);
      at.h = b.h.take(&rest) * column;
      at.d = b.d.take(&rest);
      if (b.dim == kD) at.d += first;
      if (b.dim == kH) at.h += first;
      if (b.dim == kW) at.w += first;
      if (at.d >= made<kAdjoint>(p.d) || at.h >= made<kAdjoint>(p.h) || at.w >= made<kAdjoint>(p.w)) continue;
      int32_t n = plane + rest;
      const int32_t c = b.channels.take(&n);
      f(n, c, at, rest * b.of_plane - begin);
    }
  }

  template <bool kAdjoint>
  CONVKIT_DEVICE static int32_t made(const WindowAxis<int32_t>& axis) {
    return kAdjoint ? axis.in : axis.out;
  }
};

inline Grid grid_of(const Bands& b, size_t shared_bytes) {
  return Grid{blocks(b.blocks), threads(kWalkThreads), shared_bytes};
}

}  // namespace convkit::cuda
