// conv_grouped, channels: fprop and dgrad of grouped convolution with vectors along the result's channels.
//
// Computes  out[n, m, o] = act(scale[m] * sum over the channels c of m's group and the taps t of
//           W[m, c, t] * in[n, c, position(o, t)] + bias[m] + residual), positions by core/conv_window.h.
// Layout    source and result with channel stride 1, all other strides free.
// Mapping   a task is (image, block of channels, band of result rows). A kernel computes 14 or 7 columns of one row for
//           one or two vectors of channels (fewer without AVX-512). Groups of at least a vector: each lane needs the
//           same source element, which is broadcast from memory. Smaller groups that fill a vector together: the source
//           channels of these groups lie beside each other too, and one permutation gives every lane channel c of its
//           own group. Vectors run inside columns, so that memory is read and written in order.
// Memory    nothing is staged but the filters, vector by vector and tap by tap: packed once per call, by all threads,
//           into memory of the calling one. A task's share of them stays in L2.
// Limits    zero padding, floating dtypes; groups of at least a vector, or as many source as result channels, which
//           divide a vector. Taps outside the source are skipped, by columns in the blocks at the border.
#include "core/conv_window.h"
#include "cpu/conv_depthwise.h"
#include "cpu/conv_emit.h"

namespace convkit {
inline namespace CONVKIT_ISA {
namespace {

// Sums of one call. With two vectors 14, with one too, both enough for two FMA units with a latency of 4 cycles; 16
// registers hold no more than six.
template <int kVectors>
constexpr int kColumns = kVectorBytes == 64 ? 14 / kVectors : 6 / kVectors;

template <bool kValue>
struct Bool {
  static constexpr bool value = kValue;
};

CONVKIT_INLINE int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
CONVKIT_INLINE int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// One or two vectors of result channels of one group, or one vector of several whole groups.
struct Chunk {
  int64_t result, source;  // first channels
  int64_t second;          // channels from the first vector to the second, 0: there is none
  int64_t filter;          // where its packed filter starts
};

// How the result's channels are cut.
struct Chunks {
  int64_t rows, depth;  // channels of a group: result, source
  int64_t lanes, taps;
  int64_t per_group;  // vectors of a group; 0: vectors hold several groups
  int64_t count;

  CONVKIT_INLINE int64_t packed() const { return depth * taps * lanes; }  // elements of one vector's filter
  CONVKIT_INLINE int64_t vectors() const { return per_group == 0 ? count : count / ceil_div(per_group, 2) * per_group; }

  CONVKIT_INLINE Chunk at(int64_t i, int64_t channels) const {
    if (per_group == 0) {
      // The last vector overlaps the one before, by whole groups.
      const int64_t c = least(i * lanes, channels - lanes);
      return {c, c, 0, i * packed()};
    }
    const int64_t pairs = ceil_div(per_group, 2), group = i / pairs, first = i % pairs * 2;
    const auto start = [&](int64_t v) { return least(v * lanes, rows - lanes); };
    const int64_t second = first + 1 < per_group ? start(first + 1) - start(first) : 0;
    return {group * rows + start(first), group * depth, second, (group * per_group + first) * packed()};
  }
};

CONVKIT_INLINE Chunks make_chunks(const ConvProblem& p, bool adjoint, int64_t lanes) {
  Chunks c{(adjoint ? p.c : p.k) / p.groups, (adjoint ? p.k : p.c) / p.groups, lanes, volume(p.filter), 0, 0};
  if (c.rows < lanes) {
    c.count = ceil_div(c.rows * p.groups, lanes);
  } else {
    c.per_group = ceil_div(c.rows, lanes);
    c.count = p.groups * ceil_div(c.per_group, 2);
  }
  return c;
}

// A source row that a result row reads, and the taps of the filter before the row that meets it.
struct SourceRow {
  int64_t source, filter;  // an offset, and a number of taps
};

// One call: results [column][channel of the chunk] of one phase of columns.
template <typename T>
struct Block {
  const T* source;                // channel 0 of the chunk at position (0, 0, 0)
  const accumulate_t<T>* filter;  // of the chunk
  int64_t rows, depth;            // channels of a group, as in Chunks
  const SourceRow* row;
  int64_t source_rows;
  int64_t taps, src_step, step;  // tap columns, their distance, the results' distance
  int64_t pitch;                 // distance of source columns in memory
  int64_t at;                    // source column of the first tap of the first result
  const uint32_t* exist;         // which columns exist: of sum_columns a mask per tap, of slide_columns one for all
  int shift;                     // its first bit
};

template <typename A>
struct LaneIndex {
  typedef int32_t type __attribute__((vector_size(kVectorBytes)));
};
template <>
struct LaneIndex<double> {
  typedef int64_t type __attribute__((vector_size(kVectorBytes)));
};

// What every lane multiplies: source channel c of its group, for vectors of whole groups or within one.
template <typename T, bool kPermuted>
struct Reader {
  using A = accumulate_t<T>;
  using I = typename LaneIndex<A>::type;
  I first{};  // of each lane's group

  CONVKIT_INLINE explicit Reader(int64_t rows) {
    if constexpr (kPermuted)
      for (int l = 0; l < Vector<A>::lanes; ++l) first[l] = l / rows * rows;
  }
  CONVKIT_INLINE vector_t<A> operator()(const T* from, int64_t c) const {
    if constexpr (kPermuted)
      return __builtin_shuffle(load_vector<T>(from), first + static_cast<decltype(first[0] + 0)>(c));
    else
      return broadcast<A>(load(from + c));
  }
};

// sums[vector][column]. Every result is a sum over rows, then channels or tap columns; which of them
// first follows from the problem, so that its bits do not depend on where a block begins.
template <typename T, int kVectors, bool kPermuted>
__attribute__((noinline)) void sum_columns(const Block<T>& b, vector_t<accumulate_t<T>>* sums) {
  using A = accumulate_t<T>;
  using V = vector_t<A>;
  constexpr int lanes = Vector<A>::lanes, columns = kColumns<kVectors>;
  constexpr uint32_t all = (1u << columns) - 1;
  const int64_t step = b.step * b.pitch;
  const Reader<T, kPermuted> read(b.rows);
  V acc[columns][kVectors] = {};
  for (int64_t i = 0; i < b.source_rows; ++i) {
    const A* filter = b.filter + b.row[i].filter * b.depth * kVectors * lanes;
    for (int64_t s = 0; s < b.taps; ++s) {
      const T* from = b.source + b.row[i].source + (b.at + s * b.src_step) * b.pitch;
      const uint32_t exist = b.exist[s] >> b.shift & all;
      const auto add = [&](auto whole) __attribute__((always_inline)) {
        for (int64_t c = 0; c < b.depth; ++c, filter += kVectors * lanes) {
          V w[kVectors];
#pragma GCC unroll 2
          for (int v = 0; v < kVectors; ++v) w[v] = in_register(load_vector<A>(filter + v * lanes));
#pragma GCC unroll 14
          for (int n = 0; n < columns; ++n) {
            if (!decltype(whole)::value && !(exist >> n & 1)) continue;
            const V x = read(from + n * step, c);
#pragma GCC unroll 2
            for (int v = 0; v < kVectors; ++v) acc[n][v] += x * w[v];
          }
        }
      };
      if (exist == all)
        add(Bool<true>{});
      else
        add(Bool<false>{});
    }
  }
#pragma GCC unroll 14
  for (int n = 0; n < columns; ++n)
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v) sums[v * columns + n] = acc[n][v];
}

// The same for kTaps neighbouring taps and stride 1: a source column is read once for all results that need it.
template <typename T, int kVectors, bool kPermuted, int kTaps>
__attribute__((noinline)) void slide_columns(const Block<T>& b, vector_t<accumulate_t<T>>* sums) {
  using A = accumulate_t<T>;
  using V = vector_t<A>;
  constexpr int lanes = Vector<A>::lanes, columns = kColumns<kVectors>;
  const Reader<T, kPermuted> read(b.rows);
  const uint32_t exist = b.exist[0] >> b.shift;
  const int64_t tap = b.depth * kVectors * lanes;
  V acc[columns][kVectors] = {};
  for (int64_t i = 0; i < b.source_rows; ++i) {
    const A* filter = b.filter + b.row[i].filter * tap;
    const T* from = b.source + b.row[i].source + b.at * b.pitch;
    for (int64_t c = 0; c < b.depth; ++c, filter += kVectors * lanes) {
      V w[kTaps][kVectors];
#pragma GCC unroll 4
      for (int s = 0; s < kTaps; ++s)
#pragma GCC unroll 2
        for (int v = 0; v < kVectors; ++v) w[s][v] = in_register(load_vector<A>(filter + s * tap + v * lanes));
#pragma GCC unroll 18
      for (int u = 0; u < columns + kTaps - 1; ++u) {
        if (!(exist >> u & 1)) continue;
        const V x = read(from + u * b.pitch, c);
#pragma GCC unroll 4
        for (int s = 0; s < kTaps; ++s)
          if (u >= s && u - s < columns)
#pragma GCC unroll 2
            for (int v = 0; v < kVectors; ++v) acc[u - s][v] += x * w[s][v];
      }
    }
  }
#pragma GCC unroll 14
  for (int n = 0; n < columns; ++n)
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v) sums[v * columns + n] = acc[n][v];
}

// The kernels of a phase of columns, for one vector of channels and for two.
template <typename T>
struct Sums {
  using Function = void (*)(const Block<T>&, vector_t<accumulate_t<T>>*);
  Function one, two;
  bool slides;
};

template <typename T>
Sums<T> choose_sums(const Taps& taps, int64_t step, bool permuted) {
  if (taps.count == 3 && taps.src_step == 1 && step == 1)
    return {permuted ? slide_columns<T, 1, true, 3> : slide_columns<T, 1, false, 3>, slide_columns<T, 2, false, 3>,
            true};
  return {permuted ? sum_columns<T, 1, true> : sum_columns<T, 1, false>, sum_columns<T, 2, false>, false};
}

// Bit i: source column `at` + i * step of `width` exists.
CONVKIT_INLINE uint32_t columns_inside(int64_t at, int64_t step, int64_t count, int64_t width) {
  uint32_t mask = 0;
  for (int64_t i = 0; i < count; ++i, at += step)
    mask |= static_cast<uint32_t>(static_cast<uint64_t>(at) < static_cast<uint64_t>(width)) << i;
  return mask;
}

template <typename T>
struct Task {
  using A = accumulate_t<T>;
  using V = vector_t<A>;
  static constexpr int lanes = Vector<A>::lanes;

