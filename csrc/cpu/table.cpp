// The launcher table of one instruction set.
#include "cpu/algorithms.h"

namespace convkit {
inline namespace CONVKIT_ISA {
namespace {

struct Choice {
  const ConvAlgorithm* algorithm;  // nullptr: refused
  const char* reason;
};

Choice choose(ConvOp op, const ConvProblem& p, const ConvTensors& t) {
  if (p.algorithm < 0 || p.algorithm > kConvAlgorithmCount)
    return {nullptr, "argument 'algorithm' must be 0 (automatic) or the number of an algorithm"};
  const char* reason = nullptr;
  for (const ConvAlgorithm& a : kConvAlgorithms) {
    if (p.algorithm != 0 && &a != &kConvAlgorithms[p.algorithm - 1]) continue;
    reason = a.supports(op, p, t);
    if (reason == nullptr) return {&a, nullptr};
  }
  return {nullptr, reason};
}

Status conv_fprop(const ConvProblem& p, const TensorView& x, const TensorView& w, const Epilogue& e,
                  const TensorView& y) {
  const Choice c = choose(ConvOp::kFprop, p, {x, w, y});
  return c.algorithm != nullptr ? c.algorithm->fprop(p, x, w, e, y) : Status{c.reason};
}

Status conv_dgrad(const ConvProblem& p, const TensorView& dy, const TensorView& w, const Epilogue& e,
                  const TensorView& dx) {
  const Choice c = choose(ConvOp::kDgrad, p, {dx, w, dy});
  return c.algorithm != nullptr ? c.algorithm->dgrad(p, dy, w, e, dx) : Status{c.reason};
}

Status conv_wgrad(const ConvProblem& p, const TensorView& dy, const TensorView& x, const TensorView& dw) {
  const Choice c = choose(ConvOp::kWgrad, p, {x, dw, dy});
  return c.algorithm != nullptr ? c.algorithm->wgrad(p, dy, x, dw) : Status{c.reason};
}

int64_t conv_plan(ConvOp op, const ConvProblem& p, const ConvTensors& t) {
  const Choice c = choose(op, p, t);
  return c.algorithm == nullptr ? 0 : c.algorithm - kConvAlgorithms + 1;
}

const char* conv_algorithm(int64_t number) {
  return number >= 1 && number <= kConvAlgorithmCount ? kConvAlgorithms[number - 1].name : nullptr;
}

}  // namespace

extern const Launchers kLaunchers;
const Launchers kLaunchers = {
    conv_fprop,
    conv_dgrad,
    conv_wgrad,
    conv_bgrad,
    conv_plan,
    conv_algorithm,
    max_pool,
    pool_select,
    pool_select_bwd,
    pool_indices,
    avg_pool,
    avg_pool_bwd,
    max_unpool,
    plane_gather,
    plane_scatter,
    fractional_max_pool,
    stochastic_pool,
    stochastic_mean,
    stochastic_mean_bwd,
    lp_pool,
    lp_pool_bwd,
};

}  // namespace CONVKIT_ISA
}  // namespace convkit
