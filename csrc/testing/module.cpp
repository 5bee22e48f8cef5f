// convkit_testing: the core's planning functions and conversions as a Python module. For tests, never in a wheel.
//
//   convkit_testing.instruction_sets()            those compiled in that this processor runs
//   convkit_testing.core("avx2").tap_range(...)   one copy's functions
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <array>
#include <stdexcept>
#include <string>
#include <tuple>
#include <vector>

#include "cpu/processor.h"
#include "testing/core_functions.h"

namespace py = pybind11;

namespace convkit {

#if CONVKIT_HAS_avx512
namespace avx512 {
extern const CoreFunctions kCoreFunctions;
}
#endif
#if CONVKIT_HAS_avx2
namespace avx2 {
extern const CoreFunctions kCoreFunctions;
}
#endif
namespace portable {
extern const CoreFunctions kCoreFunctions;
}

namespace {

std::vector<const CoreFunctions*> runnable() {
  const CoreFunctions* const compiled_in[] = {
      &portable::kCoreFunctions,
#if CONVKIT_HAS_avx2
      &avx2::kCoreFunctions,
#endif
#if CONVKIT_HAS_avx512
      &avx512::kCoreFunctions,
#endif
  };
  std::vector<const CoreFunctions*> found;
  for (const CoreFunctions* f : compiled_in)
    if (cpu::processor_supports(f->instruction_set)) found.push_back(f);
  return found;
}

const CoreFunctions& core(const std::string& instruction_set) {
  for (const CoreFunctions* f : runnable())
    if (instruction_set == f->instruction_set) return *f;
  throw std::invalid_argument("instruction set " + instruction_set + " is not compiled in or does not run here");
}

// A pooling along w only.
PoolProblem pool_along_w(int64_t length, int64_t kernel, int64_t stride, int64_t before, int64_t after,
                         int64_t dilation, int64_t out) {
  const auto along_w = [](int64_t value, int64_t other) { return Spatial{{other, other, value}}; };
  PoolProblem p{};
  p.n = p.c = 1;
  p.in = along_w(length, 1);
  p.kernel = along_w(kernel, 1);
  p.out = along_w(out, 1);
  p.stride = along_w(stride, 1);
  p.pad_before = along_w(before, 0);
  p.pad_after = along_w(after, 0);
  p.dilation = along_w(dilation, 1);
  return p;
}
constexpr int kAlongW = 2;

// Converts an array given as bytes; returns bytes.
template <typename From, typename To>
py::bytes convert(void (*function)(const From*, To*, int64_t), const std::string& from) {
  const size_t n = from.size() / sizeof(From);
  std::vector<From> source(n);
  std::copy(from.begin(), from.begin() + static_cast<std::ptrdiff_t>(n * sizeof(From)),
            reinterpret_cast<char*>(source.data()));
  std::vector<To> result(n);
  function(source.data(), result.data(), static_cast<int64_t>(n));
  return py::bytes(reinterpret_cast<const char*>(result.data()), n * sizeof(To));
}

}  // namespace
}  // namespace convkit

PYBIND11_MODULE(convkit_testing, m) {
  using convkit::CoreFunctions;
  using Core = const CoreFunctions&;
  m.attr("compiler") = __VERSION__;
  m.attr("cxx_standard") = __cplusplus;
  m.def("instruction_sets", [] {
    py::list names;
    for (const CoreFunctions* f : convkit::runnable()) names.append(f->instruction_set);
    return py::tuple(names);
  });
  m.def("core", &convkit::core, py::return_value_policy::reference);
  py::class_<CoreFunctions>(m, "Core")
      .def_readonly("avx2", &CoreFunctions::avx2)
      .def_readonly("avx512", &CoreFunctions::avx512)
      .def("conv_output_size",
           [](Core f, int64_t length, int64_t kernel, int64_t stride, int64_t before, int64_t after, int64_t dilation) {
             return f.conv_output_size(length, kernel, stride, before, after, dilation);
           })
      .def(
          "pool_output_size",
          [](Core f, int64_t length, int64_t kernel, int64_t stride, int64_t before, int64_t after, int64_t dilation,
             bool ceil_mode) { return f.pool_output_size(length, kernel, stride, before, after, dilation, ceil_mode); })
      .def("tap_range",
           [](Core f, int64_t length, int64_t kernel, int64_t stride, int64_t before, int64_t dilation, int64_t o) {
             const auto p = convkit::pool_along_w(length, kernel, stride, before, before, dilation, o + 1);
             const convkit::TapRange taps = f.tap_range(p, convkit::kAlongW, o);
             return std::make_tuple(taps.start, taps.begin, taps.end);
           })
      .def("padded_taps",
           [](Core f, int64_t length, int64_t kernel, int64_t stride, int64_t before, int64_t after, int64_t dilation,
              int64_t o) {
             const auto p = convkit::pool_along_w(length, kernel, stride, before, after, dilation, o + 1);
             return f.padded_taps(p, convkit::kAlongW, o);
           })
      .def("covering_windows",
           [](Core f, int64_t length, int64_t kernel, int64_t stride, int64_t before, int64_t dilation, int64_t out,
              int64_t i) {
             const auto p = convkit::pool_along_w(length, kernel, stride, before, before, dilation, out);
             int64_t begin = 0, end = 0;
             f.covering_windows(p, convkit::kAlongW, i, &begin, &end);
             return std::make_tuple(begin, end);
           })
      .def("offset_bytes",
           [](Core f, int64_t depth, int64_t height, int64_t width) {
             convkit::PoolProblem p{};
             p.kernel = convkit::Spatial{{depth, height, width}};
             return f.offset_bytes(p);
           })
      .def("philox",
           [](Core f, const std::array<uint32_t, 4>& counter, const std::array<uint32_t, 2>& key) {
             std::array<uint32_t, 4> words{};
             f.philox(counter.data(), uint64_t{key[1]} << 32 | key[0], words.data());
             return py::make_tuple(words[0], words[1], words[2], words[3]);
           })
      .def("bfloat16_to_float", [](Core f, const std::string& a) { return convkit::convert(f.bfloat16_to_float, a); })
      .def("float_to_bfloat16", [](Core f, const std::string& a) { return convkit::convert(f.float_to_bfloat16, a); })
      .def("float16_to_float", [](Core f, const std::string& a) { return convkit::convert(f.float16_to_float, a); })
      .def("float_to_float16", [](Core f, const std::string& a) { return convkit::convert(f.float_to_float16, a); });
}