  const Axis (&axis)[3];
  const TensorView &source, &result;
  const Epilogue& epilogue;
  const Chunks& chunks;
  const A* filter;
  int64_t resident;  // chunks whose filters fit into L1
  SourceRow* row;
  uint32_t* exist;

  // The source rows of result row (d, h), and the taps of the filter before those that meet each of them.
  int64_t find_rows(int64_t d, int64_t h, int64_t taps, int64_t columns) const {
    const Taps td = phase_taps(axis[0], d % axis[0].phases), th = phase_taps(axis[1], h % axis[1].phases);
    int64_t rows = 0;
    for (int64_t a = 0; a < td.count; ++a) {
      const int64_t z = d / axis[0].phases * axis[0].step + td.src + a * td.src_step;
      if (z < 0 || z >= axis[0].source) continue;
      for (int64_t r = 0; r < th.count; ++r) {
        const int64_t y = h / axis[1].phases * axis[1].step + th.src + r * th.src_step;
        if (y < 0 || y >= axis[1].source) continue;
        row[rows++] = {z * source.stride[kD] + y * source.stride[kH], taps + (a * th.count + r) * columns};
      }
    }
    return rows;
  }

  void finish(const V* sums, const Chunk& chunk, int columns, int count, int64_t n, const int64_t (&at)[3]) const {
    const Emitter<T> emitter{epilogue};
    const TensorView& residual = epilogue.residual;
    const int64_t to_step = result.stride[kW] * axis[2].phases, from_step = residual.stride[kW] * axis[2].phases;
    for (int v = 0; v < (chunk.second != 0 ? 2 : 1); ++v, sums += columns) {
      const int64_t c = chunk.result + v * chunk.second;
      const V scale = emitter.scales_of(c, lanes), bias = emitter.biases_of(c, lanes);
      T* to = data<T>(result) + offset(result, n, c, at[0], at[1], at[2]);
      const T* from = residual_at<T>(epilogue, n, c, at[0], at[1], at[2]);
      if (from == nullptr) {
        emitter.emit_rows(sums, count, scale, bias, to, to_step, lanes);
        continue;
      }
      for (int j = 0; j < count; ++j)
        emitter.emit(sums[j], scale, bias, to + j * to_step, 1, from + j * from_step, residual.stride[kC], lanes);
    }
  }

