// How a table of convolution algorithms is read, on every device: the only code that selects one.
//
// An automatic choice (ConvProblem.algorithm 0) takes the first row that supports the problem. Number i names row
// i - 1, which runs or refuses. So a new algorithm is one file and one row; a row that is better only sometimes says
// when in `supports`.
#pragma once

#include "core/batch_norm.h"
#include "core/conv_problem.h"
#include "core/epilogue.h"
#include "core/status.h"
#include "core/tensor_view.h"

namespace convkit {
inline namespace CONVKIT_ISA {

struct ConvAlgorithm {
  const char* name;
  // nullptr, or why this algorithm does not run `op` on such tensors.
  const char* (*supports)(ConvOp op, const ConvProblem&, const ConvTensors&);
  Status (*fprop)(const ConvProblem&, const TensorView& x, const TensorView& w, const Epilogue&, const TensorView& y);
  Status (*dgrad)(const ConvProblem&, const TensorView& dy, const TensorView& w, const Epilogue&, const TensorView& dx);
  Status (*wgrad)(const ConvProblem&, const TensorView& dy, const TensorView& x, const TensorView& dw);
  // fprop, and the statistics of y's channels out of its epilogue; nullptr: they take a pass of their own.
  Status (*fprop_stats)(const ConvProblem&, const TensorView& x, const TensorView& w, const Epilogue&,
                        const TensorView& y, const ChannelStatistics&) = nullptr;
};

// The rows of a table, or the reason why none of them runs.
struct ConvChoice {
  const ConvAlgorithm* algorithm;  // nullptr: refused
  const char* reason;
};

CONVKIT_INLINE_HOST ConvChoice choose(const ConvAlgorithm* table, int64_t count, ConvOp op, const ConvProblem& p,
                                      const ConvTensors& t) {
  if (p.algorithm < 0 || p.algorithm > count)
    return {nullptr, "argument 'algorithm' must be 0 (automatic) or the number of an algorithm"};
  const char* reason = nullptr;
  for (int64_t i = 0; i < count; ++i) {
    if (p.algorithm != 0 && i != p.algorithm - 1) continue;
    reason = table[i].supports(op, p, t);
    if (reason == nullptr) return {table + i, nullptr};
  }
  return {nullptr, reason};
}

// The launchers that a table makes; kTable is an array with static storage.
template <const auto& kTable>
struct ConvSelection {
  static constexpr int64_t kCount = sizeof(kTable) / sizeof(kTable[0]);

  static Status fprop(const ConvProblem& p, const TensorView& x, const TensorView& w, const Epilogue& e,
                      const TensorView& y) {
    const ConvChoice c = choose(kTable, kCount, ConvOp::kFprop, p, {x, w, y});
    return c.algorithm != nullptr ? c.algorithm->fprop(p, x, w, e, y) : Status{c.reason};
  }
  static Status dgrad(const ConvProblem& p, const TensorView& dy, const TensorView& w, const Epilogue& e,
                      const TensorView& dx) {
    const ConvChoice c = choose(kTable, kCount, ConvOp::kDgrad, p, {dx, w, dy});
    return c.algorithm != nullptr ? c.algorithm->dgrad(p, dy, w, e, dx) : Status{c.reason};
  }
  static Status wgrad(const ConvProblem& p, const TensorView& dy, const TensorView& x, const TensorView& dw) {
    const ConvChoice c = choose(kTable, kCount, ConvOp::kWgrad, p, {x, dw, dy});
    return c.algorithm != nullptr ? c.algorithm->wgrad(p, dy, x, dw) : Status{c.reason};
  }
  static int64_t plan(ConvOp op, const ConvProblem& p, const ConvTensors& t) {
    const ConvChoice c = choose(kTable, kCount, op, p, t);
    return c.algorithm == nullptr ? 0 : c.algorithm - kTable + 1;
  }
  static const char* name(int64_t number) {
    return number >= 1 && number <= kCount ? kTable[number - 1].name : nullptr;
  }
};

}  // namespace CONVKIT_ISA
}  // namespace convkit
