// max_unpool: elements go where flat indices say.
//
// Computes  y[indices[o]] = x[o], zero elsewhere; of equal indices the last o in row-major order counts
// Layout    any strides
// Mapping   three launches over a table with a number for each element of y. The first clears it, the second lets every
//           element o of x raise its position's number to o + 1, the third makes one element of y per thread from the x
//           that its number names. A maximum does not depend on the order in which it is raised: the same bits each
//           time, and the definition's. In the first and third, threads follow y's memory, in the second that of
//           indices.
// Memory    x and indices are read once, y is written once. The table is cleared, raised and read in L2: images are
//           taken as many at a time as keep it within kTableBytes.
// Limits    floating dtypes; planes of 2^30 positions, 2^31 elements of x and of y per image. An index outside of the
//           plane ends the kernel (device/require.h): the host would have to wait to name it.
#include "cuda/device/pack.h"
#include "cuda/device/require.h"
#include "cuda/pool_flat.h"
#include "cuda/pool_kernels.h"

namespace convkit::cuda {
namespace {

constexpr int64_t kTableBytes = 32 << 20;  // less than the L2 of the GPUs that matter
constexpr int kClearThreads = 256, kClearCount = kPackCount<int32_t>;

struct Unpool {
  TensorView x, indices, y;
  Plane from, to;
  int32_t* table;                                      // [image][channel][position], in the order of y's memory
  int64_t table_image, table_channel, table_position;  // its strides

  CONVKIT_DEVICE int64_t number(int64_t n, int64_t c, int64_t position) const {
    return n * table_image + c * table_channel + position * table_position;
  }
};

__global__ void __launch_bounds__(kClearThreads) clear_table(int32_t* table, const int64_t packs) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kClearThreads + threadIdx.x;
  if (i < packs) store_pack(table + i * kClearCount, Pack<int32_t, kClearCount>{});
}

__global__ void __launch_bounds__(kWalkThreads, kWalkBlocks) raise_numbers(const Unpool g, const Walk walk) {
  int64_t c;
  Window at;
  if (!walk.find(1, &c, &at)) return;
  const int32_t o = g.from.position(at);
  for (int64_t n = blockIdx.y; n < walk.images; n += gridDim.y) {
    const int64_t index = data<int64_t>(g.indices)[offset(g.indices, n, c, at.d, at.h, at.w)];
    require(index >= 0 && index < g.to.volume, "Found an invalid max index", index);
    atomicMax(g.table + g.number(n, c, index), o + 1);
  }
}

template <typename T>
__global__ void __launch_bounds__(kWalkThreads, kWalkBlocks) follow_numbers(const Unpool g, const Walk walk) {
  int64_t c;
  Window at;
  if (!walk.find(1, &c, &at)) return;
  for (int64_t n = blockIdx.y; n < walk.images; n += gridDim.y) {
    const int32_t number = g.table[g.number(n, c, g.to.position(at))];
    T value{};
    if (number > 0) {
      const Window from = g.from.at(number - 1);
      value = data<T>(g.x)[offset(g.x, n, c, from.d, from.h, from.w)];
    }
    data<T>(g.y)[offset(g.y, n, c, at.d, at.h, at.w)] = value;
  }
}

// Some images, whose numbers the table holds.
template <typename T>
Status run_images(const Unpool& g) {
  const int64_t packs = ceil_div(g.y.size[kN] * g.table_image, kClearCount);
  const char* refusal;
  const Walk results = walk_over(g.y, 1, &refusal);
  if (refusal != nullptr) return {refusal};
  Status status = launch(clear_table, Grid{blocks(ceil_div(packs, kClearThreads)), threads(kClearThreads)},
                         static_cast<int32_t*>(g.table), int64_t(packs));
  if (status.ok() && numel(g.x) > 0) {
    const Walk elements = walk_over(g.indices, 1, &refusal);
    if (refusal != nullptr) return {refusal};
    status = launch(raise_numbers, grid_of(elements), Unpool(g), Walk(elements));
  }
  return status.ok() ? launch(follow_numbers<T>, grid_of(results), Unpool(g), Walk(results)) : status;
}

}  // namespace

Status max_unpool(const TensorView& x, const TensorView& indices, const TensorView& y, int64_t*) {
  if (numel(y) == 0) return kOk;
  Unpool g{};
  if (!plane_of(x, &g.from) || !plane_of(y, &g.to)) return kPlaneTooLarge;
  const int64_t channels = y.size[kC];
  const bool channels_first = y.stride[kC] == 1 && channels > 1;
  g.table_image = channels * g.to.volume;
  g.table_channel = channels_first ? 1 : g.to.volume;
  g.table_position = channels_first ? channels : 1;
  const int64_t each = kTableBytes / (g.table_image * static_cast<int64_t>(sizeof(int32_t)));
  const int64_t images = each < 1 ? 1 : each < y.size[kN] ? each : y.size[kN];
  const Workspace table(ceil_div(images * g.table_image, kClearCount) * kPackBytes);
  if (!table.status().ok()) return table.status();
  g.table = table.as<int32_t>();
  Status status = kFlatFloatingOnly;
  visit_floating(x.dtype, [&](auto t) {
    for (int64_t n = 0; n < y.size[kN]; n += images) {
      const int64_t count = y.size[kN] - n < images ? y.size[kN] - n : images;
      g.x = sliced(x, kN, n, count);
      g.indices = sliced(indices, kN, n, count);
      g.y = sliced(y, kN, n, count);
      status = run_images<typename decltype(t)::type>(g);
      if (!status.ok()) return;
    }
  });
  return status;
}

}  // namespace convkit::cuda