  // Result row (d, h) of image n, the channels of chunks [begin, end).
  void compute_row(int64_t n, int64_t d, int64_t h, int64_t begin, int64_t end) const {
    int64_t taps = taps_before(axis, d % axis[0].phases, h % axis[1].phases);
    for (int64_t pw = 0; pw < axis[2].phases; ++pw) {
      const Taps tw = phase_taps(axis[2], pw);
      const int64_t row_taps =
          phase_taps(axis[0], d % axis[0].phases).count * phase_taps(axis[1], h % axis[1].phases).count;
      Block<T> b{nullptr,  nullptr,     chunks.rows,  chunks.depth,      row, find_rows(d, h, taps, tw.count),
                 tw.count, tw.src_step, axis[2].step, source.stride[kW], 0,   exist,
                 0};
      // Chunks whose filters stay in L1 together, column by column.
      for (int64_t first = begin; first < end; first += resident)
        compute_columns(b, n, d, h, pw, tw.src, first, least(first + resident, end));
      taps += row_taps * tw.count;
    }
  }

  void compute_columns(Block<T>& b, int64_t n, int64_t d, int64_t h, int64_t pw, int64_t src, int64_t begin,
                       int64_t end) const {
    constexpr int most = kColumns<1>;
    V sums[most];
    const int64_t length = phase_length(axis[2], pw), width = axis[2].source;
    const Sums<T> kernels = choose_sums<T>({b.taps, 0, 0, 0, b.src_step}, b.step, chunks.per_group == 0);
    for (int64_t next = 0; next < length; next += most) {
      const int64_t count = least(length - next, most), at = next * b.step + src;
      if (kernels.slides)
        exist[0] = columns_inside(at, 1, count + b.taps - 1, width);
      else
        for (int64_t s = 0; s < b.taps; ++s) exist[s] = columns_inside(at + s * b.src_step, b.step, count, width);
      for (int64_t i = begin; i < end; ++i) {
        const Chunk chunk = chunks.at(i, result.size[kC]);
        const int columns = chunk.second != 0 ? kColumns<2> : kColumns<1>;
        b.source = data<T>(source) + offset(source, n, chunk.source, 0, 0, 0);
        b.filter = filter + chunk.filter;
        for (int64_t j = 0; j < count; j += columns) {
          b.at = at + j * b.step;
          b.shift = static_cast<int>(j);
          (chunk.second != 0 ? kernels.two : kernels.one)(b, sums);
          finish(sums, chunk, columns, static_cast<int>(least(count - j, columns)), n,
                 {d, h, (next + j) * axis[2].phases + pw});
        }
      }
    }
  }
};

// The filter of one chunk: phases x taps x source channels x vectors x lanes; the taps of a phase ascend in source
// position.
template <typename T>
void pack_chunk(const Axis (&axis)[3], bool adjoint, const TensorView& w, const Chunks& chunks, const Chunk& chunk,
                accumulate_t<T>* to) {
  constexpr int lanes = lanes_of<T>();
  const int64_t source_step = w.stride[adjoint ? kN : kC];
  const int64_t members = (chunk.second != 0 ? 2 : 1) * lanes;
  int64_t member[2 * lanes];  // where the filter of each result channel starts
  for (int64_t i = 0; i < members; ++i) {
    const int64_t m = chunk.result + i / lanes * chunk.second + i % lanes, group = m / chunks.rows;
    member[i] = adjoint ? group * chunks.depth * w.stride[kN] + m % chunks.rows * w.stride[kC] : m * w.stride[kN];
  }
  for (int64_t pd = 0; pd < axis[0].phases; ++pd)
    for (int64_t ph = 0; ph < axis[1].phases; ++ph)
      for (int64_t pw = 0; pw < axis[2].phases; ++pw) {
        const Taps d = phase_taps(axis[0], pd), h = phase_taps(axis[1], ph), x = phase_taps(axis[2], pw);
        for (int64_t i = 0; i < d.count * h.count * x.count; ++i) {
          const int64_t a = i / x.count / h.count, b = i / x.count % h.count, s = i % x.count;
          const T* from =
              data<T>(w) + offset(w, 0, 0, d.tap + a * d.tap_step, h.tap + b * h.tap_step, x.tap + s * x.tap_step);
          for (int64_t c = 0; c < chunks.depth; ++c, from += source_step, to += members)
            for (int64_t l = 0; l < members; ++l) to[l] = load(from + member[l]);
        }
      }
}

template <typename T>
Status run(const ConvProblem& p, bool adjoint, const TensorView& source, const TensorView& w, const Epilogue& e,
           const TensorView& result) {
  using A = accumulate_t<T>;
  const Axis axis[3] = {make_axis(p, 0, adjoint), make_axis(p, 1, adjoint), make_axis(p, 2, adjoint)};
  const Chunks chunks = make_chunks(p, adjoint, lanes_of<T>());
  const Status exhausted{"conv_grouped ran out of memory"};
  A* filter = static_cast<A*>(thread_scratch(1, static_cast<size_t>(chunks.vectors() * chunks.packed()) * sizeof(A)));
  if (filter == nullptr) return exhausted;
  parallel_for(chunks.count, [&](int64_t i) {
    const Chunk chunk = chunks.at(i, result.size[kC]);
    pack_chunk<T>(axis, adjoint, w, chunks, chunk, filter + chunk.filter);
  });
  // Blocks of chunks whose filters stay in L2; bands of rows long beside the overhead of a task, yet many.
  const int64_t chunk_bytes = chunks.packed() * (chunks.per_group > 1 ? 2 : 1) * static_cast<int64_t>(sizeof(A)) + 1;
  const int64_t blocks = ceil_div(chunks.count, 512 * 1024 / chunk_bytes + 1);
  const int64_t height = axis[0].result * axis[1].result;
  const int64_t work = axis[2].result * chunks.packed() * ceil_div(chunks.vectors(), blocks) + 1;
  const int64_t band = least(height, ceil_div(height * p.n * blocks, 256) + (1 << 18) / work);
  const int64_t bands = ceil_div(height, band);
  const int64_t resident = 32 * 1024 / chunk_bytes + 1;
  const size_t rows = static_cast<size_t>(p.filter[0] * p.filter[1]) * sizeof(SourceRow);
  const size_t masks = static_cast<size_t>(p.filter[2]) * sizeof(uint32_t);
  bool failed = false;
  parallel_for(p.n * blocks * bands, [&](int64_t i) {
    char* scratch = static_cast<char*>(thread_scratch(0, rows + masks));
    if (scratch == nullptr) return __atomic_store_n(&failed, true, __ATOMIC_RELAXED);
    const int64_t n = i / bands / blocks, block = i / bands % blocks, first = i % bands * band;
    const Task<T> task{axis,
                       source,
                       result,
                       e,
                       chunks,
                       filter,
                       resident,
                       reinterpret_cast<SourceRow*>(scratch),
                       reinterpret_cast<uint32_t*>(scratch + rows)};
    for (int64_t r = first; r < least(first + band, height); ++r)
      task.compute_row(n, r / axis[1].result, r % axis[1].result, block * chunks.count / blocks,
                       (block + 1) * chunks.count / blocks);
  });
  return failed ? exhausted : kOk;
}

}  // namespace

bool grouped_channels_fits(const ConvProblem& p, bool adjoint, const TensorView& source, const TensorView& result) {
  const int64_t lanes = channel_lanes(result.dtype);
  const int64_t rows = (adjoint ? p.c : p.k) / p.groups, depth = (adjoint ? p.k : p.c) / p.groups;
  if (source.stride[kC] != 1 || result.stride[kC] != 1 || depth == 0) return false;
  if (rows >= lanes) return true;
  return kVectorBytes >= 32 && rows == depth && lanes % rows == 0 && result.size[kC] >= lanes;
}

Status grouped_channels(const ConvProblem& p, bool adjoint, const TensorView& source, const TensorView& w,
                        const Epilogue& e, const TensorView& result) {
  Status status{"conv_grouped has no kernel for this dtype"};
  visit_floating(result.dtype,
                 [&](auto t) { status = run<typename decltype(t)::type>(p, adjoint, source, w, e, result); });
  return status;
}

}  // namespace CONVKIT_ISA
}  // namespace convkit
