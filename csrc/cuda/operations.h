// Which operations have a GPU kernel, and what the others answer.
#pragma once

#include "core/launchers.h"

namespace convkit::cuda {

template <typename... Arguments>
Status no_kernel(Arguments...) {
  return Status{"this operation has no GPU kernel"};
}

// Calls visit(name, entry) for every operation of a table.
template <typename Visit>
void each_operation(Launchers* t, Visit&& visit) {
  visit("conv_fprop", &t->conv_fprop);
  visit("conv_dgrad", &t->conv_dgrad);
  visit("conv_wgrad", &t->conv_wgrad);
  visit("conv_bgrad", &t->conv_bgrad);
  visit("max_pool", &t->max_pool);
  visit("pool_select", &t->pool_select);
  visit("pool_select_bwd", &t->pool_select_bwd);
  visit("pool_indices", &t->pool_indices);
  visit("avg_pool", &t->avg_pool);
  visit("avg_pool_bwd", &t->avg_pool_bwd);
  visit("max_unpool", &t->max_unpool);
  visit("plane_gather", &t->plane_gather);
  visit("plane_scatter", &t->plane_scatter);
  visit("fractional_max_pool", &t->fractional_max_pool);
  visit("stochastic_pool", &t->stochastic_pool);
  visit("stochastic_mean", &t->stochastic_mean);
  visit("stochastic_mean_bwd", &t->stochastic_mean_bwd);
  visit("lp_pool", &t->lp_pool);
  visit("lp_pool_bwd", &t->lp_pool_bwd);
  visit("conv_fprop_stats", &t->conv_fprop_stats);
  visit("bn_stats", &t->bn_stats);
  visit("bn_act", &t->bn_act);
  visit("bn_act_bwd_reduce", &t->bn_act_bwd_reduce);
  visit("bn_act_bwd", &t->bn_act_bwd);
}

// Gives every empty entry a launcher that refuses.
struct RefuseIfEmpty {
  template <typename... Arguments>
  void operator()(const char*, Status (**entry)(Arguments...)) const {
    if (*entry == nullptr) *entry = no_kernel<Arguments...>;
  }
};

// Whether a launcher is one that refuses.
template <typename... Arguments>
bool has_kernel(Status (*entry)(Arguments...)) {
  return entry != static_cast<Status (*)(Arguments...)>(no_kernel<Arguments...>);
}

}  // namespace convkit::cuda
